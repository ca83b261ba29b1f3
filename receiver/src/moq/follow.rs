//! Subscriptions to publishers, for each rendition that somebody watches.
//!
//! Always: the signed records of what exists. The engine takes them as it takes FDT Instances, so an object of which multicast
//! brought nothing at all is known and repaired. While multicast is silent, or brings too little: the objects themselves. What fell
//! between the two has a record and is fetched by the recovery. When multicast is good again, both go on for a while
//! ([`mahp_common::repair::reach`]): what is heard twice is one object to the engine.

use super::fetch::Publishers;
use super::sessions::To;
use crate::flow::Control;
use crate::hub::recover::Followed;
use crate::recovery::client::count;
use crate::served::Why;
use crate::urls::RenditionKey;
use mahp_common::Toi;
use mahp_moq::catalog::{self, Catalog, Kind};
use mahp_moq::follow::{FollowStats, Follower};
use mahp_moq::manifest;
use mahp_moq::plane::{Fetching as _, ObjectPlane as _, PlaneError, Start};
use mahp_moq::publisher::namespace;
use mahp_moq::wire::LocationRange;
use mahp_moq::{Location, Object, TrackName, limits};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

/// What there is to follow is looked at this often.
const LOOK: Duration = Duration::from_millis(500);
/// A catalog that cannot be had, or contradicts the session description, is asked for again after this.
const CATALOG_AGAIN: Duration = Duration::from_secs(3);
/// Until the answer to the request for the catalog.
const CATALOG_TIME: Duration = Duration::from_secs(5);
/// Objects between a subscription and the engine: above it, the publisher waits.
const QUEUE: usize = 8;
/// Records remembered.
const DESCRIBED: usize = 1024;
/// Objects that wait for their records, which may come later by a moment: the oldest gives way, and is fetched if it must be.
const WAITING: usize = 8;

/// Follows what the hub names, until dropped.
pub(crate) async fn follow(publishers: Publishers) {
    let mut tasks = JoinSet::new();
    let mut running: HashMap<RenditionKey, Running> = HashMap::new();
    loop {
        let followed = publishers.hub.followed();
        // How far it was with publishers that have another URL now: a sender that was restarted.
        let mut moved: HashMap<RenditionKey, Option<u64>> = HashMap::new();
        running.retain(|key, running| {
            let now = followed.iter().find(|f| f.rendition == *key);
            let goes_on = now.is_some_and(|f| f.is_same(&running.what));
            if !goes_on {
                running.task.abort();
            }
            if now.is_some_and(|f| f.key == running.what.key) {
                moved.insert(key.clone(), *running.newest.borrow());
            }
            goes_on && !running.task.is_finished()
        });
        for what in followed {
            let poor = what.poor;
            let known = running.entry(what.rendition.clone()).or_insert_with(|| {
                let (tell, told) = watch::channel(poor);
                let after = moved.remove(&what.rendition).flatten();
                let (one, newest) = One::new(publishers.clone(), what.clone(), told, after);
                Running { what, poor: tell, newest, task: tasks.spawn(one.run()) }
            });
            known.poor.send_if_modified(|before| std::mem::replace(before, poor) != poor);
        }
        while tasks.try_join_next().is_some() {}
        tokio::time::sleep(LOOK).await;
    }
}

struct Running {
    what: Followed,
    poor: watch::Sender<bool>,
    /// Group of its newest record.
    newest: watch::Receiver<Option<u64>>,
    task: AbortHandle,
}

/// One rendition at its publisher.
struct One {
    publishers: Publishers,
    what: Followed,
    /// Whether multicast is.
    poor: watch::Receiver<bool>,
    /// Group of the newest record, this publisher's or the one's before it: groups grow over restarts.
    newest: watch::Sender<Option<u64>>,
    /// What the records that came describe, by group.
    described: BTreeMap<u64, Toi>,
    /// Objects whose records did not yet.
    waiting: VecDeque<Object>,
}

/// Subscriptions to objects.
struct Ears {
    _tasks: JoinSet<()>,
    objects: mpsc::Receiver<Object>,
}

