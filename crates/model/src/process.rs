//! Which process a record speaks of.

use serde::{Deserialize, Serialize};

/// One process, for good: number, start time and boot together never repeat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process number.
    pub pid: u32,
    /// Start time in clock ticks since boot, from `/proc/PID/stat`.
    pub start_ticks: u64,
    /// The boot it belongs to, from `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}
