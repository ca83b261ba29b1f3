//! One joined rendition: its sockets, its engine, its decoding.
//!
//! [`Joined::run`] moves datagrams into the engine and what the engine says to the hub, until it is told to stop. The hub shares the
//! engine ([`Shared::session`]) to look how far an object is; it never holds it for long.

mod layer;

use crate::urls::RenditionKey;
use bytes::Bytes;
pub use layer::Layer2;
use layer::{LayerSocket, Opener};
use mahp_common::auth::VerifyingKey;
use mahp_common::catalog::{Endpoint, Flow};
use mahp_common::fec::{DecodeJob, DecodeResult};
use mahp_common::session::recv::{Command, Event, Input, Output, Path, Pool, RecvConfig, RecvSession};
use mahp_common::wire::alc::PayloadId;
use mahp_common::{Time, Toi, WallTime, limits};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::udp::{self, Interface, MulticastReceiver};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// An object without any new symbol for this long is given up.
const OBJECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Kernel counters are read this often.
const KERNEL_LOOK: Duration = Duration::from_secs(1);
/// While packets come, sockets are looked at this often instead of at each packet: a wake-up costs as much as taking a dozen
/// packets. A full receive buffer of [`LARGE_BUFFER`] holds what comes meanwhile at 4 Gbit/s.
const GATHER: Duration = Duration::from_millis(2);
/// The same where the kernel gave less than [`LARGE_BUFFER`]: the usual 208 KiB hold a millisecond at 1 Gbit/s.
const GATHER_SMALL: Duration = Duration::from_millis(1);
const LARGE_BUFFER: usize = 1 << 20;
/// After so many looks in vain the sockets are waited for again.
const QUIET_LOOKS: u32 = 4;
/// Most calls for one socket in a look; then stopping, decoding and control have their turn.
const CALLS: usize = 32;
/// A call that brought fewer datagrams left none behind.
const FULL_CALL: usize = 16;

/// What to join and how.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The rendition.
    pub key: RenditionKey,
    /// Where it is.
    pub flow: Flow,
    /// Further sources of the same packets.
    pub standby: Vec<IpAddr>,
    /// Key of FDT Instances; none only for foreign senders with `--insecure`.
    pub verify: Option<VerifyingKey>,
    /// Memory of its own for objects under assembly and packets waiting for their FDT.
    pub assembly_bytes: u64,
    /// Where it borrows more, and how much at most.
    pub pool: (Arc<Pool>, u64),
    /// Interface by name or address; none: that of the route to the source.
    pub interface: Option<String>,
    /// Receive buffer to ask for.
    pub recv_buffer: usize,
}

impl Spec {
    fn engine(&self) -> RecvConfig {
        let held = (self.assembly_bytes / 4).min(limits::HELD_BYTES as u64);
        let assembly = self.assembly_bytes - held;
        let (pool, most) = &self.pool;
        RecvConfig {
            tsi: Some(self.flow.endpoint.tsi),
            repair_tsi: self.flow.repair.map(|r| r.tsi),
            layer_2_tsi: self.flow.repair_layer_2.map(|layer| layer.endpoint.tsi),
            key: self.verify,
            allow_undigested: self.verify.is_none(),
            senders: 1 + self.standby.len(),
            assembly_bytes: assembly,
            pool: Some(pool.clone()),
            borrowed_bytes: *most,
            max_object_bytes: limits::OBJECT_BYTES.min(assembly + most),
            held_bytes: usize::try_from(held).unwrap_or(limits::HELD_BYTES),
            object_timeout: OBJECT_TIMEOUT,
            ..RecvConfig::default()
        }
    }
}

/// What others tell a flow.
#[derive(Debug)]
pub enum Control {
    /// Bytes of an object that came another way.
    Bytes {
        /// The object.
        toi: Toi,
        /// Which way.
        path: Path,
        /// Offset in it.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Encoding symbols of a block that came another way, of consecutive ESIs.
    Symbols {
        /// The object.
        toi: Toi,
        /// Which way.
        path: Path,
        /// The block, and the ESI of the first.
        first: PayloadId,
        /// One after the other, each T bytes long.
        symbols: Bytes,
    },
    /// A whole object that a MoQ subscription brought, because packets do not come.
    Object {
        /// The object.
        toi: Toi,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A record of a MoQ publisher.
    Description {
        /// Whether what it describes is being sent now.
        newest: bool,
        /// An FDT Instance.
        instance: Bytes,
    },
    /// The object is here: stop collecting it.
    Forget(Toi),
    /// The object is no longer in the store.
    Reopen(Toi),
}

/// Takes what a flow's engine says. Implemented by the hub.
pub trait Sink: Send + Sync + 'static {
    /// Events in order; what to tell the engine in return.
    fn events(&self, key: &RenditionKey, events: Vec<Event>) -> Vec<Control>;
}

/// What hub and flow share.
#[derive(Debug)]
pub struct Shared {
    session: Mutex<RecvSession>,
    control: mpsc::UnboundedSender<Control>,
    last_packet: AtomicU64,
    last_object: AtomicU64,
    kernel_drops: AtomicU64,
    wrong_source: AtomicU64,
    /// Datagrams of the sockets of source flow, repair flow and second repair layer.
    datagrams: [AtomicU64; 3],
    layer_2: Layer2,
    /// Interface of the join.
    pub interface: String,
    /// Receive buffer that the kernel gave, bytes.
    pub recv_buffer: usize,
}

impl Shared {
    /// The engine, for a short look.
    pub fn session(&self) -> MutexGuard<'_, RecvSession> {
        // The engine does not panic; were it to, its counters and objects are still what they were.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the flow; nothing happens when it has ended.
    pub fn tell(&self, control: Control) {
        let _ = self.control.send(control);
    }

