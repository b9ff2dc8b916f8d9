//! A VM that does not get ready, and a move that takes too long: what was ordered for these cases.
//!
//! Whether a VM is stuck, and slowing its guest down, are the driver's: both need to know the
//! links.

use transhume_model::{Millis, VmName};

use super::course::Course;
use super::vm::Vm;
use super::{JournalEntry, Migration, News, Now, Ready, TimerId, trouble};
use crate::event::Happening;
use crate::message::OrderKind;
use crate::migration::request::{Converge, MoveVm, StuckRates};
use crate::step::Step;

impl Migration {
    /// A VM of the batch dirties its memory as fast as it can be sent.
    pub(super) fn vm_stuck(&mut self, now: Now, name: &VmName, rates: StuckRates, ready: &mut Ready) -> News {
        let place = self.places.get(name).copied();
        let copies = |vm: &&Vm| vm.batch == self.batch && !vm.has(OrderKind::PreCopy);
        let Some(vm) = place.map(|place| &self.vms[place]).filter(copies) else {
            return self.ignore();
        };
        if self.course != Course::BeforeCommit {
            return self.ignore();
        }
        let policy = self.request.converge;
        let host = vm.source.clone();
        ready.events.push(Happening::Stuck {
            vm: name.clone(),
            rates,
            policy,
        });
        let alone = self.batch_vms().count() == 1;
        match policy {
            Converge::Stop => {
                let trouble = trouble::stuck(self.step, name, &host, rates);
                self.roll_back(now, trouble, ready);
                News::OfAll
            }
            Converge::Shrink if !alone => {
                self.put_off = Some(name.clone());
                let trouble = trouble::stuck(self.step, name, &host, rates);
                self.roll_back(now, trouble, ready);
                News::OfAll
            }
            // One that is alone already waits; `duration_ms_max` ends that.
            Converge::Wait | Converge::Throttle { .. } | Converge::Shrink => News::Nothing,
        }
    }

    /// The batch is back at its sources, and begins again without the VM that was stuck: that one
    /// goes last, in a batch of its own.
    pub(super) fn begin_without(&mut self, now: Now, name: VmName, ready: &mut Ready) {
        self.epoch = self.epoch.next();
        ready.persist.push(JournalEntry::PutOff {
            vm: name.clone(),
            batch: self.batch_number(),
            into: self.request.batches.len() + 1,
            epoch: self.epoch,
            at: now.wall,
        });
        ready.events.push(Happening::PutOff {
            vm: name.clone(),
            batch: self.request.batches.len() + 1,
        });
        self.rearrange(&name);
        self.pre_copy_deadline = None;
        self.enter(Step::SelectBatch, now, ready);
    }

    /// Moves a VM of the batch under way into a new last one. The others begin anew.
    pub(super) fn rearrange(&mut self, name: &VmName) {
        (self.trouble, self.refused) = (None, false);
        let batch = self.batch;
        let behind_all = self.request.rounds();
        let own = &mut self.request.batches[batch];
        if let Some(place) = own.iter().position(|vm| vm.spec.name == *name) {
            let last = own.remove(place);
            let round = behind_all;
            self.request.batches.push(vec![MoveVm { round, ..last }]);
        }
        let before = std::mem::take(&mut self.vms).into_iter();
        let others = before.filter(|vm| vm.batch != batch);
        self.line_up(others.map(|vm| (vm.name().clone(), vm)).collect());
    }

    /// The whole move has a limit. How much of it is left is told by the wall clock, once: it alone
    /// goes on while no coordinator runs. From then on the deadline is by the clock of the timers.
    pub(super) fn set_move_deadline(&mut self, now: Now, ready: &mut Ready) {
        if let Some(limit) = self.request.duration_ms_max {
            let passed = Millis(now.wall.saturating_sub(self.begun_at).0 / 1_000);
            let at = now.mono + limit.saturating_sub(passed);
            self.move_deadline = Some(at);
            ready.timers.push((at, TimerId::Move));
        }
    }

    /// Its time is over: the batch under way rolls back if it is not committed, no other begins.
    pub(super) fn move_ran_out(&mut self, now: Now, ready: &mut Ready) -> bool {
        let Some(limit) = self.request.duration_ms_max else {
            return false;
        };
        if self.move_deadline.is_none_or(|at| at > now.mono) || self.out_of_time {
            return false;
        }
        self.out_of_time = true;
        self.put_off = None;
        if self.course == Course::BeforeCommit {
            self.roll_back(now, trouble::out_of_time(self.step, limit), ready);
        }
        true
    }
}
