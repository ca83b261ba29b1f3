//! The source symbols that a block lacks, out of as many equations.
//!
//! A general decoder (RFC 6330, section 5.4) solves anew for all intermediate symbols of a block, by what came of it. But the way from the
//! source symbols to the intermediate ones is the same for every block of K' symbols; encoders plan it once. So the encoder is given
//! the block with zeros for the L symbols that are missing. What then is between a repair symbol that it makes and the one that
//! came is the missing symbols' part: L equations with L unknowns, which is little where few are missing. They
//! have a solution exactly where the general decoder finds one.

use super::equations::{Equations, Received, Row};
use super::gf256::{Multiples, inverse, scale};
use raptorq::SourceBlockEncodingPlan;
use std::ops::Range;

/// Bytes of all rows that are worked on at a time: the multiples of so many stay in a processor's nearest cache.
const STRIPE: usize = 448;
/// Equations more than unknowns, tried in turn: L of them suffice nearly always.
const MORE: [usize; 3] = [0, 4, usize::MAX];

/// The symbols that are missing, each with its place, by the plan for K'. `None` where what came does not suffice.
pub(super) fn missing_symbols(
    block: Received<'_>,
    plan: &SourceBlockEncodingPlan,
) -> Option<Vec<(usize, Row)>> {
    let size = usize::from(block.symbol_size);
    let missing = block.missing();
    let equations = Equations::of(block, &missing, Some(plan))?;
    let mut rows: Vec<Row> = Vec::new();
    for more in MORE {
        let unread = block.repair.get(rows.len()..)?;
        let wanted = missing.len().saturating_add(more) - rows.len();
        rows.extend(unread.iter().take(wanted).filter_map(|(esi, symbol)| equations.row(*esi, symbol)));
        let coefficients = rows.iter().map(|row| row[size..].to_vec()).collect();
        if let Some(steps) = elimination(coefficients, missing.len()) {
            return Some(missing.into_iter().zip(solved(rows, &steps, size)).collect());
        }
    }
    None
}

/// A step of the elimination: one unknown is taken out of all rows but one.
struct Step {
    /// The row that keeps it, and what that is multiplied by first.
    pivot: usize,
    scale: u8,
    /// What times it is added to each row.
    factors: Vec<u8>,
}

impl Step {
    /// Does it to these bytes of all rows.
    fn take(&self, rows: &mut [Row], bytes: Range<usize>, multiples: &mut Multiples) {
        let pivot = &mut rows[self.pivot][bytes.clone()];
        scale(pivot, self.scale);
        multiples.set(pivot);
        for (row, factor) in rows.iter_mut().zip(&self.factors) {
            multiples.add_to(&mut row[bytes.clone()], *factor);
        }
    }
}

/// Gauss-Jordan elimination of the unknowns one by one, as steps. `rows`: a coefficient for each unknown. `None` where there are too few.
fn elimination(mut rows: Vec<Row>, unknowns: usize) -> Option<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::with_capacity(unknowns);
    let mut multiples = Multiples::new(unknowns);
    let mut free: Vec<usize> = (0..rows.len()).collect();
    for unknown in 0..unknowns {
        let at = free.iter().position(|i| rows[*i][unknown] != 0)?;
        let pivot = free.swap_remove(at);
        let mut factors: Vec<u8> = rows.iter().map(|row| row[unknown]).collect();
        let scale = inverse(std::mem::take(&mut factors[pivot]));
        let step = Step { pivot, scale, factors };
        step.take(&mut rows, 0..unknowns, &mut multiples);
        steps.push(step);
    }
    Some(steps)
}

/// The unknowns: what the first `size` bytes of the rows are after these steps.
fn solved(mut rows: Vec<Row>, steps: &[Step], size: usize) -> Vec<Row> {
    let mut multiples = Multiples::new(STRIPE);
    for from in (0..size).step_by(STRIPE) {
        let bytes = from..size.min(from + STRIPE);
        steps.iter().for_each(|step| step.take(&mut rows, bytes.clone(), &mut multiples));
    }
    let unknown = |step: &Step| {
        let mut row = std::mem::take(&mut rows[step.pivot]);
        row.truncate(size);
        row
    };
    steps.iter().map(unknown).collect()
}
