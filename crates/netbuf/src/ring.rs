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
    /// Longest time in which no frame is taken.
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
        let counted = counted.get_or_insert_with(|| Counted::new(begun));
        counted.look(tap)?;
        let now = Instant::now();
        if now - counted.moved_at > patience.idle_max || now - begun > patience.wait_max {
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
struct Counted {
    first: Option<u64>,
    last: u64,
    moved_at: Instant,
    looked_at: Option<Instant>,
}

impl Counted {
    fn new(begun: Instant) -> Self {
        Counted {
            first: None,
            last: 0,
            moved_at: begun,
            looked_at: None,
        }
    }

    /// The kernel is asked now and then only: the first looks come microseconds apart.
    fn look(&mut self, tap: &mut Tap) -> Result<(), Error> {
        let now = Instant::now();
        if self.looked_at.is_some_and(|at| now - at < RING_COUNT_PAUSE) {
            return Ok(());
        }
        self.looked_at = Some(now);
        let taken = tap.taken()?;
        if self.first.is_none() {
            self.first = Some(taken);
        } else if taken != self.last {
            self.moved_at = now;
        }
        self.last = taken;
        Ok(())
    }

    fn taken(&self) -> u64 {
        self.last - self.first.unwrap_or(self.last)
    }
}
