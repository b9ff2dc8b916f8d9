//! What the machine wants done, and what it only lets be known.

use transhume_model::{Endpoint, Epoch, Millis, ProcessId, VmSpec};
use transhume_protocol::message::Mode;

use crate::input::RunState;

/// Pairs an effect with its [`Input::Done`](crate::Input::Done).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// An act with its ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Answered once, by `Done`.
    pub ticket: Ticket,
    /// What to do.
    pub act: Act,
}

/// What can be done to a VM. All of them may be tried again after a failure. Acts of one VM are
/// done in the order in which they were asked for, [`Act::FinishSourceBuffer`] and
/// [`Act::FinishTargetBuffer`] beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Check what can be known before a VM is put here (G3), and promise it room.
    /// [`Product::Admitted`](crate::Product).
    Admit {
        /// The VM.
        spec: VmSpec,
        /// Only its place comes: nothing but room is asked for.
        powered_off: bool,
    },
    /// Make the taps and start QEMU behind them, stopped. `Spawned`. What it made before it failed
    /// is taken back by [`Act::End`].
    Spawn {
        /// The VM, machine type filled in.
        spec: VmSpec,
        /// Which way round.
        purpose: SpawnFor,
    },
    /// Take hold of what an earlier agent left. `Adopted`.
    Adopt {
        /// The recorded process.
        process: ProcessId,
        /// The VM.
        spec: VmSpec,
        /// Newest epoch held.
        epoch: Epoch,
        /// What of its buffers is to go on.
        buffers: AdoptBuffers,
        /// It is a target that was never told to run.
        incoming: bool,
        /// It must never run here again. Its process may be gone: its buffers go on all the same.
        surrendered: bool,
    },
    /// End everything of the VM on this host: process, page stream, buffers, taps, and a process
    /// that only carries its mark. Fine when nothing is there. `Ended`.
    End,

    /// Let the guest run. Fine when it does.
    Cont,
    /// Stop the guest. Fine when it is.
    Stop,
    /// Ask the guest to power itself off.
    PowerDown,

    /// Listen for the page stream. `Listening`.
    OpenPageListener {
        /// The VM.
        spec: VmSpec,
        /// Of the order.
        epoch: Epoch,
    },
    /// Connect to the target's agent. The guest's memory does not flow yet.
    OpenPageStream {
        /// The VM.
        spec: VmSpec,
        /// Of the order.
        epoch: Epoch,
        /// The target's agent.
        target: Endpoint,
    },
    /// Let QEMU write its memory into the page stream.
    StartMigration,
    /// Look how far it is. `Looked`.
    Look,
    /// Let a held page stream catch up while the guest still runs. Bounded; never fails.
    CatchUp,
    /// Stop-and-copy at the source: until QEMU has sent everything. `Copied`. Can be interrupted.
    FinishCopy {
        /// Offline: the stream starts only now.
        mode: Mode,
    },
    /// Until the whole VM is here, as it was sent. Can be interrupted.
    AwaitLoaded,
    /// End a migration that is under way. Fine when none is. `Cancelled`, or nothing where there
    /// is no QEMU.
    CancelMigration,

    /// Step 3.
    OpenSourceBuffer {
        /// The VM.
        spec: VmSpec,
        /// Of the order.
        epoch: Epoch,
    },
    /// Step 4 at the source, one tunnel per NIC.
    ConnectSourceBuffer {
        /// The target's ends.
        tunnels: Vec<Endpoint>,
    },
    /// Whether the guest takes frames. `Takes`.
    ProbeGuest,
    /// Step 5: the plug shuts; the guest takes what it was sent, unless it is taken as it is.
    /// `Shut`.
    ShutSourceBuffer {
        /// The guest takes no frames: nothing is waited for.
        as_is: bool,
    },
    /// Step 5, the guest stopped: every frame is read, kept and forwarded.
    Capture,
    /// The batch is committed: this copy never runs again, its buffers may grow.
    Surrender,
    /// The target is lost and somebody decided: the copy that was surrendered may run here again,
    /// and the fabric is told so. Its own `Cont` comes later. The epoch is that of a `Reclaim`
    /// order: nothing else permits it. Fine where it may run already.
    Reclaim {
        /// Of the order.
        epoch: Epoch,
    },
    /// Step 9 at the source: marker, drain, FIN. `SourceFrames`. Takes as long as its limits allow.
    /// Can be interrupted.
    FinishSourceBuffer,
    /// Abort, first half: frames wait in the plug, everything before them is kept.
    ShutForAbort,
    /// Abort, second half, the guest as it is to stay: kept frames in order, then the plug opens.
    /// `SourceFrames`.
    PutBack,

    /// Step 4 at the target. `Tunnels`.
    OpenTargetBuffer {
        /// The VM.
        spec: VmSpec,
        /// Of the order.
        epoch: Epoch,
    },
    /// Step 8: let a loaded target run. The epoch is that of an `Activate` order: nothing else
    /// permits it.
    RunArrived {
        /// Of the order.
        epoch: Epoch,
    },
    /// Step 8, the guest as it is to be: captured frames in order, then the announcement.
    /// `Announced`. The epoch is that of an `Activate` order: a guest that stays stopped is at home
    /// here from now on.
    ActivateBuffer {
        /// Of the order.
        epoch: Epoch,
    },
    /// Step 9 at the target, its source lost: the plug opens without FIN, what is here is
    /// delivered, what still comes from the source is dropped and counted.
    OpenPlug,
    /// Step 9 at the target: on FIN the plug opens. `TargetFrames`. Takes as long as its limits
    /// allow. Can be interrupted.
    FinishTargetBuffer,
}

