//! hls.js, dash.js, Shaka and Chromium's own HLS through the pair at 5 % packet loss: 30 s at speed 1 without a stall, every
//! body the origin's. Each plays beside itself on the origin: what stalls there says nothing about the pair.

use anyhow::{Context, ensure};
use mahp_tests::content;
use mahp_tests::origin::Origin;
use mahp_tests::players::browser::{self, Job, Played};
use mahp_tests::players::ffmpeg::Live;
use mahp_tests::process::{Process, eventually};
use mahp_tests::rig::{Rig, Setup};
use mahp_tests::tools;
use mahp_tests::watch::{self, Watched};
use std::path::PathBuf;
use std::time::Duration;

const THROUGH: &str = "multicast, 5 % loss";
/// A gentle carousel: the browser needs the processors.
const CAROUSEL: Setup = Setup { sender: &["--loop", "--vod-rate", "4 Mbit/s"], ..Setup::CAROUSEL };

/// So many plays at once, each beside its control: twice as many videos are what two processors decode and show in time.
const AT_ONCE: usize = 4;

/// A player and what it plays.
type Case = (&'static str, &'static str);

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

/// What the player got was compared with the origin's files.
fn check_bytes(played: &Played) -> anyhow::Result<()> {
    let (name, bytes) = (&played.name, played.bytes);
    let media = bytes.multicast + bytes.repaired + bytes.unicast;
    // Chromium's own player keeps its bodies for itself.
    let least = if played.player == "native" { 0.0 } else { 0.9 * media as f64 };
    ensure!(media > 0 && played.compared as f64 >= least, "{name}: {} of {media} compared", played.compared);
    Ok(())
}

/// Where there is a choice, hls.js was told to take German, with English subtitles.
fn check_tracks(played: &Played) -> anyhow::Result<()> {
    if played.player == "hls" && played.name.contains("hls-alt") {
        let tracks = played.tracks.as_ref().context("no tracks")?;
        ensure!(tracks.audio == "de" && tracks.cue.starts_with("Subtitle at"), "{tracks:?}");
    }
    Ok(())
}

fn vod(name: &str, cases: &[Case]) -> anyhow::Result<()> {
    if !browser::have(name) {
        return Ok(());
    }
    let _alone = watch::alone();
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let mut folders: Vec<&str> = cases.iter().map(|(_, folder)| *folder).collect();
    folders.sort_unstable();
    folders.dedup();
    let manifests: Vec<String> =
        folders.iter().map(|folder| origin.url(&content::manifest(folder))).collect();
    let rig = Rig::start_all(name, &manifests, &CAROUSEL)?;
    rig.one_round()?;
    let watched = |(player, folder): &Case| -> anyhow::Result<Watched> {
        let at = folders.iter().position(|known| known == folder).context("the folder is in the list")?;
        Ok(Watched {
            player,
            content: (*folder).into(),
            origin: Some(manifests[at].clone()),
            receiver: rig.receiver.manifests()[at].clone(),
            channel: rig.receiver.names()[at].into(),
            files: content.join(folder),
            multicast: 0.95,
        })
    };
    let watched = cases.iter().map(watched).collect::<anyhow::Result<Vec<Watched>>>()?;
    let of_this_attempt = || {
        origin.clear_log();
        Ok(())
    };
    for (number, watched) in watched.chunks(AT_ONCE).enumerate() {
        let all = watch::side_by_side(&format!("{name}-{number}"), THROUGH, watched, of_this_attempt)
            .inspect_err(|_| tools::say(&rig.tails()))?;
        for played in &all {
            check_cors(played)?;
            check_bytes(played)?;
            check_tracks(played)?;
        }
        let served: u64 = all.iter().map(|p| p.bytes.multicast + p.bytes.repaired + p.bytes.unicast).sum();
        let fetched = origin.bytes_to("mahp-receiver");
        ensure!(
            fetched as f64 <= 0.05 * served as f64,
            "the receiver fetched {fetched} of {served} bytes from the origin"
        );
    }
    Ok(())
}

#[test]
fn vod_hls() -> anyhow::Result<()> {
    vod(
        "browser-vod-hls",
        &[
            ("hls", "hls-ts"),
            ("hls", "hls-fmp4"),
            ("hls", "hls-ts-range"),
            ("hls", "hls-fmp4-range"),
            ("hls", "hls-aes"),
            ("hls", "hls-alt"),
            ("native", "hls-ts"),
            ("native", "hls-fmp4"),
        ],
    )
}

#[test]
fn vod_dash_and_shaka() -> anyhow::Result<()> {
    vod(
        "browser-vod-dash",
        &[
            ("dash", "dash-number"),
            ("dash", "dash-time"),
            ("dash", "dash-list"),
            ("dash", "dash-base"),
            ("shaka", "hls-fmp4"),
            ("shaka", "hls-alt"),
            ("shaka", "dash-time"),
            ("shaka", "dash-base"),
        ],
    )
}

/// Live channels with their encoders and one origin.
struct Channels {
    origin: Origin,
    kinds: Vec<Live>,
    work: PathBuf,
    _encoders: Vec<Process>,
}

impl Channels {
    fn start(test: &str, kinds: &[Live]) -> anyhow::Result<Channels> {
        let work = tools::work_dir().join(test);
        let _ = std::fs::remove_dir_all(&work);
        let content = content::make()?;
        let start = |kind: &Live| kind.start(&content, &work.join(kind.name()), &work);
        let encoders = kinds.iter().map(start).collect::<anyhow::Result<Vec<Process>>>()?;
        let origin = Origin::start(&work)?;
        let ready = || kinds.iter().all(|kind| kind.ready(&work.join(kind.name()))).then_some(());
        eventually("live segments", Duration::from_secs(60), ready)?;
        Ok(Channels { origin, kinds: kinds.to_vec(), work, _encoders: encoders })
    }

