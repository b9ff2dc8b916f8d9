//! Moves: each is one sans-IO [`Migration`] that is fed and obeyed here.

use std::collections::BTreeMap;

use tracing::{error, info, warn};
use transhume_model::{ClusterName, Epoch, HostName, MigrationId, VmName};
use transhume_protocol::message::Report;
use transhume_protocol::migration::{
    Input, JournalEntry, Limits, Migration, MoveRequest, Now, Ready, RecoverError,
};
use transhume_protocol::report::MigrationReport;

use crate::api::{Accepted, ForecastRecord, MigrationLine, MigrationList};
use crate::checks::{Plan, Scene};
use crate::config::CrashAt;
use crate::core::{Alarm, Core, CoreError};
use crate::error::Refused;
use crate::forecasts;
use crate::history::History;
use crate::journal::ClusterRecord;

/// Moves that are over are kept, oldest forgotten first.
const OVER_KEPT_MAX: usize = 1_000;
/// Of so many of them with their whole history.
const HISTORIES_KEPT_MAX: usize = 16;

/// A move.
#[derive(Debug)]
pub(crate) struct Move {
    cluster: ClusterName,
    pub(crate) history: History,
    stage: Stage,
}

/// Whether it is under way.
#[derive(Debug)]
enum Stage {
    Running(Box<Migration>),
    Over(Box<MigrationReport>),
}

impl Move {
    fn running(&self) -> Option<&Migration> {
        match &self.stage {
            Stage::Running(migration) => Some(migration),
            Stage::Over(_) => None,
        }
    }

    fn report(&self, now: Now) -> MigrationReport {
        match &self.stage {
            Stage::Running(migration) => migration.report(now),
            Stage::Over(report) => (**report).clone(),
        }
    }
}

