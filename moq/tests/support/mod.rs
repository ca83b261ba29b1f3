//! A publisher of known bytes, and ways to reach it.

#![allow(unreachable_pub, dead_code)] // shared by tests that each use a part of it

use bytes::Bytes;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Channel, Endpoint, Flow, Format, Rendition, Role, WireProfile};
use mahp_common::{Tsi, WallTime};
use mahp_moq::channel::Windows;
use mahp_moq::plane::{Asker, Boxed, Fetched};
use mahp_moq::quic::{Connector, Identity, Limits, Listener, MoqtUrl, QuicSession, Trust, parse_url};
use mahp_moq::track::TrackConfig;
use mahp_moq::wire::LocationRange;
use mahp_moq::{Exchange, Location, Namespace, Object, Refusal, Source, Track, TrackName};
use std::collections::HashMap;
use std::sync::Arc;

/// When it is in virtual time.
pub const WALL: WallTime = WallTime::from_unix_secs(1_790_000_000);
/// Everything that a test publishes.
pub const WINDOWS: Windows = Windows { media: 64 << 20, documents: 8 << 20, records: 8 << 20 };
/// Encoding symbol length.
pub const T: u16 = 1344;

/// The sender's.
pub fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

/// A live channel `news` with the rendition `v0` of 5 Mbit/s in parts of 500 ms: TSI 10, 10 % repair in TSI 11, paced to `rate_bps`.
pub fn channel(rate_bps: u64) -> Channel {
    let place = |tsi| Endpoint {
        source: Some([192, 0, 2, 1].into()),
        group: [232, 1, 1, 1].into(),
        port: 5000,
        tsi: Tsi(tsi),
    };
    let flow = Flow {
        endpoint: place(10),
        repair: Some(place(11)),
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: T,
        repair_percent: 10,
        rate_bps,
    };
    let rendition = Rendition {
        id: "v0".into(),
        role: Role::Video,
        bitrate_bps: 5_000_000,
        playlist_url: None,
        url_patterns: Vec::new(),
        codecs: None,
        resolution: None,
        language: None,
        flow,
    };
    Channel {
        name: "news".into(),
        title: String::new(),
        format: Format::Hls,
        live: true,
        manifest_url: "http://origin.example/master.m3u8".into(),
        prefixes: Vec::new(),
        token_parameters: Vec::new(),
        repair_servers: Vec::new(),
        standby_sources: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: 2000,
        part_target_ms: Some(500),
        renditions: vec![rendition],
    }
}

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

    fn fetch<'a>(
        &'a self,
        _: &'a Asker,
        name: &'a TrackName,
        range: LocationRange,
    ) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            if &name.name[..] != b"made" {
                return self.track(name).await?.fetch(range);
            }
            let group = range.start.group;
            let objects = (range.start.object..=range.last().object).take(1000);
            let objects = objects.map(|o| Object::new(Location::new(group, o), payload(group, o, 1344)));
            Ok(Fetched::of(range.end, objects))
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
