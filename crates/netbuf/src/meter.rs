//! What a buffer keeps and has done, for whoever looks while its thread works: three stores after
//! each batch of frames, and no lock but where it keeps a trace.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use crate::trace::{Sample, Trace};
use crate::wall;

/// Shared by a buffer's thread, which writes, and anybody who reads.
#[derive(Debug, Default)]
pub struct Meter {
    kept_bytes: AtomicU64,
    waiting_bytes: AtomicU64,
    waiting_peak_bytes: AtomicU64,
    frames: AtomicU64,
    dropped: AtomicU64,
    late_dropped: AtomicU64,
    /// Locked by the thread and, when all is over, by who writes it down.
    trace: Option<Mutex<Trace>>,
}

/// As they were read one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes kept.
    pub kept_bytes: u64,
    /// Bytes of them not passed on yet: at the source all of them while there is no tunnel.
    pub waiting_bytes: u64,
    /// The most that waited when the thread looked.
    pub waiting_peak_bytes: u64,
    /// Unicast frames: at the source captured, at the target delivered.
    pub frames: u64,
    /// Frames that the kernel's queues dropped; known when the buffer is closed.
    pub dropped: u64,
    /// At the target: frames that its lost source sent after all, behind the plug that was opened
    /// without FIN. None of them goes in.
    pub late_dropped: u64,
}

impl Meter {
    /// One that also keeps a trace, where `traced` says so.
    pub(crate) fn new(traced: bool) -> Self {
        Self {
            trace: traced.then(Mutex::default),
            ..Self::default()
        }
    }

    /// What it says now.
    pub fn read(&self) -> Figures {
        Figures {
            kept_bytes: self.kept_bytes.load(Relaxed),
            waiting_bytes: self.waiting_bytes.load(Relaxed),
            waiting_peak_bytes: self.waiting_peak_bytes.load(Relaxed),
            frames: self.frames.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            late_dropped: self.late_dropped.load(Relaxed),
        }
    }

    pub(crate) fn tell(&self, kept_bytes: usize, waiting_bytes: usize, frames: u64) {
        self.kept_bytes.store(kept_bytes as u64, Relaxed);
        self.waiting_bytes.store(waiting_bytes as u64, Relaxed);
        self.waiting_peak_bytes.fetch_max(waiting_bytes as u64, Relaxed);
        self.frames.store(frames, Relaxed);
        self.add_to_trace(kept_bytes as u64, waiting_bytes as u64, frames);
    }

    pub(crate) fn tell_late_dropped(&self, frames: u64) {
        self.late_dropped.store(frames, Relaxed);
    }

    fn add_to_trace(&self, kept_bytes: u64, waiting_bytes: u64, frames: u64) {
        if let Some(trace) = &self.trace {
            // A trace whose holder panicked is a trace all the same.
            trace.lock().unwrap_or_else(PoisonError::into_inner).add(Sample {
                at: wall(),
                waiting_bytes,
                kept_bytes,
                frames,
            });
        }
    }

    /// What it held over time; `None` where no trace is kept.
    pub fn trace(&self) -> Option<Vec<Sample>> {
        let trace = self.trace.as_ref()?;
        Some(trace.lock().unwrap_or_else(PoisonError::into_inner).samples())
    }

    pub(crate) fn close(&self, dropped: u64) {
        self.dropped.store(dropped, Relaxed);
        // What a closed buffer kept is of no more use; the figures go on saying what it was.
        self.add_to_trace(0, 0, self.frames.load(Relaxed));
    }
}

impl std::ops::Add for Figures {
    type Output = Self;

    /// Of several NICs; a peak of sums is at most the sum of the peaks.
    fn add(self, other: Self) -> Self {
        Figures {
            kept_bytes: self.kept_bytes + other.kept_bytes,
            waiting_bytes: self.waiting_bytes + other.waiting_bytes,
            waiting_peak_bytes: self.waiting_peak_bytes + other.waiting_peak_bytes,
            frames: self.frames + other.frames,
            dropped: self.dropped + other.dropped,
            late_dropped: self.late_dropped + other.late_dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_stays_when_what_waited_is_passed_on() {
        let meter = Meter::default();
        meter.tell(100, 100, 1);
        meter.tell(150, 0, 2);
        meter.close(3);
        let read = meter.read();
        assert_eq!((read.kept_bytes, read.waiting_bytes), (150, 0));
        assert_eq!((read.waiting_peak_bytes, read.frames, read.dropped), (100, 2, 3));
        assert_eq!((read + read).frames, 4);
        assert_eq!(meter.trace(), None);
    }

    #[test]
    fn a_traced_one_knows_what_it_held_before() {
        let meter = Meter::new(true);
        meter.tell(100, 100, 1);
        meter.tell(150, 0, 2);
        meter.close(0);
        let held: Vec<(u64, u64)> = meter
            .trace()
            .unwrap()
            .iter()
            .map(|sample| (sample.waiting_bytes, sample.kept_bytes))
            .collect();
        assert_eq!(
            held,
            [(100, 100), (0, 150), (0, 0)],
            "nothing is kept once it is closed"
        );
    }
}
