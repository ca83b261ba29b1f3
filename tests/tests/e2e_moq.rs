//! The pair with Media over QUIC: what a bad link loses comes from the sender's MoQ publisher.

use anyhow::{Context, ensure};
use mahp_moq::catalog::Kind;
use mahp_moq::plane::{Fetching as _, ObjectPlane as _, PlaneError};
use mahp_moq::publisher::namespace;
use mahp_moq::quic::{Identity, Limits, Listener, QuicSession, open};
use mahp_moq::wire::LocationRange;
use mahp_moq::{Exchange, Object, TrackName};
use mahp_tests::client;
use mahp_tests::looped;
use mahp_tests::origin::Origin;
use mahp_tests::process::eventually;
use mahp_tests::rig::{Receiver, Rig, Setup};
use mahp_tests::tools;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Segments of a pass of the channel, of a second each.
const SEGMENTS: usize = 10;
/// Bytes of a segment: 2.4 Mbit/s.
const LEN: usize = 300_000;
/// A player's poll of the playlist.
const POLL: Duration = Duration::from_millis(250);
/// Until a segment that was listed is here, and the next is listed. Generous: build machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the sender is away.
const OUTAGE: Duration = Duration::from_secs(5);
/// Longest time between two segments: what a player has that begins three of them behind the live edge, and a pause of a loaded
/// machine.
const STALL: Duration = Duration::from_secs(8);

/// The receiver's count of objects that a MoQ subscription brought.
const HEARD: &str = "mahp_receiver_repair_requests_total{what=\"moq_objects_heard\"}";

/// Its count of signed records.
const RECORDS: &str = "mahp_receiver_repair_requests_total{what=\"moq_records\"}";

/// Its count of objects that it served from its store.
const FROM_STORE: &str = "mahp_receiver_repair_requests_total{what=\"moq_relay_store\"}";

/// A quarter of the packets is lost, and the stream repairs a twentieth.
const LOSSY: Setup = Setup {
    loss: 0.25,
    sender: &["--moq", "127.0.0.1:0", "--repair", "5", "--repair-ceiling", "5"],
    receiver: &["--join", "always", "--recovery", "moq", "--moq-listen", "127.0.0.1:0"],
    ..Setup::LIVE
};

/// A VOD of random bytes, which the origin makes a live channel of.
fn content(name: &str) -> anyhow::Result<PathBuf> {
    content_of(name, SEGMENTS, LEN)
}

/// The same with so many segments of this length.
fn content_of(name: &str, segments: usize, len: usize) -> anyhow::Result<PathBuf> {
    let root = tools::work_dir().join(name);
    let folder = root.join("tv");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&folder)?;
    let mut playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n".to_owned();
    let mut rng = fastrand::Rng::with_seed(4);
    for n in 0..segments {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
        fs::write(folder.join(format!("s{n}.ts")), bytes)?;
        writeln!(playlist, "#EXTINF:1.0,\ns{n}.ts")?;
    }
    fs::write(folder.join("media.m3u8"), playlist + "#EXT-X-ENDLIST\n")?;
    let variant = format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH={}\nmedia.m3u8\n", len * 8);
    fs::write(folder.join("master.m3u8"), variant)?;
    Ok(root)
}

/// A player that compares: follows the playlist until `more` segments that `seen` does not have were the origin's, byte for
/// byte. Returns their sources.
fn play(
    receiver: &Receiver,
    root: &Path,
    more: usize,
    seen: &mut BTreeSet<String>,
) -> anyhow::Result<Vec<String>> {
    let mut sources = Vec::new();
    while sources.len() < more {
        let names = eventually("a new segment is listed", PATIENCE, || {
            let playlist = client::get(&receiver.url("media.m3u8"), &[]).ok().filter(|a| a.status == 200)?;
            let text = String::from_utf8_lossy(&playlist.body).into_owned();
            let new: Vec<String> = text
                .lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty() && !seen.contains(*line))
                .map(str::to_owned)
                .collect();
            (!new.is_empty()).then_some(new)
        })
        .with_context(|| receiver.tail())?;
        for name in names {
            let answer = client::get(&receiver.url(&name), &[])?;
            let file = fs::read(root.join("tv").join(looped::file(&name)))?;
            ensure!(answer.status == 200, "{name}: {}", answer.status);
            ensure!(answer.body == file, "{name}: other bytes than the origin's ({})", answer.source());
            sources.push(answer.source().to_owned());
            seen.insert(name);
        }
        std::thread::sleep(POLL);
    }
    Ok(sources)
}

