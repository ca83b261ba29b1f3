//! CPU seconds per GB of the whole path over loopback multicast, ours beside the `flute` crate's own sender and receiver.
//! `cargo bench -p mahp-tests --bench whole_path [-- MiB]`
//!
//! Sender and receiver are processes of their own (their drivers, sockets and FEC threads; no origin and no HTTP). Loss is
//! made by a third process, packet by packet, so that lossy runs have no GRO on receive, as on a network card without it.
//! CPU is user + system time of each process (getrusage); GB is 10^9 bytes of objects. Loopback delivers in the sender's time, so
//! what it sends as fast as it can is measured without a receiver, as on a network card.
#![allow(missing_docs)]

use anyhow::{Context as _, bail};
use bytes::Bytes;
use flute::receiver::MultiReceiver;
use flute::receiver::writer::ObjectWriterBufferBuilder;
use flute::sender::{CreateFromBuffer, Sender, TransferConfig};
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Endpoint, Flow, WireProfile};
use mahp_common::session::recv::{Event, Pool};
use mahp_common::session::send::SendConfig;
use mahp_common::{Object, ObjectMeta, Tsi};
use mahp_receiver::flow::{Control, Sink, Spec, join};
use mahp_receiver::urls::RenditionKey;
use mahp_runtime::clock::Clock;
use mahp_runtime::udp::{self, MulticastSender, SendOptions};
use mahp_sender::flow::{FlowTask, Shared};
use mahp_sender::sink::{Item, ObjectSink as _};
use mahp_testbed::link::{Impairment, Link, Percent};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;

/// As in both programs; the peer gets it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OBJECT_BYTES: usize = 2 << 20;
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const DOWNSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GROUP: Ipv4Addr = Ipv4Addr::new(232, 77, 1, 1);
/// A receiver gives up when nothing came for this long.
const SILENCE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy)]
struct Case {
    tool: &'static str,
    rate_mbit: u64,
    repair_percent: u32,
    loss_percent: u32,
}

fn main() -> anyhow::Result<()> {
    match std::env::var("MAHP_BENCH_ROLE").ok().as_deref() {
        Some("send") => role("send"),
        Some("receive") => role("receive"),
        Some("link") => role("link"),
        Some(other) => bail!("unknown role {other}"),
        None => all(),
    }
}

fn all() -> anyhow::Result<()> {
    let mib: u64 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(256);
    let case = |tool, rate_mbit, repair_percent, loss_percent| Case {
        tool,
        rate_mbit,
        repair_percent,
        loss_percent,
    };
    let cases = [
        case("mahp", 200, 20, 0),
        case("flute", 200, 20, 0),
        case("mahp", 200, 20, 1),
        case("flute", 200, 20, 1),
        case("mahp", 200, 20, 5),
        case("flute", 200, 20, 5),
        case("mahp", 200, 20, 10),
        case("flute", 200, 20, 10),
        case("mahp", 0, 20, 0),
        case("flute", 0, 20, 0),
    ];
    println!(
        "| tool | rate Mbit/s | repair % | loss % | sender CPU s/GB | objects complete | receiver CPU s/GB | receiver peak RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for c in cases {
        let row = run(c, mib << 20)?;
        println!("{row}");
    }
    Ok(())
}

fn run(c: Case, bytes: u64) -> anyhow::Result<String> {
    let objects = bytes / OBJECT_BYTES as u64;
    let receiver = if c.rate_mbit > 0 { Some(start("receive", c, objects)?) } else { None };
    let link = if c.loss_percent > 0 { Some(start("link", c, objects)?) } else { None };
    let (mut sender, sender_line) = start("send", c, objects)?;
    let sent = finish(&mut sender, sender_line)?;
    let received = receiver.map(|(mut child, line)| finish(&mut child, line)).transpose()?;
    if let Some((mut link, _)) = link {
        drop(link.stdin.take());
        link.wait()?;
    }
    let gb = bytes as f64 / 1e9;
    let rate = if c.rate_mbit == 0 { "flat out".to_owned() } else { c.rate_mbit.to_string() };
    let received = received.map_or_else(
        || "no receiver | | ".to_owned(),
        |r| format!("{} of {objects} | {:.2} | {:.0}", r.complete, r.cpu / gb, r.rss_mib),
    );
    let Case { tool, repair_percent, loss_percent, .. } = c;
    let sender = sent.cpu / gb;
    Ok(format!("| {tool} | {rate} | {repair_percent} | {loss_percent} | {sender:.2} | {received} |"))
}

type Lines = BufReader<std::process::ChildStdout>;

