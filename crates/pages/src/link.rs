//! What the link carries, seen from its two ends; the chooser weighs codecs against it.
//!
//! ```text
//! sender blocked?  target starved?   then
//!      yes              yes          the link is the narrow place: its rate is what passed
//!      no               -            it carries more than was offered: the estimate grows
//!      yes              no           the target is the narrow place: nothing is learned of the link
//! ```
//!
//! Pure: times are fed in. A rate past [`LINK_RATE_MAX`] counts as unlimited.

/// Above this no codec can help: 4 GB/s.
pub const LINK_RATE_MAX: u64 = 4_000_000_000;
/// What a link is taken for before anything is known: 1 Gbit/s.
pub const LINK_RATE_ASSUMED: u64 = 125_000_000;
/// A shorter look says nothing.
const LOOK_NANOS_MIN: u64 = 20_000_000;
/// Nor does one at fewer bytes.
const LOOK_BYTES_MIN: u64 = 256 << 10;
/// Share of the time, in 1/8, from which an end counts as blocked or starved.
const BLOCKED_EIGHTHS: u64 = 4;
const STARVED_EIGHTHS: u64 = 2;
/// What must pass unhindered before the estimate grows: more than the buffers on the way swallow.
const GROWTH_BYTES_MIN: u64 = 2 << 20;
/// By so much.
const GROWTH: u64 = 4;
/// Weight of a new measurement of a full link: 1/2.
const LEARN_SHIFT: u32 = 1;

/// Estimates one link's rate.
#[derive(Clone, Debug)]
pub struct LinkMeter {
    bytes_per_second: u64,
    bytes: u64,
    nanos: u64,
    blocked_nanos: u64,
    starved_nanos: u64,
    target_waited_nanos: u64,
    unhindered_bytes: u64,
}

impl Default for LinkMeter {
    fn default() -> Self {
        LinkMeter {
            bytes_per_second: LINK_RATE_ASSUMED,
            bytes: 0,
            nanos: 0,
            blocked_nanos: 0,
            starved_nanos: 0,
            target_waited_nanos: 0,
            unhindered_bytes: 0,
        }
    }
}

impl LinkMeter {
    /// The sender was busy for `nanos`, `blocked_nanos` of them waiting for the socket, and got `bytes` out.
    /// `target_waited_nanos` is what the target said last, in all. True when the estimate is new.
    pub fn sent(&mut self, bytes: u64, nanos: u64, blocked_nanos: u64, target_waited_nanos: u64) -> bool {
        self.bytes += bytes;
        self.nanos += nanos;
        self.blocked_nanos += blocked_nanos;
        self.starved_nanos += target_waited_nanos.saturating_sub(self.target_waited_nanos);
        self.target_waited_nanos = target_waited_nanos;
        if self.nanos < LOOK_NANOS_MIN || self.bytes < LOOK_BYTES_MIN {
            return false;
        }
        let passed = (u128::from(self.bytes) * 1_000_000_000 / u128::from(self.nanos)) as u64;
        let (blocked, starved) = (self.blocked_nanos, self.starved_nanos.min(self.nanos));
        if blocked * 8 < self.nanos * BLOCKED_EIGHTHS {
            self.unhindered_bytes += self.bytes;
            if self.unhindered_bytes >= GROWTH_BYTES_MIN {
                let grown = self.bytes_per_second.max(passed).saturating_mul(GROWTH);
                self.bytes_per_second = grown.min(LINK_RATE_MAX);
                self.unhindered_bytes = 0;
            }
        } else if starved * 8 >= self.nanos * STARVED_EIGHTHS {
            let estimate = self.bytes_per_second;
            self.bytes_per_second = estimate - (estimate >> LEARN_SHIFT) + (passed >> LEARN_SHIFT);
            self.unhindered_bytes = 0;
        }
        (self.bytes, self.nanos, self.blocked_nanos, self.starved_nanos) = (0, 0, 0, 0);
        true
    }

    /// The sender had nothing to send: what was gathered says nothing of the link.
    pub fn idle(&mut self) {
        (self.bytes, self.nanos, self.blocked_nanos, self.starved_nanos) = (0, 0, 0, 0);
    }

    /// Bytes per second; None: not limited.
    pub fn rate(&self) -> Option<u64> {
        (self.bytes_per_second < LINK_RATE_MAX).then_some(self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: u64 = LOOK_NANOS_MIN;

    /// Looks of 20 ms; the target waited `starved` eighths of them.
    fn looks(meter: &mut LinkMeter, count: u64, bytes: u64, blocked_eighths: u64, starved_eighths: u64) {
        for _ in 0..count {
            let waited = meter.target_waited_nanos + LOOK * starved_eighths / 8;
            assert!(meter.sent(bytes, LOOK, LOOK * blocked_eighths / 8, waited));
        }
    }

    #[test]
    fn a_full_link_is_learned_from_what_passes() {
        let mut meter = LinkMeter::default();
        looks(&mut meter, 12, 500_000, 7, 6);
        let rate = meter.rate().unwrap();
        assert!((24_000_000..27_000_000).contains(&rate), "{rate}");
    }

    #[test]
    fn a_link_that_never_blocks_becomes_unlimited() {
        let mut meter = LinkMeter::default();
        looks(&mut meter, 3, 500_000, 0, 8);
        assert_eq!(
            meter.rate(),
            Some(LINK_RATE_ASSUMED),
            "buffers may have swallowed it"
        );
        looks(&mut meter, 20, 500_000, 0, 8);
        assert_eq!(meter.rate(), None);
    }

    #[test]
    fn a_busy_target_says_nothing_of_the_link() {
        let mut meter = LinkMeter::default();
        looks(&mut meter, 20, 500_000, 0, 8);
        looks(&mut meter, 20, 500_000, 8, 0);
        assert_eq!(meter.rate(), None);
    }

    #[test]
    fn too_little_is_not_judged() {
        let mut meter = LinkMeter::default();
        assert!(!meter.sent(1000, LOOK * 100, LOOK * 100, 0));
        meter.idle();
        assert!(!meter.sent(10_000_000, LOOK / 2, 0, 0));
        assert_eq!(meter.rate(), Some(LINK_RATE_ASSUMED));
    }
}
