//! Media over QUIC is not in this build (cargo feature `moq`).

use crate::repair::Service;
use crate::spool::Spool;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Channel, Rendition};
use mahp_common::{Object, Toi, WallTime};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use std::convert::Infallible;
use std::future::Ready;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// Where and how to publish, if it could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `moq`.
    pub listen: Option<SocketAddr>,
    /// `moq-certificate` and `moq-certificate-key`.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `moq-relay`.
    pub relay: Option<Url>,
}

/// There is none.
#[derive(Debug)]
pub struct Publisher(Infallible);

impl Publisher {
    /// Refuses.
    ///
    /// # Errors
    /// `E-MOQ`, always.
    pub fn start(
        _: &Options,
        _: Clock,
        _: SigningKey,
        _: u64,
        _: Arc<Service>,
        _: (&Spool, &Fetcher),
    ) -> Result<Publisher, StartupError> {
        let hint = "leave out --moq and --moq-relay, or build with the cargo feature `moq`";
        Err(StartupError::usage("E-MOQ", "this build has no Media over QUIC".to_owned(), hint))
    }

    /// The URL for receivers.
    pub fn url(&self, _: IpAddr) -> Option<String> {
        match self.0 {}
    }

    /// What it tells of itself.
    pub fn counters(&self) -> status::Counters {
        match self.0 {}
    }

    /// Publishes through the relay.
    pub fn relaying(&self) -> Option<Ready<()>> {
        match self.0 {}
    }

    /// Offers a channel.
    pub fn add(&self, _: &Channel) {
        match self.0 {}
    }

    /// Offers a channel no longer.
    pub fn remove(&self, _: &str) {
        match self.0 {}
    }

    /// A flow's place.
    pub fn place(&self, _: &str, _: &Rendition) -> Option<Place> {
        match self.0 {}
    }
}

/// There is none.
#[derive(Clone, Debug)]
pub struct Place(Infallible);

impl Place {
    /// The flow sends this now.
    pub fn publish(&self, _: Toi, _: &Object, _: WallTime) {
        match self.0 {}
    }
}

/// What the publisher tells: nothing.
pub mod status {
    use serde_json::Value;
    use std::convert::Infallible;

    /// There are none.
    #[derive(Clone, Copy, Debug)]
    pub struct Counters(Infallible);

    /// There is none.
    #[derive(Clone, Copy, Debug)]
    pub struct State(Infallible);

    impl Counters {
        /// What they say now.
        pub fn state(&self) -> State {
            match self.0 {}
        }
    }

    /// For `/api/status`.
    pub fn json(state: &State) -> Value {
        match state.0 {}
    }

    /// Brings the metrics up to date.
    pub fn publish(state: &State) {
        match state.0 {}
    }
}
