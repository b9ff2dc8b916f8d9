//! The coordinator's and the agents' lives, and the connections between them.

use transhume_model::HostName;
use transhume_protocol::message::{Order, Report};
use transhume_protocol::migration::{Input, Ready};

use super::{MILLI, NOTICE_MICROS_MAX, RESTART_MICROS_MAX, RESTART_MICROS_MIN, World};
use crate::check::{Violation, check_decision, check_sent};
use crate::coordinator::CrashPoint;
use crate::fault::{Fault, OrderFault};
use crate::network::{Channel, Event};

impl World {
    pub(super) fn feed(&mut self, input: Input) -> Result<(), Violation> {
        match self.coordinator.handle(self.now(), input) {
            Some(Ok(ready)) => self.carry_out(ready),
            Some(Err(illegal)) => Err(Violation::Illegal(illegal)),
            None => Ok(()),
        }
    }

    pub(super) fn carry_out(&mut self, ready: Ready) -> Result<(), Violation> {
        for entry in &ready.persist {
            check_decision(entry, &self.guests, &self.hosts)?;
        }
        let crash = self.crash_point(&ready);
        let todo = self.coordinator.carry_out(ready, crash);
        for (host, order) in todo.send {
            check_sent(&self.coordinator.journal, &order)?;
            let Some(&link) = self.links.get(&host) else {
                continue;
            };
            let event = Event::OrderArrives {
                host: host.clone(),
                link,
                order,
            };
            self.network
                .send(&mut self.random, Channel::Orders(host.clone()), event);
            if self.chance(self.scenario.weather.link_breaks) {
                self.break_link(&host);
            }
        }
        let coordinator_run = self.coordinator.run;
        for (at, timer) in todo.timers {
            self.network.at(
                at.0 * MILLI,
                Event::TimerFires {
                    coordinator_run,
                    timer,
                },
            );
        }
        if todo.died {
            self.coordinator_dies();
        } else if self.coordinator.is_over {
            self.over_at.get_or_insert(self.network.now);
        }
        Ok(())
    }

    pub(super) fn crash_point(&mut self, ready: &Ready) -> Option<CrashPoint> {
        if let Some(Fault {
            command,
            vm,
            what: OrderFault::CoordinatorDies(point),
        }) = self.fault.clone()
        {
            let struck = |order: &Order| order.command.name() == command && order.command.vm() == Some(&vm);
            if ready.send.iter().any(|(_, order)| struck(order)) {
                self.fault = None;
                return Some(point);
            }
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
        self.links.clear();
        let delay = self.random.between(RESTART_MICROS_MIN, RESTART_MICROS_MAX);
        self.network.after(delay, Event::CoordinatorStarts);
    }

    pub(super) fn coordinator_starts(&mut self) -> Result<(), Violation> {
        if self.coordinator.is_up() {
            return Ok(());
        }
        if self.coordinator.journal.is_empty() {
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
        let coordinator_run = self.coordinator.run;
        let up: Vec<HostName> = self
            .hosts
            .values()
            .filter(|host| host.up)
            .map(|host| host.name.clone())
            .collect();
        for host in up {
            let delay = self.random.between(MILLI, NOTICE_MICROS_MAX);
            self.network.after(
                delay,
                Event::LinkBack {
                    host,
                    coordinator_run,
                },
            );
        }
        Ok(())
    }

    /// The user asks again after a coordinator that died before anything was durable.
    pub(super) fn connect_all(&mut self) {
        let up: Vec<HostName> = self
            .hosts
            .values()
            .filter(|host| host.up)
            .map(|host| host.name.clone())
            .collect();
        for host in up {
            self.link_serial += 1;
            self.links.insert(host, self.link_serial);
        }
    }

    pub(super) fn link_back(&mut self, host: HostName, coordinator_run: u64) -> Result<(), Violation> {
        let is_current = coordinator_run == self.coordinator.run && self.coordinator.is_up();
        if !is_current || !self.hosts[&host].up || self.links.contains_key(&host) {
            return Ok(());
        }
        self.link_serial += 1;
        self.links.insert(host.clone(), self.link_serial);
        let state = Box::new(self.hosts[&host].state());
        self.feed(Input::AgentBack { host, state })
    }

    /// The connection is gone; both ends notice, and connect again unless one of them is dead.
    pub(super) fn break_link(&mut self, host: &HostName) {
        if self.links.remove(host).is_none() {
            return;
        }
        let coordinator_run = self.coordinator.run;
        let noticed = self.random.between(10, NOTICE_MICROS_MAX);
        self.network.after(
            noticed,
            Event::LossNoticed {
                host: host.clone(),
                coordinator_run,
            },
        );
        let back = noticed + self.random.between(MILLI, RESTART_MICROS_MAX);
        self.network.after(
            back,
            Event::LinkBack {
                host: host.clone(),
                coordinator_run,
            },
        );
    }

    pub(super) fn agent_dies(&mut self, host: &HostName) {
        self.break_link(host);
        let agent = self.hosts.get_mut(host).expect("events name hosts that exist");
        agent.die();
        self.alive.remove(&agent.run);
        let delay = NOTICE_MICROS_MAX + self.random.between(RESTART_MICROS_MIN, RESTART_MICROS_MAX);
        self.network
            .after(delay, Event::AgentStarts { host: host.clone() });
    }

    pub(super) fn agent_starts(&mut self, host: HostName) {
        self.run_serial += 1;
        let run = self.run_serial;
        self.hosts
            .get_mut(&host)
            .expect("events name hosts that exist")
            .start(run);
        self.alive.insert(run);
        let coordinator_run = self.coordinator.run;
        self.network.after(
            MILLI,
            Event::LinkBack {
                host,
                coordinator_run,
            },
        );
    }

    pub(super) fn send_report(&mut self, host: &HostName, report: Report) {
        let Some(&link) = self.links.get(host) else { return };
        let copies = if report.order.is_some() && report.order == self.answered_twice {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let event = Event::ReportArrives {
                host: host.clone(),
                link,
                report: Box::new(report.clone()),
            };
            self.network
                .send(&mut self.random, Channel::Reports(host.clone()), event);
        }
        if self.chance(self.scenario.weather.link_breaks) {
            self.break_link(host);
        }
    }
}
