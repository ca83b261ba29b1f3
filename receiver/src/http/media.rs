//! The decision ladder (DESIGN section 5): what is here is sent; what is coming is waited for; what is not, or not in time, is
//! fetched from the origin; and only when neither can bring it is the player told so.

use super::Front;
use super::ask::Ask;
use super::body::{Body, BodyError};
use super::errors::Refusal;
use super::headers::{self, Decision, Entity};
use super::manifest;
use crate::library::{Availability, Source, Stored};
use crate::origin::flight::{End, Fetched, Flight, Large, Refused};
use crate::origin::upstream::{Answer, Head, Reach};
use crate::origin::{Want, meta, repair};
use crate::served::Why;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use mahp_common::{ByteRange, Payload};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// No request waits longer than this: hls.js gives up after 10 s without a first byte.
pub const HOLD_MAX: Duration = Duration::from_secs(8);
/// An object that is a little late is not lost.
const MARGIN: Duration = Duration::from_millis(100);
/// The origin is asked at least this long before a deadline: a repair may fail, and the whole object must still fit.
const LEAD_MIN: Duration = Duration::from_millis(2500);
/// A live segment is left to multicast for this long at most.
const LIVE_PATIENCE: Duration = Duration::from_secs(3);
/// Receivers that lost the same packet do not ask the origin all at once.
const JITTER_MAX: Duration = Duration::from_millis(500);
/// After a repair was fed: until the decoder has done its work.
const REPAIR_GRACE: Duration = Duration::from_millis(500);
/// Between attempts at an origin that does not answer: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// Attempts at an origin of no channel: nothing else can bring it.
const FOREIGN_ATTEMPTS: u32 = 3;
/// Size of a segment of which nothing is known.
const SIZE_DEFAULT: u64 = 2 << 20;
/// Blocks of a large file that are stored as they pass, and how many of them.
const BLOCK: usize = 1 << 20;
/// See [`BLOCK`].
const BLOCKS_MAX: usize = 64;
/// To skip more than this of a large body, it is asked for again by range.
const SKIP_MAX: u64 = 1 << 20;

/// Answers a request for a resource that is not known to be a manifest.
pub async fn serve(front: &Arc<Front>, ask: &Ask) -> Response<Body> {
    match Hunt::new(front, ask).run().await {
        Got::Pieces(pieces, status) => {
            send_pieces(front, ask, &pieces, status).unwrap_or_else(|| inconsistent(ask))
        }
        Got::Coming(flight, head) => {
            let entity = origin_entity(ask, &head, false);
            let have = (head.range.map_or(0, |r| r.first), head.length);
            send_stream(front, ask, Source::Unicast, entity, have, || flight.body())
        }
        Got::Private(fetched) => {
            let entity = origin_entity(ask, &fetched.head, false);
            let have = (fetched.head.range.map_or(0, |r| r.first), Some(fetched.payload.len()));
            let payload = fetched.payload.clone();
            send_stream(front, ask, Source::Unicast, entity, have, || Body::from(payload))
        }
        Got::Manifest(fetched) => manifest::serve_fetched(front, ask, fetched).await,
        Got::Large(large) => send_large(front, ask, *large).await,
        Got::Refused(refused) => pass_on(ask, &refused),
        Got::Nothing(refusal) => refusal.response(&ask.headers),
    }
}

/// What a hunt ends with.
enum Got {
    /// Of the store, with its Cache-Status.
    Pieces(Vec<Arc<Stored>>, HeaderValue),
    /// Its time is up, but its bytes are coming by unicast: the viewer gets them as they come.
    Coming(Arc<Flight>, Arc<Head>),
    Private(Arc<Fetched>),
    Manifest(Arc<Fetched>),
    Large(Box<Large>),
    Refused(Arc<Refused>),
    Nothing(Refusal),
}

/// One request on its way through the ladder.
struct Hunt<'a> {
    front: &'a Arc<Front>,
    ask: &'a Ask,
    range: Option<(u64, Option<u64>)>,
    start: Instant,
    deadline: Instant,
    jitter: f64,
    flight: Option<Arc<Flight>>,
    /// The running flight is a repair.
    repairing: bool,
    repair_done: bool,
    attempts: u32,
    not_before: Instant,
    exact: bool,
    alone: bool,
    waited: bool,
    refused: Option<Arc<Refused>>,
    failure: Option<Arc<str>>,
}

