//! What a move waits for: every open order by name, so that no wait goes unexplained.

use transhume_model::HostName;

use super::course::Course;
use super::decision::Resolvable;
use super::open::OrderState;
use super::vm::Vm;
use super::{Link, Migration, Now};
use crate::message::OrderKind;
use crate::report::{Wait, WaitReason};
use crate::step::OrderRow;

impl Migration {
    /// Every order that is wanted and not done, in the order of the VMs and the steps. Empty when
    /// the move is over.
    pub fn waiting_for(&self, now: Now) -> Vec<Wait> {
        if self.course == Course::Over {
            return Vec::new();
        }
        let vms = self.batch_vms();
        vms.flat_map(|vm| {
            let wanted = self.wanted(vm).into_iter();
            let waits = wanted.map(move |row| self.wait(vm, row, now));
            self.lost_on_target(vm, now).into_iter().chain(waits)
        })
        .collect()
    }

    /// A decision for which no order waits.
    fn lost_on_target(&self, vm: &Vm, now: Now) -> Option<Wait> {
        let open = self.resolvable(vm).ok()?;
        if open != Resolvable::LostOnTarget {
            return None;
        }
        let lost_ms = vm.lost_at.map_or(0, |since| now.mono.saturating_sub(since).0);
        Some(Wait {
            vm: vm.name().clone(),
            order: OrderKind::Activate,
            host: vm.target.clone(),
            since_ms: lost_ms,
            why: WaitReason::Decision {
                lost: open.lost(),
                lost_ms,
                hint: open.hint(self.id(), vm.name(), &vm.target, vm.ran()),
            },
        })
    }

    fn wait(&self, vm: &Vm, row: &OrderRow, now: Now) -> Wait {
        let host = vm.host(row.side);
        let open = vm.open.get(row.order);
        let undecided = self.resolvable(vm).ok().filter(|_| self.is_gone(host));
        if let (Some(decision), Some(lost_ms)) = (undecided, self.lost_for(host, now)) {
            return Wait {
                vm: vm.name().clone(),
                order: row.order,
                host: host.clone(),
                since_ms: lost_ms,
                why: WaitReason::Decision {
                    lost: decision.lost(),
                    lost_ms,
                    hint: decision.hint(self.id(), vm.name(), host, vm.ran()),
                },
            };
        }
        let why = match (self.lost_for(host, now), open.map(|open| open.state)) {
            (Some(lost_ms), _) => WaitReason::NotConnected { lost_ms },
            (None, Some(OrderState::BackingOff { .. })) => WaitReason::BackingOff {
                reason: open.and_then(|open| open.failure.clone()).unwrap_or_default(),
            },
            (None, Some(OrderState::InFlight { .. } | OrderState::Parked) | None) => WaitReason::InFlight,
        };
        Wait {
            vm: vm.name().clone(),
            order: row.order,
            host: host.clone(),
            since_ms: open.map_or(0, |open| now.mono.saturating_sub(open.since).0),
            why,
        }
    }

    fn lost_for(&self, host: &HostName, now: Now) -> Option<u64> {
        match self.links.get(host) {
            Some(Link::Lost { since } | Link::Gone { since }) => Some(now.mono.saturating_sub(*since).0),
            Some(Link::Up) | None => None,
        }
    }
}
