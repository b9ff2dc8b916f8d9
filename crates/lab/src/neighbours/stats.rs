//! Percentiles, ratios of pairs with their interval, and rates from readings of a counter. Pure.

use std::time::Duration;

use crate::chance::Chance;
use crate::plot::Spread;

/// Bootstrap samples, and where their drawing starts.
const RESAMPLES: usize = 10_000;
const SEED: u64 = 0x5eed_0f0e_15a1;
/// Ends of the interval, in thousandths: 95 % lie between.
const LOW_PERMILLE: usize = 25;
const HIGH_PERMILLE: usize = 975;
/// A tenth of the bytes on either side is left out of a plateau.
const PLATEAU_EDGE: f64 = 0.1;
const SECOND: Duration = Duration::from_secs(1);

/// The least value that 99 of 100 do not exceed (nearest rank); `None` of an empty sample.
pub fn p99(sample: impl IntoIterator<Item = f64>) -> Option<f64> {
    let sorted = sorted(sample);
    let rank = (sorted.len() * 99).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn sorted(sample: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = sample.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(sample: impl IntoIterator<Item = f64>) -> Option<f64> {
    Spread::of(sample).map(|spread| spread.median)
}

/// How much greater one of a pair is than the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// How many pairs.
    pub pairs: usize,
    /// The median of their ratios.
    pub median: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Ratio {
    /// First over second of each pair; pairs with a second of 0 say nothing. `None` where no pair
    /// is left.
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let told = pairs.into_iter().filter(|(_, second)| *second > 0.0);
        let ratios: Vec<f64> = told.map(|(first, second)| first / second).collect();
        let own = median(ratios.iter().copied())?;
        let mut chance = Chance::of(SEED);
        let resampled = (0..RESAMPLES).filter_map(|_| {
            let drawn = (0..ratios.len()).map(|_| ratios[chance.below(ratios.len() as u64) as usize]);
            median(drawn)
        });
        let medians = sorted(resampled);
        Some(Ratio {
            pairs: ratios.len(),
            median: own,
            low: medians[RESAMPLES * LOW_PERMILLE / 1000],
            high: medians[RESAMPLES * HIGH_PERMILLE / 1000 - 1],
        })
    }
}

/// A counter at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Since the beginning.
    pub at: Duration,
    /// Bytes so far.
    pub bytes: u64,
}

/// Bytes a second from the first reading to the last.
pub fn mean_rate(readings: &[Reading]) -> Option<f64> {
    let (first, last) = (readings.first()?, readings.last()?);
    rate((first.at, first.bytes as f64), (last.at, last.bytes as f64))
}

/// Bytes a second without the first and the last tenth of the bytes, where a stream begins and
/// ends.
pub fn plateau(readings: &[Reading]) -> Option<f64> {
    let (first, last) = (readings.first()?, readings.last()?);
    let all = last.bytes.saturating_sub(first.bytes) as f64;
    let mark = |share: f64| {
        let bytes = first.bytes as f64 + all * share;
        Some((reached(readings, bytes)?, bytes))
    };
    rate(mark(PLATEAU_EDGE)?, mark(1.0 - PLATEAU_EDGE)?)
}

/// The most bytes of any second. It begins at a reading and lies between readings at its end.
pub fn busiest_second(readings: &[Reading]) -> Option<f64> {
    let whole = readings
        .iter()
        .filter_map(|begin| Some(value(readings, begin.at + SECOND)? - begin.bytes as f64));
    whole.max_by(f64::total_cmp)
}

fn rate(from: (Duration, f64), to: (Duration, f64)) -> Option<f64> {
    let seconds = to.0.checked_sub(from.0)?.as_secs_f64();
    (seconds > 0.0).then(|| (to.1 - from.1) / seconds)
}

/// When the counter reached so much, in proportion between readings.
fn reached(readings: &[Reading], bytes: f64) -> Option<Duration> {
    readings.windows(2).find_map(|pair| {
        let (low, high) = (pair[0].bytes as f64, pair[1].bytes as f64);
        let inside = high > low && (low..=high).contains(&bytes);
        inside.then(|| pair[0].at + (pair[1].at - pair[0].at).mul_f64((bytes - low) / (high - low)))
    })
}

/// What the counter stood at, in proportion between readings; `None` outside of them.
fn value(readings: &[Reading], at: Duration) -> Option<f64> {
    readings.windows(2).find_map(|pair| {
        let (low, high) = (pair[0], pair[1]);
        let inside = high.at > low.at && (low.at..=high.at).contains(&at);
        let share = (at.saturating_sub(low.at)).as_secs_f64() / (high.at - low.at).as_secs_f64();
        inside.then(|| low.bytes as f64 + (high.bytes.saturating_sub(low.bytes)) as f64 * share)
    })
}

