//! A bad link on the loopback interface, without root: it joins (upstream,G):port of every flow, and sends each datagram again
//! from another loopback address to the same G:port, after loss, delay, duplication and reordering.
//!
//! The sender sends from the upstream address (127.0.0.1) and announces the downstream one (127.0.0.2). Every packet on `lo`
//! reaches every socket bound to its group and port, so what keeps the two sides apart is the source filter of SSM joins.
//! Datagrams come out of GRO one by one before they are judged: a loss is the loss of one packet, not of a batch.

use anyhow::{Context, bail};
use bytes::Bytes;
use mahp_common::catalog::{Endpoint, SessionDescription};
use mahp_runtime::udp::{self, MulticastReceiver, MulticastSender, ReceiveOptions, SendOptions};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use str0m_netem::{GilbertElliot, Input, LossModel, Netem, NetemConfig, Output, Probability, RandomLoss};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Datagrams between the sockets and the engine; when it is full the kernel's buffers fill, and then it drops.
const QUEUE: usize = 4096;
/// Receive buffer to ask for.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A share, written `5%`, `0.5 %` or `5` (per cent).
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// From a fraction; held within 0 to 1.
    pub fn from_fraction(fraction: f64) -> Percent {
        Percent(if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) })
    }

    /// 0 to 1.
    pub fn fraction(self) -> f64 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = String;
    fn from_str(s: &str) -> Result<Percent, String> {
        let number = s.trim().trim_end_matches('%').trim_end();
        match number.parse::<f64>() {
            Ok(n) if (0.0..=100.0).contains(&n) => Ok(Percent(n / 100.0)),
            _ => Err(format!("`{s}` is not a share: write 5% or 0.5%, from 0% to 100%")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At most two decimals, none that say nothing.
        let text = format!("{:.2}", self.0 * 100.0);
        write!(f, "{} %", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// What the link does to packets. The same seed and the same packets give the same result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Mean share of packets lost.
    pub loss: Percent,
    /// Mean number of packets lost in a row (Gilbert-Elliott model); up to 1: each packet on its own.
    pub burst: f64,
    /// Delay of each packet.
    pub delay: Duration,
    /// Largest deviation from it, either way. Order is kept: a late packet holds up those behind it.
    pub jitter: Duration,
    /// Share of packets that come twice.
    pub duplicate: Percent,
    /// Every so many-th packet overtakes the one before it; 0: none.
    pub reorder_every: u32,
    /// Seed of all randomness.
    pub seed: u64,
}

impl Impairment {
    /// As much of an emulator's impairment as this link can do: loss, bursts, outage, delay, jitter, duplicates.
    pub fn of(other: &crate::emu::Impairment, seed: u64) -> Impairment {
        use crate::emu::LossModel;
        let burst = if let LossModel::Bursts(_, burst) = other.loss { burst } else { 1.0 };
        Impairment {
            loss: if other.outage { Percent(1.0) } else { other.loss.share() },
            burst,
            delay: other.delay,
            jitter: other.jitter,
            duplicate: other.duplicate,
            reorder_every: 0,
            seed,
        }
    }

    fn config(&self) -> NetemConfig {
        let loss = self.loss.fraction();
        let probability = |p: f64| Probability::new(p as f32);
        let model = if loss > 0.0 && loss < 1.0 && self.burst > 1.0 {
            let good = self.burst * (1.0 - loss) / loss;
            let chain = GilbertElliot::new().good_duration(good as f32).bad_duration(self.burst as f32);
            LossModel::GilbertElliot(chain)
        } else {
            LossModel::Random(RandomLoss::new(probability(loss)))
        };
        let config = NetemConfig::new()
            .latency(self.delay)
            .jitter(self.jitter)
            .loss(model)
            .duplicate(probability(self.duplicate.fraction()))
            .seed(self.seed);
        if self.reorder_every > 0 { config.reorder_gap(self.reorder_every) } else { config }
    }
}

/// Packets of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FlowCount {
    /// That came in.
    pub offered: u64,
    /// Dropped.
    pub dropped: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Bytes of UDP payload that came in.
    pub bytes: u64,
}

impl FlowCount {
    /// Sum.
    pub fn plus(self, other: FlowCount) -> FlowCount {
        FlowCount {
            offered: self.offered + other.offered,
            dropped: self.dropped + other.dropped,
            duplicated: self.duplicated + other.duplicated,
            bytes: self.bytes + other.bytes,
        }
    }

    /// What came after `before` was counted.
    pub fn minus(self, before: FlowCount) -> FlowCount {
        FlowCount {
            offered: self.offered.saturating_sub(before.offered),
            dropped: self.dropped.saturating_sub(before.dropped),
            duplicated: self.duplicated.saturating_sub(before.duplicated),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }

    /// Dropped of offered.
    pub fn loss(self) -> Percent {
        Percent::from_fraction(self.dropped as f64 / self.offered.max(1) as f64)
    }
}

/// The link without sockets and clocks: packets and times in, packets and times out.
pub struct Engine {
    netem: Netem<Packet>,
    counts: Vec<FlowCount>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// A datagram of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Index of the flow.
    pub flow: usize,
    /// UDP payload.
    pub payload: Bytes,
}

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Engine {
    /// One queue for all flows, as on a real link.
    pub fn new(flows: usize, impairment: &Impairment) -> Engine {
        Engine { netem: Netem::new(impairment.config()), counts: vec![FlowCount::default(); flows] }
    }

    /// A packet arrives.
    pub fn offer(&mut self, now: Instant, packet: Packet) {
        let Some(count) = self.counts.get_mut(packet.flow) else { return };
        count.offered += 1;
        count.bytes += packet.payload.len() as u64;
        let before = self.netem.queue_len();
        self.netem.handle_input(Input::Packet(now, packet));
        match self.netem.queue_len() - before {
            0 => count.dropped += 1,
            1 => {}
            _ => count.duplicated += 1,
        }
    }

    /// The next packet that is due at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Packet> {
        self.netem.handle_input(Input::Timeout(now));
        match self.netem.poll_output() {
            Some(Output::Packet(packet)) => Some(packet),
            Some(Output::Timeout(_)) | None => None,
        }
    }

    /// When the next packet is due; `None`: none is on its way.
    pub fn next(&self) -> Option<Instant> {
        (!self.netem.is_empty()).then(|| self.netem.poll_timeout())
    }

    /// From now on, another behaviour; packets on their way keep theirs.
    pub fn set(&mut self, impairment: &Impairment) {
        self.netem.set_config(impairment.config());
    }

    /// By flow.
    pub fn counts(&self) -> &[FlowCount] {
        &self.counts
    }
}

/// A running link. Dropping it ends it.
#[derive(Debug)]
pub struct Link {
    endpoints: Vec<Endpoint>,
    engine: Arc<Mutex<Engine>>,
    _stop: DropGuard,
}

/// All endpoints of a description: source flows, repair flows, announcement; each once.
pub fn endpoints(description: &SessionDescription) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = description.announcement.into_iter().collect();
    for (_, rendition) in description.flows() {
        all.push(rendition.flow.endpoint);
        all.extend(rendition.flow.repair);
    }
    // Sessions that share a group and port share a socket.
    all.sort_by_key(|e| (e.group, e.port));
    all.dedup_by_key(|e| (e.group, e.port));
    all
}

impl Link {
    /// Joins every endpoint at `upstream` and sends on from its announced source.
    pub fn start(
        endpoints: Vec<Endpoint>,
        upstream: Ipv4Addr,
        impairment: &Impairment,
    ) -> anyhow::Result<Link> {
        let engine = Arc::new(Mutex::new(Engine::new(endpoints.len(), impairment)));
        let stop = CancellationToken::new();
        let (packets, incoming) = mpsc::channel(QUEUE);
        let mut downstream = None;
        for (flow, endpoint) in endpoints.iter().enumerate() {
            let source = announced(endpoint)?;
            if source == upstream {
                bail!("flow {endpoint:?} is announced from {upstream}, so nothing tells both sides apart");
            }
            if *downstream.get_or_insert(source) != source {
                bail!("flows are announced from several sources");
            }
            let socket = join(endpoint, upstream)?;
            tokio::spawn(listen(socket, flow, packets.clone(), stop.clone()));
        }
        if let Some(source) = downstream {
            let outgoing = Outgoing::new(&endpoints, source)?;
            tokio::spawn(forward(engine.clone(), incoming, outgoing, stop.clone()));
        }
        Ok(Link { endpoints, engine, _stop: stop.drop_guard() })
    }

    /// By flow.
    pub fn counts(&self) -> Vec<(Endpoint, FlowCount)> {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        self.endpoints.iter().copied().zip(engine.counts().iter().copied()).collect()
    }

    /// Over all flows.
    pub fn total(&self) -> FlowCount {
        self.counts().into_iter().fold(FlowCount::default(), |sum, (_, count)| sum.plus(count))
    }

    /// From now on, another behaviour.
    pub fn set(&self, impairment: &Impairment) {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).set(impairment);
    }
}

