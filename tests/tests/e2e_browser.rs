//! hls.js, dash.js, Shaka and Chromium's own HLS.

use mahp_tests::content::{self, VOD};
use mahp_tests::origin::Origin;
use mahp_tests::players::browser::{self, Job, Played};
use mahp_tests::report::{self, Row};
use mahp_tests::tools;

fn add(content: &str, way: &str, played: &Played) {
    report::add(&Row {
        player: played.player.clone(),
        content: content.into(),
        way: way.into(),
        played: played.played,
        stalls: played.stalls,
        multicast: None,
        note: format!("{:?} {:?} {:?}", played.complaints(), played.startup, played.cors),
    });
}

#[test]
fn control_vod() -> anyhow::Result<()> {
    if !browser::have("browser players on the origin") {
        return Ok(());
    }
    let origin = Origin::start(&content::make()?)?;
    let jobs: Vec<Job> = VOD
        .iter()
        .map(|(folder, manifest)| Job {
            name: format!("control-{folder}"),
            player: if folder.starts_with("dash") { "dash" } else { "hls" }.into(),
            url: origin.url(&format!("{folder}/{manifest}")),
            page: None,
        })
        .collect();
    for (n, some) in jobs.chunks(5).enumerate() {
        for played in browser::play(&tools::work_dir().join(format!("browser-control-{n}")), some.to_vec())? {
            add(&played.name.clone(), "origin", &played);
        }
    }
    Ok(())
}
