//! Where a batch is, and which orders its VMs therefore want: the protocol in one function.
//!
//! ```text
//! Reserve → Prepare → StartPreCopy → SourceBuffers → TargetBuffers → Capture → StopAndCopy ─Committed─→ RollForward ─→ next batch
//!    └─────────┴───────────┴──────────────┴───────────────┴────────────┴────────────┴── any fault ─→ RollBack ──→ Over
//! ```

use transhume_model::Millis;

use super::request::Limits;
use super::verb::Verb;
use super::vm::Vm;
use crate::step::{Phase, Step};

/// Where the batch is. Steps 7 to 10 are one stage: after the journal holds `Committed`, each VM goes on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Reserve,
    Prepare,
    StartPreCopy,
    SourceBuffers,
    TargetBuffers,
    Capture,
    StopAndCopy,
    RollForward,
    RollBack,
    Over,
}

impl Stage {
    /// The step, for the stages before commit.
    pub(super) fn step(self) -> Option<Step> {
        match self {
            Stage::Reserve | Stage::Prepare => Some(Step::SelectBatch),
            Stage::StartPreCopy => Some(Step::StartPreCopy),
            Stage::SourceBuffers => Some(Step::CreateSourceBuffers),
            Stage::TargetBuffers => Some(Step::CreateTargetBuffers),
            Stage::Capture => Some(Step::Capture),
            Stage::StopAndCopy => Some(Step::StopAndCopy),
            Stage::RollForward | Stage::RollBack | Stage::Over => None,
        }
    }

    /// Whether a fault rolls the batch back.
    pub(super) fn is_before_commit(self) -> bool {
        self <= Stage::StopAndCopy
    }

    /// Phase of the batch's VMs from the beginning of this stage on.
    pub(super) fn phase(self) -> Option<Phase> {
        self.step().map(|step| step.row().phase)
    }

    /// How long the stage may take, and the name of that limit.
    pub(super) fn limit(self, limits: &Limits) -> Option<(Millis, &'static str)> {
        match self {
            Stage::Reserve => Some((limits.reserve_ms_max, "reserve_ms_max")),
            Stage::Prepare => Some((limits.prepare_ms_max, "prepare_ms_max")),
            Stage::StartPreCopy => Some((limits.start_pre_copy_ms_max, "start_pre_copy_ms_max")),
            Stage::SourceBuffers | Stage::TargetBuffers => Some((limits.buffers_ms_max, "buffers_ms_max")),
            Stage::Capture => Some((limits.capture_ms_max, "capture_ms_max")),
            Stage::StopAndCopy => Some((limits.stop_and_copy_ms_max, "stop_and_copy_ms_max")),
            Stage::RollForward | Stage::RollBack | Stage::Over => None,
        }
    }

    /// The stage that follows when every VM of the batch is [`through`]; commit and the end of the batch are
    /// decisions and stand elsewhere.
    pub(super) fn next(self) -> Option<Stage> {
        match self {
            Stage::Reserve => Some(Stage::Prepare),
            Stage::Prepare => Some(Stage::StartPreCopy),
            Stage::StartPreCopy => Some(Stage::SourceBuffers),
            Stage::SourceBuffers => Some(Stage::TargetBuffers),
            Stage::TargetBuffers => Some(Stage::Capture),
            Stage::Capture => Some(Stage::StopAndCopy),
            Stage::StopAndCopy | Stage::RollForward | Stage::RollBack | Stage::Over => None,
        }
    }
}

/// Whether a VM has all that the stage is there for.
pub(super) fn through(stage: Stage, vm: &Vm) -> bool {
    match stage {
        Stage::Reserve => vm.is_done(Verb::Reserve),
        Stage::Prepare => vm.is_done(Verb::Prepare),
        Stage::StartPreCopy => vm.streaming,
        Stage::SourceBuffers => vm.is_done(Verb::OpenSourceBuffer),
        Stage::TargetBuffers => vm.is_done(Verb::ConnectBuffers) && vm.is_done(Verb::PreCopy),
        Stage::Capture => vm.is_done(Verb::Capture),
        Stage::StopAndCopy => vm.is_done(Verb::StopAndCopy) && vm.is_done(Verb::AwaitLoaded),
        Stage::RollForward => vm.is_done(Verb::Discard),
        Stage::RollBack => vm.is_undone(),
        Stage::Over => true,
    }
}

/// Which orders a VM needs now. An order that is open already is not given again; one that got lost is.
pub(super) fn wanted(stage: Stage, vm: &Vm) -> Vec<Verb> {
    let mut wanted: Vec<Verb> = match stage {
        Stage::Reserve => vec![Verb::Reserve],
        Stage::Prepare => vec![Verb::Prepare],
        Stage::StartPreCopy => vec![Verb::PreCopy],
        Stage::SourceBuffers => vec![Verb::PreCopy, Verb::OpenSourceBuffer],
        Stage::TargetBuffers => vec![Verb::PreCopy, next_to_connect(vm)],
        Stage::Capture => vec![Verb::Capture],
        Stage::StopAndCopy => vec![Verb::StopAndCopy, Verb::AwaitLoaded],
        Stage::RollForward => wanted_after_commit(vm),
        Stage::RollBack => wanted_to_undo(vm),
        Stage::Over => Vec::new(),
    };
    wanted.retain(|verb| !vm.is_done(*verb));
    wanted
}

/// The target's buffer first: its tunnel ends are what the source connects to.
fn next_to_connect(vm: &Vm) -> Verb {
    if vm.is_done(Verb::OpenTargetBuffer) {
        Verb::ConnectBuffers
    } else {
        Verb::OpenTargetBuffer
    }
}

/// Steps 8 and 9. A VM's buffers are closed as soon as it runs, whatever the rest of the batch does: its frames
/// need no other VM. The source is discarded last, for half of the account is there.
fn wanted_after_commit(vm: &Vm) -> Vec<Verb> {
    if vm.is_closed() {
        return vec![Verb::Discard];
    }
    let mut wanted = vec![Verb::Activate, Verb::Commit];
    let connected = vm.is_done(Verb::ConnectBuffers) || vm.is_done(Verb::CloseSourceBuffer);
    if !connected {
        wanted.push(next_to_connect(vm));
    } else if vm.is_done(Verb::Activate) && vm.is_done(Verb::Commit) {
        wanted.extend([Verb::CloseSourceBuffer, Verb::CloseTargetBuffer]);
    }
    wanted
}

/// Both sides at once: the source need not wait for a dead target, which was never told to activate.
fn wanted_to_undo(vm: &Vm) -> Vec<Verb> {
    let mut wanted = Vec::new();
    if vm.source_touched {
        wanted.push(Verb::AbortSource);
    }
    if vm.target_touched {
        wanted.push(Verb::AbortTarget);
    }
    wanted
}
