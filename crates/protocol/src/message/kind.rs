//! Orders and outcomes by their kind: one enum each for the protocol's tables, the coordinator's
//! machine, the agent's and the logs.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A [`Command`](super::Command) without what it carries. Those of a move stand in the order of the
/// steps; [`crate::step::ORDERS`] says all about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OrderKind {
    /// Message A of §3.2.
    Inspect,
    /// How fast page streams may go.
    Pace,
    /// Wait for another agent that tries the link to here.
    HearLink,
    /// Try the link to another agent.
    TryLink,
    /// Boot a VM.
    StartVm,
    /// Power a VM off.
    StopVm,
    /// Power a VM off and forget it.
    DestroyVm,
    /// Set resources aside.
    Reserve,
    /// Wait for the VM, paused, behind shut plugs.
    Prepare,
    /// Start the page stream.
    PreCopy,
    /// Create the buffer that captures.
    OpenSourceBuffer,
    /// Create the buffer that delivers.
    OpenTargetBuffer,
    /// Connect the one to the other.
    ConnectBuffers,
    /// Stop the VM and capture its frames.
    Capture,
    /// Let QEMU finish.
    StopAndCopy,
    /// Say when the VM is loaded.
    AwaitLoaded,
    /// Run the VM and deliver.
    Activate,
    /// Never run the copy here again.
    Commit,
    /// Drain the old path and send FIN.
    CloseSourceBuffer,
    /// On FIN open the plug.
    CloseTargetBuffer,
    /// Open the plug without FIN: the source is lost.
    OpenPlug,
    /// Destroy the QEMU that was left.
    Discard,
    /// Run the copy that was left here again: its target is lost.
    Reclaim,
    /// Run the VM here again.
    AbortSource,
    /// Drop the copy here.
    AbortTarget,
}

impl OrderKind {
    /// All of them.
    pub const ALL: [OrderKind; 25] = [
        OrderKind::Inspect,
        OrderKind::Pace,
        OrderKind::HearLink,
        OrderKind::TryLink,
        OrderKind::StartVm,
        OrderKind::StopVm,
        OrderKind::DestroyVm,
        OrderKind::Reserve,
        OrderKind::Prepare,
        OrderKind::PreCopy,
        OrderKind::OpenSourceBuffer,
        OrderKind::OpenTargetBuffer,
        OrderKind::ConnectBuffers,
        OrderKind::Capture,
        OrderKind::StopAndCopy,
        OrderKind::AwaitLoaded,
        OrderKind::Activate,
        OrderKind::Commit,
        OrderKind::CloseSourceBuffer,
        OrderKind::CloseTargetBuffer,
        OrderKind::OpenPlug,
        OrderKind::Discard,
        OrderKind::Reclaim,
        OrderKind::AbortSource,
        OrderKind::AbortTarget,
    ];

    /// Whether such orders are about a VM, or else about the host.
    pub fn is_about_a_vm(self) -> bool {
        use OrderKind::{HearLink, Inspect, Pace, TryLink};
        !matches!(self, Inspect | Pace | HearLink | TryLink)
    }

    /// The name as docs and logs write it.
    pub fn name(self) -> &'static str {
        match self {
            OrderKind::Inspect => "Inspect",
            OrderKind::Pace => "Pace",
            OrderKind::HearLink => "HearLink",
            OrderKind::TryLink => "TryLink",
            OrderKind::StartVm => "StartVm",
            OrderKind::StopVm => "StopVm",
            OrderKind::DestroyVm => "DestroyVm",
            OrderKind::Reserve => "Reserve",
            OrderKind::Prepare => "Prepare",
            OrderKind::PreCopy => "PreCopy",
            OrderKind::OpenSourceBuffer => "OpenSourceBuffer",
            OrderKind::OpenTargetBuffer => "OpenTargetBuffer",
            OrderKind::ConnectBuffers => "ConnectBuffers",
            OrderKind::Capture => "Capture",
            OrderKind::StopAndCopy => "StopAndCopy",
            OrderKind::AwaitLoaded => "AwaitLoaded",
            OrderKind::Activate => "Activate",
            OrderKind::Commit => "Commit",
            OrderKind::CloseSourceBuffer => "CloseSourceBuffer",
            OrderKind::CloseTargetBuffer => "CloseTargetBuffer",
            OrderKind::OpenPlug => "OpenPlug",
            OrderKind::Discard => "Discard",
            OrderKind::Reclaim => "Reclaim",
            OrderKind::AbortSource => "AbortSource",
            OrderKind::AbortTarget => "AbortTarget",
        }
    }
}

