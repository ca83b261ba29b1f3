//! Media over QUIC is not in this build (cargo feature `moq`): every publisher fails, and another way is taken.

use crate::config::Moq;
use crate::hub::Hub;
use crate::hub::recover::Wanted;
use crate::served::Served;
use crate::urls::RenditionKey;
use mahp_common::repair::plan::{Outcome, Server};
use mahp_common::{Esi, Payload, Sbn, Toi};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use std::convert::Infallible;
use std::sync::Arc;
use url::Url;

/// Nobody.
#[derive(Clone)]
pub(crate) struct Publishers;

impl Publishers {
    /// Nobody.
    pub(crate) fn new(_: Arc<Hub>, _: Arc<Served>, _: Copies) -> Publishers {
        Publishers
    }

    /// Fails.
    pub(crate) async fn symbols(
        &self,
        server: Server,
        _: &Url,
        _: &Wanted,
        _: &[(Sbn, Esi, u32)],
    ) -> Outcome {
        Outcome::Failed(server)
    }

    /// Fails.
    pub(crate) async fn object(&self, server: Server, _: &Url, _: &Wanted) -> Outcome {
        Outcome::Failed(server)
    }
}

/// The way to a relay that is not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies;

impl Copies {
    /// Does nothing.
    pub(crate) fn object(&self, _: &RenditionKey, _: Toi, _: &Payload) {}
}

/// There is none.
pub(crate) struct Relay(Infallible);

impl Relay {
    /// Refuses where one is wanted.
    ///
    /// # Errors
    /// `E-MOQ`.
    pub(crate) fn start(options: &Moq, _: Clock) -> Result<(Option<Relay>, Copies), StartupError> {
        let hint = "leave out --moq-listen, or build with the cargo feature `moq`";
        match options.listen {
            None => Ok((None, Copies)),
            Some(_) => {
                Err(StartupError::usage("E-MOQ", "this build has no Media over QUIC".to_owned(), hint))
            }
        }
    }

    /// Never.
    pub(crate) async fn run(self, _: Publishers) {
        match self.0 {}
    }
}

/// There is nobody to follow.
pub(crate) async fn follow(_: Publishers) {}
