//! Hosts that are lost for good: a move ends without them, or names the decision that it waits for.
//!
//! ```text
//!            rolling back                              committed
//!  target    given up; dropped when it is back         a decision: the source, nowhere, or the
//!                                                        host comes back
//!  source    target not whole: given up, the VM        given up; the target opens its plug without
//!              died with its host                        FIN, discarded when it is back
//!            target whole: a decision: the target
//!              runs it, or nowhere, or it comes back
//!
//!  a target that answers, and has lost its VM          a decision: the source, or nowhere
//!    before it was seen to run
//! ```
//!
//! The surrendered copy on the source is kept until a decision about a lost target is taken. It may
//! run again by that decision only (`Reclaim`): where the VM provably never ran on its target, or
//! where the operator says that it is to although it may have.
//!
//! Deliberately absent: whether a host is really off. Whoever gives [`Input::Resolve`] knows it.

use transhume_model::{HostName, VmName};

use super::course::Course;
use super::decision::{Cannot, Ran, Resolution, Resolvable};
use super::open::OpenOrders;
use super::size::words;
use super::vm::Vm;
use super::{Cleaning, Illegal, JournalEntry, Link, Migration, News, Now, Ready, RunOn, TimerId, trouble};
use crate::event::Happening;
use crate::message::{Fault, HostState, OrderKind, VmRole};
use crate::step::{Phase, Side, Step};

impl Migration {
    pub(super) fn set_host_timer(&self, now: Now, host: &HostName, ready: &mut Ready) {
        let at = now.mono + self.request.limits.host_lost_ms_max;
        let host = host.clone();
        ready.timers.push((at, TimerId::HostLost { host }));
    }

    pub(super) fn host_ran_out(&mut self, now: Now, host: &HostName, ready: &mut Ready) -> bool {
        let patience = self.request.limits.host_lost_ms_max;
        match self.links.get(host) {
            Some(Link::Lost { since }) if *since + patience <= now.mono => {
                self.gone(now, host, ready);
                true
            }
            Some(Link::Up | Link::Lost { .. } | Link::Gone { .. }) | None => false,
        }
    }

    pub(super) fn fenced(&mut self, now: Now, host: &HostName, ready: &mut Ready) -> Result<News, Illegal> {
        match self.links.get(host) {
            None => Err(self.illegal(
                None,
                format!("the fence of host {host}, which has no part in the move"),
            )),
            Some(Link::Up | Link::Gone { .. }) => Ok(self.ignore()),
            Some(Link::Lost { .. }) => {
                self.gone(now, host, ready);
                Ok(News::OfAll)
            }
        }
    }

    /// It is not waited for any more.
    fn gone(&mut self, now: Now, host: &HostName, ready: &mut Ready) {
        let Some(link) = self.links.get_mut(host) else {
            return;
        };
        if let Link::Lost { since } = *link {
            *link = Link::Gone { since };
        }
        ready.events.push(Happening::HostGone { host: host.clone() });
        if self.course == Course::BeforeCommit && self.batch_vms().any(|vm| vm.is_on(host)) {
            self.roll_back(now, trouble::agent_lost(self.step, host), ready);
        }
        for vm in self.batch_vms() {
            let Ok(open) = self.resolvable(vm) else { continue };
            if vm.host(open.lost_side()) == host {
                ready.events.push(Happening::DecisionWanted {
                    vm: vm.name().clone(),
                    host: host.clone(),
                    lost: open.lost(),
                    hint: open.hint(self.id(), vm.name(), host, vm.ran()),
                });
            }
        }
    }

    /// A target that answers has lost its VM before it was seen to run: its source still has it.
    pub(super) fn ask_whether_reclaimed(&mut self, index: usize, now: Now, ready: &mut Ready) {
        if self.course != Course::Committed || !self.vms[index].may_be_reclaimed() {
            return;
        }
        self.vms[index].lost_at = Some(now.mono);
        let vm = &self.vms[index];
        ready.events.push(Happening::DecisionWanted {
            vm: vm.name().clone(),
            host: vm.target.clone(),
            lost: Resolvable::LostOnTarget.lost(),
            hint: self.how_to_reclaim(vm),
        });
    }

    /// What can be decided about a VM that its target has lost.
    pub(super) fn how_to_reclaim(&self, vm: &Vm) -> String {
        Resolvable::LostOnTarget.hint(self.id(), vm.name(), &vm.target, vm.ran())
    }

    pub(super) fn is_gone(&self, host: &HostName) -> bool {
        matches!(self.links.get(host), Some(Link::Gone { .. }))
    }