    fn manifests(&self) -> Vec<String> {
        let url = |kind: &Live| self.origin.url(&format!("{}/{}", kind.name(), kind.manifest()));
        self.kinds.iter().map(url).collect()
    }
}

/// Three live channels through one pair, in every player and on the receiver's own page.
#[test]
fn live_in_every_player_and_on_the_receivers_page() -> anyhow::Result<()> {
    let name = "browser-live";
    if !browser::have(name) {
        return Ok(());
    }
    let _alone = watch::alone();
    let channels = Channels::start(name, &[Live::HlsTs, Live::HlsFmp4, Live::Dash])?;
    let rig = Rig::start_all(name, &channels.manifests(), &Setup::LIVE)?;
    let filled = || rig.receiver.objects_by_channel().iter().all(|objects| *objects >= 16).then_some(());
    eventually("the receiver has some of every channel", Duration::from_secs(60), filled)?;
    let (ts, fmp4, dash) = (0, 1, 2);
    let watched = |(player, at): (&'static str, usize)| Watched {
        player,
        content: channels.kinds[at].name().into(),
        origin: (player != "page").then(|| channels.manifests()[at].clone()),
        receiver: rig.receiver.manifests()[at].clone(),
        channel: rig.receiver.names()[at].into(),
        files: channels.work.join(channels.kinds[at].name()),
        multicast: 0.95,
    };
    let rounds: [&[(&str, usize)]; 2] = [
        &[("hls", ts), ("hls", fmp4), ("native", ts)],
        &[("dash", dash), ("shaka", dash), ("page", fmp4), ("page", dash)],
    ];
    for (number, cases) in rounds.iter().enumerate() {
        let watched: Vec<Watched> = cases.iter().copied().map(watched).collect();
        let all = watch::side_by_side(&format!("{name}-{number}"), THROUGH, &watched, || Ok(()))
            .inspect_err(|_| tools::say(&rig.tails()))?;
        for played in &all {
            check_bytes(played)?;
            if played.player == "page" {
                check_page(played)?;
            }
        }
    }
    Ok(())
}

/// The receiver's own page tells what its viewer sees, and fits its window.
fn check_page(played: &Played) -> anyhow::Result<()> {
    let told = played.told.as_ref().context("the page was not looked at")?;
    ensure!(told.multicast >= 10, "cells of segments by multicast: {told:?}");
    ensure!(told.unicast + told.repaired <= told.multicast / 2, "cells of segments: {told:?}");
    ensure!(told.playing.contains(" at ") && told.headline.contains("3 of 3 channels live"), "{told:?}");
    ensure!(told.flows >= 9 && !told.findings.contains("did not answer"), "{told:?}");
    ensure!((told.overflow_wide, told.overflow_phone) == (0, 0), "wider than the window: {told:?}");
    let empty: Vec<&String> = told.empty_plots.iter().filter(|title| !title.starts_with("Holds")).collect();
    ensure!(empty.is_empty(), "plots without a line: {empty:?}");
    ensure!(told.changed.len() == 3, "of 3 channels, these could be changed to: {:?}", told.changed);
    let errors: Vec<&String> = played.console.iter().filter(|line| line.starts_with("error")).collect();
    ensure!(errors.is_empty(), "on the browser's console: {errors:?}");
    Ok(())
}

/// The stall counter is worth something only if it can count: an origin that hangs in mid-play makes a live player run dry.
#[test]
fn negative_control_of_the_stall_counter() -> anyhow::Result<()> {
    let name = "browser-stall";
    if !browser::have(name) {
        return Ok(());
    }
    let _alone = watch::alone();
    let channels = Channels::start(name, &[Live::HlsTs])?;
    let job = Job {
        name: name.into(),
        player: "hls".into(),
        url: channels.manifests()[0].clone(),
        files: channels.work.join(Live::HlsTs.name()),
        channel: None,
    };
    let origin = &channels.origin;
    let all = std::thread::scope(|scope| {
        let playing = scope.spawn(|| browser::play_for(&tools::work_dir().join("watch-stall"), &[job], 20));
        let asked =
            || (origin.log().iter().filter(|access| access.path.contains(".ts")).count() >= 5).then_some(());
        eventually("the player plays", Duration::from_secs(60), asked)?;
        origin.pause(true);
        let all = playing.join().map_err(|_| anyhow::anyhow!("the driver panicked"))?;
        origin.pause(false);
        all
    })?;
    let played = all.first().context("no result")?;
    ensure!(played.stalls > 0, "an origin that hung caused no stall: {played:?}");
    ensure!(!played.complaints().is_empty());
    Ok(())
}

/// So is the comparison of bodies: a player that is given the files of another clip finds that every one differs.
#[test]
fn negative_control_of_the_comparison_of_bodies() -> anyhow::Result<()> {
    let name = "browser-bodies";
    if !browser::have(name) {
        return Ok(());
    }
    let _alone = watch::alone();
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let job = Job {
        name: name.into(),
        player: "hls".into(),
        url: origin.url(&content::manifest("hls-ts")),
        files: content.join("hls-aes"),
        channel: None,
    };
    let all = browser::play_for(&tools::work_dir().join("watch-bodies"), &[job], 2)?;
    let played = all.first().context("no result")?;
    ensure!(!played.different.is_empty() && !played.complaints().is_empty(), "{played:?}");
    Ok(())
}
