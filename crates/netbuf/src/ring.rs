//! Waiting until a reader (the guest through its QEMU) has emptied a tap's ring.
//!
//! A slow guest is waited for as long as it goes on taking frames; one that takes none is stuck. The ring's own length cannot be asked for, but
//! the kernel counts what was read (drivers/net/tun.c, `tun_put_user`).

use std::time::{Duration, Instant};

use crate::error::{Error, IoContext};
use crate::limits::{EMPTY_LOOKS, RING_COUNT_PAUSE};
use crate::tap::Tap;

/// How long to wait for an empty ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The ring must be seen empty twice, so far apart.
    pub settle: Duration,
    /// Longest time in which no frame is taken, of the time in which this thread had a processor: a machine that stands still takes none.
    pub idle_max: Duration,
    /// Longest time in all.
    pub wait_max: Duration,
}

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emptied {
    Yes,
    /// Given up; so many frames were taken meanwhile.
    GivenUp {
        waited: Duration,
        taken: u64,
    },
}

/// Returns when the ring was seen empty twice in a row, or patience is over.
pub(crate) fn await_empty(tap: &mut Tap, patience: Patience) -> Result<Emptied, Error> {
    let begun = Instant::now();
    let (mut seen_empty, mut counted) = (0, None);
    while seen_empty < EMPTY_LOOKS {
        if !tap
            .readable(Duration::ZERO)
            .context(tap.name(), "look into the ring")?
        {
            seen_empty += 1;
            std::thread::sleep(patience.settle);
            continue;
        }
        seen_empty = 0;
        let counted = counted.get_or_insert_with(Counted::default);
        counted.look(tap)?;
        let now = Instant::now();
        if counted.idle > patience.idle_max || now - begun > patience.wait_max {
            return Ok(Emptied::GivenUp {
                waited: now - begun,
                taken: counted.taken(),
            });
        }
        std::thread::sleep(patience.settle);
    }
    Ok(Emptied::Yes)
}

/// What was read from a tap since waiting began.
#[derive(Default)]
struct Counted {
    first: Option<u64>,
    last: u64,
    /// Since the last frame was taken.
    idle: Duration,
    looked_at: Option<Instant>,
}

impl Counted {
    /// The kernel is asked now and then only: the first looks come microseconds apart.
    fn look(&mut self, tap: &mut Tap) -> Result<(), Error> {
        let now = Instant::now();
        let since = self.looked_at.map(|at| now - at);
        if since.is_some_and(|since| since < RING_COUNT_PAUSE) {
            return Ok(());
        }
        self.looked_at = Some(now);
        self.note(tap.taken()?, since.unwrap_or_default());
        Ok(())
    }

    /// So many frames were read so far; the last look was so long ago.
    fn note(&mut self, taken: u64, since: Duration) {
        self.first.get_or_insert(taken);
        self.idle = match taken == self.last {
            true => self.idle + since.min(2 * RING_COUNT_PAUSE),
            false => Duration::ZERO,
        };
        self.last = taken;
    }

    fn taken(&self) -> u64 {
        self.last - self.first.unwrap_or(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_stands_still_uses_up_no_patience() {
        let mut counted = Counted::default();
        counted.note(7, Duration::ZERO);
        counted.note(7, Duration::from_secs(10));
        assert!(counted.idle <= 2 * RING_COUNT_PAUSE);
        for _ in 0..10 {
            counted.note(7, RING_COUNT_PAUSE);
        }
        assert!(counted.idle >= 10 * RING_COUNT_PAUSE);
        counted.note(8, RING_COUNT_PAUSE);
        assert_eq!((counted.idle, counted.taken()), (Duration::ZERO, 1));
    }
}
