//! The buffers: capture, tunnel, injection, marker and FIN (design §3), and what of them a later agent takes up.

use std::net::SocketAddr;

use transhume_agent_core::{Act, AdoptBuffers, Input, Product, RunState, Trouble};
use transhume_protocol::message::{Fault, FaultKind, OldPath, SourceFrames, TargetFrames};

use super::World;
use super::acts::{Applied, DONE, failed};
use crate::check::Violation;
use crate::host::tap::{SourceSpool, TargetSpool};
use crate::host::{SourceBuffer, Stage, TargetBuffer, address, host_of};
use crate::network::{At, Channel, Event, HostIx, InTunnel, MILLI, Micros, PATH_MICROS_MAX, SECOND, VmIx};

/// Without a marker the source waits this long; longer than any frame is under way.
const LINGER_MICROS: Micros = 2 * SECOND;
/// Pauses of a committed source before it connects its tunnel again; they double.
const AGAIN_MICROS: (Micros, Micros) = (50 * MILLI, 5 * SECOND);
/// A broken tunnel is noticed within this.
const NOTICE_MICROS_MAX: Micros = 5 * MILLI;

impl World {
    pub(super) fn open_source_buffer(&mut self, at: At) -> Applied {
        if self.things(at).tap.is_none() {
            return failed(FaultKind::Network, "it has no tap");
        }
        let Some(slot) = self.slot(at) else { return DONE };
        if slot.source.is_none() {
            slot.source = Some(SourceBuffer::new(Stage::Open));
            self.things(at).source_spool = Some(SourceSpool::default());
        }
        DONE
    }

    pub(super) fn open_target_buffer(&mut self, at: At) -> Applied {
        if self.things(at).tap.is_none() {
            return failed(FaultKind::Network, "it has no tap");
        }
        let here = address(at.host, at.vm, self.number());
        let Some(slot) = self.slot(at) else { return DONE };
        let address = match &slot.target {
            Some(target) => target.address,
            None => {
                let (address, tunnel) = (here, None);
                slot.target = Some(TargetBuffer { address, tunnel });
                self.things(at).target_spool = Some(TargetSpool::default());
                here
            }
        };
        Some(Ok(Product::Tunnels(vec![address])))
    }

    pub(super) fn connect_source_buffer(
        &mut self,
        at: At,
        tunnels: &[SocketAddr],
    ) -> Result<Applied, Violation> {
        let (Some(peer), Some(slot)) = (tunnels.first(), self.slot(at)) else {
            return Ok(failed(FaultKind::Tunnel, "there is no end to connect to"));
        };
        let Some(source) = &mut slot.source else {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        };
        if source.peer == Some(*peer) && source.tunnel.is_some() {
            return Ok(DONE);
        }
        source.peer = Some(*peer);
        if !self.connect(at) {
            return Ok(failed(FaultKind::Tunnel, "the target's buffer cannot be reached"));
        }
        self.forward(at.host, at.vm);
        Ok(DONE)
    }