impl<'a> Hunt<'a> {
    fn new(front: &'a Arc<Front>, ask: &'a Ask) -> Hunt<'a> {
        let start = Instant::now();
        Hunt {
            front,
            ask,
            range: ask.conditions.bounds(),
            start,
            deadline: start + front.library.hold_budget(&ask.url).min(HOLD_MAX),
            jitter: fastrand::f64(),
            flight: None,
            repairing: false,
            repair_done: false,
            attempts: 0,
            not_before: start,
            exact: false,
            alone: false,
            waited: false,
            refused: None,
            failure: None,
        }
    }

    async fn run(mut self) -> Got {
        let got = self.search().await;
        if self.waited {
            self.front.served.hold(self.start.elapsed());
        }
        got
    }

    async fn search(&mut self) -> Got {
        let mut changes = self.front.library.changes();
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let available = self.front.library.demand(&self.ask.url, self.range);
            match &available {
                Availability::Here(pieces) if covers(pieces, self.range) => {
                    return Got::Pieces(pieces.clone(), self.how(pieces));
                }
                Availability::Forbidden => {
                    return Got::Nothing(Refusal::origin_not_allowed(self.ask.host()));
                }
                Availability::Coming { .. } | Availability::Expected { .. } => self.waited = true,
                Availability::Here(_) | Availability::NotComing | Availability::Allowed => {}
            }
            if now >= self.deadline {
                return self.time_is_up();
            }
            let fetch_at = self.fetch_at(&available, now);
            if self.flight.is_none() && fetch_at.is_some_and(|at| at <= now) {
                self.depart(&available);
            }
            let wake = match fetch_at {
                Some(at) if self.flight.is_none() => at.min(self.deadline),
                _ => self.deadline,
            };
            tokio::select! {
                biased;
                end = ended(self.flight.as_ref()) => {
                    if let Some(got) = self.landed(end, &available) {
                        return got;
                    }
                }
                () = changed(&mut changes) => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Cache-Status of what is in the store: it may be there because this request had it fetched.
    fn how(&self, pieces: &[Arc<Stored>]) -> HeaderValue {
        match worst_source(pieces) {
            Source::Unicast if self.attempts > 0 => headers::miss(true),
            source => headers::hit(source),
        }
    }

    /// When to ask the origin: `None` = never.
    fn fetch_at(&self, available: &Availability, now: Instant) -> Option<Instant> {
        if !self.front.options.unicast {
            return None;
        }
        let (hoped_for, missing) = match available {
            Availability::Coming { expected_by, progress } => {
                (self.front.clock.instant(*expected_by) + MARGIN, 1.0 - f64::from(progress.clamp(0.0, 1.0)))
            }
            Availability::Expected { until } => (self.front.clock.instant(*until), 1.0),
            _ => return Some(self.not_before.max(now)),
        };
        // A size as f64 is exact enough for an estimate.
        let bytes = (self.size() as f64 * missing) as u64;
        let lead = self.front.origins.estimate(&self.ask.url, bytes).max(LEAD_MIN);
        let mut latest = self.deadline.checked_sub(lead).unwrap_or(now).max(self.start);
        if self.ask.channel.as_ref().is_some_and(|c| c.live) {
            // Live players buffer three segments or so: what is still missing by then must come the other way.
            latest = latest.min(self.start + LIVE_PATIENCE);
        }
        let slack = latest.saturating_duration_since(hoped_for) / 2;
        let jitter = slack.min(JITTER_MAX).mul_f64(self.jitter);
        Some((hoped_for + jitter).min(latest).max(self.not_before))
    }

    /// Size of a segment of this channel.
    fn size(&self) -> u64 {
        let Some(channel) = &self.ask.channel else { return SIZE_DEFAULT };
        let rate = channel.renditions.iter().map(|r| r.bitrate_bps).max().unwrap_or(0);
        match rate.saturating_mul(channel.target_duration_ms) / 8000 {
            0 => SIZE_DEFAULT,
            size => size.min(64 << 20),
        }
    }

    /// Starts, or joins, a download: missing ranges if that is worth it, else the whole.
    fn depart(&mut self, available: &Availability) {
        let coming = matches!(available, Availability::Coming { .. });
        let plan = (coming && !self.repair_done)
            .then(|| self.front.library.repair_plan(&self.ask.url, self.range))
            .flatten()
            .filter(|plan| repair::requests(plan).is_some());
        let why = match &plan {
            Some(_) => Why::Repair,
            None if self.front.memo.is_key(&self.ask.key) => Why::Key,
            None => Why::Fallback,
        };
        let want = self.want(why, available);
        self.attempts += 1;
        self.repairing = plan.is_some();
        self.flight = Some(match plan {
            Some(plan) => self.front.origins.repair(want, plan),
            None => self.front.origins.fetch(want),
        });
    }

    fn want(&self, why: Why, available: &Availability) -> Want {
        let foreign = matches!(available, Availability::Allowed);
        Want {
            url: self.ask.url.clone(),
            key: self.ask.key.clone(),
            range: self.range,
            reach: self.front.reach(&self.ask.url, foreign),
            credentials: self.ask.credentials.clone(),
            alone: self.alone,
            exact: self.exact,
            why,
            known: !foreign,
        }
    }

    /// A download ended. `None`: go on.
    fn landed(&mut self, end: End, available: &Availability) -> Option<Got> {
        let flight = self.flight.take();
        let now = Instant::now();
        let may_come = matches!(available, Availability::Coming { .. } | Availability::Expected { .. });
        match end {
            End::Stored(stored) => return Some(Got::Pieces(vec![stored], headers::miss(true))),
            End::Private(fetched) if self.alone || !self.ask.credentials.0.is_empty() => {
                return Some(Got::Private(fetched));
            }
            // For one viewer only, and it may not be this one.
            End::Private(_) => self.alone = true,
            End::Manifest(fetched) => {
                // It may name segments by another viewer's token, or be for one viewer only.
                let mine = flight.is_some_and(|f| f.url == self.ask.url);
                if mine && (self.alone || headers::may_store(&fetched.head.headers)) {
                    return Some(Got::Manifest(fetched));
                }
                (self.exact, self.alone) = (true, mine);
            }
            End::Large(large) => match large.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(large) => return Some(Got::Large(Box::new(large))),
                None => self.alone = true,
            },
            End::Repaired => {
                self.repair_done = true;
                self.not_before = now + REPAIR_GRACE;
            }
            End::Refused(refused) => {
                let mine = flight.is_some_and(|f| f.url == self.ask.url);
                if !mine {
                    // Another viewer's token may have been refused.
                    self.exact = true;
                } else if !may_come {
                    return Some(Got::Refused(refused));
                }
                self.refused = Some(refused);
                self.repair_done = true;
                self.not_before = if mine { now + RETRY.1 } else { now };
            }
            End::Walled(why, host) => return Some(Got::Nothing(Refusal::origin_private(&why, &host))),
            End::Failed(why) => {
                self.failure = Some(why);
                self.repair_done = true;
                let wait = RETRY.0.saturating_mul(1 << self.attempts.clamp(1, 8)) / 2;
                self.not_before = now + wait.min(RETRY.1);
                if matches!(available, Availability::Allowed) && self.attempts >= FOREIGN_ATTEMPTS {
                    return Some(self.time_is_up());
                }
            }
        }
        None
    }

    fn time_is_up(&mut self) -> Got {
        if let Some(flight) = self.flight.take().filter(|_| !self.repairing)
            && let Some(head) = flight.readable()
        {
            return Got::Coming(flight, head);
        }
        if let Some(refused) = self.refused.take() {
            return Got::Refused(refused);
        }
        let why = match (&self.failure, self.front.options.unicast) {
            (_, false) => "unicast is switched off",
            (Some(why), true) => why,
            (None, true) => "the origin did not answer in time",
        };
        Got::Nothing(Refusal::no_source(self.ask.url.as_str(), why))
    }
}

