//! The link emulator without sockets and clocks: Ethernet frames and times in, frames and times out.
//!
//! Every host hangs on a *leg* of one switch. A frame crosses the pipes of two legs: up from the host that sent it, down to
//! each host that gets it. Each leg has, per direction and [`TrafficClass`], a [`pipe::Pipe`] of its own with its own random numbers, so
//! that the n-th multicast packet towards a receiver meets the same fate in every run with the same seed, whatever else
//! happens on the wire.

pub mod frame;
pub mod pipe;
pub mod snoop;
pub mod switch;
#[cfg(test)]
mod tests;

pub use frame::TrafficClass;
pub use pipe::{Cause, Impairment, LossModel};
pub use switch::{Direction, Switch};
