//! The whole protocol in virtual time: one sender, one impaired link, one receiver.

use crate::catalog::WireProfile;
use crate::drop::DropReason;
use crate::fec::partition::raptorq_oti;
use crate::fec::raptorq::ESI_MOQ_END;
use crate::fec::{Blocks, EncodeJob};
use crate::ids::{Esi, Sbn, Toi};
use crate::object::Object;
use crate::session::recv::{Path, Pool};
use crate::session::send::{self, FlowKind, SendConfig, SendSession};
use crate::testing::{Pair, by_url, configs, seed, segment};
use crate::time::Time;
use crate::wire::alc::{AlcPacket, PayloadId};
use std::collections::BTreeMap;
use std::time::Duration;
use str0m_netem::{GilbertElliot, LossModel, NetemConfig, Probability, RandomLoss};

const PROFILES: [WireProfile; 2] = [WireProfile::Mabr, WireProfile::FluteRaptorq];
const MBIT: u64 = 1_000_000;

fn link(seed: u64) -> NetemConfig {
    NetemConfig::new().seed(seed).latency(Duration::from_millis(5))
}

fn lossy(seed: u64, share: f32) -> NetemConfig {
    link(seed).loss(LossModel::Random(RandomLoss::new(Probability::new(share))))
}

/// `n` segments of `len` bytes, one each two seconds, as a live channel sends them.
fn live(pair: &mut Pair, first: u64, n: u64, len: usize) -> Vec<Object> {
    (first..first + n)
        .map(|i| {
            let object = segment(i, len + (i as usize * 997) % 5000);
            pair.send(object.clone());
            pair.run_for(Duration::from_secs(2));
            object
        })
        .collect()
}

fn assert_all_arrived(pair: &Pair, objects: &[Object]) {
    let got = by_url(&pair.log);
    for object in objects {
        assert!(got.get(&object.meta.url) == Some(&object.data), "{} missing or damaged", object.meta.url);
    }
    assert_eq!(pair.log.complete.len(), objects.len(), "no object twice");
}

#[test]
fn clean_channel_arrives_whole_and_needs_no_decoder() {
    for profile in PROFILES {
        let (send, recv) = configs(profile, 32 * MBIT);
        let mut pair = Pair::new(send, recv, link(1));
        let objects = live(&mut pair, 0, 10, 750_000);
        assert_all_arrived(&pair, &objects);
        let stats = pair.receiver.stats();
        assert_eq!((stats.lost_symbols, stats.recovered_symbols), (0, 0), "{profile:?}");
        assert_eq!(stats.drops.faults(), 0, "{:?}", stats.drops);
        assert_eq!(stats.assembly_bytes, 0);
        assert_eq!(pair.receiver.undescribed(), None);
    }
}

