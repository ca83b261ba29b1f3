//! The second repair layer in virtual time: who joins it, and what that saves.

use crate::catalog::WireProfile;
use crate::drop::DropReason;
use crate::fec::raptorq::{ESI_LAYER_2, ESI_MULTICAST_END};
use crate::ids::{Toi, Tsi};
use crate::repair::layer::{LayerControl, Seen};
use crate::session::send::{FlowKind, LayerConfig};
use crate::testing::{Pair, by_url, configs, seed, segment};
use crate::wire::alc::AlcPacket;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use str0m_netem::{LossModel, NetemConfig, Probability, RandomLoss};

const MBIT: u64 = 1_000_000;
const LAYER: LayerConfig = LayerConfig { tsi: Tsi(0x2003), percent: 35 };

/// A receiver on a link of its own, which joins the layer as [`LayerControl`] says.
struct Member {
    pair: Pair,
    control: LayerControl,
    joined: Rc<Cell<bool>>,
    /// Packets of the layer that were carried to it.
    carried: Rc<Cell<u64>>,
    seen: BTreeSet<Toi>,
}

impl Member {
    fn new(profile: WireProfile, seed: u64, loss: f32, layer: Option<LayerConfig>) -> Member {
        let (mut send, mut recv) = configs(profile, 48 * MBIT);
        send.layer_2 = layer;
        recv.layer_2_tsi = Some(LAYER.tsi);
        let link = NetemConfig::new().seed(seed).latency(Duration::from_millis(5));
        let link = link.loss(LossModel::Random(RandomLoss::new(Probability::new(loss))));
        let mut pair = Pair::new(send, recv, link);
        let (joined, carried) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (is_joined, count) = (joined.clone(), carried.clone());
        pair.filter = Box::new(move |flow, _| {
            let passes = flow != FlowKind::Layer2 || is_joined.get();
            count.set(count.get() + u64::from(flow == FlowKind::Layer2 && passes));
            passes
        });
        Member { pair, control: LayerControl::new(15), joined, carried, seen: BTreeSet::new() }
    }

    /// `n` segments from `first` on, one each two seconds.
    fn live(&mut self, first: u64, n: u64) {
        for i in first..first + n {
            self.pair.send(segment(i, 1_200_000));
            self.pair.run_for(Duration::from_secs(2));
            self.look();
        }
    }

    /// What a receiver knows of its objects when their transmission is over.
    fn look(&mut self) {
        let now = self.pair.now;
        for (_, toi, _, _, how) in &self.pair.log.complete {
            if self.seen.insert(*toi) && how.heard_from_start {
                let lost = how.source_symbols - how.source_received;
                let seen = Seen { toi: *toi, symbols: how.source_symbols, lost, short: false };
                self.control.object(now, seen);
            }
        }
        let announced: Vec<Toi> = self.pair.log.announced.iter().map(|(_, toi, _)| *toi).collect();
        for toi in announced {
            if let Some(lack) = self.pair.receiver.lack(toi)
                && self.seen.insert(toi)
            {
                let heard: u32 = lack.blocks.iter().map(|b| b.held - b.repair_held).sum();
                let symbols: u32 = lack.blocks.iter().map(|b| b.symbols).sum();
                let lost = u64::from(symbols - heard);
                self.control.object(now, Seen { toi, symbols: symbols.into(), lost, short: true });
            }
        }
        self.control.tick(now);
        self.joined.set(self.control.is_wanted());
    }

    /// Of `n` segments from `first` on, those that multicast alone completed, byte for byte.
    fn intact(&self, first: u64, n: u64) -> usize {
        let got = by_url(&self.pair.log);
        let is_here = |i: &u64| {
            let object = segment(*i, 1_200_000);
            got.get(&object.meta.url) == Some(&object.data)
        };
        (first..first + n).filter(is_here).count()
    }
}

