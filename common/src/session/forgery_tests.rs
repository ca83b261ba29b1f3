//! Forged and damaged packets in virtual time: nothing of them gets out, and what was sent arrives all the same.

use crate::catalog::WireProfile;
use crate::drop::DropReason;
use crate::ids::{Esi, Sbn, Toi, Tsi};
use crate::object::Object;
use crate::session::recv::Path;
use crate::testing::{Pair, by_url, configs, noise, seed, segment};
use crate::wire::alc::{AlcRepr, PayloadId};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use str0m_netem::{LossModel, NetemConfig, Probability, RandomLoss};

const MBIT: u64 = 1_000_000;

fn link(seed: u64, loss: f32) -> NetemConfig {
    let loss = LossModel::Random(RandomLoss::new(Probability::new(loss)));
    NetemConfig::new().seed(seed).latency(Duration::from_millis(5)).loss(loss)
}

/// A source symbol of any object of ours with other content.
fn forged(toi: u128, esi: u32, seed: u64) -> Vec<u8> {
    let repr = AlcRepr {
        tsi: Tsi(0x2001),
        toi: Toi(toi),
        codepoint: 0,
        close_session: false,
        close_object: false,
        fti: None,
        fdt: None,
        cenc: None,
        sender_time: None,
        payload_id: PayloadId { sbn: Sbn(0), esi: Esi(esi) },
    };
    let mut packet = Vec::new();
    repr.emit(&mut packet);
    packet.extend_from_slice(&noise(seed, 1344));
    packet
}

/// What an attacker who hears the flow and can send in the sender's name puts behind a packet: other symbols under its
/// headers, other symbol numbers, noise.
fn forgery(packet: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut out = packet.to_vec();
    let from = match rng.u8(0..4) {
        0 | 1 => out.len().min(64),
        2 => rng.usize(4..32).min(out.len()),
        _ => 0,
    };
    rng.fill(&mut out[from..]);
    out
}

/// Sends live segments while each packet is followed by a forged one with probability `share`; `flip`: it is damaged instead. After
/// them, one more without. Returns them, and how many of them asked for more symbols than the stream brought.
fn attacked(
    pair: &mut Pair,
    segments: u64,
    len: usize,
    share: f64,
    flip: bool,
    seed: u64,
) -> (Vec<Object>, usize) {
    let caught: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let catcher = caught.clone();
    let mut rng = fastrand::Rng::with_seed(seed);
    pair.filter = Box::new(move |_, packet| {
        if rng.f64() >= share {
            return true;
        }
        let mut out = packet.to_vec();
        if flip {
            let bit = rng.usize(0..out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
        } else {
            out = forgery(packet, &mut rng);
        }
        catcher.borrow_mut().push(out);
        !flip
    });
    let (mut sent, mut asked) = (Vec::new(), BTreeSet::new());
    // A few seconds more for what was asked for.
    for i in 0..segments + 4 {
        if i < segments {
            let object = segment(i, len + (i as usize * 997) % 5000);
            pair.send(object.clone());
            sent.push(object);
        }
        for _ in 0..2000 {
            pair.run_for(Duration::from_millis(1));
            for packet in caught.borrow_mut().drain(..) {
                pair.datagram(&packet);
            }
        }
        mend(pair, &sent, &mut asked);
    }
    // A stream goes on: what lost all its FDT Instances is listed in those of the next object.
    pair.filter = Box::new(|_, _| true);
    pair.set_link(link(seed, 0.0));
    let next = segment(segments, len.min(5_000));
    pair.send(next.clone());
    sent.push(next);
    pair.run_for(Duration::from_secs(1));
    (sent, asked.len())
}

/// What is in doubt when a transmission is over gets the symbols that it asks for: two flipped bits in the same byte of few
/// equations, for instance, are not told apart without. Notes which objects asked.
fn mend(pair: &mut Pair, sent: &[Object], asked: &mut BTreeSet<u128>) {
    for (toi, object) in (1000..).zip(sent) {
        let Some(lack) = pair.receiver.lack(Toi(toi)) else { continue };
        let blocks = lack.blocks.iter().map(|b| (b.sbn, b.missing + 2)).collect();
        pair.repair(Toi(toi), &object.data, blocks);
        asked.insert(toi);
    }
}

fn arrived(pair: &Pair, sent: &[Object]) -> usize {
    let got = by_url(&pair.log);
    for (url, bytes) in &got {
        let object = sent.iter().find(|o| o.meta.url == *url).expect("one of ours");
        assert!(object.data == *bytes, "wrong bytes of {url} got out");
    }
    got.len()
}

#[test]
fn forged_packets_cost_no_segment() {
    let seed = seed(5);
    for profile in [WireProfile::Mabr, WireProfile::FluteRaptorq] {
        for loss in [0.0, 0.03] {
            let (send, recv) = configs(profile, 48 * MBIT);
            let mut pair = Pair::new(send, recv, link(seed, loss));
            let (sent, asked) = attacked(&mut pair, 20, 2_000_000, 0.02, false, seed);
            assert!(asked <= 2, "{asked} objects were not told apart by what the stream brought");
            assert_eq!(arrived(&pair, &sent), sent.len(), "{profile:?} {loss}: {:?}", pair.log.lost);
            let drops = &pair.receiver.stats().drops;
            assert!(drops.get(DropReason::WrongSymbol) > 0, "the attack was none: {drops:?}");
            assert!(pair.log.complete.iter().all(|(.., how)| how.fetched == 0));
        }
    }
}

#[test]
fn damaged_packets_cost_no_segment() {
    let seed = seed(8);
    for share in [0.0002, 0.01] {
        let (send, recv) = configs(WireProfile::Mabr, 48 * MBIT);
        let mut pair = Pair::new(send, recv, link(seed, 0.01));
        let (sent, asked) = attacked(&mut pair, 20, 2_000_000, share, true, seed);
        assert!(asked <= 2, "{asked} objects were not told apart by what the stream brought");
        assert_eq!(arrived(&pair, &sent), sent.len(), "{share}: {:?}", pair.log.lost);
    }
}

#[test]
fn without_repair_symbols_a_forged_symbol_costs_the_object() {
    // Negative control: it is the repair symbols that tell true from false.
    let (mut send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    send.repair_percent = 0;
    let mut pair = Pair::new(send, recv, link(1, 0.0));
    pair.send(segment(0, 100_000));
    pair.run_for(Duration::from_millis(1));
    pair.datagram(&forged(1000, 70, 99));
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.log.complete.len(), 0);
    let drops = &pair.receiver.stats().drops;
    assert_eq!(drops.get(DropReason::SymbolConflict), 1, "{drops:?}");
    let lack = pair.receiver.lack(Toi(1000)).expect("kept, in doubt");
    assert!(lack.doubtful && lack.missing() > 0, "{lack:?}");
    // It asks for few symbols, and they are enough.
    pair.repair(Toi(1000), &segment(0, 100_000).data, vec![(Sbn(0), lack.missing() as u32 + 8)]);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.log.complete.len(), 1, "{:?}", pair.receiver.stats());
    assert!(pair.log.complete[0].3.to_bytes() == segment(0, 100_000).data);
    assert_eq!(pair.receiver.stats().drops.get(DropReason::WrongSymbol), 1);
}

