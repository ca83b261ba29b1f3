//! ffmpeg and ffprobe through the pair: every packaging decodes to the same frames as from the origin, every byte is the
//! origin's, and multicast brought them, at 5 % packet loss.

use anyhow::ensure;
use mahp_tests::client::{self, Piece};
use mahp_tests::content::{self, CLIP_FRAMES, CLIP_SECONDS};
use mahp_tests::origin::Origin;
use mahp_tests::players::ffmpeg::{self, Decoded, Live};
use mahp_tests::process::eventually;
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{LOSS, Rig, Setup};
use mahp_tests::tools;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn row(content: &str, way: &str, decoded: &Decoded, multicast: Option<f64>) {
    let played = decoded.video as f64 / CLIP_FRAMES as f64 * CLIP_SECONDS;
    let note = format!("{} video and {} audio frames", decoded.video, decoded.audio);
    let (player, content, way) = ("ffmpeg".into(), content.into(), way.into());
    report::add(&Row { player, content, way, played, stalls: 0, multicast, note });
}

/// Decodes straight from the origin, and checks that the content is what it should be.
fn control(origin: &Origin, folder: &str) -> anyhow::Result<Decoded> {
    let decoded = ffmpeg::decode(&origin.url(&content::manifest(folder)), None)?;
    // ffmpeg 5.1 skips the first fragment of some DASH presentations, 50 frames, and ends with the sound, 5 frames early.
    let least = if folder.starts_with("dash") { CLIP_FRAMES - 55 } else { CLIP_FRAMES };
    ensure!(decoded.video >= least, "{folder}: {} video frames", decoded.video);
    ensure!(decoded.audio > 1570, "{folder}: {} audio frames", decoded.audio);
    row(folder, "origin", &decoded, None);
    Ok(decoded)
}

fn vod(folder: &str) -> anyhow::Result<()> {
    if !ffmpeg::have(&format!("ffmpeg on {folder}")) {
        return Ok(());
    }
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    let direct = control(&origin, folder)?;
    let rig = Rig::start(&format!("ffmpeg-{folder}"), &origin, &content::manifest(folder), &Setup::CAROUSEL)?;
    rig.one_round()?;
    origin.clear_log();

    let manifest = rig.receiver.manifest();
    let played = ffmpeg::decode(&manifest, None).inspect_err(|_| tools::say(&rig.tails()))?;
    ensure!(
        played.frames == direct.frames,
        "{folder}: other frames than from the origin ({} and {})",
        played.video,
        direct.video
    );
    ensure!(ffmpeg::probe(&manifest)? == ffmpeg::probe(&origin.url(&content::manifest(folder)))?);

    let pieces = content::pieces(&content.join(folder))?;
    let same = rig.compare(&origin, folder, &pieces);
    same.check().inspect_err(|_| tools::say(&rig.tails()))?;
    // Two accounts of the same thing: what the receiver says, and what the origin's access log says.
    let fetched = origin.bytes_to("mahp-receiver") as f64 / (2 * same.bytes) as f64;
    row(folder, "multicast, 5 % loss", &played, Some(same.share().min(1.0 - fetched)));
    ensure!(same.share() >= 0.95, "{folder}: {:.3} of the bytes by multicast\n{}", same.share(), rig.tails());
    ensure!(fetched <= 0.05, "{folder}: the receiver fetched {fetched:.3} of the bytes from the origin");
    ensure!((rig.lost() - LOSS).abs() < LOSS / 2.0, "the link lost {:.3} of the packets", rig.lost());
    Ok(())
}

#[test]
fn hls_ts() -> anyhow::Result<()> {
    vod("hls-ts")
}

#[test]
fn hls_fmp4() -> anyhow::Result<()> {
    vod("hls-fmp4")
}

#[test]
fn hls_ts_byte_range() -> anyhow::Result<()> {
    vod("hls-ts-range")
}

#[test]
fn hls_fmp4_byte_range() -> anyhow::Result<()> {
    vod("hls-fmp4-range")
}

#[test]
fn hls_aes_128() -> anyhow::Result<()> {
    vod("hls-aes")
}

