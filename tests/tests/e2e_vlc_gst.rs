//! VLC and GStreamer through the pair, in real time, at 5 % packet loss.

use anyhow::ensure;
use mahp_tests::content::{self, CLIP_SECONDS};
use mahp_tests::origin::Origin;
use mahp_tests::players::{gstreamer, vlc};
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{Rig, Setup};
use mahp_tests::tools;

/// Seconds that VLC plays each clip.
const VLC_SECONDS: u32 = 10;
const CLIPS: &[&str] = &["hls-ts", "hls-fmp4-range", "hls-aes", "dash-number"];

fn row(player: &str, content: &str, way: &str, played: f64, note: String) {
    let (player, content, way) = (player.into(), content.into(), way.into());
    report::add(&Row { player, content, way, played, stalls: 0, multicast: None, note });
}

fn vlc_plays(folder: &str, way: &str, url: &str) -> anyhow::Result<()> {
    let dir = tools::work_dir().join(format!("vlc-{folder}-{}", way.split(' ').next().unwrap_or(way)));
    let played = vlc::play(&dir, url, VLC_SECONDS)?;
    let note = format!("{} frames decoded, {} late", played.decoded, played.lost);
    row("VLC", folder, way, played.seconds, note);
    // Its clock has whole seconds.
    ensure!(
        (played.seconds - played.wall).abs() <= 2.0,
        "{folder}: clock {} s in {} s",
        played.seconds,
        played.wall
    );
    ensure!(played.decoded >= (VLC_SECONDS - 1) * 25, "{folder}: {} frames", played.decoded);
    ensure!(played.errors.is_empty(), "{folder}: {}", played.errors.join("\n"));
    Ok(())
}

fn gstreamer_plays(folder: &str, way: &str, url: &str) -> anyhow::Result<()> {
    let dir = tools::work_dir().join(format!("gst-{folder}-{}", way.split(' ').next().unwrap_or(way)));
    let played = gstreamer::play(&dir, url, 90)?;
    let note = format!("{} frames shown, {} late", played.rendered, played.dropped);
    row("GStreamer", folder, way, f64::from(played.rendered + played.dropped) / 25.0, note);
    ensure!(played.errors.is_empty(), "{folder}: {}", played.errors.join("\n"));
    ensure!(played.ended, "{folder}: no end of stream in {:.0} s", played.wall);
    let seconds = f64::from(played.rendered + played.dropped) / 25.0;
    ensure!(seconds > CLIP_SECONDS - 2.5, "{folder}: {seconds} s of pictures");
    Ok(())
}

/// Plays each clip from the origin, then through the pair.
fn each(
    player: &str,
    clips: &[&str],
    plays: impl Fn(&str, &str, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    for folder in clips {
        let manifest = content::manifest(folder);
        plays(folder, "origin", &origin.url(&manifest))?;
        let rig = Rig::start(&format!("{player}-{folder}"), &origin, &manifest, &Setup::CAROUSEL)?;
        rig.one_round(&content.join(folder))?;
        plays(folder, "multicast, 5 % loss", &rig.receiver.manifest())
            .inspect_err(|_| tools::say(&rig.tails()))?;
    }
    Ok(())
}

#[test]
fn vlc_plays_through_the_pair() -> anyhow::Result<()> {
    if !vlc::have("VLC") {
        return Ok(());
    }
    each("vlc", CLIPS, vlc_plays)
}

#[test]
fn gstreamer_plays_through_the_pair() -> anyhow::Result<()> {
    if !gstreamer::have("GStreamer") {
        return Ok(());
    }
    // GStreamer plays DASH too; each clip takes its own length twice, and VLC has DASH through the pair already.
    each("gst", &CLIPS[..3], gstreamer_plays)
}
