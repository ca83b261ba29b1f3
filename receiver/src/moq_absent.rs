//! Media over QUIC is not in this build (cargo feature `moq`): publishers are not asked, and whoever wants them is told.

use crate::config::Moq;
use crate::hub::Hub;
use crate::hub::recover::Wanted;
use crate::recovery::Ways;
use crate::served::Served;
use crate::urls::RenditionKey;
use mahp_common::repair::plan::{Outcome, Server};
use mahp_common::{Esi, Payload, Sbn, Toi};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use std::convert::Infallible;
use std::sync::Arc;
use url::Url;

/// Whether publishers can be asked.
pub(crate) const IS_HERE: bool = false;

/// Refuses what this build cannot do.
///
/// # Errors
/// `E-MOQ`.
pub(crate) fn check(options: &Moq, ways: Ways) -> Result<(), StartupError> {
    let wanted = [
        (options.listen.is_some(), "--moq-listen"),
        (options.publisher.is_some(), "--moq-publisher"),
        (ways == Ways::Moq, "--recovery moq"),
    ];
    let Some((_, flag)) = wanted.into_iter().find(|(wanted, _)| *wanted) else { return Ok(()) };
    let hint = format!("leave out {flag}, or build with the cargo feature `moq`");
    Err(StartupError::usage("E-MOQ", "this build has no Media over QUIC", hint))
}

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
        check(options, Ways::Auto).map(|()| (None, Copies))
    }

    /// Never.
    pub(crate) async fn run(self, _: Publishers) {
        match self.0 {}
    }
}

/// There is nobody to follow.
pub(crate) async fn follow(_: Publishers) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_build_cannot_do_is_refused() {
        let with = |listen: bool, publisher: bool| Moq {
            listen: listen.then(|| "127.0.0.1:0".parse().unwrap()),
            publisher: publisher.then(|| "moqt://127.0.0.1:1/".parse().unwrap()),
            ..Moq::default()
        };
        assert!(check(&with(false, false), Ways::Auto).is_ok());
        assert!(check(&with(false, false), Ways::Http).is_ok());
        for (options, ways) in [
            (with(true, false), Ways::Auto),
            (with(false, true), Ways::Auto),
            (with(false, false), Ways::Moq),
        ] {
            assert!(check(&options, ways).is_err_and(|e| e.to_string().contains("E-MOQ")));
        }
    }
}