/// A player that goes on whatever happens. It leaves nothing out, plays nothing twice, and compares.
struct Steady {
    /// Number of its newest segment in the channel.
    at: Option<usize>,
    /// When it had that, and the longest time between two.
    last: Instant,
    longest: Duration,
}

impl Steady {
    fn new() -> Steady {
        Steady { at: None, last: Instant::now(), longest: Duration::ZERO }
    }

    /// Loads what is new.
    fn step(&mut self, receiver: &Receiver, root: &Path) -> anyhow::Result<()> {
        std::thread::sleep(POLL);
        let Ok(playlist) = client::get(&receiver.url("media.m3u8"), &[]) else { return Ok(()) };
        let text = String::from_utf8_lossy(&playlist.body).into_owned();
        let listed = text.lines().filter_map(|line| Some((number(line)?, line)));
        let new: Vec<(usize, &str)> = listed.filter(|(n, _)| self.at.is_none_or(|at| at < *n)).collect();
        for (number, name) in new {
            ensure!(self.at.is_none_or(|at| number == at + 1), "{:?} is followed by {number}", self.at);
            let answer = client::get(&receiver.url(name), &[])?;
            ensure!(answer.status == 200, "{name}: {}", answer.status);
            ensure!(
                answer.body == fs::read(root.join("tv").join(looped::file(name)))?,
                "{name}: other bytes than the origin's ({})",
                answer.source()
            );
            if self.at.replace(number).is_some() {
                self.longest = self.longest.max(self.last.elapsed());
            }
            self.last = Instant::now();
        }
        Ok(())
    }
}

/// Number of a segment in the channel, from its line in the playlist: `pass2-s3.ts`.
fn number(line: &str) -> Option<usize> {
    let (pass, segment) = line.strip_prefix("pass")?.split_once("-s")?;
    Some(pass.parse::<usize>().ok()? * SEGMENTS + segment.strip_suffix(".ts")?.parse::<usize>().ok()?)
}

/// Bytes of complete objects that came this way.
fn bytes_by(receiver: &Receiver, way: &str) -> u64 {
    let status = receiver.status().ok();
    status.and_then(|s| s.pointer(&format!("/totals/object_bytes/{way}"))?.as_u64()).unwrap_or(0)
}

/// Plays until a repaired segment was served and `way` has brought bytes. Returns the sources of all segments.
fn play_until_repaired(receiver: &Receiver, root: &Path, way: &str) -> anyhow::Result<Vec<String>> {
    let (mut sources, mut seen) = (Vec::new(), BTreeSet::new());
    while bytes_by(receiver, way) == 0 || !sources.iter().any(|source| source == "repaired") {
        ensure!(sources.len() < 90, "nothing was repaired by `{way}`: {sources:?}\n{}", receiver.tail());
        sources.extend(play(receiver, root, 1, &mut seen)?);
    }
    Ok(sources)
}

