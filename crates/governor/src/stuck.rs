//! Whether a VM will ever get ready: told from its progress, not from a clock alone.

use transhume_model::Millis;

use crate::estimate::{Estimate, Figures};
use crate::limits::{STUCK_AFTER_PASSES, STUCK_MS, STUCK_PASSES, STUCK_SHRINK};

/// A VM does not get ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Stuck {
    /// What it adds to the wire, bytes a second.
    pub dirty_per_s: f64,
    /// What its links could give it alone, bytes a second; `None` where no budget is known.
    pub most_per_s: Option<f64>,
    /// Why.
    pub why: Why,
}

/// How it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It dirties as fast as its links could carry.
    FasterThanItsLinks,
    /// Pass after pass leaves as much as the one before.
    PassesDoNotShrink,
}

/// Of one VM.
#[derive(Debug, Clone, Default)]
pub struct StuckWatch {
    passes: u64,
    /// Most that was left since the last pass ended, and the least that a whole pass had.
    left: u64,
    least: Option<u64>,
    in_a_row: u32,
    /// Since when passes do not shrink, and since when it dirties too fast.
    since: Option<Millis>,
    too_fast_since: Option<Millis>,
    told: bool,
}

impl StuckWatch {
    /// Looks at a VM that is not ready. Tells once; again only after it was better in between.
    pub fn see(
        &mut self,
        now: Millis,
        seen: Figures,
        estimate: &Estimate,
        most_per_s: Option<f64>,
    ) -> Option<Stuck> {
        self.count_passes(now, seen);
        let dirty_per_s = estimate.dirty_per_s();
        let too_fast =
            seen.passes >= STUCK_AFTER_PASSES && most_per_s.is_some_and(|most| dirty_per_s >= most);
        match too_fast {
            true => _ = self.too_fast_since.get_or_insert(now),
            false => self.too_fast_since = None,
        }
        let for_long = |since: Option<Millis>| since.is_some_and(|since| now >= since + STUCK_MS);
        let why = if for_long(self.too_fast_since) {
            Why::FasterThanItsLinks
        } else if self.in_a_row >= STUCK_PASSES && for_long(self.since) {
            Why::PassesDoNotShrink
        } else {
            if self.too_fast_since.is_none() && self.in_a_row == 0 {
                self.told = false;
            }
            return None;
        };
        let first = !std::mem::replace(&mut self.told, true);
        first.then_some(Stuck {
            dirty_per_s,
            most_per_s,
            why,
        })
    }

    fn count_passes(&mut self, now: Millis, seen: Figures) {
        if seen.passes <= self.passes {
            self.left = self.left.max(seen.remaining);
            return;
        }
        // What a pass leaves goes up and down: only a new least is progress.
        let shrinks = match self.least {
            // The first pass carries everything.
            Some(least) if self.passes >= STUCK_AFTER_PASSES => {
                self.left as f64 <= least as f64 * STUCK_SHRINK
            }
            Some(_) | None => true,
        };
        if shrinks {
            (self.in_a_row, self.since) = (0, None);
        } else {
            self.in_a_row += (seen.passes - self.passes) as u32;
            self.since.get_or_insert(now);
        }
        if self.passes > 0 {
            self.least = Some(self.least.map_or(self.left, |least| least.min(self.left)));
        }
        (self.passes, self.left) = (seen.passes, seen.remaining);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// Passes of a second each, one look in the middle of it and one at its end.
    fn told_after(lefts: &[u64], dirty_per_s: u64, most: Option<f64>) -> Option<(usize, Stuck)> {
        let (mut watch, mut estimate) = (StuckWatch::default(), Estimate::default());
        let mut wire = 0;
        for (pass, left) in lefts.iter().enumerate() {
            for (at, remaining) in [(0, *left), (900, 0)] {
                let now = Millis(pass as u64 * 1000 + at);
                wire += left / 2;
                let seen = Figures {
                    total: 100 * MB,
                    remaining,
                    wire,
                    dirty_per_s,
                    passes: pass as u64 + 1,
                };
                estimate.see(now, seen);
                if let Some(stuck) = watch.see(now, seen, &estimate, most) {
                    return Some((pass, stuck));
                }
            }
        }
        None
    }

    #[test]
    fn passes_that_shrink_are_progress() {
        let lefts = [100, 50, 30, 20, 12, 7, 4, 2, 1].map(|mb| mb * MB);
        assert_eq!(told_after(&lefts, 5 * MB, None), None);
    }

    #[test]
    fn passes_that_do_not_shrink_are_told_within_seconds() {
        let (pass, stuck) = told_after(
            &[[100, 50].as_slice(), &[49; 10]]
                .concat()
                .iter()
                .map(|mb| mb * MB)
                .collect::<Vec<_>>(),
            50 * MB,
            None,
        )
        .unwrap();
        assert_eq!(stuck.why, Why::PassesDoNotShrink);
        assert!(pass <= 7, "told in pass {pass}");
    }

    #[test]
    fn passes_that_go_up_and_down_are_no_progress() {
        let lefts = [100, 9, 8, 9, 8, 9, 8, 9].map(|mb| mb * MB);
        let (pass, stuck) = told_after(&lefts, MB, None).unwrap();
        assert_eq!(stuck.why, Why::PassesDoNotShrink);
        assert!(pass <= 7, "told in pass {pass}");
    }

    #[test]
    fn a_rate_above_the_links_own_is_told_before_passes_say_it() {
        let lefts = [100, 80, 70, 60, 50, 40, 30, 20].map(|mb| mb * MB);
        let (pass, stuck) = told_after(&lefts, 90 * MB, Some(20.0 * MB as f64)).unwrap();
        assert_eq!((stuck.why, pass), (Why::FasterThanItsLinks, 4));
        assert_eq!(told_after(&lefts, 90 * MB, Some(200.0 * MB as f64)), None);
    }

    #[test]
    fn it_is_told_once() {
        let mut watch = StuckWatch::default();
        let mut told = 0;
        for second in 0..30 {
            let seen = Figures {
                total: 100 * MB,
                remaining: 50 * MB,
                passes: second,
                ..Figures::default()
            };
            told += usize::from(
                watch
                    .see(Millis(second * 1000), seen, &Estimate::default(), None)
                    .is_some(),
            );
        }
        assert_eq!(told, 1);
    }
}
