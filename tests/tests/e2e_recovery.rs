//! Losses beyond what the FEC of the stream mends: the sender's repair service mends them, and what is served is the origin's.

use anyhow::{Context, ensure};
use mahp_tests::client::{self, Comparison};
use mahp_tests::content;
use mahp_tests::origin::Origin;
use mahp_tests::process::eventually;
use mahp_tests::rig::{Receiver, Rig, Setup};
use mahp_tests::tools;
use serde_json::Value;
use std::time::Duration;

const FOLDER: &str = "looped/hls-ts";
/// A quarter of the packets, and a tenth of repair: no segment of many packets comes whole.
const LOSSY: Setup =
    Setup { loss: 0.25, sender: &["--repair", "10", "--repair-ceiling", "10"], ..Setup::LIVE };
/// The same receiver without the repair service: the negative control.
const WITHOUT: [&str; 4] = ["--join", "always", "--repair", "off"];
/// What must have been repaired before anything is judged.
const OBJECTS: u64 = 5;

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The status of a receiver that is watched by a viewer of every rendition (what nobody watches is not repaired) and that has repaired enough objects, by whatever way.
fn repaired(receiver: &Receiver) -> anyhow::Result<Value> {
    eventually("repaired objects", Duration::from_secs(60), || {
        client::listed(&receiver.url("")).ok()?;
        let status = receiver.status().ok()?;
        (number(&status, "/channels/0/objects/repaired") >= OBJECTS).then_some(status)
    })
    .with_context(|| receiver.tail())
}

/// Every segment that the live playlists list now, compared with the origin's.
fn compare(rig: &Rig, receiver: &Receiver, origin: &Origin) -> anyhow::Result<Comparison> {
    let pieces = client::listed(&receiver.url(""))?;
    let same = client::compare(&receiver.url(""), &origin.url(&format!("{FOLDER}/")), &pieces);
    same.check().with_context(|| rig.tails())?;
    Ok(same)
}

#[test]
fn what_fec_does_not_mend_the_repair_service_does() -> anyhow::Result<()> {
    if !tools::have("recovery of a live channel", &["ffmpeg"]) {
        return Ok(());
    }
    let origin = Origin::start(&content::make()?)?;
    let rig = Rig::start("recovery", &origin, &format!("{FOLDER}/master.m3u8"), &LOSSY)?;
    let without = rig.another_receiver("without-repair-service", &WITHOUT)?;

    let status = repaired(&rig.receiver)?;
    let sender = number(&status, "/totals/origin/sender");
    ensure!(sender > 0, "nothing came from the repair service: {}\n{}", status["totals"], rig.tails());
    let same = compare(&rig, &rig.receiver, &origin)?;
    ensure!(same.by_multicast > 0, "{} segments, none of them by multicast", same.requests);

    let control = repaired(&without)?;
    let (sender, ranges) =
        (number(&control, "/totals/origin/sender"), number(&control, "/totals/origin/repair"));
    ensure!(sender == 0 && ranges > 0, "switched off, and yet {sender} bytes, {ranges} from the origin");
    compare(&rig, &without, &origin)?;
    ensure!(rig.lost() > 0.2, "the link lost {:.3}", rig.lost());
    Ok(())
}