/// Starts a role as a process and waits until it says that it is ready.
fn start(role: &str, c: Case, objects: u64) -> anyhow::Result<(Child, Lines)> {
    let mut child = Command::new(std::env::current_exe()?)
        .env("MAHP_BENCH_ROLE", role)
        .env(
            "MAHP_BENCH_CASE",
            format!("{} {} {} {} {objects}", c.tool, c.rate_mbit, c.repair_percent, c.loss_percent),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    if line.trim() != "ready" {
        bail!("{role}: {line}");
    }
    Ok((child, lines))
}

struct Cost {
    cpu: f64,
    rss_mib: f64,
    complete: u64,
}

fn finish(child: &mut Child, mut lines: Lines) -> anyhow::Result<Cost> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    child.wait()?;
    let mut numbers = line.split_whitespace().map(str::parse::<f64>);
    let mut next = || numbers.next().context("a number")?.context("a number");
    Ok(Cost { cpu: next()?, rss_mib: next()?, complete: next()? as u64 })
}

fn role(name: &str) -> anyhow::Result<()> {
    let case = std::env::var("MAHP_BENCH_CASE")?;
    let f: Vec<&str> = case.split(' ').collect();
    let [tool, rate, repair, loss, objects] = f.as_slice() else { bail!("case {case}") };
    let tool = if *tool == "mahp" { "mahp" } else { "flute" };
    let c =
        Case { tool, rate_mbit: rate.parse()?, repair_percent: repair.parse()?, loss_percent: loss.parse()? };
    let objects: u64 = objects.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let complete = match (name, tool) {
        ("link", _) => return runtime.block_on(link(c)),
        ("send", "mahp") => runtime.block_on(send(c, objects))?,
        ("receive", "mahp") => runtime.block_on(receive(c, objects))?,
        ("send", _) => flute_send(c, objects)?,
        _ => flute_receive(c, objects)?,
    };
    let (cpu, rss_mib) = usage();
    println!("{cpu} {rss_mib} {complete}");
    Ok(())
}

/// User and system seconds, and peak RSS in MiB, of this process.
fn usage() -> (f64, f64) {
    // SAFETY: getrusage fills the structure it is given; all zeros is a valid value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss as f64 / 1024.0)
}

fn ready() -> anyhow::Result<()> {
    println!("ready");
    Ok(std::io::stdout().flush()?)
}

/// The bytes of object `n`, each other ones: parts of the same noise, because what an origin takes to make them is not the sender's cost.
fn content(n: u64) -> Bytes {
    static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
        let mut noise = vec![0; 2 * OBJECT_BYTES];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        noise.into()
    });
    let from = n as usize * 64 % OBJECT_BYTES;
    NOISE.slice(from..from + OBJECT_BYTES)
}

fn url(n: u64) -> String {
    format!("https://origin.example/{n}.m4s")
}

fn flow(c: Case, source: Ipv4Addr) -> Flow {
    let endpoint =
        |port, tsi| Endpoint { source: Some(source.into()), group: GROUP.into(), port, tsi: Tsi(tsi) };
    Flow {
        endpoint: endpoint(7100, 1),
        repair: Some(endpoint(7101, 2)),
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: 1344,
        repair_percent: c.repair_percent,
        rate_bps: if c.rate_mbit == 0 { 20_000_000_000 } else { c.rate_mbit * 1_000_000 },
    }
}

/// Both ends do all that they do in service: FDT Instances are signed, and verified.
fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn loopback() -> anyhow::Result<udp::Interface> {
    udp::interface("lo").map_err(|e| anyhow::anyhow!("{e}"))
}

async fn link(c: Case) -> anyhow::Result<()> {
    let flow = flow(c, DOWNSTREAM);
    let endpoints = flow.repair.iter().copied().chain([flow.endpoint]).collect();
    let impairment = Impairment {
        loss: Percent::from_fraction(f64::from(c.loss_percent) / 100.0),
        seed: 1,
        ..Impairment::default()
    };
    let _link = Link::start(endpoints, UPSTREAM, &impairment)?;
    ready()?;
    // Ends with its parent's end of the pipe.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    Ok(())
}

async fn send(c: Case, objects: u64) -> anyhow::Result<u64> {
    let flow = flow(c, UPSTREAM);
    let options = SendOptions { source: IpAddr::from(UPSTREAM), interface: loopback()?, ttl: 1, dscp: 0 };
    let socket = MulticastSender::new(&options).map_err(|e| anyhow::anyhow!("{e}"))?;
    let shared = Shared {
        socket: Arc::new(socket),
        clock: Clock::new(),
        encoders: Arc::new(tokio::sync::Semaphore::new(2)),
    };
    let mut config = SendConfig::new(WireProfile::Mabr, Tsi(1), Tsi(2), flow.rate_bps);
    config.repair_percent = c.repair_percent;
    config.key = Some(key());
    let (task, sink) = FlowTask::new(shared, Arc::default(), "bench", &flow, config, None, None);
    let running = tokio::spawn(task.run(CancellationToken::new()));
    ready()?;
    for n in 0..objects {
        let meta = ObjectMeta { url: url(n), ..ObjectMeta::default() };
        sink.put(Item::new(Object::new(meta, content(n)))).await;
    }
    drop(sink);
    running.await?;
    Ok(objects)
}

#[derive(Default)]
struct Count {
    complete: AtomicU64,
    last: AtomicU64,
}

struct Counting(Arc<Count>, Clock);

