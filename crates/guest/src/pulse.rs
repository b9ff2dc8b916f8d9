//! A process that sleeps a moment at a time, and notes when it was woken late: what a program in
//! this guest notices of the machine below it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use transhume_guest::wire::{PulseStats, Stall};

use crate::mesh;

/// Each sleep.
const SLEEP: Duration = Duration::from_millis(5);
/// Shorter oversleeps are a tick of the guest's clock.
pub const STALL_MIN: Duration = Duration::from_millis(5);
/// More are not kept.
pub const STALLS_MAX: usize = 4_000;

/// Under way until it is ended.
pub struct Pulse {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<PulseStats>,
}

impl Pulse {
    pub fn start() -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let thread = thread::spawn(move || {
            let mut stats = PulseStats::default();
            let mut before = mesh::now();
            while !told.load(Ordering::Relaxed) {
                thread::sleep(SLEEP);
                let now = mesh::now();
                stats.note(before + SLEEP, now);
                before = now;
            }
            stats
        });
        Pulse { enough, thread }
    }

    /// Ends it; what it noted.
    pub fn end(self) -> PulseStats {
        self.enough.store(true, Ordering::Relaxed);
        // A thread that panicked noted nothing: the figures say so.
        self.thread.join().unwrap_or_default()
    }
}

trait Note {
    fn note(&mut self, due: Duration, woken: Duration);
}

impl Note for PulseStats {
    fn note(&mut self, due: Duration, woken: Duration) {
        self.wakes += 1;
        let late = woken.saturating_sub(due);
        if late >= STALL_MIN && self.stalls.len() < STALLS_MAX {
            self.stalls.push(Stall {
                at_us: due.as_micros() as u64,
                micros: late.as_micros() as u64,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_by_less_than_a_tick_is_not_noted() {
        let mut stats = PulseStats::default();
        let at = Duration::from_millis;
        stats.note(at(5), at(5));
        stats.note(at(10), at(14));
        stats.note(at(19), at(60));
        let stall = Stall {
            at_us: 19_000,
            micros: 41_000,
        };
        assert_eq!((stats.wakes, stats.stalls), (3, vec![stall]));
    }
}
