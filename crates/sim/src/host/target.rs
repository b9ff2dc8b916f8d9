//! The target's half of the orders.

use transhume_model::{VmName, WallMicros};
use transhume_protocol::message::{ActivationTimes, Command, Order, Outcome, VmRole};

use super::{Acted, Effect, Host, address, done_or_under_way, wrong_state};

impl Host {
    pub(super) fn act_as_target(&mut self, now: WallMicros, order: &Order, name: &VmName) -> Acted {
        let run = self.run;
        let copy = self.vms.get_mut(name).expect("looked up before");
        match (&order.command, copy.role) {
            (Command::Reserve { .. }, VmRole::Expected) => Acted::Done(Outcome::Reserved),
            (Command::Prepare { .. }, VmRole::Expected | VmRole::Target) => {
                copy.role = VmRole::Target;
                copy.soft.listening = true;
                Acted::Done(Outcome::Prepared {
                    page_stream: address(run),
                })
            }
            (Command::OpenTargetBuffer { .. }, VmRole::Target | VmRole::Arrived | VmRole::Home)
                if copy.role != VmRole::Home || copy.target_closed.is_some() =>
            {
                copy.soft.buffer_open = true;
                Acted::Done(Outcome::TargetBufferOpen {
                    tunnels: vec![address(run)],
                })
            }
            (Command::AwaitLoaded { .. }, VmRole::Target) => {
                done_or_under_way(copy.loaded_at.map(|loaded_at| Outcome::Loaded { loaded_at }))
            }
            (Command::Activate { .. }, VmRole::Target) if copy.loaded_at.is_some() => {
                (copy.role, copy.running) = (VmRole::Arrived, true);
                let times = ActivationTimes {
                    begun_at: now,
                    running_at: now,
                    injected_at: now,
                    announced_at: now,
                };
                copy.activation = Some(times);
                self.effects.push(Effect::Announce { vm: name.clone() });
                Acted::Done(Outcome::Activated(times))
            }
            (Command::Activate { .. }, VmRole::Arrived | VmRole::Home) if copy.activation.is_some() => {
                done_or_under_way(copy.activation.map(Outcome::Activated))
            }
            (Command::CloseTargetBuffer { .. }, VmRole::Arrived | VmRole::Home)
                if copy.activation.is_some() =>
            {
                done_or_under_way(copy.target_closed.map(Outcome::TargetClosed))
            }
            (Command::AbortTarget { .. }, VmRole::Expected | VmRole::Target) => {
                self.vms.remove(name);
                Acted::Done(Outcome::TargetDropped)
            }
            (other, role) => Acted::Not(wrong_state(other, name, role)),
        }
    }
}
