//! What breaks, and what viewers notice of it: multicast blocked, the origin gone, the sender gone, a receiver that comes late.

use anyhow::{Context, ensure};
use mahp_tests::client;
use mahp_tests::content::{self, CLIP_FRAMES, CLIP_SECONDS};
use mahp_tests::origin::Origin;
use mahp_tests::players::ffmpeg;
use mahp_tests::process::eventually;
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{Receiver, Rig, Setup};
use mahp_tests::tools;
use std::time::{Duration, Instant};

const BLOCKED: Setup = Setup { loss: 1.0, ..Setup::CAROUSEL };

fn row(content: &str, way: &str, frames: usize, multicast: f64) {
    let played = frames as f64 / CLIP_FRAMES as f64 * CLIP_SECONDS;
    let (player, content, way) = ("ffmpeg".into(), content.into(), way.into());
    report::add(&Row {
        player,
        content,
        way,
        played,
        stalls: 0,
        multicast: Some(multicast),
        note: String::new(),
    });
}

/// Also the negative control of the multicast share: with all packets lost it must be zero, whatever else works.
#[test]
fn with_multicast_blocked_everything_plays_by_unicast() -> anyhow::Result<()> {
    if !ffmpeg::have("multicast blocked") {
        return Ok(());
    }
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    for folder in ["hls-ts", "hls-alt", "hls-fmp4-range", "dash-time", "dash-base"] {
        let manifest = content::manifest(folder);
        let rig = Rig::start(&format!("blocked-{folder}"), &origin, &manifest, &BLOCKED)?;
        let direct = ffmpeg::decode(&origin.url(&manifest), None)?;
        let played =
            ffmpeg::decode(&rig.receiver.manifest(), None).inspect_err(|_| tools::say(&rig.tails()))?;
        ensure!(played.frames == direct.frames, "{folder}: other frames than from the origin");
        let same = rig.compare(&origin, folder, &content::pieces(&content.join(folder))?);
        same.check().inspect_err(|_| tools::say(&rig.tails()))?;
        ensure!(same.share() == 0.0, "{folder}: {:.3} by a multicast that nobody heard", same.share());
        ensure!(rig.packets() > 0 && rig.lost() == 1.0, "the link did not block: {}", rig.lost());
        row(folder, "multicast blocked", played.video, same.share());
    }
    Ok(())
}

/// Live as well: nothing is heard, and the playlist's segments come from the origin in time.
#[test]
fn with_multicast_blocked_a_live_channel_plays_by_unicast() -> anyhow::Result<()> {
    if !ffmpeg::have("multicast blocked, live") {
        return Ok(());
    }
    let origin = Origin::start(&content::make()?)?;
    let folder = "looped/hls-ts";
    let setup = Setup { loss: 1.0, ..Setup::LIVE };
    let rig = Rig::start("blocked-live", &origin, &format!("{folder}/master.m3u8"), &setup)?;
    let began = Instant::now();
    let seconds = 12;
    let played =
        ffmpeg::decode(&rig.receiver.manifest(), Some(seconds)).inspect_err(|_| tools::say(&rig.tails()))?;
    let (took, served) = (began.elapsed(), rig.receiver.url(""));
    let same = client::compare(&served, &origin.url(&format!("{folder}/")), &client::listed(&served)?);
    same.check().inspect_err(|_| tools::say(&rig.tails()))?;
    ensure!(same.share() == 0.0, "{:.3} by a multicast that nobody heard", same.share());
    ensure!(played.video >= (seconds as usize - 1) * 25, "{} frames in {took:?}", played.video);
    ensure!(took < Duration::from_secs(3 * u64::from(seconds)), "12 s of a live channel took {took:?}");
    row(folder, "multicast blocked, live", played.video, same.share());
    Ok(())
}

/// Every frame and every byte, by multicast alone.
fn plays_without_origin(
    receiver: &Receiver,
    reference: &Origin,
    folders: &[&str],
    way: &str,
) -> anyhow::Result<()> {
    for (folder, manifest) in folders.iter().zip(receiver.manifests()) {
        let direct = ffmpeg::decode(&reference.url(&content::manifest(folder)), None)?;
        let played = ffmpeg::decode(&manifest, None).with_context(|| receiver.tail())?;
        ensure!(played.frames == direct.frames, "{folder}: other frames than from the origin");
        let pieces = content::pieces(&content::make()?.join(folder))?;
        let served = manifest.trim_end_matches(|c| c != '/');
        let same = client::compare(served, &reference.url(&format!("{folder}/")), &pieces);
        same.check().with_context(|| receiver.tail())?;
        ensure!(same.share() == 1.0, "{folder}: {:.3} by multicast, and there is no origin", same.share());
        row(folder, way, played.video, 1.0);
    }
    Ok(())
}

#[test]
fn a_carousel_plays_without_its_origin_even_for_a_late_receiver() -> anyhow::Result<()> {
    if !ffmpeg::have("the origin cut off") {
        return Ok(());
    }
    let content = content::make()?;
    let reference = Origin::start(&content)?;
    let folders = ["hls-fmp4", "dash-number"];
    let mut origin = Origin::start(&content)?;
    let manifests = folders.map(|folder| origin.url(&content::manifest(folder)));
    let rig = Rig::start_all("cut", &manifests, &Setup::CAROUSEL)?;
    rig.one_round()?;
    origin.cut();
    plays_without_origin(&rig.receiver, &reference, &folders, "origin cut off")
        .inspect_err(|_| tools::say(&rig.tails()))?;
    let late = rig.another_receiver("late", &["--join", "always"])?;
    rig.one_round()?;
    plays_without_origin(&late, &reference, &folders, "origin cut off, receiver started later")
        .inspect_err(|_| tools::say(&rig.tails()))
}

/// The sender dies: what it has sent stays, what it has not comes by unicast.
#[test]
fn without_its_sender_a_receiver_goes_on_by_unicast() -> anyhow::Result<()> {
    if !ffmpeg::have("the sender gone") {
        return Ok(());
    }
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let (folder, manifest) = ("hls-ts", content::manifest("hls-ts"));
    let mut rig = Rig::start("sender-gone", &origin, &manifest, &Setup::CAROUSEL)?;
    eventually("some objects", Duration::from_secs(60), || (rig.receiver.objects() >= 6).then_some(()))?;
    rig.stop_sender();
    let same = rig.compare(&origin, folder, &content::pieces(&content.join(folder))?);
    same.check().inspect_err(|_| tools::say(&rig.tails()))?;
    let played = ffmpeg::decode(&rig.receiver.manifest(), None).inspect_err(|_| tools::say(&rig.tails()))?;
    ensure!(played.video == CLIP_FRAMES, "{} frames", played.video);
    row(folder, "sender gone", played.video, same.share());
    Ok(())
}
