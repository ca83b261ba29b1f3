//! Media over QUIC (experimental): what senders publish there, besides multicast.
//!
//! [`sessions`] keeps QUIC sessions with publishers; [`fetch`] gets symbols and objects for the recovery; [`follow`] hears what
//! exists, and hears the objects themselves while multicast brings nothing, or too little; [`relay`] serves others, from the
//! store too ([`shelves`]).

mod fetch;
mod follow;
mod relay;
mod sessions;
mod shelves;

use crate::config::Moq;
use crate::recovery::Ways;
pub(crate) use fetch::Publishers;
pub(crate) use follow::follow;
use mahp_runtime::error::StartupError;
pub(crate) use relay::{Copies, Relay};

/// Whether publishers can be asked.
pub(crate) const IS_HERE: bool = true;

/// Nothing to refuse.
///
/// # Errors
/// Never.
pub(crate) fn check(_: &Moq, _: Ways) -> Result<(), StartupError> {
    Ok(())
}
