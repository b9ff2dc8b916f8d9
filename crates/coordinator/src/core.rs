//! The coordinator's one task (§3: "managed only by one central coordinator"): every report, every request and every timer comes
//! to it in turn, and it alone owns journal, clusters and moves.
//!
//! What it does with them is told elsewhere: `moves`, `survey`, `jobs`, `clusters`, `hosts`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use transhume_model::{ClusterName, HostName, MigrationId, Millis, WallMicros};
use transhume_protocol::message::{Outcome, Report};
use transhume_protocol::migration::{Input, Now, OrderIds, RecoverError, TimerId};

use crate::config::Config;
use crate::error::Refused;
use crate::hosts::Hosts;
use crate::jobs::{Job, Kind};
use crate::journal::{ClusterRecord, ClusterStage, Journal, JournalError};
use crate::link::{HEARTBEAT_ORDER, LinkNews};
use crate::moves::Move;
use crate::requests::Request;
use crate::survey::{Planned, Survey};

/// Plans that are made and not yet heard.
const PLANNED_WAITING_MAX: usize = 64;

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

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// What an instant is waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// A timer of a move.
    Move(MigrationId, TimerId),
    /// Surveys or jobs whose time may be over.
    Waiting,
}

/// Everything the coordinator owns.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) journal: Box<dyn Journal>,
    pub(crate) hosts: Hosts,
    pub(crate) clusters: BTreeMap<ClusterName, ClusterRecord>,
    pub(crate) moves: BTreeMap<MigrationId, Move>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) surveys: Vec<Survey>,
    pub(crate) alarms: BTreeSet<(Millis, Alarm)>,
    /// Where planners leave their work.
    pub(crate) planned: mpsc::Sender<Planned>,
    made_plans: mpsc::Receiver<Planned>,
    started: Instant,
}

impl Core {
    /// Takes up what the journal holds. What is not over goes on as soon as its hosts are connected.
    pub(crate) fn recover(config: Config, mut journal: Box<dyn Journal>) -> Result<Self, CoreError> {
        let life = journal.new_epochs(1)?;
        let clusters = journal.clusters()?.into_iter();
        let migrations = journal.migrations()?;
        let names = config.hosts.iter().map(|host| host.name.clone());
        let mut ids = OrderIds::of(MigrationId(0));
        let heartbeat = ids.next_id();
        assert_eq!(heartbeat, HEARTBEAT_ORDER, "the first id is the heartbeat's");
        let (planned, made_plans) = mpsc::channel(PLANNED_WAITING_MAX);
        let mut core = Self {
            hosts: Hosts::new(names, ids),
            clusters: clusters
                .map(|cluster| (cluster.spec.name.clone(), cluster))
                .collect(),
            config,
            journal,
            moves: BTreeMap::new(),
            jobs: Vec::new(),
            surveys: Vec::new(),
            alarms: BTreeSet::new(),
            planned,
            made_plans,
            started: Instant::now(),
        };
        for (id, entries) in migrations {
            core.take_up(id, &entries, life)?;
        }
        core.forget_old_moves()?;
        core.end_half_done_clusters()?;
        Ok(core)
    }

    /// Whoever wanted them created or deleted has had no answer.
    fn end_half_done_clusters(&mut self) -> Result<(), CoreError> {
        let half_done = self.clusters.values();
        let half_done = half_done.filter(|cluster| cluster.stage != ClusterStage::Live);
        let half_done: Vec<ClusterRecord> = half_done.cloned().collect();
        half_done.into_iter().try_for_each(|mut cluster| {
            cluster.stage = ClusterStage::Ending;
            self.begin_job(Kind::End, cluster, None, None)
        })
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
            self.ring()?;
            let due = self.alarms.first();
            let due = due.map(|(at, _)| self.started + Duration::from_millis(at.0));
            let alarm = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = news.recv() => match told {
                    Some(told) => self.hear(told)?,
                    None => return Ok(()),
                },
                request = requests.recv() => match request {
                    Some(request) => self.serve(request)?,
                    None => return Ok(()),
                },
                Some(planned) = self.made_plans.recv() => self.hear_plan(planned)?,
                () = alarm => {}
            }
        }
    }

    /// Everything whose time has come.
    fn ring(&mut self) -> Result<(), CoreError> {
        let now = self.now().mono;
        while self.alarms.first().is_some_and(|(at, _)| *at <= now) {
            match self.alarms.pop_first() {
                Some((_, Alarm::Move(id, timer))) => self.feed(id, Input::Timer(timer))?,
                Some((_, Alarm::Waiting)) => {
                    self.surveys_due(now);
                    self.jobs_due(now)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    fn hear(&mut self, told: LinkNews) -> Result<(), CoreError> {
        match told {
            LinkNews::Back { host, state, orders } => {
                self.hosts.back(&host, (*state).clone(), orders);
                self.jobs_regain()?;
                self.feed_all_on(&host, || Input::AgentBack {
                    host: host.clone(),
                    state: state.clone(),
                })
            }
            LinkNews::Lost { host } => {
                self.hosts.lost(&host);
                self.surveys_lose(&host);
                self.jobs_lose(&host)?;
                self.feed_all_on(&host, || Input::AgentLost { host: host.clone() })
            }
            LinkNews::Away { host, why } => {
                self.hosts.away(&host, why);
                Ok(())
            }
            LinkNews::Report { host, report } => self.hear_report(host, *report),
        }
    }

    fn hear_report(&mut self, host: HostName, report: Report) -> Result<(), CoreError> {
        if let Outcome::Host(state) = report.outcome {
            self.hosts.said(&host, *state);
            if let Some(order) = report.order {
                self.survey_answered(order);
            }
            return Ok(());
        }
        match report.order.map(OrderIds::migration_of) {
            Some(None) => self.job_report(&host, report),
            Some(Some(id)) => self.report_for(Some(id), host, report),
            // An agent that speaks up by itself: whichever move has the VM.
            None => self.report_for(None, host, report),
        }
    }
}
