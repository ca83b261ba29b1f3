//! The MAHP protocol, pure: bytes and time in; bytes, events and commands out. No sockets, tasks, files or clocks.
//!
//! ```text
//!  object ──► session::send ──packets──►  network  ──packets──► session::recv ──► verified object
//!             │ FDT, pacing                                     │ assembly, bounds
//!             └─ Command::Encode ─► fec (any thread)            └─ Command::Decode ─► fec (any thread)
//! ```
//!
//! | Standard | Where |
//! |---|---|
//! | RFC 5651 LCT header and extensions | [`wire::lct`], [`wire::ext`] |
//! | RFC 5775 ALC packets | [`wire::alc`] |
//! | RFC 5052 OTI, partitioning | [`wire::fti`], [`fec::partition`] |
//! | RFC 6330 RaptorQ | [`fec::raptorq`] |
//! | RFC 3926, RFC 6726, 3GPP TS 26.346, ETSI TS 103 769 FDT | [`wire::fdt`] |
//! | RFC 8216 HLS | [`manifest::hls`] |
//! | ISO/IEC 23009-1 DASH | [`manifest::dash`] |
//! | ISO/IEC 23000-19 CMAF chunks | [`chunks`] |
//! | RFC 8032 Ed25519 | [`auth`] |
//! | Session description, exports | [`catalog`] |
//!
//! Glossary: **LCT** Layered Coding Transport, the header; **ALC** Asynchronous Layered Coding, LCT with FEC; **TSI**/**TOI**
//! transport session and object identifiers; **FDT** File Delivery Table, TOI 0; **OTI** FEC Object Transmission Information,
//! carried as **EXT_FTI**; **SBN**/**ESI** source block number and encoding symbol ID; **F, T, Z, N, Al, K** of RFC 6330:
//! transfer length, symbol size, source blocks, sub-blocks, alignment, source symbols of a block; **(S,G)** source and group
//! of source-specific multicast (**SSM**).
#![forbid(unsafe_code)]

pub mod auth;
pub mod catalog;
pub mod chunks;
pub mod drop;
pub mod export;
pub mod fec;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod object;
pub mod recipe;
pub mod repair;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod wire;

pub use ids::{Esi, Sbn, Toi, Tsi};
pub use object::{ByteRange, Digest, Object, ObjectKind, ObjectMeta, Payload};
pub use time::{Time, WallTime};
