//! Source blocks with holes, solved as jobs that any thread may run.
//!
//! A decoder is made only for a block that lost something, the general one if it lost much or no other block is of its size.

use super::audit::{Verdict, find_wrong};
use super::bitmap::Bitmap;
use super::equations::Received;
use super::plans::plan;
use super::raptorq::{block_oti, padded_symbols};
use super::solve::missing_symbols;
use crate::ids::{Esi, Sbn};
use raptorq::{EncodingPacket, PayloadId, SourceBlockDecoder, SourceBlockEncodingPlan};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether it is quicker to find `missing` of `symbols` source symbols by themselves than the block anew: the time for the one grows
/// with the square of what is missing, for the other with K. Measured: even at 120 of 797, 60 of 200 and 180 of 1594.
const fn are_few(missing: u32, symbols: u32) -> bool {
    (missing as u64).pow(2) <= 16 * symbols as u64
}

/// A source block to solve.
#[derive(Debug)]
pub struct DecodeJob {
    /// The session's handle of the object.
    pub(crate) object: u64,
    /// The block.
    pub(crate) sbn: Sbn,
    /// K.
    pub(crate) symbols: u32,
    /// T.
    pub(crate) symbol_size: u16,
    /// K * T bytes: source symbols in their places.
    pub(crate) buffer: Vec<u8>,
    /// Which source symbols are there.
    pub(crate) have: Bitmap,
    /// Repair symbols.
    pub(crate) repair: Vec<(Esi, Vec<u8>)>,
    /// Whether some symbols may be wrong: they are looked for and taken out first.
    pub(crate) audit: bool,
}

/// A solved block, or the same block still unsolved.
#[derive(Debug)]
pub struct DecodeResult {
    pub(crate) job: DecodeJob,
    pub(crate) solved: bool,
    /// Symbols that were found to be wrong and taken out.
    pub(crate) wrong: u32,
}

impl DecodeJob {
    /// Solves the block; on failure gives everything back, so that more symbols can be added.
    pub fn run(mut self) -> DecodeResult {
        let before = self.held();
        let usable = !self.audit
            || match catch_unwind(AssertUnwindSafe(|| find_wrong(self.received()))) {
                Ok(verdict) => self.take_out(verdict),
                Err(_) => false,
            };
        let wrong = before - self.held();
        let solved = usable && (self.missing() == 0 || self.rebuild());
        DecodeResult { job: self, solved, wrong }
    }

    fn held(&self) -> u32 {
        self.have.count() + self.repair.len() as u32
    }

