//! Losses that the FEC of the stream does not mend: the sender's repair service does, and the ledger balances.

use anyhow::ensure;
use mahp_tests::content;
use mahp_tests::origin::Origin;
use mahp_tests::players::ffmpeg::{self, Live};
use mahp_tests::process::eventually;
use mahp_tests::rig::{Rig, Setup};
use mahp_tests::tools;
use serde_json::Value;
use std::time::Duration;

/// A quarter of the packets, and a tenth of repair: no segment comes whole.
const LOSSY: Setup = Setup {
    loss: 0.25,
    sender: &["--repair", "10", "--repair-ceiling", "10"],
    receiver: &["--join", "always"],
    ..Setup::LIVE
};

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[test]
fn what_the_stream_lost_comes_from_the_sender_in_time() -> anyhow::Result<()> {
    if !ffmpeg::have("recovery of a live channel") {
        return Ok(());
    }
    let name = "recovery-live";
    let work = tools::work_dir().join(name);
    let _ = std::fs::remove_dir_all(&work);
    let kind = Live::HlsTs;
    let folder = work.join(kind.name());
    let _encoder = kind.start(&content::make()?, &folder, &work)?;
    let origin = Origin::start(&work)?;
    eventually("live segments", Duration::from_secs(60), || kind.ready(&folder).then_some(()))?;
    let rig = Rig::start(name, &origin, &format!("{}/{}", kind.name(), kind.manifest()), &LOSSY)?;
    // A player: asks for the playlist, so that the channel is watched.
    let repaired = eventually("repaired objects", Duration::from_secs(90), || {
        let _ = mahp_tests::client::get(&rig.receiver.manifest(), &[]);
        let playlist = mahp_tests::client::get(&rig.receiver.manifest(), &[]).ok()?;
        let text = String::from_utf8_lossy(&playlist.body).into_owned();
        if let Some(last) = text.lines().rev().find(|l| !l.is_empty() && !l.starts_with('#')) {
            let name = last.rsplit('/').next().unwrap_or(last);
            let _ = mahp_tests::client::get(&rig.receiver.url(name), &[]);
        }
        let status = rig.receiver.status().ok()?;
        (number(&status, "/channels/0/objects/repaired") >= 5).then_some(status)
    })
    .inspect_err(|_| tools::say(&rig.tails()))?;
    let from_sender = number(&repaired, "/totals/origin/sender");
    ensure!(from_sender > 0, "nothing came from the sender's repair service: {repaired}\n{}", rig.tails());
    Ok(())
}
