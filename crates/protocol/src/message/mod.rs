//! What coordinator and agents say to each other; nothing else passes between them.
//!
//! A coordinator says first who it is ([`Hello`]); an agent obeys one fleet, and in it no older
//! term than it has obeyed. Then the coordinator sends an [`Order`]; the agent answers with
//! [`Report`]s. Orders are idempotent: the same order (same epoch, same VM) given again is answered
//! again without being carried out twice. An agent refuses an order whose epoch is older than the
//! newest it holds for that VM (G2, fencing).

use serde::{Deserialize, Serialize};
use transhume_model::{Endpoint, Epoch, MigrationId, Millis, OrderId, VmName, VmSpec, WallMicros};
use utoipa::ToSchema;

mod figures;
mod kind;
mod leader;
mod link;
mod state;
mod trouble;
mod versions;

pub use figures::{
    ActivationTimes, CaptureTimes, ClassPages, CopyTimes, OldPath, PageClasses, PageProgress, PlainBytes,
    SourceFrames, TargetFrames, VmRates,
};
pub use kind::{OrderKind, OutcomeKind};
pub use leader::{FLEET_BYTES, FleetId, Hello, Leader, NoFleetId};
pub use link::LinkFigures;
pub use state::{
    BandsChange, BandsState, CertificateState, DirtyRate, GuestState, HostState, QemuState, Stranded, VmRole,
    VmState,
};
pub use trouble::{Fault, FaultKind, Refusal, RefusalKind};
pub use versions::{AnyOrder, NoCommonVersion, PROTOCOL_OLDEST, PROTOCOL_VERSION, is_spoken};

/// Longest wait of an agent for the dirty rates that [`Command::Inspect`] asks for; those not known
/// by then stay unknown.
pub const DIRTY_RATE_MS_MAX: Millis = Millis(2_500);

/// Coordinator → agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Pairs reports with this order.
    pub id: OrderId,
    /// Fence: refused when older than what the agent holds for the VM.
    pub epoch: Epoch,
    /// What to do.
    pub command: Command,
}

/// How a VM is moved (§1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Memory is copied while the VM runs.
    Live,
    /// Stop, copy, start. Frames are captured all the same.
    Offline,
}

