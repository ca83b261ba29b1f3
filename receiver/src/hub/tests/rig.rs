//! A hub without an HTTP half, and a sending engine whose multicast it gets over loopback.

use crate::http::access::HostList;
use crate::hub::{Hub, Options, SessionId};
use crate::joins::Policy;
use crate::library::{Availability, Library, Stored};
use crate::served::Served;
use crate::snapshot::Observe;
use crate::testing::{Caster, description, news};
use bytes::Bytes;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Flow, SessionDescription};
use mahp_common::{Object, ObjectKind, ObjectMeta};
use mahp_runtime::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

pub(super) const SIZE: usize = 300_000;

pub(super) struct Rig {
    pub(super) hub: Arc<Hub>,
    pub(super) session: SessionId,
    pub(super) description: SessionDescription,
    pub(super) key: SigningKey,
    pub(super) refresh: Arc<Notify>,
    stop: CancellationToken,
    flows: tokio::task::JoinHandle<()>,
}

pub(super) fn options() -> Options {
    Options {
        memory: 32 << 20,
        assembly_memory: 16 << 20,
        join: Policy::OnDemand { idle: Duration::from_secs(30) },
        hold: Duration::from_secs(8),
        allow_origins: HostList::new(["allowed.example"]).unwrap(),
        interface: None,
        recv_buffer: 4 << 20,
        publisher: None,
        copies: Default::default(),
    }
}

impl Rig {
    /// Channel `news` with one rendition `high` on a group of its own.
    pub(super) fn new(options: Options) -> Rig {
        let key = SigningKey::from_seed(&[9; 32]);
        let description = description(news("http://o.example"), &key);
        let clock = Clock::new();
        let hub = Hub::new(options, clock, Arc::new(Served::default()));
        let refresh = Arc::new(Notify::new());
        let session = hub.add_session("http://sender/".parse().unwrap(), refresh.clone());
        hub.describe(session, description.clone(), Some(key.verifying_key()));
        let stop = CancellationToken::new();
        let flows = tokio::spawn(crate::run::flows(hub.clone(), clock, 4 << 20, stop.clone()));
        Rig { hub, session, description, key, refresh, stop, flows }
    }

    pub(super) fn flow(&self) -> Flow {
        self.description.channels[0].renditions[0].flow.clone()
    }

    pub(super) fn caster(&self) -> Caster {
        Caster::new(&self.flow(), 1, Some(self.key.clone()))
    }

    /// Demands something and waits until the groups are joined.
    pub(super) async fn join(&self) {
        self.hub.demand(&segment(0), None);
        self.until(|| self.hub.flows().iter().any(|f| f.joined)).await;
    }

    pub(super) async fn until(&self, condition: impl Fn() -> bool) {
        let mut changes = self.hub.changes();
        let wait = async {
            while !condition() {
                // Some conditions change without the hub noticing: time, counters.
                _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "waited in vain: {:#?}", self.hub.snapshot());
    }

    pub(super) async fn until_here(&self, url: &Url) -> Arc<Stored> {
        let here = || match self.hub.demand(url, None) {
            Availability::Here(pieces) => pieces.into_iter().next(),
            _ => None,
        };
        self.until(|| here().is_some()).await;
        here().unwrap()
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.flows.await.unwrap();
    }
}

pub(super) fn segment(n: usize) -> Url {
    Url::parse(&format!("http://o.example/news/high/{n}.ts")).unwrap()
}

pub(super) fn body(n: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(n as u64);
    std::iter::repeat_with(|| rng.u8(..)).take(SIZE).collect()
}

pub(super) fn object(url: &Url, kind: ObjectKind, body: impl Into<Bytes>) -> Object {
    Object::new(ObjectMeta { url: url.to_string(), kind, ..ObjectMeta::default() }, body.into())
}

pub(super) fn media(n: usize) -> Object {
    object(&segment(n), ObjectKind::Media, body(n))
}