/// Beside the receiver that asks the publisher, one that may not: the bytes by MoQ are that of the first alone.
#[test]
fn what_a_bad_link_loses_comes_over_moq() -> anyhow::Result<()> {
    let root = content("moq-loss")?;
    let origin = Origin::start(&root)?;
    let rig = Rig::start("moq-loss", &origin, "looped/tv/master.m3u8", &LOSSY)?;
    let without = rig.another_receiver("without", &["--join", "always", "--recovery", "http"])?;
    let (moq, http) = std::thread::scope(|scope| {
        let control = scope.spawn(|| play_until_repaired(&without, &root, "sender"));
        (play_until_repaired(&rig.receiver, &root, "moq"), control.join())
    });
    let moq = moq.inspect_err(|_| tools::say(&rig.tails()))?;
    let http = http.map_err(|_| anyhow::anyhow!("the control panicked"))??;
    tools::say(&format!(
        "25 % loss: {} bytes by MoQ, {} by multicast, {} by the origin; sources {moq:?}; control {http:?}",
        bytes_by(&rig.receiver, "moq"),
        bytes_by(&rig.receiver, "multicast"),
        bytes_by(&rig.receiver, "origin"),
    ));
    ensure!(bytes_by(&rig.receiver, "sender") == 0, "a repair server was asked, too");
    ensure!(bytes_by(&without, "moq") == 0, "a receiver that may not asked over MoQ");
    Ok(())
}

/// Multicast dies in mid-play: the objects come from a subscription instead, and by multicast again when it is back.
#[test]
fn while_multicast_is_gone_objects_are_subscribed_to() -> anyhow::Result<()> {
    let root = content("moq-gone")?;
    let origin = Origin::start(&root)?;
    let rig = Rig::start("moq-gone", &origin, "looped/tv/master.m3u8", &Setup { loss: 0.0, ..LOSSY })?;
    let mut seen = BTreeSet::new();
    let report = |_: &anyhow::Error| tools::say(&rig.tails());
    play(&rig.receiver, &root, 6, &mut seen).inspect_err(report)?;
    rig.lose(1.0);
    let mut sources = Vec::new();
    // As long as it takes: a loaded machine is slow to notice.
    while rig.receiver.metric(HEARD) < 6.0 {
        ensure!(sources.len() < 60, "no object was subscribed to\n{}", rig.tails());
        sources.extend(play(&rig.receiver, &root, 1, &mut seen).inspect_err(report)?);
    }
    rig.lose(0.0);
    let before = bytes_by(&rig.receiver, "multicast");
    while bytes_by(&rig.receiver, "multicast") < before + 4 * LEN as u64 {
        ensure!(sources.len() < 120, "multicast is not used again\n{}", rig.tails());
        sources.extend(play(&rig.receiver, &root, 1, &mut seen).inspect_err(report)?);
    }
    tools::say(&format!("multicast gone and back: sources {sources:?}"));
    ensure!(bytes_by(&rig.receiver, "moq") > 0, "no byte came over MoQ\n{}", rig.tails());
    Ok(())
}

/// One packet in a thousand arrives, which is not silence: segments and playlists come from a subscription, and the origin is not
/// asked for any of them.
#[test]
fn at_near_total_loss_playlists_come_over_moq_too() -> anyhow::Result<()> {
    const MORE: usize = 12;
    let root = content("moq-near-total")?;
    let origin = Origin::start(&root)?;
    let setup = Setup { loss: 0.999, ..LOSSY };
    let rig = Rig::start("moq-near-total", &origin, "looped/tv/master.m3u8", &setup)?;
    let report = |_: &anyhow::Error| tools::say(&rig.tails());
    let (mut seen, mut played) = (BTreeSet::new(), 0);
    // Records of a second of each, and their objects.
    while rig.receiver.metric(HEARD) < 6.0 {
        ensure!(played < 60, "no object was subscribed to\n{}", rig.tails());
        played += play(&rig.receiver, &root, 1, &mut seen).inspect_err(report)?.len();
    }
    origin.clear_log();
    let sources = play(&rig.receiver, &root, MORE, &mut seen).inspect_err(report)?;
    let asked: Vec<String> = origin
        .log()
        .iter()
        .filter(|a| a.agent.starts_with("mahp-receiver"))
        .map(|a| a.path.clone())
        .collect();
    let segments = asked.iter().filter(|path| path.ends_with(".ts")).count();
    tools::say(&format!("99.9 % loss: sources {sources:?}; the receiver asked the origin for {asked:?}"));
    ensure!(segments == 0, "segments came from the origin: {asked:?}\n{}", rig.tails());
    // A machine that stands still for two seconds makes a playlist old.
    ensure!(asked.len() <= 2, "playlists came from the origin: {asked:?}\n{}", rig.tails());
    Ok(())
}

