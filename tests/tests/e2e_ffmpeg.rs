//! ffmpeg and ffprobe: every packaging, decoded whole.

use mahp_tests::content::{self, CLIP_FRAMES, CLIP_SECONDS, VOD};
use mahp_tests::origin::Origin;
use mahp_tests::players::ffmpeg;
use mahp_tests::report::{self, Row};

#[test]
fn control_every_packaging_decodes_from_the_origin() -> anyhow::Result<()> {
    if !ffmpeg::have("ffmpeg on the origin") {
        return Ok(());
    }
    let content = content::make()?;
    let origin = Origin::start(&content)?;
    for (folder, manifest) in VOD {
        let url = origin.url(&format!("{folder}/{manifest}"));
        assert!(ffmpeg::probe(&url)?.contains("h264"), "{folder}: no video");
        let decoded = ffmpeg::decode(&url, None)?;
        // ffmpeg 5.1 skips the first fragment of some DASH presentations: 50 frames.
        let least = if folder.starts_with("dash") { CLIP_FRAMES - 50 } else { CLIP_FRAMES };
        assert!(decoded.video >= least, "{folder}: {} video frames", decoded.video);
        assert!(decoded.audio > 1590, "{folder}: {} audio frames", decoded.audio);
        report::add(&Row {
            player: "ffmpeg".into(),
            content: (*folder).into(),
            way: "origin".into(),
            played: decoded.video as f64 / CLIP_FRAMES as f64 * CLIP_SECONDS,
            ..Row::default()
        });
    }
    Ok(())
}
