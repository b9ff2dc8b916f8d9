//! What is checked after every event, and at the end.

use transhume_agent_core::Machine;
use transhume_protocol::message::{GuestState, VmRole};
use transhume_protocol::migration::{JournalEntry, RunOn};
use transhume_protocol::report::{MigrationReport, VmReport, Wait};

use super::World;
use crate::check::{Violation, check_batches, check_told};
use crate::network::{At, HostIx, MILLI, VmIx};
use crate::scenario::GuestKind;

impl World {
    /// After every event: it runs once at most, only where its batch lets it, and nothing of it is
    /// unnamed.
    pub(super) fn check_vm(&self, vm: VmIx) -> Result<(), Violation> {
        if self.overheard.is_some() {
            return self.check_named(vm);
        }
        let guest = &self.guests[vm];
        let name = || guest.name.clone();
        let (source, target) = (&self.hosts[guest.source], &self.hosts[guest.target]);
        let (runs_there, runs_here) = (source.things[vm].runs(), target.things[vm].runs());
        if runs_there && runs_here {
            let (first, second) = (source.name.clone(), target.name.clone());
            let vm = name();
            return Err(Violation::RunsTwice { vm, first, second });
        }
        let wrong = if guest.committed { runs_there } else { runs_here };
        if wrong {
            let host = if runs_there { source } else { target };
            let (vm, host) = (name(), host.name.clone());
            return Err(Violation::RunsWrongly { vm, host });
        }
        self.check_named(vm)
    }

