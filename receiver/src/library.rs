//! What the receiver has, expects and may fetch: the boundary between the multicast half (session description, joins, flows,
//! store) and the HTTP half (players, origins, decisions). The HTTP half asks; it never sees packets.

use bytes::Bytes;
use mahp_common::catalog::Channel;
use mahp_common::{ObjectMeta, Payload, Time};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A resource: the cache key of its URL ([`mahp_common::manifest::url::cache_key`] with the channel's token parameters).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey(pub Arc<str>);

/// Where the bytes came from; the `detail` of Cache-Status and the label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Multicast alone, FEC included.
    Multicast,
    /// Multicast, and missing symbols by unicast.
    Repaired,
    /// Unicast from the origin.
    Unicast,
}

impl Source {
    /// The metric label and the word in Cache-Status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Multicast => "multicast",
            Source::Repaired => "repaired",
            Source::Unicast => "unicast",
        }
    }
}

/// A verified object in the store: immutable. `meta.range` tells which part of the resource it is.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it is.
    pub meta: ObjectMeta,
    /// Its bytes.
    pub payload: Payload,
    /// Where they came from.
    pub source: Source,
    /// When it was verified.
    pub stored_at: Time,
    /// What may change at the origin is to be asked for again from then on ([`crate::freshness`]). `None`: it never changes.
    pub good_until: Option<Time>,
}

/// The first step of the ladder (DESIGN section 5).
#[derive(Clone, Debug)]
pub enum Availability {
    /// Complete: pieces that cover the asked range (or the whole resource) in order, first to last byte.
    Here(Vec<Arc<Stored>>),
    /// As [`Availability::Here`], but the origin may have something else by now. To be served if it does not answer.
    Stale(Vec<Arc<Stored>>),
    /// Under assembly.
    Coming {
        /// When it should be complete at the present rate, repair symbols included.
        expected_by: Time,
        /// Share of needed symbols that is here, 0 to 1.
        progress: f32,
    },
    /// Its rendition is joined and alive and this object has not been sent yet as far as we can tell (live edge, carousel).
    Expected {
        /// Waiting beyond this is not reasonable: something was lost.
        until: Time,
    },
    /// Of a channel, but multicast will not bring it soon (sent before the join, lost, rendition silent or not carried).
    NotComing,
    /// Of no channel; the host is in the operator's allow-list.
    Allowed,
    /// Of no channel, host not allowed: 403.
    Forbidden,
}

/// The bytes that would complete an object under assembly.
#[derive(Clone, Debug)]
pub struct RepairPlan {
    /// What is under assembly.
    pub meta: ObjectMeta,
    /// Inclusive byte ranges of the object (add `meta.range.first` for the file's).
    pub ranges: Vec<(u64, u64)>,
}

/// A manifest as last heard.
#[derive(Clone, Debug)]
pub struct ManifestState {
    /// Newest version.
    pub stored: Arc<Stored>,
    /// Whether multicast keeps it current: flow alive, and (live) a version heard within 1.5 target durations.
    pub fresh: bool,
    /// Base for its relative references: `meta.final_url`, else `meta.url`.
    pub base: Url,
}

/// The multicast half as the HTTP half sees it. Implemented by `hub::Hub`; tests of the HTTP half use a fake.
pub trait Library: Send + Sync + 'static {
    /// Channels on offer.
    fn channels(&self) -> Vec<Arc<Channel>>;
    /// The cache key of a URL.
    fn key(&self, url: &Url) -> ResourceKey;
    /// The channel a URL belongs to, by prefix or learned URLs.
    fn channel_of(&self, url: &Url) -> Option<Arc<Channel>>;
    /// Looks up, and counts as a viewer's demand: joins the rendition (and the channel's manifest flow) if need be.
    /// `range`: inclusive byte range asked for, `None` = whole.
    fn demand(&self, url: &Url, range: Option<(u64, Option<u64>)>) -> Availability;
    /// The piece of a resource that holds this byte, whether or not the rest is here.
    fn piece(&self, url: &Url, at: u64) -> Option<Arc<Stored>>;
    /// Newest multicast (or unicast) version of a manifest; counts as demand.
    fn manifest(&self, url: &Url) -> Option<ManifestState>;
    /// A counter that changes whenever an object is stored or lost, or a flow's state changes: await a change, ask again.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;
    /// What is missing of the object under assembly that covers this request; `None` when whole-object fetch is as cheap.
    fn repair_plan(&self, url: &Url, range: Option<(u64, Option<u64>)>) -> Option<RepairPlan>;
    /// Bytes fetched for a repair plan enter the same decoder (and are counted as repaired).
    fn feed(&self, plan: &RepairPlan, offset: u64, bytes: &[u8]);
    /// Whether these bytes never change: a segment or initialization segment of a rendition.
    fn lasts(&self, url: &Url) -> bool;
    /// A whole object fetched by unicast: store it and stop collecting it. `good_for`: how long its origin vouches for it, if it
    /// may change.
    fn put(&self, meta: ObjectMeta, body: Bytes, good_for: Duration) -> Arc<Stored>;
    /// URLs that a served playlist names, segments in order, oldest first: teaches which rendition they belong to and what was
    /// missed.
    fn teach_playlist(&self, inits: &[Url], segments: &[Url]);
    /// Longest hold (8 s at most).
    fn hold_budget(&self) -> Duration;
    /// Whether a sender that the operator named has not been heard of since the start: there may be more channels than are known.
    fn unheard_sessions(&self) -> bool;
}