    /// What a target says of itself is newer than what it answered before its connection broke.
    pub(super) fn learn_what_is_whole(&mut self, host: &HostName, state: &HostState) {
        for vm in self.batch_vms_mut().filter(|vm| vm.target == *host) {
            let mut there = state.vms.iter();
            let whole = there
                .any(|there| there.spec.name == vm.spec.name && there.role == VmRole::Target && there.whole);
            vm.whole = whole;
        }
    }

    /// Whether its target may hold all of it. One that is connected has said so, or has not.
    fn may_be_whole(&self, vm: &Vm) -> bool {
        let unknown = self.links.get(&vm.target) != Some(&Link::Up)
            && (self.recovered || self.step >= Step::StopAndCopy)
            && vm.is_touched(Side::Target);
        !vm.powered_off && (vm.whole || unknown)
    }

    pub(super) fn resolvable(&self, vm: &Vm) -> Result<Resolvable, Cannot> {
        let name = || vm.name().clone();
        if vm.batch != self.batch || self.course == Course::Over {
            return Err(Cannot::NotInBatch(name()));
        }
        let open = vm.lost.is_none();
        let source_out = vm.is_touched(Side::Source) && !vm.has(OrderKind::AbortSource);
        match self.course_of(vm) {
            Course::RollingBack
                if open
                    && vm.resolved.is_none()
                    && source_out
                    && self.is_gone(&vm.source)
                    && self.may_be_whole(vm) =>
            {
                Ok(Resolvable::OnlyCopyOnTarget)
            }
            Course::Committed if open && self.is_gone(&vm.target) && !vm.is_settled() => {
                Ok(Resolvable::TargetLost)
            }
            Course::Committed if vm.may_be_reclaimed() => Ok(Resolvable::LostOnTarget),
            _ => Err(Cannot::NotOpen(name())),
        }
    }

    /// VMs for which somebody has to decide, with the host that is lost.
    pub fn undecided(&self) -> Vec<(VmName, HostName)> {
        let open = |vm: &Vm| {
            let side = self.resolvable(vm).ok()?.lost_side();
            Some((vm.name().clone(), vm.host(side).clone()))
        };
        self.batch_vms().filter_map(open).collect()
    }

    /// Whether [`Input::Resolve`](super::Input::Resolve) can be given, and which host must be off
    /// for it.
    pub fn check_resolution(
        &self,
        vm: &VmName,
        run_on: RunOn,
        although_it_may_have_run: bool,
    ) -> Result<Resolution, Cannot> {
        let place = self
            .places
            .get(vm)
            .ok_or_else(|| Cannot::NotInBatch(vm.clone()))?;
        let vm = &self.vms[*place];
        let open = self.resolvable(vm)?;
        let cannot = |why: String| {
            let vm = vm.name().clone();
            Err(Cannot::NotThere { vm, run_on, why })
        };
        match (open, run_on) {
            (Resolvable::OnlyCopyOnTarget, RunOn::Source) => cannot(format!(
                "host {} is lost; when it is back the VM goes on there by itself",
                vm.source
            )),
            (Resolvable::OnlyCopyOnTarget, RunOn::Target)
                if self.links.get(&vm.target) != Some(&Link::Up) =>
            {
                cannot(format!("host {} is lost too", vm.target))
            }
            (Resolvable::TargetLost, RunOn::Target) => cannot(format!(
                "host {} is lost; when it is back the VM goes on there by itself",
                vm.target
            )),
            (Resolvable::LostOnTarget, RunOn::Target) => {
                cannot(format!("host {} has lost it, and says so", vm.target))
            }
            (Resolvable::TargetLost | Resolvable::LostOnTarget, RunOn::Source)
                if self.links.get(&vm.source) != Some(&Link::Up) || vm.given_up.contains(&Side::Source) =>
            {
                cannot(format!("host {} is lost too", vm.source))
            }
            (Resolvable::TargetLost | Resolvable::LostOnTarget, RunOn::Source)
                if vm.ran() == Ran::Maybe && !although_it_may_have_run =>
            {
                Err(Cannot::MayHaveRun {
                    vm: vm.name().clone(),
                    target: vm.target.clone(),
                })
            }
            (Resolvable::OnlyCopyOnTarget, RunOn::Target | RunOn::Nowhere)
            | (Resolvable::TargetLost, RunOn::Source | RunOn::Nowhere) => Ok(Resolution {
                off: Some(vm.host(open.lost_side()).clone()),
                ran: vm.ran(),
            }),
            (Resolvable::LostOnTarget, RunOn::Source | RunOn::Nowhere) => Ok(Resolution {
                off: None,
                ran: vm.ran(),
            }),
        }
    }

