//! The coordinator's and the agents' lives, and the connections between them.

use transhume_protocol::event::Happening;
use transhume_protocol::message::{Order, Report};
use transhume_protocol::migration::{Input, JournalEntry, Ready, RunOn};

use super::World;
use crate::check::{Violation, check_sent};
use crate::coordinator::CrashPoint;
use crate::fault::{Fault, OrderFault};
use crate::network::{Channel, Event, HostIx, MILLI, Micros, SECOND};

const NOTICE_MICROS_MAX: Micros = 5 * MILLI;
const RESTART_MICROS: (Micros, Micros) = (10 * MILLI, 900 * MILLI);
/// How long a host is cut off.
const PARTITION_MICROS: (Micros, Micros) = (55 * SECOND, 65 * SECOND);
/// A silent connection is noticed within this.
const SILENCE_MICROS: (Micros, Micros) = (SECOND, 6 * SECOND);

impl World {
    pub(super) fn feed_coordinator(&mut self, input: Input) -> Result<(), Violation> {
        match self.coordinator.handle(self.now(), input) {
            Some(Ok(ready)) => self.carry_out(ready),
            Some(Err(illegal)) => Err(Violation::Illegal(illegal)),
            None => Ok(()),
        }
    }

    pub(super) fn carry_out(&mut self, ready: Ready) -> Result<(), Violation> {
        let crash = self.crash_point(&ready);
        if crash != Some(CrashPoint::BeforePersist) {
            for entry in &ready.persist {
                self.journalled(entry)?;
            }
        }
        let wanted = |what: &Happening| matches!(what, Happening::DecisionWanted { .. });
        if ready.events.iter().any(wanted) {
            self.loss.asked_at.get_or_insert(self.now().mono);
            self.decide_later();
        }
        let todo = self.coordinator.carry_out(ready, crash);
        for (host, order) in todo.send {
            check_sent(&self.coordinator.journal, &order)?;
            let host = self.host_places[&host];
            self.send_order(host, order);
        }
        let coordinator_run = self.coordinator.run;
        for (at, timer) in todo.timers {
            let event = Event::CoordinatorTimer {
                coordinator_run,
                timer,
            };
            self.network.at(at.0 * MILLI, event);
        }
        if todo.died {
            self.coordinator_died();
        } else if self.coordinator.is_over {
            self.over_at.get_or_insert(self.network.now);
        }
        Ok(())
    }

    pub(super) fn send_order(&mut self, host: HostIx, order: Order) {
        let Some(link) = self.links[host] else { return };
        let order = Box::new(order);
        let event = Event::OrderArrives { host, link, order };
        self.network.send(&mut self.random, Channel::Orders(host), event);
        if self.chance(self.scenario.weather.link_breaks) {
            self.break_link(host);
        }
    }

    /// What the journal says becomes true.
    fn journalled(&mut self, entry: &JournalEntry) -> Result<(), Violation> {
        if let JournalEntry::Committed { vms, .. } = entry {
            for so_far in vms {
                let vm = self.vm_places[&so_far.vm];
                self.check_prepared(vm)?;
                let guest = &mut self.guests[vm];
                (guest.committed, guest.kind_at_commit) = (true, guest.kind);
            }
        }
        match entry {
            JournalEntry::Resolved {
                vm,
                run_on: RunOn::Target,
                ..
            } => {
                let vm = self.vm_places[vm];
                let there = self.hosts[self.guests[vm].target].things[vm].qemu.as_ref();
                // It was killed with its source, and lives here.
                let killed = there.is_none_or(|qemu| !qemu.loaded);
                let guest = &mut self.guests[vm];
                (guest.committed, guest.killed, guest.may_miss_frames) = (true, killed, true);
            }
            JournalEntry::Resolved {
                vm,
                run_on: RunOn::Source,
                although_it_may_have_run,
                ..
            } => return self.reclaimed(self.vm_places[vm], *although_it_may_have_run),
            JournalEntry::Resolved {
                vm,
                run_on: RunOn::Nowhere,
                ..
            } => self.guests[self.vm_places[vm]].killed = true,
            JournalEntry::LeftBehind { vm, host, clean, .. } => {
                let (host, vm) = (self.host_places[host], self.vm_places[vm]);
                self.left_behind(host, vm, *clean);
            }
            _ => {}
        }
        Ok(())
    }

    fn crash_point(&mut self, ready: &Ready) -> Option<CrashPoint> {
        let strikes = |order: &Order, vm: usize, kind| {
            let name = &self.guests[vm].name;
            order.command.kind() == kind && order.command.vm() == Some(name)
        };
        let aimed = self.faults.iter().position(|fault| match fault {
            Fault::Order {
                vm,
                order: kind,
                what: OrderFault::CoordinatorDies(_),
            } => ready.send.iter().any(|(_, order)| strikes(order, *vm, *kind)),
            _ => false,
        });
        if let Some(place) = aimed
            && let Fault::Order {
                what: OrderFault::CoordinatorDies(point),
                ..
            } = self.faults.remove(place)
        {
            return Some(point);
        }
        let points = [
            CrashPoint::BeforePersist,
            CrashPoint::AfterPersist,
            CrashPoint::BetweenSends,
        ];
        let dies = self.scenario.weather.coordinator_dies;
        points.into_iter().find(|_| self.chance(dies))
    }