impl Act {
    /// Whether it goes on beside the VM's other acts: closing takes as long as marker and peer do.
    pub fn is_beside(&self) -> bool {
        matches!(self, Act::FinishSourceBuffer | Act::FinishTargetBuffer)
    }

    /// Whether [`Signal::Interrupt`] ends it. Such acts only wait, and leave everything as it is
    /// wherever they end.
    pub fn may_be_interrupted(&self) -> bool {
        matches!(self, Act::FinishCopy { .. } | Act::AwaitLoaded) || self.is_beside()
    }

    /// A short name for logs, faults and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Act::Admit { .. } => "admit",
            Act::Spawn { .. } => "spawn",
            Act::Adopt { .. } => "adopt",
            Act::End => "end",
            Act::Cont => "cont",
            Act::Stop => "stop",
            Act::PowerDown => "power-down",
            Act::OpenPageListener { .. } => "open-page-listener",
            Act::OpenPageStream { .. } => "open-page-stream",
            Act::StartMigration => "start-migration",
            Act::Look => "look",
            Act::CatchUp => "catch-up",
            Act::FinishCopy { .. } => "finish-copy",
            Act::AwaitLoaded => "await-loaded",
            Act::CancelMigration => "cancel-migration",
            Act::OpenSourceBuffer { .. } => "open-source-buffer",
            Act::ConnectSourceBuffer { .. } => "connect-source-buffer",
            Act::ProbeGuest => "probe-guest",
            Act::ShutSourceBuffer { .. } => "shut-source-buffer",
            Act::Capture => "capture",
            Act::Surrender => "surrender",
            Act::Reclaim { .. } => "reclaim",
            Act::FinishSourceBuffer => "finish-source-buffer",
            Act::ShutForAbort => "shut-for-abort",
            Act::PutBack => "put-back",
            Act::OpenTargetBuffer { .. } => "open-target-buffer",
            Act::RunArrived { .. } => "run-arrived",
            Act::ActivateBuffer { .. } => "activate-buffer",
            Act::OpenPlug => "open-plug",
            Act::FinishTargetBuffer => "finish-target-buffer",
        }
    }
}

/// Why a QEMU is started. Either way it is stopped until it is told to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpawnFor {
    /// A guest that boots here: plugs open.
    Boot,
    /// A guest that is to come: plugs shut until FIN, QEMU waits for its stream.
    Incoming,
}

/// Which buffers of an earlier agent go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdoptBuffers {
    /// There are none.
    None,
    /// It captured: goes on reading into the same spool, and forwards to these ends where there are
    /// any.
    Capture {
        /// The target's ends.
        tunnels: Vec<Endpoint>,
    },
    /// It was putting frames back, the guest may run already: nothing is captured.
    Abort,
    /// It delivered, or was to: at the same addresses.
    Deliver {
        /// Its own ends.
        tunnels: Vec<Endpoint>,
        /// Whether the VM was activated already.
        activated: bool,
    },
    /// All was delivered, but the source may not have heard of it: it is answered at these
    /// addresses. Where that cannot be done any more it is no reason to fail.
    Delivered {
        /// Its own ends.
        tunnels: Vec<Endpoint>,
    },
}

impl AdoptBuffers {
    /// What goes on now that it is known whether the guest runs. An agent may be killed with the
    /// plug shut and the guest not stopped yet: QEMU reads the tap then, and whoever read it too
    /// would take every other frame out of its turn. What waits can only be put back.
    pub fn with_guest(self, run: RunState, surrendered: bool) -> Self {
        match self {
            AdoptBuffers::Capture { .. } if run == RunState::Running && !surrendered => AdoptBuffers::Abort,
            other => other,
        }
    }
}

/// What is done at once, cannot fail and is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Wake the machine with [`Input::Timer`](crate::Input::Timer) at this instant.
    Timer {
        /// By the monotonic clock.
        at: Millis,
        /// What for.
        timer: Timer,
    },
    /// How the page stream is read from here on.
    Pace(Pace),
    /// The guest has stopped: the target's page stream asks at once for what other streams still
    /// carry.
    StopWaitingForSiblings,
    /// The page stream is of no use any more.
    CutPageStream,
    /// Give up the act with this ticket if it can be given up. It is answered all the same.
    Interrupt(Ticket),
}

/// How a source's page stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Slowly while it is idle, so that QEMU does not search for dirty pages without pause.
    Held,
    /// As it comes.
    Released,
}

/// What an instant is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The page stream is looked at.
    Look,
    /// The guest is asked once more whether it takes frames.
    Probe,
    /// A guest that was asked to power off has had its time.
    PowerDown,
    /// What could not be taken over is tried again.
    Adopt,
    /// A record that could not be written is written again.
    Write,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_a_guest_that_runs_nothing_is_captured() {
        let capture = || AdoptBuffers::Capture { tunnels: Vec::new() };
        assert_eq!(
            capture().with_guest(RunState::Running, false),
            AdoptBuffers::Abort
        );
        assert_eq!(capture().with_guest(RunState::Paused, false), capture());
        assert_eq!(capture().with_guest(RunState::PostMigrate, true), capture());
        assert_eq!(
            AdoptBuffers::None.with_guest(RunState::Running, false),
            AdoptBuffers::None
        );
    }
}
