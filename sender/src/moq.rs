//! The channels over Media over QUIC (experimental): every object that a flow sends is published as well, to those who connect
//! here, and through a relay.

mod shelves;
pub mod status;

use crate::repair::Service;
use crate::spool::Spool;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Channel, Rendition};
use mahp_common::repair::ObjectId;
use mahp_common::{Object, Sbn, Toi, WallTime};
use mahp_moq::Exchange;
use mahp_moq::announce::announce;
use mahp_moq::channel::{Lacks, Shelf, Windows};
use mahp_moq::exchange::Offer;
use mahp_moq::follow::Dial;
use mahp_moq::plane::{Asker, PlaneError};
use mahp_moq::publisher::{ChannelPublisher, namespace};
use mahp_moq::quic::{Fingerprint, Identity, Limits, Listener, QuicSession, SessionStats, open};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use url::Url;

/// Kept of each rendition. What is older is in the memory of the repair service, in the spool of a carousel, or at the origin.
const WINDOWS: Windows = Windows { media: 16 << 20, documents: 2 << 20, records: 8 << 20 };

/// Where and how to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `moq`.
    pub listen: Option<SocketAddr>,
    /// `moq-certificate` and `moq-certificate-key`; none: a new self-signed one at each start.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `moq-relay`.
    pub relay: Option<Url>,
}

/// See the module.
pub struct Publisher {
    listening: Option<Listening>,
    relay: Option<Url>,
    relayed: Arc<Relayed>,
    exchange: Arc<Exchange>,
    clock: Clock,
    key: SigningKey,
    session: u64,
    repair: Arc<Service>,
    shelves: Vec<Arc<dyn Shelf>>,
    channels: Arc<Mutex<Offered>>,
}

/// By name.
type Offered = BTreeMap<String, (Arc<ChannelPublisher>, Offer)>;

/// Our own place.
#[derive(Debug)]
struct Listening {
    listener: Arc<Listener>,
    address: SocketAddr,
    fingerprint: Fingerprint,
}

impl Listening {
    /// For receivers that have a route to `source`. Always with the certificate's fingerprint: the URL holds an address, which no
    /// public certificate names, and the session description that holds the URL is signed.
    fn url(&self, source: IpAddr) -> String {
        let ip = if self.address.ip().is_unspecified() { source } else { self.address.ip() };
        format!("moqt://{}/#sha256={}", SocketAddr::new(ip, self.address.port()), self.fingerprint)
    }
}

impl Publisher {
    /// Listens, with no channel yet. `repair` hears who asks for symbols, and decides which are multicast; what is past comes from it,
    /// from the `spool`, or from the origin.
    ///
    /// # Errors
    /// `E-MOQ`: the address is in use, or the certificate cannot be used.
    pub fn start(
        options: &Options,
        clock: Clock,
        key: SigningKey,
        session: u64,
        repair: Arc<Service>,
        (spool, fetcher): (&Spool, &Fetcher),
    ) -> Result<Publisher, StartupError> {
        let exchange = Exchange::new();
        let listening = options.listen.map(|address| listen(address, options, &exchange)).transpose()?;
        let (relay, relayed, channels) = (options.relay.clone(), Arc::default(), Arc::default());
        let shelves = shelves::shelves(&repair, spool, fetcher);
        Ok(Publisher { listening, relay, relayed, exchange, clock, key, session, repair, shelves, channels })
    }

    /// The URL for receivers that have a route to `source`: that of the relay, which is there to spare us, else our own.
    pub fn url(&self, source: IpAddr) -> Option<String> {
        let own = self.listening.as_ref().map(|listening| listening.url(source));
        self.relay.as_ref().map(Url::to_string).or(own)
    }

    /// Publishes through the relay, if there is one, until dropped.
    pub fn relaying(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (url, exchange) = (self.relay.clone()?, self.exchange.clone());
        let to = To { url, exchange: exchange.clone(), relayed: self.relayed.clone() };
        Some(async move { announce(to, &exchange, fastrand::u64(..)).await })
    }