/// A change in the library; never if there will be none.
pub(super) async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

pub(super) async fn ended(flight: Option<&Arc<Flight>>) -> End {
    match flight {
        Some(flight) => flight.ended().await,
        None => std::future::pending().await,
    }
}

/// Bytes of a resource that follow on each other.
struct Stretch {
    first: u64,
    payload: Payload,
    complete: Option<u64>,
}

impl Stretch {
    /// Of pieces in order, which may overlap. `None`: there are gaps, or nothing.
    fn of(pieces: &[Arc<Stored>]) -> Option<Stretch> {
        let first = pieces.first()?.meta.range.map_or(0, |r| r.first);
        let (mut end, mut complete, mut chunks) = (first, None, Vec::new());
        for piece in pieces {
            let from = piece.meta.range.map_or(0, |r| r.first);
            let known = end.checked_sub(from)?;
            let new = piece.payload.slice(known, u64::MAX);
            end += new.len();
            chunks.extend_from_slice(new.chunks());
            complete = complete.or(match piece.meta.range {
                Some(range) => range.complete,
                None => Some(piece.payload.len()),
            });
        }
        Some(Stretch { first, payload: Payload::from_chunks(chunks), complete })
    }

    const fn end(&self) -> u64 {
        self.first + self.payload.len()
    }
}

