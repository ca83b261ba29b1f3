//! The channels over Media over QUIC (experimental): every object that a flow sends is published as well.

use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Channel, Rendition, WireProfile};
use mahp_common::fec::partition::{raptorq_oti, source_oti};
use mahp_common::{Object, Toi, WallTime};
use mahp_moq::Exchange;
use mahp_moq::exchange::Offer;
use mahp_moq::publisher::{ChannelPublisher, namespace};
use mahp_moq::quic::{Fingerprint, Identity, Limits, Listener};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Kept of each rendition for those who come late or lost something.
const WINDOW_BYTES: usize = 24 << 20;

/// Where and how to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `moq`.
    pub listen: SocketAddr,
    /// `moq-certificate` and `moq-certificate-key`; none: a new self-signed one at each start.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// See the module.
pub struct Publisher {
    listener: Listener,
    address: SocketAddr,
    /// Of a certificate that receivers cannot know otherwise.
    fingerprint: Option<Fingerprint>,
    exchange: Arc<Exchange>,
    clock: Clock,
    key: SigningKey,
    session: u64,
    channels: Mutex<BTreeMap<String, (Arc<ChannelPublisher>, Offer)>>,
}

impl Publisher {
    /// Listens, with no channel yet.
    ///
    /// # Errors
    /// `E-MOQ`: the address is in use, or the certificate cannot be used.
    pub fn start(
        options: &Options,
        clock: Clock,
        key: SigningKey,
        session: u64,
    ) -> Result<Publisher, StartupError> {
        let identity = match &options.certificate {
            Some((chain, key)) => Identity::from_files(chain, key),
            None => Identity::self_signed(&["localhost".to_owned()]),
        };
        let identity = identity.map_err(|e| {
            let hint = "give PEM files with --moq-certificate and --moq-certificate-key, or neither";
            StartupError::usage("E-MOQ", format!("cannot serve MoQ: {e}"), hint)
        })?;
        let exchange = Exchange::new();
        let listener = Listener::bind(options.listen, &identity, exchange.clone(), Limits::default());
        let bound = listener.and_then(|l| l.local_addr().map(|address| (l, address)));
        let (listener, address) = bound.map_err(|e| {
            let what = format!("cannot listen for MoQ on UDP {}: {e}", options.listen);
            StartupError::usage("E-MOQ", what, "choose another address with --moq, or leave it out")
        })?;
        let fingerprint = options.certificate.is_none().then(|| identity.fingerprint());
        let channels = Mutex::default();
        Ok(Publisher { listener, address, fingerprint, exchange, clock, key, session, channels })
    }

    /// The URL for receivers that have a route to `source`.
    pub fn url(&self, source: IpAddr) -> String {
        let ip = if self.address.ip().is_unspecified() { source } else { self.address.ip() };
        let pin = self.fingerprint.map(|f| format!("#sha256={f}")).unwrap_or_default();
        format!("moqt://{}/{pin}", SocketAddr::new(ip, self.address.port()))
    }

    /// Offers a channel.
    pub fn add(&self, channel: &Channel) {
        let wall = self.clock.wall();
        let made = ChannelPublisher::new(channel, self.key.clone(), self.session, WINDOW_BYTES, wall);
        let publisher = Arc::new(made);
        match self.exchange.offer(namespace(&channel.name), publisher.clone()) {
            Ok(offer) => {
                self.lock().insert(channel.name.clone(), (publisher, offer));
            }
            Err(e) => tracing::warn!(channel = channel.name, "not published over MoQ: {e}"),
        }
    }

    /// Offers a channel no longer.
    pub fn remove(&self, channel: &str) {
        self.lock().remove(channel);
    }

    /// A flow's place; none for a channel that is not offered.
    pub fn place(&self, channel: &str, rendition: &Rendition) -> Option<Place> {
        let publisher = self.lock().get(channel)?.0.clone();
        let flow = &rendition.flow;
        Some(Place {
            publisher,
            rendition: rendition.id.clone(),
            symbol_size: flow.symbol_size,
            profile: flow.profile,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Arc<ChannelPublisher>, Offer)>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        f.debug_struct("Publisher").field("listener", &self.listener).field("channels", &names).finish()
    }
}

/// A flow's place at the publisher.
#[derive(Clone, Debug)]
pub struct Place {
    publisher: Arc<ChannelPublisher>,
    rendition: String,
    symbol_size: u16,
    profile: WireProfile,
}

impl Place {
    /// The flow sends this now.
    pub fn publish(&self, toi: Toi, object: &Object, wall: WallTime) {
        let length = object.data.len() as u64;
        let source = source_oti(length, self.symbol_size);
        let cut = match (self.profile, raptorq_oti(length, self.symbol_size)) {
            (WireProfile::FluteRaptorq, Some(raptorq)) => (raptorq, None),
            (_, raptorq) => (source, raptorq),
        };
        self.publisher.publish(&self.rendition, toi, object, cut, wall);
    }
}