/// A MoQ relay in this process.
struct Relay {
    listener: Option<Listener>,
    identity: Identity,
    address: SocketAddr,
    runtime: Runtime,
}

impl Relay {
    fn start() -> anyhow::Result<Relay> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let identity = Identity::self_signed(&["localhost".into()])?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut relay = Relay { listener: None, identity, address, runtime };
        relay.listen()?;
        Ok(relay)
    }

    /// Listens (again) at its address.
    fn listen(&mut self) -> anyhow::Result<()> {
        let _inside = self.runtime.enter();
        let bound = eventually("the relay's port is free", PATIENCE, || {
            Listener::bind(self.address, &self.identity, Exchange::relay(), Limits::default()).ok()
        })?;
        self.address = bound.local_addr()?;
        self.listener = Some(bound);
        Ok(())
    }

    fn url(&self) -> String {
        format!("moqt://{}/#sha256={}", self.address, self.identity.fingerprint())
    }
}

/// The sender reaches its receivers through a relay only, and that dies and comes back.
#[test]
fn sender_and_receiver_meet_at_a_relay_again_and_again() -> anyhow::Result<()> {
    let root = content("moq-by-relay")?;
    let origin = Origin::start(&root)?;
    let mut relay = Relay::start()?;
    let url: &'static str = relay.url().leak();
    let sender = vec!["--moq-relay", url, "--repair", "5", "--repair-ceiling", "5"].leak();
    let setup = Setup { sender, ..LOSSY };
    let rig = Rig::start("moq-by-relay", &origin, "looped/tv/master.m3u8", &setup)?;
    let mut seen = BTreeSet::new();
    for life in 0..2 {
        let (before, records) = (bytes_by(&rig.receiver, "moq"), rig.receiver.metric(RECORDS));
        let mut played = 0;
        while bytes_by(&rig.receiver, "moq") == before || rig.receiver.metric(RECORDS) == records {
            ensure!(played < 90, "nothing came through the relay in life {life}\n{}", rig.tails());
            let more = play(&rig.receiver, &root, 1, &mut seen);
            played += more.inspect_err(|_| tools::say(&rig.tails()))?.len();
        }
        relay.listener = None;
        relay.listen()?;
    }
    Ok(())
}

/// A receiver whose only publisher is another receiver: records, repair and, while multicast is gone, the objects.
#[test]
fn a_receiver_is_the_publisher_of_another() -> anyhow::Result<()> {
    let root = content("moq-relay")?;
    let origin = Origin::start(&root)?;
    let rig = Rig::start("moq-relay", &origin, "looped/tv/master.m3u8", &LOSSY)?;
    let first = rig.receiver.moq_url().with_context(|| rig.tails())?;
    let options = ["--join", "always", "--recovery", "moq", "--moq-publisher", &first];
    let second = rig.another_receiver("second", &options)?;
    let report = |_: &anyhow::Error| tools::say(&format!("{}{}", rig.tails(), second.tail()));
    let mut seen = BTreeSet::new();
    let mut played = 0;
    while bytes_by(&second, "moq") == 0 || second.metric(RECORDS) < 4.0 {
        ensure!(played < 60, "nothing came from the first\n{}{}", rig.tails(), second.tail());
        played += play(&second, &root, 1, &mut seen).inspect_err(report)?.len();
    }
    rig.lose(1.0);
    while second.metric(HEARD) < 4.0 {
        ensure!(played < 120, "the first passed no object on\n{}{}", rig.tails(), second.tail());
        played += play(&second, &root, 1, &mut seen).inspect_err(report)?.len();
    }
    ensure!(rig.receiver.metric(HEARD) > 0.0, "the first had nothing to pass on");
    Ok(())
}

