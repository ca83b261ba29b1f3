//! hls.js, dash.js, Shaka and Chromium's own HLS through the pair at 5 % packet loss: 30 s at speed 1 without a stall.
//! Each player plays straight from the origin first: what stalls there says nothing about the pair.

use anyhow::{Context, ensure};
use mahp_tests::content;
use mahp_tests::origin::Origin;
use mahp_tests::players::browser::{self, Job, Played};
use mahp_tests::players::ffmpeg::Live;
use mahp_tests::process::eventually;
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{Rig, Setup};
use mahp_tests::tools;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One browser at a time: several side by side would starve each other and look like stalls.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const THROUGH: &str = "multicast, 5 % loss";

fn row(content: &str, way: &str, played: &Played) {
    let share = (way != "origin").then(|| played.share());
    let startup = played.startup.map_or("no picture".to_owned(), |s| format!("first picture after {s:.1} s"));
    let complaints = played.complaints();
    let note = if complaints.is_empty() { startup } else { format!("{startup}; {}", complaints.join("; ")) };
    let (player, content, way) = (played.player.clone(), content.into(), way.into());
    report::add(&Row {
        player,
        content,
        way,
        played: played.played,
        stalls: played.stalls,
        multicast: share,
        note,
    });
}

/// A player and what it plays.
type Case = (&'static str, &'static str);

fn job((player, content): Case, url: String) -> Job {
    Job { name: format!("{player}-{content}"), player: player.into(), url, page: None }
}

