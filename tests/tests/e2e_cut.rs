//! Multicast cut in mid-play, watched by hls.js in Chromium.

use anyhow::ensure;
use mahp_tests::content;
use mahp_tests::origin::Origin;
use mahp_tests::players::browser;
use mahp_tests::players::ffmpeg::Live;
use mahp_tests::process::eventually;
use mahp_tests::rig::{LOSS, Rig, Setup};
use mahp_tests::tools;
use mahp_tests::watch::{self, Watched};
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
    let manifest = origin.url(&format!("{}/{}", kind.name(), kind.manifest()));
    let rig = Rig::start_all(name, std::slice::from_ref(&manifest), &Setup::LIVE)?;
    let by_multicast = |more: u64, patience: u64| {
        let heard = rig.receiver.objects();
        eventually("objects by multicast", Duration::from_secs(patience), || {
            (rig.receiver.objects() >= heard + more).then_some(())
        })
    };
    by_multicast(8, 60)?;
    let segments_fetched = || {
        let log = origin.log();
        log.iter()
            .filter(|access| access.agent.starts_with("mahp-receiver") && access.path.contains(".ts"))
            .count()
    };
    let watched = Watched {
        player: "hls",
        content: kind.name().into(),
        origin: Some(manifest),
        receiver: rig.receiver.manifest(),
        channel: rig.receiver.names()[0].into(),
        files: folder,
        multicast: 0.0,
    };
    let cut = || -> anyhow::Result<()> {
        by_multicast(10, 60)?;
        rig.lose(1.0);
        let before = segments_fetched();
        let unicast = eventually("unicast instead", Duration::from_secs(30), || {
            (segments_fetched() >= before + 4).then_some(())
        });
        rig.lose(LOSS);
        unicast.and_then(|()| by_multicast(4, 30))
    };
    let way = "multicast cut for some segments";
    let all = watch::side_by_side(name, way, &[watched], cut).inspect_err(|_| tools::say(&rig.tails()))?;
    let bytes = all[0].bytes;
    ensure!(bytes.unicast > 0 && bytes.multicast > 0, "both ways were used: {bytes:?}");
    Ok(())
}