#[test]
fn a_clean_receiver_never_joins_and_a_lossy_one_needs_no_unicast() {
    let seed = seed(5);
    for profile in [WireProfile::Mabr, WireProfile::FluteRaptorq] {
        let mut clean = Member::new(profile, seed, 0.005, Some(LAYER));
        clean.live(0, 40);
        assert_eq!((clean.intact(0, 40), clean.control.joins(), clean.carried.get()), (40, 0, 0));

        let mut lossy = Member::new(profile, seed, 0.2, Some(LAYER));
        lossy.live(0, 5);
        assert!(lossy.control.is_wanted(), "after five segments at 20 % loss and 15 % repair");
        lossy.live(5, 35);
        assert_eq!((lossy.intact(5, 35), lossy.control.joins()), (35, 1));
        // The loss ends, and so does its need: a minute later it carries nothing more.
        lossy.pair.set_link(NetemConfig::new().seed(seed).latency(Duration::from_millis(5)));
        lossy.live(40, 40);
        assert!(!lossy.control.is_wanted());
        let before = lossy.carried.get();
        lossy.live(80, 20);
        assert_eq!((lossy.intact(40, 60), lossy.carried.get()), (60, before));
    }
}

#[test]
fn without_the_layer_the_same_receiver_loses_objects() {
    // Negative control of the test above.
    let seed = seed(5);
    let mut lossy = Member::new(WireProfile::Mabr, seed, 0.2, None);
    lossy.live(0, 40);
    assert!(lossy.intact(5, 35) < 20, "{}", lossy.intact(5, 35));
}

#[test]
fn its_symbols_are_sent_nowhere_else() {
    type Symbol = (Toi, u32, u32);
    let mut member = Member::new(WireProfile::Mabr, 1, 0.0, Some(LAYER));
    let sent: Rc<RefCell<Vec<(FlowKind, Tsi, Symbol)>>> = Rc::default();
    let log = sent.clone();
    member.pair.filter = Box::new(move |flow, datagram| {
        let packet = AlcPacket::parse(datagram).expect("ours");
        let (toi, id) = (packet.toi.expect("an object"), packet.payload_id.expect("a symbol"));
        if toi != Toi::FDT {
            log.borrow_mut().push((flow, packet.tsi, (toi, id.sbn.0, id.esi.0)));
        }
        flow != FlowKind::Layer2
    });
    // Three rounds of a carousel, and symbols on request between them.
    for _ in 0..3 {
        let object = segment(1, 2_500_000);
        member.pair.send(object.clone());
        member.pair.run_for(Duration::from_secs(2));
        let toi = member.pair.log.announced[0].1;
        member.pair.repair(toi, &object.data, vec![(crate::ids::Sbn(0), 50)]);
        member.pair.run_for(Duration::from_secs(1));
    }
    let sent = sent.borrow();
    let of = |kind: FlowKind| sent.iter().filter(move |(flow, _, _)| *flow == kind);
    let second: Vec<Symbol> = of(FlowKind::Layer2).map(|(_, _, symbol)| *symbol).collect();
    let distinct: BTreeSet<Symbol> = second.iter().copied().collect();
    assert!(second.len() > 3 * 600, "35 % of 1861 symbols in three rounds: {}", second.len());
    assert_eq!(distinct.len(), second.len(), "none twice");
    assert!(distinct.iter().all(|(_, _, esi)| (ESI_LAYER_2..ESI_MULTICAST_END).contains(esi)));
    assert!(of(FlowKind::Repair).all(|(_, _, (_, _, esi))| *esi < ESI_LAYER_2));
    assert!(of(FlowKind::Layer2).all(|(_, tsi, _)| *tsi == LAYER.tsi));
    let stats = member.pair.sender.stats();
    assert!(stats.layer_2_bytes > 0 && stats.requested_bytes > 0);
}

#[test]
fn packets_of_a_layer_that_is_not_known_are_refused() {
    let (mut send, recv) = configs(WireProfile::Mabr, 48 * MBIT);
    send.layer_2 = Some(LAYER);
    let mut pair = Pair::new(send, recv, NetemConfig::new().seed(1));
    pair.send(segment(1, 300_000));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.log.complete.len(), 1);
    assert!(pair.receiver.stats().drops.get(DropReason::WrongTsi) > 50);
}
