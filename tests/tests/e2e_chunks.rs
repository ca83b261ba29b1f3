//! Low-latency DASH: the origin serves each segment while it is being made (HTTP chunked transfer), its CMAF chunks cross multicast
//! one by one, and the receiver's answer grows as they come.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use mahp_common::WallTime;
use mahp_runtime::fetch::{Fetcher, Opened, Request};
use mahp_testbed::presentation::iso8601;
use mahp_tests::process::eventually;
use mahp_tests::rig::{Receiver, Rig, Setup};
use mahp_tests::tools;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use url::Url;

/// A segment, and the chunks in it.
const SEGMENT_MS: u64 = 2000;
const CHUNKS: u64 = 4;
const CHUNK_MS: u64 = SEGMENT_MS / CHUNKS;
/// Payload of an `mdat` box.
const MDAT: usize = 75_000;
/// The channel is as old as that when the origin starts.
const AGE_MS: u64 = 20_000;
/// Segments that a player loads.
const PLAYED: u64 = 6;
/// Until the next piece of an answer. Generous: build machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// 5 % of the packets are lost.
const PAIR: Setup = Setup {
    sender: &["--low-latency", "--moq", "127.0.0.1:0"],
    receiver: &["--join", "always", "--recovery", "moq"],
    ..Setup::LIVE
};

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
}

/// A chunk: `moof` and `mdat`, with bytes that are of no other.
fn chunk(segment: u64, number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(segment * CHUNKS + number);
    let mut out = Vec::new();
    for (kind, size) in [(b"moof", 120), (b"mdat", MDAT)] {
        out.extend_from_slice(&u32::try_from(size + 8).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(kind);
        out.extend(std::iter::repeat_with(|| rng.u8(..)).take(size));
    }
    out
}

fn segment(number: u64) -> Vec<u8> {
    (0..CHUNKS).flat_map(|n| chunk(number, n)).collect()
}

/// A low-latency DASH origin.
struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// When segment 1 began, Unix milliseconds.
    epoch: u64,
    /// Segments that a receiver asked for.
    asked: AtomicU64,
    stop: AtomicBool,
}

impl Origin {
    fn start() -> anyhow::Result<Origin> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            epoch: now_ms() - AGE_MS,
            asked: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = serving.clone();
                // A client that has gone is no failure of the origin.
                std::thread::spawn(move || _ = shared.serve(stream));
            }
        });
        Ok(Origin { address, shared })
    }

    fn manifest(&self) -> String {
        format!("http://{}/ll/live.mpd", self.address)
    }

    /// Number of the segment whose first chunk comes next, and when: Unix milliseconds.
    fn next(&self) -> (u64, u64) {
        let number = (now_ms() - self.shared.epoch) / SEGMENT_MS + 2;
        (number, self.shared.due(number, 0))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// When a chunk is there.
    fn due(&self, segment: u64, chunk: u64) -> u64 {
        self.epoch + (segment - 1) * SEGMENT_MS + (chunk + 1) * CHUNK_MS
    }

    fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let (mut path, mut from_receiver, mut line) = (String::new(), false, String::new());
            while reader.read_line(&mut line)? > 0 && line != "\r\n" {
                if let Some(rest) = line.strip_prefix("GET ") {
                    path = rest.split(' ').next().unwrap_or_default().to_owned();
                }
                let lower = line.to_ascii_lowercase();
                from_receiver |= lower.starts_with("user-agent: mahp-receiver");
                line.clear();
            }
            let name = path.rsplit('/').next().unwrap_or_default();
            let number = name.strip_prefix("seg-").and_then(|n| n.strip_suffix(".m4s"));
            match (name, number.and_then(|n| n.parse::<u64>().ok())) {
                ("live.mpd", _) => whole(&mut stream, "application/dash+xml", self.mpd().as_bytes())?,
                ("init.mp4", _) => whole(&mut stream, "video/mp4", b"\0\0\0\x10ftypcmf2\0\0\0\0")?,
                (_, Some(number)) if now_ms() >= self.due(number, 0) => {
                    self.asked.fetch_add(u64::from(from_receiver), Ordering::Relaxed);
                    self.segment(&mut stream, number)?;
                }
                _ if path.is_empty() => return Ok(()),
                _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
            }
        }
    }

    /// Ranges are not understood.
    fn segment(&self, stream: &mut TcpStream, number: u64) -> anyhow::Result<()> {
        if now_ms() >= self.due(number, CHUNKS - 1) {
            return whole(stream, "video/mp4", &segment(number));
        }
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nCache-Control: max-age=60\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        )?;
        for n in 0..CHUNKS {
            let wait = self.due(number, n).saturating_sub(now_ms());
            std::thread::sleep(Duration::from_millis(wait));
            let bytes = chunk(number, n);
            write!(stream, "{:x}\r\n", bytes.len())?;
            stream.write_all(&bytes)?;
            write!(stream, "\r\n")?;
        }
        write!(stream, "0\r\n\r\n")?;
        Ok(())
    }

    fn mpd(&self) -> String {
        let start = iso8601(WallTime::from_unix_millis(self.epoch));
        format!(
            "<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"dynamic\" profiles=\"urn:mpeg:dash:profile:isoff-live:2011\" \
             availabilityStartTime=\"{start}\" minimumUpdatePeriod=\"PT5S\" \
             timeShiftBufferDepth=\"PT20S\" maxSegmentDuration=\"PT2S\" minBufferTime=\"PT1S\">\
             <Period id=\"0\" start=\"PT0S\"><AdaptationSet contentType=\"video\" mimeType=\"video/mp4\">\
             <SegmentTemplate timescale=\"1000\" duration=\"{SEGMENT_MS}\" startNumber=\"1\" media=\"seg-$Number$.m4s\" \
             initialization=\"init.mp4\" availabilityTimeOffset=\"1.5\" availabilityTimeComplete=\"false\"/>\
             <Representation id=\"v\" bandwidth=\"1300000\" codecs=\"avc1.42c01f\" width=\"640\" height=\"360\"/>\
             </AdaptationSet></Period></MPD>"
        )
    }
}