/// A MoQ client of one session, which it opens again where that has failed: those that are dropped without a word count until they
/// time out, and an address has so many.
struct Client {
    publisher: String,
    runtime: Runtime,
    session: Option<QuicSession>,
}

impl Client {
    fn new(publisher: &str) -> anyhow::Result<Client> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Client { publisher: publisher.to_owned(), runtime, session: None })
    }

    /// Every group of segments of which the publisher has a record, fetched by itself.
    fn fetch_groups(&mut self, receiver: &Receiver) -> anyhow::Result<Vec<Result<Vec<Object>, PlaneError>>> {
        let status = receiver.status()?;
        let channel = status.pointer("/channels/0/name").and_then(|v| v.as_str()).context("no channel")?;
        let of =
            status.pointer("/channels/0/renditions").and_then(|v| v.as_array()).context("no renditions")?;
        let media = of.iter().find(|r| r["role"] != "manifest").and_then(|r| r["id"].as_str());
        let media = media.context("no segments")?;
        let track = |kind: Kind| TrackName::new(namespace(channel), kind.track(media));
        let (publisher, kept) = (self.publisher.parse()?, self.session.take());
        let (session, all) = self.runtime.block_on(async {
            let session = match kept {
                Some(session) => session,
                None => open(&publisher, Exchange::new(), Limits::default()).await?,
            };
            let fetch = async |kind: Kind, range: LocationRange| {
                session.fetch(&track(kind), range).await?.collect(32 << 20).await
            };
            let records = fetch(Kind::Manifest, LocationRange::groups(0, u64::MAX)).await?;
            let mut all = Vec::new();
            for Object { at, .. } in records {
                all.push(fetch(Kind::Media, LocationRange::groups(at.group, at.group)).await);
            }
            anyhow::Ok((session, all))
        })?;
        self.session = Some(session);
        Ok(all)
    }
}

/// A receiver keeps four segments for those who subscribe: what came before is in its store, and there is nobody else to ask.
#[test]
fn what_is_past_comes_from_the_store_of_a_receiver() -> anyhow::Result<()> {
    const LARGE: usize = 1_000_000;
    let root = content_of("moq-past", SEGMENTS, LARGE)?;
    let origin = Origin::start(&root)?;
    let mut rig = Rig::start("moq-past", &origin, "looped/tv/master.m3u8", &Setup { loss: 0.0, ..LOSSY })?;
    let publisher = rig.receiver.moq_url().with_context(|| rig.tails())?;
    let mut moq = Client::new(&publisher)?;
    let mut seen = BTreeSet::new();
    // The receiver keeps what playlists listed for twice their length.
    while seen.len() < 18 || rig.receiver.metric(RECORDS) < 30.0 {
        ensure!(seen.len() < 60, "no records\n{}", rig.tails());
        play(&rig.receiver, &root, 1, &mut seen).inspect_err(|_| tools::say(&rig.tails()))?;
    }
    rig.kill_sender();
    let files: Vec<Vec<u8>> = (0..SEGMENTS)
        .map(|n| fs::read(root.join("tv").join(format!("s{n}.ts"))))
        .collect::<Result<_, _>>()?;
    let groups = moq.fetch_groups(&rig.receiver).with_context(|| rig.tails())?;
    let past: Vec<&Object> = groups.iter().flatten().flatten().collect();
    let same = past.iter().filter(|object| files.iter().any(|file| file[..] == object.payload[..])).count();
    let from_store = rig.receiver.metric(FROM_STORE);
    tools::say(&format!("{} groups, {} segments, {from_store} from the store", groups.len(), past.len()));
    ensure!(same == past.len(), "{} of {} are none of the origin's", past.len() - same, past.len());
    ensure!(past.len() >= 8, "only {} segments\n{}", past.len(), rig.tails());
    ensure!(from_store >= 4.0, "{from_store} segments came from the store\n{}", rig.tails());
    Ok(())
}