/// What an agent can be ordered to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// Message A of §3.2; answered by message B, [`Outcome::Host`].
    Inspect {
        /// VMs that live here and whose dirty rates are wanted (§2.2.2): the answer then takes up
        /// to [`DIRTY_RATE_MS_MAX`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dirty_of: Vec<VmName>,
    },
    /// How fast page streams that leave this host may go, until told otherwise. VMs that have none
    /// are left out. Answered by [`Outcome::Paced`].
    Pace {
        /// The VMs whose rates changed.
        rates: Vec<VmRates>,
    },
    /// Wait for another agent that tries the link to here. Answered by [`Outcome::HearsLink`].
    HearLink,
    /// Try the link to another agent that waits. Answered by [`Outcome::LinkTried`].
    TryLink {
        /// Where it waits.
        target: Endpoint,
    },
    /// Boot a VM here. Answered by [`Outcome::Started`].
    StartVm {
        /// The VM.
        spec: VmSpec,
    },
    /// Power a VM off; its place stays, and [`Command::StartVm`] boots it again. Answered by
    /// [`Outcome::Stopped`].
    StopVm {
        /// The VM.
        vm: VmName,
        /// At once, as if its plug were pulled; otherwise the guest is asked first.
        force: bool,
    },
    /// Power a VM off and forget it. Answered by [`Outcome::Destroyed`].
    DestroyVm {
        /// The VM.
        vm: VmName,
    },

    /// Step 1, target: check and reserve resources. [`Outcome::Reserved`] or refused.
    Reserve {
        /// Which move.
        migration: MigrationId,
        /// The VM to come, machine type filled in.
        spec: VmSpec,
        /// It is powered off: only its place moves, nothing is prepared or copied.
        powered_off: bool,
    },
    /// Step 1, target: create taps with shut plugs, start QEMU paused. [`Outcome::Prepared`].
    Prepare {
        /// The VM.
        vm: VmName,
    },
    /// Step 2, source: start the page stream. [`Outcome::PreCopying`] at once, then
    /// [`Outcome::Progress`] until [`Outcome::Converged`]. Offline: nothing is copied before
    /// capture; `Converged` follows at once.
    PreCopy {
        /// Which move.
        migration: MigrationId,
        /// The VM.
        vm: VmName,
        /// Where the target agent takes the page stream; the host as the coordinator plans it.
        page_stream: Endpoint,
        /// Live or offline.
        mode: Mode,
        /// Converged when the predicted blackout is at most this.
        blackout_max: Millis,
    },
    /// Step 3, source: create the buffer, capture disabled. [`Outcome::SourceBufferOpen`].
    OpenSourceBuffer {
        /// The VM.
        vm: VmName,
    },
    /// Step 4, target: create the buffer. [`Outcome::TargetBufferOpen`].
    OpenTargetBuffer {
        /// The VM.
        vm: VmName,
    },
    /// Step 4, source: connect to the target's buffer, one tunnel per NIC.
    /// [`Outcome::BuffersConnected`].
    ConnectBuffers {
        /// The VM.
        vm: VmName,
        /// Tunnel end of each NIC at the target, by NIC index.
        tunnels: Vec<Endpoint>,
    },
    /// Step 5, source: plug shut, ring empty, VM stopped, capture on. [`Outcome::Captured`].
    Capture {
        /// The VM.
        vm: VmName,
    },
    /// Step 6, source: let QEMU finish. [`Outcome::Copied`].
    StopAndCopy {
        /// The VM.
        vm: VmName,
    },
    /// Step 6, target: say when the VM is loaded and paused. [`Outcome::Loaded`].
    AwaitLoaded {
        /// The VM.
        vm: VmName,
        /// What its guest did until it was stopped: one that did not run is not run here either,
        /// whoever is left to order it.
        #[serde(default)]
        guest: GuestState,
    },
    /// Step 8, source: the batch is committed; the copy here must never run again.
    /// [`Outcome::CommitNoted`].
    Commit {
        /// The VM.
        vm: VmName,
    },
    /// Step 8, target: run the VM, inject the captured frames in order, announce.
    /// [`Outcome::Activated`], or [`Outcome::Lost`] where what came cannot run any more.
    Activate {
        /// The VM.
        vm: VmName,
        /// Whether its guest is to run: one that was paused on its source stays so.
        run: bool,
    },
    /// Step 9, source: wait for the marker, drain, FIN. [`Outcome::SourceClosed`].
    CloseSourceBuffer {
        /// The VM.
        vm: VmName,
    },
    /// Step 9, target: on FIN open the plug. [`Outcome::TargetClosed`].
    CloseTargetBuffer {
        /// The VM.
        vm: VmName,
    },
    /// Step 9, target: no FIN comes, for the source's host is lost. The plug opens; what the source
    /// still sends is dropped and counted. [`Outcome::TargetClosed`].
    OpenPlug {
        /// The VM.
        vm: VmName,
    },
    /// Step 9, source: destroy the QEMU that was left. [`Outcome::Discarded`].
    Discard {
        /// The VM.
        vm: VmName,
    },
    /// After commit, source: the target is lost, and an operator decided that the copy that was
    /// left runs here again, with its frames put back. [`Outcome::SourceRestored`], or
    /// [`Outcome::Lost`] where that copy is gone as well.
    Reclaim {
        /// The VM.
        vm: VmName,
    },
    /// Before commit, source: run the VM here again with its frames put back.
    /// [`Outcome::SourceRestored`].
    AbortSource {
        /// The VM.
        vm: VmName,
    },
    /// Before commit, target: kill the copy, free the reservation. [`Outcome::TargetDropped`].
    AbortTarget {
        /// The VM.
        vm: VmName,
    },
}

impl Command {
    /// Message A that asks for no dirty rates: answered at once.
    pub fn inspect() -> Self {
        Command::Inspect { dirty_of: Vec::new() }
    }