impl fmt::Display for OrderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An [`Outcome`](super::Outcome) without what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeKind {
    /// [`Outcome::Host`](super::Outcome::Host).
    Host,
    /// [`Outcome::Paced`](super::Outcome::Paced).
    Paced,
    /// [`Outcome::HearsLink`](super::Outcome::HearsLink).
    HearsLink,
    /// [`Outcome::LinkTried`](super::Outcome::LinkTried).
    LinkTried,
    /// [`Outcome::Started`](super::Outcome::Started).
    Started,
    /// [`Outcome::Stopped`](super::Outcome::Stopped).
    Stopped,
    /// [`Outcome::Destroyed`](super::Outcome::Destroyed).
    Destroyed,
    /// [`Outcome::Reserved`](super::Outcome::Reserved).
    Reserved,
    /// [`Outcome::Prepared`](super::Outcome::Prepared).
    Prepared,
    /// [`Outcome::PreCopying`](super::Outcome::PreCopying).
    PreCopying,
    /// [`Outcome::Progress`](super::Outcome::Progress).
    Progress,
    /// [`Outcome::Converged`](super::Outcome::Converged).
    Converged,
    /// [`Outcome::SourceBufferOpen`](super::Outcome::SourceBufferOpen).
    SourceBufferOpen,
    /// [`Outcome::TargetBufferOpen`](super::Outcome::TargetBufferOpen).
    TargetBufferOpen,
    /// [`Outcome::BuffersConnected`](super::Outcome::BuffersConnected).
    BuffersConnected,
    /// [`Outcome::Captured`](super::Outcome::Captured).
    Captured,
    /// [`Outcome::Copied`](super::Outcome::Copied).
    Copied,
    /// [`Outcome::Loaded`](super::Outcome::Loaded).
    Loaded,
    /// [`Outcome::CommitNoted`](super::Outcome::CommitNoted).
    CommitNoted,
    /// [`Outcome::Activated`](super::Outcome::Activated).
    Activated,
    /// [`Outcome::Lost`](super::Outcome::Lost).
    Lost,
    /// [`Outcome::SourceClosed`](super::Outcome::SourceClosed).
    SourceClosed,
    /// [`Outcome::TargetClosed`](super::Outcome::TargetClosed).
    TargetClosed,
    /// [`Outcome::Discarded`](super::Outcome::Discarded).
    Discarded,
    /// [`Outcome::SourceRestored`](super::Outcome::SourceRestored).
    SourceRestored,
    /// [`Outcome::TargetDropped`](super::Outcome::TargetDropped).
    TargetDropped,
    /// [`Outcome::Refused`](super::Outcome::Refused).
    Refused,
    /// [`Outcome::Failed`](super::Outcome::Failed).
    Failed,
}

impl OutcomeKind {
    /// The name as docs and logs write it.
    pub fn name(self) -> &'static str {
        match self {
            OutcomeKind::Host => "Host",
            OutcomeKind::Paced => "Paced",
            OutcomeKind::HearsLink => "HearsLink",
            OutcomeKind::LinkTried => "LinkTried",
            OutcomeKind::Started => "Started",
            OutcomeKind::Stopped => "Stopped",
            OutcomeKind::Destroyed => "Destroyed",
            OutcomeKind::Reserved => "Reserved",
            OutcomeKind::Prepared => "Prepared",
            OutcomeKind::PreCopying => "PreCopying",
            OutcomeKind::Progress => "Progress",
            OutcomeKind::Converged => "Converged",
            OutcomeKind::SourceBufferOpen => "SourceBufferOpen",
            OutcomeKind::TargetBufferOpen => "TargetBufferOpen",
            OutcomeKind::BuffersConnected => "BuffersConnected",
            OutcomeKind::Captured => "Captured",
            OutcomeKind::Copied => "Copied",
            OutcomeKind::Loaded => "Loaded",
            OutcomeKind::CommitNoted => "CommitNoted",
            OutcomeKind::Activated => "Activated",
            OutcomeKind::Lost => "Lost",
            OutcomeKind::SourceClosed => "SourceClosed",
            OutcomeKind::TargetClosed => "TargetClosed",
            OutcomeKind::Discarded => "Discarded",
            OutcomeKind::SourceRestored => "SourceRestored",
            OutcomeKind::TargetDropped => "TargetDropped",
            OutcomeKind::Refused => "Refused",
            OutcomeKind::Failed => "Failed",
        }
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
