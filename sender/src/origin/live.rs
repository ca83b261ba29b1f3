//! Follows a live HLS media playlist.

use super::cadence::Cadence;
use super::hls::{self, HlsRendition, NewSegment, Tracker, Version, version};
use super::outbox::{Outbox, Step};
use super::parts::Parts;
use super::past::Past;
use super::{Inits, Origin, Want, text};
use crate::config::ChannelConfig;
use crate::sink::{Item, ObjectSink};
use http::HeaderMap;
use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use mahp_common::manifest::hls::{Media, Playlist};
use mahp_common::manifest::url::cache_key;
use mahp_common::{Digest, Object, ObjectKind, Time};
use mahp_runtime::fetch::{FetchError, Request, Response};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use url::Url;

/// Init segments are sent again this often.
const INIT_REPEAT: Duration = Duration::from_secs(2);
/// Options of a follower.
#[derive(Clone, Copy, Debug)]
pub struct FollowOptions {
    /// Keys are carried too.
    pub carry_keys: bool,
    /// The past of EVENT playlists is sent again and again.
    pub repeat: bool,
    /// Of a low-latency playlist, the parts are carried, each as soon as it exists.
    pub low_latency: bool,
}

impl FollowOptions {
    /// Whether this playlist is followed part by part.
    fn by_parts(self, media: &Media) -> bool {
        self.low_latency && media.part_target.is_some()
    }
}

/// Follows until the origin ends the stream (EXT-X-ENDLIST) and everything is sent.
pub async fn follow(
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    rendition: HlsRendition,
    options: FollowOptions,
) {
    origin.status.expects(true);
    let mut follower = Follower::new(origin, sink, rendition, options);
    while !follower.finished() {
        follower.step().await;
    }
    follower.origin.status.expects(false);
}

struct Follower {
    origin: Origin,
    outbox: Outbox,
    options: FollowOptions,
    tracker: Tracker,
    parts: Parts,
    poll: Poll,
    map: Option<String>,
    inits: Inits,
    keys: BTreeSet<String>,
    past: Past,
    repeat_at: Time,
    ended: bool,
}

impl Follower {
    fn new(
        origin: Origin,
        sink: Arc<dyn ObjectSink>,
        rendition: HlsRendition,
        options: FollowOptions,
    ) -> Follower {
        let outbox = Outbox::new(origin.clone(), sink);
        let now = origin.clock.now();
        let (first, rendition) = (rendition.first.clone(), rendition);
        let mut follower = Follower {
            outbox,
            options,
            tracker: Tracker::new(origin.segments_at_start),
            parts: Parts::new(origin.clone()),
            poll: Poll::new(&origin, rendition, options),
            map: None,
            inits: Inits::default(),
            keys: BTreeSet::new(),
            past: Past::new(origin.clone(), options.repeat, options.carry_keys),
            repeat_at: now + INIT_REPEAT,
            ended: false,
            origin,
        };
        if let Some(first) = first {
            follower.poll.seen(&first);
            follower.on_version(first);
        }
        follower
    }

    fn finished(&self) -> bool {
        self.ended && self.outbox.is_idle() && self.parts.is_idle()
    }

    async fn step(&mut self) {
        let clock = self.origin.clock;
        // Looked at again whenever something else has happened; the repetition of init segments is often enough.
        let idle = self.outbox.is_idle() && self.origin.status.queue_bytes.load(Relaxed) == 0;
        tokio::select! {
            step = self.outbox.step() => if let Step::Fetched(object) = step {
                self.on_fetched(*object);
            },
            object = self.parts.next() => self.outbox.push(Item::new(object)),
            answer = self.poll.answer(), if !self.ended => if let Some(version) = answer {
                self.on_version(version);
            },
            old = self.past.next(), if idle && !self.ended && self.past.is_due() => {
                old.into_iter().for_each(|item| self.outbox.push(item));
            }
            () = sleep_until(clock.instant(self.repeat_at)) => self.repeat_inits(),
        }
    }

