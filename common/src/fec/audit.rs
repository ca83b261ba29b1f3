//! Finds forged and damaged symbols in a source block that has more symbols than it needs.
//!
//! RaptorQ has no check of its own: one wrong symbol makes wrong bytes of many. But each symbol beyond K is an equation over
//! GF(256) that true symbols satisfy at every byte position. With as many equations as wrong symbols and a few more, the way in
//! which they fail tells which symbols are wrong (Metzner and Kapturowski, "A general decoding technique applicable to
//! replicated file disagreement location and concatenated code decoding", IEEE Trans. Inf. Theory 36, 1990): a combination of
//! equations that holds in spite of the errors has a zero where a wrong symbol stands, because a symbol of T bytes offers each
//! combination T chances to fail.

use super::equations::{Equations, Received, Row};
use super::gf256::{add_scaled, inverse, multiply};
use std::collections::HashMap;

/// Largest K that is looked at: time grows with its square.
const MAX_SYMBOLS: u32 = 2048;
/// Most equations: what a hostile number of repair symbols may cost.
const MAX_EQUATIONS: usize = 512;
/// Fewest equations that do not hold by chance: most of their coefficients are 0 or 1, so a wrong symbol escapes one in two.
const AGREEING: usize = 8;
/// Fewest equations in which no two of 1000 true symbols look alike by chance.
const TELLING: usize = 40;

/// What the symbols say about each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They agree.
    Consistent,
    /// They agree without these source symbols (by ESI) and these repair symbols (by place in the list), and enough are left.
    Without(Vec<usize>, Vec<usize>),
    /// There are too few for what is wrong with them.
    Unknown,
}

/// Looks for wrong symbols.
pub(super) fn find_wrong(block: Received<'_>) -> Verdict {
    let (symbols, size) = (block.symbols as usize, usize::from(block.symbol_size));
    let present = block.have.count() as usize + block.repair.len();
    if block.symbols > MAX_SYMBOLS || present < symbols + 2 {
        return Verdict::Unknown;
    }
    let missing = block.missing();
    let used = block.repair.len().min(missing.len() + MAX_EQUATIONS);
    let Some(mut rows) = equations(block, used) else { return Verdict::Unknown };
    // Equations that say nothing about symbols that are not there.
    for i in missing {
        eliminate(&mut rows, size + i);
    }
    let checks = rows.len();
    // And of these, combinations that hold in spite of the wrong ones.
    while let Some(at) = rows.iter().find_map(|row| row[..size].iter().position(|b| *b != 0)) {
        eliminate(&mut rows, at);
    }
    if rows.len() == checks {
        return if checks >= AGREEING { Verdict::Consistent } else { Verdict::Unknown };
    }
    let present_at = |i: &usize| *i >= symbols || block.have.get(*i);
    let columns: Vec<usize> = (0..symbols + used).filter(present_at).collect();
    let named = suspects(&rows, size, &columns);
    let (source, repair): (Vec<usize>, Vec<usize>) = named.into_iter().partition(|i| *i < symbols);
    let mut repair: Vec<usize> = repair.into_iter().map(|i| i - symbols).collect();
    // Those that were not looked at may be wrong as well.
    repair.extend(used..block.repair.len());
    let wrong = source.len() + repair.len();
    if rows.is_empty() || wrong == 0 || present - wrong < symbols {
        return Verdict::Unknown;
    }
    Verdict::Without(source, repair)
}

/// Which of the columns belong to wrong symbols: they are 0 in every combination that holds. Where two symbols are wrong in the
/// same places (one flipped bit each, in the same byte), only a sum of the two is: then one is a multiple of the other.
fn suspects(rows: &[Row], size: usize, columns: &[usize]) -> Vec<usize> {
    let mut out = Vec::new();
    let mut alike: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for at in columns {
        let column = rows.iter().map(|row| row.get(size + at).copied().unwrap_or(0));
        match column.clone().find(|b| *b != 0) {
            None => out.push(*at),
            Some(first) if rows.len() >= TELLING => {
                let scale = inverse(first);
                alike.entry(column.map(|b| multiply(b, scale)).collect()).or_default().push(*at);
            }
            Some(_) => {}
        }
    }
    out.extend(alike.into_values().filter(|group| group.len() > 1).flatten());
    out
}

/// A row for each of the first `used` repair symbols: T bytes by which it does not hold, coefficients of all source symbols, and those
/// of the repair symbols.
fn equations(block: Received<'_>, used: usize) -> Option<Vec<Row>> {
    let symbols = block.symbols as usize;
    let coefficients = usize::from(block.symbol_size) + symbols;
    let equations = Equations::of(block, &(0..symbols).collect::<Vec<_>>(), None)?;
    let row = |(j, (esi, symbol)): (usize, &(_, Vec<u8>))| {
        let mut row = equations.row(*esi, symbol)?;
        row.resize(coefficients + used, 0);
        row[coefficients + j] = 1;
        Some(row)
    };
    block.repair.iter().take(used).enumerate().map(row).collect()
}

