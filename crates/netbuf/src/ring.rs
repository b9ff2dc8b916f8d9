//! Looking how a tap's ring is emptied by its reader: the guest through its QEMU.
//!
//! A slow guest is waited for as long as it goes on taking frames; one that takes none is deaf. The
//! ring's own length cannot be asked for, but the kernel counts what was read (drivers/net/tun.c,
//! `tun_put_user`).

use std::time::{Duration, Instant};

use crate::error::{Error, IoContext};
use crate::limits::{EMPTY_LOOKS, PROBE_IDLE_MAX, PROBE_PAUSE, RING_COUNT_PAUSE, UNTAKEN_LOOK};
use crate::tap::Tap;

/// QEMU reads so many frames for a guest that takes none: it must read one more to count as taking.
const READ_FOR_NOBODY_MAX: u64 = 1;
/// Twice the longest pause between two looks.
const STEP_MAX: Duration = Duration::from_millis(40);

/// How long to wait for an empty ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitLimits {
    /// The ring must be seen empty twice, so far apart.
    pub pause: Duration,
    /// Longest time in which no frame is taken.
    pub idle_max: Duration,
    /// Longest time in all.
    pub wait_max: Duration,
}

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emptied {
    Yes,
    NotInTime,
}

/// Time in which nothing happened, without that in which this thread was preempted or its host
/// stalled: no step between two looks counts for more than [`STEP_MAX`].
#[derive(Debug, Default)]
pub(crate) struct IdleClock {
    idle: Duration,
    looked_at: Option<Instant>,
}

impl IdleClock {
    /// At `now` there was progress, or there was none; how long there has been none.
    pub(crate) fn look(&mut self, now: Instant, progress: bool) -> Duration {
        let since = self.looked_at.map_or(Duration::ZERO, |at| now - at);
        self.looked_at = Some(now);
        self.idle = match progress {
            true => Duration::ZERO,
            false => self.idle + since.min(STEP_MAX),
        };
        self.idle
    }
}

/// Asks a running guest's QEMU whether it takes frames, by `dummy`, which puts one into the ring.
/// Returns when it has, or when it has taken none for [`PROBE_IDLE_MAX`].
pub(crate) fn takes_frames(
    tap: &mut Tap,
    mut dummy: impl FnMut() -> Result<(), Error>,
) -> Result<bool, Error> {
    let before = tap.taken()?;
    let (mut clock, mut seen, mut asked) = (IdleClock::default(), before, false);
    loop {
        if !tap
            .readable(Duration::ZERO)
            .context(tap.name(), "look into the ring")?
        {
            if asked {
                return Ok(true);
            }
            asked = true;
            for _ in 0..=READ_FOR_NOBODY_MAX {
                dummy()?;
            }
        }
        let taken = tap.taken()?;
        if taken > before + READ_FOR_NOBODY_MAX {
            return Ok(true);
        }
        if clock.look(Instant::now(), taken != seen) > PROBE_IDLE_MAX {
            return Ok(false);
        }
        seen = taken;
        std::thread::sleep(PROBE_PAUSE);
    }
}

/// Whether the ring is empty, or one of its frames is taken before none has been for `idle_max`.
fn is_emptied(tap: &mut Tap, idle_max: Duration) -> Result<bool, Error> {
    let (mut clock, before) = (IdleClock::default(), tap.taken()?);
    loop {
        let waiting = tap
            .readable(Duration::ZERO)
            .context(tap.name(), "look into the ring")?;
        if !waiting || tap.taken()? != before {
            return Ok(true);
        }
        if clock.look(Instant::now(), false) > idle_max {
            return Ok(false);
        }
        std::thread::sleep(PROBE_PAUSE);
    }
}

/// Whether frames are in the ring and the guest takes none of them. A tap that is down or gone has
/// no ring to look into.
pub(crate) fn is_left_untaken(tap: &mut Tap) -> bool {
    matches!(is_emptied(tap, UNTAKEN_LOOK), Ok(false))
}

/// Returns when the ring was seen empty twice in a row, or the wait is over.
pub(crate) fn await_empty(tap: &mut Tap, limits: WaitLimits) -> Result<Emptied, Error> {
    let begun = Instant::now();
    let (mut seen_empty, mut counted) = (0, None);
    while seen_empty < EMPTY_LOOKS {
        if !tap
            .readable(Duration::ZERO)
            .context(tap.name(), "look into the ring")?
        {
            seen_empty += 1;
            std::thread::sleep(limits.pause);
            continue;
        }
        seen_empty = 0;
        let counted = counted.get_or_insert_with(Counted::default);
        let now = Instant::now();
        if counted.look(tap, now)? > limits.idle_max || now - begun > limits.wait_max {
            return Ok(Emptied::NotInTime);
        }
        std::thread::sleep(limits.pause);
    }
    Ok(Emptied::Yes)
}

/// What was read from a tap, as of the last look.
#[derive(Default)]
struct Counted {
    taken: u64,
    idle: Duration,
    clock: IdleClock,
    looked_at: Option<Instant>,
}

impl Counted {
    /// How long none was taken. The kernel is asked now and then only: the first looks come
    /// microseconds apart.
    fn look(&mut self, tap: &mut Tap, now: Instant) -> Result<Duration, Error> {
        if self.looked_at.is_none_or(|at| now - at >= RING_COUNT_PAUSE) {
            self.looked_at = Some(now);
            let taken = tap.taken()?;
            self.idle = self.clock.look(now, taken != self.taken);
            self.taken = taken;
        }
        Ok(self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_host_uses_up_no_wait() {
        let mut clock = IdleClock::default();
        let mut now = Instant::now();
        clock.look(now, true);
        now += Duration::from_secs(10);
        assert!(clock.look(now, false) <= STEP_MAX);
        for _ in 0..10 {
            now += RING_COUNT_PAUSE;
            clock.look(now, false);
        }
        assert!(clock.look(now, false) >= 10 * RING_COUNT_PAUSE);
        assert_eq!(clock.look(now, true), Duration::ZERO);
    }
}
