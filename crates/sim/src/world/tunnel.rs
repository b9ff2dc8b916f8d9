//! The tunnel between the two buffers of a VM: FIFO, broken by whatever ends an agent or cuts it
//! off.

use transhume_agent_core::{Input, Trouble};
use transhume_protocol::message::{Fault, FaultKind};

use super::World;
use crate::check::Violation;
use crate::host::host_of;
use crate::network::{At, Channel, Event, HostIx, InTunnel, MILLI, Micros, SECOND, VmIx};

/// Pauses of a committed source before it connects its tunnel again; they double.
const AGAIN_MICROS: (Micros, Micros) = (50 * MILLI, 5 * SECOND);
/// A broken tunnel is noticed within this.
const NOTICE_MICROS_MAX: Micros = 5 * MILLI;

impl World {
    /// Whether the source's buffer is connected now. The target says which number came last.
    pub(super) fn connect(&mut self, at: At) -> bool {
        let Some(peer) = self
            .slot(at)
            .and_then(|slot| slot.source.as_ref())
            .and_then(|source| source.peer.clone())
        else {
            return false;
        };
        let host = host_of(&peer);
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

    /// What is kept goes into the tunnel; FIN behind the last of it.
    pub(super) fn forward(&mut self, host: HostIx, vm: VmIx) {
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
    pub(super) fn again(&mut self, at: At) {
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
}

fn broken_tunnel() -> Fault {
    Trouble::failed(FaultKind::Tunnel, "the tunnel broke").into_fault()
}