    fn on_version(&mut self, version: Version) {
        let news = self.tracker.update(&version, self.origin.clock.now());
        if news.stale {
            tracing::debug!(url = %self.poll.url, "an older version of the playlist; ignored");
            return;
        }
        if news.restarted {
            self.origin.began_anew(&self.poll.url);
            (self.map, self.inits, self.keys) = (None, Inits::default(), BTreeSet::new());
            self.past.forget();
            self.parts.restart();
        }
        if news.skipped > 0 {
            tracing::warn!(url = %self.poll.url, skipped = news.skipped, "segments passed unseen");
            self.origin.status.skipped.fetch_add(news.skipped, Relaxed);
        }
        let longest = version.media.part_target.filter(|_| self.options.low_latency);
        self.outbox.hold = longest.unwrap_or(version.media.target_duration).max(Duration::from_millis(500));
        self.past.seen(&version, &news.segments);
        if self.options.by_parts(&version.media) {
            self.want_parts(&version, news.segments);
        } else {
            news.segments.into_iter().for_each(|segment| self.want(segment));
        }
        let (tracker, parts) = (&self.tracker, &self.parts);
        self.outbox.keep(|sequence| tracker.lists(sequence) || parts.lists(sequence));
        self.outbox.push(Item::new(version.object));
        self.ended = version.media.endlist;
    }

    /// Parts that are new, and segments of which no part was sent. (What was there at the start is not worth the time.)
    fn want_parts(&mut self, version: &Version, segments: Vec<NewSegment>) {
        let begun = self.parts.has_begun();
        for part in self.parts.update(version) {
            self.want(part);
        }
        for segment in segments {
            if let Some(whole) = self.parts.complete(segment).filter(|_| begun) {
                self.want(whole);
            }
        }
    }

    fn want(&mut self, segment: NewSegment) {
        for key in segment.keys.into_iter().filter(|_| self.options.carry_keys) {
            if self.keys.insert(self.origin.key(&key)) {
                self.outbox.want(key, segment.sequence);
            }
        }
        if let Some(map) = segment.map {
            let key = self.origin.key(&map);
            if self.map.as_ref() != Some(&key) {
                match self.inits.get(&key) {
                    Some(known) => self.outbox.push(Item::repeat(known.clone())),
                    None => self.outbox.want(map, segment.sequence),
                }
                self.map = Some(key);
            }
        }
        self.outbox.want(segment.want, segment.sequence);
    }

    fn on_fetched(&mut self, object: Object) {
        if object.meta.kind == ObjectKind::Media {
            self.origin.status.came();
        }
        if object.meta.kind == ObjectKind::Init {
            self.inits.insert(self.origin.key_of(&object), object);
        } else if let Some(recipe) = self.parts.fetched(&object) {
            self.outbox.push(Item::new(recipe));
        }
    }

    fn repeat_inits(&mut self) {
        self.repeat_at = self.origin.clock.now() + INIT_REPEAT;
        let current = self.map.as_ref().and_then(|k| self.inits.get(k));
        if let Some(object) = current.filter(|_| self.outbox.has_room()) {
            self.outbox.push(Item::repeat(object.clone()));
        }
    }
}

/// Asks for a media playlist: at the times of [`Cadence`], or, where the origin holds requests (CAN-BLOCK-RELOAD), for the
/// next segment, or part, at once.
struct Poll {
    origin: Origin,
    options: FollowOptions,
    url: Url,
    master: Option<Url>,
    imports: Vec<(String, String)>,
    cadence: Cadence,
    next: Time,
    validators: HeaderMap,
    last: Option<Digest>,
    /// The media sequence number to block for, and the part.
    blocking: Option<(u64, Option<u64>)>,
    target: Duration,
    request: JoinSet<Answer>,
    asked_at: Time,
    failures: u32,
}

/// What came of a request, and the URL that the playlist has now if the master playlist told a new one.
type Answer = (Result<Response, FetchError>, Option<Url>);

