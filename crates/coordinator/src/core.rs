//! The coordinator's one task (§3: "managed only by one central coordinator"): every report, every request and every timer comes
//! to it in turn, and it alone owns journal, clusters and moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{error, info, warn};
use transhume_model::{ClusterName, ClusterSpec, Epoch, HostName, MigrationId, Millis, VmName, WallMicros};
use transhume_protocol::event::Event;
use transhume_protocol::message::{Command, HostState, Order, Outcome, Report, VmState};
use transhume_protocol::migration::{
    Input, JournalEntry, Migration, Now, OrderIds, Ready, RecoverError, TimerId,
};
use transhume_protocol::report::MigrationReport;

use crate::clusters::Job;
use crate::config::{Config, CrashAt};
use crate::error::Refused;
use crate::history::History;
use crate::journal::{Journal, JournalError};
use crate::link::LinkNews;
use crate::requests::Request;

/// Why the coordinator stops.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The journal failed: nothing may be decided without it.
    #[error("the journal failed, so the coordinator stops; nothing was sent that it does not hold")]
    Journal(#[from] JournalError),
    /// The journal cannot be taken up.
    #[error("migration {migration} cannot be taken up from the journal")]
    Recover {
        /// The move.
        migration: MigrationId,
        /// Why.
        #[source]
        source: RecoverError,
    },
}

/// A host as the coordinator sees it.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Where its orders go; `None` while its agent does not answer.
    orders: Option<mpsc::Sender<Order>>,
    /// As last heard.
    pub(crate) state: Option<HostState>,
}

/// A move.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) cluster: ClusterName,
    pub(crate) history: History,
    pub(crate) stage: MoveStage,
}

/// Whether a move is under way.
#[derive(Debug)]
pub(crate) enum MoveStage {
    Running(Box<Migration>),
    Over(Box<MigrationReport>),
}

/// Everything the coordinator owns.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) journal: Box<dyn Journal>,
    pub(crate) hosts: BTreeMap<HostName, Host>,
    pub(crate) clusters: BTreeMap<ClusterName, ClusterSpec>,
    pub(crate) moves: BTreeMap<MigrationId, Move>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) ids: OrderIds,
    timers: BTreeSet<(Millis, MigrationId, TimerId)>,
    started: Instant,
}

impl Core {
    /// Takes up what the journal holds. Unfinished moves go on as soon as their hosts are connected.
    pub(crate) fn recover(config: Config, mut journal: Box<dyn Journal>) -> Result<Self, CoreError> {
        let clusters = journal
            .clusters()?
            .into_iter()
            .map(|cluster| (cluster.name.clone(), cluster))
            .collect();
        let migrations = journal.migrations()?;
        let hosts = config
            .hosts
            .iter()
            .map(|host| (host.name.clone(), Host::default()))
            .collect();
        // The first id is the heartbeat's.
        let mut ids = OrderIds::of(MigrationId(0));
        let _heartbeat = ids.next_id();
        let mut core = Self {
            config,
            hosts,
            clusters,
            moves: BTreeMap::new(),
            jobs: Vec::new(),
            ids,
            timers: BTreeSet::new(),
            started: Instant::now(),
            journal: {
                journal.new_epochs(1)?;
                journal
            },
        };
        for (id, entries) in migrations {
            core.take_up(id, &entries)?;
        }
        Ok(core)
    }

    fn take_up(&mut self, id: MigrationId, entries: &[JournalEntry]) -> Result<(), CoreError> {
        let Some(JournalEntry::Begun { request, .. }) = entries.first() else {
            return Ok(());
        };
        let (cluster, history) = (request.cluster.clone(), History::new());
        if let Some(JournalEntry::Ended { report }) = entries.last() {
            let stage = MoveStage::Over(report.clone());
            let ended = transhume_protocol::event::Happening::Ended {
                ending: report.outcome,
            };
            history.push(|number| Event {
                migration: id,
                number,
                at: report.started_at,
                what: ended,
            });
            self.moves.insert(
                id,
                Move {
                    cluster,
                    history,
                    stage,
                },
            );
            return Ok(());
        }
        let epoch = self.journal.new_epochs(request.batches.len() as u64 + 1)?;
        let recovered =
            Migration::recover(self.now(), entries, epoch).map_err(|source| CoreError::Recover {
                migration: id,
                source,
            })?;
        if let Some((migration, ready)) = recovered {
            info!(migration = %id, "taken up from the journal");
            self.moves.insert(
                id,
                Move {
                    cluster,
                    history,
                    stage: MoveStage::Running(Box::new(migration)),
                },
            );
            self.carry_out(id, ready)?;
        }
        Ok(())
    }

