//! Plans of how to get from source symbols to intermediate ones, one for each K', kept for the decoder.
//!
//! To make a plan takes as long as to decode a block with it saves, and it is large (2 MB for K' = 802): it pays where blocks of
//! one size come again and again, and a receiver must not have one for every size.

use raptorq::SourceBlockEncodingPlan;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Sum of K' of the plans that are kept: 8 MB, as measured.
const KEPT_MAX: u32 = 3400;
/// So many blocks back it counts that one was of the same size.
const SEEN_MAX: usize = 16;

static PLANS: Mutex<Plans> = Mutex::new(Plans { kept: VecDeque::new(), seen: VecDeque::new() });

type Plan = Arc<SourceBlockEncodingPlan>;

/// The plan for blocks of K' symbols. `None` where it is not worth its while.
pub(super) fn plan(padded_symbols: u32) -> Option<Plan> {
    let plans = || PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = plans().find(padded_symbols);
    match found {
        Found::Plan(plan) => Some(plan),
        Found::Wanted => {
            let plan = Arc::new(SourceBlockEncodingPlan::generate(u16::try_from(padded_symbols).ok()?));
            plans().keep(padded_symbols, plan.clone());
            Some(plan)
        }
        Found::Nothing => None,
    }
}

#[derive(Debug, Default)]
struct Plans {
    /// By K', the one that was used last at the end.
    kept: VecDeque<(u32, Plan)>,
    /// K' of the last blocks that there was no plan for.
    seen: VecDeque<u32>,
}

enum Found {
    Plan(Plan),
    /// There is none, but it would have been of use before.
    Wanted,
    Nothing,
}

impl Plans {
    fn find(&mut self, symbols: u32) -> Found {
        if let Some(at) = self.kept.iter().position(|(k, _)| *k == symbols)
            && let Some((_, plan)) = self.kept.remove(at)
        {
            self.kept.push_back((symbols, plan.clone()));
            return Found::Plan(plan);
        }
        if symbols <= KEPT_MAX && self.seen.contains(&symbols) {
            return Found::Wanted;
        }
        self.seen.push_back(symbols);
        if self.seen.len() > SEEN_MAX {
            self.seen.pop_front();
        }
        Found::Nothing
    }

    fn keep(&mut self, symbols: u32, plan: Plan) {
        self.kept.retain(|(k, _)| *k != symbols);
        self.kept.push_back((symbols, plan));
        while self.kept.iter().map(|(k, _)| k).sum::<u32>() > KEPT_MAX {
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(plans: &mut Plans, symbols: u32) -> bool {
        match plans.find(symbols) {
            Found::Plan(_) => true,
            Found::Wanted => {
                plans.keep(symbols, Arc::new(SourceBlockEncodingPlan::generate(10)));
                true
            }
            Found::Nothing => false,
        }
    }

    #[test]
    fn a_size_has_a_plan_when_it_comes_again() {
        let mut plans = Plans::default();
        assert_eq!([10, 10, 10].map(|k| ask(&mut plans, k)), [false, true, true]);
        let many: Vec<u32> = (100..100 + SEEN_MAX as u32 + 1).collect();
        assert!(!many.iter().any(|k| ask(&mut plans, *k)));
        assert!(!ask(&mut plans, 100), "forgotten");
        assert!(ask(&mut plans, 10), "kept");
    }

    #[test]
    fn the_plan_that_was_used_longest_ago_goes() {
        let mut plans = Plans::default();
        for k in [1500, 1500, 1501, 1501, 1500, 300, 300, 200, 200] {
            ask(&mut plans, k);
        }
        let kept: Vec<u32> = plans.kept.iter().map(|(k, _)| *k).collect();
        assert_eq!(kept, [1500, 300, 200]);
        assert!(!ask(&mut plans, KEPT_MAX + 1) && !ask(&mut plans, KEPT_MAX + 1), "too large for a plan");
    }
}