/// Whether pieces hold what is asked for: the store is trusted, but wrong bytes are the worst answer.
fn covers(pieces: &[Arc<Stored>], range: Option<(u64, Option<u64>)>) -> bool {
    let Some(stretch) = Stretch::of(pieces) else { return false };
    let (end, complete) = (stretch.end(), stretch.complete);
    match range {
        None => stretch.first == 0 && complete.is_none_or(|c| c == end),
        Some((from, to)) => {
            let reaches = to.map_or(complete == Some(end), |to| to < end || complete == Some(end));
            (stretch.first <= from && from < end && reaches) || complete.is_some_and(|c| from >= c)
        }
    }
}

/// The least glorious source is the one that is told.
fn worst_source(pieces: &[Arc<Stored>]) -> Source {
    let rank = |s: Source| match s {
        Source::Multicast => 0,
        Source::Repaired => 1,
        Source::Unicast => 2,
    };
    pieces.iter().map(|p| p.source).max_by_key(|s| rank(*s)).unwrap_or(Source::Unicast)
}

fn send_pieces(
    front: &Front,
    ask: &Ask,
    pieces: &[Arc<Stored>],
    status: HeaderValue,
) -> Option<Response<Body>> {
    let Stretch { first, payload, complete } = Stretch::of(pieces)?;
    let entity = headers::stored_entity(pieces.first()?, complete, front.clock.now(), status);
    let decision = headers::decide(&entity, (first, Some(payload.len())), &ask.conditions);
    Some(headers::answer(entity, decision, || {
        let body = match decision {
            Decision::Part(from, to) => Body::from(payload.slice(from - first, to - first)),
            _ => Body::from(payload),
        };
        body.metered(front.meter(ask, worst_source(pieces)))
    }))
}

/// The store gave something that does not fit together: nothing is better than wrong bytes.
fn inconsistent(ask: &Ask) -> Response<Body> {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "E-PIECES",
        format!("the pieces of {} do not fit together", ask.url),
        "ask again",
    )
    .response(&ask.headers)
}

/// An entity of which we know what the origin said.
fn origin_entity(ask: &Ask, head: &Head, stored: bool) -> Entity {
    let value = |name| head.headers.get(name).cloned();
    let complete = match head.range {
        Some(range) => range.complete,
        None => head.length,
    };
    let passed_on = ask.set_cookies(&head.headers);
    let origin_cache_control = value(header::CACHE_CONTROL);
    let cache_control = origin_cache_control.as_ref().and_then(|v| v.to_str().ok());
    Entity {
        content_type: value(header::CONTENT_TYPE)
            .unwrap_or_else(|| HeaderValue::from_static(headers::type_by_extension(ask.url.as_str()))),
        etag: value(header::ETAG).filter(|v| v.to_str().is_ok_and(headers::is_strong)),
        last_modified: value(header::LAST_MODIFIED),
        cache_control: if headers::may_store(&head.headers) {
            headers::media_cache_control(cache_control, 0)
        } else {
            HeaderValue::from_static("private, no-cache")
        },
        age: Some(0),
        cache_status: headers::miss(stored),
        complete,
        others: passed_on,
    }
}

