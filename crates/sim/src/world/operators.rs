//! What operators do, and what the coordinator cleans away on hosts that are back.
//!
//! The operator of a run looks whether a host is off before deciding: only then is it fenced, and
//! what waits for a decision is resolved.

use transhume_model::{HostName, MigrationId, VmName};
use transhume_protocol::message::{Order, Outcome, RefusalKind, Report};
use transhume_protocol::migration::{Cleaning, Input, OrderIds, Resolution, RunOn};

use super::World;
use crate::check::Violation;
use crate::network::{Event, HostIx, Micros, SECOND, VmIx};

/// Until somebody has looked.
const DECISION_MICROS: (Micros, Micros) = (SECOND, 60 * SECOND);
/// Pause before what is left is asked for again.
const CLEAN_AGAIN_MICROS: Micros = 3 * SECOND;
/// Of two ways out, how often the one that runs the VM is taken, per million.
const KEPT: u32 = 600_000;
/// Of a VM that may have run on its target: how often it is run on its source all the same, per
/// million.
const RECLAIMED_ALTHOUGH: u32 = 500_000;

impl World {
    pub(super) fn decide_later(&mut self) {
        let coordinator_run = self.coordinator.run;
        let delay = self.random.between(DECISION_MICROS.0, DECISION_MICROS.1);
        self.network.after(delay, Event::Decides { coordinator_run });
    }

    /// One that is only cut off is waited for, unless its agent has said that the VM is gone.
    pub(super) fn decides(&mut self) -> Result<(), Violation> {
        let undecided = self
            .coordinator
            .machine()
            .map(transhume_protocol::migration::Migration::undecided);
        for (vm, _) in undecided.unwrap_or_default() {
            let nowhere = self.can_be(&vm, RunOn::Nowhere, false);
            let is_off = |host: &HostName| self.hosts[self.host_places[host]].lost;
            if !nowhere.is_some_and(|way| way.off.as_ref().is_none_or(is_off)) {
                continue;
            }
            let (run_on, although_it_may_have_run) = self.choose(&vm);
            self.loss.decided_at = Some(self.now().mono);
            self.feed_coordinator(Input::Resolve {
                vm,
                run_on,
                although_it_may_have_run,
            })?;
        }
        Ok(())
    }

    fn can_be(&self, vm: &VmName, run_on: RunOn, although: bool) -> Option<Resolution> {
        let machine = self.coordinator.machine()?;
        machine.check_resolution(vm, run_on, although).ok()
    }

    fn choose(&mut self, vm: &VmName) -> (RunOn, bool) {
        if !self.random.happens(KEPT) {
            return (RunOn::Nowhere, false);
        }
        for run_on in [RunOn::Target, RunOn::Source] {
            if self.can_be(vm, run_on, false).is_some() {
                return (run_on, false);
            }
        }
        let although = self.can_be(vm, RunOn::Source, true).is_some();
        match although && self.random.happens(RECLAIMED_ALTHOUGH) {
            true => (RunOn::Source, true),
            false => (RunOn::Nowhere, false),
        }
    }

    /// It runs on its source again: as it was there when it was stopped, if it lives.
    pub(super) fn reclaimed(&mut self, vm: VmIx, although_it_may_have_run: bool) -> Result<(), Violation> {
        let guest = &mut self.guests[vm];
        if guest.ran_on_target && !although_it_may_have_run {
            let vm = guest.name.clone();
            return Err(Violation::NoProof { vm });
        }
        let lives = self.hosts[guest.source].things[vm].qemu.is_some();
        (guest.committed, guest.killed, guest.cut) = (false, !lives, false);
        guest.may_miss_frames |= although_it_may_have_run;
        guest.kind = guest.kind_at_commit;
        Ok(())
    }

    pub(super) fn left_behind(&mut self, host: HostIx, vm: VmIx, clean: Cleaning) {
        self.left.insert((host, vm), clean);
        self.network.after(SECOND, Event::Cleans { host });
    }

    /// Asks for everything that is left on a host, until it is gone.
    pub(super) fn clean(&mut self, host: HostIx) {
        let left: Vec<(VmIx, Cleaning)> = self
            .left
            .iter()
            .filter(|((there, _), _)| *there == host)
            .map(|((_, vm), clean)| (*vm, *clean))
            .collect();
        if left.is_empty() || self.hosts[host].lost {
            return;
        }
        if self.coordinator.is_up() || self.coordinator.is_over {
            for (vm, clean) in left {
                self.ask_to_clean(host, vm, clean, 0);
            }
        }
        self.network.after(CLEAN_AGAIN_MICROS, Event::Cleans { host });
    }

    fn ask_to_clean(&mut self, host: HostIx, vm: VmIx, clean: Cleaning, step: usize) {
        let epoch = self.coordinator.next_epoch();
        let ids = self
            .cleaning_ids
            .get_or_insert_with(|| OrderIds::of(MigrationId(0)));
        let id = ids.next_id();
        self.asked.insert(id, (host, vm, step));
        let command = clean.orders(&self.guests[vm].name)[step].clone();
        self.send_order(host, Order { id, epoch, command });
    }

    /// Whether it answers a cleaning.
    pub(super) fn cleaned(&mut self, report: &Report) -> bool {
        let Some((host, vm, step)) = report.order.and_then(|order| self.asked.remove(&order)) else {
            return report
                .order
                .is_some_and(|order| OrderIds::migration_of(order).is_none());
        };
        let done = match &report.outcome {
            Outcome::Failed(_) => false,
            Outcome::Refused(refusal) => matches!(
                refusal.kind,
                RefusalKind::UnknownVm | RefusalKind::WrongState | RefusalKind::StaleEpoch
            ),
            _ => true,
        };
        let Some(clean) = self.left.get(&(host, vm)).copied().filter(|_| done) else {
            return true;
        };
        if step + 1 < clean.orders(&self.guests[vm].name).len() {
            self.ask_to_clean(host, vm, clean, step + 1);
        } else {
            self.left.remove(&(host, vm));
        }
        true
    }
}
