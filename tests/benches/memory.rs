//! Memory and processor time of both programs at 1 and at 20 live channels of 8 Mbit/s, with every channel watched.
//! `cargo bench -p mahp-tests --bench memory [-- SECONDS]`
//!
//! The real programs: an origin in this process (live HLS, 2 s segments of 2 MB that nothing compresses), `mahp-sender`, a link
//! that may lose packets, `mahp-receiver --join always`, and one client a channel that fetches each new segment.
//! RSS and CPU are read from /proc; with loss the link of the testbed relays packet by packet, without it there is no link.
#![allow(missing_docs)]

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mahp_common::WallTime;
use mahp_common::catalog::{SessionDescription, WELL_KNOWN_PATH};
use mahp_testbed::link::{Impairment, Link, Percent, endpoints};
use mahp_tests::client;
use mahp_tests::process::{Process, eventually};
use mahp_tests::rig::program;
use mahp_tests::tools;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

const SEGMENT_SECONDS: u64 = 2;
const SEGMENT_BYTES: usize = 2_000_000;
const WINDOW: u64 = 6;
/// Memory is looked at after the live window has filled.
const SETTLE: Duration = Duration::from_secs(24);
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
struct Case {
    channels: usize,
    loss: f64,
}

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(40);
    println!(
        "| channels | loss % | sender RSS MiB (peak) | sender CPU % of a core | receiver RSS MiB (peak) | receiver CPU % of a core | segments served | not by multicast |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (channels, loss) in [(1, 0.0), (1, 0.05), (20, 0.0), (20, 0.05)] {
        println!("{}", run(Case { channels, loss }, Duration::from_secs(seconds))?);
    }
    Ok(())
}

fn run(c: Case, time: Duration) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let origin = runtime.block_on(origin())?;
    let dir = tools::work_dir().join("memory");
    let (http, admin, listen) = (free()?, free()?, free()?);
    let mut command = Command::new(program("mahp-sender")?);
    for n in 0..c.channels {
        command.arg(format!("http://{origin}/channel{n}/live.m3u8"));
    }
    let announced = if c.loss > 0.0 { "127.0.0.2" } else { "127.0.0.1" };
    command.args(["--source", "127.0.0.1", "--announce-source", announced, "--interface", "lo"]);
    command.args(["--http", &http, "--admin", &admin]).arg("--key-file").arg(dir.join("sender.key"));
    let sender = Process::start("sender", &dir, &mut command)?;
    let session = format!("http://{http}{WELL_KNOWN_PATH}");
    let description = description(&session, c.channels).with_context(|| sender.tail())?;
    let impairment = Impairment { loss: Percent::from_fraction(c.loss), seed: 1, ..Impairment::default() };
    let link = {
        let _inside = runtime.enter();
        let start = || Link::start(endpoints(&description), Ipv4Addr::LOCALHOST, &impairment);
        (c.loss > 0.0).then(start).transpose()?
    };
    let mut command = Command::new(program("mahp-receiver")?);
    command.arg(&session).args(["--listen", &listen, "--admin", &free()?, "--interface", "lo"]);
    command.args(["--join", "always"]).arg("--state-dir").arg(dir.join("receiver-state"));
    let receiver = Process::start("receiver", &dir, &mut command)?;
    let viewers = Viewers::start(&listen, c.channels);
    std::thread::sleep(SETTLE);
    let (before, start) = ((usage(sender.id())?, usage(receiver.id())?), Instant::now());
    let (served, other) = (viewers.served(), viewers.other());
    std::thread::sleep(time);
    let (s, r, took) = (usage(sender.id())?, usage(receiver.id())?, start.elapsed().as_secs_f64());
    let (served, other) = (viewers.served() - served, viewers.other() - other);
    viewers.stop();
    drop((receiver, link, sender));
    ensure!(served > 0, "nothing was served: see {}", dir.display());
    let percent = |now: Usage, then: Usage| (now.cpu - then.cpu) / took * 100.0;
    Ok(format!(
        "| {} | {} | {:.0} ({:.0}) | {:.1} | {:.0} ({:.0}) | {:.1} | {served} | {other} |",
        c.channels,
        c.loss * 100.0,
        s.rss,
        s.peak,
        percent(s, before.0),
        r.rss,
        r.peak,
        percent(r, before.1),
    ))
}