impl Poll {
    fn new(origin: &Origin, rendition: HlsRendition, options: FollowOptions) -> Poll {
        let now = origin.clock.now();
        Poll {
            origin: origin.clone(),
            options,
            url: rendition.url,
            master: rendition.master,
            imports: rendition.imports,
            cadence: Cadence::default(),
            next: now,
            validators: HeaderMap::new(),
            last: None,
            blocking: None,
            target: Duration::from_secs(2),
            request: JoinSet::new(),
            asked_at: now,
            failures: 0,
        }
    }

    fn seen(&mut self, version: &Version) {
        let last = version.media.segments.last();
        self.target = version.media.target_duration;
        self.next =
            self.cadence.changed(self.asked_at, self.target, last.map_or(self.target, |s| s.duration));
        let (sequence, part) = version.media.next();
        let part = self.options.by_parts(&version.media).then_some(part);
        let sequence = if part.is_some() { sequence } else { last.map_or(0, |s| s.sequence + 1) };
        let may_block = version.media.can_block_reload && (last.is_some() || part.is_some());
        self.blocking = may_block.then_some((sequence, part));
        if self.blocking.is_some() {
            self.next = self.origin.clock.now();
        }
        self.last = version.object.meta.digest;
        self.failures = 0;
    }

    /// The next changed version, or none when there was no change (or no answer). Cancel safe.
    async fn answer(&mut self) -> Option<Version> {
        if self.request.is_empty() {
            sleep_until(self.origin.clock.instant(self.next)).await;
            self.ask();
        }
        match self.request.join_next().await {
            Some(Ok((result, renewed))) => {
                if let Some(url) = renewed {
                    tracing::info!(%url, "the origin refused the playlist; its master playlist names it so now");
                    self.url = url;
                }
                self.on_answer(result)
            }
            _ => {
                self.next = self.cadence.failed(self.origin.clock.now());
                None
            }
        }
    }

    fn ask(&mut self) {
        let origin = self.origin.clone();
        let mut url = self.url.clone();
        let mut request = Request {
            headers: self.validators.clone(),
            accept_gzip: true,
            timeout: Some(Duration::from_secs(10)),
            ..Request::default()
        };
        if let Some((sequence, part)) = self.blocking {
            url.query_pairs_mut().append_pair(BLOCK_PARAMETERS[0], &sequence.to_string());
            if let Some(part) = part {
                url.query_pairs_mut().append_pair(BLOCK_PARAMETERS[1], &part.to_string());
            }
            // The origin answers when the segment is there, or after three target durations at most.
            let wait = self.target * 3 + Duration::from_secs(5);
            (request.first_byte_timeout, request.timeout) = (Some(wait), Some(wait + Duration::from_secs(5)));
            request.headers = HeaderMap::new();
        }
        self.asked_at = origin.clock.now();
        let (known, master, imports) = (self.url.clone(), self.master.clone(), self.imports.clone());
        self.request.spawn(async move {
            match (origin.get(&url, request).await, master) {
                (Err(e), Some(master)) if is_refusal(&e) => {
                    match renewed(&origin, &master, &known, &imports).await {
                        Some(url) => (
                            origin.get(&url, Request { accept_gzip: true, ..Request::default() }).await,
                            Some(url),
                        ),
                        None => (Err(e), None),
                    }
                }
                (result, _) => (result, None),
            }
        });
    }

    fn on_answer(&mut self, result: Result<Response, FetchError>) -> Option<Version> {
        let blocked = self.blocking.take().is_some();
        let mut response = match result {
            Ok(response) => response,
            Err(FetchError::Status { status: 304, .. }) => {
                self.unchanged();
                return None;
            }
            Err(e) => {
                self.trouble(&e.to_string());
                return None;
            }
        };
        if blocked {
            without_block(&mut response.final_url);
        }
        self.remember(&response);
        match version(&self.origin, &self.url, &self.imports, &response) {
            Ok(version) if version.object.meta.digest == self.last => {
                self.unchanged();
                None
            }
            Ok(version) => {
                self.seen(&version);
                Some(version)
            }
            Err(e) => {
                self.origin.status.origin_bad(e.clone());
                self.trouble(&e);
                None
            }
        }
    }

