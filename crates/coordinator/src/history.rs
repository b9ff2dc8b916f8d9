//! What happened in one move, for everybody who wants to follow it: replay, then live.
//!
//! A number says how far the move's journal was: entries × [`NUMBERS_PER_ENTRY`] and a counter.
//! What the journal holds of an earlier life of the coordinator is numbered in the upper half of
//! its entry's range, above what that life itself gave out while the entry was the newest. So
//! whoever has seen N and asks a restarted coordinator for what comes after N misses nothing that
//! the journal holds, and hears at most the events of one entry again.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use transhume_model::{MigrationId, WallMicros};
use transhume_protocol::event::{Event, Happening};
use transhume_protocol::migration::{JournalEntry, VmSoFar};
use transhume_protocol::step::{Phase, Step};

/// Beyond this, progress of page streams is left out; everything else is kept.
const EVENTS_MAX: usize = 20_000;
/// A follower is given so many at once.
const EVENTS_AT_ONCE_MAX: usize = 256;
/// Far more events than happen between two entries of a move's journal.
const NUMBERS_PER_ENTRY: u64 = 1 << 20;
/// Where in an entry's range the events begin that are taken from the journal.
const RECORDED_FROM: u64 = NUMBERS_PER_ENTRY / 2;

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
    /// Entries of the move's journal so far.
    entries: u64,
    next: u64,
}

impl Kept {
    /// The journal grew.
    fn entries_added(&mut self, added: u64) {
        self.entries += added;
        self.next = self.next.max(self.entries * NUMBERS_PER_ENTRY + 1);
    }

    fn push(&mut self, at: WallMicros, what: Happening) {
        if self.events.len() >= EVENTS_MAX && matches!(what, Happening::Progress { .. }) {
            return;
        }
        let (migration, number) = (self.migration, self.next);
        self.next += 1;
        self.events.push(Event {
            migration,
            number,
            at,
            what,
        });
    }
}

