//! What the answers of a move measured: pages, times, frames.

use serde::{Deserialize, Serialize};
use transhume_model::{BitRate, Bytes, Millis, VmName, WallMicros};
use utoipa::ToSchema;

/// Pages of one class and the bytes of their bodies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ClassPages {
    /// Pages.
    pub pages: u64,
    /// Bytes.
    pub bytes: Bytes,
}

impl std::ops::Add for ClassPages {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        ClassPages {
            pages: self.pages + other.pages,
            bytes: Bytes(self.bytes.0 + other.bytes.0),
        }
    }
}

/// Pages by class (figure 2), as `docs/design/pages.md` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PageClasses {
    /// QEMU's own zero record.
    pub zero: ClassPages,
    /// One repeated byte.
    pub fill: ClassPages,
    /// The target held the content.
    pub known: ClassPages,
    /// Against the version sent before.
    pub delta: ClassPages,
    /// WKdm.
    pub wkdm: ClassPages,
    /// LZ4, in place of the paper's LZO.
    pub lz4: ClassPages,
    /// zstd, in groups.
    pub zstd: ClassPages,
    /// As it is.
    pub raw: ClassPages,
    /// LZO1X-1, where it is asked for.
    #[serde(default)]
    pub lzo: ClassPages,
}

impl PageClasses {
    /// Each class by its name.
    pub fn named(&self) -> [(&'static str, ClassPages); 9] {
        [
            ("zero", self.zero),
            ("fill", self.fill),
            ("known", self.known),
            ("delta", self.delta),
            ("wkdm", self.wkdm),
            ("lz4", self.lz4),
            ("zstd", self.zstd),
            ("raw", self.raw),
            ("lzo", self.lzo),
        ]
    }
}

impl std::ops::Add for PageClasses {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        PageClasses {
            zero: self.zero + other.zero,
            fill: self.fill + other.fill,
            known: self.known + other.known,
            delta: self.delta + other.delta,
            wkdm: self.wkdm + other.wkdm,
            lz4: self.lz4 + other.lz4,
            zstd: self.zstd + other.zstd,
            raw: self.raw + other.raw,
            lzo: self.lzo + other.lzo,
        }
    }
}

/// Bytes of QEMU's stream that went unchanged, by the reason (`docs/design/pages.md`). All others
/// went as pages of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PlainBytes {
    /// The link carried a page in less time than the codecs needed for it.
    pub fast_link: Bytes,
    /// The stream was not understood.
    pub not_understood: Bytes,
    /// How often the way changed.
    pub way_changes: u32,
}

impl PlainBytes {
    /// Each reason by its name.
    pub fn named(&self) -> [(&'static str, Bytes); 2] {
        [
            ("fast-link", self.fast_link),
            ("not-understood", self.not_understood),
        ]
    }
}

impl std::ops::Add for PlainBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        PlainBytes {
            fast_link: Bytes(self.fast_link.0 + other.fast_link.0),
            not_understood: Bytes(self.not_understood.0 + other.not_understood.0),
            way_changes: self.way_changes + other.way_changes,
        }
    }
}

/// How far a page stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PageProgress {
    /// Guest memory in all.
    pub total: Bytes,
    /// Sent by QEMU so far.
    pub transferred: Bytes,
    /// Still dirty.
    pub remaining: Bytes,
    /// Passed on to the other agent so far.
    pub wire: Bytes,
    /// How the pages went.
    #[serde(default)]
    pub classes: PageClasses,
    /// What went unchanged.
    #[serde(default)]
    pub plain: PlainBytes,
    /// Completed passes over memory.
    pub rounds: u64,
    /// Bytes of memory the guest dirties a second, as QEMU measured it last.
    pub dirty_per_second: Bytes,
    /// Predicted blackout.
    pub blackout: Millis,
}

/// What a VM's page stream may take of the links, in payload, as much as they let through where
/// absent; and how much its guest is slowed down for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRates {
    /// The VM.
    pub vm: VmName,
    /// While its guest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying: Option<BitRate>,
    /// From the catching up before the capture on, until everything is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching: Option<BitRate>,
    /// Hundredths of its processors that its guest keeps; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor_percent: Option<u8>,
}

/// The instants of step 5, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CaptureTimes {
    /// Order in hand.
    pub begun_at: WallMicros,
    /// All plugs shut.
    pub shut_at: WallMicros,
    /// All tap rings seen empty.
    pub empty_at: WallMicros,
    /// QEMU confirmed `stop`: the blackout begins.
    pub stopped_at: WallMicros,
    /// Plugs open, frames are read.
    pub capturing_at: WallMicros,
}

/// The instants of step 6 at the source, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CopyTimes {
    /// Order in hand.
    pub begun_at: WallMicros,
    /// QEMU reached pre-switchover: memory is across.
    pub pre_switchover_at: WallMicros,
    /// QEMU reported `completed`.
    pub completed_at: WallMicros,
}

/// The instants of step 8 at the target, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ActivationTimes {
    /// Order in hand.
    pub begun_at: WallMicros,
    /// QEMU confirmed `cont`: the blackout ends.
    pub running_at: WallMicros,
    /// All frames captured before the order are in the guest's ring.
    pub injected_at: WallMicros,
    /// Announced to the fabric.
    pub announced_at: WallMicros,
}

/// How the old path was seen to be empty (design §3, step 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OldPath {
    /// The announcement came back to the source: nothing older is under way.
    Marker,
    /// No marker in time: lingered instead.
    Lingered,
}

/// The source's half of a NIC's account, summed over the VM's NICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceFrames {
    /// Unicast frames captured and numbered.
    pub captured: u64,
    /// Their bytes.
    pub bytes: Bytes,
    /// Broadcast and multicast frames captured.
    pub broadcast: u64,
    /// The VM's own frames that came back and were left out.
    pub own_echo: u64,
    /// Frames the kernel dropped at this VM's taps or plugs during the switchover.
    pub dropped: u64,
    /// Frames put back into the source (abort only).
    pub put_back: u64,
    /// Frames for a guest that took none, gone without it: those that QEMU had read for it, at most
    /// two a NIC, and those that found its ring full.
    #[serde(default)]
    pub untaken: u64,
    /// Frames of others that speak with this VM's address.
    #[serde(default)]
    pub second_speaker: u64,
    /// Largest fill of the buffer.
    pub peak: Bytes,
    /// How the old path was seen to be empty; `None` on abort.
    pub old_path: Option<OldPath>,
    /// When the guest itself last sent a frame here.
    pub last_sent_at: Option<WallMicros>,
}

/// The target's half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TargetFrames {
    /// Unicast frames injected.
    pub delivered: u64,
    /// Broadcast and multicast frames injected.
    pub broadcast: u64,
    /// Numbers that arrived twice (dropped the second time).
    pub duplicated: u64,
    /// Numbers that arrived out of turn.
    pub reordered: u64,
    /// Frames that came after FIN and were injected all the same.
    pub late: u64,
    /// Frames for a guest that took none until the buffer was closed: of those injected, what waits
    /// in its ring, and what found it full.
    #[serde(default)]
    pub untaken: u64,
    /// Unicast frames not injected, since the guest took none and its ring was full.
    #[serde(default)]
    pub given_up: u64,
    /// Frames the kernel dropped at this VM's taps or plugs during the switchover.
    pub dropped: u64,
    /// Largest fill of the buffer.
    pub peak: Bytes,
    /// When the guest itself first sent a frame here.
    pub first_sent_at: Option<WallMicros>,
}
