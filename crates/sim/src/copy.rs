//! A VM on one host, as the model agent holds it: what survives the agent and what does not.

use std::collections::{BTreeMap, VecDeque};

use transhume_model::{Epoch, OrderId, VmSpec, WallMicros};
use transhume_protocol::message::{
    ActivationTimes, CaptureTimes, CopyTimes, GuestState, Outcome, PageProgress, SourceFrames, TargetFrames,
    VmRole, VmState,
};

/// One VM on one host. Everything outside of `soft` is on disk, in the kernel or in QEMU, and survives the agent.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) spec: VmSpec,
    pub(crate) role: VmRole,
    pub(crate) epoch: Epoch,
    pub(crate) running: bool,
    /// Frames in the tap's queue, oldest first.
    pub(crate) queue: VecDeque<u64>,
    /// Frames captured; their place + 1 is their number in the tunnel. Kept until discarded or put back.
    pub(crate) kept: Vec<u64>,
    pub(crate) capture: Option<CaptureTimes>,
    pub(crate) copied: Option<CopyTimes>,
    pub(crate) loaded_at: Option<WallMicros>,
    pub(crate) activation: Option<ActivationTimes>,
    /// Numbers injected into the guest.
    pub(crate) injected: u64,
    pub(crate) source_closed: Option<SourceFrames>,
    pub(crate) target_closed: Option<TargetFrames>,
    pub(crate) restored: Option<SourceFrames>,
    pub(crate) soft: Soft,
}

/// What an agent holds in memory only.
#[derive(Debug, Default)]
pub(crate) struct Soft {
    /// Answers given in this move, by command.
    pub(crate) answers: BTreeMap<&'static str, Outcome>,
    /// Orders that wait for their answer.
    pub(crate) waiting: BTreeMap<&'static str, (OrderId, Epoch)>,
    /// The page stream, while both agents that carry it live: the target agent's run.
    pub(crate) stream: Option<u64>,
    /// Where the page stream ends: this agent listens.
    pub(crate) listening: bool,
    pub(crate) buffer_open: bool,
    /// The tunnel to the target's agent, by its run.
    pub(crate) tunnel: Option<u64>,
    /// How many of `kept` were sent through this tunnel.
    pub(crate) sent: usize,
    pub(crate) fin_sent: bool,
    pub(crate) marker_seen: bool,
    /// Frames that came through the tunnel and wait for activation or for their turn, by number.
    pub(crate) buffer: BTreeMap<u64, u64>,
    /// The last number, once FIN told it.
    pub(crate) fin: Option<u64>,
}

impl Copy {
    pub(crate) fn new(spec: VmSpec, role: VmRole, epoch: Epoch, running: bool) -> Self {
        Copy {
            spec,
            role,
            epoch,
            running,
            queue: VecDeque::new(),
            kept: Vec::new(),
            capture: None,
            copied: None,
            loaded_at: None,
            activation: None,
            injected: 0,
            source_closed: None,
            target_closed: None,
            restored: None,
            soft: Soft::default(),
        }
    }

    /// A VM that lives here and has not moved yet.
    pub(crate) fn at_home(spec: VmSpec) -> Self {
        Self::new(spec, VmRole::Home, Epoch(0), true)
    }

    pub(crate) fn state(&self) -> VmState {
        VmState {
            spec: self.spec.clone(),
            role: self.role,
            epoch: self.epoch,
            guest: if self.running {
                GuestState::Running
            } else {
                GuestState::Paused
            },
        }
    }

    /// Whether frames for it go to the buffer: from capture until the copy here is gone or runs again.
    pub(crate) fn is_capturing(&self) -> bool {
        self.capture.is_some() && matches!(self.role, VmRole::Source | VmRole::Left)
    }

    /// Whether it takes frames from its tap.
    pub(crate) fn is_plug_open(&self) -> bool {
        self.running && self.role != VmRole::Arrived
    }

    pub(crate) fn pages(&self) -> PageProgress {
        let total = self.spec.memory.bytes();
        PageProgress {
            total,
            transferred: total,
            wire: total,
            rounds: 1,
            ..PageProgress::default()
        }
    }

    pub(crate) fn source_frames(&self) -> SourceFrames {
        SourceFrames {
            captured: self.kept.len() as u64,
            ..SourceFrames::default()
        }
    }
}
