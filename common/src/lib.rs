//! The MAHP protocol, pure: bytes and time in; bytes, events and commands out. No sockets, tasks, files or clocks.
#![forbid(unsafe_code)]

pub mod auth;
pub mod catalog;
pub mod drop;
pub mod fec;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod object;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod wire;

pub use ids::{Esi, Sbn, Toi, Tsi};
pub use object::{ByteRange, Digest, Object, ObjectKind, ObjectMeta, Payload};
pub use time::{Time, WallTime};
