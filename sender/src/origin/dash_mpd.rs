//! Follows a dynamic MPD: reloads it, and carries each version behind the segments it lists.

use super::Origin;
use super::dash::{Ladder, MpdVersion, version};
use super::utc::Offset;
use crate::sink::{Item, ObjectSink};
use mahp_common::Object;
use mahp_common::manifest::dash::Mpd;
use mahp_runtime::fetch::{Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep_until;
use url::Url;

/// Bounds of the time between two requests for an MPD.
const POLL_MIN: Duration = Duration::from_millis(500);
/// Where minimumUpdatePeriod is missing: to notice the end.
pub const POLL_MAX: Duration = Duration::from_secs(30);
/// The current MPD is sent again this often.
const MPD_REPEAT: Duration = Duration::from_secs(2);
/// The origin's clock is asked for again this often.
const CLOCK_PERIOD: Duration = Duration::from_secs(300);
/// Longest that a version of the MPD waits for its segments.
const HOLD_MAX: Duration = Duration::from_secs(4);

/// Between the task of the MPD and those of its renditions.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The newest version.
    pub current: watch::Receiver<Arc<MpdVersion>>,
    /// The origin's clock.
    pub offset: Offset,
    /// The MPD's address.
    pub url: Url,
}

/// Reloads the MPD and carries it.
pub struct MpdFollower {
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    url: Url,
    publish: watch::Sender<Arc<MpdVersion>>,
    offset: Offset,
    /// Which version each rendition has sent the segments of.
    progress: Vec<watch::Receiver<u64>>,
    watch: Newcomers,
}

/// Representations that came after the start and fit nowhere: flows are made at the start of a channel.
#[derive(Default)]
struct Newcomers {
    ladder: Arc<Ladder>,
    filter: Vec<String>,
}

impl Newcomers {
    /// Says of each that it is not carried.
    fn look(&self, origin: &Origin, url: &Url, mpd: &Mpd) {
        for name in self.ladder.left_out(url, mpd, &self.filter) {
            origin.not_carried(url, &name);
        }
    }
}

impl MpdFollower {
    /// A follower of what was discovered, and what its renditions listen to. `progress`: of these renditions.
    pub fn new(
        origin: Origin,
        sink: Arc<dyn ObjectSink>,
        url: Url,
        first: MpdVersion,
        progress: Vec<watch::Receiver<u64>>,
    ) -> (MpdFollower, Feed) {
        let (publish, current) = watch::channel(Arc::new(first));
        let offset = Offset::default();
        let feed = Feed { current, offset: offset.clone(), url: url.clone() };
        let watch = Newcomers::default();
        (MpdFollower { origin, sink, url, publish, offset, progress, watch }, feed)
    }

    /// Tells of what the MPD offers and no rendition carries, of what passes `filter` (the setting `renditions`).
    pub fn watching(self, ladder: Arc<Ladder>, filter: Vec<String>) -> MpdFollower {
        MpdFollower { watch: Newcomers { ladder, filter }, ..self }
    }

    /// Until the MPD becomes static.
    pub async fn run(mut self) {
        let clock = self.origin.clock;
        let first = self.publish.borrow().clone();
        self.offset.learn(&self.origin, &first.mpd.utc_timing, &self.url, None).await;
        // The renditions wait for the clock: they start with this notice.
        self.publish.send_replace(first.clone());
        self.put(&first).await;
        self.watch.look(&self.origin, &self.url, &first.mpd);
        let mut sent = first;
        let mut asked_at = clock.now();
        let mut clock_at = clock.now() + CLOCK_PERIOD;
        let mut repeat_at = clock.now() + MPD_REPEAT;
        while self.publish.borrow().mpd.dynamic {
            let poll_at = asked_at + period(&self.publish.borrow().mpd);
            sleep_until(clock.instant(poll_at.min(repeat_at))).await;
            let now = clock.now();
            if now >= repeat_at {
                self.repeat(&sent).await;
                repeat_at = now + MPD_REPEAT;
            }
            if now < poll_at {
                continue;
            }
            asked_at = now;
            let Some((version, response)) = self.load(sent.number + 1).await else { continue };
            if now >= clock_at || self.offset.millis() == 0 {
                self.offset
                    .learn(&self.origin, &version.mpd.utc_timing, &response.final_url, Some(&response))
                    .await;
                clock_at = now + CLOCK_PERIOD;
            }
            if version.object.meta.digest != sent.object.meta.digest {
                sent = Arc::new(version);
                self.publish.send_replace(sent.clone());
                self.watch.look(&self.origin, &self.url, &sent.mpd);
                self.wait_for_segments(sent.number).await;
                self.put(&sent).await;
            }
        }
    }

    async fn load(&self, number: u64) -> Option<(MpdVersion, Response)> {
        let location = self.publish.borrow().mpd.location.clone();
        let request =
            Request { accept_gzip: true, timeout: Some(Duration::from_secs(10)), ..Request::default() };
        let mut result = self.origin.get(location.as_ref().unwrap_or(&self.url), request.clone()).await;
        if result.is_err() && location.is_some() {
            // A Location that has gone (a session that ended): begin again.
            result = self.origin.get(&self.url, request).await;
        }
        let response = result.map_err(|e| tracing::debug!("{e}")).ok()?;
        match version(&self.origin, &self.url, number, &response) {
            Ok(version) => Some((version, response)),
            Err(e) => {
                tracing::warn!("{e}");
                self.origin.status.origin_bad(e);
                None
            }
        }
    }

    /// Receivers should not hear of segments before their bytes: a version waits until its segments are in their flows.
    async fn wait_for_segments(&mut self, number: u64) {
        let all = async {
            for progress in &mut self.progress {
                // A rendition that has ended is not waited for.
                let _ = progress.wait_for(|n| *n >= number).await;
            }
        };
        let _ = tokio::time::timeout(HOLD_MAX, all).await;
    }

    async fn put(&self, version: &MpdVersion) {
        for object in self.objects(version) {
            self.sink.put(Item::new(object)).await;
        }
    }

    async fn repeat(&self, version: &MpdVersion) {
        for object in self.objects(version) {
            self.sink.put(Item::repeat(object)).await;
        }
    }

    /// Under its URL, and under its Location, where players will ask for it from then on.
    fn objects(&self, version: &MpdVersion) -> Vec<Object> {
        let mut objects = vec![version.object.clone()];
        if let Some(location) = version.mpd.location.as_ref().filter(|l| **l != self.url) {
            let mut moved = version.object.clone();
            moved.meta.url = location.to_string();
            objects.push(moved);
        }
        objects
    }
}

/// Time between two requests for the MPD.
fn period(mpd: &Mpd) -> Duration {
    mpd.minimum_update_period.unwrap_or(POLL_MAX).clamp(POLL_MIN, POLL_MAX)
}
