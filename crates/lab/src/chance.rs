//! Chance that comes from a seed. Pure.

/// A seeded generator (SplitMix64): the same seed gives the same numbers.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn of(seed: u64) -> Self {
        Chance(seed)
    }

    pub(crate) fn of_round(seed: u64, round: u64) -> Self {
        let mut chance = Chance(seed);
        // Neighbouring seeds and rounds must not share their numbers.
        let mixed = chance.next() ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Chance(mixed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// From 0 up to, not including, 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.next() as f64 / (u64::MAX as f64 + 1.0)
    }

    /// From 0 to `max`, half of them in the first eighth.
    pub(crate) fn dense_near_zero(&mut self, max: u64) -> u64 {
        (self.fraction().powi(3) * (max + 1) as f64) as u64
    }

    /// Each magnitude between `low` and `high` as likely as any other.
    pub(crate) fn spread(&mut self, low: u64, high: u64) -> u64 {
        (low as f64 * (high as f64 / low as f64).powf(self.fraction())) as u64
    }

    pub(crate) fn weighted<'a, T>(&mut self, choices: &'a [T], weight: impl Fn(&T) -> u64) -> &'a T {
        let total: u64 = choices.iter().map(&weight).sum();
        let mut left = self.below(total);
        for choice in choices {
            let own = weight(choice);
            if left < own {
                return choice;
            }
            left -= own;
        }
        &choices[choices.len() - 1]
    }
}
