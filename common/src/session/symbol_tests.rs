//! Symbols that come twice, with the same bytes or with others, and blocks that have enough symbols and cannot be solved.

use crate::catalog::WireProfile;
use crate::drop::DropReason;
use crate::fec::partition::raptorq_oti;
use crate::fec::{Blocks, EncodeJob};
use crate::ids::{Esi, Sbn, Toi};
use crate::object::Object;
use crate::session::recv::Path;
use crate::testing::{Pair, configs, segment};
use crate::wire::alc::{AlcPacket, PayloadId};
use std::time::Duration;
use str0m_netem::NetemConfig;

const T: usize = 1344;
const TOI: Toi = Toi(1000);

/// A receiver that has heard of this object, and no symbol of it.
fn described(object: &Object) -> Pair {
    let (send, recv) = configs(WireProfile::Mabr, 1 << 30);
    let mut pair = Pair::new(send, recv, NetemConfig::new());
    pair.filter = Box::new(|_, packet| AlcPacket::parse(packet).is_ok_and(|p| p.toi == Some(Toi::FDT)));
    pair.send(object.clone());
    pair.run_for(Duration::from_secs(1));
    assert!(pair.receiver.lack(TOI).is_some());
    pair
}

/// Repair symbols of a block, from this ESI on.
fn repair(object: &Object, sbn: u32, from: u32, count: u32) -> Vec<u8> {
    let oti = raptorq_oti(object.meta.length, T as u16).expect("codable");
    let blocks = Blocks::of(&oti, u64::MAX).expect("valid");
    let job = EncodeJob::of_object(TOI, &object.data, &blocks, Sbn(sbn), Esi(from), count).expect("a block");
    job.run().repair.into_iter().flat_map(|(_, symbol)| symbol).collect()
}

fn id(sbn: u32, esi: u32) -> PayloadId {
    PayloadId { sbn: Sbn(sbn), esi: Esi(esi) }
}

/// Counts of duplicates, late symbols and conflicts after these bytes came.
fn refusals(pair: &mut Pair, id: PayloadId, symbol: &[u8]) -> [u64; 3] {
    let counts = |pair: &Pair| {
        [DropReason::Duplicate, DropReason::Late, DropReason::SymbolConflict]
            .map(|reason| pair.receiver.stats().drops.get(reason))
    };
    let before = counts(pair);
    pair.symbols(TOI, Path::Sender, id, symbol);
    let after = counts(pair);
    [0, 1, 2].map(|i| after[i] - before[i])
}

const NEW: [u64; 3] = [0, 0, 0];
const DUPLICATE: [u64; 3] = [1, 0, 0];
const LATE: [u64; 3] = [0, 1, 0];
const CONFLICT: [u64; 3] = [0, 0, 1];

#[test]
fn a_symbol_that_comes_again_with_other_bytes_is_a_conflict() {
    let object = segment(0, 2_000_000);
    let mut pair = described(&object);
    let (source, wrong) = (object.data.slice(3 * T..4 * T), [7; T]);
    let (ours, more) = (repair(&object, 0, 5000, 1), repair(&object, 0, 6000, 1));
    for (esi, symbol) in [(3, &source[..]), (5000, &ours[..])] {
        assert_eq!(refusals(&mut pair, id(0, esi), symbol), NEW);
        assert_eq!(refusals(&mut pair, id(0, esi), symbol), DUPLICATE, "{esi}: a carousel, a standby");
        assert_eq!(refusals(&mut pair, id(0, esi), &wrong), CONFLICT, "{esi}");
    }
    // All of the first block; the second keeps the object open.
    let symbols = pair.receiver.lack(TOI).expect("in flight").blocks[0].symbols;
    pair.symbols(TOI, Path::Sender, id(0, 0), &object.data[..symbols as usize * T]);
    for (esi, symbol) in [(3, &source[..]), (5000, &ours[..])] {
        assert_eq!(refusals(&mut pair, id(0, esi), symbol), LATE, "{esi}");
        assert_eq!(refusals(&mut pair, id(0, esi), &wrong), CONFLICT, "{esi}: what is done is still here");
    }
    assert_eq!(refusals(&mut pair, id(0, 6000), &more), LATE, "nothing to compare it with");
}

/// RaptorQ cannot solve one in 256 sets of exactly K repair symbols; another symbol mends it.
#[test]
fn a_block_that_cannot_be_solved_is_counted_and_needs_one_more() {
    let object = segment(0, 10 * T);
    for from in (100..100_000).step_by(20) {
        let mut pair = described(&object);
        pair.symbols(TOI, Path::Sender, id(0, from), &repair(&object, 0, from, 10));
        pair.run_for(Duration::from_millis(100));
        if pair.log.complete.len() == 1 {
            continue;
        }
        assert_eq!(pair.receiver.stats().drops.get(DropReason::DecodeFailed), 1);
        let lack = pair.receiver.lack(TOI).expect("kept");
        assert_eq!(lack.missing(), 1, "it asks for one more than it had: {lack:?}");
        pair.symbols(TOI, Path::Sender, id(0, from + 10), &repair(&object, 0, from + 10, 2));
        pair.run_for(Duration::from_millis(100));
        assert!(pair.log.complete[0].3.to_bytes() == object.data);
        return;
    }
    panic!("every set could be solved");
}
