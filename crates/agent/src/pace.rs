//! The pacing hook of a page stream: how it is read next.
//!
//! An idle stream is read slowly ([`HoldPace`]): with the switchover-ack withheld QEMU would otherwise look for dirty pages without
//! pause, and that costs a processor. Released just before the capture, it runs at full speed. The governor of the bands will set rates here.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use transhume_qemu::HoldPace;

/// Shared by the stream that obeys and the task that decides.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    released: AtomicBool,
    changed: Notify,
}

impl Pace {
    /// Lets the stream run from here on; one that sleeps wakes at once.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits as long as an idle stream should; returns how many bytes to read at most.
    pub(crate) async fn admit(&self, hold: &mut HoldPace, queued_bytes: usize) -> usize {
        if self.released.load(Ordering::Acquire) {
            hold.release();
        }
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
    use std::time::Duration;

    use super::*;

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
    }
}
