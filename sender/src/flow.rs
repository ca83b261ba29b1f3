//! One task for each rendition: its queue, its sending engine, its share of the multicast socket.

use crate::moq;
use crate::repair::{Place, Request};
use crate::sink::{Item, ObjectSink, PutFuture};
use crate::status::RenditionStatus;
use mahp_common::catalog::{Endpoint, Flow};
use mahp_common::fec::{EncodeJob, EncodeResult};
use mahp_common::session::send::{
    Command, Event, FlowKind, Input, ObjectTag, Output, SendConfig, SendSession, SendStats,
};
use mahp_common::{Object, ObjectKind, Time, Toi};
use mahp_runtime::clock::Clock;
use mahp_runtime::udp::MulticastSender;
use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

/// Objects between a follower and its flow.
const QUEUE: usize = 2;
/// Objects are taken from the queue while less than this time of sending is in the engine.
const AHEAD: Duration = Duration::from_secs(1);
/// The same in bytes, at least.
const AHEAD_BYTES: u64 = 256 << 10;
/// Longest that a shutdown waits for the socket.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Puts objects into a flow.
#[derive(Clone, Debug)]
pub struct FlowSink(mpsc::Sender<Item>);

impl ObjectSink for FlowSink {
    fn put(&self, item: Item) -> PutFuture {
        let queue = self.0.clone();
        Box::pin(async move {
            // The flow is gone only when the program stops: the object has nowhere to go.
            let _ = queue.send(item).await;
        })
    }
}

/// What flows share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The multicast socket.
    pub socket: Arc<MulticastSender>,
    /// The clock.
    pub clock: Clock,
    /// As many FEC jobs run at a time as there are cores.
    pub encoders: Arc<Semaphore>,
}

/// A rendition's (or the announcement's) way to multicast.
#[derive(Debug)]
pub struct FlowTask {
    shared: Shared,
    status: Arc<RenditionStatus>,
    channel: String,
    session: SendSession,
    /// Counters that the status knows.
    told: SendStats,
    source: SocketAddr,
    repair: SocketAddr,
    layer_2: SocketAddr,
    ahead: u64,
    queue: mpsc::Receiver<Item>,
    /// Where receivers get what they lack of it.
    repair_place: Option<Place>,
    moq: Option<moq::Place>,
    encoding: JoinSet<Option<EncodeResult>>,
    tags: BTreeMap<ObjectTag, Sending>,
    next_tag: ObjectTag,
    buffer: Vec<u8>,
}

/// What is remembered of an object until it has left.
#[derive(Debug)]
struct Sending {
    /// Until it has begun.
    object: Option<Object>,
    listed_at: Option<Time>,
    late_after: Option<Duration>,
    kind: ObjectKind,
    repeat: bool,
}

/// What the repair service asks for next; never when there is no service.
async fn next_request(place: &mut Option<Place>) -> Option<Request> {
    match place {
        Some(place) => place.requests.recv().await,
        None => pending().await,
    }
}

/// The socket address of an endpoint.
fn address(e: &Endpoint) -> SocketAddr {
    SocketAddr::new(e.group, e.port)
}

impl FlowTask {
    /// A flow and the way to put objects into it. It ends when all sinks are dropped and everything has left.
    pub fn new(
        shared: Shared,
        status: Arc<RenditionStatus>,
        channel: &str,
        flow: &Flow,
        config: SendConfig,
        repair_place: Option<Place>,
        moq: Option<moq::Place>,
    ) -> (FlowTask, FlowSink) {
        let (sink, queue) = mpsc::channel(QUEUE);
        let task = FlowTask {
            shared,
            status,
            channel: channel.to_owned(),
            source: address(&flow.endpoint),
            repair: address(flow.repair.as_ref().unwrap_or(&flow.endpoint)),
            // Where there is no such layer, nothing is sent to it.
            layer_2: address(flow.repair_layer_2.as_ref().map_or(&flow.endpoint, |layer| &layer.endpoint)),
            ahead: AHEAD_BYTES.max(config.rate_bps / 8 * AHEAD.as_secs()),
            session: SendSession::new(config),
            told: SendStats::default(),
            queue,
            repair_place,
            moq,
            encoding: JoinSet::new(),
            tags: BTreeMap::new(),
            next_tag: 0,
            buffer: Vec::new(),
        };
        (task, FlowSink(sink))
    }