/// Sends bytes that come, or were fetched, for this viewer. `have`: first byte and number of them.
pub(super) fn send_stream(
    front: &Front,
    ask: &Ask,
    source: Source,
    entity: Entity,
    have: (u64, Option<u64>),
    body: impl FnOnce() -> Body,
) -> Response<Body> {
    let decision = headers::decide(&entity, have, &ask.conditions);
    let mut length = have.1;
    let mut response = headers::answer(entity, decision, || {
        let body = body().metered(front.meter(ask, source));
        match decision {
            Decision::Part(first, last) => {
                length = Some(last - first + 1);
                body.clip(first.saturating_sub(have.0), last - first + 1)
            }
            _ => body,
        }
    });
    // hyper ends the connection with an error if fewer bytes come than are announced.
    if let Some(length) = length.filter(|_| response.status().is_success()) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// Passes a large body on as it comes; of a range, blocks are stored on the way.
async fn send_large(front: &Arc<Front>, ask: &Ask, large: Large) -> Response<Body> {
    let (entity, have) = (origin_entity(ask, &large.answer.head, false), have(&large.answer.head));
    let skip = match headers::decide(&entity, have, &ask.conditions) {
        Decision::Part(first, last) if first.saturating_sub(have.0) > SKIP_MAX => Some((first, Some(last))),
        _ => None,
    };
    let Some(range) = skip else { return stream_large(front, ask, large) };
    drop(large);
    let hunt = Hunt::new(front, ask);
    let want = Want { alone: true, range: Some(range), ..hunt.want(Why::Fallback, &Availability::Allowed) };
    match front.origins.open(&want, want.range, HeaderMap::new()).await {
        Ok(answer) if answer.head.range.is_some_and(|r| r.first == range.0) => {
            stream_large(front, ask, Large { prefix: Vec::new(), answer })
        }
        // The origin cannot: the whole, which the player can do without a range.
        Ok(answer) => stream_large(front, ask, Large { prefix: Vec::new(), answer }),
        Err(e) => Refusal::no_source(ask.url.as_str(), &e.to_string()).response(&ask.headers),
    }
}

/// First byte and number of bytes of an answer.
fn have(head: &Head) -> (u64, Option<u64>) {
    (head.range.map_or(0, |r| r.first), head.length)
}

fn stream_large(front: &Arc<Front>, ask: &Ask, large: Large) -> Response<Body> {
    let Large { prefix, answer: Answer { head, body } } = large;
    let (entity, have) = (origin_entity(ask, &head, false), have(&head));
    let tee = Tee::new(front, ask, &head);
    let counted = front.clone();
    let state = (prefix.into_iter(), body, tee);
    send_stream(front, ask, Source::Unicast, entity, have, move || {
        Body::unfold(state, move |(mut prefix, mut body, mut tee)| {
            let front = counted.clone();
            async move {
                let piece = match prefix.next() {
                    Some(piece) => piece,
                    None => match body.chunk().await.map_err(|e| BodyError(e.to_string()))? {
                        Some(piece) => {
                            front.served.fetched(Why::Fallback, piece.len() as u64);
                            piece
                        }
                        None => return Ok(None),
                    },
                };
                if let Some(tee) = &mut tee {
                    tee.add(&piece);
                }
                Ok(Some((piece, (prefix, body, tee))))
            }
        })
    })
}

/// Stores blocks of a range of a large file as they pass.
struct Tee {
    front: Arc<Front>,
    meta: mahp_common::ObjectMeta,
    range: ByteRange,
    block: Vec<u8>,
    blocks: usize,
}

impl Tee {
    fn new(front: &Arc<Front>, ask: &Ask, head: &Head) -> Option<Tee> {
        let range = head.range.filter(|r| r.complete.is_some() && headers::may_store(&head.headers))?;
        if !ask.credentials.0.is_empty() {
            return None;
        }
        let want = Hunt::new(front, ask).want(Why::Fallback, &Availability::Allowed);
        Some(Tee { front: front.clone(), meta: meta(&want, head), range, block: Vec::new(), blocks: 0 })
    }

    fn add(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.blocks < BLOCKS_MAX {
            let (now, later) = piece.split_at(piece.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            piece = later;
            let at_end = self.range.first + self.block.len() as u64 > self.range.last;
            if self.block.len() == BLOCK || at_end {
                self.store();
            }
        }
    }

    fn store(&mut self) {
        let bytes = Bytes::from(std::mem::take(&mut self.block));
        let len = bytes.len() as u64;
        let mut meta = self.meta.clone();
        meta.range = Some(ByteRange { last: self.range.first + len - 1, ..self.range });
        meta.length = len;
        meta.digest = Some(mahp_common::Digest::of(&bytes));
        self.range.first += len;
        self.blocks += 1;
        self.front.library.put(meta, bytes);
    }
}

/// The origin's refusal, as ours.
pub(super) fn pass_on(ask: &Ask, refused: &Refused) -> Response<Body> {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = Refusal::new(
        status,
        "E-ORIGIN-STATUS",
        format!("{}: the origin answers {status}", refused.url),
        "this is the origin's answer; multicast has not brought the object either",
    )
    .response(&ask.headers);
    let names = [header::WWW_AUTHENTICATE, header::CONTENT_RANGE, header::RETRY_AFTER];
    for name in names {
        if let Some(value) = refused.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    let told =
        HeaderValue::try_from(format!("mahp; fwd=miss; fwd-status={}; detail=unicast", refused.status));
    response.headers_mut().extend(told.ok().map(|v| (headers::CACHE_STATUS, v)));
    response
}

impl Front {
    /// Which addresses a fetch of this URL may end at.
    pub(super) fn reach(&self, url: &url::Url, foreign: bool) -> Reach {
        let listed = self.options.allow_origins.listing(url) == Some(super::access::Listing::ByName);
        let named = !foreign || listed || super::access::is_channel_host(&self.library.channels(), url);
        if named { Reach::Any } else { Reach::Public }
    }
}
