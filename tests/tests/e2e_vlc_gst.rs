//! VLC and GStreamer through the pair, in real time, at 5 % packet loss: on demand beside the same play from the origin, and live.

use anyhow::ensure;
use mahp_tests::client::{self, Comparison, Piece};
use mahp_tests::content::{self, CLIP_SECONDS};
use mahp_tests::origin::Origin;
use mahp_tests::players::{gstreamer, vlc};
use mahp_tests::process::eventually;
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{Rig, Setup};
use mahp_tests::tools;
use std::time::Duration;

/// Seconds that VLC plays each clip.
const VLC_SECONDS: u32 = 10;
/// Seconds that GStreamer plays a live channel.
const GST_LIVE_SECONDS: u64 = 20;
/// What it may take to show its first picture beside seven others, seconds.
const GST_START: f64 = 10.0;
/// A live channel without an encoder, and its bytes by multicast at least: the newest segment may still be on its way when it is asked for.
const LIVE: &str = "looped/hls-ts";
const LIVE_SHARE: f64 = 0.8;
const CLIPS: &[&str] = &["hls-ts", "hls-fmp4-range", "hls-aes", "dash-number"];

/// What a player did.
struct Played {
    /// Of media.
    seconds: f64,
    /// Fell behind the clock on the wall by more than starting takes.
    stalled: bool,
    note: String,
}

/// One play: player, content, and where it comes from.
#[derive(Clone, Copy)]
struct Play<'a> {
    folder: &'a str,
    way: &'a str,
    live: bool,
}

impl Play<'_> {
    fn work_dir(&self, player: &str) -> std::path::PathBuf {
        let way = self.way.split(' ').next().unwrap_or(self.way);
        tools::work_dir().join(format!("{player}-{}-{way}", self.folder.replace('/', "-")))
    }

    /// A line of the table. `same`: what was compared with the origin.
    fn report(&self, player: &str, played: Played, same: Option<&Comparison>) {
        let (player, content, way) = (player.into(), self.folder.into(), self.way.into());
        let Played { seconds, stalled, note } = played;
        let (stalls, multicast) = (u32::from(stalled), same.map(Comparison::share));
        report::add(&Row { player, content, way, played: seconds, stalls, multicast, note });
    }
}

fn vlc_plays(play: Play<'_>, url: &str) -> anyhow::Result<Played> {
    let played = vlc::play(&play.work_dir("vlc"), url, VLC_SECONDS)?;
    let folder = play.folder;
    // Its clock has whole seconds.
    let off = played.seconds - played.wall;
    ensure!(off.abs() <= 2.0, "{folder}: clock {} s in {} s", played.seconds, played.wall);
    ensure!(played.decoded >= (VLC_SECONDS - 1) * 25, "{folder}: {} frames", played.decoded);
    ensure!(played.errors.is_empty(), "{folder}: {}", played.errors.join("\n"));
    let note = format!("{} frames decoded, {} late", played.decoded, played.lost);
    Ok(Played { seconds: played.seconds, stalled: off < -2.0, note })
}

fn gstreamer_plays(play: Play<'_>, url: &str) -> anyhow::Result<Played> {
    let patience = if play.live { GST_LIVE_SECONDS } else { 90 };
    let played = gstreamer::play(&play.work_dir("gst"), url, patience)?;
    let folder = play.folder;
    let seconds = f64::from(played.rendered + played.dropped) / 25.0;
    let stalled = played.wall - seconds > GST_START;
    ensure!(played.errors.is_empty(), "{folder}: {}", played.errors.join("\n"));
    ensure!(!stalled, "{folder}: {seconds} s of pictures in {:.1} s", played.wall);
    if !play.live {
        ensure!(played.ended, "{folder}: no end of stream in {:.0} s", played.wall);
        ensure!(seconds > CLIP_SECONDS - 2.5, "{folder}: {seconds} s of pictures");
    }
    let note = format!("{} frames shown, {} late", played.rendered, played.dropped);
    Ok(Played { seconds, stalled, note })
}

/// The bytes that the receiver serves are the origin's, and at least this share of them came by multicast.
fn compare(served: &str, original: &str, pieces: &[Piece], least: f64) -> anyhow::Result<Comparison> {
    let same = client::compare(served, original, pieces);
    same.check()?;
    ensure!(same.share() >= least, "{original}: {:.3} of the bytes by multicast", same.share());
    Ok(same)
}

type Player = fn(Play<'_>, &str) -> anyhow::Result<Played>;

/// Plays each clip straight from the origin and through the pair, all side by side; complaints of all of them.
fn each(player: &str, plays: Player) -> anyhow::Result<()> {
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let manifests: Vec<String> = CLIPS.iter().map(|clip| origin.url(&content::manifest(clip))).collect();
    let rig = Rig::start_all(player, &manifests, &Setup::CAROUSEL)?;
    rig.one_round()?;
    let through = rig.receiver.manifests();
    let one = |folder: &str, url: &str, served: bool| -> anyhow::Result<()> {
        let way = if served { "multicast, 5 % loss" } else { "origin" };
        let play = Play { folder, way, live: false };
        let played = plays(play, url)?;
        let below = url.trim_end_matches(|c| c != '/');
        let pieces = content::pieces(&content.join(folder))?;
        let original = origin.url(&format!("{folder}/"));
        let same = served.then(|| compare(below, &original, &pieces, 0.95)).transpose()?;
        play.report(player, played, same.as_ref());
        Ok(())
    };
    let pairs = |urls: &[String], served| -> Vec<(&'static str, String, bool)> {
        CLIPS.iter().zip(urls).map(|(clip, url)| (*clip, url.clone(), served)).collect()
    };
    let all = [pairs(&manifests, false), pairs(&through, true)].concat();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let start = |(clip, url, served): (&'static str, String, bool)| {
            let one = &one;
            scope.spawn(move || one(clip, &url, served).map_err(|error| format!("{url}: {error:#}")))
        };
        let running: Vec<_> = all.into_iter().map(start).collect();
        let ended = running.into_iter().map(|thread| thread.join().map_err(|_| "panicked".to_owned()));
        ended.filter_map(|result| result.and_then(|played| played).err()).collect()
    });
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), rig.tails());
    live(player, plays)
}

fn live(player: &str, plays: Player) -> anyhow::Result<()> {
    let origin = Origin::start(&content::make()?)?;
    let rig = Rig::start(&format!("{player}-live"), &origin, &format!("{LIVE}/master.m3u8"), &Setup::LIVE)?;
    eventually("live segments", Duration::from_secs(60), || (rig.receiver.objects() >= 8).then_some(()))?;
    let play = Play { folder: LIVE, way: "multicast, 5 % loss", live: true };
    let played = plays(play, &rig.receiver.manifest()).inspect_err(|_| tools::say(&rig.tails()))?;
    let served = rig.receiver.url("");
    let same = compare(&served, &origin.url(&format!("{LIVE}/")), &client::listed(&served)?, LIVE_SHARE)
        .inspect_err(|_| tools::say(&rig.tails()))?;
    play.report(player, played, Some(&same));
    Ok(())
}

#[test]
fn vlc_plays_through_the_pair() -> anyhow::Result<()> {
    if !vlc::have("VLC") {
        return Ok(());
    }
    each("VLC", vlc_plays)
}

#[test]
fn gstreamer_plays_through_the_pair() -> anyhow::Result<()> {
    if !gstreamer::have("GStreamer") {
        return Ok(());
    }
    each("GStreamer", gstreamer_plays)
}
