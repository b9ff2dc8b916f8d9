//! Orders by their kind: one enum for the step table, the coordinator's machine, the agent's and the logs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A [`Command`](super::Command) without what it carries. Those of a move stand in the order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderKind {
    /// Message A of §3.2.
    Inspect,
    /// Boot a VM.
    StartVm,
    /// Power a VM off.
    StopVm,
    /// Power a VM off and forget it.
    DestroyVm,
    /// Step 1, target.
    Reserve,
    /// Step 1, target.
    Prepare,
    /// Step 2, source.
    PreCopy,
    /// Step 3, source.
    OpenSourceBuffer,
    /// Step 4, target.
    OpenTargetBuffer,
    /// Step 4, source.
    ConnectBuffers,
    /// Step 5, source.
    Capture,
    /// Step 6, source.
    StopAndCopy,
    /// Step 6, target.
    AwaitLoaded,
    /// Step 8, target.
    Activate,
    /// Step 8, source.
    Commit,
    /// Step 9, source.
    CloseSourceBuffer,
    /// Step 9, target.
    CloseTargetBuffer,
    /// Step 9, source.
    Discard,
    /// Roll-back, source.
    AbortSource,
    /// Roll-back, target.
    AbortTarget,
}

impl OrderKind {
    /// All of them.
    pub const ALL: [OrderKind; 20] = [
        OrderKind::Inspect,
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
        OrderKind::Discard,
        OrderKind::AbortSource,
        OrderKind::AbortTarget,
    ];

    /// The name as the step table writes it.
    pub fn name(self) -> &'static str {
        match self {
            OrderKind::Inspect => "Inspect",
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
            OrderKind::Discard => "Discard",
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