    /// Time of the last packet, if any came.
    pub fn last_packet(&self) -> Option<Time> {
        read(&self.last_packet)
    }

    /// Time of the last object that a subscription brought in place of packets.
    pub fn last_object(&self) -> Option<Time> {
        read(&self.last_object)
    }

    /// Datagrams that the kernel dropped at our sockets.
    pub fn kernel_drops(&self) -> u64 {
        self.kernel_drops.load(Ordering::Relaxed)
    }

    /// Datagrams so far at the socket of the source flow, of the repair flow where it has its own, and of the second repair layer.
    pub fn datagrams(&self) -> [u64; 3] {
        self.datagrams.each_ref().map(|n| n.load(Ordering::Relaxed))
    }

    /// Its second repair layer.
    pub const fn layer_2(&self) -> &Layer2 {
        &self.layer_2
    }

    /// Packets from another address than the session's source.
    pub fn wrong_source(&self) -> u64 {
        self.wrong_source.load(Ordering::Relaxed)
    }
}

fn note(place: &AtomicU64, now: Time) {
    place.store(now.as_nanos().max(1), Ordering::Relaxed);
}

fn read(place: &AtomicU64) -> Option<Time> {
    match place.load(Ordering::Relaxed) {
        0 => None,
        nanos => Some(Time::from_nanos(nanos)),
    }
}

/// A flow that has joined and not begun to receive.
pub struct Joined {
    key: RenditionKey,
    clock: Clock,
    shared: Arc<Shared>,
    controls: mpsc::UnboundedReceiver<Control>,
    source: MulticastReceiver,
    /// None: the repair flow shares the socket of the source flow, or there is none.
    repair: Option<MulticastReceiver>,
    layer_2: LayerSocket,
    /// Empty: any source.
    from: Vec<IpAddr>,
}

/// Joins the groups of a rendition. Must be called inside a tokio runtime.
///
/// # Errors
/// Those of [`MulticastReceiver::join`], [`udp::interface`] and [`udp::route_to`].
pub fn join(spec: &Spec, clock: Clock) -> Result<Joined, StartupError> {
    let endpoint = spec.flow.endpoint;
    let opener = Opener {
        interface: choose_interface(spec.interface.as_deref(), &endpoint)?,
        standby: spec.standby.clone(),
        recv_buffer: spec.recv_buffer,
    };
    let source = opener.open(&endpoint)?;
    let apart = spec.flow.repair.filter(|r| (r.group, r.port) != (endpoint.group, endpoint.port));
    let repair = apart.map(|e| opener.open(&e)).transpose()?;
    let (control, controls) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        session: Mutex::new(RecvSession::new(spec.engine())),
        control,
        last_packet: AtomicU64::new(0),
        last_object: AtomicU64::new(0),
        kernel_drops: AtomicU64::new(0),
        wrong_source: AtomicU64::new(0),
        datagrams: [const { AtomicU64::new(0) }; 3],
        layer_2: Layer2::default(),
        interface: opener.interface.name.clone(),
        recv_buffer: source.receive_buffer(),
    });
    let from =
        endpoint.source.into_iter().flat_map(|s| [s].into_iter().chain(spec.standby.clone())).collect();
    let layer_2 = LayerSocket::new(spec.flow.repair_layer_2.map(|layer| layer.endpoint), opener);
    Ok(Joined { key: spec.key.clone(), clock, shared, controls, source, repair, layer_2, from })
}

/// The interface given, else that of the route to the source (to the group, for any-source multicast).
///
/// # Errors
/// Those of [`udp::interface`] and [`udp::route_to`].
pub fn choose_interface(given: Option<&str>, endpoint: &Endpoint) -> Result<Interface, StartupError> {
    match given {
        Some(name) => udp::interface(name),
        None => udp::route_to(endpoint.source.unwrap_or(endpoint.group)).map(|(interface, _)| interface),
    }
}

