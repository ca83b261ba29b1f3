//! A publisher of known bytes, and ways to reach it.

#![allow(unreachable_pub, dead_code)] // shared by tests that each use a part of it

use bytes::Bytes;
use mahp_moq::plane::{Boxed, Fetched};
use mahp_moq::quic::{Connector, Identity, Limits, Listener, MoqtUrl, QuicSession, Trust, parse_url};
use mahp_moq::track::TrackConfig;
use mahp_moq::wire::LocationRange;
use mahp_moq::{Exchange, Location, Namespace, Object, Refusal, Source, Track, TrackName};
use std::collections::HashMap;
use std::sync::Arc;

/// Everything under one namespace.
pub fn namespace() -> Namespace {
    Namespace::new(["mahp", "test"])
}

/// A track of it.
pub fn name(track: &'static str) -> TrackName {
    TrackName::new(namespace(), track)
}

/// The bytes of an object are a function of its place.
pub fn payload(group: u64, object: u64, len: usize) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(group << 32 | object);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

/// Tracks by name; `made` makes its objects when they are asked for.
#[derive(Default)]
pub struct Tracks(HashMap<&'static [u8], Arc<Track>>);

impl Tracks {
    pub fn new(names: &[&'static str]) -> Tracks {
        let track = || Arc::new(Track::new(TrackConfig::default()));
        Tracks(names.iter().map(|n| (n.as_bytes(), track())).collect())
    }

    pub fn get(&self, name: &'static str) -> Arc<Track> {
        self.0[name.as_bytes()].clone()
    }
}

impl Source for Tracks {
    fn track<'a>(&'a self, name: &'a TrackName) -> Boxed<'a, Result<Arc<Track>, Refusal>> {
        let track = self.0.get(&name.name[..]).cloned();
        Box::pin(async move { track.ok_or_else(|| Refusal::does_not_exist("no such track")) })
    }

    fn fetch<'a>(&'a self, name: &'a TrackName, range: LocationRange) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            if &name.name[..] != b"made" {
                return self.track(name).await?.fetch(range);
            }
            let group = range.start.group;
            let objects = (range.start.object..=range.last().object).take(1000);
            let objects = objects.map(|o| Object::new(Location::new(group, o), payload(group, o, 1344)));
            Ok(Fetched { end: range.end, end_of_track: false, objects: objects.collect() })
        })
    }
}

/// Publishes one object of a group of its own.
pub fn publish(track: &Track, group: u64, len: usize) {
    track.push(Object::new(Location::new(group, 0), payload(group, 0, len)));
    track.end_group(group);
}

/// A listener on loopback with what a client needs to reach it.
pub struct Server {
    pub listener: Listener,
    pub url: MoqtUrl,
    pub text: String,
    pub trust: Trust,
}

pub fn listen(exchange: Arc<Exchange>) -> Server {
    let identity = Identity::self_signed(&["localhost".into(), "127.0.0.1".into()]).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(address, &identity, exchange, Limits::default()).unwrap();
    let text = format!("moqt://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let trust = Trust::Fingerprints(vec![identity.fingerprint()]);
    Server { listener, url: parse_url(&text).unwrap(), text, trust }
}

impl Server {
    pub async fn connect(&self) -> QuicSession {
        let connector = Connector::new(&self.trust, Limits::default()).unwrap();
        connector.connect(&self.url, Exchange::new()).await.unwrap()
    }
}
