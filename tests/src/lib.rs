//! End-to-end tests with real players: test content, an origin, the rig that starts the real programs, and drivers of players.
//!
//! Each test has the same shape: content ([`content`]) → [`origin`] → sender → link with loss → receiver ([`rig`]) → player
//! ([`players`]), and the same player directly on the origin as its control. Figures go into one table ([`report`]).
//!
//! [`engines`] drives the protocol alone, in memory and virtual time: interoperation and hostile input.

pub mod advertised;
pub mod client;
pub mod content;
pub mod engines;
pub mod fuzz;
pub mod looped;
pub mod origin;
pub mod players;
pub mod process;
pub mod report;
pub mod rig;
pub mod tools;
pub mod watch;
