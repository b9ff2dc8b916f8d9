//! What surrounds the machines in an agent: records are written before anything follows, acts are
//! done one after the other, and an agent that starts looks for what an earlier one left.

use transhume_agent_core::{
    Effect, Found, Input, Machine, Product, Ready, Record, Signal, Ticket, Trouble, absent,
};
use transhume_protocol::message::{FaultKind, Order, Report};

use super::World;
use crate::check::Violation;
use crate::fault::{ActFault, WriteFault};
use crate::host::disk::File;
use crate::host::{Agent, Doing, Slot};
use crate::network::{At, Event, HostIx, MILLI, Micros, SECOND, VmIx};

/// An act that is not answered by then fails.
const ACT_MICROS_MAX: Micros = 30 * SECOND;
/// A late answer comes within this.
const LATE_MICROS_MAX: Micros = 20 * SECOND;
/// An agent whose disk forgot something is killed within this.
const FORGETS_MICROS_MAX: Micros = 30 * MILLI;
/// How long most acts take.
const ACT_MICROS: (Micros, Micros) = (20, 2 * MILLI);
/// A full disk has room again within this.
const DISK_FULL_MICROS_MAX: Micros = 8 * SECOND;

pub(super) fn broken(what: &str) -> Trouble {
    Trouble::failed(FaultKind::Internal, format!("the simulation breaks it: {what}"))
}

impl World {
    /// An order reaches the agent.
    pub(super) fn obey(&mut self, host: HostIx, order: Order) -> Result<(), Violation> {
        let Some(vm) = order
            .command
            .vm()
            .and_then(|name| self.vm_places.get(name).copied())
        else {
            return Ok(());
        };
        let Some(at) = self.at(host, vm) else {
            return Ok(());
        };
        if self.slot(at).is_none() {
            let name = self.hosts[host].name.clone();
            if let Some(outcome) = absent(&name, &order) {
                let report = Report {
                    order: Some(order.id),
                    epoch: order.epoch,
                    vm: order.command.vm().cloned(),
                    at: self.now_at(host).wall,
                    outcome,
                };
                self.send_report(host, report);
                return Ok(());
            }
            let slot = Slot::new(Machine::new(name, self.guests[vm].name.clone()));
            self.keep(host, vm, slot);
        }
        self.feed(at, Input::Order(order))
    }

    fn keep(&mut self, host: HostIx, vm: VmIx, slot: Slot) {
        if let Some(agent) = &mut self.hosts[host].agent {
            agent.slots.insert(vm, slot);
        }
    }

    /// One input to one machine, with all that follows at once.
    pub(super) fn feed(&mut self, at: At, input: Input) -> Result<(), Violation> {
        let now = self.now_at(at.host);
        self.show(&(at.host, at.vm, &input));
        let Some(slot) = self.slot(at) else { return Ok(()) };
        let ready = slot.machine.handle(now, input);
        self.carry_on(at, ready)
    }

    fn carry_on(&mut self, at: At, ready: Ready) -> Result<(), Violation> {
        let now = self.now_at(at.host);
        let mut next = Some(ready);
        while let Some(ready) = next {
            self.proceed(at, ready)?;
            next = self.slot(at).and_then(|slot| slot.machine.next(now));
        }
        if self.slot(at).is_some_and(|slot| slot.machine.is_gone()) {
            self.forget(at);
        }
        self.begin_acts(at);
        self.check_vm(at.vm)
    }

    /// Nothing of it is here any more.
    fn forget(&mut self, at: At) {
        let host = &mut self.hosts[at.host];
        if matches!(host.disk.file(at.vm), File::Unreadable) {
            host.disk.remove(at.vm);
        }
        if let Some(agent) = &mut host.agent {
            agent.slots.remove(&at.vm);
        }
    }

