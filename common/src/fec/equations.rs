//! What the repair symbols of a block say about its source symbols, as linear equations over GF(256).
//!
//! The code's coefficients come out of the encoder: next to the bytes of source symbol i it is given a unit vector, and what it
//! makes of that are the factors with which symbol i is in each repair symbol.

use super::bitmap::Bitmap;
use super::raptorq::{PaddedEncoder, padded_bytes};
use crate::ids::Esi;
use raptorq::SourceBlockEncodingPlan;

/// Rows begin where cache lines do.
const ALIGNMENT: usize = 64;

/// A source block as it was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    /// K.
    pub(super) symbols: u32,
    /// T.
    pub(super) symbol_size: u16,
    /// Source symbols in their places.
    pub(super) buffer: &'a [u8],
    /// Which of them are there.
    pub(super) have: &'a Bitmap,
    /// Repair symbols.
    pub(super) repair: &'a [(Esi, Vec<u8>)],
}

impl Received<'_> {
    /// Source symbols that are not there.
    pub(super) fn missing(&self) -> Vec<usize> {
        (0..self.symbols as usize).filter(|i| !self.have.get(*i)).collect()
    }
}

/// One equation as bytes: other symbols of a row are added to it with a factor, and so is the rest.
pub(super) type Row = Vec<u8>;

/// Makes the equations of a block.
pub(super) struct Equations {
    encoder: PaddedEncoder,
    /// T and the number of columns.
    width: usize,
}

impl Equations {
    /// Of `block`, with coefficients of these source symbols, by a plan if there is one. `None` where the rows would be too long for
    /// the encoder.
    pub(super) fn of(
        block: Received<'_>,
        columns: &[usize],
        plan: Option<&SourceBlockEncodingPlan>,
    ) -> Option<Equations> {
        let size = usize::from(block.symbol_size);
        let width = size + columns.len();
        let aligned = u16::try_from(width.next_multiple_of(ALIGNMENT)).ok()?;
        let mut extended = vec![0; padded_bytes(block.symbols, aligned)];
        let rows = extended.chunks_exact_mut(usize::from(aligned));
        for (i, (row, symbol)) in rows.zip(block.buffer.chunks(size)).enumerate() {
            if block.have.get(i) {
                row[..symbol.len()].copy_from_slice(symbol);
            }
        }
        for (at, column) in columns.iter().enumerate() {
            *extended.get_mut(column * usize::from(aligned) + size + at)? = 1;
        }
        let encoder = match plan {
            Some(plan) => PaddedEncoder::planned(&extended, block.symbols, aligned, plan),
            None => PaddedEncoder::new(&extended, block.symbols, aligned),
        };
        Some(Equations { encoder, width })
    }

    /// What this repair symbol says: T bytes that the symbols which are not there must add up to, with these factors: one for each
    /// of the columns. `None` where the ESI is a source symbol's.
    pub(super) fn row(&self, esi: Esi, symbol: &[u8]) -> Option<Row> {
        let mut row = self.encoder.repair(esi)?;
        row.truncate(self.width);
        row.iter_mut().zip(symbol).for_each(|(a, b)| *a ^= b);
        Some(row)
    }
}
