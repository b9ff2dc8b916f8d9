//! Buffers, tunnel, marker and FIN: what moves frames once an order, a frame or a signal has come.

use transhume_model::{VmName, WallMicros};
use transhume_protocol::message::{CopyTimes, FaultKind, OldPath, Outcome, Report, TargetFrames, VmRole};

use super::{Effect, Host, failed};
use crate::copy::Soft;
use crate::network::InTunnel;

impl Host {
    /// The VM runs here again; what was captured comes first, then what waited in the tap.
    pub(super) fn put_back(&mut self, name: &VmName) -> Outcome {
        let copy = self.vms.get_mut(name).expect("looked up before");
        let mut frames = copy.source_frames();
        frames.put_back = frames.captured;
        (copy.role, copy.running, copy.capture) = (VmRole::Home, true, None);
        copy.restored = Some(frames);
        copy.soft = Soft::default();
        let back: Vec<u64> = copy.kept.drain(..).chain(copy.queue.drain(..)).collect();
        self.effects.extend(back.into_iter().map(|frame| Effect::Guest {
            vm: name.clone(),
            frame,
        }));
        Outcome::SourceRestored(frames)
    }

    /// What an order, a frame or a signal makes possible: frames move on, FIN is sent, a plug opens.
    pub(crate) fn follow_up(&mut self, now: WallMicros, name: &VmName) {
        let Some(copy) = self.vms.get_mut(name) else {
            return;
        };
        if copy.is_plug_open() {
            let frames: Vec<u64> = copy.queue.drain(..).collect();
            self.effects.extend(frames.into_iter().map(|frame| Effect::Guest {
                vm: name.clone(),
                frame,
            }));
        } else if copy.is_capturing() && self.up {
            self.forward(name);
        } else if copy.role == VmRole::Arrived && self.up {
            self.inject(now, name);
        }
    }

    fn forward(&mut self, name: &VmName) {
        let copy = self.vms.get_mut(name).expect("looked up before");
        copy.kept.extend(copy.queue.drain(..));
        let Some(target_run) = copy.soft.tunnel else {
            return;
        };
        let mut send = |what| {
            self.effects.push(Effect::Tunnel {
                vm: name.clone(),
                target_run,
                what,
            })
        };
        for place in copy.soft.sent..copy.kept.len() {
            send(InTunnel::Frame {
                number: place as u64 + 1,
                frame: copy.kept[place],
            });
        }
        copy.soft.sent = copy.kept.len();
        let closing = copy.soft.waiting.contains_key("CloseSourceBuffer");
        if closing && copy.soft.marker_seen && !copy.soft.fin_sent {
            copy.soft.fin_sent = true;
            send(InTunnel::Fin {
                last: copy.kept.len() as u64,
            });
        }
    }

    fn inject(&mut self, now: WallMicros, name: &VmName) {
        let copy = self.vms.get_mut(name).expect("looked up before");
        while let Some(frame) = copy.soft.buffer.remove(&(copy.injected + 1)) {
            copy.injected += 1;
            self.effects.push(Effect::Guest {
                vm: name.clone(),
                frame,
            });
        }
        if copy.soft.fin != Some(copy.injected) {
            return;
        }
        copy.role = VmRole::Home;
        let frames = TargetFrames {
            delivered: copy.injected,
            ..TargetFrames::default()
        };
        copy.target_closed = Some(frames);
        self.effects.push(Effect::FinDone { vm: name.clone() });
        self.settle(now, name, "CloseTargetBuffer", Outcome::TargetClosed(frames));
        self.follow_up(now, name);
    }

    /// Keeps an answer and gives it to the order that waits for it.
    fn settle(&mut self, at: WallMicros, name: &VmName, command: &'static str, outcome: Outcome) {
        let copy = self.vms.get_mut(name).expect("looked up before");
        copy.soft.answers.insert(command, outcome.clone());
        if let Some((order, epoch)) = copy.soft.waiting.remove(command) {
            let vm = Some(name.clone());
            self.effects.push(Effect::Report(Box::new(Report {
                order: Some(order),
                epoch,
                vm,
                at,
                outcome,
            })));
        }
    }

