//! What a leader knows of its lease, and a follower of the leader's clock. Pure: `now` is an
//! argument.

use std::time::{Duration, Instant};

use transhume_model::WallMicros;

/// Clocks of coordinators that are further apart are an error: the times in one move's entries
/// would be of both. Above the time that a beat takes to be written while etcd has a majority.
pub(super) const CLOCKS_APART_MAX: Duration = Duration::from_secs(5);

/// Until when a lease lasts, by this machine's own clock.
///
/// etcd counts from when it took the request that renewed it, which was after that was sent: what
/// this says ends no later than etcd's own count. Where etcd itself elects a leader it prolongs all
/// leases; that is not relied on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    ttl: Duration,
    sent: Instant,
}

impl Lease {
    /// Granted in answer to what was sent then.
    pub(super) fn granted(ttl: Duration, sent: Instant) -> Self {
        Self { ttl, sent }
    }

    /// It was renewed in answer to what was sent then.
    pub(super) fn renewed(&mut self, sent: Instant) {
        self.sent = self.sent.max(sent);
    }

    /// When it ends if nothing more is heard.
    pub(super) fn ends(&self) -> Instant {
        self.sent + self.ttl
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.ends()
    }
}

/// Compares this machine's clock with the leader's, by the beats that are seen to come.
///
/// What waits in an etcd without a majority is done when that is back, however old it is by then. A
/// leader has one write and one beat under way at a time: so two old ones say nothing, and a third
/// in a row does.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    last: Option<(WallMicros, WallMicros)>,
    behind_in_a_row: u32,
}

/// So many may have waited in etcd: a write and a beat.
const WAITED_MAX: u32 = 2;

impl ClockWatch {
    /// A look that began at `began` by our wall clock and was over at `ended` showed this beat.
    /// Says how far the leader's clock is ahead of ours, microseconds, where that is too much.
    pub(super) fn seen(&mut self, beat: WallMicros, began: WallMicros, ended: WallMicros) -> Option<i64> {
        let limit = CLOCKS_APART_MAX.as_micros() as i64;
        let apart = |later: WallMicros, earlier: WallMicros| later.0 as i64 - earlier.0 as i64;
        let ahead = apart(beat, ended);
        let before = self.last;
        if before.is_none_or(|(last, _)| last != beat) {
            self.last = Some((beat, began));
        }
        if ahead > limit {
            return Some(ahead);
        }
        match before {
            // It was written since the last look, which was over before this one's beginning.
            Some((last, looked)) if last != beat => {
                let behind = apart(looked, beat);
                self.behind_in_a_row = match behind > limit {
                    true => self.behind_in_a_row + 1,
                    false => 0,
                };
                (self.behind_in_a_row > WAITED_MAX).then_some(-behind)
            }
            Some((_, _)) => {
                self.last = Some((beat, began));
                None
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_when_its_renewal_was_sent() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut lease = Lease::granted(Duration::from_secs(3), start);
        assert!(!lease.is_over(after(2_999)) && lease.is_over(after(3_000)));
        lease.renewed(after(1_000));
        assert_eq!(lease.ends(), after(4_000));
        // Answers may come in another order than they were asked for.
        lease.renewed(after(500));
        assert_eq!(lease.ends(), after(4_000));
    }

    fn at(seconds: u64) -> WallMicros {
        WallMicros(1_000_000 * (1_700_000_000 + seconds))
    }

    #[test]
    fn clocks_that_agree_or_nearly_do_are_let_pass() {
        let mut watch = ClockWatch::default();
        assert_eq!(
            watch.seen(at(0), at(90), at(90)),
            None,
            "an old beat: its leader may be dead"
        );
        for second in 91..120 {
            // The leader's clock is 3 s behind, and it writes every other second.
            let beat = at(second / 2 * 2 - 3);
            assert_eq!(watch.seen(beat, at(second), at(second)), None);
        }
    }

    #[test]
    fn a_beat_that_etcd_kept_for_long_says_nothing_of_a_clock() {
        let mut watch = ClockWatch::default();
        assert_eq!(watch.seen(at(98), at(99), at(99)), None);
        // A majority was away until now; the first look is answered before the write that waited.
        assert_eq!(watch.seen(at(98), at(115), at(115)), None);
        assert_eq!(watch.seen(at(100), at(115), at(115)), None, "a write");
        assert_eq!(watch.seen(at(101), at(115), at(115)), None, "and a beat");
        // The next leader's.
        assert_eq!(watch.seen(at(116), at(116), at(116)), None);
        for beat in [117, 118] {
            assert_eq!(watch.seen(at(beat), at(130), at(130)), None, "of the next time");
        }
    }

    #[test]
    fn a_leader_that_is_ahead_is_seen_at_once_and_one_behind_with_its_third_beat() {
        let mut ahead = ClockWatch::default();
        assert_eq!(ahead.seen(at(106), at(100), at(100)), Some(6_000_000));
        let mut behind = ClockWatch::default();
        assert_eq!(
            behind.seen(at(10), at(100), at(100)),
            None,
            "nobody knows when it was written"
        );
        assert_eq!(behind.seen(at(10), at(101), at(101)), None);
        assert_eq!(behind.seen(at(12), at(102), at(102)), None);
        assert_eq!(behind.seen(at(12), at(103), at(103)), None);
        assert_eq!(behind.seen(at(14), at(104), at(104)), None);
        assert_eq!(behind.seen(at(14), at(105), at(105)), None);
        assert_eq!(behind.seen(at(16), at(106), at(106)), Some(-89_000_000));
    }
}
