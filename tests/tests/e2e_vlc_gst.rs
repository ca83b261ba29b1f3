//! VLC and GStreamer.

use mahp_tests::content;
use mahp_tests::origin::Origin;
use mahp_tests::players::{gstreamer, vlc};
use mahp_tests::report::{self, Row};
use mahp_tests::tools;

#[test]
fn control_vlc() -> anyhow::Result<()> {
    if !vlc::have("VLC on the origin") {
        return Ok(());
    }
    let origin = Origin::start(&content::make()?)?;
    for (folder, manifest) in
        [("hls-ts", "master.m3u8"), ("hls-fmp4", "master.m3u8"), ("dash-number", "manifest.mpd")]
    {
        let dir = tools::work_dir().join(format!("vlc-control-{folder}"));
        let played = vlc::play(&dir, &origin.url(&format!("{folder}/{manifest}")), 10)?;
        report::add(&Row {
            player: "VLC".into(),
            content: folder.into(),
            way: "origin".into(),
            played: played.seconds,
            note: format!("{played:?}"),
            ..Row::default()
        });
    }
    Ok(())
}

#[test]
fn control_gstreamer() -> anyhow::Result<()> {
    if !gstreamer::have("GStreamer on the origin") {
        return Ok(());
    }
    let origin = Origin::start(&content::make()?)?;
    for (folder, manifest) in
        [("hls-ts", "master.m3u8"), ("hls-fmp4", "master.m3u8"), ("dash-number", "manifest.mpd")]
    {
        let dir = tools::work_dir().join(format!("gst-control-{folder}"));
        let played = gstreamer::play(&dir, &origin.url(&format!("{folder}/{manifest}")), 60)?;
        report::add(&Row {
            player: "GStreamer".into(),
            content: folder.into(),
            way: "origin".into(),
            played: f64::from(played.rendered) / 25.0,
            note: format!("{played:?}"),
            ..Row::default()
        });
    }
    Ok(())
}
