//! Networks other than the usual one: IPv6 between two namespaces, any-source multicast, a description heard in band, joining only
//! while somebody watches, and a FLUTE sender that is not ours.

use anyhow::{Context, ensure};
use flute::core::{Oti, UDPEndpoint};
use flute::sender::{Config, CreateFromBuffer, Sender, TransferConfig};
use mahp_tests::client;
use mahp_tests::content::{self, CLIP_FRAMES, CLIP_SECONDS};
use mahp_tests::origin::{Habits, Origin};
use mahp_tests::players::ffmpeg::{self, Live};
use mahp_tests::process::eventually;
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{Description, Place, Receiver, Rig, Setup};
use mahp_tests::tools;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

const PATIENCE: Duration = Duration::from_secs(60);

fn row(content: &str, way: &str, multicast: f64) {
    report::add(&Row {
        player: "ffmpeg".into(),
        content: content.into(),
        way: way.into(),
        played: CLIP_SECONDS,
        multicast: Some(multicast),
        ..Row::default()
    });
}

/// One presentation through the pair: the origin's frames, the origin's bytes, nearly all by multicast.
fn plays(name: &str, folder: &str, origin: &Origin, setup: &Setup) -> anyhow::Result<Rig> {
    let rig = Rig::start(name, origin, &content::manifest(folder), setup)?;
    rig.one_round().with_context(|| rig.tails())?;
    let direct = ffmpeg::decode(&origin.url(&content::manifest(folder)), None)?;
    let played = ffmpeg::decode(&rig.receiver.manifest(), None).with_context(|| rig.tails())?;
    ensure!(played.frames == direct.frames, "{name}: other frames than from the origin\n{}", rig.tails());
    let same = rig.compare(origin, folder, &content::pieces(&content::make()?.join(folder))?);
    same.check().with_context(|| rig.tails())?;
    ensure!(same.share() >= 0.95, "{name}: {:.3} by multicast\n{}", same.share(), rig.tails());
    row(folder, name, same.share());
    Ok(rig)
}

/// Endpoints of the first channel's flows as the sender's status tells them.
fn groups(status: &Value) -> Vec<String> {
    let renditions = status.pointer("/channels/0/renditions").and_then(Value::as_array).cloned();
    renditions.unwrap_or_default().iter().filter_map(|r| r["flow"].as_str().map(str::to_owned)).collect()
}

#[test]
fn any_source_multicast() -> anyhow::Result<()> {
    if !ffmpeg::have("any-source multicast") {
        return Ok(());
    }
    let origin = Origin::start(&content::make()?)?;
    let setup = Setup {
        place: Place::DIRECT,
        sender: &["--asm", "--loop", "--vod-rate", "12 Mbit/s"],
        ..Setup::CAROUSEL
    };
    let rig = plays("any-source multicast", "hls-fmp4", &origin, &setup)?;
    let groups = groups(&rig.receiver.status()?);
    ensure!(
        !groups.is_empty() && groups.iter().all(|group| group.starts_with("*@239.")),
        "not any-source: {groups:?}"
    );
    Ok(())
}

#[test]
fn the_description_in_band() -> anyhow::Result<()> {
    if !ffmpeg::have("the description in band") {
        return Ok(());
    }
    let origin = Origin::start(&content::make()?)?;
    let setup = Setup { description: Description::InBand, ..Setup::CAROUSEL };
    plays("description in band, 5 % loss", "dash-time", &origin, &setup)?;
    Ok(())
}

fn joined(receiver: &Receiver) -> Vec<String> {
    let status = receiver.status().unwrap_or_default();
    let renditions = status.pointer("/channels/0/renditions").and_then(Value::as_array).cloned();
    let joined = |r: &&Value| r["joined"] == true;
    renditions
        .unwrap_or_default()
        .iter()
        .filter(joined)
        .filter_map(|r| r["id"].as_str().map(str::to_owned))
        .collect()
}