    fn received(&self) -> Received<'_> {
        let DecodeJob { symbols, symbol_size, buffer, have, repair, .. } = self;
        Received { symbols: *symbols, symbol_size: *symbol_size, buffer, have, repair }
    }

    /// False: nothing is known about which symbols are right.
    fn take_out(&mut self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Unknown => return false,
            Verdict::Consistent => {}
            Verdict::Without(source, repair) => {
                source.into_iter().for_each(|i| self.have.clear(i));
                let mut at = 0..;
                self.repair.retain(|_| at.next().is_none_or(|i: usize| !repair.contains(&i)));
            }
        }
        true
    }

    fn rebuild(&mut self) -> bool {
        let rebuilt = catch_unwind(AssertUnwindSafe(|| {
            let few = are_few(self.missing(), self.symbols);
            let plan = if few { plan(padded_symbols(self.symbols)) } else { None };
            match plan {
                Some(plan) => self.fill(&plan),
                None => self.decode(),
            }
        }));
        rebuilt.is_ok_and(|rebuilt| rebuilt.is_some())
    }

    /// Finds what is missing.
    fn fill(&mut self, plan: &SourceBlockEncodingPlan) -> Option<()> {
        let found = missing_symbols(self.received(), plan)?;
        let size = usize::from(self.symbol_size);
        for (i, symbol) in found {
            self.buffer.get_mut(i * size..)?.get_mut(..size)?.copy_from_slice(&symbol);
        }
        Some(())
    }

    /// Finds the whole block anew.
    fn decode(&mut self) -> Option<()> {
        let size = usize::from(self.symbol_size);
        let mut decoder = SourceBlockDecoder::new(0, &block_oti(self.symbol_size), self.buffer.len() as u64);
        let source = self
            .buffer
            .chunks_exact(size)
            .enumerate()
            .filter(|(i, _)| self.have.get(*i))
            .map(|(i, s)| EncodingPacket::new(PayloadId::new(0, i as u32), s.to_vec()));
        let repair =
            self.repair.iter().map(|(esi, s)| EncodingPacket::new(PayloadId::new(0, esi.0), s.clone()));
        let block = decoder.decode(source.chain(repair))?;
        (block.len() == self.buffer.len()).then(|| self.buffer = block)
    }

    /// Source symbols that were not there.
    pub fn missing(&self) -> u32 {
        self.symbols - self.have.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::EncodeJob;
    use crate::ids::Toi;
    use bytes::Bytes;
    use proptest::prelude::*;

    const SIZE: u16 = 64;

    /// A block that lacks `lost` source symbols and got these repair symbols, and its bytes.
    fn lossy(symbols: u32, lost: &[usize], esis: &[u32], seed: u64) -> (DecodeJob, Vec<u8>) {
        let size = usize::from(SIZE);
        let mut whole = vec![0; symbols as usize * size];
        fastrand::Rng::with_seed(seed).fill(&mut whole);
        let data = Bytes::from(whole.clone());
        let repair = |esi: &u32| {
            let (toi, first) = (Toi(1), esi - symbols);
            let data = data.clone();
            EncodeJob { id: 0, toi, sbn: Sbn(0), data, symbols, symbol_size: SIZE, first, count: 1 }
                .run()
                .repair
        };
        let mut have = Bitmap::new(symbols);
        let mut buffer = whole.clone();
        for i in 0..symbols as usize {
            if lost.contains(&i) {
                buffer[i * size..(i + 1) * size].fill(0xaa);
            } else {
                have.set(i);
            }
        }
        let repair = esis.iter().flat_map(repair).collect();
        let job = DecodeJob {
            object: 1,
            sbn: Sbn(0),
            symbols,
            symbol_size: SIZE,
            buffer,
            have,
            repair,
            audit: false,
        };
        (job, whole)
    }

    #[test]
    fn a_lossy_block_is_rebuilt_and_too_much_loss_is_not() {
        for (symbols, lost) in [(100, 25), (400, 70), (400, 120)] {
            let esis: Vec<u32> = (symbols..symbols + lost + 5).collect();
            let first = |lost: u32| (0..lost as usize).collect::<Vec<_>>();
            // By the second one there is a plan.
            for _ in 0..2 {
                let (job, whole) = lossy(symbols, &first(lost), &esis, 1);
                let ok = job.run();
                assert!(ok.solved);
                assert!(ok.job.buffer == whole, "wrong bytes");
            }
            let failed = lossy(symbols, &first(lost + 6), &esis, 1).0.run();
            assert!(!failed.solved);
            assert_eq!(failed.job.missing(), lost + 6);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// What is missing is found where the general decoder finds the block, and nowhere else: with no symbol more than
        /// needed, with some, with the same ones again, with those of every way.
        #[test]
        fn both_ways_find_the_same(symbols in 1u32..300, lost in 1usize..60, more in 0usize..4, twice: bool, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let lost = rng.choose_multiple(0..symbols as usize, lost);
            let from = *rng.choice(&[symbols, 1 << 21, 1 << 22, 1 << 23]).unwrap();
            let mut esis = rng.choose_multiple(from..from + 200, lost.len() + more);
            if twice {
                esis[0] = esis[esis.len() - 1];
            }
            let (mut one, whole) = lossy(symbols, &lost, &esis, seed);
            let (mut other, _) = lossy(symbols, &lost, &esis, seed);
            let plan = SourceBlockEncodingPlan::generate(padded_symbols(symbols) as u16);
            let filled = one.fill(&plan).is_some();
            prop_assert_eq!(filled, other.decode().is_some());
            if filled {
                prop_assert!(one.buffer == whole, "wrong bytes");
                prop_assert!(other.buffer == whole, "wrong bytes of the general decoder");
            }
        }
    }
}
