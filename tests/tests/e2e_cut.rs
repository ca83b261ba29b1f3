//! Multicast cut in mid-play, watched by hls.js in Chromium. Needs the feature `browsers`.

use anyhow::{Context, ensure};
use mahp_tests::content;
use mahp_tests::origin::Origin;
use mahp_tests::players::browser::{self, Job};
use mahp_tests::players::ffmpeg::Live;
use mahp_tests::process::eventually;
use mahp_tests::report::{self, Row};
use mahp_tests::rig::{Rig, Setup};
use mahp_tests::tools;
use std::time::Duration;

/// hls.js on a live channel while multicast dies and comes back: no stall, and multicast is used again.
#[test]
fn multicast_cut_in_mid_play_is_not_noticed() -> anyhow::Result<()> {
    if !browser::have("multicast cut in mid-play") {
        return Ok(());
    }
    let name = "cut-live";
    let work = tools::work_dir().join(name);
    let _ = std::fs::remove_dir_all(&work);
    let kind = Live::HlsTs;
    let folder = work.join(kind.name());
    let _encoder = kind.start(&content::make()?, &folder, &work)?;
    let origin = Origin::start(&work)?;
    eventually("live segments", Duration::from_secs(60), || kind.ready(&folder).then_some(()))?;
    let rig = Rig::start(name, &origin, &format!("{}/{}", kind.name(), kind.manifest()), &Setup::LIVE)?;
    let heard = rig.receiver.objects();
    eventually("live objects", Duration::from_secs(60), || {
        (rig.receiver.objects() > heard + 8).then_some(())
    })?;
    origin.clear_log();
    let job = Job { name: name.into(), player: "hls".into(), url: rig.receiver.manifest(), page: None };
    let segments_fetched = || {
        let log = origin.log();
        log.iter()
            .filter(|access| access.agent.starts_with("mahp-receiver") && access.path.contains(".ts"))
            .count()
    };
    let all = std::thread::scope(|scope| {
        let playing = scope.spawn(|| browser::play(&work.join("browser"), vec![job]));
        let steps = || -> anyhow::Result<()> {
            let served = rig.receiver.objects();
            eventually("multicast while playing", Duration::from_secs(60), || {
                (rig.receiver.objects() > served + 6).then_some(())
            })?;
            rig.lose(1.0);
            let before = segments_fetched();
            eventually("unicast instead", Duration::from_secs(30), || {
                (segments_fetched() >= before + 4).then_some(())
            })?;
            rig.lose(0.05);
            let dead = rig.receiver.objects();
            eventually("multicast again", Duration::from_secs(30), || {
                (rig.receiver.objects() > dead + 4).then_some(())
            })
        };
        let result = steps();
        let all = playing.join().map_err(|_| anyhow::anyhow!("the driver panicked"))?;
        result.map(|()| all).with_context(|| rig.tails())?
    })?;
    let played = all.first().context("no result")?;
    report::add(&Row {
        player: "hls".into(),
        content: kind.name().into(),
        way: "multicast cut for some segments".into(),
        played: played.played,
        stalls: played.stalls,
        multicast: Some(played.share()),
        note: played.complaints().join("; "),
    });
    ensure!(played.complaints().is_empty(), "{:?}\n{}", played.complaints(), rig.tails());
    Ok(())
}
