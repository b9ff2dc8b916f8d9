//! What a move waits for: every open order by name, so that no wait goes unexplained.

use transhume_model::HostName;

use super::course::Course;
use super::open::OrderState;
use super::vm::Vm;
use super::{Link, Migration, Now};
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
            self.wanted(vm)
                .into_iter()
                .map(move |row| self.wait(vm, row, now))
        })
        .collect()
    }

    fn wait(&self, vm: &Vm, row: &OrderRow, now: Now) -> Wait {
        let host = vm.host(row.side);
        let open = vm.open.get(row.order);
        let undecided = self.resolvable(vm).ok().filter(|_| self.is_gone(host));
        if let (Some(open), Some(lost_ms)) = (undecided, self.lost_for(host, now)) {
            let hint = open.hint(self.id(), vm.name(), host);
            return Wait {
                vm: vm.name().clone(),
                order: row.order,
                host: host.clone(),
                since_ms: lost_ms,
                why: WaitReason::Decision { lost_ms, hint },
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