impl Core {
    /// Takes one move up from its entries. If it is not over it goes on as soon as its hosts are connected.
    pub(crate) fn take_up(
        &mut self,
        id: MigrationId,
        entries: &[JournalEntry],
        life: Epoch,
    ) -> Result<(), CoreError> {
        let unusable = |source: RecoverError| CoreError::Recover {
            migration: id,
            source,
        };
        let history = History::of_entries(id, entries, life);
        if let Some(JournalEntry::Ended { report }) = entries.last() {
            let (cluster, stage) = (report.cluster.clone(), Stage::Over(report.clone()));
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
        // As many as the move can still use, whatever batch it is in.
        let batches = match entries.first() {
            Some(JournalEntry::Begun { request, .. }) => request.batches.len(),
            _ => 1,
        };
        let epoch = self.journal.new_epochs(batches as u64)?;
        let recovered = Migration::recover(self.now(), entries, epoch).map_err(unusable)?;
        let Some((migration, ready)) = recovered else {
            return Ok(());
        };
        info!(migration = %id, %epoch, "taken up from the journal");
        let unknown = migration.request().batches.iter().flatten();
        let unknown = unknown.flat_map(|vm| [&vm.source, &vm.target]);
        for host in unknown.filter(|host| self.hosts.named(host.as_str()).is_err()) {
            warn!(migration = %id, %host, "waits for a host that the configuration does not name any more");
        }
        let cluster = migration.request().cluster.clone();
        let stage = Stage::Running(Box::new(migration));
        self.moves.insert(
            id,
            Move {
                cluster,
                history,
                stage,
            },
        );
        self.carry_out(id, ready)
    }

    /// Begins a move whose plan is right.
    pub(crate) fn begin_move(
        &mut self,
        scene: Scene,
        plan: Plan,
    ) -> Result<Result<Accepted, Refused>, CoreError> {
        let id = self.journal.new_migration()?;
        let limits = Limits {
            blackout_ms_max: scene.blackout_max,
            ..self.config.limits.clone()
        };
        let cluster = scene.cluster.name;
        let request = MoveRequest {
            migration: id,
            cluster: cluster.clone(),
            mode: scene.mode,
            epoch: self.journal.new_epochs(plan.batches.len() as u64)?,
            from: scene.from,
            to: scene.to,
            batches: plan.batches,
            limits,
            forecast: Some(plan.view.forecast),
        };
        let (vms, batch) = (plan.view.moves.len(), plan.view.batch);
        let (migration, ready) = match Migration::begin(self.now(), request) {
            Ok(begun) => begun,
            Err(error) => {
                let hint = "this is a mistake of the coordinator's own checks; please report it";
                return Ok(Err(Refused::conflict("impossible-move", error.to_string(), hint)));
            }
        };
        info!(migration = %id, %cluster, vms, batch, "begins");
        self.moves.insert(
            id,
            Move {
                cluster,
                history: History::new(id),
                stage: Stage::Running(Box::new(migration)),
            },
        );
        self.carry_out(id, ready)?;
        Ok(Ok(Accepted { migration: id }))
    }

    pub(crate) fn cancel(&mut self, id: &str) -> Result<Result<Accepted, Refused>, CoreError> {
        let id = match self.move_named(id) {
            Ok((id, one)) if one.running().is_some() => id,
            Ok((id, _)) => {
                return Ok(Err(Refused::conflict(
                    "migration-over",
                    format!("migration {id} is over"),
                    format!("`transhume report {id}` tells how it ended"),
                )));
            }
            Err(refused) => return Ok(Err(refused)),
        };
        self.feed(id, Input::Cancel)?;
        Ok(Ok(Accepted { migration: id }))
    }

    /// A report that answers an order of a move, or that an agent makes by itself.
    pub(crate) fn report_for(
        &mut self,
        id: Option<MigrationId>,
        host: HostName,
        report: Report,
    ) -> Result<(), CoreError> {
        match id.or_else(|| self.move_with(report.vm.as_ref()?)) {
            Some(id) => self.feed(id, Input::Report { host, report }),
            None => {
                let vm = report.vm.as_ref().map(VmName::as_str);
                warn!(%host, vm, what = report.outcome.name(), "outside of any move");
                Ok(())
            }
        }
    }

    fn move_with(&self, vm: &VmName) -> Option<MigrationId> {
        let has = |migration: &Migration| {
            let mut vms = migration.request().batches.iter().flatten();
            vms.any(|moved| moved.spec.name == *vm)
        };
        let found = self.moves.iter().find(|(_, one)| one.running().is_some_and(has));
        found.map(|(id, _)| *id)
    }

    /// Tells every move with a part on this host.
    pub(crate) fn feed_all_on(
        &mut self,
        host: &HostName,
        input: impl Fn() -> Input,
    ) -> Result<(), CoreError> {
        let on_host = |migration: &Migration| {
            let mut vms = migration.request().batches.iter().flatten();
            vms.any(|vm| vm.source == *host || vm.target == *host)
        };
        let concerned = self
            .moves
            .iter()
            .filter(|(_, one)| one.running().is_some_and(on_host));
        let concerned: Vec<MigrationId> = concerned.map(|(id, _)| *id).collect();
        concerned.into_iter().try_for_each(|id| self.feed(id, input()))
    }

    /// Gives a move one input and does what it wants done. What comes after its end is old news.
    pub(crate) fn feed(&mut self, id: MigrationId, input: Input) -> Result<(), CoreError> {
        let now = self.now();
        let Some(Move {
            stage: Stage::Running(migration),
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
    fn carry_out(&mut self, id: MigrationId, ready: Ready) -> Result<(), CoreError> {
        if !ready.persist.is_empty() {
            self.persist(id, &ready.persist)?;
        }
        for (host, order) in ready.send {
            self.hosts.send(&host, order);
        }
        let timers = ready.timers.into_iter();
        self.alarms
            .extend(timers.map(|(at, timer)| (at, Alarm::Move(id, timer))));
        let now = self.now();
        let Some(one) = self.moves.get_mut(&id) else {
            return Ok(());
        };
        if ready.done && one.running().is_some() {
            let report = one.report(now);
            info!(migration = %id, outcome = ?report.outcome, "over");
            one.stage = Stage::Over(Box::new(report));
        }
        for what in ready.events {
            one.history.push(now.wall, what);
        }
        if ready.done {
            self.after_the_end(id)?;
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
        let crash_at = self.config.crash_at.filter(|_| committed.is_some());
        if crash_at == Some(CrashAt::BeforeCommitted) {
            std::process::abort();
        }
        self.journal.append(id, entries, cluster.as_ref())?;
        if crash_at == Some(CrashAt::AfterCommitted) {
            std::process::abort();
        }
        if let Some(cluster) = cluster {
            self.clusters.insert(cluster.spec.name.clone(), cluster);
        }
        Ok(())
    }

    /// The cluster as it is once the batch (from 1) is committed.
    fn relocated(&self, id: MigrationId, batch: usize) -> Option<ClusterRecord> {
        let one = self.moves.get(&id)?;
        let moved = one.running()?.request().batches.get(batch.checked_sub(1)?)?;
        let targets: BTreeMap<&VmName, &HostName> =
            moved.iter().map(|vm| (&vm.spec.name, &vm.target)).collect();
        let mut cluster = self.clusters.get(&one.cluster)?.clone();
        for vm in &mut cluster.spec.vms {
            if let Some(target) = targets.get(&vm.spec.name) {
                vm.host = (*target).clone();
            }
        }
        Some(cluster)
    }

    /// What a move that is over leaves: no timers, and older ones are kept shorter or not at all.
    fn after_the_end(&mut self, id: MigrationId) -> Result<(), CoreError> {
        self.alarms
            .retain(|(_, alarm)| !matches!(alarm, Alarm::Move(of, _) if *of == id));
        self.hosts.look_around();
        self.forget_old_moves()
    }

    pub(crate) fn forget_old_moves(&mut self) -> Result<(), CoreError> {
        let over = self.moves.iter().filter(|(_, one)| one.running().is_none());
        let over: Vec<MigrationId> = over.map(|(id, _)| *id).collect();
        let with_history = over.len().saturating_sub(HISTORIES_KEPT_MAX);
        for id in &over[..with_history] {
            self.moves[id].history.shorten();
        }
        for id in &over[..over.len().saturating_sub(OVER_KEPT_MAX)] {
            self.journal.remove_migration(*id)?;
            self.moves.remove(id);
        }
        Ok(())
    }

    /// The move of a cluster that is under way.
    pub(crate) fn move_of(&self, cluster: &ClusterName) -> Option<MigrationId> {
        let mut running = self.moves.iter().filter(|(_, one)| one.running().is_some());
        running
            .find(|(_, one)| one.cluster == *cluster)
            .map(|(id, _)| *id)
    }

    pub(crate) fn check_no_move(&self, cluster: &ClusterName) -> Result<(), Refused> {
        match self.move_of(cluster) {
            None => Ok(()),
            Some(id) => Err(Refused::conflict(
                "move-under-way",
                format!("cluster {cluster} is being moved by migration {id}"),
                format!(
                    "wait for it with `transhume follow {id}`, or cancel it with `transhume cancel {id}`"
                ),
            )),
        }
    }

    pub(crate) fn move_named(&self, text: &str) -> Result<(MigrationId, &Move), Refused> {
        let id = text.parse().ok().map(MigrationId);
        let found = id.and_then(|id| self.moves.get(&id).map(|one| (id, one)));
        found.ok_or_else(|| {
            let newest: Vec<String> = self.moves.keys().rev().map(ToString::to_string).collect();
            Refused::unknown("migration", text, newest.iter().map(String::as_str))
        })
    }

    pub(crate) fn report(&self, id: &str) -> Result<MigrationReport, Refused> {
        Ok(self.move_named(id)?.1.report(self.now()))
    }

    /// How good the forecasts of the moves that are kept have been.
    pub(crate) fn forecast_record(&self) -> ForecastRecord {
        forecasts::record(self.reports())
    }

    /// Reports of the moves that are over and kept, the oldest first.
    pub(crate) fn reports(&self) -> impl DoubleEndedIterator<Item = &MigrationReport> {
        self.moves.values().filter_map(|one| match &one.stage {
            Stage::Running(_) => None,
            Stage::Over(report) => Some(&**report),
        })
    }

    pub(crate) fn list_migrations(&self) -> MigrationList {
        let now = self.now();
        let migrations = self.moves.iter().map(|(id, one)| {
            let report = one.report(now);
            MigrationLine {
                migration: *id,
                cluster: report.cluster,
                outcome: report.outcome,
                vms: report.vms.len(),
            }
        });
        MigrationList {
            migrations: migrations.collect(),
        }
    }
}
