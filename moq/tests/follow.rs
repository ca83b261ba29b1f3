//! Publishers and links that die and come back: no object twice, none missing.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use mahp_moq::follow::{Dial, Follower};
use mahp_moq::plane::{PlaneError, Start};
use mahp_moq::quic::{Connector, Identity, Limits, Listener, MoqtUrl, QuicSession, Trust, parse_url};
use mahp_moq::{Exchange, Location};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{Tracks, name, namespace, payload, publish};

const LEN: usize = 20_000;
const GROUPS: u64 = 300;

struct To {
    connector: Connector,
    url: MoqtUrl,
}

impl Dial for To {
    type Plane = QuicSession;

    async fn dial(&self) -> Result<QuicSession, PlaneError> {
        self.connector.connect(&self.url, Exchange::new()).await
    }
}

/// Binds the port again as soon as the one before has let go of it.
async fn bind(address: SocketAddr, identity: &Identity, exchange: &Arc<Exchange>) -> Listener {
    for _ in 0..200 {
        match Listener::bind(address, identity, exchange.clone(), Limits::default()) {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
    panic!("{address} stays in use");
}

#[tokio::test]
async fn a_publisher_that_dies_three_times_costs_no_object() {
    let tracks = Arc::new(Tracks::new(&["v0"]));
    let exchange = Exchange::new();
    let _offer = exchange.offer(namespace(), tracks.clone()).unwrap();
    let identity = Identity::self_signed(&["localhost".into()]).unwrap();
    let mut listener = bind("127.0.0.1:0".parse().unwrap(), &identity, &exchange).await;
    let address = listener.local_addr().unwrap();
    let url = parse_url(&format!("moqt://{address}/")).unwrap();
    let trust = Trust::Fingerprints(vec![identity.fingerprint()]);
    let to = To { connector: Connector::new(&trust, Limits::default()).unwrap(), url };
    let mut follower = Follower::new(to, name("v0"), Start::At(Location::new(0, 0)), 1);

    let v0 = tracks.get("v0");
    publish(&v0, 0, LEN);
    let publishing = tokio::spawn(async move {
        for group in 1..GROUPS {
            publish(&v0, group, LEN);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        v0.end();
    });
    let mut got = Vec::new();
    let follow = async {
        while let Some(object) = follower.next().await {
            assert!(object.payload == payload(object.at.group, 0, LEN), "bytes of {:?}", object.at);
            got.push(object.at.group);
        }
    };
    let kill = async {
        for _ in 0..3 {
            while listener.stats().carried.objects_out < 5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(listener);
            listener = bind(address, &identity, &exchange).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! { () = follow => {}, () = kill => {} }
    })
    .await
    .expect("the track ends");
    publishing.await.unwrap();
    let stats = follower.stats();
    println!("{stats:?}");
    got.sort_unstable();
    assert_eq!(got, (0..GROUPS).collect::<Vec<_>>(), "no duplicate, no hole: {stats:?}");
    assert!(stats.sessions >= 4 && stats.fetched > 0 && stats.holes == 0, "{stats:?}");
}