    pub(super) fn coordinator_dies(&mut self) {
        if self.coordinator.is_up() {
            self.coordinator.die();
            self.coordinator_died();
        }
    }

    fn coordinator_died(&mut self) {
        self.links.fill(None);
        let delay = self.random.between(RESTART_MICROS.0, RESTART_MICROS.1);
        self.network.after(delay, Event::CoordinatorStarts);
    }

    pub(super) fn coordinator_starts(&mut self) -> Result<(), Violation> {
        if self.coordinator.is_up() {
            return Ok(());
        }
        self.loss.coordinator_at = Some(self.now().mono);
        if self.coordinator.journal.is_empty() {
            // The user asks again: nothing was durable.
            let ready = self.coordinator.begin_again(self.now(), self.request.clone());
            self.connect_all();
            return self.carry_out(ready);
        }
        let recovered = self.coordinator.recover(self.now()).map_err(Violation::Recover)?;
        match recovered {
            Some(ready) => self.carry_out(ready)?,
            None => {
                self.over_at.get_or_insert(self.network.now);
            }
        }
        for host in 0..self.hosts.len() {
            self.link_back_later(host, NOTICE_MICROS_MAX);
        }
        Ok(())
    }

    fn link_back_later(&mut self, host: HostIx, delay_max: Micros) {
        let coordinator_run = self.coordinator.run;
        let delay = self.random.between(MILLI, delay_max);
        let event = Event::LinkBack {
            host,
            coordinator_run,
        };
        self.network.after(delay, event);
    }

    fn connect_all(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].agent.is_some() && !self.hosts[host].partitioned {
                self.links[host] = Some(self.number());
            } else {
                self.loss_noticed_later(host, (10, NOTICE_MICROS_MAX));
            }
        }
    }

    pub(super) fn link_back(&mut self, host: HostIx, coordinator_run: u64) -> Result<(), Violation> {
        let works = self.coordinator.is_up() || self.coordinator.is_over;
        let is_current = coordinator_run == self.coordinator.run && works;
        let here = &self.hosts[host];
        if !is_current || here.agent.is_none() || here.partitioned || self.links[host].is_some() {
            return Ok(());
        }
        self.links[host] = Some(self.number());
        let state = Box::new(self.hosts[host].state());
        let host = self.hosts[host].name.clone();
        self.feed_coordinator(Input::AgentBack { host, state })
    }

    fn loss_noticed_later(&mut self, host: HostIx, within: (Micros, Micros)) -> Micros {
        let coordinator_run = self.coordinator.run;
        let delay = self.random.between(within.0, within.1);
        let event = Event::LossNoticed {
            host,
            coordinator_run,
        };
        self.network.after(delay, event);
        delay
    }

    /// The connection is gone; both ends notice, and connect again unless one of them is dead.
    pub(super) fn break_link(&mut self, host: HostIx) {
        if self.links[host].take().is_some() {
            let noticed = self.loss_noticed_later(host, (10, NOTICE_MICROS_MAX));
            self.link_back_later(host, noticed + RESTART_MICROS.1);
        }
    }

    /// A host is cut off from the coordinator and all other hosts; guests' frames have a network of
    /// their own.
    pub(super) fn partition(&mut self, host: HostIx) -> Result<(), Violation> {
        if self.hosts[host].partitioned || self.hosts[host].lost {
            return Ok(());
        }
        self.hosts[host].partitioned = true;
        if self.links[host].take().is_some() {
            self.loss_noticed_later(host, SILENCE_MICROS);
        }
        self.tunnels_break(host);
        self.streams_break(host)?;
        let delay = self.random.between(PARTITION_MICROS.0, PARTITION_MICROS.1);
        self.network.after(delay, Event::PartitionHeals { host });
        Ok(())
    }

    pub(super) fn partition_heals(&mut self, host: HostIx) {
        self.hosts[host].partitioned = false;
        self.link_back_later(host, SECOND);
    }

    /// Its memory, listeners and connections are gone; what it made is not.
    pub(super) fn agent_dies(&mut self, host: HostIx) -> Result<(), Violation> {
        if self.hosts[host].agent.is_none() {
            return Ok(());
        }
        self.break_link(host);
        self.tunnels_break(host);
        self.streams_break(host)?;
        self.hosts[host].agent = None;
        let delay = self.random.between(RESTART_MICROS.0, RESTART_MICROS.1);
        self.network.after(delay, Event::AgentStarts { host });
        Ok(())
    }

    pub(super) fn send_report(&mut self, host: HostIx, report: Report) {
        if let Some(overheard) = &mut self.overheard {
            overheard.push((host, report));
            return;
        }
        let Some(link) = self.links[host] else { return };
        let twice = report.order.is_some() && report.order == self.answered_twice;
        let twice = twice || self.chance(self.scenario.weather.comes_twice);
        for _ in 0..1 + usize::from(twice) {
            let report = Box::new(report.clone());
            let event = Event::ReportArrives { host, link, report };
            self.network.send(&mut self.random, Channel::Reports(host), event);
        }
        if self.chance(self.scenario.weather.link_breaks) {
            self.break_link(host);
        }
    }
}
