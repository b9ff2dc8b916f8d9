//! The coordinator's one task (§3: "managed only by one central coordinator"): every report, every
//! request and every timer comes to it in turn.
//!
//! What there is belongs to [`Store`], [`Hosts`], [`Moves`], [`Jobs`] and [`Surveys`], which know
//! nothing of each other's insides. Here they are wired: what one of them wants done is made
//! durable, then sent, then passed on to the others.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::warn;
use transhume_api::{Accepted, ClusterStage};
use transhume_model::{Epoch, HostName, MigrationId, Millis, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::message::{BandsChange, Command, Order, OrderKind, Outcome, Report};
use transhume_protocol::migration::{Input, JournalEntry, Now, OrderIds, Ready, RecoverError};

/// One line for each decision that an operator took, and for what came of it later.
macro_rules! audit {
    ($($arguments:tt)*) => { tracing::info!(target: "audit", $($arguments)*) };
}

mod arranging;
mod cleaning;
mod drains;
mod links;
mod operators;
mod plans;
mod requests;

use crate::arranging::{Arranging, moments};
use crate::cleaning::Cleaner;
use crate::clock::Estimate;
use crate::config::Config;
use crate::drains::Drains;
use crate::effects;
use crate::governing::{Governing, network};
use crate::hosts::Hosts;
use crate::jobs::{ClusterWork, Effect, Jobs};
use crate::journal::{Journal, JournalError};
use crate::link::LinkNews;
use crate::link_checks::LinkChecks;
use crate::metrics::Metrics;
use crate::moves::{Moves, Progress};
use crate::requests::{Reply, Request};
use crate::store::Store;
use crate::surveys::{Made, Surveys, Waiting};

/// A coordinator that has just begun answers requests once every agent was tried, and after this
/// time at the latest: it would call hosts lost that it never asked.
const FIRST_LOOK_MAX: Millis = Millis(3_000);

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

/// The owners of everything there is, and the journal.
pub(crate) struct Core {
    config: Config,
    store: Store,
    hosts: Hosts,
    moves: Moves,
    jobs: Jobs,
    surveys: Surveys,
    link_checks: LinkChecks,
    governing: Governing,
    arranging: Arranging,
    cleaner: Cleaner,
    drains: Drains,
    /// Orders that wait for bandwidth, the first first.
    waiting: Vec<(Box<Waiting>, Reply<Accepted>)>,
    metrics: Metrics,
    started: Instant,
}

impl Core {
    /// Takes up what the journal holds. What is not over goes on as soon as its hosts are
    /// connected.
    pub(crate) fn recover(config: Config, journal: Box<dyn Journal>) -> Result<Self, CoreError> {
        let names = config.hosts.iter().map(|host| host.name.clone());
        let mut metrics = Metrics::new(names.clone());
        let store = Store::new(metrics.measured(journal), config.crash_at)?;
        let mut core = Self {
            hosts: Hosts::new(names, OrderIds::of(MigrationId(0))),
            config,
            store,
            moves: Moves::default(),
            jobs: Jobs::default(),
            surveys: Surveys::new(),
            link_checks: LinkChecks::default(),
            governing: Governing::default(),
            arranging: Arranging::default(),
            cleaner: Cleaner::default(),
            drains: Drains::default(),
            waiting: Vec::new(),
            metrics,
            started: Instant::now(),
        };
        for (id, entries) in core.store.migrations()? {
            core.take_up(id, &entries)?;
        }
        core.take_up_drains()?;
        core.forget_old_moves()?;
        // Whoever wanted them created or deleted has had no answer.
        for mut cluster in core.store.clusters().half_done() {
            cluster.stage = ClusterStage::Ending;
            core.begin_cluster_job(ClusterWork::End, cluster, None)?;
        }
        Ok(core)
    }

    fn take_up(&mut self, id: MigrationId, entries: &[JournalEntry]) -> Result<(), CoreError> {
        if let Some(JournalEntry::Ended { report }) = entries.last() {
            self.moves.take_up_over(id, entries, report);
            return Ok(());
        }
        let epoch = self.store.new_epochs(Moves::epochs_of(entries))?;
        let recovered = self.moves.take_up(self.now(), id, entries, epoch);
        let recovered = recovered.map_err(|source| CoreError::Recover {
            migration: id,
            source,
        })?;
        let Some(ready) = recovered else { return Ok(()) };
        self.reserve(id);
        for host in self.moves.hosts_of(id) {
            if self.hosts.named(host.as_str()).is_err() {
                warn!(migration = %id, %host, "waits for a host that the configuration does not name any more");
            }
        }
        self.carry_out(id, ready)
    }

    fn now(&self) -> Now {
        Now {
            mono: Millis(self.started.elapsed().as_millis() as u64),
            wall: crate::wall(),
        }
    }

    /// Works until the journal fails or everybody who could ask is gone.
    pub(crate) async fn run(
        mut self,
        mut news: mpsc::Receiver<LinkNews>,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), CoreError> {
        loop {
            self.fire_due_timers()?;
            self.work_on_drains()?;
            let looked = self.has_looked();
            let first_look = (!looked).then_some(FIRST_LOOK_MAX);
            let due = self.next_due().into_iter().chain(first_look).min();
            let due = due.map(|at| self.started + Duration::from_millis(at.0));
            let timer = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = news.recv() => match news {
                    Some(news) => self.take_news(news)?,
                    None => return Ok(()),
                },
                request = requests.recv(), if looked => match request {
                    Some(request) => self.serve(request)?,
                    None => return Ok(()),
                },
                made = self.surveys.planned() => match made {
                    Made::Move(planned) => self.take_plan(*planned)?,
                    Made::Drain(planned) => self.take_drain_plan(planned)?,
                },
                () = timer => {}
            }
        }
    }

    /// Whether it knows its hosts well enough to answer.
    fn has_looked(&self) -> bool {
        self.now().mono >= FIRST_LOOK_MAX || self.hosts.are_all_tried()
    }

    fn next_due(&self) -> Option<Millis> {
        let jobs = self.jobs.next_due(self.now().mono);
        let round = self.governing.next_round();
        let cleaning = self.cleaner.next_due();
        let all = [
            self.moves.next_due(),
            jobs,
            self.surveys.next_due(),
            self.link_checks.next_due(),
            round,
            cleaning,
            self.drains.next_due(),
        ];
        all.into_iter().flatten().min()
    }

    fn fire_due_timers(&mut self) -> Result<(), CoreError> {
        let now = self.now().mono;
        while let Some((id, timer)) = self.moves.due(now) {
            self.feed(id, Input::Timer(timer))?;
        }
        self.surveys.due(now);
        self.link_checks.due(now);
        self.cleaner.due(now, &mut self.hosts);
        self.drains.due(now);
        if self.governing.next_round().is_some_and(|at| at <= now) {
            self.govern();
            self.watch_streams()?;
        }
        let effects = self.jobs.due(now);
        self.work_on_jobs(effects)
    }

    fn take_news(&mut self, news: LinkNews) -> Result<(), CoreError> {
        self.metrics.heard(&news);
        match news {
            LinkNews::Back { host, state, orders } => {
                if let Some(change) = self.hosts.back(&host, (*state).clone(), orders) {
                    self.tell_of_bands(&host, &change);
                }
                self.clean(&host)?;
                self.governing.agent_back(&host, &self.moves.streams());
                self.work_on_jobs(Vec::new())?;
                self.feed_all_on(&host, || Input::AgentBack {
                    host: host.clone(),
                    state: state.clone(),
                })
            }
            LinkNews::Lost { host } => {
                self.hosts.lost(&host);
                self.surveys.host_lost(&host);
                self.link_checks.host_lost(&host);
                self.cleaner.host_lost(&host);
                let effects = self.jobs.host_lost(&host);
                self.work_on_jobs(effects)?;
                self.feed_all_on(&host, || Input::AgentLost { host: host.clone() })
            }
            LinkNews::Away { host, why } => {
                self.hosts.away(&host, why);
                Ok(())
            }
            LinkNews::Heartbeat { host, sample } => {
                self.answers(&host)?;
                match self.hosts.measured(&host, self.now().mono, sample) {
                    Some(estimate) => self.feed_all_on(&host, || clock_input(&host, estimate)),
                    None => Ok(()),
                }
            }
            LinkNews::Report { host, report } => self.take_report(host, *report),
        }
    }

    fn take_report(&mut self, host: HostName, report: Report) -> Result<(), CoreError> {
        if let Outcome::Host(state) = report.outcome {
            if state.host != host {
                warn!(%host, about = %state.host, "an agent tells about another host; not believed");
                return Ok(());
            }
            if let Some(order) = report.order {
                self.surveys.answered(&host, order, &state);
            }
            if !state.dirty.is_empty() {
                let own = self.vms_to_come_on(&host);
                self.arranging.measured(&state.dirty, &own);
            }
            if let Some(change) = self.hosts.reported(&host, *state) {
                self.tell_of_bands(&host, &change);
            }
            return Ok(());
        }
        if let Some(order) = report.order
            && self
                .link_checks
                .answered(&host, order, &report.outcome, &mut self.hosts)
        {
            return Ok(());
        }
        let of_move = match report.order.map(OrderIds::migration_of) {
            Some(None) => {
                let now = self.now().mono;
                if let Some(order) = report.order
                    && let Some(cleaned) =
                        self.cleaner
                            .answered(&host, order, &report.outcome, now, &mut self.hosts)
                {
                    return cleaned.map_or(Ok(()), |cleaned| self.cleaned(cleaned));
                }
                let effects = self.jobs.answered(self.now().mono, &host, report);
                return self.work_on_jobs(effects);
            }
            Some(Some(id)) => Some(id),
            // A report that answers no order: whichever move has the VM.
            None => report.vm.as_ref().and_then(|vm| self.moves.with_vm(vm)),
        };
        match of_move {
            Some(id) => self.feed(id, Input::Report { host, report }),
            None => {
                let vm = report.vm.as_ref().map(VmName::as_str);
                warn!(%host, vm, what = report.outcome.name(), "outside of any move");
                Ok(())
            }
        }
    }

    /// Carries effects out, draws conclusions until there are none, then issues what is to be
    /// issued.
    fn work_on_jobs(&mut self, effects: Vec<Effect>) -> Result<(), CoreError> {
        let worked = !effects.is_empty();
        for effect in effects {
            effects::carry_out(effect, &mut self.store, &mut self.hosts)?;
        }
        let now = self.now().mono;
        let concluded = self.jobs.conclude(now, &self.hosts);
        if worked || !concluded.is_empty() {
            self.drains.others_over();
        }
        for effect in concluded {
            effects::carry_out(effect, &mut self.store, &mut self.hosts)?;
        }
        self.jobs.issue(now, &mut self.hosts);
        Ok(())
    }

    /// Tells every move with a part on this host.
    fn feed_all_on(&mut self, host: &HostName, input: impl Fn() -> Input) -> Result<(), CoreError> {
        let concerned = self.moves.on_host(host);
        concerned.into_iter().try_for_each(|id| self.feed(id, input()))
    }

    /// A move that begins knows the clocks of its hosts before any of them answers.
    fn feed_clocks(&mut self, id: MigrationId) -> Result<(), CoreError> {
        let now = self.now().mono;
        for host in self.moves.hosts_of(id) {
            if let Some(estimate) = self.hosts.clock(&host, now) {
                self.feed(id, clock_input(&host, estimate))?;
            }
        }
        Ok(())
    }

    /// Gives a move one input and does what it wants done.
    fn feed(&mut self, id: MigrationId, input: Input) -> Result<(), CoreError> {
        match self.moves.handle(self.now(), id, input) {
            Some(ready) => {
                let moments = moments(&ready.events);
                self.carry_out(id, ready)?;
                moments
                    .into_iter()
                    .try_for_each(|moment| self.think_ahead(id, moment))
            }
            None => Ok(()),
        }
    }

    /// Persist, then send, then everything else: the order binds (see [`Ready`]).
    fn carry_out(&mut self, id: MigrationId, ready: Ready) -> Result<(), CoreError> {
        let Ready {
            persist,
            send,
            timers,
            events,
            done,
        } = ready;
        if !persist.is_empty() {
            let relocation = self.moves.relocation(id, &persist);
            let left_behind = Moves::left_behind(id, &persist);
            let hosts: Vec<HostName> = left_behind.iter().map(|(host, _)| host.clone()).collect();
            self.store.append(id, &persist, relocation, left_behind)?;
            // One that is back by now is cleaned at once.
            hosts.iter().try_for_each(|host| self.clean(host))?;
        }
        self.governing.hear(self.now().mono, &events);
        // The rates of a stream that begins, or whose guest stops, are there before the order.
        if send.iter().any(|(_, order)| is_turning_point(order)) {
            self.govern();
        }
        for (host, order) in send {
            self.hosts.send(&host, order);
        }
        events.iter().for_each(|what| self.metrics.happened(what));
        let progress = Progress {
            entries: persist.len(),
            timers,
            events,
            done,
        };
        if self.moves.progressed(self.now(), id, progress) {
            self.governing.over(id);
            self.arranging.over(id);
            self.try_waiting();
            if let Some(report) = self.moves.over(id) {
                self.metrics.ended(report);
                let outcome = report.outcome;
                self.drain_move_over(id, outcome)?;
            }
            self.hosts.inspect_all();
            self.forget_old_moves()?;
        }
        Ok(())
    }

    /// Sets aside what a move under way needs of the links.
    fn reserve(&mut self, id: MigrationId) {
        let network = network(&self.hosts, &self.config);
        if let Some(migration) = self.moves.running(id) {
            self.governing.begun(self.now().mono, &network, migration);
            self.arranging.begun(migration);
        }
    }

    /// Shares the links among the page streams, and tells the agents what changed.
    fn govern(&mut self) {
        let network = network(&self.hosts, &self.config);
        let streams = self.moves.streams();
        let changed = self.governing.round(self.now().mono, &network, &streams);
        for (host, rates) in changed {
            self.hosts.ask(&host, Epoch::default(), Command::Pace { rates });
        }
    }

    /// Tells how far the moves are, and which VMs do not get ready.
    fn watch_streams(&mut self) -> Result<(), CoreError> {
        let now = self.now();
        let network = network(&self.hosts, &self.config);
        let stuck = self.governing.stuck(now.mono, &network, &self.moves.converging());
        if self.governing.outlook_is_due(now.mono) {
            let under_way: Vec<MigrationId> = self.moves.streams().into_iter().map(|(id, _)| id).collect();
            for id in under_way {
                if let Some(migration) = self.moves.running(id) {
                    let outlook = self.governing.outlook(now.mono, migration);
                    self.moves.tell(now, id, outlook);
                }
            }
        }
        stuck
            .into_iter()
            .try_for_each(|(id, vm, rates)| self.feed(id, Input::Stuck { vm, rates }))
    }

    /// Whoever follows a move through this host learns it; so does the log.
    fn tell_of_bands(&mut self, host: &HostName, change: &BandsChange) {
        warn!(%host, ?change, "its bands");
        let now = self.now();
        for id in self.moves.on_host(host) {
            let (host, change) = (host.clone(), change.clone());
            self.moves.tell(now, id, Happening::Bands { host, change });
        }
    }

    fn forget_old_moves(&mut self) -> Result<(), CoreError> {
        for id in self.moves.forget_old() {
            self.store.forget_move(id)?;
        }
        Ok(())
    }
}

/// Whether the links are to be shared anew before this order.
fn is_turning_point(order: &Order) -> bool {
    matches!(order.command.kind(), OrderKind::PreCopy | OrderKind::Capture)
}

fn clock_input(host: &HostName, estimate: Estimate) -> Input {
    Input::Clock {
        host: host.clone(),
        offset_us: estimate.offset_us,
        uncertainty_us: estimate.uncertainty_us,
    }
}
