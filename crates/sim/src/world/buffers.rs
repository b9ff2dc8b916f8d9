//! What both buffers have in common: frames go as far as they can, and a later agent takes up what
//! it finds.

use transhume_agent_core::{AdoptBuffers, RunState, Trouble};
use transhume_model::Endpoint;
use transhume_protocol::message::FaultKind;

use super::World;
use crate::check::Violation;
use crate::host::{SourceBuffer, Stage, TargetBuffer};
use crate::network::{At, HostIx, VmIx};

impl World {
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

    /// An act that waits may have nothing to wait for.
    pub(super) fn look_at_waiting(&mut self, at: At) -> Result<(), Violation> {
        self.source_may_be_finished(at)?;
        self.target_may_be_closed(at)
    }

    /// An agent takes up the buffers of an earlier one.
    pub(super) fn adopt_buffers(
        &mut self,
        at: At,
        buffers: AdoptBuffers,
        run: RunState,
        surrendered: bool,
    ) -> Result<Result<(), Trouble>, Violation> {
        match buffers.with_guest(run, surrendered) {
            AdoptBuffers::None => Ok(Ok(())),
            AdoptBuffers::Abort => {
                self.end_reading(at);
                self.take_source(at, SourceBuffer::new(Stage::Stopped));
                Ok(Ok(()))
            }
            AdoptBuffers::Capture { tunnels } => self.resume_capture(at, &tunnels, surrendered),
            AdoptBuffers::Deliver { tunnels, activated } => self.resume_delivery(at, &tunnels, activated),
            AdoptBuffers::Delivered { tunnels } => self.resume_delivery(at, &tunnels, true).map(|_| Ok(())),
        }
    }

    pub(super) fn take_source(&mut self, at: At, source: SourceBuffer) {
        if let Some(slot) = self.slot(at) {
            slot.source = Some(source);
        }
    }

    pub(super) fn resume_capture(
        &mut self,
        at: At,
        tunnels: &[Endpoint],
        surrendered: bool,
    ) -> Result<Result<(), Trouble>, Violation> {
        if self.things(at).source_spool.is_none() {
            return Ok(Err(Trouble::failed(FaultKind::Internal, "there is no spool")));
        }
        let mut source = SourceBuffer::new(Stage::Capturing);
        (source.peer, source.committed) = (tunnels.first().cloned(), surrendered);
        self.take_source(at, source);
        self.keep_ring(at);
        if let Some(tap) = &mut self.things(at).tap {
            tap.open();
        }
        self.pump(at.host, at.vm)?;
        if !self.connect(at) && surrendered {
            self.again(at);
        }
        self.forward(at.host, at.vm);
        Ok(Ok(()))
    }

    pub(super) fn resume_delivery(
        &mut self,
        at: At,
        tunnels: &[Endpoint],
        activated: bool,
    ) -> Result<Result<(), Trouble>, Violation> {
        let Some(address) = tunnels.first().cloned() else {
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
