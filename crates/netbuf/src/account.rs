//! The account of frames: what was taken from the source's tap, what reached the target's guest.
//!
//! Both halves are kept apart and made by different means, so that they can disagree: the source counts what it read, the target what it
//! injected, both ask the kernel what its queues dropped.

use serde::{Deserialize, Serialize};

/// How the old path was seen to be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OldPath {
    /// The target's announcement came back to the source, behind everything older.
    Marker,
    /// None came in time: lingered.
    Lingered,
}

/// The source's half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceAccount {
    /// Unicast frames captured.
    pub captured: u64,
    /// Broadcast and multicast frames captured.
    pub broadcast: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// The VM's own frames left out.
    pub own_echo: u64,
    /// Frames dropped by the tap or its plug since the buffer was opened, and what came after the old path had closed.
    pub dropped: u64,
    /// Unicast frames put back into the source.
    pub put_back: u64,
    /// Largest fill of the spool, bytes.
    pub peak_bytes: u64,
    /// How the old path was seen to be empty.
    pub old_path: Option<OldPath>,
    /// When the guest last sent a frame here, microseconds since 1970.
    pub last_sent_us: Option<u64>,
}

/// The target's half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TargetAccount {
    /// Unicast frames injected.
    pub delivered: u64,
    /// Broadcast and multicast frames injected.
    pub broadcast: u64,
    /// Records that came twice, not injected again.
    pub duplicated: u64,
    /// Records out of turn.
    pub reordered: u64,
    /// Frames injected after FIN.
    pub late: u64,
    /// Frames dropped by the tap or its plug since the buffer was opened, without those that were tried again.
    pub dropped: u64,
    /// Largest fill of the spool, bytes.
    pub peak_bytes: u64,
    /// When the guest first sent a frame here, microseconds since 1970.
    pub first_sent_us: Option<u64>,
}