impl History {
    /// Of a move that begins.
    pub(crate) fn new(migration: MigrationId) -> Self {
        let kept = Kept {
            migration,
            events: Vec::new(),
            entries: 0,
            next: 1,
        };
        Self {
            kept: Arc::new(Mutex::new(kept)),
            last: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Of a move that the journal holds.
    pub(crate) fn of_entries(migration: MigrationId, entries: &[JournalEntry]) -> Self {
        let history = Self::new(migration);
        let mut kept = history.kept();
        for entry in entries {
            kept.entries_added(1);
            kept.next = kept.entries * NUMBERS_PER_ENTRY + RECORDED_FROM;
            for (at, what) in recorded(entry) {
                kept.push(at, what);
            }
        }
        drop(kept);
        history
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no holder of this lock panics")
    }

    /// Adds what happened as the journal grew by so many entries.
    pub(crate) fn extend(&self, entries: usize, at: WallMicros, happened: Vec<Happening>) {
        let mut kept = self.kept();
        // Numbered by the first entry: all of them may be read from the journal again.
        kept.entries_added(entries.min(1) as u64);
        happened.into_iter().for_each(|what| kept.push(at, what));
        kept.entries += entries.saturating_sub(1) as u64;
        let last = kept.next - 1;
        drop(kept);
        self.last.send_replace(last);
    }

    /// Keeps the end alone: the move is long over.
    pub(crate) fn shorten(&self) {
        let mut kept = self.kept();
        let all_but_last = kept.events.len().saturating_sub(1);
        kept.events.drain(..all_but_last);
    }

    /// Events numbered above `after`, as soon as there are any; `None` when the last one has been
    /// given.
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
        // A number that no event of this move has: its owner has not seen the end.
        Some((after > last.number).then(|| vec![last.clone()]))
    }
}

/// What an entry of the journal says to people.
fn recorded(entry: &JournalEntry) -> Vec<(WallMicros, Happening)> {
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
        JournalEntry::PutOff {
            vm, batch, into, at, ..
        } => {
            let put_off = Happening::PutOff {
                vm: vm.clone(),
                batch: *into,
            };
            let (batch, step) = (*batch, Step::SelectBatch);
            vec![(*at, put_off), (*at, Happening::StepEntered { batch, step })]
        }
        JournalEntry::Rearranged { batch, batches, at } => {
            let rearranged = Happening::Rearranged {
                batches: batch + batches.len(),
                batch_max: batches.iter().map(Vec::len).max().unwrap_or_default(),
            };
            vec![(*at, rearranged)]
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
        JournalEntry::GivenUp { vm, side, host, at } => {
            let (vm, host, side) = (vm.clone(), host.clone(), *side);
            vec![(*at, Happening::GivenUp { vm, host, side })]
        }
        JournalEntry::Resolved { vm, at, run_on, .. } => {
            let (vm, run_on) = (vm.clone(), *run_on);
            vec![(*at, Happening::Resolved { vm, run_on })]
        }
        JournalEntry::VmClosed { .. }
        | JournalEntry::LeftBehind { .. }
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
    let mut events: Vec<_> = phases.collect();
    events.sort_by_key(|(at, _)| *at);
    events.push((at, what));
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::Epoch;
    use transhume_protocol::report::Ending;

    fn at(micros: u64) -> WallMicros {
        WallMicros(micros)
    }

    fn ended() -> Happening {
        Happening::Ended {
            ending: Ending::Committed,
        }
    }

    fn committed(batch: usize) -> Happening {
        Happening::Committed { batch }
    }

    fn lost() -> Happening {
        Happening::AgentLost {
            host: "h1".parse().unwrap(),
        }
    }

    fn begun(batch: usize) -> JournalEntry {
        JournalEntry::BatchBegun {
            batch,
            epoch: Epoch(1),
            at: at(1),
        }
    }

    fn commitment(batch: usize) -> JournalEntry {
        JournalEntry::Committed {
            batch,
            epoch: Epoch(1),
            at: at(2),
            vms: Vec::new(),
        }
    }

    async fn given(history: &History, after: u64) -> Vec<Happening> {
        let events = history.after(after).await.unwrap();
        events.into_iter().map(|event| event.what).collect()
    }

    #[tokio::test]
    async fn replay_then_live_then_the_end() {
        let history = History::new(MigrationId(1));
        history.extend(1, at(1), vec![committed(1)]);
        let first = history.after(0).await.unwrap();
        assert_eq!(first.len(), 1);
        let follower = tokio::spawn({
            let (history, seen) = (history.clone(), first[0].number);
            async move { history.after(seen).await }
        });
        tokio::task::yield_now().await;
        history.extend(0, at(2), vec![ended()]);
        let last = follower.await.unwrap().unwrap();
        assert_eq!(last[0].number, first[0].number + 1);
        assert_eq!(history.after(last[0].number).await, None);
        assert_eq!(given(&history, u64::MAX).await, [ended()], "a number of nobody's");
    }

    /// Wherever a life ends, whoever followed it and goes on in the next one hears every decision.
    #[tokio::test]
    async fn a_follower_of_an_earlier_life_misses_no_decision() {
        let entries = [begun(1), commitment(1), begun(2), commitment(2)];
        for durable in 1..=entries.len() {
            let first_life = History::new(MigrationId(1));
            first_life.extend(1, at(1), vec![lost(), lost()]);
            // One input that is worth all further entries; each is shown with the next event.
            let decisions = [committed(1), lost(), committed(2)];
            first_life.extend(durable - 1, at(2), decisions.to_vec());
            for seen in first_life.after(0).await.unwrap() {
                let second_life = History::of_entries(MigrationId(1), &entries[..durable]);
                second_life.extend(1, at(3), vec![ended()]);
                let later = given(&second_life, seen.number).await;
                let commits = durable / 2;
                let missed = (1..=commits).any(|batch| {
                    let before = first_life.known_after(0).flatten().unwrap();
                    let mut before = before.iter().filter(|event| event.number <= seen.number);
                    !later.contains(&committed(batch)) && before.all(|event| event.what != committed(batch))
                });
                assert!(!missed, "{durable} durable, seen {seen:?}: {later:?}");
                assert_eq!(later.last(), Some(&ended()), "what is new is new to it");
            }
        }
    }

    #[tokio::test]
    async fn what_two_lives_read_from_the_journal_has_the_same_numbers() {
        let entries = [begun(1), commitment(1)];
        let numbers = async |entries: &[JournalEntry]| {
            let events = History::of_entries(MigrationId(1), entries)
                .after(0)
                .await
                .unwrap();
            events.iter().map(|event| event.number).collect::<Vec<_>>()
        };
        let both = numbers(&entries).await;
        assert_eq!(both[..1], numbers(&entries[..1]).await);
        assert!(both.is_sorted_by(|a, b| a < b), "{both:?}");
    }

    #[test]
    fn beyond_the_limit_only_progress_is_left_out() {
        let history = History::new(MigrationId(1));
        let progress = || Happening::Progress {
            vm: "vm1".parse().unwrap(),
            pages: transhume_protocol::message::PageProgress::default(),
        };
        (0..EVENTS_MAX + 5).for_each(|_| history.extend(0, at(1), vec![progress()]));
        history.extend(0, at(2), vec![ended()]);
        let kept = history.kept();
        assert_eq!(kept.events.len(), EVENTS_MAX + 1);
        let numbers = kept.events.iter().map(|event| event.number);
        assert!(numbers.eq(1..=EVENTS_MAX as u64 + 1));
    }
}
