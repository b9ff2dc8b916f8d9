//! From stage to stage: the barriers, the decision, the roll-back and the next batch.

use std::ops::Range;

use transhume_model::WallMicros;

use super::stage::{self, Stage, through};
use super::verb::Verb;
use super::vm::AskedState;
use super::{JournalEntry, Link, Migration, Now, Ready, TimerId, trouble};
use crate::event::Happening;
use crate::message::Order;
use crate::report::{Ending, Trouble};
use crate::step::{Phase, Step};

/// What an input changed something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    Nothing,
    /// The VM at this place.
    OfVm(usize),
    /// Maybe several VMs.
    OfAll,
}

impl Migration {
    /// Goes as far as the facts allow, then gives the orders that are wanted there: for the VM in `news`, or for
    /// all if the stage is another one than it was, or `news` is about more than one.
    pub(super) fn advance(&mut self, now: Now, was: (usize, Stage), news: News, ready: &mut Ready) {
        while self.stage != Stage::Over && self.batch_vms().all(|vm| through(self.stage, vm)) {
            match self.stage.next() {
                Some(next) => self.enter(next, now, ready),
                None if self.stage == Stage::StopAndCopy => self.commit(now, ready),
                None if self.stage == Stage::RollForward => self.finish_batch(now, ready),
                None => self.end(now, ready),
            }
        }
        self.announce_closing(ready);
        match news {
            _ if was != (self.batch, self.stage) => self.give(self.batch_range(), now, ready),
            News::OfAll => self.give(self.batch_range(), now, ready),
            News::OfVm(index) => self.give(index..index + 1, now, ready),
            News::Nothing => {}
        }
    }

    /// Step 1 of a batch; the journal knows of it before the first order leaves.
    pub(super) fn begin_batch(&mut self, now: Now, ready: &mut Ready) {
        ready.persist.push(JournalEntry::BatchBegun {
            batch: self.batch_number(),
            epoch: self.epoch,
            at: now.wall,
        });
        self.enter(Stage::Reserve, now, ready);
    }

    fn enter(&mut self, stage: Stage, now: Now, ready: &mut Ready) {
        self.stage = stage;
        if let Some(step) = stage.step() {
            if stage != Stage::Prepare {
                self.enter_step(step, ready);
            }
            if let Some((limit, _)) = stage.limit(&self.request.limits) {
                let at = now.mono + limit;
                self.deadline = Some(at);
                ready.timers.push((
                    at,
                    TimerId::Step {
                        batch: self.batch_number(),
                        step,
                    },
                ));
            }
        }
        if stage == Stage::StartPreCopy {
            let at = now.mono + self.request.limits.pre_copy_ms_max;
            self.pre_copy_deadline = Some(at);
            ready.timers.push((
                at,
                TimerId::PreCopy {
                    batch: self.batch_number(),
                },
            ));
        }
        if let Some(phase) = stage.phase() {
            self.enter_phase(self.batch_range(), phase, now.wall, ready);
        }
    }

    /// Step 7. The one entry that decides; orders of step 8 stand behind it in the same `Ready`.
    fn commit(&mut self, now: Now, ready: &mut Ready) {
        self.enter_step(Step::Commit, ready);
        ready.persist.push(JournalEntry::Committed {
            batch: self.batch_number(),
            epoch: self.epoch,
            at: now.wall,
            vms: self.batch_vms().map(super::vm::Vm::so_far).collect(),
        });
        ready.events.push(Happening::Committed {
            batch: self.batch_number(),
        });
        self.stage = Stage::RollForward;
        self.deadline = None;
        for vm in self.batch_vms_mut() {
            vm.committed = true;
        }
        self.enter_step(Step::Activate, ready);
        self.enter_phase(self.batch_range(), Phase::Activation, now.wall, ready);
    }

    /// Step 9 has begun for the batch when all its VMs run; single VMs may be ahead.
    fn announce_closing(&mut self, ready: &mut Ready) {
        let all_run =
            self.stage == Stage::RollForward && self.batch_vms().all(|vm| vm.is_done(Verb::Activate));
        if all_run && self.step == Step::Activate {
            self.enter_step(Step::CloseBuffers, ready);
        }
    }

    /// Step 10.
    fn finish_batch(&mut self, now: Now, ready: &mut Ready) {
        self.announce_closing(ready);
        self.enter_step(Step::NextBatch, ready);
        let is_last = self.batch_number() == self.request.batches.len();
        if is_last {
            return self.end(now, ready);
        }
        if self.cancelled {
            self.trouble = Some(trouble::cancelled(self.step));
            return self.end(now, ready);
        }
        self.batch += 1;
        self.epoch = self.epoch.next();
        self.begin_batch(now, ready);
    }

