//! A target's buffer: injection in order, announcement, and the plug that opens behind FIN (design
//! §3).

use transhume_agent_core::{Act, Product};
use transhume_protocol::message::{FaultKind, TargetFrames};

use super::World;
use super::acts::{Applied, DONE, failed};
use crate::check::Violation;
use crate::host::tap::TargetSpool;
use crate::host::{TargetBuffer, address};
use crate::network::{At, Event, HostIx, MILLI, PATH_MICROS_MAX, VmIx};

impl World {
    pub(super) fn open_target_buffer(&mut self, at: At) -> Applied {
        if self.things(at).tap.is_none() {
            return failed(FaultKind::Network, "it has no tap");
        }
        let here = address(self.hosts[at.host].name.clone(), at.host, at.vm, self.number());
        let Some(slot) = self.slot(at) else { return DONE };
        let address = match &slot.target {
            Some(target) => target.address.clone(),
            None => {
                let (address, tunnel) = (here.clone(), None);
                slot.target = Some(TargetBuffer { address, tunnel });
                self.things(at).target_spool = Some(TargetSpool::default());
                here
            }
        };
        Some(Ok(Product::Tunnels(vec![address])))
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

    pub(super) fn announce(&mut self, at: At) {
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

    /// Its source is lost: what came in order is with the guest, the plug opens.
    pub(super) fn open_plug(&mut self, at: At) -> Result<Applied, Violation> {
        self.is_busy();
        if let Some(spool) = &mut self.things(at).target_spool
            && !spool.closed
        {
            spool.cut = true;
            spool.fin = Some(spool.injected);
            let guest = &mut self.guests[at.vm];
            (guest.cut, guest.may_miss_frames) = (true, true);
        }
        self.inject(at.host, at.vm)?;
        Ok(DONE)
    }

    /// Frames of an activated VM go to its guest in their order; behind FIN the plug opens.
    pub(super) fn inject(&mut self, host: HostIx, vm: VmIx) -> Result<(), Violation> {
        let things = &mut self.hosts[host].things[vm];
        let (Some(tap), Some(spool)) = (&mut things.tap, &mut things.target_spool) else {
            return Ok(());
        };
        if !spool.active {
            return Ok(());
        }
        while !spool.cut
            && let Some(frame) = spool.waiting.remove(&(spool.injected + 1))
        {
            spool.injected += 1;
            tap.ring.push_back(frame);
        }
        if spool.cut {
            spool.waiting.clear();
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

    pub(super) fn target_may_be_closed(&mut self, at: At) -> Result<(), Violation> {
        let things = self.things(at);
        let in_ring = match (&things.tap, things.runs()) {
            (Some(tap), false) => tap.ring.len() as u64,
            (Some(_) | None, _) => 0,
        };
        let Some(spool) = things.target_spool.as_ref().filter(|spool| spool.closed) else {
            return Ok(());
        };
        let frames = TargetFrames {
            delivered: spool.injected,
            untaken: in_ring.min(spool.injected),
            duplicated: spool.duplicated,
            ..TargetFrames::default()
        };
        let is = |act: &Act| matches!(act, Act::FinishTargetBuffer);
        self.answer_waiting(at, is, Ok(Product::TargetFrames(frames)))
    }

    pub(super) fn say_fin_done(&mut self, at: At) {
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
}
