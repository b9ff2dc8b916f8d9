//! The report of a migration: what was promised, what was measured, and the proof that no frame was
//! lost.

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, HostName, MigrationId, VmName, WallMicros};
use utoipa::ToSchema;

use crate::forecast::{Comparison, VmComparison};
use crate::message::{GuestState, Mode, OldPath, OrderKind, PageProgress};
use crate::step::{Phase, Step};

/// How a migration ended, or that it has not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Still under way.
    Running,
    /// Every batch committed, and every VM runs as it did.
    Committed,
    /// Every batch committed, but a VM is lost: it has to be started again.
    CommittedWithLoss,
    /// The first batch rolled back: nothing moved.
    RolledBack,
    /// Some batches committed, a later one rolled back.
    PartlyCommitted,
    /// Refused before anything was touched.
    Refused,
}

impl Ending {
    /// All ways in which a move that is over can have ended.
    pub const OVER: [Ending; 5] = [
        Ending::Committed,
        Ending::CommittedWithLoss,
        Ending::RolledBack,
        Ending::PartlyCommitted,
        Ending::Refused,
    ];

    /// As JSON, metrics and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Running => "running",
            Ending::Committed => "committed",
            Ending::CommittedWithLoss => "committed-with-loss",
            Ending::RolledBack => "rolled-back",
            Ending::PartlyCommitted => "partly-committed",
            Ending::Refused => "refused",
        }
    }
}

/// Frames of one VM during its switchover. Lost, duplicated and reordered are the proof (G1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Frames {
    /// Unicast frames captured on the source.
    pub captured: u64,
    /// Unicast frames delivered: into the target, or put back into the source.
    pub delivered: u64,
    /// Captured and not delivered, or dropped by a kernel queue; but for what a guest that takes no
    /// frames had no room for.
    pub lost: u64,
    /// Frames that would have been delivered twice.
    pub duplicated: u64,
    /// Frames delivered out of turn.
    pub reordered: u64,
    /// Frames that came after FIN.
    pub late: u64,
    /// Broadcast and multicast frames delivered; counted apart.
    pub broadcast: u64,
    /// The VM's own frames that were kept from coming back.
    pub own_echo: u64,
    /// Frames that its guest never took, since it takes none, paused or panicked: they wait for it,
    /// or found its ring full. Some of the buffer's own may be among them.
    #[serde(default)]
    pub untaken: u64,
    /// Frames of others that speak with the VM's address.
    #[serde(default)]
    pub second_speaker: u64,
}

impl std::iter::Sum for Frames {
    fn sum<I: Iterator<Item = Frames>>(all: I) -> Self {
        all.fold(Frames::default(), |a, b| Frames {
            captured: a.captured + b.captured,
            delivered: a.delivered + b.delivered,
            lost: a.lost + b.lost,
            duplicated: a.duplicated + b.duplicated,
            reordered: a.reordered + b.reordered,
            late: a.late + b.late,
            broadcast: a.broadcast + b.broadcast,
            own_echo: a.own_echo + b.own_echo,
            untaken: a.untaken + b.untaken,
            second_speaker: a.second_speaker + b.second_speaker,
        })
    }
}

/// Where the blackout went, in milliseconds. The parts add up to `blackout_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct BlackoutParts {
    /// Ours: capture switched on, after QEMU had stopped.
    pub capture_ms: f64,
    /// QEMU's: the rest of memory, from capture to pre-switchover.
    pub memory_ms: f64,
    /// QEMU's: device state sent and loaded.
    pub device_ms: f64,
    /// Ours: waiting for the other VMs of the batch, the journal and the order to activate.
    pub commit_ms: f64,
    /// Ours: the order in hand to the guest running.
    pub resume_ms: f64,
}