    pub(crate) fn now(&self) -> Now {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono: Millis(self.started.elapsed().as_millis() as u64),
            wall: WallMicros(since_1970.map_or(0, |time| time.as_micros() as u64)),
        }
    }

    /// Works until the journal fails or everybody who could ask is gone.
    pub(crate) async fn run(
        mut self,
        mut news: mpsc::Receiver<LinkNews>,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), CoreError> {
        loop {
            let due = self
                .timers
                .first()
                .map(|(at, ..)| self.started + std::time::Duration::from_millis(at.0));
            let timer = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                told = news.recv() => match told {
                    Some(told) => self.hear(told)?,
                    None => return Ok(()),
                },
                request = requests.recv() => match request {
                    Some(request) => self.serve(request)?,
                    None => return Ok(()),
                },
                () = timer => self.ring()?,
            }
        }
    }

    fn ring(&mut self) -> Result<(), CoreError> {
        let now = self.now().mono;
        while let Some((at, id, timer)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.feed(id, Input::Timer(timer))?;
        }
        Ok(())
    }

    fn hear(&mut self, told: LinkNews) -> Result<(), CoreError> {
        match told {
            LinkNews::Back { host, state, orders } => {
                let entry = self.hosts.entry(host.clone()).or_default();
                entry.orders = Some(orders);
                entry.state = Some((*state).clone());
                self.feed_all(|| Input::AgentBack {
                    host: host.clone(),
                    state: state.clone(),
                })
            }
            LinkNews::Lost { host } => {
                self.hosts.entry(host.clone()).or_default().orders = None;
                self.jobs_lose(&host)?;
                self.feed_all(|| Input::AgentLost { host: host.clone() })
            }
            LinkNews::Report { host, report } => self.hear_report(host, *report),
        }
    }

    fn hear_report(&mut self, host: HostName, report: Report) -> Result<(), CoreError> {
        if let Outcome::Host(state) = &report.outcome {
            self.hosts.entry(host).or_default().state = Some((**state).clone());
            return Ok(());
        }
        match report.order.map(OrderIds::migration_of) {
            Some(Some(id)) => self.feed(id, Input::Report { host, report }),
            Some(None) => self.job_report(&host, report),
            // An agent that speaks up by itself: whichever move has the VM.
            None => match report.vm.as_ref().and_then(|vm| self.move_with(vm)) {
                Some(id) => self.feed(id, Input::Report { host, report }),
                None => {
                    warn!(%host, vm = report.vm.as_ref().map(VmName::as_str), what = report.outcome.name(), "outside of any move");
                    Ok(())
                }
            },
        }
    }

    fn move_with(&self, vm: &VmName) -> Option<MigrationId> {
        self.moves.iter().find_map(|(id, one)| match &one.stage {
            MoveStage::Running(migration) => {
                let mut vms = migration.request().batches.iter().flatten();
                vms.any(|moved| moved.spec.name == *vm).then_some(*id)
            }
            MoveStage::Over(_) => None,
        })
    }

    fn feed_all(&mut self, input: impl Fn() -> Input) -> Result<(), CoreError> {
        let running: Vec<MigrationId> = self.running().collect();
        running.into_iter().try_for_each(|id| self.feed(id, input()))
    }

    fn running(&self) -> impl Iterator<Item = MigrationId> + '_ {
        self.moves
            .iter()
            .filter(|(_, one)| matches!(one.stage, MoveStage::Running(_)))
            .map(|(id, _)| *id)
    }

    /// Gives a move one input and does what it wants done.
    pub(crate) fn feed(&mut self, id: MigrationId, input: Input) -> Result<(), CoreError> {
        let now = self.now();
        let Some(Move {
            stage: MoveStage::Running(migration),
            ..
        }) = self.moves.get_mut(&id)
        else {
            return Ok(());
        };
        match migration.handle(now, input) {
            Ok(ready) => self.carry_out(id, ready),
            Err(illegal) => {
                error!("{illegal}");
                Ok(())
            }
        }
    }

    /// Persist, then send, then everything else: the order binds (see [`Ready`]).
    pub(crate) fn carry_out(&mut self, id: MigrationId, ready: Ready) -> Result<(), CoreError> {
        if !ready.persist.is_empty() {
            self.persist(id, &ready.persist)?;
        }
        for (host, order) in ready.send {
            self.send(&host, order);
        }
        self.timers
            .extend(ready.timers.into_iter().map(|(at, timer)| (at, id, timer)));
        if ready.done {
            self.look_around();
        }
        let at = self.now().wall;
        if let Some(one) = self.moves.get_mut(&id) {
            if ready.done
                && let MoveStage::Running(migration) = &one.stage
            {
                let report = migration.report(Now {
                    mono: Millis(0),
                    wall: at,
                });
                info!(migration = %id, outcome = ?report.outcome, "over");
                one.stage = MoveStage::Over(Box::new(report));
                self.timers.retain(|(_, of, _)| *of != id);
            }
            for what in ready.events {
                one.history.push(|number| Event {
                    migration: id,
                    number,
                    at,
                    what,
                });
            }
        }
        Ok(())
    }

    /// Journal first; where VMs live changes in the same transaction as the commit.
    fn persist(&mut self, id: MigrationId, entries: &[JournalEntry]) -> Result<(), CoreError> {
        let committed = entries.iter().find_map(|entry| match entry {
            JournalEntry::Committed { batch, .. } => Some(*batch),
            _ => None,
        });
        let cluster = committed.and_then(|batch| self.relocated(id, batch));
        if committed.is_some() && self.config.crash_at == Some(CrashAt::BeforeCommitted) {
            std::process::abort();
        }
        self.journal.append(id, entries, cluster.as_ref())?;
        if committed.is_some() && self.config.crash_at == Some(CrashAt::AfterCommitted) {
            std::process::abort();
        }
        if let Some(cluster) = cluster {
            self.clusters.insert(cluster.name.clone(), cluster);
        }
        Ok(())
    }

    fn relocated(&self, id: MigrationId, batch: usize) -> Option<ClusterSpec> {
        let one = self.moves.get(&id)?;
        let MoveStage::Running(migration) = &one.stage else {
            return None;
        };
        let moved = migration.request().batches.get(batch.checked_sub(1)?)?;
        let mut cluster = self.clusters.get(&one.cluster)?.clone();
        for vm in &mut cluster.vms {
            if let Some(target) = moved.iter().find(|moved| moved.spec.name == vm.spec.name) {
                vm.host = target.target.clone();
            }
        }
        Some(cluster)
    }

    /// Asks every host for its state, out of turn: a move or a cluster has just changed it.
    pub(crate) fn look_around(&mut self) {
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for host in hosts {
            let order = Order {
                id: self.ids.next_id(),
                epoch: Epoch::default(),
                command: Command::Inspect,
            };
            self.send(&host, order);
        }
    }

    /// An order for a host that is away is dropped; whoever gave it gives it again.
    pub(crate) fn send(&mut self, host: &HostName, order: Order) {
        let Some(orders) = self.hosts.get(host).and_then(|host| host.orders.as_ref()) else {
            return;
        };
        if orders.try_send(order).is_err() {
            warn!(%host, "the link does not take orders any more");
        }
    }

    pub(crate) fn new_epoch(&mut self) -> Result<Epoch, CoreError> {
        Ok(self.journal.new_epochs(1)?)
    }

    pub(crate) fn connected(&self, host: &HostName) -> bool {
        self.hosts.get(host).is_some_and(|host| host.orders.is_some())
    }

    /// A host's newest state; refused while its agent does not answer.
    pub(crate) fn state(&self, host: &HostName) -> Result<&HostState, Refused> {
        let entry = self.hosts.get(host).filter(|entry| entry.orders.is_some());
        entry
            .and_then(|entry| entry.state.as_ref())
            .ok_or_else(|| Refused::unreachable(host.as_str()))
    }

    pub(crate) fn host_named(&self, name: &str) -> Result<HostName, Refused> {
        let found = self.hosts.keys().find(|host| host.as_str() == name).cloned();
        let known = || {
            self.hosts
                .keys()
                .map(|host| host.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        found.ok_or_else(|| Refused::unknown("host", name, &known()))
    }

    pub(crate) fn cluster(&self, name: &str) -> Result<&ClusterSpec, Refused> {
        let found = self
            .clusters
            .values()
            .find(|cluster| cluster.name.as_str() == name);
        let known = || {
            self.clusters
                .keys()
                .map(|cluster| cluster.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        found.ok_or_else(|| Refused::unknown("cluster", name, &known()))
    }

    /// The move of a cluster that is under way.
    pub(crate) fn move_of(&self, cluster: &ClusterName) -> Option<MigrationId> {
        self.running().find(|id| self.moves[id].cluster == *cluster)
    }

    /// What a host's agent says of a VM.
    pub(crate) fn vm_state(&self, host: &HostName, vm: &VmName) -> Option<&VmState> {
        self.hosts
            .get(host)?
            .state
            .as_ref()?
            .vms
            .iter()
            .find(|state| state.spec.name == *vm)
    }
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refused>>;