impl Sink for Counting {
    fn events(&self, _: &RenditionKey, events: Vec<Event>) -> Vec<Control> {
        self.0.last.store(self.1.now().as_nanos(), Ordering::Relaxed);
        let complete = events.iter().filter(|e| matches!(e, Event::Complete { .. })).count() as u64;
        self.0.complete.fetch_add(complete, Ordering::Relaxed);
        Vec::new()
    }
}

async fn receive(c: Case, objects: u64) -> anyhow::Result<u64> {
    let source = if c.loss_percent > 0 { DOWNSTREAM } else { UPSTREAM };
    let clock = Clock::new();
    let spec = Spec {
        key: RenditionKey::new("bench", "video"),
        flow: flow(c, source),
        standby: Vec::new(),
        verify: Some(key().verifying_key()),
        assembly_bytes: 64 << 20,
        pool: (Pool::new(0), 0),
        interface: Some("lo".into()),
        recv_buffer: 4 << 20,
    };
    let joined = join(&spec, clock).map_err(|e| anyhow::anyhow!("{e}"))?;
    let (count, stop) = (Arc::new(Count::default()), CancellationToken::new());
    let sink = Arc::new(Counting(count.clone(), clock));
    let running = tokio::spawn(joined.run(sink, Arc::new(tokio::sync::Semaphore::new(2)), stop.clone()));
    ready()?;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let complete = count.complete.load(Ordering::Relaxed);
        let last = mahp_common::Time::from_nanos(count.last.load(Ordering::Relaxed));
        let heard = last > mahp_common::Time::ZERO;
        if complete >= objects || (heard && clock.now().since(last) > SILENCE) {
            stop.cancel();
            running.await??;
            return Ok(complete);
        }
    }
}

fn flute_endpoint() -> flute::core::UDPEndpoint {
    flute::core::UDPEndpoint::new(None, GROUP.to_string(), 7100)
}

fn flute_send(c: Case, objects: u64) -> anyhow::Result<u64> {
    let socket = udp::interface("lo").map_err(|e| anyhow::anyhow!("{e}"))?;
    let options = SendOptions { source: IpAddr::from(UPSTREAM), interface: socket, ttl: 1, dscp: 0 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    // Its own tools send packet by packet; so does this.
    let socket = MulticastSender::with_gso(&options, false).map_err(|e| anyhow::anyhow!("{e}"))?;
    // K = 780, 20 % repair: blocks as ours.
    let oti = flute::core::Oti::new_raptorq(1344, 780, 156, 1, 8).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let mut sender = Sender::new(flute_endpoint(), 1, &oti, &flute::sender::Config::default());
    ready()?;
    let start = Instant::now();
    let mut bits = 0u64;
    for n in 0..objects {
        let file = CreateFromBuffer::builder()
            .content(content(n).to_vec())
            .content_type("video/mp4".into())
            .content_location(url::Url::parse(&url(n))?)
            .config(TransferConfig::builder().max_transfer_count(1).build())
            .build();
        let file = file.create().map_err(|e| anyhow::anyhow!("{e:?}"))?;
        sender.add_object(0, file).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        sender.publish(SystemTime::now()).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        while sender.nb_objects() > 0 {
            let Some(packet) = sender.read(SystemTime::now()) else { continue };
            runtime.block_on(socket.send((GROUP, 7100).into(), &packet, packet.len()))?;
            bits += packet.len() as u64 * 8;
            if let Some(due) = (bits * 1000).checked_div(c.rate_mbit) {
                let due = start + Duration::from_nanos(due);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
    }
    Ok(objects)
}

fn flute_receive(c: Case, objects: u64) -> anyhow::Result<u64> {
    let source = if c.loss_percent > 0 { DOWNSTREAM } else { UPSTREAM };
    let socket = ssm_socket(source)?;
    socket.set_read_timeout(Some(SILENCE))?;
    let writer = std::rc::Rc::new(ObjectWriterBufferBuilder::new(true));
    let mut receiver = MultiReceiver::new(writer.clone(), None, false);
    let mut buffer = [0u8; 2048];
    ready()?;
    let mut heard = 0u64;
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                heard += 1;
                // A packet it cannot use is its own affair.
                let _ = receiver.push(&flute_endpoint(), &buffer[..len], SystemTime::now());
            }
            Err(_) if heard > 0 => break,
            Err(_) => continue,
        }
        // Looking through its objects is our cost, not its own: seldom.
        if !heard.is_multiple_of(256) {
            continue;
        }
        let finished = writer.objects.borrow().iter().filter(|o| o.borrow().complete).count() as u64;
        if finished >= objects {
            break;
        }
    }
    Ok(writer.objects.borrow().iter().filter(|o| o.borrow().complete).count() as u64)
}

fn ssm_socket(source: Ipv4Addr) -> anyhow::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&std::net::SocketAddr::from((GROUP, 7100)).into())?;
    socket.join_ssm_v4(&source, &GROUP, &UPSTREAM)?;
    Ok(socket.into())
}
