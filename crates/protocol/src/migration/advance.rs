//! From step to step: the barriers, the decision, the roll-back and the next batch.

use std::ops::Range;

use transhume_model::WallMicros;

use super::course::Course;
use super::open::OrderState;
use super::{JournalEntry, Link, Migration, Now, Ready, TimerId, trouble};
use crate::event::Happening;
use crate::message::Order;
use crate::report::{Ending, Trouble};
use crate::step::{Fact, OnFault, OrderRow, Part, Phase, Step};

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
    /// Goes as far as the facts allow, then issues the orders that are wanted there: for the VM in
    /// `news`, or for all if the batch has come further than it was, or `news` is about more than
    /// one.
    pub(super) fn advance(&mut self, now: Now, was: (usize, Course, Step), news: News, ready: &mut Ready) {
        self.end_without_lost_hosts(now, ready);
        while self.is_step_done() {
            match (self.course, self.step.next()) {
                (Course::BeforeCommit, Some(Step::Commit)) => self.commit(now, ready),
                (Course::BeforeCommit, Some(next)) => self.enter(next, now, ready),
                (Course::Committed, Some(Step::CloseBuffers)) => self.enter_step(Step::CloseBuffers, ready),
                (Course::Committed, _) => self.finish_batch(now, ready),
                (Course::RollingBack, _) => match self.put_off.take() {
                    Some(vm) if self.batch_vms().all(|vm| vm.given_up.is_empty()) => {
                        self.begin_without(now, vm, ready)
                    }
                    Some(_) | None => self.end(now, ready),
                },
                (Course::BeforeCommit, None) | (Course::Over, _) => self.end(now, ready),
            }
        }
        match news {
            _ if was != self.place() => self.issue(self.batch_range(), now, ready),
            News::OfAll => self.issue(self.batch_range(), now, ready),
            News::OfVm(index) => self.issue(index..index + 1, now, ready),
            News::Nothing => {}
        }
    }

    /// How far the move is.
    pub(super) fn place(&self) -> (usize, Course, Step) {
        (self.batch, self.course, self.step)
    }

    /// Step 1 of a batch; the journal knows of it before the first order leaves.
    pub(super) fn begin_batch(&mut self, now: Now, ready: &mut Ready) {
        // No order of an earlier life is under way for it.
        self.recovered = false;
        ready.persist.push(JournalEntry::BatchBegun {
            batch: self.batch_number(),
            epoch: self.epoch,
            at: now.wall,
        });
        self.enter(Step::SelectBatch, now, ready);
        // One that is gone already takes no part in what begins: nobody waits for it.
        let mut hosts = self.batch_vms().flat_map(|vm| [&vm.source, &vm.target]);
        let gone = hosts.find(|host| self.is_gone(host)).cloned();
        drop(hosts);
        if let Some(host) = gone {
            self.roll_back(now, trouble::agent_lost(self.step, &host), ready);
        }
    }

    pub(super) fn enter(&mut self, step: Step, now: Now, ready: &mut Ready) {
        self.enter_step(step, ready);
        self.deadline = None;
        self.set_deadline(now, ready);
        if step == Step::StartPreCopy {
            let at = now.mono + self.request.limits.pre_copy_ms_max;
            self.pre_copy_deadline = Some(at);
            let batch = self.batch_number();
            ready.timers.push((at, TimerId::PreCopy { batch }));
        }
        self.enter_phase(self.batch_range(), step.row().phase, now.wall, ready);
    }

    /// Before commit: the limit of the first order of the step that is still open for a VM counts
    /// from when the batch came to it.
    pub(super) fn set_deadline(&mut self, now: Now, ready: &mut Ready) {
        if self.course != Course::BeforeCommit {
            return;
        }
        let mut orders = self.step.orders();
        let open = orders.find(|row| self.batch_vms().any(|vm| !vm.has(row.order)));
        let Some(row) = open.filter(|row| self.deadline.is_none_or(|(_, limit)| limit != row.limit)) else {
            return;
        };
        let at = now.mono + self.request.limits.of(row.limit);
        self.deadline = Some((at, row.limit));
        let (batch, step) = (self.batch_number(), self.step);
        ready.timers.push((at, TimerId::Step { batch, step }));
    }

    /// Step 7. The one entry that decides; orders of step 8 stand behind it in the same `Ready`.
    fn commit(&mut self, now: Now, ready: &mut Ready) {
        self.enter_step(Step::Commit, ready);
        self.enter_phase(self.batch_range(), Step::Commit.row().phase, now.wall, ready);
        ready.persist.push(JournalEntry::Committed {
            batch: self.batch_number(),
            epoch: self.epoch,
            at: now.wall,
            vms: self.batch_vms().map(|vm| vm.so_far.clone()).collect(),
        });
        ready.events.push(Happening::Committed {
            batch: self.batch_number(),
        });
        self.deadline = None;
        for vm in self.batch_vms_mut() {
            vm.committed = true;
        }
        self.enter_step(Step::Activate, ready);
        self.enter_phase(self.batch_range(), Step::Activate.row().phase, now.wall, ready);
    }

    /// Step 10.
    fn finish_batch(&mut self, now: Now, ready: &mut Ready) {
        self.enter_step(Step::NextBatch, ready);
        let is_last = self.batch_number() == self.request.batches.len();
        if is_last {
            return self.end(now, ready);
        }
        if self.cancelled {
            self.trouble = Some(trouble::cancelled(self.step));
            return self.end(now, ready);
        }
        // Its trouble is known; the hosts of what is to come may be those that were lost.
        if self.batch_vms().any(super::vm::Vm::is_reclaimed) {
            return self.end(now, ready);
        }
        if self.out_of_time {
            let limit = self.request.duration_ms_max.unwrap_or_default();
            self.trouble = Some(trouble::out_of_time(self.step, limit));
            return self.end(now, ready);
        }
        self.batch += 1;
        self.epoch = self.epoch.next();
        self.begin_batch(now, ready);
    }

    /// Every VM of the batch returns to its source. Only before commit.
    pub(super) fn roll_back(&mut self, now: Now, trouble: Trouble, ready: &mut Ready) {
        assert_eq!(
            self.course,
            Course::BeforeCommit,
            "nothing unwinds after Committed"
        );
        ready.persist.push(JournalEntry::RollingBack {
            batch: self.batch_number(),
            at: now.wall,
            trouble: trouble.clone(),
            refused: self.refused,
            put_off: self.put_off.clone(),
            vms: self.batch_vms().map(|vm| vm.so_far.clone()).collect(),
        });
        ready.events.push(Happening::RollingBack {
            batch: self.batch_number(),
            reason: trouble.reason.clone(),
        });
        self.trouble = Some(trouble);
        self.course = Course::RollingBack;
        self.deadline = None;
        for vm in self.batch_vms_mut() {
            vm.open.forget_all();
            vm.failures = 0;
        }
    }

    fn end(&mut self, now: Now, ready: &mut Ready) {
        self.course = Course::Over;
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
        let any_lost = self.vms.iter().any(|vm| vm.lost.is_some() || vm.without_fin);
        match (any_committed, self.trouble.is_some()) {
            (_, false) if any_lost => Ending::CommittedWithLoss,
            (_, false) => Ending::Committed,
            (true, true) => Ending::PartlyCommitted,
            (false, true) if touched_nothing => Ending::Refused,
            (false, true) => Ending::RolledBack,
        }
    }

    /// Issues every order that is wanted, not under way, and has a host to go to.
    pub(super) fn issue(&mut self, vms: Range<usize>, now: Now, ready: &mut Ready) {
        for index in vms {
            for row in self.wanted(&self.vms[index]) {
                let vm = &self.vms[index];
                let under_way = vm
                    .open
                    .get(row.order)
                    .is_some_and(|open| open.state != OrderState::Parked);
                if !under_way && self.links[vm.host(row.side)] == Link::Up {
                    self.issue_one(index, row, now, ready);
                }
            }
        }
    }

    fn issue_one(&mut self, index: usize, row: &'static OrderRow, now: Now, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        let command = vm
            .command(row.order, &self.request)
            .expect("a wanted order has all that it needs");
        let order = Order {
            id: self.ids.next_id(),
            epoch: self.epoch,
            command,
        };
        let course = self.course_of(&self.vms[index]);
        let vm = &mut self.vms[index];
        let again_at = match course {
            Course::BeforeCommit => None,
            Course::Committed | Course::RollingBack | Course::Over => {
                Some(now.mono + self.request.limits.of(row.limit))
            }
        };
        if let Some(at) = again_at {
            let (vm, order) = (vm.name().clone(), order.id);
            ready.timers.push((at, TimerId::Again { vm, order }));
        }
        vm.issued(row, order.id, now, again_at);
        ready.send.push((vm.host(row.side).clone(), order));
    }

    /// The step says where its batch is heading: back at a fault, or only forward.
    pub(super) fn enter_step(&mut self, step: Step, ready: &mut Ready) {
        self.step = step;
        self.course = match step.row().on_fault {
            OnFault::RollBack => Course::BeforeCommit,
            OnFault::RollForward => Course::Committed,
        };
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

    /// What ran out of time: the VMs for which an order of this step is still wanted. An order that
    /// only has to be started for the step, and is, has a limit of its own.
    pub(super) fn whose_answer_is_missing(&self) -> Option<Trouble> {
        let (_, limit) = self.deadline?;
        let mut late = Vec::new();
        for vm in self.batch_vms() {
            let started = |row: &OrderRow| {
                let fact = Fact::Started(row.order);
                self.step.row().done_when.contains(&fact) && vm.is_started(row.order)
            };
            let mut wanted = self.wanted(vm).into_iter();
            let missing = wanted.find(|row| row.part == Part::Step(self.step) && !started(row));
            late.extend(missing.map(|row| (vm.name(), vm.host(row.side))));
        }
        let waited = self.request.limits.of(limit);
        (!late.is_empty()).then(|| trouble::timed_out(self.step, &late, waited, limit.name()))
    }

    /// The batch's place in `vms`: batches stand one after the other.
    pub(super) fn batch_range(&self) -> Range<usize> {
        let first = self.vms.partition_point(|vm| vm.batch < self.batch);
        let end = self.vms.partition_point(|vm| vm.batch <= self.batch);
        first..end
    }
}