    /// Durable first; then signals, reports and effects. An agent that is killed on the way does
    /// nothing more.
    fn proceed(&mut self, at: At, ready: Ready) -> Result<(), Violation> {
        let mut written = Ok(());
        let mut durable = true;
        if let Some(change) = ready.change() {
            let nth = self.count_write(at);
            let fault = self.write_fault(at, nth);
            self.show(&(at.host, at.vm, change, fault));
            match fault {
                Some(WriteFault::AgentDiesBefore) => return self.agent_dies(at.host),
                Some(WriteFault::DiskFull) => self.disk_full(at.host),
                Some(_) | None => {}
            }
            durable = fault != Some(WriteFault::NotDurable);
            let disk = &mut self.hosts[at.host].disk;
            written = match fault {
                Some(WriteFault::Fails) => Err("Input/output error".to_owned()),
                Some(WriteFault::NotDurable) => Ok(()),
                _ => disk.write(at.vm, change),
            };
            match fault {
                Some(WriteFault::AgentDiesAfter) => return self.agent_dies(at.host),
                Some(WriteFault::NotDurable) => {
                    let (host, run) = (at.host, at.run);
                    let delay = self.random.between(50, FORGETS_MICROS_MAX);
                    self.network.after(delay, Event::AgentKilled { host, run });
                }
                Some(WriteFault::Unreadable) => {
                    disk.spoil(at.vm);
                    return self.agent_dies(at.host);
                }
                Some(_) | None => {}
            }
        }
        let changed = ready.change().is_some() && written.is_ok();
        let now = self.now_at(at.host);
        let Some(slot) = self.slot(at) else { return Ok(()) };
        let after = slot.machine.proceed(now, ready, written);
        if changed && durable {
            self.check_recovery(at)?;
        }
        for signal in after.signals {
            self.obey_signal(at, signal)?;
        }
        for report in after.reports {
            self.send_report(at.host, report);
        }
        if let Some(slot) = self.slot(at) {
            slot.queue.extend(after.effects);
        }
        Ok(())
    }

    fn count_write(&mut self, at: At) -> usize {
        let side = usize::from(at.host != self.guests[at.vm].source);
        let count = &mut self.writes[at.vm][side];
        *count += 1;
        *count - 1
    }

    pub(super) fn disk_full(&mut self, host: HostIx) {
        self.hosts[host].disk.full += 1;
        let delay = self.random.between(SECOND, DISK_FULL_MICROS_MAX);
        self.network.after(delay, Event::DiskFreed { host });
    }

    fn obey_signal(&mut self, at: At, signal: Signal) -> Result<(), Violation> {
        match signal {
            Signal::Timer { at: when, timer } => {
                let event = Event::AgentTimer { at, timer };
                self.network.at(when.0 * MILLI, event);
                Ok(())
            }
            Signal::CutPageStream => self.stream_breaks(at.vm),
            Signal::Interrupt(ticket) => self.interrupt(at, ticket),
            Signal::Pace(_) | Signal::StopWaitingForSiblings => Ok(()),
        }
    }

    /// Gives up an act that waits, if it can be given up.
    fn interrupt(&mut self, at: At, ticket: Ticket) -> Result<(), Violation> {
        let slot = self.slot(at);
        let waiting = slot.and_then(|slot| slot.waiting(transhume_agent_core::Act::may_be_interrupted));
        if waiting == Some(ticket) {
            // Said a little later: the machine is in the midst of an input.
            let result = Box::new(Err(Trouble::failed(FaultKind::Qemu, "it was interrupted")));
            self.network.after(10, Event::ActAnswers { at, ticket, result });
        }
        Ok(())
    }

    /// Acts of a VM are done one after the other, those that close buffers beside them.
    fn begin_acts(&mut self, at: At) {
        loop {
            let Some(slot) = self.slot(at) else { return };
            let Some(first) = slot.queue.front() else { return };
            let beside = first.act.is_beside();
            let place = if beside {
                &mut slot.finishing
            } else {
                &mut slot.doing
            };
            if place.is_some() {
                return;
            }
            let Some(effect) = slot.queue.pop_front() else {
                return;
            };
            let ticket = effect.ticket;
            *place = Some(Doing { effect, waits: false });
            let delay = self.random.between(ACT_MICROS.0, ACT_MICROS.1);
            self.network.after(delay, Event::ActDue { at, ticket });
        }
    }

    /// An act takes effect, or does not.
    pub(super) fn act_due(&mut self, at: At, ticket: Ticket) -> Result<(), Violation> {
        let Some(doing) = self.slot(at).and_then(|slot| slot.begun(ticket)) else {
            return Ok(());
        };
        let Effect { act, .. } = doing.effect.clone();
        self.acts
            .push((at.vm, at.host == self.guests[at.vm].source, act.name()));
        let fault = self.act_fault(at, act.name());
        self.show(&(at.host, at.vm, &act, fault));
        match fault {
            Some(ActFault::AgentDiesBefore) => return self.agent_dies(at.host),
            Some(ActFault::HostDies) => return self.host_dies(at.host),
            Some(ActFault::HostReboots) => return self.host_reboots(at.host),
            Some(ActFault::Stays) => return Ok(()),
            Some(ActFault::QemuDies) => self.qemu_dies(at.host, at.vm)?,
            Some(ActFault::Fails) => {
                self.half(at, &act)?;
                return self.answer(at, ticket, Err(broken(act.name())));
            }
            Some(ActFault::Hangs) => {
                let result = Box::new(Err(broken("it did not answer")));
                let event = Event::ActAnswers { at, ticket, result };
                self.network.after(ACT_MICROS_MAX, event);
                return Ok(());
            }
            Some(_) | None => {}
        }
        let applied = self.apply(at, act)?;
        if fault == Some(ActFault::AgentDiesAfter) {
            return self.agent_dies(at.host);
        }
        match (applied, fault) {
            (None, Some(ActFault::FailsAfter)) => self.answer(at, ticket, Err(broken("it was given up"))),
            (None, _) => {
                if let Some(doing) = self.slot(at).and_then(|slot| slot.begun(ticket)) {
                    doing.waits = true;
                    self.network.after(ACT_MICROS_MAX, Event::ActLimit { at, ticket });
                }
                self.look_at_waiting(at)
            }
            (Some(_), Some(ActFault::FailsAfter)) => self.answer(at, ticket, Err(broken("its answer"))),
            (Some(result), Some(ActFault::Late)) => {
                let delay = self.random.between(SECOND / 10, LATE_MICROS_MAX);
                let result = Box::new(result);
                self.network
                    .after(delay, Event::ActAnswers { at, ticket, result });
                Ok(())
            }
            (Some(result), Some(ActFault::AnsweredTwice)) => {
                self.answer(at, ticket, result.clone())?;
                self.feed(at, Input::Done { ticket, result })
            }
            (Some(result), _) => self.answer(at, ticket, result),
        }
    }