    /// Every VM of the batch returns to its source. Only before commit.
    pub(super) fn roll_back(&mut self, now: Now, trouble: Trouble, ready: &mut Ready) {
        assert!(self.stage.is_before_commit(), "nothing unwinds after Committed");
        ready.persist.push(JournalEntry::RollingBack {
            batch: self.batch_number(),
            at: now.wall,
            trouble: trouble.clone(),
            refused: self.refused,
            vms: self.batch_vms().map(super::vm::Vm::so_far).collect(),
        });
        ready.events.push(Happening::RollingBack {
            batch: self.batch_number(),
            reason: trouble.reason.clone(),
        });
        self.trouble = Some(trouble);
        self.stage = Stage::RollBack;
        self.deadline = None;
        for vm in self.batch_vms_mut() {
            vm.forget_orders();
            vm.failures = 0;
        }
    }

    fn end(&mut self, now: Now, ready: &mut Ready) {
        self.stage = Stage::Over;
        let report = Box::new(self.report_with(now, self.ending()));
        ready.events.push(Happening::Ended {
            ending: report.outcome,
        });
        ready.persist.push(JournalEntry::Ended {
            report: report.clone(),
        });
        self.ended = Some(report);
        ready.done = true;
    }

    fn ending(&self) -> Ending {
        let any_committed = self.vms.iter().any(|vm| vm.committed);
        let touched_nothing = self.step == Step::SelectBatch && self.refused;
        match (any_committed, self.trouble.is_some()) {
            (_, false) => Ending::Committed,
            (true, true) => Ending::PartlyCommitted,
            (false, true) if touched_nothing => Ending::Refused,
            (false, true) => Ending::RolledBack,
        }
    }

    /// Gives every order that is wanted, not under way, and has a host to go to.
    pub(super) fn give(&mut self, vms: Range<usize>, now: Now, ready: &mut Ready) {
        for index in vms {
            for verb in stage::wanted(self.stage, &self.vms[index]) {
                let vm = &self.vms[index];
                let host = vm.host(verb.side()).clone();
                let open = matches!(
                    vm.asked(verb),
                    Some(AskedState::Waiting { .. } | AskedState::Resting { .. })
                );
                if !open && self.links[&host] == Link::Up {
                    self.give_one(index, verb, now, ready);
                }
            }
        }
    }

    fn give_one(&mut self, index: usize, verb: Verb, now: Now, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        let order = Order {
            id: self.ids.next_id(),
            epoch: self.epoch,
            command: vm.command(verb, &self.request),
        };
        let again_at =
            (!self.stage.is_before_commit()).then(|| now.mono + verb.again_after(&self.request.limits));
        if let Some(at) = again_at {
            ready.timers.push((
                at,
                TimerId::Again {
                    vm: vm.name().clone(),
                    order: order.id,
                },
            ));
        }
        vm.ask(verb, order.id, again_at);
        ready.send.push((vm.host(verb.side()).clone(), order));
    }

    pub(super) fn enter_step(&mut self, step: Step, ready: &mut Ready) {
        self.step = step;
        ready.events.push(Happening::StepEntered {
            batch: self.batch_number(),
            step,
        });
    }

    pub(super) fn enter_phase(&mut self, vms: Range<usize>, phase: Phase, at: WallMicros, ready: &mut Ready) {
        for vm in &mut self.vms[vms] {
            if vm.enter(phase, at) {
                ready.events.push(Happening::PhaseEntered {
                    vm: vm.name().clone(),
                    phase,
                });
            }
        }
    }

    /// What ran out of time: the first VM that is not through, unless only convergence is missing, which has a
    /// limit of its own.
    pub(super) fn whose_answer_is_missing(&self) -> Option<Trouble> {
        let mut late = Vec::new();
        for vm in self.batch_vms() {
            let missing = stage::wanted(self.stage, vm)
                .into_iter()
                .find(|verb| *verb != Verb::PreCopy || self.stage == Stage::StartPreCopy && !vm.streaming);
            if let Some(verb) = missing {
                late.push((vm.name(), vm.host(verb.side())));
            }
        }
        let (limit, name) = self.stage.limit(&self.request.limits)?;
        (!late.is_empty()).then(|| trouble::timed_out(self.step, &late, limit, name))
    }

    /// The batch's place in `vms`: batches stand one after the other.
    pub(super) fn batch_range(&self) -> Range<usize> {
        let first = self.vms.partition_point(|vm| vm.batch < self.batch);
        let end = self.vms.partition_point(|vm| vm.batch <= self.batch);
        first..end
    }
}
