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

/// Plays each clip straight from the origin and through the pair, all side by side; complaints of all of them.
fn each(player: &str, plays: impl Fn(&str, &str, &str) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let manifests: Vec<String> = CLIPS.iter().map(|clip| origin.url(&content::manifest(clip))).collect();
    let rig = Rig::start_all(player, &manifests, &Setup::CAROUSEL)?;
    rig.one_round()?;
    let through = rig.receiver.manifests();
    let of = |way: &'static str, urls: &[String]| -> Vec<(&'static str, &'static str, String)> {
        CLIPS.iter().zip(urls).map(|(clip, url)| (*clip, way, url.clone())).collect()
    };
    let all = [of("origin", &manifests), of("multicast, 5 % loss", &through)].concat();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let start = |(clip, way, url)| {
            let plays = &plays;
            scope.spawn(move || plays(clip, way, url).map_err(|error| format!("{way}: {error:#}")))
        };
        let running: Vec<_> = all.iter().map(|(clip, way, url)| start((clip, way, url))).collect();
        let ended = running.into_iter().map(|thread| thread.join().map_err(|_| "panicked".to_owned()));
        ended.filter_map(|result| result.and_then(|played| played).err()).collect()
    });
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), rig.tails());
    Ok(())
}

#[test]
fn vlc_plays_through_the_pair() -> anyhow::Result<()> {
    if !vlc::have("VLC") {
        return Ok(());
    }
    each("vlc", vlc_plays)
}

#[test]
fn gstreamer_plays_through_the_pair() -> anyhow::Result<()> {
    if !gstreamer::have("GStreamer") {
        return Ok(());
    }
    each("gst", gstreamer_plays)
}