    /// The VM that the order is about; `None` for those that are about the host.
    pub fn vm(&self) -> Option<&VmName> {
        match self {
            Command::Inspect { .. } | Command::Pace { .. } | Command::HearLink | Command::TryLink { .. } => {
                None
            }
            Command::StartVm { spec } | Command::Reserve { spec, .. } => Some(&spec.name),
            Command::DestroyVm { vm }
            | Command::StopVm { vm, .. }
            | Command::Prepare { vm }
            | Command::PreCopy { vm, .. }
            | Command::OpenSourceBuffer { vm }
            | Command::OpenTargetBuffer { vm }
            | Command::ConnectBuffers { vm, .. }
            | Command::Capture { vm }
            | Command::StopAndCopy { vm }
            | Command::AwaitLoaded { vm, .. }
            | Command::Commit { vm }
            | Command::Activate { vm, .. }
            | Command::CloseSourceBuffer { vm }
            | Command::CloseTargetBuffer { vm }
            | Command::OpenPlug { vm }
            | Command::Discard { vm }
            | Command::Reclaim { vm }
            | Command::AbortSource { vm }
            | Command::AbortTarget { vm } => Some(vm),
        }
    }

    /// What kind of order it is.
    pub fn kind(&self) -> OrderKind {
        match self {
            Command::Inspect { .. } => OrderKind::Inspect,
            Command::Pace { .. } => OrderKind::Pace,
            Command::HearLink => OrderKind::HearLink,
            Command::TryLink { .. } => OrderKind::TryLink,
            Command::StartVm { .. } => OrderKind::StartVm,
            Command::StopVm { .. } => OrderKind::StopVm,
            Command::DestroyVm { .. } => OrderKind::DestroyVm,
            Command::Reserve { .. } => OrderKind::Reserve,
            Command::Prepare { .. } => OrderKind::Prepare,
            Command::PreCopy { .. } => OrderKind::PreCopy,
            Command::OpenSourceBuffer { .. } => OrderKind::OpenSourceBuffer,
            Command::OpenTargetBuffer { .. } => OrderKind::OpenTargetBuffer,
            Command::ConnectBuffers { .. } => OrderKind::ConnectBuffers,
            Command::Capture { .. } => OrderKind::Capture,
            Command::StopAndCopy { .. } => OrderKind::StopAndCopy,
            Command::AwaitLoaded { .. } => OrderKind::AwaitLoaded,
            Command::Activate { .. } => OrderKind::Activate,
            Command::Commit { .. } => OrderKind::Commit,
            Command::CloseSourceBuffer { .. } => OrderKind::CloseSourceBuffer,
            Command::CloseTargetBuffer { .. } => OrderKind::CloseTargetBuffer,
            Command::OpenPlug { .. } => OrderKind::OpenPlug,
            Command::Discard { .. } => OrderKind::Discard,
            Command::Reclaim { .. } => OrderKind::Reclaim,
            Command::AbortSource { .. } => OrderKind::AbortSource,
            Command::AbortTarget { .. } => OrderKind::AbortTarget,
        }
    }

    /// The name as the step table writes it.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }
}