    /// Whatever is on a host, a record there or its agent knows of it.
    fn check_named(&self, vm: VmIx) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        for host in [&self.hosts[guest.source], &self.hosts[guest.target]] {
            let stranded = host
                .slot(vm)
                .is_some_and(|slot| slot.machine.stranded_state().is_some());
            let named = !host.disk.is_empty(vm) || stranded || host.agent.is_none();
            if !host.things[vm].is_empty() && !named {
                let (vm, host) = (guest.name.clone(), host.name.clone());
                return Err(Violation::Unnamed { vm, host });
            }
        }
        Ok(())
    }

    /// Whoever takes up the record that was written finds what the machine is.
    pub(super) fn check_recovery(&mut self, at: At) -> Result<(), Violation> {
        let now = self.now_at(at.host);
        let host = &self.hosts[at.host];
        let Some(machine) = self.machine(at.host, at.vm) else {
            return Ok(());
        };
        let live = machine.vm_state().map(|state| state.role);
        let Some(record) = host.disk.record(at.vm) else {
            return match live {
                None => Ok(()),
                live => self.differs(at, live, None),
            };
        };
        let found = self.found(at.host, at.vm, record);
        let gone = record.process().is_some() && found == transhume_agent_core::Found::Gone;
        if machine.stranded_state().is_some() || gone {
            return Ok(());
        }
        let (again, _) = Machine::recover(now, host.name.clone(), record.clone(), found);
        let recorded = again.vm_state().map(|state| state.role);
        match live == recorded && again.epoch() == machine.epoch() {
            true => Ok(()),
            false => self.differs(at, live, recorded),
        }
    }

    fn differs(&self, at: At, live: Option<VmRole>, recorded: Option<VmRole>) -> Result<(), Violation> {
        Err(Violation::RecordDiffers {
            vm: self.guests[at.vm].name.clone(),
            host: self.hosts[at.host].name.clone(),
            live,
            recorded,
        })
    }

    /// G2: at the decision every VM that lives is copied and loaded.
    pub(super) fn check_prepared(&self, vm: VmIx) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        let there = self.hosts[guest.target].things[vm].qemu.as_ref();
        let loaded = there.is_some_and(|qemu| qemu.loaded);
        if loaded || guest.killed || guest.is_off() || self.hosts[guest.target].lost {
            return Ok(());
        }
        Err(Violation::Unprepared {
            vm: guest.name.clone(),
        })
    }

    /// Everything that must hold when nothing more can come.
    pub(super) fn check_end(&self) -> Result<MigrationReport, Violation> {
        let report = match (self.coordinator.final_report(), self.coordinator.machine()) {
            (Some(report), _) => report.clone(),
            (None, Some(machine)) => machine.report(self.now()),
            (None, None) => return Err(self.never_ends("the coordinator is down")),
        };
        check_told(&self.coordinator.events)?;
        if self.over_at.is_none() && !self.names_what_it_waits_for(&report.waiting) {
            return Err(self.never_ends(&format!("{:?}", report.waiting)));
        }
        let by_word = |entry: &JournalEntry| {
            matches!(
                entry,
                JournalEntry::Resolved {
                    run_on: RunOn::Target | RunOn::Source,
                    ..
                }
            )
        };
        if !self.coordinator.journal.iter().any(by_word) {
            check_batches(&report)?;
        }
        for line in &report.vms {
            self.check_end_of(self.vm_places[&line.id], line)?;
        }
        Ok(report)
    }

    fn never_ends(&self, waits: &str) -> Violation {
        Violation::NeverEnds {
            ms: self.network.now / MILLI,
            waits: waits.to_owned(),
        }
    }

    /// A move waits for an operator where something is stranded, and names it. Hosts that are lost
    /// do not keep it open.
    fn names_what_it_waits_for(&self, waits: &[Wait]) -> bool {
        waits
            .iter()
            .any(|wait| self.is_stranded(self.vm_places[&wait.vm]))
    }

    fn is_stranded(&self, vm: VmIx) -> bool {
        let guest = &self.guests[vm];
        let stranded = |host: HostIx| {
            let machine = self.machine(host, vm);
            machine.is_some_and(|machine| machine.stranded_state().is_some())
        };
        stranded(guest.source) || stranded(guest.target)
    }

    fn check_end_of(&self, vm: VmIx, line: &VmReport) -> Result<(), Violation> {
        self.check_vm(vm)?;
        let guest = &self.guests[vm];
        // With the host that it lives on everything of it is gone.
        let home = if guest.committed {
            guest.target
        } else {
            guest.source
        };
        if self.over_at.is_none() || self.hosts[home].lost || self.is_stranded(vm) {
            return self.check_not_lost(vm);
        }
        let here = self.host_places[&line.host];
        let other = if here == guest.source {
            guest.target
        } else {
            guest.source
        };
        if let Some(machine) = self.machine(other, vm) {
            let name = self.hosts[other].name.as_str();
            let what = format!("{name} still holds it as {:?}", machine.vm_state());
            return Err(self.misplaced(vm, what));
        }
        let Some(state) = self.machine(here, vm).and_then(Machine::vm_state) else {
            return Err(self.misplaced(vm, format!("{} does not hold it", line.host)));
        };
        self.check_guest(vm, here, state.role, state.guest)?;
        self.check_loss(vm, line)?;
        self.check_frames(vm, here)?;
        self.check_account(vm, line)
    }

    fn misplaced(&self, vm: VmIx, what: String) -> Violation {
        let vm = self.guests[vm].name.clone();
        Violation::Misplaced { vm, what }
    }

    /// A VM whose move is open, or waits for an operator, is still there.
    fn check_not_lost(&self, vm: VmIx) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        let lives = |host: HostIx| self.hosts[host].things[vm].qemu.is_some();
        let there = lives(guest.source) || lives(guest.target);
        if there || guest.killed || guest.is_off() {
            return Ok(());
        }
        Err(self.misplaced(vm, "it is gone".to_owned()))
    }

    /// It is as its user left it, and its agent says so.
    fn check_guest(&self, vm: VmIx, here: HostIx, role: VmRole, said: GuestState) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        let qemu = self.hosts[here].things[vm].qemu.as_ref();
        let what = match (role, qemu) {
            (VmRole::Off, None) if self.hosts[here].things[vm].have_files() => {
                "something is left of it".to_owned()
            }
            (VmRole::Off, None) if guest.killed || guest.is_off() => return Ok(()),
            (VmRole::Home, Some(qemu)) => {
                let truly = qemu.runs();
                let fits = truly == guest.is_to_run() && (said == GuestState::Running) == truly;
                if fits {
                    return Ok(());
                }
                format!(
                    "it is {:?} and said to be {said:?}, its guest {:?}",
                    qemu.run, guest.kind
                )
            }
            (role, qemu) => format!("it is {role:?}, its QEMU {qemu:?}, its guest {:?}", guest.kind),
        };
        Err(self.misplaced(vm, what))
    }

    /// What is gone is reported as lost, and what is there is not.
    fn check_loss(&self, vm: VmIx, line: &VmReport) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        let lives = self.hosts[guest.target].things[vm].qemu.is_some();
        let activated =
            |entry: &JournalEntry| matches!(entry, JournalEntry::VmActivated { vm, .. } if *vm == guest.name);
        let arrived = lives || guest.is_off() || self.coordinator.journal.iter().any(activated);
        let back = line.reclaimed.as_ref();
        let lives_here = self.hosts[guest.source].things[vm].qemu.is_some();
        let what = match (&line.lost, guest.committed) {
            (Some(_), false) if back.is_some() && lives_here => {
                "it is reported as lost and runs on its source"
            }
            (None, false) if back.is_some() && !lives_here && !guest.is_off() => {
                "it is lost, and nobody is told"
            }
            _ if back.is_some_and(|back| guest.ran_on_target && !back.may_have_run) => {
                "it ran on its target, and the report says that it never did"
            }
            (Some(_), _) if lives => "it is reported as lost and runs",
            (None, true) if !arrived => "it is lost, and nobody is told",
            (Some(_) | None, _) => return Ok(()),
        };
        Err(Violation::FalseReport {
            vm: guest.name.clone(),
            what: what.to_owned(),
        })
    }

    /// Every frame that was sent is with the guest, or in the ring in front of one that takes none.
    fn check_frames(&self, vm: VmIx, here: HostIx) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        let things = &self.hosts[here].things[vm];
        let (Some(qemu), Some(tap)) = (&things.qemu, &things.tap) else {
            return Ok(());
        };
        let mut last = qemu.seen;
        for frame in qemu.held.iter().chain(&tap.ring).chain(&tap.plugged) {
            if *frame <= last || (*frame != guest.due_after(last) && !guest.may_miss_frames) {
                return Err(Violation::OutOfTurn {
                    vm: guest.name.clone(),
                    host: self.hosts[here].name.clone(),
                    expected: last + 1,
                    got: *frame,
                });
            }
            last = *frame;
        }
        let in_plug = !tap.plugged.is_empty() || tap.shut;
        let missing = guest.due_after(last) != guest.sent + 1 && !guest.may_miss_frames;
        if missing || in_plug {
            return Err(Violation::Lost {
                vm: guest.name.clone(),
                sent: guest.sent,
                received: last,
            });
        }
        Ok(())
    }

    fn is_unaccounted(&self, vm: VmIx) -> bool {
        let name = &self.guests[vm].name;
        let closed = |entry: &JournalEntry| matches!(entry, JournalEntry::VmClosed { vm, source: None, .. } if vm == name);
        self.coordinator.journal.iter().any(closed)
    }

    fn check_account(&self, vm: VmIx, line: &VmReport) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        let false_report = |what: String| Violation::FalseReport {
            vm: guest.name.clone(),
            what,
        };
        let whole = !guest.killed && !guest.is_off() && guest.kind != GuestKind::Off;
        let moved = line.host == line.target;
        match line.frames {
            Some(frames) if whole && frames.lost + frames.duplicated + frames.reordered > 0 => {
                Err(false_report(format!("it owns up to {frames:?}")))
            }
            // A source that could not say it, and was killed between its end and its answer.
            _ if guest.cut && line.source_lost.is_none() && line.lost.is_none() => Err(false_report(
                "its plug was opened without FIN, and nobody is told".to_owned(),
            )),
            None if moved && whole && line.source_lost.is_none() && !self.is_unaccounted(vm) => {
                Err(false_report("there is no account of frames".to_owned()))
            }
            Some(_) | None => Ok(()),
        }
    }
}
