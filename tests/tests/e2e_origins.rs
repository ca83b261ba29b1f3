//! Origins as they are: live with discontinuities, behind redirects, compressed playlists, tokens that change; several channels
//! of which one is dead; advertisements in one file.

use anyhow::{Context, ensure};
use mahp_tests::advertised;
use mahp_tests::client::Piece;
use mahp_tests::content::{self, CLIP_FRAMES};
use mahp_tests::origin::{Access, Habits, Origin};
use mahp_tests::players::browser;
use mahp_tests::players::ffmpeg;
use mahp_tests::process::eventually;
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{Place, Rig, Setup};
use mahp_tests::tools;
use mahp_tests::watch::{self, Watched};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, SystemTime};

const HABITS: Habits = Habits { gzip: true, tokens: true };

/// Requests of segments by a program.
fn segments(origin: &Origin, agent: &str) -> Vec<Access> {
    let of = |access: &Access| access.agent.starts_with(agent) && access.path.contains(".ts");
    origin.log().into_iter().filter(of).collect()
}

/// A live channel that begins again every 36 s with a discontinuity, whose URL redirects, whose playlists are compressed and
/// carry another token every 3 s, and whose segments want one that is not too old.
#[test]
fn live_with_discontinuities_redirects_gzip_and_changing_tokens() -> anyhow::Result<()> {
    let name = "origin-habits";
    if !browser::have(name) {
        return Ok(());
    }
    let _alone = watch::alone();
    let content = content::make()?;
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let origin = Origin::start_at(&content, address, HABITS)?;
    let rig = Rig::start(name, &origin, "moved/looped/hls-ts/master.m3u8", &Setup::LIVE)?;
    eventually("some of the channel", Duration::from_secs(60), || {
        (rig.receiver.objects() >= 12).then_some(())
    })?;
    let watched = Watched {
        player: "hls",
        content: "looped".into(),
        origin: Some(origin.url("looped/hls-ts/master.m3u8")),
        receiver: rig.receiver.manifest(),
        channel: rig.receiver.names()[0].into(),
        files: content.join("hls-ts"),
        multicast: 0.95,
    };
    let decoded = || -> anyhow::Result<()> {
        let played = ffmpeg::decode(&rig.receiver.manifest(), Some(12))?;
        ensure!(played.video >= 11 * 25, "{} frames in 12 s\n{}", played.video, played.warnings);
        Ok(())
    };
    let way = "discontinuities, redirects, gzip, tokens";
    let all =
        watch::side_by_side(name, way, &[watched], decoded).inspect_err(|_| tools::say(&rig.tails()))?;
    let played = &all[0];
    ensure!(played.compared > 0, "no body was compared");

    let log = origin.log();
    let of_sender = |access: &&Access| access.agent.starts_with("mahp-sender");
    ensure!(log.iter().filter(of_sender).any(|access| access.status == 302), "the sender was not redirected");
    ensure!(log.iter().filter(of_sender).any(|access| access.gzip), "no compressed playlist for the sender");
    let refused: Vec<&Access> = log.iter().filter(|access| access.status == 403).collect();
    ensure!(refused.is_empty(), "tokens were refused: {refused:?}");
    let mut fetched = BTreeMap::new();
    for access in segments(&origin, "mahp-sender") {
        let path = access.path.split('?').next().unwrap_or_default().to_owned();
        *fetched.entry(path).or_insert(0) += 1;
    }
    let twice: Vec<_> = fetched.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(fetched.len() >= 20 && twice.is_empty(), "fetched more than once by the sender: {twice:?}");
    ensure!(fetched.keys().any(|path| path.contains("pass1-")), "the clip did not begin again: {fetched:?}");
    let by_receiver = segments(&origin, "mahp-receiver").len();
    ensure!(by_receiver <= fetched.len() / 10, "the receiver fetched {by_receiver} segments");
    Ok(())
}

