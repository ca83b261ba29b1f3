//! Tests over multicast on loopback, with a real sending engine.

mod answers;
mod multicast;
mod rig;
