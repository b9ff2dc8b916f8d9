//! What happens during a move, as one type: the CLI's progress, the report, logs, metrics and the
//! dashboard are all fed by it. Emitted once, by the group state machine.

use serde::{Deserialize, Serialize};
use transhume_model::{HostName, MigrationId, VmName, WallMicros};
use utoipa::ToSchema;

use crate::message::{BandsChange, Fault, PageProgress, Refusal};
use crate::migration::{Converge, RunOn, StuckRates};
use crate::report::{Ending, Lost};
use crate::step::{Phase, Side, Step};

/// An event with its place in the migration's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// The move.
    pub migration: MigrationId,
    /// Grows from event to event of a migration, with gaps, also across restarts of the
    /// coordinator.
    pub number: u64,
    /// When, by the coordinator's clock (stamped by the driver).
    pub at: WallMicros,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Happening {
    /// The move was accepted.
    Begun {
        /// VMs it will move, in order of their batches.
        vms: Vec<VmName>,
        /// Number of batches.
        batches: usize,
    },
    /// A batch entered a step.
    StepEntered {
        /// Which batch, from 1.
        batch: usize,
        /// The step.
        step: Step,
    },
    /// A VM entered a phase.
    PhaseEntered {
        /// The VM.
        vm: VmName,
        /// The phase.
        phase: Phase,
    },
    /// A page stream moved on.
    Progress {
        /// The VM.
        vm: VmName,
        /// How far.
        pages: PageProgress,
    },
    /// How far the move is; neither figure ever runs backwards.
    Outlook {
        /// Share that is done, 0 to 1.
        done: f64,
        /// Time left; absent while nobody can say.
        left_ms: Option<u64>,
    },
    /// A VM dirties its memory as fast as it can be sent.
    Stuck {
        /// The VM.
        vm: VmName,
        /// Its rates.
        rates: StuckRates,
        /// What becomes of it.
        policy: Converge,
    },
    /// The batch under way begins again without a VM, which goes last, alone.
    PutOff {
        /// The VM.
        vm: VmName,
        /// Its new batch, from 1.
        batch: usize,
    },
    /// Batches that are to come are cut anew, by what has been measured since.
    Rearranged {
        /// Batches of the move in all, by now.
        batches: usize,
        /// VMs of the largest that is to come.
        batch_max: usize,
    },
    /// An agent refused an order.
    Refused {
        /// The host.
        host: HostName,
        /// The VM.
        vm: VmName,
        /// Why.
        refusal: Refusal,
    },
    /// Something broke.
    Failed {
        /// The host, where one is to blame.
        host: Option<HostName>,
        /// The VM, where one is to blame.
        vm: Option<VmName>,
        /// What.
        fault: Fault,
    },
    /// A host's agent does not answer.
    AgentLost {
        /// The host.
        host: HostName,
    },
    /// A host's agent answers again.
    AgentBack {
        /// The host.
        host: HostName,
    },
    /// A host is lost for good, as far as can be seen.
    HostGone {
        /// The host.
        host: HostName,
    },
    /// The move goes on without one of a VM's hosts.
    GivenUp {
        /// The VM.
        vm: VmName,
        /// Its host.
        host: HostName,
        /// Which of the two it is.
        side: Side,
    },
    /// An operator has to say what becomes of a VM, unless its host comes back.
    DecisionWanted {
        /// The VM.
        vm: VmName,
        /// The host that is lost, or has lost the VM.
        host: HostName,
        /// Which of the two.
        #[serde(default)]
        lost: Lost,
        /// What can be decided, and how.
        hint: String,
    },
    /// An operator said where a VM runs.
    Resolved {
        /// The VM.
        vm: VmName,
        /// Where.
        run_on: RunOn,
    },
    /// How the links of a host of this move are divided has changed (§3.1).
    Bands {
        /// The host.
        host: HostName,
        /// What became of them.
        change: BandsChange,
    },
    /// A batch begins to return to its sources.
    RollingBack {
        /// Which batch, from 1.
        batch: usize,
        /// Why, in words.
        reason: String,
    },
    /// The user asked to cancel, but the batch returns to its sources already: nothing changes.
    AlreadyRollingBack {
        /// Which batch, from 1.
        batch: usize,
    },
    /// The journal holds `Committed`.
    Committed {
        /// Which batch, from 1.
        batch: usize,
    },
    /// A VM is gone after its batch was committed: the rest of the move goes on without it.
    VmLost {
        /// The VM.
        vm: VmName,
        /// Where it should have run.
        host: HostName,
        /// What happened to it.
        fault: Fault,
    },
    /// The move is over.
    Ended {
        /// How.
        ending: Ending,
    },
}