    /// Offers a channel.
    pub fn add(&self, channel: &Channel) {
        let wall = self.clock.wall();
        let made = ChannelPublisher::new(
            channel,
            self.key.clone(),
            self.session,
            &WINDOWS,
            self.shelves.clone(),
            wall,
        );
        let publisher = Arc::new(made);
        publisher.tracks().set_lacks(self.repair.clone());
        match self.exchange.offer(namespace(&channel.name), publisher.tracks()) {
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
        Some(Place { publisher, rendition: rendition.id.clone() })
    }

    /// What it tells of itself.
    pub fn counters(&self) -> status::Counters {
        let listener = self.listening.as_ref().map(|listening| listening.listener.clone());
        status::Counters { listener, relayed: self.relayed.clone(), channels: self.channels.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Offered> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lacks for Service {
    fn asked(&self, asker: &Asker, id: ObjectId, sbn: Sbn, symbols: u32) -> Option<Duration> {
        Service::asked(self, asker.address, asker.session, id, sbn, symbols)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        let debug = &mut f.debug_struct("Publisher");
        debug
            .field("listening", &self.listening)
            .field("relay", &self.relay)
            .field("channels", &names)
            .finish()
    }
}

fn listen(
    address: SocketAddr,
    options: &Options,
    exchange: &Arc<Exchange>,
) -> Result<Listening, StartupError> {
    let identity = match &options.certificate {
        Some((chain, key)) => Identity::from_files(chain, key),
        None => Identity::self_signed(&["localhost".to_owned()]),
    };
    let identity = identity.map_err(|e| {
        let hint = "give PEM files with --moq-certificate and --moq-certificate-key, or neither";
        StartupError::usage("E-MOQ", format!("cannot serve MoQ: {e}"), hint)
    })?;
    let listener = Listener::bind(address, &identity, exchange.clone(), Limits::default());
    let bound = listener.and_then(|l| l.local_addr().map(|address| (l, address)));
    let (listener, address) = bound.map_err(|e| {
        let what = format!("cannot listen for MoQ on UDP {address}: {e}");
        StartupError::usage("E-MOQ", what, "choose another address with --moq, or leave it out")
    })?;
    Ok(Listening { listener: Arc::new(listener), address, fingerprint: identity.fingerprint() })
}

/// The way to a relay, which asks us for what we publish there.
struct To {
    url: Url,
    exchange: Arc<Exchange>,
    relayed: Arc<Relayed>,
}

impl Dial for To {
    type Plane = QuicSession;

    async fn dial(&self) -> Result<QuicSession, PlaneError> {
        let session = open(&self.url, self.exchange.clone(), Limits::default()).await?;
        self.relayed.opened(&session);
        Ok(session)
    }
}

/// The session with the relay, and what those before it have carried.
#[derive(Debug, Default)]
struct Relayed(Mutex<(Option<QuicSession>, SessionStats)>);

impl Relayed {
    fn opened(&self, session: &QuicSession) {
        let (current, ended) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = current.replace(session.clone()) {
            *ended = ended.with(before.stats());
        }
    }

    /// Whether there is one, and what all have carried.
    fn stats(&self) -> (bool, SessionStats) {
        let (current, ended) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = current.as_ref().map(QuicSession::stats).unwrap_or_default();
        (current.as_ref().is_some_and(|session| !session.is_closed()), ended.with(now))
    }
}

/// A flow's place at the publisher.
#[derive(Clone, Debug)]
pub struct Place {
    publisher: Arc<ChannelPublisher>,
    rendition: String,
}

impl Place {
    /// The flow sends this now.
    pub fn publish(&self, toi: Toi, object: &Object, wall: WallTime) {
        self.publisher.publish(&self.rendition, toi, object, wall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, Engine as _};

    fn pem(what: &str, der: &[u8]) -> String {
        format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", BASE64_STANDARD.encode(der))
    }

    #[tokio::test]
    async fn the_url_of_a_certificate_from_files_is_believed() {
        let made = rcgen::generate_simple_self_signed(vec!["moq.example".to_owned()]).unwrap();
        let folder = std::env::temp_dir().join(format!("mahp-moq-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&chain, pem("CERTIFICATE", made.cert.der())).unwrap();
        std::fs::write(&key, pem("PRIVATE KEY", &made.signing_key.serialize_der())).unwrap();
        let options = Options { listen: None, certificate: Some((chain, key)), relay: None };
        let exchange = Exchange::new();
        let listening = listen("0.0.0.0:0".parse().unwrap(), &options, &exchange).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        let url: Url = listening.url(IpAddr::from([127, 0, 0, 1])).parse().unwrap();
        let session = open(&url, Exchange::new(), Limits::default()).await.expect("believed");
        assert!(!session.is_closed());
    }
}