/// Nothing is joined before a player comes, only what it watches while it does, and nothing some time after it has gone.
#[test]
fn joining_on_demand() -> anyhow::Result<()> {
    if !ffmpeg::have("joining on demand") {
        return Ok(());
    }
    let work = tools::work_dir().join("on-demand");
    let _ = std::fs::remove_dir_all(&work);
    let kind = Live::HlsTs;
    let folder = work.join(kind.name());
    let _encoder = kind.start(&content::make()?, &folder, &work)?;
    eventually("live segments", PATIENCE, || kind.ready(&folder).then_some(()))?;
    let origin = Origin::start(&work)?;
    let setup = Setup { receiver: &["--join", "on-demand", "--idle-leave", "4s"], ..Setup::LIVE };
    let rig = Rig::start("on-demand", &origin, &format!("{}/{}", kind.name(), kind.manifest()), &setup)?;
    ensure!(joined(&rig.receiver).is_empty(), "joined before anybody watched: {:?}", joined(&rig.receiver));
    // One rung alone, as a player that has chosen.
    let rung = rig.receiver.url("v0/index.m3u8");
    let played = ffmpeg::decode(&rung, Some(16)).with_context(|| rig.tails())?;
    ensure!(played.video >= 15 * 25, "{} frames in 16 s\n{}{}", played.video, played.warnings, rig.tails());
    let while_playing = joined(&rig.receiver);
    ensure!(while_playing.iter().any(|id| id.contains("480x270")), "joined: {while_playing:?}");
    ensure!(!while_playing.iter().any(|id| id.contains("320x180")), "nobody asked for: {while_playing:?}");
    ensure!(rig.receiver.objects() >= 3, "by multicast: {}", rig.receiver.objects());
    eventually("all left", PATIENCE, || joined(&rig.receiver).is_empty().then_some(()))
        .with_context(|| format!("{:?}\n{}", joined(&rig.receiver), rig.tails()))?;
    Ok(())
}

/// A carousel of the `flute` crate: every file of a folder, in RaptorQ, again and again until told to stop.
fn foreign_sender(folder: &Path, group: SocketAddrV4, stop: &AtomicBool) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0).into())?;
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
    let oti = Oti::new_raptorq(1344, 750, 120, 1, 8).map_err(|error| anyhow::anyhow!("OTI: {error:?}"))?;
    let endpoint = UDPEndpoint::new(None, group.ip().to_string(), group.port());
    let mut sender = Sender::new(endpoint, 9, &oti, &Config::default());
    for (path, _) in content::pieces(folder)?.iter().filter(|(_, range)| range.is_none()) {
        let file = CreateFromBuffer::builder()
            .content(std::fs::read(folder.join(path))?)
            .content_type(
                if path.ends_with("m3u8") { "application/vnd.apple.mpegurl" } else { "video/mp2t" }.into(),
            )
            .content_location(url::Url::parse(&format!("http://foreign.example/film/{path}"))?)
            .config(TransferConfig::builder().max_transfer_count(50).build())
            .build();
        let object = file.create().map_err(|error| anyhow::anyhow!("{path}: {error:?}"))?;
        sender.add_object(0, object).map_err(|error| anyhow::anyhow!("{path}: {error:?}"))?;
    }
    sender.publish(SystemTime::now()).map_err(|error| anyhow::anyhow!("publishing: {error:?}"))?;
    while !stop.load(Ordering::Relaxed) {
        // 16 packets of 1.4 kB each 10 ms: 18 Mbit/s.
        let next = Instant::now() + Duration::from_millis(10);
        for packet in std::iter::from_fn(|| sender.read(SystemTime::now())).take(16) {
            socket.send_to(&packet, &SocketAddr::V4(group).into())?;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// The sender is the `flute` crate: no description, no signature, no digest. With `--insecure` ffmpeg plays what it sends, without
/// it nothing of it is taken.
#[test]
fn a_foreign_flute_sender() -> anyhow::Result<()> {
    if !ffmpeg::have("a foreign FLUTE sender") {
        return Ok(());
    }
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let port = std::net::UdpSocket::bind("0.0.0.0:0")?.local_addr()?.port();
    let group = SocketAddrV4::new(Ipv4Addr::new(232, 99, 1, 7), port);
    let (stop, folder) = (AtomicBool::new(false), content.join("hls-ts"));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| foreign_sender(&folder, group, &stop));
        let result = foreign_plays(&origin, &folder, group);
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        result
    })
}

fn foreign_plays(origin: &Origin, folder: &Path, group: SocketAddrV4) -> anyhow::Result<()> {
    let session = format!("127.0.0.1@{group}");
    let cautious = Receiver::alone("foreign-cautious", &session, &["--join", "always"])?;
    let told = || cautious.tail().contains("E-UNSIGNED").then_some(());
    eventually("the refusal", PATIENCE, told).with_context(|| cautious.tail())?;
    ensure!(cautious.objects() == 0, "taken without --insecure");

    let receiver = Receiver::alone("foreign", &session, &["--insecure", "--join", "always"])?;
    let pieces = content::pieces(folder)?;
    let whole = || (receiver.objects() >= pieces.len() as u64).then_some(());
    eventually("every file", PATIENCE, whole)
        .with_context(|| format!("{} of {}\n{}", receiver.objects(), pieces.len(), receiver.tail()))?;
    let served = format!("{}http/foreign.example/film/", receiver.page());
    let direct = ffmpeg::decode(&origin.url("hls-ts/master.m3u8"), None)?;
    let played = ffmpeg::decode(&format!("{served}master.m3u8"), None).with_context(|| receiver.tail())?;
    ensure!(played.video == CLIP_FRAMES && played.frames == direct.frames, "{} frames", played.video);
    let same = client::compare(&served, &origin.url("hls-ts/"), &pieces);
    same.check().with_context(|| receiver.tail())?;
    row("hls-ts", "foreign FLUTE sender", same.share());
    ensure!(same.share() == 1.0, "{:.3} by multicast, and there is no origin", same.share());
    Ok(())
}

