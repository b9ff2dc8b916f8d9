//! The pacing hook of a page stream: how it is read next, and how fast it is sent.
//!
//! An idle stream is read slowly ([`HoldPace`]): with the switchover-ack withheld QEMU would
//! otherwise look for dirty pages without pause, and that costs a processor and QEMU's big lock.
//! Released for the catching up before the capture, and once the guest has stopped, it runs at full
//! speed, or at the rate that was set: the governor of the bands will do so.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use transhume_qemu::HoldPace;

/// Shared by the stream that obeys and the task that decides.
#[derive(Debug, Default)]
pub struct Pace {
    released: AtomicBool,
    /// 0: as fast as the link takes it.
    bytes_per_second: AtomicU64,
    changed: Notify,
}

/// How much a stream may be behind its rate and make up for: a few of the largest frames.
const BEHIND_MAX: Duration = Duration::from_millis(20);

impl Pace {
    /// Lets the stream run from here on; one that sleeps wakes at once.
    pub fn release(&self) {
        self.released.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Reads the stream slowly again while it is idle.
    pub fn hold(&self) {
        self.released.store(false, Ordering::Release);
    }

    /// Sets the stream's rate on the wire; `None` leaves it to the link.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second
            .store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// The rate that was set, bytes per second.
    pub(crate) fn rate(&self) -> Option<u64> {
        match self.bytes_per_second.load(Ordering::Relaxed) {
            0 => None,
            rate => Some(rate),
        }
    }

    /// Waits until so many bytes may go; `due` is kept between calls.
    pub(crate) async fn space(&self, bytes: usize, due: &mut Instant) {
        let Some(rate) = self.rate() else {
            return;
        };
        let now = Instant::now();
        let from = (*due).max(now.checked_sub(BEHIND_MAX).unwrap_or(now));
        tokio::time::sleep_until(from).await;
        *due = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
    }

    /// Waits as long as an idle stream should; returns how many bytes to read at most.
    pub(crate) async fn admit(&self, hold: &mut HoldPace, queued_bytes: usize) -> usize {
        hold.set_released(self.released.load(Ordering::Acquire));
        let next = hold.next_read(queued_bytes);
        if !next.pause.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(next.pause) => {}
                () = self.changed.notified() => {}
            }
        }
        next.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_spaces_what_is_sent_and_can_be_taken_away() {
        let pace = Pace::default();
        pace.set_rate(Some(1_000_000));
        let (begun, mut due) = (Instant::now(), Instant::now());
        for _ in 0..11 {
            pace.space(100_000, &mut due).await;
        }
        assert_eq!(begun.elapsed().as_millis(), 1000);
        pace.set_rate(None);
        pace.space(100_000_000, &mut due).await;
        assert_eq!(begun.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn release_wakes_an_idle_stream() {
        let pace = Arc::new(Pace::default());
        let mut hold = HoldPace::new();
        for _ in 0..10 {
            pace.admit(&mut hold, 0).await;
        }
        let begun = tokio::time::Instant::now();
        pace.release();
        pace.admit(&mut hold, 0).await;
        assert_eq!(pace.admit(&mut hold, 0).await, usize::MAX);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        pace.hold();
        // The first may still be woken by that release.
        pace.admit(&mut hold, 0).await;
        pace.admit(&mut hold, 0).await;
        assert!(begun.elapsed() > Duration::ZERO);
    }
}
