//! Moves: each is one sans-IO [`Migration`] with its history and its timers. What one wants done is
//! the core's to carry out.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info};
use transhume_api::{MigrationLine, MigrationList, wait_in_words};
use transhume_model::{ClusterName, Epoch, HostName, MigrationId, Millis, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::migration::{
    Converge, Input, JournalEntry, Migration, MoveRequest, Now, Ready, RecoverError, RequestError, RunOn,
    StreamView, TimerId,
};
use transhume_protocol::report::{Ending, MigrationReport};
use transhume_protocol::step::Step;

use crate::error::Refused;
use crate::history::History;
use crate::journal::Leftover;

/// Moves that are over are kept, oldest forgotten first.
const OVER_KEPT_MAX: usize = 1_000;
/// Of so many of them with their whole history.
const HISTORIES_KEPT_MAX: usize = 16;

/// A move.
#[derive(Debug)]
struct Move {
    cluster: ClusterName,
    history: History,
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

/// A move wants to be woken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: Millis,
    migration: MigrationId,
    id: TimerId,
}

/// What is left of a [`Ready`] that is persisted and sent.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Entries that the journal grew by.
    pub(crate) entries: usize,
    pub(crate) timers: Vec<(Millis, TimerId)>,
    pub(crate) events: Vec<Happening>,
    pub(crate) done: bool,
}

/// All moves that are under way or kept.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    moves: BTreeMap<MigrationId, Move>,
    timers: BTreeSet<Timer>,
}

impl Moves {
    /// Takes up a move that is over.
    pub(crate) fn take_up_over(
        &mut self,
        id: MigrationId,
        entries: &[JournalEntry],
        report: &MigrationReport,
    ) {
        let over = Move {
            cluster: report.cluster.clone(),
            history: History::of_entries(id, entries),
            stage: Stage::Over(Box::new(report.clone())),
        };
        self.moves.insert(id, over);
    }

    /// Takes up a move from its entries, with the first of [`Moves::epochs_of`] new epochs. It goes
    /// on as soon as its hosts are connected. `None` where it is over.
    pub(crate) fn take_up(
        &mut self,
        now: Now,
        id: MigrationId,
        entries: &[JournalEntry],
        epoch: Epoch,
    ) -> Result<Option<Ready>, RecoverError> {
        let Some((migration, ready)) = Migration::recover(now, entries, epoch)? else {
            return Ok(None);
        };
        info!(migration = %id, %epoch, "taken up from the journal");
        let taken = Move {
            cluster: migration.request().cluster.clone(),
            history: History::of_entries(id, entries),
            stage: Stage::Running(Box::new(migration)),
        };
        self.moves.insert(id, taken);
        Ok(Some(ready))
    }

    /// Epochs that a move still needs: as many as it can use, whatever batch it is in.
    pub(crate) fn epochs_of(entries: &[JournalEntry]) -> u64 {
        match entries.first() {
            Some(JournalEntry::Begun { request, .. }) => request.epochs(),
            _ => 1,
        }
    }

    /// Begins a move.
    pub(crate) fn begin(&mut self, now: Now, request: MoveRequest) -> Result<Ready, RequestError> {
        let (id, cluster) = (request.migration, request.cluster.clone());
        let vms = request.batches.iter().flatten().count();
        let (migration, ready) = Migration::begin(now, request)?;
        info!(migration = %id, %cluster, vms, "begins");
        let begun = Move {
            cluster,
            history: History::new(id),
            stage: Stage::Running(Box::new(migration)),
        };
        self.moves.insert(id, begun);
        Ok(ready)
    }

    /// Gives a move one input; what it wants done. What comes after its end is old news.
    pub(crate) fn handle(&mut self, now: Now, id: MigrationId, input: Input) -> Option<Ready> {
        let Some(Move {
            stage: Stage::Running(migration),
            ..
        }) = self.moves.get_mut(&id)
        else {
            return None;
        };
        match migration.handle(now, input) {
            Ok(ready) => Some(ready),
            Err(illegal) => {
                error!("{illegal}");
                None
            }
        }
    }

    /// Takes what is the move's own of what it wanted done. Whether it is over.
    pub(crate) fn progressed(&mut self, now: Now, id: MigrationId, progress: Progress) -> bool {
        let Progress {
            entries,
            timers,
            events,
            done,
        } = progress;
        let Some(one) = self.moves.get_mut(&id) else {
            return false;
        };
        if done && one.running().is_some() {
            let report = one.report(now);
            info!(migration = %id, outcome = ?report.outcome, "over");
            one.stage = Stage::Over(Box::new(report));
        }
        one.history.extend(entries, now.wall, events);
        if done {
            self.timers.retain(|timer| timer.migration != id);
        } else {
            let timers = timers.into_iter().map(|(at, timer)| Timer {
                at,
                migration: id,
                id: timer,
            });
            self.timers.extend(timers);
        }
        done
    }

