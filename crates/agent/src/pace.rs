//! The pacing hook of a page stream: how it is read next, and how fast it is sent.
//!
//! From QEMU's second pass on an idle stream is read slowly ([`HoldPace`]): with the switchover-ack
//! withheld QEMU would otherwise look for dirty pages without pause, and that costs a processor and
//! QEMU's big lock. Released for the catching up before the capture, and once the guest has
//! stopped, it is read without a pause. The governor's rates are for what is sent: one while the
//! guest runs, one from the release on, so that no order is waited for in the blackout.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use transhume_model::BitRate;
use transhume_qemu::{HoldPace, NextRead};

/// Shared by the stream that obeys and the task that decides.
#[derive(Debug, Default)]
pub struct Pace {
    set: watch::Sender<Set>,
    processor: watch::Sender<Option<u8>>,
    released: Notify,
}

/// What holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Set {
    /// It was, in this stream: little is left for its guest's stop.
    held: bool,
    /// It was released since: the stop has begun, also while it is held once more.
    hurries: bool,
    released: bool,
    copying: Option<BitRate>,
    switching: Option<BitRate>,
}

impl Set {
    fn rate(&self) -> Option<BitRate> {
        if self.released {
            self.switching
        } else {
            self.copying
        }
    }
}

/// How much a stream may be behind its rate and make up for: a few of the largest frames.
const BEHIND_MAX: Duration = Duration::from_millis(20);

/// What a stream has sent ahead of its rate. Paid off at whatever the rate is.
#[derive(Debug)]
pub(crate) struct Debt {
    bytes: f64,
    rate: Option<f64>,
    since: Instant,
}

impl Debt {
    /// Nothing yet.
    pub(crate) fn none() -> Self {
        Self {
            bytes: 0.0,
            rate: None,
            since: Instant::now(),
        }
    }

    /// Pays off at the rate that held until now, then goes on at another.
    fn settle(&mut self, rate: Option<BitRate>) {
        let now = Instant::now();
        let passed = now.duration_since(self.since).as_secs_f64();
        self.bytes = match self.rate {
            Some(held) => (self.bytes - held * passed).max(-held * BEHIND_MAX.as_secs_f64()),
            None => 0.0,
        };
        (self.rate, self.since) = (rate.map(|rate| rate.bytes_per_s() as f64), now);
    }
}

impl Pace {
    /// A new stream begins, neither held nor released: nothing of an earlier one holds.
    pub fn begin(&self) {
        self.set
            .send_modify(|set| (set.held, set.hurries, set.released) = (false, false, false));
    }

    /// Lets the stream run from here on; one that sleeps wakes at once.
    pub fn release(&self) {
        self.set
            .send_modify(|set| (set.released, set.hurries) = (true, set.held));
        self.released.notify_one();
    }

    /// Reads the stream slowly again while it is idle.
    pub fn hold(&self) {
        self.set
            .send_modify(|set| (set.held, set.released) = (true, false));
    }

    /// Sets the stream's rates on the wire, while its guest runs and from the release on; `None`
    /// leaves it to the link. One that waits for its turn waits no longer than the new rate asks.
    pub fn set_rates(&self, copying: Option<BitRate>, switching: Option<BitRate>) {
        self.set
            .send_modify(|set| (set.copying, set.switching) = (copying, switching));
    }

    /// Hundredths of its processors that the guest keeps while its memory is copied; `None` for
    /// all.
    pub fn set_processor(&self, percent: Option<u8>) {
        self.processor
            .send_if_modified(|set| std::mem::replace(set, percent) != percent);
    }

    /// What [`Pace::set_processor`] says from now on.
    pub(crate) fn processor_changes(&self) -> watch::Receiver<Option<u8>> {
        self.processor.subscribe()
    }

    /// The rate that holds now, bytes per second.
    pub(crate) fn rate(&self) -> Option<u64> {
        Some(self.set.borrow().rate()?.bytes_per_s())
    }

    /// Whether a guest stands still until the rest is there, or is about to; not while a whole
    /// memory is copied behind its stop.
    pub(crate) fn hurries(&self) -> bool {
        self.set.borrow().hurries
    }

    /// Whether little is left for its guest's stop, or was.
    pub(crate) fn was_held(&self) -> bool {
        self.set.borrow().held
    }

