//! What strikes an order on its way: the aimed fault, else the weather.

use transhume_model::{Epoch, HostName};
use transhume_protocol::message::{FaultKind, Order, Outcome, RefusalKind, Report};

use super::{MILLI, World};
use crate::fault::OrderFault;
use crate::host::{failed, refused};
use crate::network::{Channel, Event};

impl World {
    pub(super) fn chance(&mut self, per_million: u32) -> bool {
        let stormy = self.network.now < self.scenario.weather.until_ms * MILLI;
        stormy && per_million > 0 && self.random.happens(per_million)
    }

    pub(super) fn order_arrived(&mut self, host: &HostName, order: Order) {
        match self.strikes(&order) {
            Some(OrderFault::Refused) => {
                let outcome = refused(RefusalKind::Qemu, "the simulation says no".to_owned());
                self.answer_at_once(host, &order, outcome);
            }
            Some(OrderFault::Failed) => {
                self.answer_at_once(
                    host,
                    &order,
                    failed(FaultKind::Internal, "the simulation breaks it"),
                );
            }
            Some(OrderFault::Unanswered) => {}
            Some(OrderFault::AnsweredTwice) => {
                self.answered_twice = Some(order.id);
                self.work_on(host, order);
            }
            Some(OrderFault::StaleCopyFirst) => {
                let stale = Epoch(order.epoch.0 - 1);
                self.work_on(
                    host,
                    Order {
                        epoch: stale,
                        ..order.clone()
                    },
                );
                self.work_on(host, order);
            }
            Some(OrderFault::AgentDiesBefore) => self.agent_dies(host),
            Some(OrderFault::LinkBreaks) => self.break_link(host),
            Some(OrderFault::AgentDiesAfter | OrderFault::CoordinatorDies(_)) | None => {
                self.work_on(host, order)
            }
        }
    }

    /// The aimed fault, once; else the weather.
    pub(super) fn strikes(&mut self, order: &Order) -> Option<OrderFault> {
        if let Some(fault) = &self.fault
            && order.command.name() == fault.command
            && order.command.vm() == Some(&fault.vm)
        {
            let what = fault.what;
            if what != OrderFault::AgentDiesAfter {
                self.fault = None;
            }
            return Some(what);
        }
        let weather = self.scenario.weather;
        if self.chance(weather.agent_dies) {
            Some(OrderFault::AgentDiesBefore)
        } else if self.chance(weather.order_fails) {
            Some(OrderFault::Failed)
        } else if self.chance(weather.order_hangs) {
            Some(OrderFault::Unanswered)
        } else {
            None
        }
    }

    pub(super) fn agent_may_die_after(&mut self, host: &HostName, order: &Order) {
        let aimed = self.fault.as_ref().is_some_and(|fault| {
            fault.what == OrderFault::AgentDiesAfter
                && order.command.name() == fault.command
                && order.command.vm() == Some(&fault.vm)
        });
        if aimed {
            self.fault = None;
        }
        if aimed || self.chance(self.scenario.weather.agent_dies) && self.hosts[host].up {
            self.agent_dies(host);
        }
    }

    pub(super) fn answer_at_once(&mut self, host: &HostName, order: &Order, outcome: Outcome) {
        let vm = order.command.vm().cloned();
        let report = Report {
            order: Some(order.id),
            epoch: order.epoch,
            vm,
            at: self.wall(),
            outcome,
        };
        self.send_report(host, report);
    }

    pub(super) fn work_on(&mut self, host: &HostName, order: Order) {
        let Some(vm) = order.command.vm().cloned() else {
            return;
        };
        let run = self.hosts[host].run;
        let channel = Channel::Work(host.clone(), vm);
        let event = Event::OrderActedOn {
            host: host.clone(),
            run,
            order,
        };
        self.network.send(&mut self.random, channel, event);
    }
}
