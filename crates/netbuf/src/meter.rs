//! What a buffer keeps and has done, for whoever looks while its thread works: three stores after
//! each batch of frames, and no lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Shared by a buffer's thread, which writes, and anybody who reads.
#[derive(Debug, Default)]
pub struct Meter {
    kept_bytes: AtomicU64,
    waiting_bytes: AtomicU64,
    waiting_peak_bytes: AtomicU64,
    frames: AtomicU64,
    dropped: AtomicU64,
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
}

impl Meter {
    /// What it says now.
    pub fn read(&self) -> Figures {
        Figures {
            kept_bytes: self.kept_bytes.load(Relaxed),
            waiting_bytes: self.waiting_bytes.load(Relaxed),
            waiting_peak_bytes: self.waiting_peak_bytes.load(Relaxed),
            frames: self.frames.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }

    pub(crate) fn tell(&self, kept_bytes: usize, waiting_bytes: usize, frames: u64) {
        self.kept_bytes.store(kept_bytes as u64, Relaxed);
        self.waiting_bytes.store(waiting_bytes as u64, Relaxed);
        self.waiting_peak_bytes.fetch_max(waiting_bytes as u64, Relaxed);
        self.frames.store(frames, Relaxed);
    }

    pub(crate) fn close(&self, dropped: u64) {
        self.dropped.store(dropped, Relaxed);
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
    }
}
