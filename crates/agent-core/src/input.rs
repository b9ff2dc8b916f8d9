//! What the machine is told.

use transhume_model::{Bytes, Endpoint, Millis, ProcessId, VmSpec, WallMicros};
use transhume_protocol::message::{GuestState, Order, PageProgress, SourceFrames, TargetFrames};

use crate::effect::{Ticket, Timer};
use crate::trouble::Trouble;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// An order about this VM.
    Order(Order),
    /// What came of an act. Every act is answered once.
    Done {
        /// Of the effect.
        ticket: Ticket,
        /// What it made, or why it did not.
        result: Result<Product, Trouble>,
    },
    /// QEMU says that its run state changed; already asked for, not guessed from the event.
    RunState(RunState),
    /// The guest powered itself off: QEMU's `SHUTDOWN` event, caused by the guest.
    PoweredOff,
    /// QEMU's process ended.
    Died {
        /// Its last words, or where they are.
        why: String,
    },
    /// The page stream ended before its time.
    PageStreamBroke {
        /// Why.
        why: String,
    },
    /// Memory was passed over once more: worth a look at the progress.
    PassBegan,
    /// A buffer reports something by itself.
    BufferFault(transhume_protocol::message::Fault),
    /// A [`Signal::Timer`](crate::Signal::Timer) is due. Too early or twice does no harm.
    Timer(Timer),
}

/// What an act made.
#[derive(Debug, Clone, PartialEq)]
pub enum Product {
    /// Nothing but its effect.
    Done,
    /// Of `Admit`: the VM with its machine type filled in.
    Admitted {
        /// The VM.
        spec: VmSpec,
    },
    /// Of `Spawn`.
    Spawned {
        /// QEMU, stopped.
        process: ProcessId,
    },
    /// Of `Adopt`.
    Adopted {
        /// QEMU's run state.
        run: RunState,
    },
    /// Of `Adopt`, of what is surrendered: there is nothing of what it had captured. Its host was
    /// started anew.
    AdoptedWithoutSpool,
    /// Of `Adopt`: the process has ended since it was found, and is not surrendered. Of `Reclaim`:
    /// there is none.
    Gone,
    /// Of `CancelMigration`: QEMU's state once it is over.
    Cancelled {
        /// As QEMU says.
        run: RunState,
    },
    /// Of `Stop`.
    Stopped {
        /// QEMU's run state, asked behind the stop: a guest that fell before it does not obey.
        run: RunState,
    },
    /// Of `End`: the account of a source's buffers that were still open.
    Ended {
        /// Frames captured and not accounted for before.
        source: Option<SourceFrames>,
    },
    /// Of `OpenPageListener`.
    Listening {
        /// Where the source is to connect.
        at: Endpoint,
    },
    /// Of `AwaitLoaded`.
    Loaded {
        /// QEMU's run state: that in which the guest was stopped.
        run: RunState,
    },
    /// Of `Look`.
    Looked(Looked),
    /// Of `FinishCopy`.
    Copied {
        /// What went over the wire in all.
        pages: PageProgress,
        /// When QEMU reached pre-switchover.
        pre_switchover_at: WallMicros,
    },
    /// Of `ProbeGuest`: whether the guest takes frames.
    Takes(bool),
    /// Of `ShutSourceBuffer`.
    Shut {
        /// All plugs shut.
        shut_at: WallMicros,
        /// All rings seen empty, or taken as they are.
        empty_at: WallMicros,
    },
    /// Of `FinishSourceBuffer` and `PutBack`.
    SourceFrames(SourceFrames),
    /// Of `OpenTargetBuffer`: tunnel end of each NIC.
    Tunnels(Vec<Endpoint>),
    /// Of `ActivateBuffer`.
    Announced {
        /// All frames that had come are with the guest, or lie in its ring as far as it takes them.
        injected_at: WallMicros,
        /// Announced to the fabric.
        announced_at: WallMicros,
    },
    /// Of `FinishTargetBuffer`.
    TargetFrames(TargetFrames),
}

/// A look at a source's migration.
#[derive(Debug, Clone, PartialEq)]
pub struct Looked {
    /// Where QEMU is.
    pub status: CopyStatus,
    /// QEMU's run state.
    pub run: RunState,
    /// How far it is, with the predicted blackout.
    pub pages: PageProgress,
    /// The target's agent lags little: what is under way does not lengthen the blackout.
    pub lag_within_limit: bool,
    /// What its buffers will have to hold.
    pub flow: Flow,
}

/// What comes for a guest, and the buffer that has to hold it while the guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// Bytes a second for the busiest of its NICs.
    pub bytes_per_s: u64,
    /// What that NIC's buffer holds.
    pub bytes_max: Bytes,
}

impl Flow {
    /// How long the buffer holds it; `None` where nothing comes.
    pub fn held_for(self) -> Option<Millis> {
        let ms = self
            .bytes_max
            .0
            .saturating_mul(1_000)
            .checked_div(self.bytes_per_s)?;
        Some(Millis(ms))
    }
}

/// Where QEMU's migration is, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyStatus {
    /// None, or not begun to copy yet.
    Idle,
    /// Memory is copied.
    Active,
    /// QEMU has stopped the guest and asks to go on.
    PreSwitchover,
    /// Everything is sent, or being sent.
    Sent,
    /// It failed or was cancelled.
    Lost {
        /// QEMU's words.
        why: String,
    },
}

/// QEMU's run state, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// The guest runs.
    Running,
    /// Stopped by command, or loaded and not told to run.
    Paused,
    /// Started and not told to run.
    Prelaunch,
    /// Waits for its page stream.
    InMigrate,
    /// Stopped by QEMU for the end of a migration.
    FinishMigrate,
    /// Sent away.
    PostMigrate,
    /// Stopped on a disk error.
    DiskError,
    /// The guest panicked.
    Panicked,
    /// The guest powered itself off.
    Shutdown,
}

impl RunState {
    /// What the guest itself does, where the state says so: the stops that a migration makes do
    /// not.
    pub fn guest(self) -> Option<GuestState> {
        match self {
            RunState::Running => Some(GuestState::Running),
            RunState::Paused | RunState::Prelaunch => Some(GuestState::Paused),
            RunState::DiskError => Some(GuestState::DiskError),
            RunState::Panicked => Some(GuestState::Panicked),
            RunState::Shutdown => Some(GuestState::Off),
            RunState::InMigrate | RunState::FinishMigrate | RunState::PostMigrate => None,
        }
    }
}

/// What an agent that starts finds of a recorded VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The recorded process lives, or one that carries the VM's mark where none was recorded yet.
    Alive(ProcessId),
    /// No process of it lives.
    Gone,
}
