//! What the API asks of the core, one variant per route.

use tokio::sync::oneshot;
use transhume_api::{
    Accepted, ClusterList, ClusterView, DrainList, DrainPlanView, DrainView, ForecastRecord, HostList,
    HostView, LinkView, MigrationList, MoveOrder, PlanView, Verdict,
};
use transhume_metrics::Samples;
use transhume_model::{ClusterSpec, PlacementRules};
use transhume_protocol::migration::RunOn;
use transhume_protocol::report::MigrationReport;

use crate::error::Refused;
use crate::history::History;

/// Where an answer goes.
#[derive(Debug)]
pub(crate) struct Reply<T>(oneshot::Sender<Result<T, Refused>>);

impl<T> Reply<T> {
    /// A place for an answer, and where it will be.
    pub(crate) fn channel() -> (Self, oneshot::Receiver<Result<T, Refused>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_forsaken(&self) -> bool {
        self.0.is_closed()
    }

    /// Whoever asked may have gone; that is no error.
    pub(crate) fn send(self, answer: Result<T, Refused>) {
        let _ = self.0.send(answer);
    }
}

/// A request with the place of its answer. Names are as they came.
#[derive(Debug)]
pub(crate) enum Request {
    Metrics(Reply<Samples>),
    Hosts(Reply<HostList>),
    Clusters(Reply<ClusterList>),
    ShowCluster(String, Reply<ClusterView>),
    CreateCluster(ClusterSpec, Reply<ClusterView>),
    DeleteCluster(String, Reply<ClusterView>),
    ForgetCluster {
        cluster: String,
        dry_run: bool,
        reply: Reply<Verdict>,
    },
    Rules(String, Reply<PlacementRules>),
    SetRules(String, PlacementRules, Reply<PlacementRules>),
    Vm(VmRequest, Reply<ClusterView>),
    CheckVm(VmRequest, Reply<Verdict>),
    Plan(String, MoveOrder, Reply<PlanView>),
    Move(String, MoveOrder, Reply<Accepted>),
    Migrations(Reply<MigrationList>),
    Report(String, Reply<MigrationReport>),
    Forecasts(Reply<ForecastRecord>),
    Follow(String, Reply<History>),
    Cancel(String, Reply<Accepted>),
    PlanDrain(MoveOrder, Reply<DrainPlanView>),
    Drain(MoveOrder, Reply<DrainView>),
    Drains(Reply<DrainList>),
    ShowDrain(String, Reply<DrainView>),
    CancelDrain(String, Reply<DrainView>),
    ShowHost(String, Reply<HostView>),
    CheckLink {
        from: String,
        to: String,
        reply: Reply<LinkView>,
    },
    Host {
        host: String,
        wish: HostWish,
        dry_run: bool,
        reply: Reply<Verdict>,
    },
    Resolve {
        migration: String,
        wish: ResolveWish,
        dry_run: bool,
        reply: Reply<Verdict>,
    },
    OpenPlug {
        cluster: String,
        vm: String,
        dry_run: bool,
        reply: Reply<Verdict>,
    },
}

/// Where VMs are to run whose other host is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolveWish {
    /// All that wait for a decision where absent.
    pub(crate) vm: Option<String>,
    pub(crate) run_on: RunOn,
    pub(crate) although_it_may_have_run: bool,
}

/// What is to become of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostWish {
    /// It is off.
    Fence { force: bool },
    /// Nothing is put on it, or something may be again.
    Cordon(bool),
    /// Nothing is remembered of it.
    Forget,
}

/// What is to become of one VM.
#[derive(Debug)]
pub(crate) struct VmRequest {
    pub(crate) cluster: String,
    pub(crate) vm: String,
    pub(crate) wish: VmWish,
}

/// See [`VmRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmWish {
    /// Boot it, on another host than its own where that is named.
    Start { host: Option<String> },
    /// Boot it from its disks on another host, its own being off.
    Restart { on: String },
    /// Power it off.
    Stop { force: bool },
    /// Take it out of its cluster.
    Forget,
}