/// Two channels in one configuration file; the origin of one is dead at the start. The other plays, and the dead one once it
/// lives.
#[test]
fn a_dead_origin_does_not_stop_other_channels() -> anyhow::Result<()> {
    if !ffmpeg::have("a dead origin") {
        return Ok(());
    }
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let manifests =
        [origin.url("hls-ts/master.m3u8"), format!("http://{dead}/{}", content::manifest("hls-fmp4"))];
    let file = tools::work_dir().join("dead-origin.toml");
    let channel = |url: &String| format!("[[channel]]\nurl = \"{url}\"\n");
    std::fs::write(
        &file,
        format!(
            "[defaults]\nloop = true\nvod-rate = \"12 Mbit/s\"\n{}",
            manifests.each_ref().map(channel).concat()
        ),
    )?;
    let setup =
        Setup { place: Place::DIRECT, sender: &[], config: Some(file), missing: 1, ..Setup::CAROUSEL };
    let rig = Rig::start_all("dead-origin", &manifests, &setup)?;
    rig.one_round()?;
    let played = ffmpeg::decode(&rig.receiver.manifest(), None).inspect_err(|_| tools::say(&rig.tails()))?;
    ensure!(played.video == CLIP_FRAMES, "{} frames beside a dead origin", played.video);
    let same = rig.compare(&origin, "hls-ts", &content::pieces(&content.join("hls-ts"))?);
    same.check()?;
    ensure!(same.share() >= 0.95, "{:.3} by multicast beside a dead origin", same.share());

    let revived = Origin::start_at(&content, dead, Habits::default())?;
    let there = || (rig.receiver.objects_by_channel().len() == 2).then_some(());
    eventually("the second channel", Duration::from_secs(60), there).with_context(|| rig.tails())?;
    rig.one_round()?;
    let url = rig.receiver.url("").replace("hls-ts", "hls-fmp4");
    let late = ffmpeg::decode(&format!("{url}master.m3u8"), None).with_context(|| rig.tails())?;
    ensure!(late.video == CLIP_FRAMES, "{} frames of the channel that came late", late.video);
    let pieces = content::pieces(&content.join("hls-fmp4"))?;
    let same = mahp_tests::client::compare(&url, &revived.url("hls-fmp4/"), &pieces);
    same.check()?;
    ensure!(same.share() >= 0.95, "{:.3} of the late channel by multicast", same.share());
    report::add(&Row {
        player: "ffmpeg".into(),
        content: "hls-fmp4".into(),
        way: "origin dead at the start".into(),
        played: content::CLIP_SECONDS,
        stalls: 0,
        multicast: Some(same.share()),
        note: String::new(),
    });
    Ok(())
}

/// A live channel whose advertisements are one file for each track: whatever ranges players ask for when one begins is here by
/// multicast.
#[test]
fn live_with_advertisements_in_one_file() -> anyhow::Result<()> {
    if !ffmpeg::have("advertisements in one file") {
        return Ok(());
    }
    let content = content::make()?;
    let folder = tools::work_dir().join("advertised");
    let _ = std::fs::remove_dir_all(&folder);
    let begins = advertised::channel(&content, &folder)?;
    let origin = Origin::start(&folder)?;
    let rig = Rig::start("advertised", &origin, "manifest.mpd", &Setup::LIVE)?;
    let at = |what: &str, time: SystemTime| {
        eventually(what, Duration::from_secs(60), || (SystemTime::now() >= time).then_some(()))
    };
    let same = |pieces: Vec<Piece>| -> anyhow::Result<()> {
        let same = rig.compare(&origin, "", &pieces);
        same.check()?;
        ensure!(same.share() > 0.999, "{:.3} by multicast of {pieces:?}", same.share());
        Ok(())
    };
    let of_clip = content::pieces(&content.join("dash-base"))?.into_iter();
    let tracks = of_clip.filter(|(path, _)| path.ends_with(".mp4"));
    let (whole, parts): (Vec<Piece>, Vec<Piece>) =
        tracks.map(|(path, range)| (format!("ad-1/{path}"), range)).partition(|(_, range)| range.is_none());
    at("the advertisement is on", begins + Duration::from_secs(2))?;
    // Init segments, indices, and the first seconds.
    let media = ["v0", "a0"].map(|track| (format!("ad-1/{track}.mp4"), Some((1100, 80_000))));
    same([parts, media.to_vec()].concat()).with_context(|| rig.tails())?;
    at("all of it is here", begins + Duration::from_secs(8))?;
    same(whole).with_context(|| rig.tails())?;
    let of_receiver =
        |access: &Access| access.agent.starts_with("mahp-receiver") && access.path.contains("/ad-1/");
    let fetched = origin.log().into_iter().filter(of_receiver).count();
    ensure!(fetched == 0, "the receiver asked the origin for the advertisement {fetched} times");
    // It took nothing from the film before it.
    same(vec![("film-0/chunk-stream0-00017.m4s".into(), None)])
}