    pub(super) fn resolve(
        &mut self,
        now: Now,
        name: &VmName,
        run_on: RunOn,
        although_it_may_have_run: bool,
        ready: &mut Ready,
    ) -> Result<News, Illegal> {
        if let Err(why) = self.check_resolution(name, run_on, although_it_may_have_run) {
            return Err(self.illegal(Some(name), format!("a decision ({why})")));
        }
        let index = self.places[name];
        let open = match self.resolvable(&self.vms[index]) {
            Ok(open) => open,
            Err(why) => return Err(self.illegal(Some(name), format!("a decision ({why})"))),
        };
        let side = open.lost_side();
        let host = self.vms[index].host(side).clone();
        let ran = self.vms[index].ran();
        ready.persist.push(JournalEntry::Resolved {
            vm: name.clone(),
            at: now.wall,
            run_on,
            although_it_may_have_run: run_on == RunOn::Source && ran == Ran::Maybe,
        });
        let vm = name.clone();
        ready.events.push(Happening::Resolved { vm, run_on });
        if run_on == RunOn::Source {
            self.reclaim(index, ran);
        }
        self.vms[index].resolved = Some(run_on);
        match (side, run_on) {
            (_, RunOn::Source) => {
                if open == Resolvable::TargetLost {
                    self.give_up(index, Side::Target, now, ready);
                }
                // Whatever is there of it never runs again.
                self.leave_behind(index, Side::Target, Cleaning::Destroy, now, ready);
            }
            (_, RunOn::Target) => {
                let vm = &mut self.vms[index];
                vm.committed = true;
                vm.set_prepared();
                self.give_up(index, side, now, ready);
                self.enter_phase(index..index + 1, Phase::Activation, now.wall, ready);
            }
            (Side::Source, RunOn::Nowhere) => {
                self.lose(index, &host, trouble::given_up(&host), now, ready);
                self.give_up(index, side, now, ready);
                self.leave_behind(index, side, Cleaning::RestoreSource, now, ready);
            }
            (Side::Target, RunOn::Nowhere) if open == Resolvable::LostOnTarget => {}
            (Side::Target, RunOn::Nowhere) => {
                self.lose(index, &host, trouble::given_up(&host), now, ready);
                self.vms[index].set_done(OrderKind::Activate);
                self.give_up(index, side, now, ready);
                self.leave_behind(index, side, Cleaning::Destroy, now, ready);
                // The old copy of a source that was given up before.
                let vm = &self.vms[index];
                if vm.given_up.contains(&Side::Source) && !vm.left_behind.contains(&Side::Source) {
                    self.leave_behind(index, Side::Source, Cleaning::DiscardSource, now, ready);
                    self.vms[index].over_at = Some(now.wall);
                }
            }
        }
        Ok(News::OfAll)
    }

    /// A VM goes back to its source after commit.
    pub(super) fn reclaim(&mut self, index: usize, ran: Ran) {
        let vm = &self.vms[index];
        let (name, source, target) = (vm.name(), &vm.source, &vm.target);
        if self.trouble.is_none() {
            self.trouble = Some(trouble::reclaimed(self.step, name, source, target, ran));
        }
        let vm = &mut self.vms[index];
        (vm.committed, vm.lost) = (false, None);
        (vm.resolved, vm.reclaimed) = (Some(RunOn::Source), Some(ran));
        // What is under way at its target, and what would end the copy on its source.
        vm.open = OpenOrders::default();
        vm.failures = 0;
    }

    /// The user waits no longer for the source of a committed VM.
    pub(super) fn give_up_source(
        &mut self,
        now: Now,
        name: &VmName,
        ready: &mut Ready,
    ) -> Result<News, Illegal> {
        if let Err(why) = self.check_open_plug(name) {
            return Err(self.illegal(Some(name), format!("an open plug ({why})")));
        }
        let index = self.places[name];
        self.give_up(index, Side::Source, now, ready);
        Ok(News::OfAll)
    }

    /// Whether [`Input::GiveUpSource`](super::Input::GiveUpSource) can be given; why not, in words.
    pub fn check_open_plug(&self, name: &VmName) -> Result<(), String> {
        let place = self.places.get(name);
        let Some(vm) = place.map(|place| &self.vms[*place]) else {
            return Err(format!("VM {name} has no part in migration {}", self.id()));
        };
        if vm.batch != self.batch || self.course != Course::Committed {
            return Err(format!("the batch of VM {name} is not committed"));
        }
        if self.links.get(&vm.source) == Some(&Link::Up) {
            return Err(format!(
                "its source, host {}, is connected and will send FIN",
                vm.source
            ));
        }
        if vm.powered_off || vm.lost.is_some() {
            return Err(format!("VM {name} has no guest that waits behind a plug"));
        }
        if vm.given_up.contains(&Side::Source) || vm.is_settled() {
            return Err(format!("the plug of VM {name} is open, or about to open"));
        }
        Ok(())
    }

