//! What the link carries, seen from its two ends; the chooser weighs codecs against it.
//!
//! ```text
//! sender blocked?  target starved?  encoder idle?   then
//!      yes              yes              -          the link is the narrow place: its rate is what passed
//!      no               -                no         the codec is, and the link carries more: the estimate grows
//!      no               -                yes        QEMU is: the choice of codec hurts nobody
//!      yes              no               -          the target is: nothing is learned of the link
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
/// The same for the encoder that waits for QEMU.
const IDLE_EIGHTHS: u64 = 2;
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
    look: Look,
    target_waited_nanos: u64,
    unhindered_bytes: u64,
}

/// What happened since the last judgement.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    bytes: u64,
    nanos: u64,
    blocked_nanos: u64,
    idle_nanos: u64,
    starved_nanos: u64,
}

impl Default for LinkMeter {
    fn default() -> Self {
        LinkMeter {
            bytes_per_second: LINK_RATE_ASSUMED,
            look: Look::default(),
            target_waited_nanos: 0,
            unhindered_bytes: 0,
        }
    }
}

impl LinkMeter {
    /// The encoder waited `idle_nanos` for QEMU, then was busy for `nanos`, `blocked_nanos` of them waiting for the sender, and got
    /// `bytes` out. `target_waited_nanos` is what the target said last, in all. True when the estimate is new.
    pub fn sent(
        &mut self,
        bytes: u64,
        idle_nanos: u64,
        nanos: u64,
        blocked_nanos: u64,
        target_waited_nanos: u64,
    ) -> bool {
        let look = &mut self.look;
        look.bytes += bytes;
        look.nanos += nanos;
        look.idle_nanos += idle_nanos;
        look.blocked_nanos += blocked_nanos;
        look.starved_nanos += target_waited_nanos.saturating_sub(self.target_waited_nanos);
        self.target_waited_nanos = target_waited_nanos;
        if look.nanos < LOOK_NANOS_MIN || look.bytes < LOOK_BYTES_MIN {
            return false;
        }
        let look = std::mem::take(look);
        self.judge(look);
        true
    }

    fn judge(&mut self, look: Look) {
        let share = |part: u64, whole: u64, eighths: u64| part.min(whole) * 8 >= whole * eighths;
        let passed = (u128::from(look.bytes) * 1_000_000_000 / u128::from(look.nanos)) as u64;
        if !share(look.blocked_nanos, look.nanos, BLOCKED_EIGHTHS) {
            if share(look.idle_nanos, look.nanos + look.idle_nanos, IDLE_EIGHTHS) {
                return;
            }
            self.unhindered_bytes += look.bytes;
            if self.unhindered_bytes >= GROWTH_BYTES_MIN {
                let grown = self.bytes_per_second.max(passed).saturating_mul(GROWTH);
                self.bytes_per_second = grown.min(LINK_RATE_MAX);
                self.unhindered_bytes = 0;
            }
        } else if share(look.starved_nanos, look.nanos, STARVED_EIGHTHS) {
            let estimate = self.bytes_per_second.min(passed.saturating_mul(GROWTH));
            self.bytes_per_second = estimate - (estimate >> LEARN_SHIFT) + (passed >> LEARN_SHIFT);
            self.unhindered_bytes = 0;
        }
    }

    /// The sender had nothing to send: what was gathered says nothing of the link.
    pub fn idle(&mut self) {
        self.look = Look::default();
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
            assert!(meter.sent(bytes, 0, LOOK, LOOK * blocked_eighths / 8, waited));
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
    fn a_slow_qemu_says_nothing_of_the_link() {
        let mut meter = LinkMeter::default();
        for _ in 0..20 {
            assert!(meter.sent(500_000, LOOK, LOOK, 0, 0));
        }
        assert_eq!(meter.rate(), Some(LINK_RATE_ASSUMED));
    }

    #[test]
    fn too_little_is_not_judged() {
        let mut meter = LinkMeter::default();
        assert!(!meter.sent(1000, 0, LOOK * 100, LOOK * 100, 0));
        meter.idle();
        assert!(!meter.sent(10_000_000, 0, LOOK / 2, 0, 0));
        assert_eq!(meter.rate(), Some(LINK_RATE_ASSUMED));
    }
}