    /// What came of an act; said once.
    pub(super) fn answer(
        &mut self,
        at: At,
        ticket: Ticket,
        result: Result<Product, Trouble>,
    ) -> Result<(), Violation> {
        if self.slot(at).is_some_and(|slot| slot.answered(ticket)) {
            self.feed(at, Input::Done { ticket, result })?;
        }
        Ok(())
    }

    pub(super) fn act_took_too_long(&mut self, at: At, ticket: Ticket) -> Result<(), Violation> {
        let still = self.slot(at).and_then(|slot| slot.begun(ticket)).is_some();
        match still {
            true => self.answer(at, ticket, Err(broken("it took too long"))),
            false => Ok(()),
        }
    }

    /// An agent starts: every record is taken up, everything else that carries its mark is
    /// stranded.
    pub(super) fn agent_starts(&mut self, host: HostIx) -> Result<(), Violation> {
        let here = &self.hosts[host];
        if here.lost || here.booting || here.agent.is_some() {
            return Ok(());
        }
        let run = self.number();
        self.hosts[host].agent = Some(Agent {
            run,
            slots: std::collections::BTreeMap::new(),
        });
        self.take_up_all(host)?;
        let coordinator_run = self.coordinator.run;
        let event = Event::LinkBack {
            host,
            coordinator_run,
        };
        self.network.after(MILLI, event);
        Ok(())
    }

    pub(super) fn take_up_all(&mut self, host: HostIx) -> Result<(), Violation> {
        let Some(run) = self.hosts[host].run() else {
            return Ok(());
        };
        for vm in 0..self.guests.len() {
            // One of its machines may have been the end of it.
            if self.hosts[host].run() == Some(run) {
                self.take_up(At { host, run, vm })?;
            }
        }
        Ok(())
    }

    fn take_up(&mut self, at: At) -> Result<(), Violation> {
        let (now, host) = (self.now_at(at.host), &self.hosts[at.host]);
        let (name, vm) = (host.name.clone(), self.guests[at.vm].name.clone());
        let stranded =
            |what: &str| Machine::stranded(name.clone(), vm.clone(), what.to_owned(), String::new());
        match host.disk.file(at.vm) {
            File::None if host.things[at.vm].is_empty() => Ok(()),
            File::None => {
                let slot = Slot::new(stranded("it carries the mark and has no record"));
                self.keep(at.host, at.vm, slot);
                Ok(())
            }
            File::Unreadable => {
                let slot = Slot::new(stranded("its record cannot be read"));
                self.keep(at.host, at.vm, slot);
                Ok(())
            }
            File::Record(record) => {
                let record = Record::read(&record.to_bytes()).map_err(|error| Violation::Record {
                    vm: vm.clone(),
                    why: error.to_string(),
                })?;
                let found = self.found(at.host, at.vm, &record);
                let (machine, ready) = Machine::recover(now, name, record, found);
                self.keep(at.host, at.vm, Slot::new(machine));
                self.carry_on(at, ready)
            }
        }
    }

    /// What the process table says of a recorded VM.
    pub(super) fn found(&self, host: HostIx, vm: VmIx, record: &Record) -> Found {
        let lives = self.hosts[host].things[vm].qemu.as_ref();
        match (lives, record.process()) {
            (Some(qemu), None) => Found::Alive(qemu.id.clone()),
            (Some(qemu), Some(process)) if qemu.id == *process => Found::Alive(process.clone()),
            (Some(_) | None, _) => Found::Gone,
        }
    }
}
