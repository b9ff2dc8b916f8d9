//! What the acts do to a simulated host.

use transhume_agent_core::{Act, CopyStatus, Flow, Looked, Product, RunState, SpawnFor, Trouble};
use transhume_model::{Bytes, Millis, ProcessId};
use transhume_protocol::message::{FaultKind, Mode, PageProgress, SourceFrames};

use super::World;
use crate::check::Violation;
use crate::host::qemu::{Copying, Qemu};
use crate::host::tap::Tap;
use crate::host::{Things, address};
use crate::network::{At, Event, HostIx, MILLI, Micros, VmIx};

/// A pass over a guest's memory.
const PASS_MICROS: Micros = 40 * MILLI;
/// Until a predicted blackout fits.
const CONVERGE_MICROS_MAX: Micros = 400 * MILLI;
/// Until a notice of QEMU reaches its agent.
const NOTICE_MICROS_MAX: Micros = 2 * MILLI;
/// A guest obeys its power button within this.
const POWER_DOWN_MICROS_MAX: Micros = 5_000 * MILLI;
/// Predicted blackouts, before and after.
const BLACKOUT: (Millis, Millis) = (Millis(900), Millis(50));

/// What an act made, at once; `None`: it waits for something.
pub(super) type Applied = Option<Result<Product, Trouble>>;

pub(super) fn failed(kind: FaultKind, why: &str) -> Applied {
    Some(Err(Trouble::failed(kind, why)))
}

pub(super) const DONE: Applied = Some(Ok(Product::Done));

impl World {
    pub(super) fn apply(&mut self, at: At, act: Act) -> Result<Applied, Violation> {
        Ok(match act {
            Act::Admit { spec, .. } => Some(Ok(Product::Admitted { spec })),
            Act::Spawn { purpose, .. } => self.spawn(at, purpose),
            Act::Adopt {
                process,
                buffers,
                surrendered,
                ..
            } => return self.adopt(at, &process, buffers, surrendered),
            Act::End => return self.end(at),
            Act::Cont => return self.cont(at),
            Act::Stop => return self.stop(at),
            Act::PowerDown => self.power_down(at),
            Act::OpenPageListener { .. } => self.listen(at),
            Act::OpenPageStream { target, .. } => self.open_stream(at, &target),
            Act::StartMigration => self.start_migration(at),
            Act::Look => self.look(at),
            Act::CatchUp => DONE,
            Act::FinishCopy { mode } => self.finish_copy(at, mode),
            Act::AwaitLoaded => self.await_loaded(at),
            Act::CancelMigration => self.cancel_migration(at),
            Act::OpenSourceBuffer { .. } => self.open_source_buffer(at),
            Act::ConnectSourceBuffer { tunnels } => return self.connect_source_buffer(at, &tunnels),
            Act::ProbeGuest => self.probe(at),
            Act::ShutSourceBuffer { as_is } => return self.shut_source_buffer(at, as_is),
            Act::Capture => return self.capture(at),
            Act::Surrender => self.surrender(at),
            Act::Reclaim { .. } => self.reclaim(at),
            Act::FinishSourceBuffer => return self.finish_source_buffer(at),
            Act::ShutForAbort => return self.shut_for_abort(at),
            Act::PutBack => return self.put_back(at),
            Act::OpenTargetBuffer { .. } => self.open_target_buffer(at),
            Act::RunArrived { .. } => return self.run_arrived(at),
            Act::ActivateBuffer { .. } => return self.activate_buffer(at),
            Act::OpenPlug => return self.open_plug(at),
            Act::FinishTargetBuffer => return self.finish_target_buffer(at),
        })
    }