/// Takes `column` out of all rows by means of one that has it, and that row away. Nothing where none has it.
fn eliminate(rows: &mut Vec<Row>, column: usize) {
    let Some(at) = rows.iter().position(|row| row[column] != 0) else { return };
    let pivot = rows.swap_remove(at);
    let inverse = inverse(pivot[column]);
    for row in rows {
        let factor = multiply(row[column], inverse);
        if factor != 0 {
            add_scaled(row, &pivot, factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::{Bitmap, EncodeJob};
    use crate::ids::{Esi, Sbn, Toi};
    use bytes::Bytes;
    use proptest::prelude::*;

    const SIZE: u16 = 96;

    struct Case {
        buffer: Vec<u8>,
        have: Bitmap,
        repair: Vec<(Esi, Vec<u8>)>,
        symbols: u32,
    }

    /// A block that lost the first `lost` source symbols and was sent `repair` repair symbols.
    fn case(symbols: u32, lost: u32, repair: u32, seed: u64) -> Case {
        let mut buffer = vec![0; symbols as usize * usize::from(SIZE)];
        fastrand::Rng::with_seed(seed).fill(&mut buffer);
        let data = Bytes::from(buffer.clone());
        let job = EncodeJob {
            id: 0,
            toi: Toi(1),
            sbn: Sbn(0),
            data,
            symbols,
            symbol_size: SIZE,
            first: 0,
            count: repair,
        };
        let mut have = Bitmap::new(symbols);
        for i in lost..symbols {
            have.set(i as usize);
        }
        buffer[..lost as usize * usize::from(SIZE)].fill(0xee);
        Case { buffer, have, repair: job.run().repair, symbols }
    }

    impl Case {
        fn verdict(&self) -> Verdict {
            find_wrong(Received {
                symbols: self.symbols,
                symbol_size: SIZE,
                buffer: &self.buffer,
                have: &self.have,
                repair: &self.repair,
            })
        }

        fn spoil_source(&mut self, i: usize, rng: &mut fastrand::Rng) {
            let size = usize::from(SIZE);
            rng.fill(&mut self.buffer[i * size..(i + 1) * size]);
        }
    }

    #[test]
    fn true_symbols_agree() {
        assert_eq!(case(100, 0, 12, 1).verdict(), Verdict::Consistent);
        assert_eq!(case(100, 10, 20, 1).verdict(), Verdict::Consistent);
    }

    #[test]
    fn too_few_symbols_tell_nothing() {
        assert_eq!(case(100, 10, 11, 1).verdict(), Verdict::Unknown);
        let mut noise = case(100, 0, 12, 1);
        let mut rng = fastrand::Rng::with_seed(2);
        (0..40).for_each(|i| noise.spoil_source(i, &mut rng));
        assert_eq!(noise.verdict(), Verdict::Unknown);
    }

    #[test]
    fn two_flipped_bits_in_the_same_byte_are_found() {
        let mut case = case(200, 5, 80, 4);
        let at = |symbol: usize| symbol * usize::from(SIZE) + 30;
        case.buffer[at(17)] ^= 4;
        case.buffer[at(90)] ^= 64;
        case.repair[3].1[55] ^= 1;
        let Verdict::Without(mut source, repair) = case.verdict() else { panic!("{:?}", case.verdict()) };
        source.sort_unstable();
        assert_eq!((source, repair), (vec![17, 90], vec![3]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever is wrong is among what is named, and little else, where there are some more equations than errors.
        #[test]
        fn wrong_symbols_are_named(
            symbols in 5u32..160,
            lost in 0u32..20,
            wrong_source in 0usize..5,
            wrong_repair in 0usize..4,
            seed: u64,
        ) {
            let lost = lost.min(symbols - 5);
            let wrong = wrong_source + wrong_repair;
            let mut case = case(symbols, lost, lost + wrong as u32 + 16, seed);
            // Not the numbers that the block was made of: they would put right symbols in their own places.
            let mut rng = fastrand::Rng::with_seed(!seed);
            let mut sources: Vec<usize> = (lost as usize..symbols as usize).collect();
            rng.shuffle(&mut sources);
            sources.truncate(wrong_source);
            sources.sort_unstable();
            sources.iter().for_each(|i| case.spoil_source(*i, &mut rng));
            // One has a single flipped bit, one another number than its own.
            for j in 0..wrong_repair {
                match j {
                    0 => case.repair[j].1[7] ^= 0x10,
                    1 => case.repair[j].0 = Esi(9_000_000),
                    _ => rng.fill(&mut case.repair[j].1),
                }
            }
            match case.verdict() {
                Verdict::Consistent => prop_assert_eq!(wrong, 0),
                Verdict::Without(source, repair) => {
                    prop_assert!(wrong > 0);
                    prop_assert!(sources.iter().all(|i| source.contains(i)), "{:?} not in {:?}", sources, source);
                    prop_assert!((0..wrong_repair).all(|j| repair.contains(&j)));
                    prop_assert!(source.len() + repair.len() <= wrong + 3);
                }
                Verdict::Unknown => prop_assert!(false, "unknown"),
            }
        }
    }
}
