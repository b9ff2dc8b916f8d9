//! What goes into the group state machine and what comes out of it.

use std::fmt;

use transhume_model::{HostName, MigrationId, Millis, OrderId, VmName, WallMicros};

use super::journal::{JournalEntry, RunOn};
use super::request::StuckRates;
use crate::event::Happening;
use crate::message::{HostState, Order, Report};
use crate::step::Step;

/// The instant of an input, by both of the driver's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock, any origin: waits are measured by it.
    pub mono: Millis,
    /// Wall clock: journal and report are dated by it.
    pub wall: WallMicros,
}

/// What the driver gives to the machine.
#[expect(
    clippy::large_enum_variant,
    reason = "inputs are handed over one by one, never kept"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// An agent's report.
    Report {
        /// Host of the agent.
        host: HostName,
        /// What it says.
        report: Report,
    },
    /// The connection to a host's agent broke. What was on its way is lost.
    AgentLost {
        /// The host.
        host: HostName,
    },
    /// A host's agent is connected again; its first report came with it. Of a host that was not
    /// lost it means that the connection was replaced, and counts as loss and return.
    AgentBack {
        /// The host.
        host: HostName,
        /// What it says of itself.
        state: Box<HostState>,
    },
    /// An instant of [`Ready::timers`] has come. Too early, too late or twice does no harm.
    Timer(TimerId),
    /// A new estimate of a host's clock. What the host reports from now on is read by it, so the
    /// first one comes before the host's [`Input::AgentBack`], or before the first report.
    Clock {
        /// The host.
        host: HostName,
        /// Its wall clock minus the coordinator's, in microseconds.
        offset_us: i64,
        /// How far the offset may be off, in microseconds.
        uncertainty_us: u64,
    },
    /// A VM whose memory is being copied dirties it as fast as it can be sent; told once.
    Stuck {
        /// The VM.
        vm: VmName,
        /// Its rates.
        rates: StuckRates,
    },
    /// Batches that are to come are cut anew: exactly their VMs, in these batches, in this order.
    Arrange {
        /// The VMs of each batch.
        batches: Vec<Vec<VmName>>,
    },
    /// The user, or a fence agent, says that a host is off: it is lost for good. Of a host that is
    /// connected it means nothing.
    Fenced {
        /// The host.
        host: HostName,
    },
    /// The user does not wait for the source of a committed VM any longer: it is given up now.
    GiveUpSource {
        /// The VM.
        vm: VmName,
    },
    /// The user decides where a VM runs whose other host is lost.
    /// [`Migration::check_resolution`](super::Migration::check_resolution) says what is open.
    Resolve {
        /// The VM.
        vm: VmName,
        /// Where.
        run_on: RunOn,
        /// On its source although it may have run on its target and written its disks.
        although_it_may_have_run: bool,
    },
    /// The user wants to stop: before commit the batch rolls back, after it no further batch
    /// begins.
    Cancel,
}

/// Which wait a timer belongs to. A timer that is set again does not replace the earlier one; the
/// machine knows which instants still matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimerId {
    /// A step of a batch may not take longer.
    Step {
        /// Which batch, from 1.
        batch: usize,
        /// The step.
        step: Step,
    },
    /// Pre-copy of a batch may not take longer.
    PreCopy {
        /// Which batch, from 1.
        batch: usize,
    },
    /// The whole move may not take longer.
    Move,
    /// A lost agent is not waited for any longer.
    AgentLost {
        /// The host.
        host: HostName,
    },
    /// A lost host is given up.
    HostLost {
        /// The host.
        host: HostName,
    },
    /// An order is given again unless it was answered.
    Again {
        /// The VM it is about.
        vm: VmName,
        /// The order.
        order: OrderId,
    },
}

/// Everything that one input wants done.
///
/// **Order binds: the driver makes all of [`persist`](Ready::persist) durable before any of
/// [`send`](Ready::send) leaves** or any event is shown. A driver that cannot persist sends nothing
/// of this `Ready` and drops the machine; [`Migration::recover`](super::Migration::recover) takes
/// the move up from what is durable.
#[must_use = "orders not sent and entries not persisted are lost"]
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ready {
    /// First: append these to the journal, all or none, and make them durable.
    pub persist: Vec<JournalEntry>,
    /// Second: send these, in order for each host. An order for a host that is not connected is
    /// dropped; the machine gives it again after [`Input::AgentBack`].
    pub send: Vec<(HostName, Order)>,
    /// Instants (of [`Now::mono`]) at which [`Input::Timer`] is wanted.
    pub timers: Vec<(Millis, TimerId)>,
    /// What happened, for people. Each is given exactly once in a coordinator run.
    pub events: Vec<Happening>,
    /// The move is over; later inputs are ignored.
    pub done: bool,
}

/// An input that cannot come in this state: a bug, or an agent that does not keep to the protocol.
/// The machine is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("migration {migration}, step {step}{}: {input} is not possible here", OfVm(.vm))]
pub struct Illegal {
    /// The move.
    pub migration: MigrationId,
    /// Step of the batch under way.
    pub step: Step,
    /// The VM, where the input is about one.
    pub vm: Option<VmName>,
    /// The input in short, with its host.
    pub input: String,
}

struct OfVm<'a>(&'a Option<VmName>);

impl fmt::Display for OfVm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(vm) => write!(f, ", VM {vm}"),
            None => Ok(()),
        }
    }
}

/// Order ids of one move: the migration's number above, a counter below. Ids are unique within a
/// coordinator run, and an id names its move, so that the driver can route reports. Migration 0
/// does not exist: its ids (1 to 2³² − 1) are the driver's own, for orders that belong to no move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderIds {
    migration: MigrationId,
    given: u64,
}

impl OrderIds {
    const COUNTER_BITS: u32 = 32;

    /// The ids of a move; `MigrationId(0)` for orders outside of any.
    pub fn of(migration: MigrationId) -> Self {
        OrderIds { migration, given: 0 }
    }

    /// The next id.
    pub fn next_id(&mut self) -> OrderId {
        self.given += 1;
        debug_assert!(self.given >> Self::COUNTER_BITS == 0);
        OrderId(self.migration.0 << Self::COUNTER_BITS | self.given)
    }

    /// Whether this id was given out.
    pub(super) fn was_given(&self, order: OrderId) -> bool {
        let counter = order.0 & ((1 << Self::COUNTER_BITS) - 1);
        order.0 >> Self::COUNTER_BITS == self.migration.0 && (1..=self.given).contains(&counter)
    }

    /// The move an order belongs to; `None` for orders outside of any.
    pub fn migration_of(order: OrderId) -> Option<MigrationId> {
        let migration = order.0 >> Self::COUNTER_BITS;
        (migration != 0).then_some(MigrationId(migration))
    }
}
