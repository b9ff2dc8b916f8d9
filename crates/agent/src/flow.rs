//! How fast frames come for a guest: what its buffers will have to hold while it stands still.
//!
//! Pure: the counters of its taps are fed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Shortest span over which a rate is taken.
const SPAN_MIN: Duration = Duration::from_millis(100);
/// Spans of which the fastest counts: flows come in bursts, and a second is longer than a blackout.
const SPANS: usize = 10;

/// Rates of one VM.
#[derive(Debug, Default)]
pub(crate) struct FlowMeter {
    last: Option<(Instant, Vec<u64>)>,
    /// Bytes a second of the busiest NIC, span by span.
    rates: VecDeque<u64>,
}

impl FlowMeter {
    /// Whether the counters are worth a look.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.last.as_ref().is_none_or(|(then, _)| now - *then >= SPAN_MIN)
    }

    /// Takes the bytes that each NIC has been given so far.
    pub(crate) fn saw(&mut self, now: Instant, given: Vec<u64>) {
        if let Some((then, before)) = &self.last {
            let bytes = given.iter().zip(before).map(|(is, was)| is.saturating_sub(*was));
            let seconds = (now - *then).max(SPAN_MIN).as_secs_f64();
            self.rates
                .push_back((bytes.max().unwrap_or(0) as f64 / seconds) as u64);
            if self.rates.len() > SPANS {
                self.rates.pop_front();
            }
        }
        self.last = Some((now, given));
    }

    /// Bytes a second of the busiest NIC in the fastest of the latest spans.
    pub(crate) fn bytes_per_s(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_nic_in_the_fastest_of_the_latest_spans_counts() {
        let mut meter = FlowMeter::default();
        let begun = Instant::now();
        let saw = |meter: &mut FlowMeter, ms: u64, given: [u64; 2]| {
            meter.saw(begun + Duration::from_millis(ms), given.to_vec());
            meter.bytes_per_s()
        };
        assert_eq!(saw(&mut meter, 0, [1_000, 9_000]), 0);
        assert_eq!(saw(&mut meter, 100, [3_000, 9_500]), 20_000);
        assert_eq!(saw(&mut meter, 300, [3_000, 9_500]), 20_000);
        // Ten quiet spans later the burst is forgotten.
        let last = (4..=13)
            .map(|at| saw(&mut meter, at * 100, [3_000, 9_600]))
            .last();
        assert_eq!(last, Some(1_000));
        // A tap that was made anew counts from the beginning.
        assert_eq!(saw(&mut meter, 1_400, [0, 0]), 0);
    }

    #[test]
    fn looks_in_quick_succession_are_no_spans() {
        let mut meter = FlowMeter::default();
        let begun = Instant::now();
        assert!(meter.is_due(begun));
        meter.saw(begun, vec![0]);
        assert!(!meter.is_due(begun + Duration::from_millis(5)));
        assert!(meter.is_due(begun + SPAN_MIN));
    }
}