fn announced(endpoint: &Endpoint) -> anyhow::Result<Ipv4Addr> {
    match endpoint.source {
        Some(IpAddr::V4(source)) => Ok(source),
        Some(IpAddr::V6(_)) => {
            bail!("{}: the loopback interface carries IPv4 multicast only", endpoint.group)
        }
        None => bail!("{}: the link needs source-specific multicast", endpoint.group),
    }
}

fn join(endpoint: &Endpoint, upstream: Ipv4Addr) -> anyhow::Result<MulticastReceiver> {
    let (interface, _) = udp::route_to(upstream.into())?;
    let options = ReceiveOptions {
        source: Some(upstream.into()),
        group: endpoint.group,
        port: endpoint.port,
        interface,
        receive_buffer: RECEIVE_BUFFER,
    };
    Ok(MulticastReceiver::join(&options)?)
}

async fn listen(
    mut socket: MulticastReceiver,
    flow: usize,
    packets: mpsc::Sender<(Instant, Packet)>,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.receive(|_, payload| batch.push(Bytes::copy_from_slice(payload))) => received,
        };
        if received.is_err() {
            // ICMP errors and the like; do not spin if it lasts.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let now = Instant::now();
        for payload in batch.drain(..) {
            if packets.send((now, Packet { flow, payload })).await.is_err() {
                return;
            }
        }
    }
}