    /// What an act that fails has done all the same: it leaves the most behind where it makes
    /// things.
    pub(super) fn half(&mut self, at: At, act: &Act) -> Result<(), Violation> {
        match act {
            Act::Spawn { purpose, .. } => {
                let things = self.things(at);
                if things.is_empty() {
                    things.tap = Some(Tap {
                        shut: *purpose == SpawnFor::Incoming,
                        ..Tap::default()
                    });
                }
            }
            Act::End => self.kill(at.host, at.vm)?,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn things(&mut self, at: At) -> &mut Things {
        &mut self.hosts[at.host].things[at.vm]
    }

    fn qemu(&mut self, at: At) -> Option<&mut Qemu> {
        self.things(at).qemu.as_mut()
    }

    fn spawn(&mut self, at: At, purpose: SpawnFor) -> Applied {
        let host = &mut self.hosts[at.host];
        let things = &mut host.things[at.vm];
        if things.qemu.is_some() || things.tap.is_some() {
            return failed(FaultKind::Network, "a tap of that name is in use");
        }
        host.pids += 1;
        let qemu = Qemu::new(host.pids, purpose);
        let process = qemu.id.clone();
        things.qemu = Some(qemu);
        things.tap = Some(Tap {
            shut: purpose == SpawnFor::Incoming,
            ..Tap::default()
        });
        Some(Ok(Product::Spawned { process }))
    }

    fn adopt(
        &mut self,
        at: At,
        process: &ProcessId,
        buffers: transhume_agent_core::AdoptBuffers,
        surrendered: bool,
    ) -> Result<Applied, Violation> {
        let run = match self.qemu(at) {
            Some(qemu) if qemu.id == *process => qemu.run,
            Some(_) | None if surrendered => RunState::PostMigrate,
            Some(_) | None => return Ok(Some(Ok(Product::Gone))),
        };
        let capture = matches!(buffers, transhume_agent_core::AdoptBuffers::Capture { .. });
        let things = self.things(at);
        if surrendered && capture && things.qemu.is_none() && things.source_spool.is_none() {
            return Ok(Some(Ok(Product::AdoptedWithoutSpool)));
        }
        if let Err(trouble) = self.adopt_buffers(at, buffers, run, surrendered)? {
            return Ok(Some(Err(trouble)));
        }
        Ok(Some(Ok(Product::Adopted { run })))
    }

    fn end(&mut self, at: At) -> Result<Applied, Violation> {
        self.stream_breaks(at.vm)?;
        let things = self.things(at);
        let source = things.source_spool.take().map(|spool| SourceFrames {
            captured: spool.kept.len() as u64,
            put_back: spool.put_back as u64,
            untaken: spool.untaken,
            ..SourceFrames::default()
        });
        things.target_spool = None;
        things.tap = None;
        self.kill(at.host, at.vm)?;
        if let Some(slot) = self.slot(at) {
            (slot.source, slot.target) = (None, None);
            (slot.listener, slot.stream) = (None, None);
            slot.account = slot.account.or(source);
        }
        let source = self.slot(at).and_then(|slot| slot.account);
        Ok(Some(Ok(Product::Ended { source })))
    }

    /// The process ends, by an act: whoever asked for it knows.
    fn kill(&mut self, host: HostIx, vm: VmIx) -> Result<(), Violation> {
        let there = self.hosts[host].things[vm].qemu.take().is_some();
        let guest = &self.guests[vm];
        let needed = !guest.is_off() && !guest.killed && (host == guest.target) == guest.committed;
        if there && needed && self.overheard.is_none() {
            return Err(Violation::EndedWrongly {
                vm: guest.name.clone(),
                host: self.hosts[host].name.clone(),
            });
        }
        Ok(())
    }

    fn cont(&mut self, at: At) -> Result<Applied, Violation> {
        let Some(qemu) = self.qemu(at) else {
            return Ok(failed(FaultKind::Qemu, "its QEMU is gone"));
        };
        if let Err(why) = qemu.cont() {
            return Ok(failed(FaultKind::Qemu, why));
        }
        self.is_busy();
        self.guests[at.vm].ran_on_target |= at.host == self.guests[at.vm].target;
        self.notice(at.host, at.vm);
        self.check_vm(at.vm)?;
        self.pump(at.host, at.vm)?;
        Ok(DONE)
    }

    fn stop(&mut self, at: At) -> Result<Applied, Violation> {
        self.is_busy();
        let Some(qemu) = self.qemu(at) else {
            return Ok(failed(FaultKind::Qemu, "its QEMU is gone"));
        };
        let thrown_away = qemu.stop();
        let run = qemu.run;
        self.throw_away(at, thrown_away);
        self.notice(at.host, at.vm);
        Ok(Some(Ok(Product::Stopped { run })))
    }

    /// QEMU throws away what it has read for a guest that did not take it. The account says so.
    pub(super) fn throw_away(&mut self, at: At, frame: Option<u64>) {
        let Some(frame) = frame else { return };
        self.guests[at.vm].untaken.insert(frame);
        if let Some(spool) = &mut self.things(at).source_spool {
            spool.untaken += 1;
        }
    }

    fn power_down(&mut self, at: At) -> Applied {
        let Some(qemu) = self.qemu(at) else {
            return failed(FaultKind::Qemu, "its QEMU is gone");
        };
        let (pid, obeys) = (qemu.id.pid, qemu.runs() && !qemu.deaf);
        if obeys {
            let delay = self.random.between(MILLI, POWER_DOWN_MICROS_MAX);
            let (host, vm) = (at.host, at.vm);
            self.network.after(delay, Event::PowersOff { host, vm, pid });
        }
        DONE
    }

    fn listen(&mut self, at: At) -> Applied {
        let here = address(self.hosts[at.host].name.clone(), at.host, at.vm, self.number());
        if let Some(slot) = self.slot(at) {
            slot.listener = Some(here.clone());
        }
        Some(Ok(Product::Listening { at: here }))
    }

    fn start_migration(&mut self, at: At) -> Applied {
        if self.slot(at).is_none_or(|slot| slot.stream.is_none()) {
            return failed(FaultKind::PageStream, "there is no page stream");
        }
        let begun = self.network.now;
        let fits = begun + self.random.between(2 * PASS_MICROS, CONVERGE_MICROS_MAX);
        match self.qemu(at) {
            Some(qemu) => {
                qemu.copying = Copying::Since { begun, fits };
                DONE
            }
            None => failed(FaultKind::Qemu, "its QEMU is gone"),
        }
    }

    fn look(&mut self, at: At) -> Applied {
        let now = self.network.now;
        let lag_within_limit = self.random.happens(700_000);
        let Some(qemu) = self.qemu(at) else {
            return failed(FaultKind::Qemu, "its QEMU is gone");
        };
        qemu.copy_on();
        let (status, since) = match qemu.copying {
            Copying::No => (CopyStatus::Idle, None),
            Copying::Since { begun, fits } => (CopyStatus::Active, Some((begun, fits))),
            Copying::PreSwitchover => (CopyStatus::PreSwitchover, None),
            Copying::Sent => (CopyStatus::Sent, None),
            Copying::Lost => {
                let why = "its stream broke".to_owned();
                (CopyStatus::Lost { why }, None)
            }
        };
        let (rounds, fits) = since.map_or((1, true), |(begun, fits)| {
            ((now - begun) / PASS_MICROS + 1, now >= fits)
        });
        let pages = PageProgress {
            rounds,
            blackout: if fits { BLACKOUT.1 } else { BLACKOUT.0 },
            ..pages()
        };
        Some(Ok(Product::Looked(Looked {
            status,
            run: qemu.run,
            pages,
            lag_within_limit,
            flow: Flow::default(),
        })))
    }

    fn finish_copy(&mut self, at: At, mode: Mode) -> Applied {
        let stream = self.slot(at).and_then(|slot| slot.stream);
        let Some(qemu) = self.qemu(at) else {
            return failed(FaultKind::Qemu, "its QEMU is gone");
        };
        let Some(stream) = stream else {
            return failed(FaultKind::PageStream, "there is no page stream");
        };
        if qemu.runs() {
            return failed(FaultKind::Qemu, "its guest runs");
        }
        let under_way = matches!(qemu.copying, Copying::Since { .. } | Copying::PreSwitchover);
        if mode == Mode::Live && !under_way {
            return failed(FaultKind::Qemu, "there is no migration to finish");
        }
        qemu.copying = Copying::PreSwitchover;
        qemu.finish_migrate();
        self.is_busy();
        let delay = self.random.between(MILLI, 30 * MILLI);
        let vm = at.vm;
        self.network.after(delay, Event::StreamDone { vm, stream });
        None
    }

    fn await_loaded(&mut self, at: At) -> Applied {
        let stream = self.slot(at).and_then(|slot| slot.stream);
        match self.qemu(at) {
            Some(qemu) if qemu.loaded => Some(Ok(Product::Loaded { run: qemu.run })),
            None => failed(FaultKind::Qemu, "its QEMU is gone"),
            Some(_) if stream.is_none() => failed(FaultKind::PageStream, "there is no page stream"),
            Some(_) => None,
        }
    }

    fn cancel_migration(&mut self, at: At) -> Applied {
        match self.qemu(at) {
            Some(qemu) => {
                qemu.cancel(Copying::No);
                Some(Ok(Product::Cancelled { run: qemu.run }))
            }
            None => failed(FaultKind::Qemu, "its QEMU is gone"),
        }
    }

    fn probe(&mut self, at: At) -> Applied {
        match self.qemu(at) {
            Some(qemu) => Some(Ok(Product::Takes(qemu.runs() && !qemu.deaf))),
            None => failed(FaultKind::Qemu, "its QEMU is gone"),
        }
    }

    fn run_arrived(&mut self, at: At) -> Result<Applied, Violation> {
        match self.qemu(at) {
            None => Ok(failed(FaultKind::Qemu, "its QEMU is gone")),
            Some(qemu) if !qemu.loaded => Ok(failed(FaultKind::Qemu, "it is not loaded")),
            Some(_) => self.cont(at),
        }
    }

    /// QEMU says that something about its run state changed.
    pub(super) fn notice(&mut self, host: HostIx, vm: VmIx) {
        self.notice_within(host, vm, NOTICE_MICROS_MAX);
    }

    pub(super) fn notice_within(&mut self, host: HostIx, vm: VmIx, micros_max: Micros) {
        let Some(qemu) = &self.hosts[host].things[vm].qemu else {
            return;
        };
        let pid = qemu.id.pid;
        let delay = self.random.between(10, micros_max);
        self.network.after(delay, Event::QemuSays { host, vm, pid });
    }

    pub(super) fn qemu_says(&mut self, host: HostIx, vm: VmIx, pid: u32) -> Result<(), Violation> {
        use transhume_agent_core::Input;
        let Some(at) = self.at(host, vm) else {
            return Ok(());
        };
        let (run, powered_off) = match &self.hosts[host].things[vm].qemu {
            Some(qemu) if qemu.id.pid == pid => (qemu.run, qemu.has_shut_down()),
            Some(_) | None => return Ok(()),
        };
        // An event of its own (`SHUTDOWN`): a migration that stops QEMU right behind hides nothing.
        if powered_off {
            self.feed(at, Input::PoweredOff)?;
        }
        self.feed(at, Input::RunState(run))
    }
}

pub(super) fn pages() -> PageProgress {
    let total = Bytes(96 << 20);
    PageProgress {
        total,
        transferred: total,
        wire: total,
        rounds: 1,
        ..PageProgress::default()
    }
}
