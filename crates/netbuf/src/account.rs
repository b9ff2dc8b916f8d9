//! The account of frames: what was taken from the source's tap, what reached the target's guest.
//!
//! Both halves are kept apart and made by different means, so that they can disagree: the source
//! counts what it read, the target what it injected, both ask the kernel what its queues dropped.

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
    /// Frames from one of the VM's addresses that came while it ran nowhere, without announcements:
    /// somebody else uses the address, or the fabric sends frames back.
    pub second_speaker: u64,
    /// Frames dropped by the tap or its plug since the buffer was opened, and what came after the
    /// old path had closed; without those for a guest that takes none: its ring was full.
    pub dropped: u64,
    /// Frames that QEMU read for a guest that did not take them, and threw away when it stopped or
    /// ended. An upper bound: what QEMU holds cannot be seen. 0 where the guest took what it was
    /// sent. Where it did not, QEMU had read at most one frame for it, which may have been one of
    /// ours: 1. A second one where QEMU did not take in time the frame of ours that it was to hold
    /// after its stop. After an abort such frames may have reached the guest all the same. Besides
    /// them, what found the ring of such a guest full: none of it would have got further without
    /// the move.
    pub untaken: u64,
    /// Unicast frames put back into the source.
    pub put_back: u64,
    /// Unicast frames that were to be put back and were not: the guest's ring was full and it took
    /// none.
    pub undelivered: u64,
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
    /// Frames dropped by the tap or its plug since the buffer was opened, without those that were
    /// tried again, and without those for a guest that takes none: its ring was full.
    pub dropped: u64,
    /// Of the frames injected, those that waited in the tap's ring when the buffer was closed, for
    /// a guest that took none when it was looked at. Known from the kernel's count of what QEMU
    /// read; one more may be with QEMU. They are not lost: a guest that takes frames again gets
    /// them. Besides them, what came by the new path and found the ring full: the plug's own frame
    /// among it.
    pub untaken: u64,
    /// Unicast frames given up: the ring was full and the guest took none.
    pub undelivered: u64,
    /// Unicast frames that the kernel did not let into the ring, for what they say of themselves.
    pub unfit: u64,
    /// Largest fill of the spool, bytes.
    pub peak_bytes: u64,
    /// When the guest first sent a frame here, microseconds since 1970.
    pub first_sent_us: Option<u64>,
}
