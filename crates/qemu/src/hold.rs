//! Keeping a held migration cheap by reading its stream slowly while it is idle.
//!
//! With the switchover-ack withheld QEMU looks for dirty pages without a pause, thousands of times
//! a second, and sends the same pages again and again. It stops only while its socket is full. So
//! the proxy reads an idle stream in small bites with growing pauses, and at once and in full as
//! soon as real data is waiting.
//!
//! ```text
//!            queued >= BUSY_BYTES                 queued < BUSY_BYTES
//!   busy ◀──────────────────────── any ─────────────────────────▶ idle
//!   read all, no pause                                     read a bite, pause 1, 2, 4 .. 20 ms
//! ```
//!
//! Pure: the caller says how much is queued (`FIONREAD`) and does the waiting. Figures in
//! docs/design/qemu.md.

use std::time::Duration;

/// So much queued is more than a socket full of empty iterations (277 of about 30 bytes): there are
/// pages.
const BUSY_BYTES: usize = 16 << 10;

/// Read at once from an idle stream: about two empty iterations.
const BITE_BYTES: usize = 64;

/// First pause of an idle stream; doubles up to the longest.
const PAUSE_MS_MIN: u64 = 1;

/// Longest pause; bounds how old the held copy is.
const PAUSE_MS_MAX: u64 = 20;

/// What to do next with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextRead {
    /// Wait so long before reading; zero for none.
    pub pause: Duration,
    /// Read at most so much.
    pub bytes_max: usize,
}

/// Decides before every read how to read.
#[derive(Debug, Default)]
pub struct HoldPace {
    pause_ms: u64,
    released: bool,
}

impl HoldPace {
    /// For a stream at its start. Bulk transfer is not slowed down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether everything is read at once: while a stream catches up, and when its guest has
    /// stopped.
    pub fn set_released(&mut self, released: bool) {
        self.released = released;
    }

    /// How to read next, given the bytes that wait in the socket.
    pub fn next_read(&mut self, queued_bytes: usize) -> NextRead {
        if self.released || queued_bytes >= BUSY_BYTES {
            self.pause_ms = 0;
            return NextRead {
                pause: Duration::ZERO,
                bytes_max: usize::MAX,
            };
        }
        self.pause_ms = (self.pause_ms * 2).clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
        NextRead {
            pause: Duration::from_millis(self.pause_ms),
            bytes_max: BITE_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_is_read_ever_more_slowly_and_a_busy_one_at_once() {
        let mut pace = HoldPace::new();
        let pauses: Vec<u128> = (0..7).map(|_| pace.next_read(100).pause.as_millis()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 20, 20]);
        let busy = pace.next_read(BUSY_BYTES);
        assert_eq!((busy.pause, busy.bytes_max), (Duration::ZERO, usize::MAX));
        assert_eq!(pace.next_read(0).pause.as_millis(), 1);
    }

    #[test]
    fn a_released_stream_is_never_held_back() {
        let mut pace = HoldPace::new();
        pace.set_released(true);
        assert_eq!(pace.next_read(0).bytes_max, usize::MAX);
        assert_eq!(pace.next_read(0).pause, Duration::ZERO);
    }
}
