//! Page streams: source QEMU, both agents, target QEMU. A stream lives as long as both agents and
//! the network between them.

use transhume_agent_core::{Act, Input, Product, Trouble};
use transhume_model::Endpoint;
use transhume_protocol::message::FaultKind;

use super::acts::{Applied, DONE, failed, pages};
use super::{Stream, World};
use crate::check::Violation;
use crate::host::host_of;
use crate::host::qemu::Copying;
use crate::network::{At, Event, HostIx, MILLI, Micros, VmIx};

/// QEMU ends within this when the stream that it was to be filled from broke.
const TARGET_ENDS_MICROS_MAX: Micros = 50 * MILLI;

impl World {
    pub(super) fn open_stream(&mut self, at: At, target: &Endpoint) -> Applied {
        let host = host_of(target);
        let cut_off = self.hosts[host].partitioned || self.hosts[at.host].partitioned;
        let there = self.at(host, at.vm).filter(|_| !cut_off);
        let listens = |at: &At| {
            let slot = self.hosts[at.host].slot(at.vm);
            slot.is_some_and(|slot| slot.listener.as_ref() == Some(target) && slot.stream.is_none())
        };
        let Some(there) = there.filter(listens) else {
            return failed(FaultKind::PageStream, "the target's agent does not listen");
        };
        let id = self.number();
        self.streams[at.vm] = Some(Stream {
            id,
            source: at,
            target: there,
        });
        for end in [at, there] {
            if let Some(slot) = self.slot(end) {
                slot.stream = Some(id);
            }
        }
        DONE
    }

    /// All is across: the target holds what the source was.
    pub(super) fn stream_done(&mut self, vm: VmIx, id: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams[vm].as_ref().filter(|stream| stream.id == id) else {
            return Ok(());
        };
        let (source, target) = (stream.source, stream.target);
        let Some(from) = self.things(source).qemu.as_mut() else {
            return self.stream_breaks(vm);
        };
        if from.runs() || from.copying != Copying::PreSwitchover {
            return self.stream_breaks(vm);
        }
        let (seen, deaf, run) = (from.seen, from.deaf, from.stopped_as());
        let Some(to) = self.things(target).qemu.as_mut() else {
            return self.stream_breaks(vm);
        };
        (to.seen, to.deaf, to.loaded, to.run) = (seen, deaf, true, run);
        if let Some(from) = self.things(source).qemu.as_mut() {
            from.sent();
        }
        let pre_switchover_at = self.now_at(source.host).wall;
        let copied = Product::Copied {
            pages: pages(),
            pre_switchover_at,
        };
        self.answer_waiting(source, |act| matches!(act, Act::FinishCopy { .. }), Ok(copied))?;
        self.answer_waiting(
            target,
            |act| matches!(act, Act::AwaitLoaded),
            Ok(Product::Loaded { run }),
        )
    }

    pub(super) fn answer_waiting(
        &mut self,
        at: At,
        is: impl Fn(&Act) -> bool,
        result: Result<Product, Trouble>,
    ) -> Result<(), Violation> {
        match self.slot(at).and_then(|slot| slot.waiting(is)) {
            Some(ticket) => {
                let result = Box::new(result);
                self.network.after(1, Event::ActAnswers { at, ticket, result });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The stream ends before its time, whatever broke it. Both ends that live notice.
    pub(super) fn stream_breaks(&mut self, vm: VmIx) -> Result<(), Violation> {
        let Some(stream) = self.streams[vm].take() else {
            return Ok(());
        };
        if let Some(qemu) = &mut self.things(stream.source).qemu {
            qemu.cancel(Copying::Lost);
        }
        let loaded = match &self.things(stream.target).qemu {
            Some(qemu) if !qemu.loaded => {
                let (host, pid) = (stream.target.host, qemu.id.pid);
                let delay = self.random.between(MILLI, TARGET_ENDS_MICROS_MAX);
                self.network.after(delay, Event::QemuDies { host, vm, pid });
                false
            }
            Some(_) => true,
            None => false,
        };
        for end in [stream.source, stream.target] {
            let Some(slot) = self.slot(end) else { continue };
            slot.stream = None;
            let broken = || Trouble::failed(FaultKind::PageStream, "the page stream broke");
            let waits = |act: &Act| matches!(act, Act::FinishCopy { .. } | Act::AwaitLoaded);
            self.answer_waiting(end, waits, Err(broken()))?;
            if !loaded {
                let event = Event::StreamBroke { at: end };
                self.network.after(10, event);
            }
        }
        Ok(())
    }

    pub(super) fn stream_broke(&mut self, at: At) -> Result<(), Violation> {
        let why = "the simulation broke it".to_owned();
        self.feed(at, Input::PageStreamBroke { why })
    }

    /// Every stream that this host has an end of.
    pub(super) fn streams_break(&mut self, host: HostIx) -> Result<(), Violation> {
        for vm in 0..self.streams.len() {
            let ends = self.streams[vm].as_ref();
            if ends.is_some_and(|stream| stream.source.host == host || stream.target.host == host) {
                self.stream_breaks(vm)?;
            }
        }
        Ok(())
    }
}