/// Two streams while both had something to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Meeting {
    /// How long.
    pub seconds: f64,
    /// The least that either got of both in any second; 0.5 is an equal half.
    pub least_share: f64,
}

/// From the readings of both; `None` where they did not meet for a second.
pub fn meeting(one: &[Reading], other: &[Reading]) -> Option<Meeting> {
    let begin = one.first()?.at.max(other.first()?.at);
    let end = one.last()?.at.min(other.last()?.at);
    let seconds = end.checked_sub(begin)?.as_secs() as u32;
    let got = |readings: &[Reading], second: u32| {
        let at = begin + SECOND * second;
        Some(value(readings, at + SECOND)? - value(readings, at)?)
    };
    let shares = (0..seconds).filter_map(|second| {
        let (one, other) = (got(one, second)?, got(other, second)?);
        (one + other > 0.0).then(|| one.min(other) / (one + other))
    });
    Some(Meeting {
        seconds: (end - begin).as_secs_f64(),
        least_share: shares.min_by(f64::total_cmp)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(points: &[(u64, u64)]) -> Vec<Reading> {
        let reading = |&(ms, bytes)| Reading {
            at: Duration::from_millis(ms),
            bytes,
        };
        points.iter().map(reading).collect()
    }

    #[test]
    fn one_of_a_hundred_may_exceed_the_p99() {
        assert_eq!(p99([]), None);
        assert_eq!(p99([7.0]), Some(7.0));
        assert_eq!(p99((1..=100).rev().map(f64::from)), Some(99.0));
        assert_eq!(p99((1..=101).map(f64::from)), Some(100.0));
    }

    #[test]
    fn a_ratio_is_the_median_of_pairs_with_an_interval_around_it() {
        assert_eq!(Ratio::of([]), None);
        assert_eq!(Ratio::of([(1.0, 0.0)]), None, "a pair that says nothing");
        let alike = Ratio::of([(2.0, 1.0); 20]).unwrap();
        assert_eq!(
            (alike.pairs, alike.median, alike.low, alike.high),
            (20, 2.0, 2.0, 2.0)
        );
        let spread = Ratio::of((0..21).map(|i| (0.9 + 0.01 * f64::from(i), 1.0))).unwrap();
        assert!((spread.median - 1.0).abs() < 1e-9);
        assert!(spread.low < 1.0 && spread.high > 1.0, "{spread:?}");
        assert!(spread.low > 0.9 && spread.high < 1.1, "{spread:?}");
        let again = Ratio::of((0..21).map(|i| (0.9 + 0.01 * f64::from(i), 1.0)));
        assert_eq!(Some(spread), again, "the seed is fixed");
    }

    #[test]
    fn the_ends_of_a_stream_do_not_count() {
        // Two slow seconds, ten at 100 a second, one in which nothing comes.
        let stream = readings(&[(0, 0), (2000, 20), (12_000, 1020), (13_000, 1020)]);
        assert_eq!(plateau(&stream).map(f64::round), Some(100.0));
        assert_eq!(mean_rate(&stream).map(f64::round), Some(78.0));
        assert_eq!(plateau(&stream[..1]), None);
        assert_eq!(plateau(&readings(&[(0, 5), (1000, 5)])), None, "nothing was sent");
    }

    #[test]
    fn the_busiest_second_is_found_between_readings() {
        let stream = readings(&[(0, 0), (400, 10), (800, 60), (1400, 70), (2000, 80)]);
        // The first: 60, and a third of the 10 that follow.
        assert_eq!(busiest_second(&stream).map(f64::round), Some(63.0));
        assert_eq!(busiest_second(&stream[..2]), None, "no whole second");
    }

    #[test]
    fn streams_meet_while_both_run() {
        let one = readings(&[(0, 0), (4000, 4000)]);
        let other = readings(&[(1000, 0), (2000, 1000), (3000, 1500), (9000, 9000)]);
        let meeting = super::meeting(&one, &other).unwrap();
        assert_eq!(meeting.seconds, 3.0);
        assert!((meeting.least_share - 1.0 / 3.0).abs() < 1e-9, "{meeting:?}");
        assert_eq!(super::meeting(&one, &readings(&[(5000, 0), (6000, 1)])), None);
    }
}
