//! How far a host's clock is ahead of the coordinator's, from the heartbeats over its link.
//!
//! ```text
//!  coordinator   sent ───────┐           ┌──▶ received
//!                            ▼           │
//!  host                      its instant `at`
//! ```
//!
//! The host read its clock somewhere between the two: the offset is `at` minus their middle, and at
//! most half the round trip wrong. Of the latest samples the one that is narrowest by now is used;
//! each one widens with its age, because clocks drift. A sample that cannot agree with the estimate
//! proves that a clock was stepped. Pure: whoever takes a sample reads the clocks.

use std::collections::VecDeque;

use transhume_model::{Millis, WallMicros};

/// Samples that are kept; the best of them is used.
const SAMPLES_MAX: usize = 16;
/// How fast two clocks may drift apart, microseconds a second: two poor crystals, or one that NTP
/// slews.
const DRIFT_US_PER_S: u64 = 200;
const MS_PER_S: u64 = 1_000;

/// One heartbeat and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When the order left, by the coordinator's wall clock.
    pub(crate) sent: WallMicros,
    /// From then until the answer was here, by the monotonic clock.
    pub(crate) round_trip_us: u64,
    /// When the host answered, by its wall clock.
    pub(crate) at: WallMicros,
}

/// How far a host's clock is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// Microseconds; negative: it is behind.
    pub(crate) offset_us: i64,
    /// The truth is at most this far off.
    pub(crate) uncertainty_us: u64,
}

impl Estimate {
    /// Whether both can be true.
    fn agrees_with(&self, other: &Estimate) -> bool {
        let reach = self.uncertainty_us.saturating_add(other.uncertainty_us);
        self.offset_us.abs_diff(other.offset_us) <= reach
    }
}

/// A clock was stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// The estimate before it.
    pub(crate) before: Estimate,
    /// The one after it.
    pub(crate) after: Estimate,
}

/// What is known of one host's clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    samples: VecDeque<(Millis, Estimate)>,
}

impl Clock {
    /// Takes a sample that has just come. After a step, what was known before is of no use.
    pub(crate) fn add(&mut self, now: Millis, sample: Sample) -> Option<Step> {
        let after = estimate(sample);
        let before = self.estimate(now).filter(|before| !before.agrees_with(&after));
        if before.is_some() {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, after));
        before.map(|before| Step { before, after })
    }

    /// The best that is known by now; `None` before the first sample.
    pub(crate) fn estimate(&self, now: Millis) -> Option<Estimate> {
        let aged = self.samples.iter().map(|(taken, estimate)| {
            let age_ms = now.0.saturating_sub(taken.0);
            let drift_us = age_ms.saturating_mul(DRIFT_US_PER_S) / MS_PER_S;
            Estimate {
                uncertainty_us: estimate.uncertainty_us.saturating_add(drift_us),
                ..*estimate
            }
        });
        aged.min_by_key(|estimate| estimate.uncertainty_us)
    }
}

/// What a sample alone says. What a host says of its clock may be any number.
fn estimate(sample: Sample) -> Estimate {
    let half = sample.round_trip_us.div_ceil(2);
    let middle = sample.sent.0.saturating_add(half);
    let offset = i128::from(sample.at.0) - i128::from(middle);
    Estimate {
        offset_us: offset.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        uncertainty_us: half,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2020, in microseconds since 1970.
    const SENT: u64 = 1_577_836_800_000_000;

    fn sample(ahead_us: i64, there_us: u64, back_us: u64) -> Sample {
        Sample {
            sent: WallMicros(SENT),
            round_trip_us: there_us + back_us,
            at: WallMicros((SENT + there_us).strict_add_signed(ahead_us)),
        }
    }

    #[test]
    fn the_truth_is_within_the_uncertainty_however_uneven_the_way() {
        for ahead_us in [-3_600_000_000, -5, 0, 7, 3_600_000_000] {
            for (there, back) in [(0, 0), (0, 900), (900, 0), (450, 451), (1, 0)] {
                let mut clock = Clock::default();
                assert_eq!(clock.add(Millis(5), sample(ahead_us, there, back)), None);
                let found = clock.estimate(Millis(5)).unwrap();
                assert!(
                    found.offset_us.abs_diff(ahead_us) <= found.uncertainty_us,
                    "{ahead_us} {there} {back}: {found:?}"
                );
                assert!(found.uncertainty_us <= (there + back).div_ceil(2));
            }
        }
    }

    #[test]
    fn the_narrowest_sample_is_used_until_a_younger_one_is_narrower() {
        let mut clock = Clock::default();
        assert_eq!(clock.estimate(Millis(0)), None);
        clock.add(Millis(0), sample(100, 1_000, 1_000));
        clock.add(Millis(1_000), sample(100, 50, 50));
        clock.add(Millis(2_000), sample(120, 200, 200));
        let at = |ms| clock.estimate(Millis(ms)).unwrap().uncertainty_us;
        assert_eq!(at(1_000), 50);
        assert_eq!(at(1_500), 50 + 100, "half a second of drift");
        assert_eq!(at(2_000), 200, "one of 200 just taken is better than 50 + 200");
    }

    #[test]
    fn old_samples_are_forgotten() {
        let mut clock = Clock::default();
        clock.add(Millis(0), sample(0, 1, 1));
        for _ in 0..SAMPLES_MAX {
            clock.add(Millis(0), sample(0, 500, 500));
        }
        assert_eq!(clock.samples.len(), SAMPLES_MAX);
        assert_eq!(clock.estimate(Millis(0)).unwrap().uncertainty_us, 500);
    }

    #[test]
    fn a_step_is_seen_and_the_time_before_it_forgotten() {
        let mut clock = Clock::default();
        clock.add(Millis(0), sample(0, 100, 100));
        clock.add(Millis(1_000), sample(0, 100, 100));
        let step = clock.add(Millis(2_000), sample(3_600_000_000, 900, 900)).unwrap();
        assert_eq!(step.before.offset_us, 0);
        assert_eq!(step.after.offset_us, 3_600_000_000);
        assert_eq!(clock.estimate(Millis(2_000)), Some(step.after));
        assert_eq!(clock.add(Millis(3_000), sample(3_600_000_000, 100, 100)), None);
    }

    #[test]
    fn drift_within_the_allowance_is_no_step() {
        let mut clock = Clock::default();
        for second in 0..600 {
            let ahead_us = second * DRIFT_US_PER_S;
            let sample = sample(ahead_us as i64, 40, 60);
            assert_eq!(
                clock.add(Millis(second * MS_PER_S), sample),
                None,
                "after {second} s"
            );
        }
    }

    #[test]
    fn no_instant_is_too_far_away() {
        for at in [0, u64::MAX] {
            let mut clock = Clock::default();
            let sample = Sample {
                at: WallMicros(at),
                ..sample(0, 1, 1)
            };
            clock.add(Millis(0), sample);
            assert!(clock.estimate(Millis(u64::MAX)).is_some());
            assert!(clock.add(Millis(1), self::sample(0, 1, 1)).is_some());
        }
    }
}