impl One {
    /// `after`: the group of the newest record that is known.
    fn new(
        publishers: Publishers,
        what: Followed,
        poor: watch::Receiver<bool>,
        after: Option<u64>,
    ) -> (One, watch::Receiver<Option<u64>>) {
        let (newest, told) = watch::channel(after);
        let (described, waiting) = (BTreeMap::new(), VecDeque::new());
        (One { publishers, what, poor, newest, described, waiting }, told)
    }

    /// Until the publisher ends the records, or for ever.
    async fn run(mut self) {
        self.wait_for_catalog().await;
        let mut reading = JoinSet::new();
        let (to, mut records) = mpsc::channel(QUEUE);
        let behind = |group: u64| Start::At(Location::new(group.saturating_add(1), 0));
        let start = self.newest.borrow().map_or(Start::Latest, behind);
        self.subscribe(&mut reading, Kind::Manifest, start, to);
        let mut ears: Option<Ears> = None;
        loop {
            let poor = *self.poor.borrow_and_update();
            if poor && ears.is_none() {
                ears = Some(self.listen());
            } else if !poor && ears.take().is_some() {
                tracing::info!(rendition = %self.what.rendition, "multicast is good again: objects are no longer taken over MoQ");
            }
            tokio::select! {
                record = records.recv() => match record {
                    Some(record) => self.described(record),
                    None => return,
                },
                object = hear(&mut ears) => match object {
                    Some(object) => self.came(object),
                    None => {
                        ears = None;
                        // A publisher that ends its tracks at once must not be asked without pause.
                        tokio::time::sleep(LOOK).await;
                    }
                },
                changed = self.poor.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Until the publisher's catalog agrees with the session description, which is what counts.
    async fn wait_for_catalog(&self) {
        let mut said = String::new();
        while let Err(why) = self.check_catalog().await {
            count("moq_catalog_failed");
            if said != why {
                tracing::warn!(rendition = %self.what.rendition, "MoQ publisher is not followed: {why}");
                said = why;
            }
            tokio::time::sleep(CATALOG_AGAIN).await;
        }
    }

    async fn check_catalog(&self) -> Result<(), String> {
        let Followed { rendition, publisher, .. } = &self.what;
        let session = self.publishers.sessions.get(publisher).await.map_err(|e| e.to_string())?;
        let track = TrackName::new(namespace(&rendition.channel), catalog::TRACK);
        let fetch = async {
            let fetching = session.fetch(&track, LocationRange::groups(0, u64::MAX)).await?;
            fetching.collect(limits::CATALOG_BYTES).await
        };
        let got = tokio::time::timeout(CATALOG_TIME, fetch).await.map_err(|_| "no catalog in time")?;
        let got = got.map_err(|e: PlaneError| format!("catalog: {e}"))?;
        agrees(&got.last().ok_or("no catalog")?.payload, &self.what)
    }

    /// Reads a track into `to`, through any number of sessions.
    fn subscribe(&self, tasks: &mut JoinSet<()>, kind: Kind, start: Start, to: mpsc::Sender<Object>) {
        let RenditionKey { channel, rendition } = &self.what.rendition;
        let track = TrackName::new(namespace(channel), kind.track(rendition));
        let dial = To { sessions: self.publishers.sessions.clone(), url: self.what.publisher.clone() };
        let mut follower = Follower::new(dial, track, start, fastrand::u64(..));
        tasks.spawn(async move {
            let mut counted = FollowStats::default();
            while let Some(object) = follower.next().await {
                counted = tell(counted, follower.stats());
                if to.send(object).await.is_err() {
                    return;
                }
            }
        });
    }

    fn listen(&self) -> Ears {
        tracing::info!(rendition = %self.what.rendition, "multicast brings nothing, or too little: objects are taken over MoQ");
        let mut tasks = JoinSet::new();
        let (to, objects) = mpsc::channel(QUEUE);
        for kind in [Kind::Media, Kind::Documents] {
            self.subscribe(&mut tasks, kind, Start::Latest, to.clone());
        }
        Ears { _tasks: tasks, objects }
    }

    /// To the engine, if it is signed as it should be.
    fn described(&mut self, record: Object) {
        self.publishers.served.fetched(Why::Moq, record.payload.len() as u64);
        let Some(key) = &self.what.key else { return };
        let file = match manifest::open(&record.payload, self.what.flow.endpoint.tsi, key) {
            Ok(file) => file,
            Err(e) => {
                count("moq_records_refused");
                tracing::debug!(rendition = %self.what.rendition, "record of a MoQ publisher: {e}");
                return;
            }
        };
        count("moq_records");
        let group = record.at.group;
        let newest = self.newest.send_if_modified(|largest| {
            let newer = largest.is_none_or(|largest| largest < group);
            if newer {
                *largest = Some(group);
            }
            newer
        });
        self.publishers.copies.record(&self.what.rendition, (file.toi, &file.meta), &record.payload);
        let control = Control::Description { newest, instance: record.payload };
        self.publishers.hub.tell(&self.what.rendition, control);
        self.described.insert(group, file.toi);
        if self.described.len() > DESCRIBED {
            self.described.pop_first();
        }
        for object in std::mem::take(&mut self.waiting) {
            self.place(object);
        }
    }

    fn came(&mut self, object: Object) {
        count("moq_objects_heard");
        self.publishers.served.fetched(Why::Moq, object.payload.len() as u64);
        self.place(object);
    }

    /// To the engine, behind its record.
    fn place(&mut self, object: Object) {
        if let Some(toi) = self.described.get(&object.at.group) {
            let control = Control::Object { toi: *toi, bytes: object.payload };
            return self.publishers.hub.tell(&self.what.rendition, control);
        }
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(object);
    }
}

/// Counts what has happened to a subscription since `before`.
fn tell(before: FollowStats, now: FollowStats) -> FollowStats {
    let steps = [
        ("live", before.live, now.live),
        ("fetched", before.fetched, now.fetched),
        ("duplicate", before.duplicates, now.duplicates),
        ("hole", before.holes, now.holes),
        ("session", before.sessions, now.sessions),
        ("failure", before.failures, now.failures),
    ];
    for (what, before, now) in steps {
        metrics::counter!("mahp_receiver_moq_followed_total", "what" => what)
            .increment(now.saturating_sub(before));
    }
    now
}

/// Whether a catalog says of a rendition what the session description does.
fn agrees(catalog: &[u8], what: &Followed) -> Result<(), String> {
    let catalog = Catalog::parse(catalog).map_err(|e| e.to_string())?;
    let flows = catalog.flows().map_err(|e| e.to_string())?;
    if catalog.multicast.map(|binding| binding.sig_key) != what.key.map(|key| key.to_base64()) {
        return Err("its catalog names another key than the session description".into());
    }
    match flows.get(&*what.rendition.rendition) {
        Some(there) if *there == what.flow => Ok(()),
        _ => Err("its catalog names another multicast flow than the session description".into()),
    }
}

/// The next object; none: no more of them.
async fn hear(ears: &mut Option<Ears>) -> Option<Object> {
    match ears {
        Some(ears) => ears.objects.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use mahp_common::auth::SigningKey;

    #[test]
    fn a_catalog_that_contradicts_the_description_is_refused() {
        let mut channel = testing::channel("tv", "http://origin.example/master.m3u8");
        channel.renditions.push(testing::rendition("high"));
        let rendition = &channel.renditions[0];
        let key = SigningKey::from_seed(&[1; 32]).verifying_key();
        let what = Followed {
            rendition: RenditionKey::new(&channel.name, &rendition.id),
            publisher: url::Url::parse("moqt://127.0.0.1:1/").expect("a URL"),
            flow: rendition.flow.clone(),
            key: Some(key),
            poor: false,
        };
        let catalog = |channel: &_, key: &str| Catalog::of(channel, key, 1).to_json();
        assert_eq!(agrees(&catalog(&channel, &key.to_base64()), &what), Ok(()));
        let other = SigningKey::from_seed(&[2; 32]).verifying_key();
        assert!(agrees(&catalog(&channel, &other.to_base64()), &what).is_err_and(|e| e.contains("key")));
        let mut moved = channel.clone();
        moved.renditions[0].flow.endpoint.port += 2;
        assert!(agrees(&catalog(&moved, &key.to_base64()), &what).is_err_and(|e| e.contains("flow")));
        moved.renditions.clear();
        assert!(agrees(&catalog(&moved, &key.to_base64()), &what).is_err(), "a rendition less");
        assert!(agrees(b"{", &what).is_err());
    }
}
