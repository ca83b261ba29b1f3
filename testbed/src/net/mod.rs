//! Network namespaces of our own: one for the testbed itself, one for each host, a veth pair between them, and the emulator
//! on the testbed's ends. Nothing has a name that outlives the process: namespaces are held by file descriptors only, so the
//! kernel takes everything down when the last process of a run is gone, however it went.

pub mod driver;
pub mod lan;
mod netlink;
pub mod ns;
mod socket;

pub use lan::{Host, Lan};
