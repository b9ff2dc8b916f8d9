//! How often records were written, and how long that took.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::StoreError;

/// Counts since the agent started.
#[derive(Debug, Default)]
pub(crate) struct WriteMeter {
    writes: AtomicU64,
    failures: AtomicU64,
    nanoseconds: AtomicU64,
}

/// As they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writes {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) took: Duration,
}

impl WriteMeter {
    pub(super) fn count(&self, write: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let begun = Instant::now();
        let written = write();
        let took = begun.elapsed().as_nanos() as u64;
        self.nanoseconds.fetch_add(took, Relaxed);
        let count = match &written {
            Ok(()) => &self.writes,
            Err(_) => &self.failures,
        };
        count.fetch_add(1, Relaxed);
        written
    }

    pub(crate) fn read(&self) -> Writes {
        Writes {
            done: self.writes.load(Relaxed),
            failed: self.failures.load(Relaxed),
            took: Duration::from_nanos(self.nanoseconds.load(Relaxed)),
        }
    }
}