    pub(crate) fn frame_arrived(&mut self, now: WallMicros, name: &VmName, frame: u64) {
        if let Some(copy) = self.vms.get_mut(name) {
            copy.queue.push_back(frame);
            self.follow_up(now, name);
        }
    }

    pub(crate) fn tunnel_delivered(&mut self, now: WallMicros, name: &VmName, what: &InTunnel) {
        let Some(copy) = self.vms.get_mut(name) else {
            return;
        };
        match *what {
            InTunnel::Frame { number, frame } if number > copy.injected && copy.role != VmRole::Home => {
                copy.soft.buffer.insert(number, frame);
            }
            InTunnel::Frame { .. } => {}
            InTunnel::Fin { .. } if copy.role == VmRole::Home => {
                self.effects.push(Effect::FinDone { vm: name.clone() });
            }
            InTunnel::Fin { last } => copy.soft.fin = Some(last),
        }
        self.follow_up(now, name);
    }

    pub(crate) fn converged(&mut self, now: WallMicros, name: &VmName, alive: &dyn Fn(u64) -> bool) {
        let Some(copy) = self.vms.get(name) else { return };
        let Some(target_run) = copy.soft.stream.filter(|_| copy.role == VmRole::Source) else {
            return;
        };
        let outcome = match alive(target_run) {
            true => Outcome::Converged(copy.pages()),
            false => failed(FaultKind::PageStream, "the page stream broke"),
        };
        self.settle(now, name, "PreCopy", outcome);
    }

    /// The source's end of the page stream is through, or broke.
    pub(crate) fn copied(&mut self, now: WallMicros, name: &VmName, whole: bool) {
        let Some(copy) = self.vms.get_mut(name) else {
            return;
        };
        if copy.role != VmRole::Source || copy.capture.is_none() {
            return;
        }
        let outcome = if whole {
            let times = CopyTimes {
                begun_at: now,
                pre_switchover_at: now,
                completed_at: now,
            };
            copy.copied = Some(times);
            Outcome::Copied {
                pages: copy.pages(),
                times,
            }
        } else {
            failed(FaultKind::PageStream, "the page stream broke")
        };
        self.settle(now, name, "StopAndCopy", outcome);
    }

    pub(crate) fn loaded(&mut self, now: WallMicros, name: &VmName) {
        let Some(copy) = self.vms.get_mut(name) else {
            return;
        };
        if copy.role == VmRole::Target && copy.soft.listening {
            copy.loaded_at = Some(now);
            self.settle(now, name, "AwaitLoaded", Outcome::Loaded { loaded_at: now });
        }
    }

    /// Nothing older can be under way on the old path.
    pub(crate) fn old_path_is_empty(&mut self, now: WallMicros, name: &VmName) {
        if let Some(copy) = self.vms.get_mut(name).filter(|copy| copy.is_capturing()) {
            copy.soft.marker_seen = true;
            self.follow_up(now, name);
        }
    }

    pub(crate) fn fin_is_done(&mut self, now: WallMicros, name: &VmName) {
        let Some(copy) = self.vms.get_mut(name) else {
            return;
        };
        if copy.role == VmRole::Left && copy.soft.fin_sent && copy.source_closed.is_none() {
            let mut frames = copy.source_frames();
            frames.old_path = Some(OldPath::Marker);
            copy.source_closed = Some(frames);
            self.settle(now, name, "CloseSourceBuffer", Outcome::SourceClosed(frames));
        }
    }

    /// The tunnel of a VM broke, as one of its ends sees it.
    pub(crate) fn tunnel_broke(&mut self, at: WallMicros, name: &VmName) {
        let Some(copy) = self.vms.get_mut(name) else {
            return;
        };
        if copy.soft.tunnel.take().is_none() || copy.source_closed.is_some() {
            return;
        }
        copy.soft.answers.remove("ConnectBuffers");
        let (vm, epoch) = (Some(name.clone()), copy.epoch);
        let outcome = failed(FaultKind::Tunnel, "the tunnel broke");
        self.effects.push(Effect::Report(Box::new(Report {
            order: None,
            epoch,
            vm,
            at,
            outcome,
        })));
    }
}