/// A film of which the sender keeps a few segments: it gets the others from the origin again, as long as there is one.
#[test]
fn every_group_of_a_film_can_be_fetched_from_the_sender() -> anyhow::Result<()> {
    const FILM: usize = 36;
    const LARGE: usize = 1_000_000;
    let root = content_of("moq-film", FILM, LARGE)?;
    let origin = Origin::start(&root)?;
    let sender = &[
        "--moq",
        "127.0.0.1:0",
        "--vod-rate",
        "32 Mbit/s",
        "--loop",
        "--spool-bytes",
        "3000KiB",
        "--repair-memory",
        "5000KiB",
    ];
    let setup = Setup { loss: 0.0, sender, ..LOSSY };
    let rig = Rig::start("moq-film", &origin, "tv/master.m3u8", &setup)?;
    let mut moq = Client::new(&rig.publisher()?)?;
    let files: Vec<Vec<u8>> =
        (0..FILM).map(|n| fs::read(root.join("tv").join(format!("s{n}.ts")))).collect::<Result<_, _>>()?;
    let mut groups = Vec::new();
    eventually("the film was sent once", PATIENCE, || {
        groups = moq.fetch_groups(&rig.receiver).unwrap_or_default();
        (groups.iter().flatten().flatten().count() >= FILM).then_some(())
    })
    .with_context(|| rig.tails())?;
    let objects: Vec<&Object> = groups.iter().flatten().flatten().collect();
    for (n, file) in files.iter().enumerate() {
        ensure!(objects.iter().any(|o| o.payload[..] == file[..]), "segment {n} cannot be fetched");
    }
    ensure!(objects.iter().all(|o| files.iter().any(|f| f[..] == o.payload[..])), "others than the origin's");
    let requests = |origin: &Origin| origin.log().len();
    let before = requests(&origin);
    drop(origin);
    // What is left is what the sender has, and the rest is refused, soon.
    let start = Instant::now();
    let without = moq.fetch_groups(&rig.receiver)?;
    let got = without.iter().flatten().flatten().count();
    let refused = without.iter().filter(|g| matches!(g, Err(PlaneError::Refused(_)))).count();
    tools::say(&format!(
        "{} groups of {FILM} segments, {before} requests at the origin; without it {got}, {refused} refused, in {:?}",
        groups.len(),
        start.elapsed()
    ));
    ensure!(got >= 10 && refused >= 5, "{got} came and {refused} were refused\n{}", rig.tails());
    ensure!(start.elapsed() < PATIENCE, "{:?} for refusals", start.elapsed());
    Ok(())
}

/// The sender crashes in mid-play and comes back with another certificate and port: the session description tells both.
#[test]
fn a_sender_that_was_restarted_is_found_again() -> anyhow::Result<()> {
    let root = content("moq-restart")?;
    let origin = Origin::start(&root)?;
    let mut rig = Rig::start("moq-restart", &origin, "looped/tv/master.m3u8", &LOSSY)?;
    let mut player = Steady::new();
    // Until MoQ repairs what the link loses, twice: before the crash, and after it.
    for life in 0..2 {
        let until = Instant::now() + PATIENCE;
        let now = |rig: &Rig| {
            (
                bytes_by(&rig.receiver, "moq"),
                bytes_by(&rig.receiver, "multicast"),
                rig.receiver.metric(RECORDS),
            )
        };
        let before = now(&rig);
        loop {
            player.step(&rig.receiver, &root).with_context(|| rig.tails())?;
            let (moq, multicast, records) = now(&rig);
            if moq > before.0 && multicast > before.1 + LEN as u64 && records > before.2 {
                break;
            }
            ensure!(Instant::now() < until, "no repair over MoQ in life {life}\n{}", rig.tails());
        }
        if life == 0 {
            rig.kill_sender();
            let outage = Instant::now() + OUTAGE;
            while Instant::now() < outage {
                player.step(&rig.receiver, &root).with_context(|| rig.tails())?;
            }
            rig.restart_sender()?;
        }
    }
    tools::say(&format!("sender restarted: {:?} at most between two segments", player.longest));
    ensure!(player.longest < STALL, "{:?} between two segments\n{}", player.longest, rig.tails());
    Ok(())
}