/// One client a channel: each new segment once, as a player at the live edge would.
struct Viewers {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    other: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Viewers {
    fn start(listen: &str, channels: usize) -> Viewers {
        let (stop, served, other) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let watch = |n: usize| {
            let base = format!("http://{listen}/live/channel{n}/");
            let (stop, served, other) = (stop.clone(), served.clone(), other.clone());
            std::thread::spawn(move || {
                let mut last = String::new();
                while !stop.load(Relaxed) {
                    if let Some(name) = newest(&base).filter(|name| *name != last) {
                        let answer = client::get(&format!("{base}{name}"), &[]);
                        if answer.as_ref().is_ok_and(|a| a.status == 200 && a.body.len() == SEGMENT_BYTES) {
                            served.fetch_add(1, Relaxed);
                        }
                        if !answer.is_ok_and(|a| matches!(a.source(), "multicast" | "repaired")) {
                            other.fetch_add(1, Relaxed);
                        }
                        last = name;
                    }
                    std::thread::sleep(Duration::from_millis(500));
                }
            })
        };
        let threads = (0..channels).map(watch).collect();
        Viewers { stop, served, other, threads }
    }

    fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    fn other(&self) -> u64 {
        self.other.load(Relaxed)
    }

    fn stop(self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            // A viewer that panicked has been heard of already.
            let _ = thread.join();
        }
    }
}

/// The last segment of the playlist.
fn newest(base: &str) -> Option<String> {
    let playlist = client::get(&format!("{base}live.m3u8"), &[]).ok().filter(|a| a.status == 200)?;
    let text = String::from_utf8_lossy(&playlist.body).into_owned();
    let line = text.lines().rev().find(|line| !line.starts_with('#') && !line.is_empty())?;
    Some(line.rsplit('/').next().unwrap_or(line).to_owned())
}

/// Any number of live channels: `/NAME/live.m3u8` and `/NAME/N.ts`. Segments are slices of one block of random bytes.
async fn origin() -> anyhow::Result<SocketAddr> {
    let mut noise = vec![0; 2 * SEGMENT_BYTES];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    let noise = Bytes::from(noise);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let noise = noise.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let response = answer(request.uri().path(), &noise);
                    async move { Ok::<_, Infallible>(response) }
                });
                // A client that goes away is no error of the benchmark.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

fn answer(path: &str, noise: &Bytes) -> Response<Full<Bytes>> {
    let edge = unix_millis() / (SEGMENT_SECONDS * 1000);
    let name = path.rsplit('/').next().unwrap_or_default();
    let body = match name.strip_suffix(".ts").map(str::parse::<u64>) {
        None => Bytes::from(playlist(edge)),
        Some(Ok(n)) if n < edge => {
            // Channels differ too: no two objects of a run are equal.
            let at = (n as usize * 4099 + path.len() * 131_071) % SEGMENT_BYTES;
            noise.slice(at..at + SEGMENT_BYTES)
        }
        Some(_) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    };
    Response::new(Full::new(body))
}

fn playlist(edge: u64) -> String {
    let first = edge.saturating_sub(WINDOW);
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{SEGMENT_SECONDS}\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
    );
    for n in first..edge {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "#EXTINF:{SEGMENT_SECONDS}.0,\n{n}.ts");
    }
    text
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn description(url: &str, channels: usize) -> anyhow::Result<SessionDescription> {
    let whole = || {
        let answer = client::get(url, &[]).ok().filter(|answer| answer.status == 200)?;
        let now = WallTime::from_unix_millis(unix_millis());
        let opened = SessionDescription::open(&answer.body, None, now).ok()?.0;
        (opened.channels.len() == channels).then_some(opened)
    };
    eventually("the sender describes all channels", PATIENCE, whole)
}

fn free() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

#[derive(Clone, Copy)]
struct Usage {
    /// User and system time, seconds.
    cpu: f64,
    /// Resident now, MiB.
    rss: f64,
    /// Most that was resident, MiB.
    peak: f64,
}

fn usage(pid: u32) -> anyhow::Result<Usage> {
    let proc = Path::new("/proc").join(pid.to_string());
    let stat = std::fs::read_to_string(proc.join("stat"))?;
    // Fields 14 and 15 of proc_pid_stat(5); the name in parentheses may contain spaces.
    let rest = stat.rsplit_once(')').context("stat")?.1;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    let status = std::fs::read_to_string(proc.join("status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|l| l.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok())
    };
    // SAFETY: a plain query.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Ok(Usage {
        cpu: ticks.iter().sum::<f64>() / per_second,
        rss: kib("VmRSS").context("VmRSS")? / 1024.0,
        peak: kib("VmHWM").context("VmHWM")? / 1024.0,
    })
}