#[test]
fn hls_alternate_audio_and_subtitles() -> anyhow::Result<()> {
    vod("hls-alt")
}

#[test]
fn dash_number() -> anyhow::Result<()> {
    vod("dash-number")
}

#[test]
fn dash_timeline() -> anyhow::Result<()> {
    vod("dash-time")
}

#[test]
fn dash_segment_list() -> anyhow::Result<()> {
    vod("dash-list")
}

#[test]
fn dash_segment_base() -> anyhow::Result<()> {
    vod("dash-base")
}

/// Four segments that the encoder has finished after `joined`, a while ago, and will not delete soon: paths below `folder`. What a
/// player asked for that was sent before the join came by unicast, and rightly so.
fn finished(folder: &Path, joined: SystemTime) -> anyhow::Result<Vec<Piece>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let is_init = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("init"));
            // What is deleted meanwhile is not looked for.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(path);
            } else if matches!(extension, "ts" | "m4s") && !is_init && meta.modified()? > joined {
                files.push((meta.modified()?, path.to_string_lossy().into_owned()));
            }
        }
    }
    files.sort();
    Ok(files.into_iter().rev().skip(4).take(4).map(|(_, path)| (path, None)).collect())
}

fn live(kind: Live) -> anyhow::Result<()> {
    let name = kind.name();
    if !ffmpeg::have(&format!("ffmpeg on {name}")) {
        return Ok(());
    }
    let work = tools::work_dir().join(format!("ffmpeg-{name}"));
    let _ = std::fs::remove_dir_all(&work);
    let folder = work.join(name);
    let _encoder = kind.start(&content::make()?, &folder, &work)?;
    eventually("three live segments", Duration::from_secs(60), || kind.ready(&folder).then_some(()))?;
    let origin = Origin::start(&work)?;
    let rig =
        Rig::start(&format!("ffmpeg-{name}"), &origin, &format!("{name}/{}", kind.manifest()), &Setup::LIVE)?;
    let joined = SystemTime::now();
    let played =
        ffmpeg::decode(&rig.receiver.manifest(), Some(12)).inspect_err(|_| tools::say(&rig.tails()))?;
    let pieces = eventually("four segments finished after the join", Duration::from_secs(60), || {
        finished(&folder, joined).ok().filter(|pieces| pieces.len() == 4)
    })?;
    let same = client::compare(&rig.receiver.url(""), &origin.url(&format!("{name}/")), &pieces);
    same.check().inspect_err(|_| tools::say(&rig.tails()))?;
    row(name, "multicast, 5 % loss", &played, Some(same.share()));
    ensure!(same.share() >= 0.95, "{name}: {:.3} of the bytes by multicast\n{}", same.share(), rig.tails());
    ensure!(
        played.video >= 11 * 25,
        "{name}: {} frames in 12 s\n{}{}",
        played.video,
        played.warnings,
        rig.tails()
    );
    Ok(())
}

#[test]
fn live_hls_ts() -> anyhow::Result<()> {
    live(Live::HlsTs)
}

#[test]
fn live_hls_fmp4() -> anyhow::Result<()> {
    live(Live::HlsFmp4)
}

#[test]
fn live_dash() -> anyhow::Result<()> {
    live(Live::Dash)
}

/// The byte comparison is worth something only if it can fail: one flipped bit in one segment is one difference.
#[test]
fn negative_control_of_the_comparison() -> anyhow::Result<()> {
    if !ffmpeg::have("the negative control of the comparison") {
        return Ok(());
    }
    let content = content::make()?;
    let (good, damaged) = (Origin::start(&content)?, Origin::start(&content)?);
    damaged.flip("v1/seg003.ts");
    let pieces = content::pieces(&content.join("hls-ts"))?;
    let found = client::compare(&good.url("hls-ts/"), &damaged.url("hls-ts/"), &pieces);
    ensure!(found.differences.len() == 1, "{:?}", found.differences);
    ensure!(found.check().is_err() && found.share() == 0.0);
    Ok(())
}
