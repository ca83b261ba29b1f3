//! What the MAHP programs need from the operating system, once: clock, multicast sockets, HTTP client, admin server,
//! configuration, errors, logs. No protocol and no decision lives here.
//!
//! It exists because `sender` and `receiver` never import each other and `common` is pure.
//!
//! `unsafe` is refused everywhere but in `udp/sys.rs`, `udp/iface.rs` and `files.rs`, which speak to the C library.

#![deny(unsafe_code)]

pub mod admin;
pub mod ask;
pub mod clock;
pub mod config;
pub mod error;
pub mod fetch;
pub mod files;
pub mod guard;
pub mod listen;
pub mod log;
pub mod notify;
pub mod process;
pub mod say;
pub mod settings;
pub mod shutdown;
pub mod udp;