struct Outgoing {
    socket: MulticastSender,
    to: Vec<SocketAddr>,
}

impl Outgoing {
    fn new(endpoints: &[Endpoint], source: Ipv4Addr) -> anyhow::Result<Outgoing> {
        let (interface, _) = udp::route_to(source.into())?;
        let options = SendOptions { source: source.into(), interface, ttl: 1, dscp: 0 };
        let socket = MulticastSender::new(&options).with_context(|| format!("cannot send from {source}"))?;
        Ok(Outgoing { socket, to: endpoints.iter().map(|e| SocketAddr::new(e.group, e.port)).collect() })
    }

    async fn send(&self, packet: &Packet) {
        if let Some(to) = self.to.get(packet.flow) {
            // A packet that cannot be sent is one more lost packet.
            let _ = self.socket.send(*to, &packet.payload, packet.payload.len().max(1)).await;
        }
    }
}

async fn forward(
    engine: Arc<Mutex<Engine>>,
    mut incoming: mpsc::Receiver<(Instant, Packet)>,
    outgoing: Outgoing,
    stop: CancellationToken,
) {
    let lock = || engine.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // Out of the lock before the await.
        loop {
            let due = lock().poll(Instant::now());
            match due {
                Some(packet) => outgoing.send(&packet).await,
                None => break,
            }
        }
        let next = lock().next().map(tokio::time::Instant::from_std);
        let far = tokio::time::Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next.unwrap_or(far)), if next.is_some() => {}
            packet = incoming.recv() => match packet {
                Some((at, packet)) => lock().offer(at, packet),
                None => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flow: usize, number: u32) -> Packet {
        Packet { flow, payload: Bytes::copy_from_slice(&number.to_be_bytes()) }
    }

    /// Offers `count` packets, one each millisecond, to two flows in turn; returns the numbers that came out.
    fn run(impairment: &Impairment, count: u32) -> (Vec<u32>, FlowCount) {
        let mut engine = Engine::new(2, impairment);
        let start = Instant::now();
        let mut out = Vec::new();
        let end = start + Duration::from_millis(u64::from(count) + 1000);
        let mut drain = |engine: &mut Engine, now: Instant| {
            while let Some(p) = engine.poll(now) {
                out.push(u32::from_be_bytes(p.payload[..].try_into().unwrap()));
            }
        };
        for number in 0..count {
            let now = start + Duration::from_millis(number.into());
            drain(&mut engine, now);
            engine.offer(now, packet(number as usize % 2, number));
        }
        while let Some(next) = engine.next() {
            assert!(next < end, "a packet is due long after all others");
            drain(&mut engine, next);
        }
        let [a, b] = engine.counts() else { panic!() };
        assert_eq!(a.offered, b.offered);
        (out, a.plus(*b))
    }

    fn with_loss(loss: f64, burst: f64, seed: u64) -> Impairment {
        Impairment { loss: Percent::from_fraction(loss), burst, seed, ..Impairment::default() }
    }

    #[test]
    fn drops_the_share_it_is_asked_for() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        for (loss, burst) in [(0.01, 1.0), (0.05, 1.0), (0.05, 4.0), (0.2, 8.0), (0.6, 1.0)] {
            let packets = 40_000;
            let (out, count) = run(&with_loss(loss, burst, seed), packets);
            assert_eq!(count.offered, u64::from(packets));
            assert_eq!(out.len() as u64, count.offered - count.dropped);
            // Six standard deviations; losses in a row of mean length b widen the deviation by about sqrt(2b).
            let deviation = (loss * (1.0 - loss) * 2.0 * burst / f64::from(packets)).sqrt();
            let share = count.loss().fraction();
            assert!((share - loss).abs() < 6.0 * deviation, "asked {loss} in bursts of {burst}, got {share}");
        }
    }

    #[test]
    fn bursts_have_the_asked_length() {
        let (out, count) = run(&with_loss(0.1, 5.0, 7), 60_000);
        let bursts = out.windows(2).filter(|w| w[1] != w[0] + 1).count();
        let mean = count.dropped as f64 / bursts as f64;
        assert!((4.0..6.0).contains(&mean), "{mean}");
    }

    #[test]
    fn the_same_seed_gives_the_same_losses() {
        let (a, b, c) = (
            run(&with_loss(0.3, 1.0, 1), 500).0,
            run(&with_loss(0.3, 1.0, 1), 500).0,
            run(&with_loss(0.3, 1.0, 2), 500).0,
        );
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn without_impairment_every_packet_passes_in_order() {
        let (out, count) = run(&Impairment::default(), 1000);
        assert_eq!(out, (0..1000).collect::<Vec<_>>());
        assert_eq!((count.dropped, count.duplicated), (0, 0));
    }

    #[test]
    fn all_can_be_lost_and_then_nothing() {
        let mut engine = Engine::new(1, &with_loss(1.0, 1.0, 3));
        let now = Instant::now();
        (0..100).for_each(|n| engine.offer(now, packet(0, n)));
        assert_eq!((engine.poll(now), engine.counts()[0].dropped), (None, 100));
        engine.set(&Impairment::default());
        engine.offer(now, packet(0, 1));
        assert!(engine.poll(now).is_some());
    }

    #[test]
    fn packets_overtake_and_double_as_asked() {
        let impairment = Impairment {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(5),
            duplicate: Percent::from_fraction(0.1),
            reorder_every: 10,
            ..Impairment::default()
        };
        let (out, count) = run(&impairment, 2000);
        assert_eq!(out.len() as u64, 2000 + count.duplicated);
        let overtaken = out.windows(2).filter(|w| w[1] < w[0]).count();
        assert!(count.duplicated > 100 && overtaken > 100, "{count:?}, {overtaken} overtaken");
        let steady = Impairment { reorder_every: 0, duplicate: Percent::default(), ..impairment };
        assert!(run(&steady, 500).0.is_sorted(), "jitter alone keeps the order");
    }

    #[test]
    fn shares_are_read_and_written() {
        for (text, fraction, shown) in
            [("5%", 0.05, "5 %"), ("0", 0.0, "0 %"), (" 0.25 %", 0.0025, "0.25 %"), ("100", 1.0, "100 %")]
        {
            let percent: Percent = text.parse().unwrap();
            assert!((percent.fraction() - fraction).abs() < 1e-12);
            assert_eq!(percent.to_string(), shown);
        }
        for text in ["", "%", "-1", "101", "five", "nan", "inf"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_packet_crosses_and_the_two_sides_do_not_mix() {
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let group = Ipv4Addr::new(232, 77, fastrand::u8(..), fastrand::u8(1..)).into();
        let [upstream, downstream] = [1, 2].map(|last| Ipv4Addr::new(127, 0, 0, last));
        let endpoint = Endpoint { source: Some(downstream.into()), group, port, tsi: mahp_common::Tsi(1) };
        let link = Link::start(vec![endpoint], upstream, &Impairment::default()).unwrap();
        let mut viewer = join(&endpoint, downstream).unwrap();
        let sender = Outgoing::new(&[endpoint], upstream).unwrap();
        for number in 0..50 {
            sender.send(&packet(0, number)).await;
        }
        let (mut heard, mut sources) = (Vec::new(), Vec::new());
        while heard.len() < 50 {
            viewer
                .receive(|from, payload| {
                    sources.push(from.ip());
                    heard.push(u32::from_be_bytes(payload.try_into().unwrap()));
                })
                .await
                .unwrap();
        }
        assert_eq!(heard, (0..50).collect::<Vec<_>>());
        assert!(sources.iter().all(|s| *s == IpAddr::from(downstream)), "the viewer hears only the link");
        assert_eq!(link.total().offered, 50, "the link hears only the sender");

        link.set(&with_loss(1.0, 1.0, 1));
        for number in 0..50 {
            sender.send(&packet(0, number)).await;
        }
        while link.total().offered < 100 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(link.total().dropped, 50);
    }

    #[tokio::test]
    async fn flows_it_cannot_carry_are_refused() {
        let group = Ipv4Addr::new(232, 1, 1, 1).into();
        let upstream = Ipv4Addr::LOCALHOST;
        for source in [None, Some(upstream.into()), Some(std::net::Ipv6Addr::LOCALHOST.into())] {
            let endpoint = Endpoint { source, group, port: 5000, tsi: mahp_common::Tsi(1) };
            assert!(Link::start(vec![endpoint], upstream, &Impairment::default()).is_err(), "{source:?}");
        }
    }
}
