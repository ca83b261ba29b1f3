//! Recovery beyond the FEC of the stream: who asks whom for what, when, and how much of it there may be.
//!
//! | Module | What |
//! |---|---|
//! | [`report`] | what receivers tell the sender: lacks of objects, reception; and its answer |
//! | [`plan`] | the receiver's side: for each object in flight, what to do by when |
//! | [`aggregate`] | the sender's side: from the reports of many to one multicast of fresh repair symbols |
//! | [`budget`] | token buckets, of all and of each client |
//! | [`layer`] | whether a receiver should be in the second repair layer |
//! | [`share`] | the repair share that follows the reported loss |
//!
//! Engines like those of [`crate::session`]: time and seeds are arguments, actions come out, results go in.

pub mod aggregate;
pub mod budget;
pub mod layer;
pub mod plan;
pub mod reach;
pub mod report;
pub mod share;

#[cfg(test)]
mod tests;

use crate::ids::{Toi, Tsi};

/// Path of the repair service below its base URL: encoding symbols of a block, `?tsi&toi&sbn&from&count`.
pub const SYMBOLS_PATH: &str = "symbols";
/// Path below the base URL: bytes of an object, `?tsi&toi` and a Range header.
pub const OBJECT_PATH: &str = "object";
/// Path below the base URL: reports, by POST.
pub const REPORT_PATH: &str = "report";

/// An object of a sender: the TSI of its source flow, and its TOI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Of the source flow.
    pub tsi: Tsi,
    /// In it.
    pub toi: Toi,
}
