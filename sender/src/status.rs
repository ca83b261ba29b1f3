//! What the sender tells about itself: counters of each rendition, `/api/status`, `/readyz`, metrics.

use crate::moq::status as moq;
use crate::repair::{self, Service};
use mahp_common::Time;
use mahp_common::catalog::{Channel, Rendition, Role};
use mahp_runtime::admin::Status;
use metrics::{counter, gauge};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// Counters of one rendition. All count from the start of the program.
#[derive(Debug, Default)]
pub struct RenditionStatus {
    /// Segments, init segments and other media objects sent for the first time.
    pub sent: AtomicU64,
    /// Of these, those whose last packet left after their time.
    pub late: AtomicU64,
    /// Segments that were never asked for, or that left the origin's window before they could be had.
    pub skipped: AtomicU64,
    /// Segments that could not be had from the origin.
    pub failed: AtomicU64,
    /// Manifest versions sent.
    pub manifests: AtomicU64,
    /// Objects sent again for late joiners.
    pub repeats: AtomicU64,
    /// Bytes of objects in the flow's queue.
    pub queue_bytes: AtomicU64,
    /// UDP payload bytes: source symbols.
    pub source_bytes: AtomicU64,
    /// UDP payload bytes: repair symbols.
    pub repair_bytes: AtomicU64,
    /// UDP payload bytes: repair symbols of the second layer.
    pub layer_2_bytes: AtomicU64,
    /// UDP payload bytes: FDT Instances.
    pub fdt_bytes: AtomicU64,
    /// Packets.
    pub packets: AtomicU64,
    /// Packets the kernel refused.
    pub send_errors: AtomicU64,
    /// Requests to the origin.
    pub origin_requests: AtomicU64,
    /// Requests to the origin that failed.
    pub origin_errors: AtomicU64,
    /// Time of the last good answer's headers and body, milliseconds.
    pub origin_millis: AtomicU64,
    /// VOD: segments in all.
    pub total: AtomicU64,
    /// VOD: segments sent in this turn of the carousel.
    pub position: AtomicU64,
    /// VOD: turns of the carousel that are complete.
    pub turns: AtomicU64,
    /// Why the origin does not answer; none: it does.
    pub origin_trouble: Mutex<Option<String>>,
    /// How often numbers or names of segments began anew.
    pub restarts: AtomicU64,
    restart_told: Mutex<Option<Time>>,
    /// What the manifest offers and no rendition carries.
    not_carried: Mutex<BTreeSet<String>>,
    /// Live, while new segments are expected: since when there was none.
    still_since: Mutex<Option<Instant>>,
    /// VOD: how far this turn of the carousel is.
    pace: Mutex<Option<Pace>>,
}

/// A habit of an origin is told of this often.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// What is offered and not carried is noted up to this number.
const LEFT_OUT_MAX: usize = 64;
/// A rendition without a new segment for so many target durations stands still.
const STILL_TARGETS: u32 = 3;
/// And for at least so long: the origin may fail once or twice, and is asked again after a few seconds.
const STILL_LEAST: Duration = Duration::from_secs(5);

/// How far a turn of a carousel is, in media time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// When the turn began.
    pub began: Instant,
    /// When the newest segment of it left, and where that begins.
    pub at: Instant,
    /// See `at`.
    pub media: Duration,
    /// Length of the whole.
    pub total: Duration,
    /// Media seconds per second that were planned.
    pub speed: f64,
}