    fn unchanged(&mut self) {
        self.failures = 0;
        self.next = self.cadence.unchanged(self.asked_at);
    }

    fn trouble(&mut self, why: &str) {
        if self.failures == 0 {
            tracing::warn!("{why}");
        }
        self.failures += 1;
        self.next = self.cadence.failed(self.origin.clock.now());
    }

    fn remember(&mut self, response: &Response) {
        self.validators = HeaderMap::new();
        for (name, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
            if let Some(value) = text(&response.headers, name).and_then(|v| v.parse().ok()) {
                self.validators.insert(condition, value);
                break;
            }
        }
    }
}

/// What an origin says of a URL whose token has run out.
fn is_refusal(error: &FetchError) -> bool {
    matches!(error, FetchError::Status { status: 401 | 403 | 404 | 410, .. })
}

/// The URL by which the master playlist names a media playlist now, if it is another one: the same but for its token.
async fn renewed(origin: &Origin, master: &Url, known: &Url, imports: &[(String, String)]) -> Option<Url> {
    let response = origin.get(master, Request { accept_gzip: true, ..Request::default() }).await.ok()?;
    let Ok(Playlist::Master(list)) = Playlist::parse(&response.body, &response.final_url, imports) else {
        return None;
    };
    let uris = list.variants.iter().map(|v| &v.uri).chain(list.media.iter().map(|m| &m.uri));
    let mut urls = uris.filter_map(|uri| response.final_url.join(uri).ok());
    let key = |url: &Url| cache_key(url, &origin.token_parameters);
    urls.find(|url| url != known && key(url) == key(known))
}

/// Name the media sequence number that a request waits for, and the part.
const BLOCK_PARAMETERS: [&str; 2] = ["_HLS_msn", "_HLS_part"];

/// The address that a player would be led to: without our own parameters.
fn without_block(url: &mut Url) {
    let Some(query) = url.query() else { return };
    let ours = |p: &&str| p.split('=').next().is_some_and(|name| BLOCK_PARAMETERS.contains(&name));
    let kept: Vec<&str> = query.split('&').filter(|p| !ours(p)).collect();
    let kept = kept.join("&");
    url.set_query((!kept.is_empty()).then_some(&kept));
}

/// A master playlist is asked for again this often: it seldom changes.
const MANIFEST_POLL: Duration = Duration::from_secs(30);
/// And sent again this often, for those who join late.
const MANIFEST_REPEAT: Duration = Duration::from_secs(2);

/// Carries a live master playlist, each version, until dropped. Media playlists that come after the start are told of: flows are
/// made at the start of a channel.
pub async fn follow_manifest(
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    config: ChannelConfig,
    first: Object,
) {
    let url = config.url.clone();
    let known: BTreeSet<String> = hls::offers(&config, &first).into_iter().map(|r| r.key).collect();
    let mut current = first;
    sink.put(Item::new(current.clone())).await;
    let mut poll_at = origin.clock.now() + MANIFEST_POLL;
    loop {
        tokio::time::sleep(MANIFEST_REPEAT).await;
        sink.put(Item::repeat(current.clone())).await;
        if origin.clock.now() < poll_at {
            continue;
        }
        poll_at = origin.clock.now() + MANIFEST_POLL;
        let want = Want {
            url: url.clone(),
            range: None,
            kind: ObjectKind::Manifest,
            media_time: None,
            duration: None,
        };
        match origin.fetch(&want).await {
            Ok(object) if object.meta.digest != current.meta.digest => {
                let offered = hls::offers(&config, &object);
                for r in offered.iter().filter(|r| !known.contains(&r.key)) {
                    origin.not_carried(&url, &r.key);
                }
                sink.put(Item::new(object.clone())).await;
                current = object;
            }
            Ok(_) => {}
            Err(e) => tracing::debug!("{e}"),
        }
    }
}