    /// Sends until there is nothing more to come, or `stop`. Then says so to the receivers (A flag).
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send_all() => {}
        }
        let packet = self.session.close_packet();
        let sent = self.shared.socket.send(self.source, &packet, packet.len());
        if let Ok(Err(e)) = tokio::time::timeout(CLOSE_TIMEOUT, sent).await {
            tracing::debug!("close packet: {e}");
        }
    }

    async fn send_all(&mut self) {
        let clock = self.shared.clock;
        let mut open = true;
        loop {
            let at = self.drain().await;
            if !open && at.is_none() && self.encoding.is_empty() {
                return;
            }
            let room = open && self.session.stats().queued_bytes < self.ahead;
            tokio::select! {
                Some(result) = self.encoding.join_next() => if let Ok(Some(result)) = result {
                    self.session.handle_input(Input::Encoded { now: clock.now(), result });
                },
                item = self.queue.recv(), if room => match item {
                    Some(item) => self.accept(item),
                    None => open = false,
                },
                Some(request) = next_request(&mut self.repair_place) => {
                    let now = clock.now();
                    self.session.handle_input(match request {
                        Request::Repair { toi, data, blocks } => Input::Repair { now, toi, data, blocks },
                        Request::Share(percent) => Input::Share { percent },
                    });
                }
                () = async { match at { Some(at) => sleep_until(clock.instant(at)).await, None => pending().await } } => {
                    let now = clock.now();
                    if let Some(at) = at {
                        metrics::gauge!("mahp_sender_pacing_lag_seconds").set(now.since(at).as_secs_f64());
                    }
                    self.session.handle_input(Input::Timeout { now, wall: clock.wall() });
                }
            }
        }
    }

    fn accept(&mut self, item: Item) {
        let Item { object, listed_at, late_after, repeat } = item;
        self.next_tag += 1;
        let kept = (self.repair_place.is_some() || self.moq.is_some()).then(|| object.clone());
        let sending = Sending { object: kept, listed_at, late_after, kind: object.meta.kind, repeat };
        self.tags.insert(self.next_tag, sending);
        let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
        self.session.handle_input(Input::Object { now, wall, tag: self.next_tag, object: Box::new(object) });
    }

    /// Everything that can be done now. Returns when there is more to do.
    async fn drain(&mut self) -> Option<Time> {
        let at = loop {
            match self.session.poll_output(&mut self.buffer) {
                Output::Transmit(t) => {
                    let to = match t.flow {
                        FlowKind::Source => self.source,
                        FlowKind::Repair => self.repair,
                        FlowKind::Layer2 => self.layer_2,
                    };
                    let packets = self.buffer.get(..t.len).unwrap_or(&self.buffer);
                    if let Err(e) = self.shared.socket.send(to, packets, t.segment_size).await {
                        self.on_send_error(to, &e);
                    }
                }
                Output::Command(Command::Encode(job)) => self.encode(job),
                Output::Event(event) => self.on_event(&event),
                Output::Timeout(at) => break at,
            }
        };
        self.tell();
        at
    }

    /// What was sent since the last call. The counters may be those of a flow before this one.
    fn tell(&mut self) {
        let now = self.session.stats();
        let before = std::mem::replace(&mut self.told, now.clone());
        let status = &self.status;
        for (sum, now, before) in [
            (&status.source_bytes, now.source_bytes, before.source_bytes),
            (&status.repair_bytes, now.repair_bytes, before.repair_bytes),
            (&status.layer_2_bytes, now.layer_2_bytes, before.layer_2_bytes),
            (&status.fdt_bytes, now.fdt_bytes, before.fdt_bytes),
            (&status.packets, now.packets, before.packets),
        ] {
            sum.fetch_add(now.saturating_sub(before), Relaxed);
        }
        status.queue_bytes.store(now.queued_bytes, Relaxed);
    }

    fn on_send_error(&self, to: SocketAddr, error: &std::io::Error) {
        let before = self.status.send_errors.fetch_add(1, Relaxed);
        // A route that is gone makes an error of every batch: one line for the first and for each thousandth is enough.
        if before.is_multiple_of(1000) {
            tracing::warn!(channel = self.channel, %to, errors = before + 1, "cannot send: {error}");
        }
    }

    fn encode(&mut self, job: EncodeJob) {
        let encoders = self.shared.encoders.clone();
        let clock = self.shared.clock;
        self.encoding.spawn(async move {
            let _permit = encoders.acquire_owned().await.ok()?;
            let start = clock.now();
            let result = tokio::task::spawn_blocking(move || job.run()).await.ok();
            metrics::histogram!("mahp_sender_encode_seconds").record(clock.now().since(start).as_secs_f64());
            result
        });
    }

    fn on_event(&mut self, event: &Event) {
        let (tag, last) = match event {
            Event::Started { tag, toi } => {
                let object = self.tags.get_mut(tag).and_then(|s| s.object.take());
                if let Some(object) = object {
                    self.on_started(*toi, &object);
                }
                return;
            }
            Event::SourceSent { tag, .. } => (tag, false),
            Event::Sent { tag, .. } => (tag, true),
        };
        let Some(sending) = self.tags.get(tag) else { return };
        if !last {
            return;
        }
        self.count(sending);
        self.tags.remove(tag);
    }

    /// Whoever serves it another way takes it now.
    fn on_started(&self, toi: Toi, object: &Object) {
        if let Some(place) = &self.repair_place {
            place.keep(toi, object);
        }
        if let Some(place) = &self.moq {
            place.publish(toi, object, self.shared.clock.wall());
        }
    }

    fn count(&self, sending: &Sending) {
        let s = &self.status;
        match (sending.repeat, sending.kind) {
            (true, _) => s.repeats.fetch_add(1, Relaxed),
            (false, ObjectKind::Manifest) => s.manifests.fetch_add(1, Relaxed),
            _ => s.sent.fetch_add(1, Relaxed),
        };
        let Some(listed) = sending.listed_at.filter(|_| !sending.repeat) else { return };
        let took = self.shared.clock.now().since(listed);
        metrics::histogram!("mahp_sender_segment_lateness_seconds", "channel" => self.channel.clone())
            .record(took.as_secs_f64());
        if sending.late_after.is_some_and(|d| took > d) {
            s.late.fetch_add(1, Relaxed);
        }
    }
}