impl Pace {
    /// Time to the end of the turn, from what it took so far.
    pub fn left(&self, now: Instant) -> Duration {
        let took = self.at.duration_since(self.began).as_secs_f64();
        let measured = Some(self.media.as_secs_f64() / took).filter(|_| took >= 1.0 && !self.media.is_zero());
        let left = self.total.saturating_sub(self.media).as_secs_f64() / measured.unwrap_or(self.speed);
        let left = Duration::try_from_secs_f64(left).unwrap_or_default();
        left.saturating_sub(now.duration_since(self.at))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RenditionStatus {
    /// Notes that the origin answered, after `took`.
    pub fn origin_good(&self, took: Duration) {
        self.origin_requests.fetch_add(1, Relaxed);
        self.origin_millis.store(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), Relaxed);
        *self.origin_trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that it did not.
    pub fn origin_bad(&self, why: String) {
        self.origin_requests.fetch_add(1, Relaxed);
        self.origin_errors.fetch_add(1, Relaxed);
        *self.origin_trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Counts a restart of the origin; gives how many there were when it is time to tell.
    pub fn restarted(&self, now: Time) -> Option<u64> {
        let count = self.restarts.fetch_add(1, Relaxed) + 1;
        let mut told = lock(&self.restart_told);
        if told.is_some_and(|told| now.since(told) < TELL_AGAIN) {
            return None;
        }
        *told = Some(now);
        Some(count)
    }

    /// Notes something that is offered and not carried; whether that is news. Of very many, the first are noted.
    pub fn leave_out(&self, name: &str) -> bool {
        let mut left_out = lock(&self.not_carried);
        left_out.len() < LEFT_OUT_MAX && left_out.insert(name.to_owned())
    }

    /// What is offered and not carried.
    pub fn not_carried(&self) -> Vec<String> {
        lock(&self.not_carried).iter().cloned().collect()
    }

    /// A new segment came.
    pub fn came(&self) {
        if let Some(since) = &mut *lock(&self.still_since) {
            *since = Instant::now();
        }
    }

    /// Whether there should be new segments, from now on.
    pub fn expects(&self, segments: bool) {
        let mut since = lock(&self.still_since);
        *since = segments.then(|| since.unwrap_or_else(Instant::now));
    }

    /// How long there was no new segment, while they are expected.
    pub fn still_for(&self, now: Instant) -> Option<Duration> {
        lock(&self.still_since).map(|since| now.duration_since(since))
    }

    /// Notes how far this turn is.
    pub fn set_pace(&self, pace: Pace) {
        *lock(&self.pace) = Some(pace);
    }

    /// How far this turn is.
    pub fn pace(&self) -> Option<Pace> {
        *lock(&self.pace)
    }

    fn trouble(&self) -> Option<String> {
        self.origin_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One rendition of one channel.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its channel.
    pub channel: String,
    /// Whether the channel is live.
    pub live: bool,
    /// The channel's longest segment.
    pub target: Duration,
    /// Its description.
    pub rendition: Rendition,
    /// Its counters.
    pub status: Arc<RenditionStatus>,
}

impl Entry {
    /// How long there was no new segment, if that is too long. Subtitles may be silent for as long as nobody speaks.
    pub fn stands_still(&self, now: Instant) -> Option<Duration> {
        if !matches!(self.rendition.role, Role::Video | Role::Audio) {
            return None;
        }
        let most = self.target.saturating_mul(STILL_TARGETS).max(STILL_LEAST);
        self.status.still_for(now).filter(|still| *still > most)
    }
}

/// All channels.
#[derive(Debug, Default)]
pub struct SenderStatus {
    channels: RwLock<Vec<(Channel, Vec<Entry>)>>,
    /// Channels that could not be started yet, and why.
    waiting: RwLock<BTreeMap<String, String>>,
    /// Counters of channels that were taken away, by channel and rendition: if they come again, they go on.
    retired: RwLock<BTreeMap<String, BTreeMap<String, Arc<RenditionStatus>>>>,
    repair: OnceLock<Arc<Service>>,
    moq: OnceLock<moq::Counters>,
}

impl SenderStatus {
    /// Shows the repair service too.
    pub fn set_repair(&self, service: Arc<Service>) {
        let _ = self.repair.set(service);
    }

    /// Shows the MoQ publisher too.
    pub fn set_moq(&self, counters: moq::Counters) {
        let _ = self.moq.set(counters);
    }

    /// Adds a channel. Its counters begin at zero, or go on where it was taken away before.
    pub fn add(&self, channel: &Channel) {
        let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = retired.remove(&channel.name).unwrap_or_default();
        let entry = |r: &Rendition| {
            let status = before.remove(&r.id).unwrap_or_default();
            status.expects(false);
            lock(&status.not_carried).clear();
            Entry {
                channel: channel.name.clone(),
                live: channel.live,
                target: Duration::from_millis(channel.target_duration_ms),
                rendition: r.clone(),
                status,
            }
        };
        let entries = channel.renditions.iter().map(entry).collect();
        drop(retired);
        self.channels.write().unwrap_or_else(PoisonError::into_inner).push((channel.clone(), entries));
        self.waiting.write().unwrap_or_else(PoisonError::into_inner).remove(&channel.name);
    }

    /// Shows a channel no longer.
    pub fn remove(&self, channel: &str) {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        for (_, entries) in channels.extract_if(.., |(c, _)| c.name == channel) {
            let statuses = entries.into_iter().map(|e| (e.rendition.id, e.status));
            retired.entry(channel.to_owned()).or_default().extend(statuses);
        }
        drop((channels, retired));
        self.waiting.write().unwrap_or_else(PoisonError::into_inner).remove(channel);
    }

    /// Notes why a channel could not be started yet.
    pub fn wait_for(&self, channel: &str, why: &str) {
        self.waiting
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(channel.to_owned(), why.to_owned());
    }

    /// Counters of a rendition.
    pub fn of(&self, channel: &str, rendition: &str) -> Arc<RenditionStatus> {
        let found = self.entries().into_iter().find(|e| e.channel == channel && e.rendition.id == rendition);
        found.map(|e| e.status).unwrap_or_default()
    }

    /// All renditions, channel by channel.
    pub fn entries(&self) -> Vec<Entry> {
        self.channels().into_iter().flat_map(|(_, entries)| entries).collect()
    }

    /// All channels with their renditions.
    pub fn channels(&self) -> Vec<(Channel, Vec<Entry>)> {
        self.channels.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn waiting(&self) -> BTreeMap<String, String> {
        self.waiting.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn rendition_json(entry: &Entry) -> Value {
    let (s, r, now) = (&entry.status, &entry.rendition, Instant::now());
    let n = |a: &AtomicU64| a.load(Relaxed);
    json!({
        "id": r.id, "role": r.role, "bitrate_bps": r.bitrate_bps, "rate_bps": r.flow.rate_bps,
        "source": r.flow.endpoint.source, "group": r.flow.endpoint.group, "port": r.flow.endpoint.port,
        "tsi": r.flow.endpoint.tsi,
        "objects": { "sent": n(&s.sent), "late": n(&s.late), "skipped": n(&s.skipped), "failed": n(&s.failed),
                     "manifests": n(&s.manifests), "repeats": n(&s.repeats) },
        "position": n(&s.position), "total": n(&s.total), "turns": n(&s.turns),
        "queue_bytes": n(&s.queue_bytes),
        "bytes": { "source": n(&s.source_bytes), "repair": n(&s.repair_bytes),
                   "repair_layer_2": n(&s.layer_2_bytes), "fdt": n(&s.fdt_bytes) },
        "repair_layer_2": r.flow.repair_layer_2.map(|l| json!({ "percent": l.percent, "group": l.endpoint.group,
                                                                "port": l.endpoint.port, "tsi": l.endpoint.tsi })),
        "packets": n(&s.packets), "send_errors": n(&s.send_errors),
        "origin": { "requests": n(&s.origin_requests), "errors": n(&s.origin_errors), "last_ms": n(&s.origin_millis),
                    "trouble": s.trouble(), "restarts": n(&s.restarts) },
        "newest_segment_age_ms": s.still_for(now).map(|age| age.as_millis() as u64),
        "stands_still": entry.stands_still(now).is_some(),
    })
}

impl Status for SenderStatus {
    fn status(&self) -> Value {
        let channel = |(c, entries): &(Channel, Vec<Entry>)| {
            let renditions: Vec<Value> = entries.iter().map(rendition_json).collect();
            let not_carried: BTreeSet<String> =
                entries.iter().flat_map(|e| lock(&e.status.not_carried).clone()).collect();
            json!({ "name": c.name, "title": c.title, "format": c.format, "live": c.live,
                    "manifest_url": c.manifest_url, "renditions": renditions, "not_carried": not_carried })
        };
        json!({ "program": "mahp-sender", "version": env!("CARGO_PKG_VERSION"), "waiting": self.waiting(),
                "channels": self.channels().iter().map(channel).collect::<Vec<_>>(),
                "repair": self.repair.get().map(|s| repair::status::json(&s.state())),
                "moq": self.moq.get().map(|counters| moq::json(&counters.state())) })
    }

    fn not_ready(&self) -> Vec<String> {
        let now = Instant::now();
        let still = |d: Duration| format!("no new segment for {} s", d.as_secs());
        let nothing =
            |e: &Entry| (e.status.packets.load(Relaxed) == 0).then(|| "nothing sent yet".to_owned());
        let why = |e: &Entry| {
            let why = e.status.trouble().or_else(|| nothing(e)).or_else(|| e.stands_still(now).map(still))?;
            Some(format!("{}/{}: {why}", e.channel, e.rendition.id))
        };
        let waiting = self.waiting().into_iter().map(|(name, trouble)| format!("{name}: {trouble}"));
        self.entries().iter().filter_map(why).chain(waiting).collect()
    }

    fn shows_metric(&self, line: &str) -> bool {
        let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        let of = |name: &String| line.contains(&format!("channel=\"{name}\""));
        retired.is_empty() || !retired.keys().any(of)
    }

    fn before_metrics(&self) {
        gauge!("mahp_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        if let Some(service) = self.repair.get() {
            repair::status::publish(&service.state());
        }
        if let Some(counters) = self.moq.get() {
            moq::publish(&counters.state());
        }
        for e in &self.entries() {
            let (s, c, r) = (&e.status, e.channel.clone(), e.rendition.id.clone());
            for (result, value) in
                [("sent", &s.sent), ("late", &s.late), ("skipped", &s.skipped), ("failed", &s.failed)]
            {
                counter!("mahp_sender_segments_total", "channel" => c.clone(), "rung" => r.clone(), "result" => result).absolute(value.load(Relaxed));
            }
            for (kind, value) in [
                ("source", &s.source_bytes),
                ("repair", &s.repair_bytes),
                ("repair_layer_2", &s.layer_2_bytes),
                ("fdt", &s.fdt_bytes),
            ] {
                counter!("mahp_sender_sent_bytes_total", "channel" => c.clone(), "rung" => r.clone(), "kind" => kind).absolute(value.load(Relaxed));
            }
            let (requests, errors) = (s.origin_requests.load(Relaxed), s.origin_errors.load(Relaxed));
            for (result, value) in [("good", requests.saturating_sub(errors)), ("failed", errors)] {
                counter!("mahp_sender_origin_requests_total", "channel" => c.clone(), "rung" => r.clone(), "result" => result).absolute(value);
            }
            let labels = [("channel", c), ("rung", r)];
            counter!("mahp_sender_sent_packets_total", &labels).absolute(s.packets.load(Relaxed));
            counter!("mahp_sender_send_errors_total", &labels).absolute(s.send_errors.load(Relaxed));
            counter!("mahp_sender_objects_repeated_total", &labels).absolute(s.repeats.load(Relaxed));
            gauge!("mahp_sender_queue_bytes", &labels).set(s.queue_bytes.load(Relaxed) as f64);
            if e.live && e.rendition.role != Role::Manifest {
                let age = s.still_for(Instant::now()).unwrap_or_default();
                counter!("mahp_sender_origin_restarts_total", &labels).absolute(s.restarts.load(Relaxed));
                gauge!("mahp_sender_newest_segment_age_seconds", &labels).set(age.as_secs_f64());
            }
        }
    }
}
