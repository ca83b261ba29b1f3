//! Source blocks with holes, solved as jobs that any thread may run.
//!
//! A decoder is made only for a block that lost something.

use super::audit::{Received, Verdict, find_wrong};
use super::bitmap::Bitmap;
use super::raptorq::block_oti;
use crate::ids::{Esi, Sbn};
use raptorq::{EncodingPacket, PayloadId, SourceBlockDecoder};
use std::panic::{AssertUnwindSafe, catch_unwind};

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
        let decoded = catch_unwind(AssertUnwindSafe(|| self.decode())).ok().flatten();
        match decoded {
            Some(block) if block.len() == self.buffer.len() => {
                self.buffer = block;
                true
            }
            _ => false,
        }
    }

    fn decode(&self) -> Option<Vec<u8>> {
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
        decoder.decode(source.chain(repair))
    }

    /// Source symbols that were not there.
    pub fn missing(&self) -> u32 {
        self.symbols - self.have.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::raptorq::encode_padded;

    #[test]
    fn a_lossy_block_is_rebuilt_and_too_much_loss_is_not() {
        let (symbols, size) = (100u32, 64u16);
        let mut padded = vec![0; symbols as usize * usize::from(size)];
        fastrand::Rng::with_seed(1).fill(&mut padded[..6393]);
        let esis: Vec<u32> = (symbols..symbols + 30).collect();
        let made = encode_padded(&padded, symbols, size, &esis);
        let repair: Vec<_> = esis.into_iter().map(Esi).zip(made).collect();
        let job = |lost: u32| {
            let mut have = Bitmap::new(symbols);
            let mut buffer = padded.clone();
            for i in 0..symbols as usize {
                if i < lost as usize {
                    buffer[i * 64..(i + 1) * 64].fill(0xaa);
                } else {
                    have.set(i);
                }
            }
            DecodeJob {
                object: 1,
                sbn: Sbn(0),
                symbols,
                symbol_size: size,
                buffer,
                have,
                repair: repair.clone(),
                audit: false,
            }
        };
        let ok = job(25).run();
        assert!(ok.solved);
        assert_eq!(ok.job.buffer, padded);
        let failed = job(40).run();
        assert!(!failed.solved);
        assert_eq!(failed.job.missing(), 40);
    }
}