    /// Whether the source's buffer is connected now. The target says which number came last.
    fn connect(&mut self, at: At) -> bool {
        let Some(peer) = self
            .slot(at)
            .and_then(|slot| slot.source.as_ref())
            .and_then(|source| source.peer)
        else {
            return false;
        };
        let host = host_of(peer);
        let cut_off = self.hosts[host].partitioned || self.hosts[at.host].partitioned;
        let Some(there) = self.at(host, at.vm).filter(|_| !cut_off) else {
            return false;
        };
        let tunnel = self.number();
        let came = self.things(there).target_spool.as_ref().map(|spool| spool.came);
        let Some(target) = self.slot(there).and_then(|slot| slot.target.as_mut()) else {
            return false;
        };
        let (true, Some(came)) = (target.address == peer, came) else {
            return false;
        };
        target.tunnel = Some(tunnel);
        if let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) {
            (source.tunnel, source.sent, source.fin_sent) = (Some(tunnel), came, false);
            source.pause = 0;
        }
        true
    }

    pub(super) fn shut_source_buffer(&mut self, at: At, as_is: bool) -> Result<Applied, Violation> {
        self.is_busy();
        let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) else {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        };
        source.stage = Stage::Shut;
        let Some(tap) = &mut self.things(at).tap else {
            return Ok(failed(FaultKind::Network, "it has no tap"));
        };
        tap.shut = true;
        self.pump(at.host, at.vm)?;
        // What a healthy guest leaves in its ring it has no time to leave: it took all. Any other is taken as it is.
        let takes = self
            .things(at)
            .qemu
            .as_ref()
            .is_some_and(|qemu| qemu.runs() && !qemu.deaf);
        if as_is || !takes {
            self.keep_ring(at);
        }
        let now = self.now_at(at.host).wall;
        let (shut_at, empty_at) = (now, now);
        Ok(Some(Ok(Product::Shut { shut_at, empty_at })))
    }

    /// What is in the ring is read into the spool.
    fn keep_ring(&mut self, at: At) {
        let things = self.things(at);
        if let (Some(tap), Some(spool)) = (&mut things.tap, &mut things.source_spool) {
            spool.kept.extend(tap.ring.drain(..));
            spool.reads = true;
        }
    }

    /// The way back begins: frames wait in front of the plug, what was read is kept to the last.
    fn end_reading(&mut self, at: At) {
        let things = self.things(at);
        if let Some(tap) = &mut things.tap {
            tap.shut = true;
        }
        if things.source_spool.as_ref().is_some_and(|spool| spool.reads) {
            self.keep_ring(at);
        }
        if let Some(spool) = &mut self.things(at).source_spool {
            spool.reads = false;
        }
    }

    pub(super) fn capture(&mut self, at: At) -> Result<Applied, Violation> {
        self.is_busy();
        let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) else {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        };
        source.stage = Stage::Capturing;
        self.keep_ring(at);
        let Some(tap) = &mut self.things(at).tap else {
            return Ok(failed(FaultKind::Network, "it has no tap"));
        };
        tap.open();
        self.pump(at.host, at.vm)?;
        Ok(DONE)
    }

    pub(super) fn surrender(&mut self, at: At) -> Applied {
        if let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) {
            source.committed = true;
            if source.tunnel.is_none() {
                self.again(at);
            }
        }
        DONE
    }

    pub(super) fn finish_source_buffer(&mut self, at: At) -> Result<Applied, Violation> {
        self.is_busy();
        let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) else {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        };
        source.finishing = true;
        if !source.marker_seen && !source.lingered {
            self.network.after(LINGER_MICROS, Event::LingerOver { at });
        }
        self.forward(at.host, at.vm);
        Ok(None)
    }

    pub(super) fn shut_for_abort(&mut self, at: At) -> Result<Applied, Violation> {
        self.is_busy();
        let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) else {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        };
        source.stage = Stage::Stopped;
        source.tunnel = None;
        self.end_reading(at);
        Ok(DONE)
    }

    pub(super) fn put_back(&mut self, at: At) -> Result<Applied, Violation> {
        self.is_busy();
        if self.slot(at).is_none_or(|slot| slot.source.is_none()) {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        }
        let things = self.things(at);
        let Some(tap) = &mut things.tap else {
            return Ok(failed(FaultKind::Network, "it has no tap"));
        };
        let mut frames = SourceFrames::default();
        if let Some(spool) = &mut things.source_spool {
            // What is in the ring already came behind what was kept.
            let later: Vec<u64> = tap.ring.drain(..).collect();
            tap.ring.extend(&spool.kept[spool.put_back..]);
            tap.ring.extend(later);
            spool.put_back = spool.kept.len();
            frames.captured = spool.kept.len() as u64;
            frames.put_back = frames.captured;
            frames.untaken = spool.untaken;
        }
        tap.open();
        self.pump(at.host, at.vm)?;
        Ok(Some(Ok(Product::SourceFrames(frames))))
    }

    pub(super) fn activate_buffer(&mut self, at: At) -> Result<Applied, Violation> {
        self.is_busy();
        if self.slot(at).is_none_or(|slot| slot.target.is_none()) {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        }
        if let Some(spool) = &mut self.things(at).target_spool {
            spool.active = true;
        }
        self.announce(at);
        self.inject(at.host, at.vm)?;
        let now = self.now_at(at.host).wall;
        let (injected_at, announced_at) = (now, now);
        Ok(Some(Ok(Product::Announced {
            injected_at,
            announced_at,
        })))
    }

    fn announce(&mut self, at: At) {
        let (vm, host) = (at.vm, at.host);
        let delay = self.random.between(10, PATH_MICROS_MAX);
        self.network.after(delay, Event::Learned { vm, host });
    }

    pub(super) fn finish_target_buffer(&mut self, at: At) -> Result<Applied, Violation> {
        if self.slot(at).is_none_or(|slot| slot.target.is_none()) {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        }
        Ok(None)
    }

    /// An act that waits may have nothing to wait for.
    pub(super) fn look_at_waiting(&mut self, at: At) -> Result<(), Violation> {
        self.source_may_be_finished(at)?;
        self.target_may_be_closed(at)
    }

    /// Frames go as far as they can: into the guest, or into the spool of what captures them.
    pub(super) fn pump(&mut self, host: HostIx, vm: VmIx) -> Result<(), Violation> {
        let here = &mut self.hosts[host];
        let things = &mut here.things[vm];
        let Some(tap) = &mut things.tap else { return Ok(()) };
        if let Some(qemu) = things.qemu.as_mut().filter(|qemu| qemu.runs()) {
            let guest = &self.guests[vm];
            if qemu.deaf {
                if qemu.held.is_none() {
                    qemu.held = tap.ring.pop_front();
                }
                return Ok(());
            }
            let held = qemu.held.take();
            for frame in held.into_iter().chain(tap.ring.drain(..)) {
                guest.receive(&here.name, qemu, frame)?;
            }
            return Ok(());
        }
        let source = here
            .agent
            .as_ref()
            .and_then(|agent| agent.slots.get(&vm))
            .and_then(|slot| slot.source.as_ref());
        if source.is_some_and(|source| source.stage == Stage::Capturing) {
            if let Some(spool) = &mut things.source_spool {
                spool.kept.extend(tap.ring.drain(..));
            }
            self.forward(host, vm);
        }
        Ok(())
    }

    /// What is kept goes into the tunnel; FIN behind the last of it.
    fn forward(&mut self, host: HostIx, vm: VmIx) {
        let Some(at) = self.at(host, vm) else { return };
        let things = &self.hosts[host].things[vm];
        let Some(spool) = &things.source_spool else { return };
        let last = spool.kept.len() as u64;
        let slot = self.hosts[host].slot(vm);
        let Some(source) = slot.and_then(|slot| slot.source.as_ref()) else {
            return;
        };
        let Some(tunnel) = source.tunnel else { return };
        let path_is_empty = source.marker_seen || source.lingered;
        let fin = source.finishing && path_is_empty && !source.fin_sent;
        let frames = (source.sent..last).map(|place| InTunnel::Frame {
            number: place + 1,
            frame: spool.kept[place as usize],
        });
        let fin_itself = fin.then_some(InTunnel::Fin { last });
        for what in frames.chain(fin_itself) {
            let event = Event::TunnelDelivers { vm, tunnel, what };
            self.network.send(&mut self.random, Channel::Tunnel(vm), event);
        }
        if let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) {
            source.sent = last;
            source.fin_sent |= fin;
        }
    }

    pub(super) fn tunnel_delivers(&mut self, vm: VmIx, tunnel: u64, what: InTunnel) -> Result<(), Violation> {
        let host = self.guests[vm].target;
        let target = self.hosts[host].slot(vm).and_then(|slot| slot.target.as_ref());
        let whole = target.is_some_and(|target| target.tunnel == Some(tunnel));
        if !whole || self.chance(self.scenario.weather.tunnel_breaks) {
            self.tunnel_breaks(vm, tunnel);
            return Ok(());
        }
        let Some(spool) = &mut self.hosts[host].things[vm].target_spool else {
            return Ok(());
        };
        match what {
            InTunnel::Frame { number, .. } if number <= spool.came => spool.duplicated += 1,
            InTunnel::Frame { number, frame } => {
                spool.came = number;
                spool.waiting.insert(number, frame);
            }
            InTunnel::Fin { last } => spool.fin = Some(last),
        }
        self.inject(host, vm)?;
        if let (InTunnel::Fin { .. }, Some(at)) = (what, self.at(host, vm)) {
            self.say_fin_done(at);
        }
        Ok(())
    }

    /// Frames of an activated VM go to its guest in their order; behind FIN the plug opens.
    fn inject(&mut self, host: HostIx, vm: VmIx) -> Result<(), Violation> {
        let things = &mut self.hosts[host].things[vm];
        let (Some(tap), Some(spool)) = (&mut things.tap, &mut things.target_spool) else {
            return Ok(());
        };
        if !spool.active {
            return Ok(());
        }
        while let Some(frame) = spool.waiting.remove(&(spool.injected + 1)) {
            spool.injected += 1;
            tap.ring.push_back(frame);
        }
        let closes = spool.fin == Some(spool.injected) && !spool.closed;
        if closes {
            spool.closed = true;
            tap.open();
        }
        self.pump(host, vm)?;
        if let (true, Some(at)) = (closes, self.at(host, vm)) {
            self.say_fin_done(at);
            self.target_may_be_closed(at)?;
        }
        Ok(())
    }

    fn say_fin_done(&mut self, at: At) {
        let closed = self
            .things(at)
            .target_spool
            .as_ref()
            .is_some_and(|spool| spool.closed);
        let tunnel = self
            .slot(at)
            .and_then(|slot| slot.target.as_ref())
            .and_then(|target| target.tunnel);
        let source = self.at(self.guests[at.vm].source, at.vm);
        if let (true, Some(tunnel), Some(at)) = (closed, tunnel, source) {
            self.network.after(MILLI, Event::FinDone { at, tunnel });
        }
    }

    pub(super) fn fin_done(&mut self, at: At, tunnel: u64) -> Result<(), Violation> {
        let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) else {
            return Ok(());
        };
        if source.tunnel == Some(tunnel) && source.fin_sent {
            source.finished = true;
            return self.source_may_be_finished(at);
        }
        Ok(())
    }

    fn source_may_be_finished(&mut self, at: At) -> Result<(), Violation> {
        let source = self.slot(at).and_then(|slot| slot.source.as_ref());
        let Some(source) = source.filter(|source| source.finished) else {
            return Ok(());
        };
        let old_path = match source.marker_seen {
            true => OldPath::Marker,
            false => OldPath::Lingered,
        };
        let spool = self.things(at).source_spool.as_ref();
        let frames = spool.map_or_else(SourceFrames::default, |spool| SourceFrames {
            captured: spool.kept.len() as u64,
            untaken: spool.untaken,
            old_path: Some(old_path),
            ..SourceFrames::default()
        });
        let is = |act: &Act| matches!(act, Act::FinishSourceBuffer);
        self.answer_waiting(at, is, Ok(Product::SourceFrames(frames)))
    }

    fn target_may_be_closed(&mut self, at: At) -> Result<(), Violation> {
        let things = self.things(at);
        let in_ring = match (&things.tap, things.runs()) {
            (Some(tap), false) => tap.ring.len() as u64,
            (Some(_) | None, _) => 0,
        };
        let Some(spool) = things.target_spool.as_ref().filter(|spool| spool.closed) else {
            return Ok(());
        };
        let undelivered = in_ring.min(spool.injected);
        let frames = TargetFrames {
            delivered: spool.injected - undelivered,
            undelivered,
            duplicated: spool.duplicated,
            ..TargetFrames::default()
        };
        let is = |act: &Act| matches!(act, Act::FinishTargetBuffer);
        self.answer_waiting(at, is, Ok(Product::TargetFrames(frames)))
    }

    pub(super) fn marker_arrived(&mut self, host: HostIx, vm: VmIx) -> Result<(), Violation> {
        let Some(at) = self.at(host, vm) else {
            return Ok(());
        };
        if let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) {
            source.marker_seen |= source.stage == Stage::Capturing;
            self.forward(host, vm);
        }
        Ok(())
    }

    pub(super) fn linger_over(&mut self, at: At) -> Result<(), Violation> {
        if let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) {
            source.lingered = true;
            self.forward(at.host, at.vm);
        }
        Ok(())
    }

    /// A tunnel is no more; the source's end notices.
    pub(super) fn tunnel_breaks(&mut self, vm: VmIx, tunnel: u64) {
        let Some(at) = self.at(self.guests[vm].source, vm) else {
            return;
        };
        let source = self.hosts[at.host].slot(vm).and_then(|slot| slot.source.as_ref());
        if source.is_some_and(|source| source.tunnel == Some(tunnel)) {
            let delay = self.random.between(10, NOTICE_MICROS_MAX);
            self.network.after(delay, Event::TunnelBroken { at, tunnel });
        }
        let target = self.hosts[self.guests[vm].target].slot_mut(vm);
        if let Some(target) = target.and_then(|slot| slot.target.as_mut())
            && target.tunnel == Some(tunnel)
        {
            target.tunnel = None;
        }
    }

    pub(super) fn tunnel_of(&self, vm: VmIx) -> Option<u64> {
        let slot = self.hosts[self.guests[vm].source].slot(vm)?;
        slot.source.as_ref()?.tunnel
    }

    /// Every tunnel that this host has an end of.
    pub(super) fn tunnels_break(&mut self, host: HostIx) {
        for vm in 0..self.guests.len() {
            let guest = &self.guests[vm];
            if guest.source != host && guest.target != host {
                continue;
            }
            if let Some(tunnel) = self.tunnel_of(vm) {
                self.tunnel_breaks(vm, tunnel);
            }
        }
    }

    pub(super) fn tunnel_broken(&mut self, at: At, tunnel: u64) -> Result<(), Violation> {
        let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) else {
            return Ok(());
        };
        if source.tunnel != Some(tunnel) || source.finished {
            return Ok(());
        }
        source.tunnel = None;
        if source.committed {
            self.again(at);
            return Ok(());
        }
        let fault = broken_tunnel();
        self.feed(at, Input::BufferFault(fault))
    }

    /// A committed source connects again by itself.
    fn again(&mut self, at: At) {
        let Some(source) = self.slot(at).and_then(|slot| slot.source.as_mut()) else {
            return;
        };
        source.pause = (2 * source.pause).clamp(AGAIN_MICROS.0, AGAIN_MICROS.1);
        let pause = source.pause;
        self.network.after(pause, Event::TunnelAgain { at });
    }

    pub(super) fn tunnel_again(&mut self, at: At) -> Result<(), Violation> {
        let source = self.slot(at).and_then(|slot| slot.source.as_ref());
        let Some(source) = source.filter(|source| source.peer.is_some()) else {
            return Ok(());
        };
        if source.tunnel.is_some() || source.finished {
            return Ok(());
        }
        match self.connect(at) {
            true => self.forward(at.host, at.vm),
            false => self.again(at),
        }
        Ok(())
    }

    /// An agent takes up the buffers of an earlier one.
    pub(super) fn adopt_buffers(
        &mut self,
        at: At,
        buffers: AdoptBuffers,
        run: RunState,
        surrendered: bool,
    ) -> Result<Result<(), Trouble>, Violation> {
        match buffers {
            AdoptBuffers::None => Ok(Ok(())),
            AdoptBuffers::Abort => {
                self.end_reading(at);
                self.take_source(at, SourceBuffer::new(Stage::Stopped));
                Ok(Ok(()))
            }
            AdoptBuffers::Capture { tunnels } => self.resume_capture(at, &tunnels, run, surrendered),
            AdoptBuffers::Deliver { tunnels, activated } => self.resume_delivery(at, &tunnels, activated),
            AdoptBuffers::Delivered { tunnels } => self.resume_delivery(at, &tunnels, true).map(|_| Ok(())),
        }
    }

    fn take_source(&mut self, at: At, source: SourceBuffer) {
        if let Some(slot) = self.slot(at) {
            slot.source = Some(source);
        }
    }

    fn resume_capture(
        &mut self,
        at: At,
        tunnels: &[SocketAddr],
        run: RunState,
        surrendered: bool,
    ) -> Result<Result<(), Trouble>, Violation> {
        if self.things(at).source_spool.is_none() {
            return Ok(Err(Trouble::failed(FaultKind::Internal, "there is no spool")));
        }
        // Its agent was killed before the guest had stopped: it can only be put back.
        let stage = match run {
            RunState::Running => Stage::Stopped,
            _ => Stage::Capturing,
        };
        let mut source = SourceBuffer::new(stage);
        (source.peer, source.committed) = (tunnels.first().copied(), surrendered);
        self.take_source(at, source);
        if stage == Stage::Capturing {
            self.keep_ring(at);
            if let Some(tap) = &mut self.things(at).tap {
                tap.open();
            }
        } else {
            self.end_reading(at);
        }
        self.pump(at.host, at.vm)?;
        if !self.connect(at) && surrendered {
            self.again(at);
        }
        self.forward(at.host, at.vm);
        Ok(Ok(()))
    }

    fn resume_delivery(
        &mut self,
        at: At,
        tunnels: &[SocketAddr],
        activated: bool,
    ) -> Result<Result<(), Trouble>, Violation> {
        let Some(address) = tunnels.first().copied() else {
            return Ok(Ok(()));
        };
        let Some(spool) = &mut self.things(at).target_spool else {
            return Ok(Err(Trouble::failed(FaultKind::Internal, "there is no spool")));
        };
        spool.active |= activated;
        let active = spool.active;
        let tunnel = None;
        if let Some(slot) = self.slot(at) {
            slot.target = Some(TargetBuffer { address, tunnel });
        }
        if active {
            self.announce(at);
            self.inject(at.host, at.vm)?;
        }
        Ok(Ok(()))
    }
}

fn broken_tunnel() -> Fault {
    Trouble::failed(FaultKind::Tunnel, "the tunnel broke").into_fault()
}
