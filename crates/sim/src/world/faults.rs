//! What strikes an order, an act or a record: the aimed fault, else the weather.

use transhume_model::Epoch;
use transhume_protocol::message::Order;
use transhume_protocol::migration::Input;

use super::World;
use crate::check::Violation;
use crate::fault::{ActFault, Fault, OrderFault, Place, WriteFault};
use crate::network::{At, HostIx};

impl World {
    pub(super) fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.network.now < self.calm_from() && self.random.happens(per_million)
    }

    /// Takes the first aimed fault that fits; it strikes once.
    fn aimed<T>(&mut self, fits: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let place = self.faults.iter().position(|fault| fits(fault).is_some())?;
        let fault = self.faults.remove(place);
        fits(&fault)
    }

    pub(super) fn order_fault(&mut self, order: &Order) -> Option<OrderFault> {
        let vm = order
            .command
            .vm()
            .and_then(|name| self.vm_places.get(name).copied())?;
        let kind = order.command.kind();
        self.aimed(|fault| match fault {
            Fault::Order {
                vm: aimed,
                order,
                what,
            } if *aimed == vm && *order == kind && !matches!(what, OrderFault::CoordinatorDies(_)) => {
                Some(*what)
            }
            _ => None,
        })
    }

    fn place(&self, at: At) -> Place {
        if at.host == self.guests[at.vm].source {
            Place::Source
        } else {
            Place::Target
        }
    }

    pub(super) fn act_fault(&mut self, at: At, name: &str) -> Option<ActFault> {
        if let Some((host, after, what)) = self.next_act_fault
            && host == at.host
        {
            self.next_act_fault = after.checked_sub(1).map(|after| (host, after, what));
            if after == 0 {
                return Some(what);
            }
        }
        let here = self.place(at);
        let aimed = self.aimed(|fault| match fault {
            Fault::Act { vm, place, act, what } if *vm == at.vm && *place == here && *act == name => {
                Some(*what)
            }
            _ => None,
        });
        if aimed.is_some() {
            return aimed;
        }
        match self.chance(self.scenario.weather.act) {
            true => Some(*self.random.pick(&self.scenario.weather.acts)),
            false => None,
        }
    }

    pub(super) fn write_fault(&mut self, at: At, count: usize) -> Option<WriteFault> {
        let here = self.place(at);
        let aimed = self.aimed(|fault| match fault {
            Fault::Write { vm, place, nth, what } if *vm == at.vm && *place == here && *nth == count => {
                Some(*what)
            }
            _ => None,
        });
        if aimed.is_some() {
            return aimed;
        }
        match self.chance(self.scenario.weather.write) {
            true => Some(*self.random.pick(&self.scenario.weather.writes)),
            false => None,
        }
    }

    pub(super) fn order_arrived(&mut self, host: HostIx, order: Order) -> Result<(), Violation> {
        match self.order_fault(&order) {
            Some(OrderFault::Lost) => Ok(()),
            Some(OrderFault::ComesTwice) => {
                self.obey(host, order.clone())?;
                self.obey(host, order)
            }
            Some(OrderFault::AnsweredTwice) => {
                self.answered_twice = Some(order.id);
                self.obey(host, order)
            }
            Some(OrderFault::StaleCopyFirst) => {
                let copy = Order {
                    epoch: Epoch(0),
                    ..order.clone()
                };
                self.obey(host, copy)?;
                self.obey(host, order)
            }
            Some(OrderFault::AgentDies) => self.agent_dies(host),
            Some(OrderFault::LinkBreaks) => {
                self.break_link(host);
                Ok(())
            }
            Some(OrderFault::Cancelled) => {
                self.feed_coordinator(Input::Cancel)?;
                self.obey(host, order)
            }
            Some(OrderFault::Partitioned) => self.partition(host),
            Some(OrderFault::HostDies) => self.host_dies(host),
            Some(OrderFault::HostReboots) => self.host_reboots(host),
            Some(OrderFault::CoordinatorDies(_)) | None => {
                if self.chance(self.scenario.weather.comes_twice) {
                    self.obey(host, order.clone())?;
                }
                self.obey(host, order)
            }
        }
    }
}
