//! What the journal holds of a move: enough to finish or undo it, and to report on it in full,
//! after a restart.

use serde::{Deserialize, Serialize};
use transhume_model::{Epoch, HostName, VmName, WallMicros};
use utoipa::ToSchema;

use super::request::MoveRequest;
use crate::message::{
    ActivationTimes, CaptureTimes, Command, CopyTimes, Fault, GuestState, PageProgress, SourceFrames,
    TargetFrames,
};
use crate::report::{MigrationReport, Trouble};
use crate::step::{Phase, Side};

/// Version of the entries. Fields may be added with a default; anything else is a new version.
pub const JOURNAL_VERSION: u16 = 4;

/// One entry of a move's journal. Entries of one move are kept in order; the journal adds nothing
/// of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "entry")]
pub enum JournalEntry {
    /// The move was accepted. Always the first entry.
    Begun {
        /// [`JOURNAL_VERSION`] of all entries of this move.
        version: u16,
        /// When.
        at: WallMicros,
        /// What was asked.
        request: MoveRequest,
    },
    /// A batch begins; durable before its first order leaves, so that a restarted coordinator knows
    /// what to undo.
    BatchBegun {
        /// Which, from 1.
        batch: usize,
        /// Its epoch.
        epoch: Epoch,
        /// When.
        at: WallMicros,
    },
    /// The batch returns to its sources.
    RollingBack {
        /// Which, from 1.
        batch: usize,
        /// When.
        at: WallMicros,
        /// Why.
        trouble: Trouble,
        /// Whether it is a refusal.
        refused: bool,
        /// It begins again without this VM.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        put_off: Option<VmName>,
        /// What is known of its VMs by now.
        vms: Vec<VmSoFar>,
    },
    /// The batch is back at its sources and begins again without a VM, which goes last, in a batch
    /// of its own.
    PutOff {
        /// The VM.
        vm: VmName,
        /// The batch, from 1.
        batch: usize,
        /// The VM's new batch, from 1.
        into: usize,
        /// Epoch of the batch's new beginning.
        epoch: Epoch,
        /// When.
        at: WallMicros,
    },
    /// Batches that were to come are cut anew.
    Rearranged {
        /// The batch under way, from 1.
        batch: usize,
        /// The VMs of each batch behind the one under way.
        batches: Vec<Vec<VmName>>,
        /// When.
        at: WallMicros,
    },
    /// **The decision.** Without it the batch is undone, with it the batch is finished (G2).
    Committed {
        /// Which, from 1.
        batch: usize,
        /// Its epoch.
        epoch: Epoch,
        /// When.
        at: WallMicros,
        /// What is known of its VMs by now.
        vms: Vec<VmSoFar>,
    },
    /// A VM runs on its target.
    VmActivated {
        /// The VM.
        vm: VmName,
        /// When, by the coordinator's clock.
        at: WallMicros,
        /// The target's times.
        times: ActivationTimes,
    },
    /// Both buffers of a VM are closed; durable before the source, which holds half of the account,
    /// is discarded.
    VmClosed {
        /// The VM.
        vm: VmName,
        /// When.
        at: WallMicros,
        /// The source's account; `None` if the agent had lost the VM.
        source: Option<SourceFrames>,
        /// The target's account; `None` if the agent had lost the VM.
        target: Option<TargetFrames>,
        /// No FIN came: the source is lost, and frames that it held may be.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        without_fin: bool,
    },
    /// The move goes on without one of a VM's hosts: it wants nothing of it any more.
    GivenUp {
        /// The VM.
        vm: VmName,
        /// Which of its hosts.
        side: Side,
        /// Its name.
        host: HostName,
        /// When.
        at: WallMicros,
    },
    /// What a given-up host still has of a VM is to be cleaned away when it is back; durable before
    /// the move ends. Whoever keeps the journal keeps this longer than the move.
    LeftBehind {
        /// The VM.
        vm: VmName,
        /// The host.
        host: HostName,
        /// When.
        at: WallMicros,
        /// How.
        clean: Cleaning,
    },
    /// An operator decided where a VM runs.
    Resolved {
        /// The VM.
        vm: VmName,
        /// When.
        at: WallMicros,
        /// Where.
        run_on: RunOn,
        /// On its source although it may have run on its target and written its disks.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        although_it_may_have_run: bool,
    },
    /// A VM is gone after the decision: it is started no more by this move.
    VmLost {
        /// The VM.
        vm: VmName,
        /// When.
        at: WallMicros,
        /// Where.
        host: HostName,
        /// What happened to it.
        fault: Fault,
    },
    /// A VM's old QEMU is gone: its move is over.
    VmDiscarded {
        /// The VM.
        vm: VmName,
        /// When.
        at: WallMicros,
        /// The source's account, where only discarding brought it.
        #[serde(default)]
        source: Option<SourceFrames>,
    },
    /// A VM runs on its source again.
    VmRestored {
        /// The VM.
        vm: VmName,
        /// When, by the coordinator's clock.
        at: WallMicros,
        /// When, by the source's clock.
        restored_at: Option<WallMicros>,
        /// Its account: everything captured is put back. `None` if the agent had lost the VM.
        source: Option<SourceFrames>,
    },
    /// The user wants no further batch.
    CancelAsked {
        /// When.
        at: WallMicros,
    },
    /// A restarted coordinator took the move up with a newer epoch.
    Recovered {
        /// The batch it found, from 1.
        batch: usize,
        /// Epoch of its orders from now on.
        epoch: Epoch,
        /// When.
        at: WallMicros,
    },
    /// The move is over. Always the last entry.
    Ended {
        /// The whole report.
        report: Box<MigrationReport>,
    },
}

