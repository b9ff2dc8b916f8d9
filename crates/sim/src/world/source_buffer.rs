//! A source's buffer: capture, the way back, marker and FIN (design §3).

use transhume_agent_core::{Act, Product};
use transhume_model::Endpoint;
use transhume_protocol::message::{FaultKind, OldPath, SourceFrames};

use super::World;
use super::acts::{Applied, DONE, failed};
use crate::check::Violation;
use crate::host::tap::SourceSpool;
use crate::host::{SourceBuffer, Stage};
use crate::network::{At, Event, HostIx, Micros, PATH_MICROS_MAX, SECOND, VmIx};

/// Without a marker the source waits this long; longer than any frame is under way.
const LINGER_MICROS: Micros = 2 * SECOND;

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

    pub(super) fn connect_source_buffer(
        &mut self,
        at: At,
        tunnels: &[Endpoint],
    ) -> Result<Applied, Violation> {
        let (Some(peer), Some(slot)) = (tunnels.first().cloned(), self.slot(at)) else {
            return Ok(failed(FaultKind::Tunnel, "there is no end to connect to"));
        };
        let Some(source) = &mut slot.source else {
            return Ok(failed(FaultKind::Internal, "it has no buffer"));
        };
        if source.peer.as_ref() == Some(&peer) && source.tunnel.is_some() {
            return Ok(DONE);
        }
        source.peer = Some(peer);
        if !self.connect(at) {
            return Ok(failed(FaultKind::Tunnel, "the target's buffer cannot be reached"));
        }
        self.forward(at.host, at.vm);
        Ok(DONE)
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
        // What a healthy guest leaves in its ring it has no time to leave: it took all. Any other
        // is taken as it is.
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
    pub(super) fn keep_ring(&mut self, at: At) {
        let things = self.things(at);
        if let (Some(tap), Some(spool)) = (&mut things.tap, &mut things.source_spool) {
            spool.kept.extend(tap.ring.drain(..));
            spool.reads = true;
        }
    }

    /// The way back begins: frames wait in front of the plug, what was read is kept to the last.
    pub(super) fn end_reading(&mut self, at: At) {
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

    /// The fabric learns that it is here again; what it sent elsewhere meanwhile went there.
    pub(super) fn reclaim(&mut self, at: At) -> Applied {
        if self.things(at).qemu.is_none() {
            return Some(Ok(Product::Gone));
        }
        let (vm, host) = (at.vm, at.host);
        let delay = self.random.between(10, PATH_MICROS_MAX);
        self.network.after(delay, Event::Learned { vm, host });
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

    pub(super) fn source_may_be_finished(&mut self, at: At) -> Result<(), Violation> {
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
}