    /// Waits until so many bytes may go; `debt` is kept between calls.
    pub(crate) async fn space(&self, bytes: usize, debt: &mut Debt) {
        let mut changes = self.set.subscribe();
        loop {
            let rate = changes.borrow_and_update().rate();
            debt.settle(rate);
            match debt.rate {
                Some(rate) if debt.bytes > 0.0 => {
                    let wait = Duration::from_secs_f64(debt.bytes / rate.max(1.0));
                    // The sender of changes is this pace.
                    let _ = tokio::time::timeout(wait, changes.changed()).await;
                }
                Some(_) | None => break,
            }
        }
        debt.bytes += bytes as f64;
    }

    /// How to read next, given the bytes that wait in QEMU's socket. In its first pass QEMU is
    /// never left waiting. A gap in what it writes then is no idleness; and one that is through
    /// with it in less than 100 ms, and has not measured its bandwidth yet
    /// (`migration_update_counters`, QEMU's migration/migration.c), writes empty iterations until
    /// it has: it would be stuck behind a full socket for a second.
    pub(crate) fn next_read(&self, hold: &mut HoldPace, queued_bytes: usize) -> NextRead {
        let set = *self.set.borrow();
        hold.set_released(set.released || !set.held);
        hold.next_read(queued_bytes)
    }

    /// Waits for the end of an idle stream's pause; a release ends it too.
    pub(crate) async fn pause(&self, end: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = self.released.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn mbit(rate: u64) -> Option<BitRate> {
        BitRate::from_bits_per_s(rate * 1_000_000)
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_spaces_what_is_sent_and_can_be_taken_away() {
        let pace = Pace::default();
        pace.set_rates(mbit(8), None);
        let (begun, mut debt) = (Instant::now(), Debt::none());
        for _ in 0..11 {
            pace.space(100_000, &mut debt).await;
        }
        assert_eq!(begun.elapsed().as_millis(), 1000);
        pace.set_rates(None, None);
        pace.space(100_000_000, &mut debt).await;
        assert_eq!(begun.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn from_the_release_on_the_other_rate_holds_also_for_what_is_waited_for() {
        let pace = Arc::new(Pace::default());
        pace.set_rates(mbit(1), mbit(100));
        let (begun, mut debt) = (Instant::now(), Debt::none());
        pace.space(1_250_000, &mut debt).await;
        let waiting = {
            let pace = pace.clone();
            tokio::spawn(async move {
                pace.space(1, &mut debt).await;
                begun.elapsed().as_millis()
            })
        };
        // Of ten seconds' worth a tenth is paid off, the rest goes a hundred times faster.
        tokio::time::sleep(Duration::from_secs(1)).await;
        pace.release();
        assert!((1_085..=1_095).contains(&waiting.await.unwrap()));
    }

    #[test]
    fn only_a_stream_that_was_held_hurries_when_it_is_released() {
        let pace = Pace::default();
        // Offline: the whole memory goes behind the stop.
        pace.release();
        assert!(!pace.hurries());
        pace.begin();
        pace.hold();
        assert!(!pace.hurries());
        pace.release();
        assert!(pace.hurries());
        pace.hold();
        assert!(pace.hurries(), "while its guest empties its ring");
        pace.begin();
        assert!(!pace.hurries());
    }

    /// Found in labs whose memory was sent in less than 100 ms: one move in 20 stood still for a
    /// second, with four guests for three.
    #[test]
    fn a_first_pass_is_never_read_slowly() {
        let (pace, mut hold) = (Pace::default(), HoldPace::new());
        for _ in 0..10 {
            let next = pace.next_read(&mut hold, 64);
            assert_eq!((next.pause, next.bytes_max), (Duration::ZERO, usize::MAX));
        }
        pace.hold();
        assert!(!pace.next_read(&mut hold, 64).pause.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn release_wakes_an_idle_stream() {
        let pace = Arc::new(Pace::default());
        pace.hold();
        let mut hold = HoldPace::new();
        let read = async |hold: &mut HoldPace| {
            let next = pace.next_read(hold, 0);
            if !next.pause.is_zero() {
                pace.pause(Instant::now() + next.pause).await;
            }
            next.bytes_max
        };
        for _ in 0..10 {
            read(&mut hold).await;
        }
        let begun = Instant::now();
        pace.release();
        assert_eq!(read(&mut hold).await, usize::MAX);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        pace.hold();
        // The first may still be woken by that release.
        read(&mut hold).await;
        read(&mut hold).await;
        assert!(begun.elapsed() > Duration::ZERO);
    }
}
