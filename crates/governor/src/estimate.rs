//! What a VM's move still costs on the wire, from what QEMU and the page stream say of it.

use transhume_model::Millis;

/// Figures of a page stream under way; all in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Guest memory in all.
    pub total: u64,
    /// Guest memory still to be sent.
    pub remaining: u64,
    /// Sent on the wire so far.
    pub wire: u64,
    /// Guest memory dirtied a second.
    pub dirty_per_s: u64,
    /// Passes over memory that are complete.
    pub passes: u64,
}

/// How much a new measurement counts against those before.
const NEWEST_WEIGHT: f64 = 0.4;
/// Bytes as if they had gone as they are, before anything is known: memory often begins with zeros.
const BELIEVED_WHOLE: u64 = 4_000_000;
/// Two looks that are closer say nothing of a rate.
const APART_MIN: Millis = Millis(50);

/// Of one VM.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    last: Option<(Millis, Figures)>,
    /// When the rate was measured last, and at how many bytes.
    measured: Option<(Millis, u64)>,
    /// Guest memory that has gone through the stream so far.
    passed: u64,
    bytes_per_s: Option<f64>,
}

impl Estimate {
    /// Takes a look at the stream into account. Looks out of turn are left out.
    pub fn see(&mut self, now: Millis, seen: Figures) {
        let (then, before) = self.last.unwrap_or((
            now,
            Figures {
                remaining: seen.total,
                ..Figures::default()
            },
        ));
        if now < then || seen.wire < before.wire {
            return;
        }
        // At the end of a pass the remainder grows by what was dirtied meanwhile; until then it
        // only falls.
        self.passed += before.remaining.saturating_sub(seen.remaining);
        self.last = Some((now, seen));
        let (since, at) = *self.measured.get_or_insert((now, seen.wire));
        if now >= since + APART_MIN {
            let rate = (seen.wire - at) as f64 * 1_000.0 / (now.0 - since.0) as f64;
            let old = self.bytes_per_s.unwrap_or(rate);
            self.bytes_per_s = Some(old + (rate - old) * NEWEST_WEIGHT);
            self.measured = Some((now, seen.wire));
        }
    }

    /// Share of guest memory's bytes that goes over the wire; all of it while nothing has gone.
    pub fn ratio(&self) -> f64 {
        match self.last {
            Some((_, seen)) => {
                let (wire, passed) = (seen.wire + BELIEVED_WHOLE, self.passed + BELIEVED_WHOLE);
                (wire as f64 / passed as f64).min(1.0)
            }
            None => 1.0,
        }
    }

    /// Bytes left for the wire; `None` before the first look.
    pub fn left(&self) -> Option<f64> {
        let (_, seen) = self.last?;
        Some(seen.remaining as f64 * self.ratio())
    }

    /// Bytes that the guest adds to them a second.
    pub fn dirty_per_s(&self) -> f64 {
        self.last
            .map_or(0.0, |(_, seen)| seen.dirty_per_s as f64 * self.ratio())
    }

    /// Bytes a second that go over the wire.
    pub fn bytes_per_s(&self) -> Option<f64> {
        self.bytes_per_s
    }

    /// Bytes that have gone.
    pub fn sent(&self) -> u64 {
        self.last.map_or(0, |(_, seen)| seen.wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000_000;

    fn near(is: f64, expected: f64) -> bool {
        (is - expected).abs() < expected * 1e-3
    }

    #[test]
    fn what_compression_left_so_far_is_expected_of_the_rest() {
        let mut estimate = Estimate::default();
        assert_eq!((estimate.left(), estimate.ratio()), (None, 1.0));
        let look = |remaining, wire, dirty_per_s| Figures {
            total: 1000 * GB,
            remaining: remaining * GB,
            wire: wire * GB,
            dirty_per_s: dirty_per_s * GB,
            passes: 0,
        };
        estimate.see(Millis(0), look(1000, 0, 0));
        assert_eq!(estimate.left(), Some((1000 * GB) as f64), "nothing has gone yet");
        estimate.see(Millis(100), look(600, 100, 0));
        assert!(near(estimate.ratio(), 0.25));
        assert!(near(estimate.left().unwrap(), (150 * GB) as f64));
        assert_eq!(estimate.bytes_per_s(), Some((1000 * GB) as f64));
        // A pass ends: what was dirtied comes back.
        estimate.see(Millis(200), look(0, 250, 40));
        estimate.see(Millis(300), look(200, 250, 40));
        assert!(near(estimate.ratio(), 0.25), "growth is not traffic");
        assert!(near(estimate.left().unwrap(), (50 * GB) as f64));
        assert!(near(estimate.dirty_per_s(), (10 * GB) as f64));
    }

    #[test]
    fn zeros_at_the_beginning_say_nothing_of_the_rest() {
        let mut estimate = Estimate::default();
        let total = 100_000_000;
        estimate.see(
            Millis(0),
            Figures {
                total,
                remaining: total - 1_000_000,
                ..Figures::default()
            },
        );
        assert!(estimate.ratio() > 0.75, "{}", estimate.ratio());
    }

    #[test]
    fn an_old_look_changes_nothing() {
        let mut estimate = Estimate::default();
        let look = |wire| Figures {
            total: 100,
            remaining: 100 - wire,
            wire,
            ..Figures::default()
        };
        estimate.see(Millis(200), look(50));
        let before = estimate.clone();
        estimate.see(Millis(100), look(60));
        estimate.see(Millis(300), look(20));
        assert_eq!(estimate, before);
    }
}