/// Agent → coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The order it answers; `None` when the agent speaks up by itself ([`Outcome::Failed`]).
    pub order: Option<OrderId>,
    /// Epoch of the order, or the newest the agent holds for the VM.
    pub epoch: Epoch,
    /// The VM it is about; `None` where it is about the host.
    pub vm: Option<VmName>,
    /// When, by the host's clock.
    pub at: WallMicros,
    /// What happened.
    pub outcome: Outcome,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// Message B of §3.2; also the first thing an agent says on a new connection.
    Host(Box<HostState>),
    /// The rates hold from now on.
    Paced,
    /// The agent waits for the other one.
    HearsLink {
        /// Where (VMCT band).
        at: Endpoint,
    },
    /// The link was tried.
    LinkTried(LinkFigures),
    /// The VM runs; its machine type is filled in.
    Started {
        /// The VM as it was started.
        spec: VmSpec,
    },
    /// The VM is powered off; its place stays.
    Stopped,
    /// The VM is gone.
    Destroyed,
    /// Resources are set aside.
    Reserved,
    /// QEMU waits, paused, behind shut plugs.
    Prepared {
        /// Where this agent takes the page stream (VMCT band).
        page_stream: Endpoint,
    },
    /// The page stream runs.
    PreCopying,
    /// How far pre-copy is.
    Progress(PageProgress),
    /// The predicted blackout is within budget. Sent once; the stream goes on.
    Converged(PageProgress),
    /// Step 3 done.
    SourceBufferOpen,
    /// Step 4 done at the target.
    TargetBufferOpen {
        /// Tunnel end of each NIC, by NIC index (CT band).
        tunnels: Vec<Endpoint>,
    },
    /// Step 4 done.
    BuffersConnected,
    /// The VM is stopped and its frames are captured.
    Captured {
        /// When.
        times: CaptureTimes,
        /// What its guest did until then.
        guest: GuestState,
    },
    /// QEMU has sent everything.
    Copied {
        /// What went over the wire in all.
        pages: PageProgress,
        /// When.
        times: CopyTimes,
    },
    /// The target holds the whole VM, paused: *prepared*.
    Loaded {
        /// When QEMU said so.
        loaded_at: WallMicros,
    },
    /// The source knows that it is the source no more.
    CommitNoted,
    /// The VM runs here.
    Activated(ActivationTimes),
    /// The VM cannot run here: what had come of it is gone. Its place is here, powered off.
    Lost(Fault),
    /// FIN is sent and everything before it delivered.
    SourceClosed(SourceFrames),
    /// FIN is here, the plug is open.
    TargetClosed(TargetFrames),
    /// The source's QEMU is gone.
    Discarded {
        /// The source's half of the account where [`Outcome::SourceClosed`] did not give it before.
        frames: Option<SourceFrames>,
    },
    /// The VM runs on its source again.
    SourceRestored(SourceFrames),
    /// The target's copy is gone.
    TargetDropped,
    /// The order was not carried out; nothing changed.
    Refused(Refusal),
    /// Something broke; in reply to an order, or by itself.
    Failed(Fault),
}

impl Outcome {
    /// What kind of outcome it is.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Outcome::Host(_) => OutcomeKind::Host,
            Outcome::Paced => OutcomeKind::Paced,
            Outcome::HearsLink { .. } => OutcomeKind::HearsLink,
            Outcome::LinkTried(_) => OutcomeKind::LinkTried,
            Outcome::Started { .. } => OutcomeKind::Started,
            Outcome::Stopped => OutcomeKind::Stopped,
            Outcome::Destroyed => OutcomeKind::Destroyed,
            Outcome::Reserved => OutcomeKind::Reserved,
            Outcome::Prepared { .. } => OutcomeKind::Prepared,
            Outcome::PreCopying => OutcomeKind::PreCopying,
            Outcome::Progress(_) => OutcomeKind::Progress,
            Outcome::Converged(_) => OutcomeKind::Converged,
            Outcome::SourceBufferOpen => OutcomeKind::SourceBufferOpen,
            Outcome::TargetBufferOpen { .. } => OutcomeKind::TargetBufferOpen,
            Outcome::BuffersConnected => OutcomeKind::BuffersConnected,
            Outcome::Captured { .. } => OutcomeKind::Captured,
            Outcome::Copied { .. } => OutcomeKind::Copied,
            Outcome::Loaded { .. } => OutcomeKind::Loaded,
            Outcome::CommitNoted => OutcomeKind::CommitNoted,
            Outcome::Activated(_) => OutcomeKind::Activated,
            Outcome::Lost(_) => OutcomeKind::Lost,
            Outcome::SourceClosed(_) => OutcomeKind::SourceClosed,
            Outcome::TargetClosed(_) => OutcomeKind::TargetClosed,
            Outcome::Discarded { .. } => OutcomeKind::Discarded,
            Outcome::SourceRestored(_) => OutcomeKind::SourceRestored,
            Outcome::TargetDropped => OutcomeKind::TargetDropped,
            Outcome::Refused(_) => OutcomeKind::Refused,
            Outcome::Failed(_) => OutcomeKind::Failed,
        }
    }

    /// A short name for logs and script goldens.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }
}