impl Joined {
    /// What the hub needs.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The rendition.
    pub fn key(&self) -> &RenditionKey {
        &self.key
    }

    /// Receives until `stop`; leaves the groups on return. `cores` bounds decoding over all flows.
    ///
    /// # Errors
    /// A socket failed.
    pub async fn run(
        mut self,
        sink: Arc<dyn Sink>,
        cores: Arc<Semaphore>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let intake = Intake {
            clock: self.clock,
            shared: self.shared.clone(),
            from: self.from.clone(),
            pending: Mutex::default(),
        };
        let mut decoding = JoinSet::new();
        let mut wake = None;
        let mut kernel_look = self.clock.now();
        let mut look = Look::OnArrival;
        loop {
            let now = self.clock.now();
            if now >= kernel_look {
                self.source.check_interface()?;
                self.look_at_kernel();
                kernel_look = now + KERNEL_LOOK;
            }
            let until = [wake, look.at()].into_iter().flatten().fold(kernel_look, Time::min);
            // In order of priority: stopping; what frees memory; packets, which the kernel drops when nobody takes them.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(result) = decoding.join_next() => {
                    if let Ok(Some(result)) = result {
                        intake.input(Input::Decoded { now: self.clock.now(), result });
                    }
                }
                Some(control) = self.controls.recv() => intake.control(control),
                arrived = arrival(&self.source, [self.repair.as_ref(), self.layer_2.socket()]), if look.at().is_none() => {
                    arrived?;
                    look = Look::At { at: self.clock.now(), in_vain: 0 };
                }
                () = tokio::time::sleep_until(self.clock.instant(until)) => {
                    let now = self.clock.now();
                    if wake.is_some_and(|at| at <= now) {
                        intake.input(Input::Timeout { now });
                    }
                }
            }
            if look.at().is_some_and(|at| at <= self.clock.now()) {
                look = self.look(&intake, look)?;
            }
            wake = self.settle(&intake, sink.as_ref(), &mut decoding, &cores);
            self.layer_2.follow(&self.key, self.clock.now(), &self.shared.layer_2);
        }
    }

    /// Takes what the sockets hold; says when to look again.
    fn look(&mut self, intake: &Intake, look: Look) -> std::io::Result<Look> {
        let mut taken = take(&mut self.source, 0, intake)?;
        if let Some(repair) = &mut self.repair {
            taken = taken.max(take(repair, 1, intake)?);
        }
        if let Some(layer) = self.layer_2.socket_mut() {
            taken = taken.max(take(layer, 2, intake)?);
        }
        let now = self.clock.now();
        let gather = if self.shared.recv_buffer >= LARGE_BUFFER { GATHER } else { GATHER_SMALL };
        let pause = if taken >= CALLS * FULL_CALL { Duration::ZERO } else { gather };
        Ok(match look {
            Look::At { in_vain, .. } if taken == 0 && in_vain + 1 >= QUIET_LOOKS => Look::OnArrival,
            Look::At { in_vain, .. } if taken == 0 => Look::At { at: now + pause, in_vain: in_vain + 1 },
            _ => Look::At { at: now + pause, in_vain: 0 },
        })
    }

    /// Hands over what the engine said, and what the hub answered, until both are silent.
    fn settle(
        &self,
        intake: &Intake,
        sink: &dyn Sink,
        decoding: &mut JoinSet<Option<DecodeResult>>,
        cores: &Arc<Semaphore>,
    ) -> Option<Time> {
        loop {
            let Pending { events, jobs, timeout } = intake.take();
            for job in jobs {
                decoding.spawn(decode(job, cores.clone()));
            }
            if events.is_empty() {
                return timeout;
            }
            for control in sink.events(&self.key, events) {
                intake.control(control);
            }
        }
    }

    fn look_at_kernel(&self) {
        let drops = [Some(&self.source), self.repair.as_ref(), self.layer_2.socket()]
            .into_iter()
            .flatten()
            .filter_map(|socket| socket.kernel_drops().ok())
            .sum();
        self.shared.kernel_drops.store(drops, Ordering::Relaxed);
    }
}

/// When sockets are looked at.
#[derive(Clone, Copy, Debug)]
enum Look {
    /// When a packet comes.
    OnArrival,
    /// At this time; so many looks before it found nothing.
    At { at: Time, in_vain: u32 },
}

impl Look {
    const fn at(self) -> Option<Time> {
        match self {
            Look::OnArrival => None,
            Look::At { at, .. } => Some(at),
        }
    }
}

