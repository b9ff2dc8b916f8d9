//! The source's half of the orders.

use transhume_model::{VmName, WallMicros};
use transhume_protocol::message::{CaptureTimes, Command, FaultKind, GuestState, Order, Outcome, VmRole};

use super::{Acted, Effect, Host, failed, run_of, wrong_state};
use crate::copy::Copy;

impl Host {
    pub(super) fn act_as_source(
        &mut self,
        now: WallMicros,
        order: &Order,
        name: &VmName,
        alive: &dyn Fn(u64) -> bool,
    ) -> Acted {
        let copy = self.vms.get_mut(name).expect("looked up before");
        match (&order.command, copy.role) {
            (Command::PreCopy { page_stream, .. }, VmRole::Home) => {
                let epoch = copy.epoch;
                *copy = Copy {
                    queue: std::mem::take(&mut copy.queue),
                    ..Copy::new(copy.spec.clone(), VmRole::Source, epoch, true)
                };
                copy.soft.stream = Some(run_of(*page_stream));
                self.effects.push(Effect::Converging { vm: name.clone() });
                self.report(now, order.id, order, Outcome::PreCopying);
                Acted::UnderWay
            }
            (Command::PreCopy { .. }, VmRole::Source) if copy.soft.stream.is_some() => {
                self.report(now, order.id, order, Outcome::PreCopying);
                Acted::UnderWay
            }
            (Command::OpenSourceBuffer { .. }, VmRole::Source) => {
                copy.soft.buffer_open = true;
                Acted::Done(Outcome::SourceBufferOpen)
            }
            (Command::ConnectBuffers { tunnels, .. }, VmRole::Source | VmRole::Left) => {
                let target_run = run_of(tunnels[0]);
                if !alive(target_run) {
                    return Acted::Not(failed(FaultKind::Tunnel, "nobody listens at the tunnel's end"));
                }
                (copy.soft.tunnel, copy.soft.sent, copy.soft.fin_sent) = (Some(target_run), 0, false);
                Acted::Done(Outcome::BuffersConnected)
            }
            (Command::Capture { .. }, VmRole::Source) => {
                if copy.soft.tunnel.is_none() || copy.soft.stream.is_none() || !copy.soft.buffer_open {
                    return Acted::Not(failed(FaultKind::AgentRestarted, "there is no buffer any more"));
                }
                copy.running = false;
                let times = CaptureTimes {
                    begun_at: now,
                    shut_at: now,
                    empty_at: now,
                    stopped_at: now,
                    capturing_at: now,
                };
                copy.capture = Some(times);
                Acted::Done(Outcome::Captured {
                    times,
                    guest: GuestState::Running,
                })
            }
            (Command::StopAndCopy { .. }, VmRole::Source) if copy.capture.is_some() => match copy.soft.stream
            {
                Some(target_run) => {
                    self.effects.push(Effect::Stream {
                        vm: name.clone(),
                        target_run,
                    });
                    Acted::UnderWay
                }
                None => Acted::Not(failed(
                    FaultKind::AgentRestarted,
                    "there is no page stream any more",
                )),
            },
            (Command::Commit { .. }, VmRole::Source | VmRole::Left) if copy.copied.is_some() => {
                copy.role = VmRole::Left;
                Acted::Done(Outcome::CommitNoted)
            }
            (Command::CloseSourceBuffer { .. }, VmRole::Left) => match (copy.source_closed, copy.soft.tunnel)
            {
                (Some(frames), _) => Acted::Done(Outcome::SourceClosed(frames)),
                (None, None) => Acted::Not(failed(FaultKind::Tunnel, "there is no tunnel any more")),
                (None, Some(_)) => {
                    self.effects.push(Effect::Linger { vm: name.clone() });
                    Acted::UnderWay
                }
            },
            (Command::Discard { .. }, VmRole::Left) if copy.source_closed.is_some() => {
                self.vms.remove(name);
                Acted::Done(Outcome::Discarded { frames: None })
            }
            (Command::AbortSource { .. }, VmRole::Source) => Acted::Done(self.put_back(name)),
            (Command::AbortSource { .. }, VmRole::Home) => {
                Acted::Done(Outcome::SourceRestored(copy.restored.unwrap_or_default()))
            }
            (other, role) => Acted::Not(wrong_state(other, name, role)),
        }
    }
}