// ---- IPv6, in network namespaces

const ROLE: &str = "MAHP_TEST_ROLE";

#[test]
fn ipv6_source_specific_between_two_namespaces() -> anyhow::Result<()> {
    let name = "IPv6 between namespaces";
    if !ffmpeg::have(name) || !tools::have(name, &["ip", "nft", "nsenter", "unshare"]) {
        return Ok(());
    }
    content::make()?;
    let mut unshared = Command::new("unshare");
    unshared.args(["--map-root-user", "--net", "--"]).arg(std::env::current_exe()?);
    let output = unshared.args(["--exact", "inside_the_namespace", "--nocapture"]).env(ROLE, "1").output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare failed") && std::env::var_os("CI").is_none() {
        tools::say(&format!("NOT RUN: {name}: network namespaces are not allowed here"));
        return Ok(());
    }
    ensure!(output.status.success() && text.contains("IPV6 PLAYED"), "{text}");
    Ok(())
}

/// Not a test of its own: what the one above runs in a namespace.
#[test]
fn inside_the_namespace() -> anyhow::Result<()> {
    if std::env::var_os(ROLE).is_none() {
        return Ok(());
    }
    let far = FarEnd::make()?;
    let place = Place {
        sender: "fd77::5",
        sender_interface: "mahp0",
        announce: None,
        receiver: "fd77::6",
        receiver_interface: "mahp1",
        namespace: Some(far.0.id()),
    };
    let origin = Origin::start_at(&content::make()?, "[fd77::5]:0".parse()?, Habits::default())?;
    let rig = plays("IPv6, 5 % loss", "hls-fmp4", &origin, &Setup { place, ..Setup::CAROUSEL })?;
    let groups = groups(&rig.receiver.status()?);
    ensure!(
        !groups.is_empty() && groups.iter().all(|group| group.contains("fd77::5@[ff3")),
        "not source-specific IPv6: {groups:?}"
    );
    ensure!(far.dropped()? > 50, "the far end lost {} packets", far.dropped()?);
    tools::say("IPV6 PLAYED");
    Ok(())
}

/// The namespace of the receiver: the process that holds it open. Ours holds the other end of the wire.
struct FarEnd(Child);

impl FarEnd {
    fn make() -> anyhow::Result<FarEnd> {
        let far = FarEnd(Command::new("unshare").args(["--net", "sleep", "600"]).spawn()?);
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let apart = || (of(&far.0.id().to_string())? != of("self")?).then_some(());
        eventually("a namespace", PATIENCE, apart)?;
        run("ip link set lo up")?;
        run("ip link add mahp0 mtu 1500 type veth peer name mahp1")?;
        run(&format!("ip link set mahp1 netns {}", far.0.id()))?;
        run("ip addr add fd77::5/64 dev mahp0 nodad")?;
        run("ip link set mahp0 up")?;
        far.run("ip link set lo up")?;
        far.run("ip addr add fd77::6/64 dev mahp1 nodad")?;
        far.run("ip link set mahp1 up")?;
        far.run("nft add table inet lossy")?;
        far.run("nft add chain inet lossy in { type filter hook input priority 0 ; }")?;
        far.run("nft add rule inet lossy in ip6 daddr ff00::/8 meta l4proto udp numgen random mod 20 0 counter drop")?;
        Ok(far)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).args(line.split(' '));
        command
    }

    fn run(&self, line: &str) -> anyhow::Result<String> {
        output(self.command(line), line)
    }

    /// Packets that its filter dropped.
    fn dropped(&self) -> anyhow::Result<u64> {
        let rules = self.run("nft list chain inet lossy in")?;
        let count = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        Ok(count.context("no counter")?.parse()?)
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(line: &str) -> anyhow::Result<String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    output(command, line)
}

fn output(mut command: Command, line: &str) -> anyhow::Result<String> {
    let output = command.output().with_context(|| line.to_owned())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
