//! What happened in one move, for everybody who wants to follow it: replay, then live.
//!
//! Numbers grow. Those of a coordinator's first life begin at 1; after a restart the journal tells the earlier life again, from 1,
//! and new events number from the new life's epoch × [`NUMBERS_PER_LIFE`]: whoever has seen N and asks for what comes after it
//! misses nothing that is new.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use transhume_model::{Epoch, MigrationId, WallMicros};
use transhume_protocol::event::{Event, Happening};
use transhume_protocol::migration::{JournalEntry, VmSoFar};
use transhume_protocol::step::{Phase, Step};

/// Beyond this, progress of page streams is left out; everything else is kept.
const EVENTS_MAX: usize = 20_000;
/// A follower is given so many at once.
const EVENTS_AT_ONCE_MAX: usize = 256;
/// More events than a move has in one life of the coordinator.
const NUMBERS_PER_LIFE: u64 = 1_000_000;

/// The events of one move.
#[derive(Debug, Clone)]
pub(crate) struct History {
    kept: Arc<Mutex<Kept>>,
    last: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct Kept {
    migration: MigrationId,
    events: Vec<Event>,
    next: u64,
}

impl History {
    /// Of a move that begins.
    pub(crate) fn new(migration: MigrationId) -> Self {
        let kept = Kept {
            migration,
            events: Vec::new(),
            next: 1,
        };
        Self {
            kept: Arc::new(Mutex::new(kept)),
            last: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Of a move that the journal holds. `epoch` is the first of the coordinator's new life.
    pub(crate) fn of_entries(migration: MigrationId, entries: &[JournalEntry], epoch: Epoch) -> Self {
        let history = Self::new(migration);
        for (at, what) in entries.iter().flat_map(told) {
            history.push(at, what);
        }
        history.kept().next = epoch.0.saturating_mul(NUMBERS_PER_LIFE) + 1;
        history
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no holder of this lock panics")
    }

    /// Adds an event.
    pub(crate) fn push(&self, at: WallMicros, what: Happening) {
        let mut kept = self.kept();
        if kept.events.len() >= EVENTS_MAX && matches!(what, Happening::Progress { .. }) {
            return;
        }
        let (migration, number) = (kept.migration, kept.next);
        kept.next += 1;
        kept.events.push(Event {
            migration,
            number,
            at,
            what,
        });
        self.last.send_replace(number);
    }

    /// Keeps the end alone: the move is long over.
    pub(crate) fn shorten(&self) {
        let mut kept = self.kept();
        let all_but_last = kept.events.len().saturating_sub(1);
        kept.events.drain(..all_but_last);
    }

    /// Events numbered above `after`, as soon as there are any; `None` when the last one has been given.
    pub(crate) async fn after(&self, after: u64) -> Option<Vec<Event>> {
        let mut last = self.last.subscribe();
        loop {
            last.borrow_and_update();
            if let Some(answer) = self.known_after(after) {
                return answer;
            }
            last.changed().await.ok()?;
        }
    }

    /// `None` while more is to come and nothing is there.
    fn known_after(&self, after: u64) -> Option<Option<Vec<Event>>> {
        let kept = self.kept();
        let first = kept.events.partition_point(|event| event.number <= after);
        let end = kept.events.len().min(first + EVENTS_AT_ONCE_MAX);
        if first < end {
            return Some(Some(kept.events[first..end].to_vec()));
        }
        let last = kept.events.last()?;
        if !matches!(last.what, Happening::Ended { .. }) {
            return None;
        }
        // A number of an earlier life of the coordinator: its owner has not seen the end.
        Some((after > last.number).then(|| vec![last.clone()]))
    }
}

/// What an entry of the journal tells people.
fn told(entry: &JournalEntry) -> Vec<(WallMicros, Happening)> {
    match entry {
        JournalEntry::Begun { at, request, .. } => {
            let vms = request.batches.iter().flatten().map(|vm| vm.spec.name.clone());
            let (vms, batches) = (vms.collect(), request.batches.len());
            vec![(*at, Happening::Begun { vms, batches })]
        }
        JournalEntry::BatchBegun { batch, at, .. } => {
            let (batch, step) = (*batch, Step::SelectBatch);
            vec![(*at, Happening::StepEntered { batch, step })]
        }
        JournalEntry::RollingBack {
            batch,
            at,
            trouble,
            vms,
            ..
        } => {
            let (batch, reason) = (*batch, trouble.reason.clone());
            with_phases(vms, *at, Happening::RollingBack { batch, reason })
        }
        JournalEntry::Committed { batch, at, vms, .. } => {
            let batch = *batch;
            with_phases(vms, *at, Happening::Committed { batch })
        }
        JournalEntry::VmActivated { vm, at, .. } => {
            let (vm, phase) = (vm.clone(), Phase::Activation);
            vec![(*at, Happening::PhaseEntered { vm, phase })]
        }
        JournalEntry::Ended { report } => {
            let lasted = (report.duration_ms.max(0.0) * 1_000.0) as u64;
            let (at, ending) = (report.started_at + WallMicros(lasted), report.outcome);
            vec![(at, Happening::Ended { ending })]
        }
        JournalEntry::VmLost { vm, at, host, fault } => {
            let (vm, host, fault) = (vm.clone(), host.clone(), fault.clone());
            vec![(*at, Happening::VmLost { vm, host, fault })]
        }
        JournalEntry::VmClosed { .. }
        | JournalEntry::VmDiscarded { .. }
        | JournalEntry::VmRestored { .. }
        | JournalEntry::CancelAsked { .. }
        | JournalEntry::Recovered { .. } => Vec::new(),
    }
}

fn with_phases(vms: &[VmSoFar], at: WallMicros, what: Happening) -> Vec<(WallMicros, Happening)> {
    let phases = vms.iter().flat_map(|so_far| {
        so_far.entered.iter().map(|(phase, at)| {
            let (vm, phase) = (so_far.vm.clone(), *phase);
            (*at, Happening::PhaseEntered { vm, phase })
        })
    });
    let mut told: Vec<_> = phases.collect();
    told.sort_by_key(|(at, _)| *at);
    told.push((at, what));
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_protocol::report::Ending;

    fn at(micros: u64) -> WallMicros {
        WallMicros(micros)
    }

    fn ended() -> Happening {
        Happening::Ended {
            ending: Ending::Committed,
        }
    }

    #[tokio::test]
    async fn replay_then_live_then_the_end() {
        let history = History::new(MigrationId(1));
        history.push(at(1), Happening::Committed { batch: 1 });
        assert_eq!(history.after(0).await.unwrap().len(), 1);
        let follower = tokio::spawn({
            let history = history.clone();
            async move { history.after(1).await }
        });
        tokio::task::yield_now().await;
        history.push(at(2), ended());
        assert_eq!(follower.await.unwrap().unwrap()[0].number, 2);
        assert_eq!(history.after(2).await, None);
    }

    #[tokio::test]
    async fn a_follower_from_an_earlier_life_misses_neither_news_nor_the_end() {
        let entries = [JournalEntry::BatchBegun {
            batch: 1,
            epoch: Epoch(1),
            at: at(1),
        }];
        let history = History::of_entries(MigrationId(1), &entries, Epoch(7));
        history.push(at(2), Happening::Committed { batch: 1 });
        let seen_57 = history.after(57).await.unwrap();
        assert_eq!(seen_57.len(), 1, "what the journal told is old to it");
        assert_eq!(seen_57[0].number, 7_000_001);
        history.push(at(3), ended());
        assert_eq!(history.after(9_000_000).await.unwrap()[0].what, ended());
    }

    #[test]
    fn beyond_the_limit_only_progress_is_left_out() {
        let history = History::new(MigrationId(1));
        let progress = || Happening::Progress {
            vm: "vm1".parse().unwrap(),
            pages: transhume_protocol::message::PageProgress::default(),
        };
        (0..EVENTS_MAX + 5).for_each(|_| history.push(at(1), progress()));
        history.push(at(2), ended());
        let kept = history.kept();
        assert_eq!(kept.events.len(), EVENTS_MAX + 1);
        let without_gaps = kept
            .events
            .iter()
            .zip(1..)
            .all(|(event, number)| event.number == number);
        assert!(without_gaps);
    }
}