/// One VM in the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmReport {
    /// The VM.
    pub id: VmName,
    /// Its batch, from 1.
    pub batch: usize,
    /// Host it left.
    pub source: HostName,
    /// Host it was to go to.
    pub target: HostName,
    /// Host it runs on now, as far as the journal knows.
    pub host: HostName,
    /// What its guest does there: what it did before the move, unless the VM is lost.
    #[serde(default)]
    pub guest: GuestState,
    /// That it is lost, and what can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<VmLoss>,
    /// That its source was lost before it had delivered all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_lost: Option<SourceLoss>,
    /// That it went back to its source after commit, by an operator's decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaimed: Option<Reclaimed>,
    /// Furthest phase reached.
    pub phase: Phase,
    /// VM stopped → running. `None` if it was never stopped.
    pub blackout_ms: Option<f64>,
    /// Where the blackout went.
    pub blackout_parts: Option<BlackoutParts>,
    /// Longest silence around the switchover that a peer sees: last frame from the source to first
    /// from the target.
    pub gap_ms: Option<f64>,
    /// How far `blackout_ms` and `gap_ms` may be off because the clocks of the two hosts were only
    /// estimated, in milliseconds; `None` where there is no estimate of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_uncertainty_ms: Option<f64>,
    /// Why a time that spans both hosts is missing although it was measured: their clocks
    /// contradict it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<String>,
    /// The account of frames; `None` if nothing was captured.
    pub frames: Option<Frames>,
    /// How the old path was seen to be empty.
    pub old_path: Option<OldPath>,
    /// Largest fill of its buffer, bytes.
    pub buffer_peak_bytes: u64,
    /// The page stream.
    pub pages: PageProgress,
    /// From the beginning of its pre-copy until it was ready to be switched over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<f64>,
    /// Time in each phase.
    pub phases: Vec<PhaseTime>,
    /// What was expected before the move, with what was measured; `None` where no forecast was
    /// made.
    #[serde(default)]
    pub forecast: Option<VmComparison>,
}

/// What a source took with it that was lost after commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceLoss {
    /// The host.
    pub host: HostName,
    /// Frames that it had captured and not delivered; absent where nobody can say how many.
    pub frames_lost: Option<u64>,
    /// Frames that the target had from it.
    pub delivered: u64,
}

/// A VM went back to its source after commit: its target was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reclaimed {
    /// The target.
    pub from: HostName,
    /// It may have run there: what it did, the frames that it had then and what it wrote to its
    /// disks do not fit what it is now, and nobody can say how much that is.
    pub may_have_run: bool,
}

/// Why a VM that was committed does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmLoss {
    /// What happened.
    pub reason: String,
    /// What can be done.
    pub hint: String,
}

/// How long a VM was in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// How long, in milliseconds.
    pub ms: f64,
}

/// Why a migration did not fully commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trouble {
    /// The step of the batch.
    pub step: Step,
    /// The host, where one is to blame.
    pub host: Option<HostName>,
    /// The VM, where one is to blame.
    pub vm: Option<VmName>,
    /// What happened.
    pub reason: String,
    /// What would help.
    pub hint: String,
}

/// Something that a move under way waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    /// The VM.
    pub vm: VmName,
    /// The order that is not done.
    pub order: OrderKind,
    /// The host that has it, or is to have it.
    pub host: HostName,
    /// How long ago it was issued first, in milliseconds; 0 where it could not be issued yet.
    pub since_ms: u64,
    /// Why it is not done.
    pub why: WaitReason,
}

/// Why an order is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum WaitReason {
    /// The agent has it, or is about to: no answer yet.
    InFlight,
    /// It failed and is issued again after a pause.
    BackingOff {
        /// Why it failed.
        reason: String,
    },
    /// The host is lost for good, as far as can be seen, or has lost the VM: somebody must decide
    /// what becomes of the VM, unless the host comes back.
    Decision {
        /// What is lost.
        #[serde(default)]
        lost: Lost,
        /// How long it has been lost, in milliseconds.
        lost_ms: u64,
        /// What can be decided, and how.
        hint: String,
    },
    /// The host's agent is not connected: the order goes out when it is back.
    NotConnected {
        /// How long it has been lost, in milliseconds.
        lost_ms: u64,
    },
}

/// What is lost where a decision is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// The host: it may come back.
    #[default]
    Host,
    /// The VM, on a host that answers and says so.
    Vm,
}

/// The whole report. `transhume report --json` prints exactly this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationReport {
    /// The move.
    pub migration: MigrationId,
    /// The cluster.
    pub cluster: ClusterName,
    /// How it ended.
    pub outcome: Ending,
    /// Live or offline.
    pub mode: Mode,
    /// S1.
    pub from: Vec<HostName>,
    /// S2 as asked.
    pub to: Vec<HostName>,
    /// Hosts of S2 that were used: N(S2).
    pub used: Vec<HostName>,
    /// k.
    pub batch: usize,
    /// When it was accepted, by the coordinator's clock.
    pub started_at: WallMicros,
    /// How long it took; so far, while running.
    pub duration_ms: f64,
    /// Sum over the VMs.
    pub frames: Frames,
    /// Each VM.
    pub vms: Vec<VmReport>,
    /// What was expected of the whole move, with what was measured.
    #[serde(default)]
    pub forecast: Option<Comparison>,
    /// What went wrong first.
    pub trouble: Option<Trouble>,
    /// What the move waits for while it runs; empty when it is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Wait>,
}