    /// What the lost hosts of the batch still owe it is ended without them, as far as nobody has to
    /// be asked.
    pub(super) fn end_without_lost_hosts(&mut self, now: Now, ready: &mut Ready) {
        for index in self.batch_range() {
            match self.course_of(&self.vms[index]) {
                Course::RollingBack => self.roll_back_without(index, now, ready),
                Course::Committed => self.finish_without(index, now, ready),
                Course::BeforeCommit | Course::Over => {}
            }
        }
    }

    fn roll_back_without(&mut self, index: usize, now: Now, ready: &mut Ready) {
        let vm = &self.vms[index];
        let owed = |side: Side, order: OrderKind| {
            vm.is_touched(side) && !vm.has(order) && self.is_gone(vm.host(side))
        };
        let (source, target) = (
            owed(Side::Source, OrderKind::AbortSource),
            owed(Side::Target, OrderKind::AbortTarget),
        );
        if source && self.may_be_whole(vm) && vm.resolved.is_none() {
            return;
        }
        if source {
            let host = vm.source.clone();
            self.lose(index, &host, trouble::died_with(&host), now, ready);
            self.give_up(index, Side::Source, now, ready);
            self.leave_behind(index, Side::Source, Cleaning::RestoreSource, now, ready);
        }
        if target {
            self.give_up(index, Side::Target, now, ready);
            self.leave_behind(index, Side::Target, Cleaning::DropTarget, now, ready);
        }
    }

    fn finish_without(&mut self, index: usize, now: Now, ready: &mut Ready) {
        let vm = &self.vms[index];
        if vm.is_reclaimed() {
            return self.reclaim_without(index, now, ready);
        }
        if self.is_gone(&vm.source) && !vm.has(OrderKind::Discard) {
            self.give_up(index, Side::Source, now, ready);
        }
        let vm = &self.vms[index];
        // Its target had all and is gone: there is nobody to close the source's buffers with.
        if self.is_gone(&vm.target) && vm.is_settled() && !vm.has(OrderKind::CloseSourceBuffer) {
            self.vms[index].set_done(OrderKind::CloseSourceBuffer);
        }
        let vm = &self.vms[index];
        let given_up = vm.given_up.contains(&Side::Source) && !vm.left_behind.contains(&Side::Source);
        if given_up && vm.is_settled() {
            self.leave_behind(index, Side::Source, Cleaning::DiscardSource, now, ready);
            self.vms[index].over_at = Some(now.wall);
        }
    }

    /// A VM that was given back to its source, which is lost as well before it said that it runs.
    fn reclaim_without(&mut self, index: usize, now: Now, ready: &mut Ready) {
        let vm = &self.vms[index];
        if vm.has(OrderKind::Reclaim) || !self.is_gone(&vm.source) {
            return;
        }
        let host = vm.source.clone();
        self.lose(index, &host, trouble::died_with(&host), now, ready);
        self.give_up(index, Side::Source, now, ready);
        self.leave_behind(index, Side::Source, Cleaning::Reclaim, now, ready);
        self.vms[index].over_at = Some(now.wall);
    }

    pub(super) fn give_up(&mut self, index: usize, side: Side, now: Now, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        if !vm.given_up.insert(side) {
            return;
        }
        vm.open.forget_side(side);
        if side == Side::Source {
            // Its answer might come of the opened plug, and would count as FIN.
            vm.open.close(OrderKind::CloseTargetBuffer);
        }
        let (vm, host) = (vm.name().clone(), vm.host(side).clone());
        ready.persist.push(JournalEntry::GivenUp {
            vm: vm.clone(),
            side,
            host: host.clone(),
            at: now.wall,
        });
        ready.events.push(Happening::GivenUp { vm, host, side });
    }

    fn leave_behind(&mut self, index: usize, side: Side, clean: Cleaning, now: Now, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        vm.left_behind.insert(side);
        ready.persist.push(JournalEntry::LeftBehind {
            vm: vm.name().clone(),
            host: vm.host(side).clone(),
            at: now.wall,
            clean,
        });
    }

    /// A VM is gone: the journal and whoever follows know it.
    pub(super) fn lose(&mut self, index: usize, host: &HostName, fault: Fault, now: Now, ready: &mut Ready) {
        let fault = Fault {
            kind: fault.kind,
            reason: words(&fault.reason),
            hint: fault.hint.as_deref().map(words),
        };
        let vm = &mut self.vms[index];
        vm.lost = Some(fault.clone());
        let (vm, host) = (vm.name().clone(), host.clone());
        ready.persist.push(JournalEntry::VmLost {
            vm: vm.clone(),
            at: now.wall,
            host: host.clone(),
            fault: fault.clone(),
        });
        ready.events.push(Happening::VmLost { vm, host, fault });
    }
}