    /// The next timer whose time has come.
    pub(crate) fn due(&mut self, now: Millis) -> Option<(MigrationId, TimerId)> {
        let due = self.timers.first().is_some_and(|timer| timer.at <= now);
        let timer = if due { self.timers.pop_first() } else { None };
        timer.map(|timer| (timer.migration, timer.id))
    }

    /// When [`Moves::due`] has something to give next.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.timers.first().map(|timer| timer.at)
    }

    /// Where the VMs of a batch live once these entries are durable, if that changes by them.
    pub(crate) fn relocation(
        &self,
        id: MigrationId,
        entries: &[JournalEntry],
    ) -> Option<(ClusterName, BTreeMap<VmName, HostName>)> {
        let resolved = entries.iter().find_map(|entry| match entry {
            JournalEntry::Resolved { vm, run_on, .. } if *run_on != RunOn::Nowhere => Some((vm, *run_on)),
            _ => None,
        });
        if let Some((vm, run_on)) = resolved {
            let one = self.moves.get(&id)?;
            let mut moved = one.running()?.request().batches.iter().flatten();
            let moved = moved.find(|moved| moved.spec.name == *vm)?;
            let place = match run_on {
                RunOn::Source => &moved.source,
                RunOn::Target | RunOn::Nowhere => &moved.target,
            };
            return Some((one.cluster.clone(), [(vm.clone(), place.clone())].into()));
        }
        let batch = entries.iter().find_map(|entry| match entry {
            JournalEntry::Committed { batch, .. } => Some(*batch),
            _ => None,
        })?;
        let one = self.moves.get(&id)?;
        let moved = one.running()?.request().batches.get(batch.checked_sub(1)?)?;
        let places = moved.iter().map(|vm| (vm.spec.name.clone(), vm.target.clone()));
        Some((one.cluster.clone(), places.collect()))
    }

    /// What these entries leave behind on hosts that were given up.
    pub(crate) fn left_behind(id: MigrationId, entries: &[JournalEntry]) -> Vec<(HostName, Leftover)> {
        let left = entries.iter().filter_map(|entry| match entry {
            JournalEntry::LeftBehind { vm, host, at, clean } => Some((
                host.clone(),
                Leftover {
                    vm: vm.clone(),
                    migration: Some(id),
                    clean: *clean,
                    at: *at,
                },
            )),
            _ => None,
        });
        left.collect()
    }

    /// Forgets what is long over: histories first, then whole moves, which are returned.
    pub(crate) fn forget_old(&mut self) -> Vec<MigrationId> {
        let over = self.moves.iter().filter(|(_, one)| one.running().is_none());
        let over: Vec<MigrationId> = over.map(|(id, _)| *id).collect();
        let with_history = over.len().saturating_sub(HISTORIES_KEPT_MAX);
        for id in &over[..with_history] {
            self.moves[id].history.shorten();
        }
        let forgotten = over[..over.len().saturating_sub(OVER_KEPT_MAX)].to_vec();
        for id in &forgotten {
            self.moves.remove(id);
        }
        forgotten
    }

    fn all_running(&self) -> impl Iterator<Item = (MigrationId, &Migration)> {
        let all = self.moves.iter();
        all.filter_map(|(id, one)| Some((*id, one.running()?)))
    }

    /// A move under way.
    pub(crate) fn running(&self, id: MigrationId) -> Option<&Migration> {
        self.moves.get(&id)?.running()
    }

    /// Page streams of every move that has some under way.
    pub(crate) fn streams(&self) -> Vec<(MigrationId, Vec<StreamView<'_>>)> {
        let all = self
            .all_running()
            .map(|(id, migration)| (id, migration.streams()));
        all.filter(|(_, streams)| !streams.is_empty()).collect()
    }

    /// The same with what is to become of those VMs that do not get ready.
    pub(crate) fn converging(&self) -> Vec<(MigrationId, Converge, Vec<StreamView<'_>>)> {
        let all = self.all_running();
        all.map(|(id, migration)| (id, migration.request().converge, migration.streams()))
            .collect()
    }

    /// Something about a move that is not its machine's to tell.
    pub(crate) fn tell(&mut self, now: Now, id: MigrationId, what: Happening) {
        if let Some(one) = self.moves.get_mut(&id) {
            one.history.extend(0, now.wall, vec![what]);
        }
    }

    /// The move under way that a VM is part of.
    pub(crate) fn with_vm(&self, vm: &VmName) -> Option<MigrationId> {
        let has = |migration: &Migration| {
            let mut vms = migration.request().batches.iter().flatten();
            vms.any(|moved| moved.spec.name == *vm)
        };
        let mut running = self.all_running();
        running.find(|(_, migration)| has(migration)).map(|(id, _)| id)
    }

    /// Moves under way with a part on this host.
    pub(crate) fn on_host(&self, host: &HostName) -> Vec<MigrationId> {
        let running = self.all_running();
        let concerned = running.filter(|(_, migration)| hosts_of(migration).any(|name| name == host));
        concerned.map(|(id, _)| id).collect()
    }

    /// Hosts of a move under way.
    pub(crate) fn hosts_of(&self, id: MigrationId) -> BTreeSet<HostName> {
        let migration = self.moves.get(&id).and_then(Move::running);
        migration.into_iter().flat_map(hosts_of).cloned().collect()
    }

    /// The move of a cluster that is under way.
    pub(crate) fn of_cluster(&self, cluster: &ClusterName) -> Option<MigrationId> {
        let mut running = self.all_running();
        running
            .find(|(_, migration)| migration.request().cluster == *cluster)
            .map(|(id, _)| id)
    }

    /// Refused while a cluster is being moved.
    pub(crate) fn check_idle(&self, cluster: &ClusterName) -> Result<(), Refused> {
        match self.of_cluster(cluster) {
            None => Ok(()),
            Some(id) => {
                let undecided = self.running(id).map(Migration::undecided).unwrap_or_default();
                let hint = match undecided.first() {
                    None => format!(
                        "wait for it with `transhume follow {id}`, or cancel it with `transhume cancel {id}`"
                    ),
                    Some((vm, host)) => format!(
                        "VM {vm} waits for a decision, for it is lost with, or on, host {host}: `transhume report {id}` says how"
                    ),
                };
                Err(Refused::conflict(
                    "move-under-way",
                    format!("cluster {cluster} is being moved by migration {id}"),
                    hint,
                ))
            }
        }
    }

    fn named(&self, text: &str) -> Result<(MigrationId, &Move), Refused> {
        let id = text.parse().ok().map(MigrationId);
        let found = id.and_then(|id| self.moves.get(&id).map(|one| (id, one)));
        found.ok_or_else(|| {
            let newest: Vec<String> = self.moves.keys().rev().map(ToString::to_string).collect();
            Refused::unknown("migration", text, newest.iter().map(String::as_str))
        })
    }

    /// A move that can be cancelled.
    pub(crate) fn cancellable(&self, text: &str) -> Result<MigrationId, Refused> {
        match self.named(text)? {
            (id, one) if one.running().is_some() => Ok(id),
            (id, _) => Err(Refused::conflict(
                "migration-over",
                format!("migration {id} is over"),
                format!("`transhume report {id}` says how it ended"),
            )),
        }
    }

    /// A move that is to be cancelled and rolls back already: what it waits for.
    pub(crate) fn rolling_back(&self, now: Now, id: MigrationId) -> Refused {
        let waiting = self.moves.get(&id).map(|one| one.report(now).waiting);
        let waiting = waiting.unwrap_or_default();
        let for_what = match waiting.as_slice() {
            [] => String::new(),
            [only] => format!("; it waits for {}", wait_in_words(only)),
            [first, more @ ..] => {
                format!("; it waits for {}, and {} more", wait_in_words(first), more.len())
            }
        };
        Refused::conflict(
            "rolling-back",
            format!("migration {id} is rolling back already{for_what}"),
            format!("`transhume report {id}` shows everything that it waits for"),
        )
    }

    pub(crate) fn history(&self, text: &str) -> Result<History, Refused> {
        Ok(self.named(text)?.1.history.clone())
    }

    pub(crate) fn report(&self, now: Now, text: &str) -> Result<MigrationReport, Refused> {
        Ok(self.named(text)?.1.report(now))
    }

    /// Reports of the moves that are over and kept, the oldest first.
    pub(crate) fn reports(&self) -> impl DoubleEndedIterator<Item = &MigrationReport> {
        self.moves.values().filter_map(|one| match &one.stage {
            Stage::Running(_) => None,
            Stage::Over(report) => Some(&**report),
        })
    }

    /// The report of a move that is over.
    pub(crate) fn over(&self, id: MigrationId) -> Option<&MigrationReport> {
        match &self.moves.get(&id)?.stage {
            Stage::Running(_) => None,
            Stage::Over(report) => Some(report),
        }
    }

    /// How a move ended; `Some(None)` while it is under way, `None` where there is none.
    pub(crate) fn outcome(&self, id: MigrationId) -> Option<Option<Ending>> {
        let one = self.moves.get(&id)?;
        Some(match &one.stage {
            Stage::Running(_) => None,
            Stage::Over(report) => Some(report.outcome),
        })
    }

    /// Moves under way: the step of each, and its report so far.
    pub(crate) fn under_way(&self, now: Now) -> impl Iterator<Item = (Step, MigrationReport)> {
        self.all_running()
            .map(move |(_, migration)| (migration.step(), migration.report(now)))
    }

    pub(crate) fn list(&self, now: Now) -> MigrationList {
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

fn hosts_of(migration: &Migration) -> impl Iterator<Item = &HostName> {
    let vms = migration.request().batches.iter().flatten();
    vms.flat_map(|vm| [&vm.source, &vm.target])
}