/// What becomes of a VM on a host that was given up and is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaning {
    /// A target of a batch that rolled back: dropped (`AbortTarget`).
    DropTarget,
    /// A source of a batch that rolled back: it is at home again, as far as it lives
    /// (`AbortSource`).
    RestoreSource,
    /// A source whose VM runs elsewhere: it never runs here again (`Commit`, `Discard`). What it
    /// captured and could not deliver is dropped, and counted.
    DiscardSource,
    /// A source that an operator gave the VM back to, and that was lost before it ran there again:
    /// it does now (`Reclaim`).
    Reclaim,
    /// Whatever it is: ended (`DestroyVm`).
    Destroy,
}

impl Cleaning {
    /// The orders about a VM that clean it away, one after the other.
    pub fn orders(self, vm: &VmName) -> Vec<Command> {
        let vm = vm.clone();
        match self {
            Cleaning::DropTarget => vec![Command::AbortTarget { vm }],
            Cleaning::RestoreSource => vec![Command::AbortSource { vm }],
            // A source that had been restored before its host was lost is at home and knows nothing
            // of a commit. Its VM goes on elsewhere: whatever role it has here, it ends.
            Cleaning::DiscardSource => vec![
                Command::Commit { vm: vm.clone() },
                Command::Discard { vm: vm.clone() },
                Command::DestroyVm { vm },
            ],
            Cleaning::Reclaim => vec![Command::Reclaim { vm }],
            Cleaning::Destroy => vec![Command::DestroyVm { vm }],
        }
    }
}

/// Where a VM is to run whose other host is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunOn {
    /// On its source.
    Source,
    /// On its target.
    Target,
    /// Nowhere: the VM is given up, and can be started from its disks.
    Nowhere,
}

impl RunOn {
    /// As the API, the journal and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            RunOn::Source => "source",
            RunOn::Target => "target",
            RunOn::Nowhere => "nowhere",
        }
    }

    /// What becomes of the VM, behind its name.
    pub fn sentence(self) -> &'static str {
        match self {
            RunOn::Source => "runs on its source",
            RunOn::Target => "runs on its target",
            RunOn::Nowhere => "is given up",
        }
    }
}

/// What the report needs to know of a VM when its batch is decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSoFar {
    /// The VM.
    pub vm: VmName,
    /// What its guest did until it was stopped, or when the move was ordered.
    #[serde(default)]
    pub guest: GuestState,
    /// Step 5. Here and below: by the coordinator's clock, as well as the host's was known.
    pub capture: Option<CaptureTimes>,
    /// Step 6 at the source.
    pub copy: Option<CopyTimes>,
    /// Step 6 at the target.
    pub loaded_at: Option<WallMicros>,
    /// Its page stream.
    pub pages: PageProgress,
    /// When its predicted blackout was within its budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<WallMicros>,
    /// When it entered each phase so far, by the coordinator's clock, in order.
    pub entered: Vec<(Phase, WallMicros)>,
    /// When step 5 was ordered, by the coordinator's clock: it cannot have been stopped earlier.
    #[serde(default)]
    pub capture_sent_at: Option<WallMicros>,
    /// How the instants of its source were read.
    #[serde(default)]
    pub source_clock: ClockUse,
    /// The same for its target.
    #[serde(default)]
    pub target_clock: ClockUse,
}

impl VmSoFar {
    /// Of a VM of which nothing is known but what its guest did when its move was ordered.
    pub(super) fn new(vm: VmName, guest: GuestState) -> Self {
        VmSoFar {
            vm,
            guest,
            capture: None,
            copy: None,
            loaded_at: None,
            pages: PageProgress::default(),
            ready_at: None,
            entered: Vec::new(),
            capture_sent_at: None,
            source_clock: ClockUse::default(),
            target_clock: ClockUse::default(),
        }
    }
}

/// How the instants that a host reported of a VM were read: as they are, or corrected by an
/// estimate of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockUse {
    /// Some were taken as they are, for there was no estimate.
    pub taken_as_they_are: bool,
    /// Some were corrected; so far off may the worst estimate be, in microseconds.
    pub uncertainty_us: Option<u64>,
}