/// Plays all jobs side by side; complaints of all of them, after all rows are written.
fn play(folder: &str, way: &str, cases: &[Case], urls: &[String]) -> anyhow::Result<Vec<Played>> {
    let jobs = cases.iter().zip(urls).map(|(case, url)| job(*case, url.clone())).collect();
    let all = browser::play(&tools::work_dir().join(folder), jobs)?;
    let mut wrong = Vec::new();
    for ((_, content), played) in cases.iter().zip(&all) {
        row(content, way, played);
        wrong.extend(
            played.complaints().iter().map(|complaint| format!("{} ({way}): {complaint}", played.name)),
        );
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(all)
}

/// What a cross-origin page may know of the receiver's answers.
fn check_cors(played: &Played) -> anyhow::Result<()> {
    let cors = played.cors.as_ref().context("no look at CORS")?;
    for name in ["date", "etag", "cache-status", "content-length"] {
        let value = cors.headers.get(name).and_then(Option::as_deref);
        ensure!(
            value.is_some_and(|value| !value.is_empty()),
            "{}: {name} cannot be read cross-origin: {cors:?}",
            played.name
        );
    }
    ensure!(cors.requests > 0 && cors.timed == cors.requests, "{}: times are hidden: {cors:?}", played.name);
    Ok(())
}

fn vod(name: &str, cases: &[Case]) -> anyhow::Result<()> {
    if !browser::have(name) {
        return Ok(());
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let direct: Vec<String> =
        cases.iter().map(|(_, folder)| origin.url(&content::manifest(folder))).collect();
    play(&format!("{name}-origin"), "origin", cases, &direct)?;
    let start = |(player, folder): &Case| {
        Rig::start(&format!("{player}-{folder}"), &origin, &content::manifest(folder), &Setup::CAROUSEL)
    };
    let rigs = cases.iter().map(start).collect::<anyhow::Result<Vec<Rig>>>()?;
    for (rig, (_, folder)) in rigs.iter().zip(cases) {
        rig.one_round(&content.join(folder))?;
    }
    origin.clear_log();
    let urls: Vec<String> = rigs.iter().map(|rig| rig.receiver.manifest()).collect();
    let tails = || rigs.iter().map(Rig::tails).collect::<String>();
    let all = play(&format!("{name}-pair"), THROUGH, cases, &urls).inspect_err(|_| tools::say(&tails()))?;
    for played in &all {
        check_cors(played)?;
        ensure!(
            played.share() >= 0.95,
            "{}: {:.3} of the bytes by multicast: {:?}",
            played.name,
            played.share(),
            played.bytes
        );
    }
    let served: u64 = all.iter().map(|p| p.bytes.multicast + p.bytes.repaired + p.bytes.unicast).sum();
    let fetched = origin.bytes_to("mahp-receiver");
    ensure!(
        fetched as f64 <= 0.05 * served as f64,
        "the receivers fetched {fetched} of {served} bytes from the origin"
    );
    Ok(())
}

#[test]
fn vod_hls_js() -> anyhow::Result<()> {
    vod(
        "browser-vod-hls",
        &[("hls", "hls-ts"), ("hls", "hls-fmp4"), ("hls", "hls-ts-range"), ("hls", "hls-fmp4-range")],
    )
}

#[test]
fn vod_hls_js_keys_and_alternates() -> anyhow::Result<()> {
    vod(
        "browser-vod-hls-2",
        &[("hls", "hls-aes"), ("hls", "hls-alt"), ("native", "hls-ts"), ("native", "hls-fmp4")],
    )
}

#[test]
fn vod_dash_js() -> anyhow::Result<()> {
    vod(
        "browser-vod-dash",
        &[("dash", "dash-number"), ("dash", "dash-time"), ("dash", "dash-list"), ("dash", "dash-base")],
    )
}

#[test]
fn vod_shaka() -> anyhow::Result<()> {
    vod(
        "browser-vod-shaka",
        &[("shaka", "hls-fmp4"), ("shaka", "hls-alt"), ("shaka", "dash-time"), ("shaka", "dash-base")],
    )
}

/// A live channel of its own with its encoder and origin.
struct Channel {
    kind: Live,
    origin: Origin,
    _encoder: mahp_tests::process::Process,
}

impl Channel {
    fn start(kind: Live, test: &str) -> anyhow::Result<Channel> {
        let work = tools::work_dir().join(format!("{test}-{}", kind.name()));
        let _ = std::fs::remove_dir_all(&work);
        let folder = work.join(kind.name());
        let encoder = kind.start(&content::make()?, &folder, &work)?;
        let origin = Origin::start(&work)?;
        eventually("live segments", Duration::from_secs(60), || kind.ready(&folder).then_some(()))?;
        Ok(Channel { kind, origin, _encoder: encoder })
    }

    fn path(&self) -> String {
        format!("{}/{}", self.kind.name(), self.kind.manifest())
    }
}

fn live(name: &str, cases: &[(&'static str, Live)]) -> anyhow::Result<()> {
    if !browser::have(name) {
        return Ok(());
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let channels = cases
        .iter()
        .map(|(_, kind)| Channel::start(*kind, name))
        .collect::<anyhow::Result<Vec<Channel>>>()?;
    let named: Vec<Case> = cases.iter().map(|(player, kind)| (*player, kind.name())).collect();
    let start = |channel: &Channel| {
        Rig::start(&format!("{name}-{}", channel.kind.name()), &channel.origin, &channel.path(), &Setup::LIVE)
    };
    let rigs = channels.iter().map(start).collect::<anyhow::Result<Vec<Rig>>>()?;
    // Controls run while the receivers fill, on the same channels.
    let direct: Vec<String> = channels.iter().map(|channel| channel.origin.url(&channel.path())).collect();
    play(&format!("{name}-origin"), "origin", &named, &direct)?;
    let urls: Vec<String> = rigs.iter().map(|rig| rig.receiver.manifest()).collect();
    let tails = || rigs.iter().map(Rig::tails).collect::<String>();
    let all = play(&format!("{name}-pair"), THROUGH, &named, &urls).inspect_err(|_| tools::say(&tails()))?;
    for played in &all {
        ensure!(
            played.share() >= 0.95,
            "{}: {:.3} of the bytes by multicast: {:?}",
            played.name,
            played.share(),
            played.bytes
        );
    }
    Ok(())
}

#[test]
fn live_hls() -> anyhow::Result<()> {
    live("browser-live-hls", &[("hls", Live::HlsTs), ("hls", Live::HlsFmp4)])
}

#[test]
fn live_dash() -> anyhow::Result<()> {
    live("browser-live-dash", &[("dash", Live::Dash), ("shaka", Live::Dash)])
}

/// The stall counter is worth something only if it can count: an origin that hangs in mid-play makes a live player run dry.
#[test]
fn negative_control_of_the_stall_counter() -> anyhow::Result<()> {
    if !browser::have("the negative control of the stall counter") {
        return Ok(());
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let channel = Channel::start(Live::HlsTs, "browser-stall")?;
    let url = channel.origin.url(&channel.path());
    let origin = &channel.origin;
    let all = std::thread::scope(|scope| {
        let playing = scope.spawn(|| {
            browser::play(&tools::work_dir().join("browser-stall"), vec![job(("hls", "stall"), url)])
        });
        let asked =
            || (origin.log().iter().filter(|access| access.path.contains(".ts")).count() >= 5).then_some(());
        eventually("the player plays", Duration::from_secs(60), asked)?;
        origin.pause(true);
        let all = playing.join().map_err(|_| anyhow::anyhow!("the driver panicked"))?;
        origin.pause(false);
        all
    })?;
    let played = all.first().context("no result")?;
    ensure!(played.stalls > 0, "an origin that hung for 20 s caused no stall: {played:?}");
    ensure!(!played.complaints().is_empty());
    Ok(())
}