/// Until one of the sockets has something. Cancel safe.
async fn arrival(
    source: &MulticastReceiver,
    [repair, layer_2]: [Option<&MulticastReceiver>; 2],
) -> std::io::Result<()> {
    let readable = async |socket: Option<&MulticastReceiver>| match socket {
        Some(socket) => socket.readable().await,
        None => std::future::pending().await,
    };
    tokio::select! {
        arrived = source.readable() => arrived,
        arrived = readable(repair) => arrived,
        arrived = readable(layer_2) => arrived,
    }
}

/// Takes what a socket holds, within bounds. Returns how many datagrams.
fn take(socket: &mut MulticastReceiver, number: usize, intake: &Intake) -> std::io::Result<usize> {
    let mut taken = 0;
    for _ in 0..CALLS {
        let mut batch = intake.batch(number);
        let count = socket.try_receive(|from, datagram| batch.packet(from, datagram))?;
        taken += count;
        if count < FULL_CALL {
            break;
        }
    }
    Ok(taken)
}

/// Solves a block on a thread for blocking work. The decoder's input is validated; that it cannot panic all the same is not ours
/// to promise, and one bad block must not end the flow.
async fn decode(job: DecodeJob, cores: Arc<Semaphore>) -> Option<DecodeResult> {
    let _permit = cores.acquire_owned().await.ok()?;
    let work = move || {
        let start = std::time::Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| job.run())).ok();
        metrics::histogram!("mahp_receiver_decode_seconds").record(start.elapsed().as_secs_f64());
        result
    };
    let result = tokio::task::spawn_blocking(work).await.ok().flatten();
    if result.is_none() {
        tracing::error!("the FEC decoder failed on a block; it is given up");
    }
    result
}

/// What the engine said and nobody has acted on yet.
#[derive(Debug, Default)]
struct Pending {
    events: Vec<Event>,
    jobs: Vec<DecodeJob>,
    timeout: Option<Time>,
}

/// The way into the engine; shared by the sockets of a flow.
struct Intake {
    clock: Clock,
    shared: Arc<Shared>,
    from: Vec<IpAddr>,
    pending: Mutex<Pending>,
}

impl Intake {
    /// The datagrams of one call: one lock and one look at the clock for all of them.
    fn batch(&self, socket: usize) -> Batch<'_> {
        Batch {
            intake: self,
            session: self.shared.session(),
            pending: self.pending(),
            socket,
            now: self.clock.now(),
            wall: self.clock.wall(),
        }
    }

    fn control(&self, control: Control) {
        let now = self.clock.now();
        match control {
            Control::Symbols { toi, path, first, symbols } => {
                self.input(Input::Symbols { now, toi, path, first, symbols: &symbols });
            }
            Control::Bytes { toi, path, offset, bytes } => {
                self.input(Input::Bytes { now, toi, path, offset, bytes: &bytes });
            }
            Control::Object { toi, bytes } => {
                note(&self.shared.last_object, now);
                self.input(Input::Bytes { now, toi, path: Path::Moq, offset: 0, bytes: &bytes });
            }
            Control::Description { newest, instance } => {
                let wall = self.clock.wall();
                self.input(Input::Description { now, wall, newest, instance: &instance });
            }
            Control::Forget(toi) => self.input(Input::Forget { now, toi }),
            Control::Reopen(toi) => self.input(Input::Reopen { toi }),
        }
    }

    fn input(&self, input: Input<'_>) {
        feed(&mut self.shared.session(), &mut self.pending(), input);
    }

    fn take(&self) -> Pending {
        let mut pending = self.pending();
        let timeout = pending.timeout;
        std::mem::replace(&mut *pending, Pending { timeout, ..Pending::default() })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One input, and everything the engine says to it.
fn feed(session: &mut RecvSession, pending: &mut Pending, input: Input<'_>) {
    session.handle_input(input);
    loop {
        match session.poll_output() {
            Output::Event(event) => pending.events.push(event),
            Output::Command(Command::Decode(job)) => pending.jobs.push(job),
            Output::Timeout(at) => {
                pending.timeout = at;
                return;
            }
        }
    }
}

/// See [`Intake::batch`].
struct Batch<'a> {
    intake: &'a Intake,
    session: MutexGuard<'a, RecvSession>,
    pending: MutexGuard<'a, Pending>,
    socket: usize,
    now: Time,
    wall: WallTime,
}

impl Batch<'_> {
    fn packet(&mut self, from: SocketAddr, datagram: &[u8]) {
        let Intake { shared, from: sources, .. } = self.intake;
        shared.datagrams[self.socket].fetch_add(1, Ordering::Relaxed);
        // The kernel filters sources of SSM joins; a unicast packet to the port gets past it.
        if !sources.is_empty() && !sources.contains(&from.ip().to_canonical()) {
            shared.wrong_source.fetch_add(1, Ordering::Relaxed);
            return;
        }
        note(&shared.last_packet, self.now);
        let input = Input::Packet { now: self.now, wall: self.wall, datagram };
        feed(&mut self.session, &mut self.pending, input);
    }
}