#[test]
fn lossy_live_channel() {
    let seed = seed(7);
    for profile in PROFILES {
        for (share, segments, repair_percent) in [(0.01, 10, 15), (0.05, 20, 15), (0.10, 20, 22)] {
            let (mut send, recv) = configs(profile, 32 * MBIT);
            send.repair_percent = repair_percent;
            let mut pair = Pair::new(send, recv, lossy(seed, share));
            let objects = live(&mut pair, 0, segments, 1_200_000);
            assert_all_arrived(&pair, &objects);
            let stats = pair.receiver.stats();
            let loss = stats.lost_symbols as f64 / stats.expected_symbols as f64;
            assert!((loss - f64::from(share)).abs() < 0.02, "{profile:?}: loss {loss} at {share}");
            // The object under way at the join may not count as loss.
            assert!(stats.recovered_symbols >= stats.lost_symbols);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let (send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
        let mut pair = Pair::new(send, recv, lossy(11, 0.05));
        live(&mut pair, 0, 5, 300_000);
        pair.log.complete.iter().map(|(at, toi, _, _, how)| (*at, *toi, *how)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn without_repair_a_lossy_channel_loses_objects() {
    // Negative control for the test above: the FEC is what saves it.
    let (mut send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    send.repair_percent = 0;
    let mut pair = Pair::new(send, recv, lossy(7, 0.05));
    live(&mut pair, 0, 10, 750_000);
    assert_eq!(pair.log.complete.len(), 0);
    pair.run_for(Duration::from_secs(30));
    assert_eq!(pair.log.lost.len(), 10);
    assert!(pair.log.lost.iter().all(|(_, _, why)| *why == DropReason::Incomplete));
}

#[test]
fn reordering_and_duplicates_change_nothing() {
    let seed = seed(3);
    for profile in PROFILES {
        let (send, recv) = configs(profile, 32 * MBIT);
        let impaired = lossy(seed, 0.02)
            .jitter(Duration::from_millis(20))
            .duplicate(Probability::new(0.25))
            .reorder_gap(4);
        let mut pair = Pair::new(send, recv, impaired);
        let objects = live(&mut pair, 0, 15, 750_000);
        assert_all_arrived(&pair, &objects);
        assert!(
            pair.receiver.stats().drops.get(DropReason::Duplicate)
                + pair.receiver.stats().drops.get(DropReason::Late)
                > 1000
        );
    }
}

#[test]
fn bursts_of_a_dropped_super_packet_are_repaired() {
    // 16 consecutive packets at a time: what one dropped GSO batch looks like.
    let (send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    let mut pair = Pair::new(send, recv, link(1));
    let mut n = 0u32;
    pair.filter = Box::new(move |_, _| {
        n += 1;
        n % 400 >= 16
    });
    let objects = live(&mut pair, 0, 10, 2_000_000);
    assert_all_arrived(&pair, &objects);
}

#[test]
fn gilbert_elliott_wifi_loss() {
    let (mut send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    send.repair_percent = 30;
    let mut pair =
        Pair::new(send, recv, link(seed(5)).loss(LossModel::GilbertElliot(GilbertElliot::wifi_lossy())));
    let objects = live(&mut pair, 0, 20, 1_200_000);
    assert_all_arrived(&pair, &objects);
}

#[test]
fn a_late_joiner_completes_the_next_object() {
    for profile in PROFILES {
        let (send, recv) = configs(profile, 32 * MBIT);
        let mut pair = Pair::new(send, recv, link(1));
        pair.joined = false;
        pair.send(segment(0, 2_000_000));
        pair.run_for(Duration::from_millis(300));
        pair.joined = true; // in the middle of object 0
        pair.run_for(Duration::from_millis(1700));
        let objects = live(&mut pair, 1, 3, 2_000_000);
        let stats = pair.receiver.stats();
        assert_eq!((stats.lost_symbols, stats.drops.get(DropReason::DigestMismatch)), (0, 0), "{profile:?}");
        let got = by_url(&pair.log);
        assert!(objects.iter().all(|o| got.get(&o.meta.url) == Some(&o.data)));
    }
}

#[test]
fn a_late_joiner_goes_on_in_the_next_round_of_a_carousel() {
    let (mut send, mut recv) = configs(WireProfile::Mabr, 32 * MBIT);
    send.repair_percent = 30;
    recv.object_timeout = Duration::from_secs(60);
    let mut pair = Pair::new(send, recv, link(1));
    let object = segment(0, 2_000_000);
    pair.joined = false;
    pair.send(object.clone());
    pair.run_for(Duration::from_millis(400));
    pair.joined = true; // hears the last part of round one
    pair.run_for(Duration::from_secs(20));
    assert_eq!(pair.log.complete.len(), 0);
    let heard = pair.receiver.progress(Toi(1000)).expect("collected in part");
    pair.send(object.clone());
    pair.run_for(Duration::from_secs(10));
    let (at, _, _, payload, how) = &pair.log.complete[0];
    assert!(payload.to_bytes() == object.data);
    assert_eq!(how.first_symbol, heard.first_symbol, "nothing restarted from zero");
    assert!(*at < Time::from_millis(21_000), "done before round two ended: {at:?}");
}

#[test]
fn what_was_sent_before_the_join_is_no_loss() {
    // A manifest flow: small objects, the same again every two seconds. The join is between source and repair symbols.
    let (send, recv) = configs(WireProfile::Mabr, MBIT);
    let mut pair = Pair::new(send, recv, link(1));
    pair.joined = false;
    let manifest = segment(0, 6000);
    pair.send(manifest.clone());
    pair.run_for(Duration::from_millis(60));
    pair.joined = true;
    pair.run_for(Duration::from_secs(2));
    for _ in 0..3 {
        pair.send(manifest.clone());
        pair.run_for(Duration::from_secs(2));
    }
    pair.send(segment(1, 6000));
    pair.run_for(Duration::from_secs(2));
    let how: Vec<_> = pair.log.complete.iter().map(|c| (c.4.source_symbols, c.4.source_received)).collect();
    assert!(how[0].1 < how[0].0, "the first was heard in part: {how:?}");
    let stats = pair.receiver.stats();
    assert_eq!((stats.lost_symbols, stats.expected_symbols), (0, 5), "{how:?}");
}

/// Its missing symbols are fetched, from its first byte on, at any time after the join: nothing was lost all the same.
#[test]
fn what_is_fetched_of_an_object_under_way_at_the_join_is_no_loss() {
    for profile in PROFILES {
        // The last: of the first object only FDT Instances come after the join.
        for (joined_after, fetched_after) in [(100, 100), (300, 900), (450, 2500), (800, 1500), (101, 2500)] {
            let (send, recv) = configs(profile, 32 * MBIT);
            let mut pair = Pair::new(send, recv, link(1));
            pair.joined = false;
            let first = segment(0, 2_000_000);
            pair.send(first.clone());
            pair.run_for(Duration::from_millis(joined_after));
            pair.joined = true;
            if joined_after == 101 {
                pair.filter =
                    Box::new(|_, datagram| AlcPacket::parse(datagram).is_ok_and(|p| p.fdt.is_some()));
            }
            pair.run_for(Duration::from_millis(fetched_after));
            pair.filter = Box::new(|_, _| true);
            for (from, to) in pair.receiver.missing_ranges(Toi(1000), 0) {
                pair.fetched(Toi(1000), from, &first.data[from as usize..=to as usize]);
            }
            let mut objects = live(&mut pair, 1, 4, 2_000_000);
            objects.extend(by_url(&pair.log).contains_key(&first.meta.url).then_some(first));
            assert_all_arrived(&pair, &objects);
            let stats = pair.receiver.stats();
            let says = format!("{profile:?}, joined after {joined_after} ms");
            assert_eq!((stats.lost_symbols, stats.loss_runs.iter().sum::<u64>()), (0, 0), "{says}");
            let whole = pair.log.complete.iter().filter(|c| c.4.heard_from_start).count();
            assert!(whole >= 3 && stats.expected_symbols > 3 * 2_000_000 / 1344, "{says}: the others count");
            let mut late = pair.log.complete.iter().filter(|c| c.4.source_received < c.4.source_symbols);
            assert!(late.all(|c| !c.4.heard_from_start), "{says}");
        }
    }
}

#[test]
fn lost_fdt_instances_cost_no_object() {
    // The first two announcements of each object are lost: the one after it still describes it.
    for profile in PROFILES {
        let (send, recv) = configs(profile, 32 * MBIT);
        let mut pair = Pair::new(send, recv, link(1));
        let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
        pair.filter =
            Box::new(move |_, datagram| match AlcPacket::parse(datagram).ok().and_then(|p| p.fdt) {
                Some(fdt) => {
                    let n = seen.entry(fdt.instance_id).or_default();
                    *n += 1;
                    *n > 2
                }
                None => true,
            });
        let objects = live(&mut pair, 0, 5, 750_000);
        assert_all_arrived(&pair, &objects);
    }
}

#[test]
fn heavy_loss_leaves_hardly_an_object_without_its_description() {
    let seed = seed(3);
    for (profile, len) in
        [(WireProfile::Mabr, 500_000), (WireProfile::FluteRaptorq, 500_000), (WireProfile::Mabr, 20_000)]
    {
        let (send, recv) = configs(profile, 32 * MBIT);
        let mut pair = Pair::new(send, recv, lossy(seed, 0.2));
        let mut undescribed = 0;
        for i in 0..100 {
            pair.send(segment(i, len));
            // Before the next object, whose FDT Instances have this one too.
            pair.run_for(Duration::from_millis(1900));
            undescribed += usize::from(!pair.log.announced.iter().any(|a| a.1 == Toi(1000 + u128::from(i))));
            pair.run_for(Duration::from_millis(100));
        }
        // Of large objects 6 of 100,000, of small ones 8 of 1000 where one packet in five is lost.
        assert!(undescribed <= if len > 100_000 { 0 } else { 3 }, "{profile:?} {len}: {undescribed} of 100");
    }
}

#[test]
fn without_any_fdt_nothing_is_handed_out() {
    for profile in PROFILES {
        let (send, recv) = configs(profile, 32 * MBIT);
        let mut pair = Pair::new(send, recv, link(1));
        pair.filter = Box::new(|_, datagram| AlcPacket::parse(datagram).is_ok_and(|p| p.fdt.is_none()));
        live(&mut pair, 0, 3, 750_000);
        assert_eq!(pair.log.complete.len(), 0);
        let last = pair.receiver.undescribed();
        assert!(last.is_some_and(|at| at > Time::from_secs(4)), "{profile:?}: known all the same: {last:?}");
    }
}

#[test]
fn a_sender_restart_confuses_nothing() {
    for profile in PROFILES {
        let (send, recv) = configs(profile, 32 * MBIT);
        let mut pair = Pair::new(send.clone(), recv, link(1));
        let mut objects = live(&mut pair, 0, 3, 750_000);
        pair.send(segment(3, 2_000_000));
        pair.run_for(Duration::from_millis(200)); // killed in the middle of object 3
        let mut restarted = send;
        restarted.session += 1;
        restarted.first_toi += 100;
        pair.restart_sender(restarted);
        pair.run_for(Duration::from_secs(3));
        objects.extend(live(&mut pair, 3, 3, 750_000));
        let got = by_url(&pair.log);
        assert!(objects.iter().all(|o| got.get(&o.meta.url) == Some(&o.data)));
        assert_eq!(pair.log.new_sessions, [(1 << 40) + 1]);
        assert_eq!(pair.receiver.stats().objects_in_flight, 0);
    }
}

#[test]
fn a_replay_of_the_old_session_is_refused() {
    let (send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    let mut pair = Pair::new(send.clone(), recv, link(1));
    pair.send(segment(0, 20_000));
    pair.run_for(Duration::from_secs(1));
    let mut old = send;
    old.session -= 1;
    old.first_toi += 5000;
    pair.restart_sender(old);
    pair.send(segment(1, 20_000));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.log.complete.len(), 1);
    assert!(pair.receiver.stats().drops.get(DropReason::OldSession) > 0);
}

#[test]
fn pacing_keeps_to_the_rate_and_repair_is_spread() {
    let rate = 8 * MBIT;
    let (send, recv) = configs(WireProfile::Mabr, rate);
    let mut pair = Pair::new(send, recv, link(1));
    pair.keep_sent = true;
    pair.send(segment(0, 1_000_000));
    pair.run_for(Duration::from_secs(5));
    for window in [Duration::from_millis(100), Duration::from_millis(500)] {
        for (i, (start, _, _)) in pair.sent.iter().enumerate() {
            let bytes: usize = pair.sent[i..]
                .iter()
                .take_while(|(at, _, _)| at.since(*start) < window)
                .map(|(_, _, n)| n)
                .sum();
            let allowed =
                rate as f64 / 8.0 * window.as_secs_f64() + 16.0 * 1400.0 + rate as f64 / 8.0 * 0.004;
            assert!((bytes as f64) <= allowed, "{bytes} bytes in {window:?} at {start:?}");
        }
    }
    let first = |flow| pair.sent.iter().find(|s| s.1 == flow).map(|s| s.0).expect("sent");
    let last = |flow| pair.sent.iter().rev().find(|s| s.1 == flow).map(|s| s.0).expect("sent");
    assert!(first(FlowKind::Repair) > first(FlowKind::Source));
    assert!(last(FlowKind::Repair).since(first(FlowKind::Repair)) >= Duration::from_millis(150));
}

#[test]
fn fetched_bytes_enter_the_same_decoder() {
    let (mut send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    send.repair_percent = 5;
    let mut pair = Pair::new(send, recv, lossy(seed(9), 0.15));
    let object = segment(0, 2_000_000);
    pair.send(object.clone());
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.log.complete.len(), 0);
    let toi = Toi(1000);
    let missing = pair.receiver.progress(toi).expect("in flight").missing_symbols;
    let ranges = pair.receiver.missing_ranges(toi, 0);
    let asked: u64 = ranges.iter().map(|(a, b)| b - a + 1).sum();
    assert!(asked <= (missing + 2 * 2) * 1344, "{asked} bytes asked for {missing} symbols");
    for (first, last) in ranges {
        pair.fetched(toi, first, &object.data[first as usize..=last as usize]);
    }
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.log.complete.len(), 1);
    let how = pair.log.complete[0].4;
    assert!(how.fetched > 0 && how.recovered > 0, "{how:?}");
}

#[test]
fn symbols_of_any_way_enter_the_same_decoder_and_are_counted_apart() {
    let (mut send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    send.repair_percent = 5;
    let mut pair = Pair::new(send, recv, lossy(seed(9), 0.15));
    let object = segment(0, 2_000_000);
    pair.send(object.clone());
    pair.run_for(Duration::from_secs(2));
    let toi = Toi(1000);
    let lack = pair.receiver.lack(toi).expect("in flight");
    assert!(lack.fountain && lack.superseded.is_none() && lack.blocks.len() == 2, "{lack:?}");
    let blocks = Blocks::of(&raptorq_oti(2_000_000, 1344).expect("codable"), u64::MAX).expect("valid");
    for (i, (block, path)) in lack.blocks.iter().zip([Path::Sender, Path::Moq]).enumerate() {
        let count = block.missing + 2;
        let from = Esi(ESI_MOQ_END + 7);
        let job = EncodeJob::of_object(toi, &object.data, &blocks, block.sbn, from, count).expect("a block");
        let symbols: Vec<u8> = job.run().repair.into_iter().flat_map(|(_, s)| s).collect();
        assert_eq!(pair.log.complete.len(), 0, "before block {i}");
        pair.symbols(toi, path, PayloadId { sbn: block.sbn, esi: from }, &symbols);
        pair.run_for(Duration::from_millis(100));
    }
    let (_, _, _, payload, how) = &pair.log.complete[0];
    assert!(payload.to_bytes() == object.data);
    assert_eq!(how.bytes.total(), 2_000_000, "every byte came some way");
    for (path, block) in [(Path::Sender, &lack.blocks[0]), (Path::Moq, &lack.blocks[1])] {
        assert_eq!(how.bytes.get(path), u64::from(block.missing + 2) * 1344);
    }
    assert_eq!(pair.receiver.stats().object_bytes, how.bytes);
}

#[test]
fn hostile_symbols_of_another_way_are_refused_and_counted() {
    let (send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    let mut pair = Pair::new(send, recv, lossy(1, 0.5));
    pair.send(segment(0, 2_000_000));
    pair.run_for(Duration::from_secs(2));
    let id = |sbn, esi| PayloadId { sbn: Sbn(sbn), esi: Esi(esi) };
    pair.symbols(Toi(1000), Path::Sender, id(2, 5000), &[0; 1344]);
    pair.symbols(Toi(1000), Path::Sender, id(0, 5000), &[0; 1343]);
    pair.symbols(Toi(1000), Path::Sender, id(u32::MAX, u32::MAX), &[0; 2688]);
    pair.symbols(Toi(77), Path::Sender, id(0, 0), &[0; 1344]);
    pair.symbols(Toi(1000), Path::Sender, id(0, (1 << 24) - 1), &[0; 1344]);
    let drops = &pair.receiver.stats().drops;
    assert_eq!(drops.get(DropReason::BadPayloadId) + drops.get(DropReason::BadSymbolLength), 5, "{drops:?}");
}

#[test]
fn repair_on_request_is_fresh_and_completes_what_the_stream_could_not() {
    for profile in PROFILES {
        let (mut send, recv) = configs(profile, 32 * MBIT);
        send.repair_percent = 10;
        let mut pair = Pair::new(send, recv, lossy(seed(12), 0.2));
        let object = segment(0, 2_000_000);
        pair.send(object.clone());
        pair.run_for(Duration::from_secs(2));
        let lack = pair.receiver.lack(Toi(1000)).expect("in flight");
        let wanted: Vec<(Sbn, u32)> =
            lack.blocks.iter().map(|b| (b.sbn, b.missing * 4 / 3 + 10)).chain([(Sbn(9), 50)]).collect();
        let before = pair.sender.stats().clone();
        pair.repair(Toi(1000), &object.data, wanted);
        pair.run_for(Duration::from_secs(1));
        assert_all_arrived(&pair, &[object]);
        let (after, drops) = (pair.sender.stats(), &pair.receiver.stats().drops);
        assert_eq!(after.objects, before.objects, "it is no object of its own");
        assert_eq!(after.requested_bytes, after.repair_bytes - before.repair_bytes);
        assert_eq!(drops.get(DropReason::Duplicate), 0, "{profile:?}: nothing was sent twice");
    }
}

#[test]
fn the_repair_share_follows_what_it_is_told() {
    let (send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    let mut pair = Pair::new(send, recv, link(1));
    let mut repair = Vec::new();
    for percent in [15, 0, 40] {
        pair.share(percent);
        let before = pair.sender.stats().repair_bytes;
        live(&mut pair, u64::from(percent), 1, 1_000_000);
        repair.push((pair.sender.stats().repair_bytes - before) / 10_000);
    }
    assert!((15..18).contains(&repair[0]) && repair[1] == 0 && (40..46).contains(&repair[2]), "{repair:?}");
}

/// Two senders of one session, the second 300 ms behind; the first is killed in the middle of its fourth object. How many of
/// eight objects are here within 1.5 s after the second sender began them.
fn hot_standby(senders: usize, toi_of_content: bool) -> (usize, Vec<Toi>) {
    let (send, mut recv) = configs(WireProfile::Mabr, 32 * MBIT);
    recv.senders = senders;
    let mut second = SendConfig { toi_of_content, session: send.session - 7, ..send.clone() };
    second.first_toi += 31;
    let mut engines = [SendSession::new(SendConfig { toi_of_content, ..send }), SendSession::new(second)];
    let mut pair = Pair::new(configs(WireProfile::Mabr, MBIT).0, recv, link(1));
    let mut rng = fastrand::Rng::with_seed(seed(31));
    let mut buf = Vec::new();
    let mut in_time = 0;
    for ms in 0..16_000u64 {
        pair.run_for(Duration::from_millis(1));
        let (now, wall) = (pair.now, pair.wall());
        for (i, late) in [0, 300].into_iter().enumerate() {
            if ms % 2000 == late {
                let object = Box::new(segment(ms / 2000, 1_000_000));
                engines[i].handle_input(send::Input::Object { now, wall, tag: ms, object });
            }
            engines[i].handle_input(send::Input::Timeout { now, wall });
            loop {
                match engines[i].poll_output(&mut buf) {
                    send::Output::Transmit(t) => {
                        for packet in buf[..t.len].chunks(t.segment_size) {
                            let dead = i == 0 && ms > 6100;
                            if !dead && rng.f64() > 0.02 {
                                pair.datagram(packet);
                            }
                        }
                    }
                    send::Output::Command(send::Command::Encode(job)) => {
                        engines[i].handle_input(send::Input::Encoded { now, result: job.run() });
                    }
                    send::Output::Event(_) => {}
                    send::Output::Timeout(_) => break,
                }
            }
        }
        if ms % 2000 == 1800 {
            let url = segment(ms / 2000, 0).meta.url;
            in_time += usize::from(by_url(&pair.log).contains_key(&url));
        }
    }
    (in_time, pair.log.complete.iter().map(|(_, toi, ..)| *toi).collect())
}

#[test]
fn the_death_of_one_of_two_senders_is_not_noticed() {
    let (in_time, tois) = hot_standby(2, true);
    assert_eq!((in_time, tois.len()), (8, 8), "all in time, and none twice");
    // Negative controls: a receiver that knows of one sender only, and senders that count their objects.
    let (in_time, _) = hot_standby(1, true);
    assert!(in_time < 8, "{in_time}");
    let (_, tois) = hot_standby(2, false);
    assert!(tois.len() > 8, "the same object under two TOIs: {}", tois.len());
}

#[test]
fn a_restarted_sender_of_content_tois_goes_on_with_the_same_objects() {
    let (mut send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    send.toi_of_content = true;
    let mut pair = Pair::new(send.clone(), recv, link(1));
    pair.send(segment(0, 500_000));
    pair.run_for(Duration::from_secs(1));
    let first = pair.log.complete[0].1;
    send.session += 1;
    send.first_toi += 999;
    pair.restart_sender(send);
    pair.send(segment(0, 500_000));
    pair.send(segment(1, 500_000));
    pair.run_for(Duration::from_secs(2));
    let tois: Vec<Toi> = pair.log.complete.iter().map(|c| c.1).collect();
    assert!(tois.contains(&first) && tois.len() >= 2 && tois[0] != tois[tois.len() - 1], "{tois:?}");
}

#[test]
fn memory_stays_within_its_budget() {
    let (mut send, mut recv) = configs(WireProfile::Mabr, 200 * MBIT);
    send.repair_percent = 5;
    recv.assembly_bytes = 8 << 20;
    let mut pair = Pair::new(send, recv, lossy(seed(4), 0.3));
    for i in 0..40 {
        pair.send(segment(i, 2_000_000));
        pair.run_for(Duration::from_millis(120));
        assert!(
            pair.receiver.stats().assembly_bytes <= (8 << 20) + (8 << 20),
            "{}",
            pair.receiver.stats().assembly_bytes
        );
    }
    assert!(pair.receiver.stats().drops.get(DropReason::ByteLimit) > 0);
}

#[test]
fn a_flood_beyond_the_memory_still_completes_objects() {
    // 2 MB objects back to back with room for one and a half: some are given up for want of room, none may be in vain.
    let seed = seed(6);
    for share in [0.0, 0.02] {
        let (send, mut recv) = configs(WireProfile::Mabr, 100 * MBIT);
        recv.assembly_bytes = 7 << 19;
        let mut pair = Pair::new(send, recv, lossy(seed, share));
        let objects = 40;
        for i in 0..objects {
            pair.send(segment(i, 2_000_000));
            pair.run_for(Duration::from_millis(190));
            let held = pair.receiver.stats().assembly_bytes;
            assert!(held <= (7 << 19) + crate::limits::HELD_BYTES as u64, "{held}");
        }
        pair.run_for(Duration::from_secs(2));
        let complete = pair.log.complete.len() as u64;
        assert!(complete >= objects / 3, "{complete} of {objects} at loss {share}: {:?}", pair.log.lost);
        assert!(pair.log.complete.iter().all(|(_, _, _, p, how)| !p.is_empty() && how.fetched == 0));
    }
}

#[test]
fn an_object_larger_than_the_sessions_own_memory_borrows_what_it_needs() {
    let pool = Pool::new(2 << 20);
    let (send, mut recv) = configs(WireProfile::Mabr, 100 * MBIT);
    (recv.assembly_bytes, recv.pool, recv.borrowed_bytes) = (1 << 20, Some(pool.clone()), 2 << 20);
    let mut pair = Pair::new(send, recv, lossy(seed(8), 0.02));
    let mut least = pool.free();
    let objects: Vec<_> = (0..3).map(|i| segment(i, 2_000_000)).collect();
    for object in &objects {
        pair.send(object.clone());
        for _ in 0..30 {
            pair.run_for(Duration::from_millis(10));
            least = least.min(pool.free());
        }
    }
    pair.run_for(Duration::from_secs(1));
    assert_all_arrived(&pair, &objects);
    assert!(least < 5 << 18, "it borrowed: {least} bytes were left");
    assert_eq!(pool.free(), 2 << 20, "what was borrowed is given back");
}

#[test]
fn what_had_no_room_is_collected_when_it_is_sent_again() {
    let (send, mut recv) = configs(WireProfile::Mabr, 100 * MBIT);
    recv.assembly_bytes = 7 << 19;
    let mut pair = Pair::new(send, recv, link(1));
    // The first cannot complete and holds its memory while the second is sent.
    let first: Toi = Toi(1000);
    let mut n = 0;
    pair.filter = Box::new(move |_, datagram| {
        let of_first = AlcPacket::parse(datagram).is_ok_and(|p| p.toi == Some(first));
        n += u32::from(of_first);
        !of_first || n % 2 == 0
    });
    let second = segment(1, 2_000_000);
    pair.send(segment(0, 2_000_000));
    pair.send(second.clone());
    pair.run_for(Duration::from_secs(1));
    let lost: Vec<_> = pair.log.lost.iter().map(|(_, toi, why)| (*toi, *why)).collect();
    assert_eq!(lost, [(Toi(1001), DropReason::ByteLimit)]);
    // Its symbols are ignored until it is reopened; the stalled object gives way then.
    pair.send(second.clone());
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.log.complete.len(), 0);
    pair.receiver.handle_input(crate::session::recv::Input::Reopen { toi: Toi(1001) });
    pair.send(second.clone());
    pair.run_for(Duration::from_secs(1));
    assert_all_arrived(&pair, &[second]);
}

#[test]
fn an_empty_object_arrives() {
    let (send, recv) = configs(WireProfile::Mabr, MBIT);
    let mut pair = Pair::new(send, recv, link(1));
    let object = segment(0, 0);
    pair.send(object.clone());
    pair.run_for(Duration::from_secs(1));
    assert_all_arrived(&pair, &[object]);
}

#[test]
fn the_close_packet_ends_the_session() {
    let (send, recv) = configs(WireProfile::Mabr, MBIT);
    let mut pair = Pair::new(send, recv, link(1));
    let close = pair.sender.close_packet();
    pair.datagram(&close);
    assert_eq!((pair.log.closed, pair.receiver.stats().drops.faults()), (1, 0));
}