#[test]
fn an_attacker_with_more_symbols_than_the_sender_gets_nothing_out_and_costs_little() {
    let (send, recv) = configs(WireProfile::Mabr, 32 * MBIT);
    let mut pair = Pair::new(send, recv, link(1, 0.0));
    pair.send(segment(0, 100_000));
    pair.run_for(Duration::from_millis(1));
    for esi in 20..75 {
        pair.datagram(&forged(1000, esi, esi.into()));
    }
    pair.run_for(Duration::from_secs(3));
    // As many searches as an object is worth, however many symbols come.
    let toi = Toi(1000);
    let mut rng = fastrand::Rng::with_seed(3);
    for esi in 0..4000u32 {
        let mut symbol = vec![0; 1344];
        rng.fill(&mut symbol);
        pair.symbols(toi, Path::Sender, PayloadId { sbn: Sbn(0), esi: Esi(9_000_000 + esi) }, &symbol);
        if esi % 20 == 0 {
            pair.run_for(Duration::from_millis(30));
        }
    }
    pair.run_for(Duration::from_secs(30));
    assert_eq!(pair.log.complete.len(), 0);
    assert_eq!(pair.receiver.stats().assembly_bytes, 0);
    assert!(pair.log.lost.iter().any(|(_, lost, why)| *lost == toi && *why == DropReason::DigestMismatch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Of any size, at any loss that the repair share covers with room to spare.
    #[test]
    fn attacked_objects_arrive(len in 20_000usize..1_500_000, loss in 0.0f32..0.04, flip: bool, seed in 0u64..1 << 40) {
        let (send, recv) = configs(WireProfile::Mabr, 48 * MBIT);
        let mut pair = Pair::new(send, recv, link(seed, loss));
        let (sent, asked) = attacked(&mut pair, 3, len, 0.01, flip, seed);
        // What is small has few repair symbols, and may need more than were sent; none may be wrong.
        prop_assert!(len < 200_000 || asked <= 1, "{} of 3 asked for more: {:?}", asked, pair.receiver.stats());
        prop_assert_eq!(arrived(&pair, &sent), sent.len(), "{:?}", pair.log.lost);
    }
}