fn whole(stream: &mut TcpStream, kind: &str, body: &[u8]) -> anyhow::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    Ok(())
}

/// A player that reads segments as they come.
struct Player {
    fetcher: Fetcher,
    runtime: Runtime,
}

impl Player {
    fn new() -> anyhow::Result<Player> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Player { fetcher: Fetcher::new("player"), runtime })
    }

    /// Asks for a segment when it begins.
    fn open(&self, receiver: &Receiver, number: u64, due: u64) -> anyhow::Result<Opened> {
        std::thread::sleep(Duration::from_millis(due.saturating_sub(now_ms())));
        let url = Url::parse(&receiver.url(&format!("seg-{number}.m4s")))?;
        let request =
            Request { first_byte_timeout: Some(PATIENCE), timeout: Some(PATIENCE), ..Request::default() };
        Ok(self.runtime.block_on(self.fetcher.open(&url, request))?)
    }

    /// The first piece.
    fn first(&self, opened: &mut Opened) -> anyhow::Result<Bytes> {
        self.runtime.block_on(opened.chunk())?.context("a first piece")
    }

    /// Reads to the end. Returns the bytes, and when each piece came.
    fn read(&self, opened: &mut Opened) -> anyhow::Result<(Vec<u8>, Vec<u64>)> {
        let (mut bytes, mut times) = (Vec::new(), Vec::new());
        while let Some(piece) = self.runtime.block_on(opened.chunk())? {
            bytes.extend_from_slice(&piece);
            times.push(now_ms());
        }
        Ok((bytes, times))
    }
}

fn object_bytes(receiver: &Receiver, way: &str) -> u64 {
    let status = receiver.status().ok();
    status.and_then(|s| s.pointer(&format!("/totals/object_bytes/{way}"))?.as_u64()).unwrap_or(0)
}

/// Waits until chunks come by multicast.
fn warm_up(rig: &Rig) -> anyhow::Result<()> {
    let enough = 2 * segment(1).len() as u64;
    eventually("chunks come by multicast", 2 * PATIENCE, || {
        (object_bytes(&rig.receiver, "multicast") >= enough).then_some(())
    })
    .with_context(|| rig.tails())
}

#[test]
fn a_segment_is_read_while_it_is_made() -> anyhow::Result<()> {
    let origin = Origin::start()?;
    let rig = Rig::start_all("chunks", &[origin.manifest()], &PAIR)?;
    warm_up(&rig)?;
    let asked = origin.shared.asked.load(Ordering::Relaxed);
    let (player, mut early, mut delays) = (Player::new()?, 0, Vec::new());
    for _ in 0..PLAYED {
        let (number, due) = origin.next();
        let mut opened = player.open(&rig.receiver, number, due).with_context(|| rig.tails())?;
        let (bytes, times) = player.read(&mut opened).with_context(|| rig.tails())?;
        ensure!(bytes == segment(number), "segment {number}: other bytes than the origin's\n{}", rig.tails());
        // It began before it was complete at the origin.
        early += u32::from(times.first().is_some_and(|at| *at < origin.shared.due(number, CHUNKS - 1)));
        delays.push((times[0] - due, times[times.len() - 1] - origin.shared.due(number, CHUNKS - 1)));
    }
    let asked = origin.shared.asked.load(Ordering::Relaxed) - asked;
    tools::say(&format!(
        "first and last chunk after the origin had it, ms: {delays:?}; origin asked {asked} times"
    ));
    ensure!(early * 2 > PLAYED as u32, "{early} of {PLAYED} answers began before their segment's end");
    ensure!(asked * 2 < PLAYED, "the origin was asked {asked} times for {PLAYED} segments\n{}", rig.tails());
    Ok(())
}

/// Multicast dies while a segment is being read: the rest comes from the origin.
#[test]
fn what_multicast_does_not_bring_is_had_from_the_origin() -> anyhow::Result<()> {
    let origin = Origin::start()?;
    let setup = Setup { receiver: &["--join", "always", "--recovery", "http"], loss: 0.0, ..PAIR };
    let rig = Rig::start_all("chunks-origin", &[origin.manifest()], &setup)?;
    warm_up(&rig)?;
    let player = Player::new()?;
    let (number, due) = origin.next();
    let mut opened = player.open(&rig.receiver, number, due)?;
    let first = player.first(&mut opened)?;
    rig.lose(1.0);
    let (rest, _) = player.read(&mut opened).with_context(|| rig.tails())?;
    ensure!(
        [&first[..], &rest].concat() == segment(number),
        "other bytes than the origin's\n{}",
        rig.tails()
    );
    Ok(())
}

/// Nothing may be asked: an answer that cannot be completed is broken off, never short and clean.
#[test]
fn an_answer_that_cannot_go_on_is_broken_off() -> anyhow::Result<()> {
    let origin = Origin::start()?;
    let setup = Setup { receiver: &["--join", "always", "--unicast", "off"], loss: 0.0, ..PAIR };
    let rig = Rig::start_all("chunks-alone", &[origin.manifest()], &setup)?;
    warm_up(&rig)?;
    let player = Player::new()?;
    let (number, due) = origin.next();
    let mut opened = player.open(&rig.receiver, number, due)?;
    player.first(&mut opened)?;
    rig.lose(1.0);
    match player.read(&mut opened) {
        Err(_) => Ok(()),
        Ok((rest, _)) => bail!("{} bytes, and a clean end", rest.len()),
    }
}
