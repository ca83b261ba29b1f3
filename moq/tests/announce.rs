//! A publisher behind a relay: what it offers is there, also what it offers later, and again when the relay has died.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use mahp_moq::announce::announce;
use mahp_moq::follow::Dial;
use mahp_moq::plane::{Fetching as _, ObjectPlane as _, PlaneError};
use mahp_moq::quic::{Connector, Identity, Limits, Listener, QuicSession, Trust, open};
use mahp_moq::wire::LocationRange;
use mahp_moq::{Exchange, Namespace, TrackName};
use std::sync::Arc;
use std::time::Duration;
use support::{Tracks, payload, publish};
use url::Url;

const LEN: usize = 5000;

struct To(Url, Arc<Exchange>);

impl Dial for To {
    type Plane = QuicSession;

    async fn dial(&self) -> Result<QuicSession, PlaneError> {
        open(&self.0, self.1.clone(), Limits::default()).await
    }
}

/// Fetches the first object of a namespace's track from whoever listens at `url`, as soon as it can be had.
async fn fetched(url: &Url, trust: &Trust, namespace: &'static str) {
    let name = TrackName::new(Namespace::new([namespace]), "v0");
    let to = mahp_moq::quic::parse_url(url.as_str()).unwrap();
    let attempt = async || {
        let connector = Connector::new(trust, Limits::default()).ok()?;
        let session = connector.connect(&to, Exchange::new()).await.ok()?;
        let fetching = session.fetch(&name, LocationRange::objects(0, 0, 1)).await.ok()?;
        let got = fetching.collect(LEN).await.ok();
        session.close();
        got
    };
    for _ in 0..600 {
        if let Some(got) = attempt().await {
            assert!(got.len() == 1 && got[0].payload == payload(0, 0, LEN), "the object of {namespace}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{namespace} is not at the relay");
}

#[tokio::test]
async fn everything_offered_is_at_the_relay_again_and_again() {
    let identity = Identity::self_signed(&["localhost".into()]).unwrap();
    let bind = |address: std::net::SocketAddr| {
        Listener::bind(address, &identity, Exchange::relay(), Limits::default())
    };
    let relay = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = relay.local_addr().unwrap();
    let url = Url::parse(&format!("moqt://{address}/#sha256={}", identity.fingerprint())).unwrap();
    let trust = Trust::Fingerprints(vec![identity.fingerprint()]);

    let exchange = Exchange::new();
    let offer = |namespace: &'static str| {
        let tracks = Arc::new(Tracks::new(&["v0"]));
        publish(&tracks.get("v0"), 0, LEN);
        exchange.offer(Namespace::new([namespace]), tracks).unwrap()
    };
    let _news = offer("news");
    let (to, announced) = (To(url.clone(), exchange.clone()), exchange.clone());
    let announcing = tokio::spawn(async move { announce(to, &announced, 1).await });
    fetched(&url, &trust, "news").await;
    let _sport = offer("sport");
    fetched(&url, &trust, "sport").await;

    drop(relay);
    let mut again = bind(address);
    while again.is_err() {
        tokio::time::sleep(Duration::from_millis(25)).await;
        again = bind(address);
    }
    fetched(&url, &trust, "news").await;
    fetched(&url, &trust, "sport").await;
    announcing.abort();
}
