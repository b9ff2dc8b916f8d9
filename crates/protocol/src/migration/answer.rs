//! What a report means: (open order, outcome) → facts about the VM.

use transhume_model::{HostName, Millis, WallMicros};

use super::stage::Stage;
use super::verb::Verb;
use super::{Illegal, JournalEntry, Migration, News, Now, Ready, TimerId, trouble};
use crate::event::Happening;
use crate::message::{Fault, FaultKind, Outcome, PageProgress, Refusal, RefusalKind, Report};
use crate::step::Phase;

/// Doublings of the pause before an order that failed is given again.
const RETRY_DOUBLINGS_MAX: u32 = 16;

impl Migration {
    /// Which VM a report is news about, if it is news.
    pub(super) fn report_came(
        &mut self,
        now: Now,
        host: &HostName,
        report: Report,
        ready: &mut Ready,
    ) -> Result<News, Illegal> {
        let what = format!("{} from host {host}", report.outcome.name());
        let Some(name) = report.vm.as_ref() else {
            return Err(self.illegal(None, format!("{what}, about no VM,")));
        };
        let Some(&index) = self.places.get(name) else {
            return Err(self.illegal(Some(name), format!("{what}, about a VM outside the move,")));
        };
        if report.epoch < self.epoch {
            return Ok(self.old_news());
        }
        let vm = &self.vms[index];
        if report.epoch > self.epoch {
            return Err(self.illegal(
                Some(name),
                format!("{what} with the unknown epoch {}", report.epoch),
            ));
        }
        if vm.batch != self.batch || !vm.is_on(host) {
            return Err(self.illegal(Some(name), format!("{what}, which has no part in this,")));
        }
        match (report.order, report.outcome) {
            (None, Outcome::Failed(fault)) => Ok(self.spoke_up(now, index, host, &fault, ready)),
            (None, _) => Err(self.illegal(Some(name), format!("{what} without an order"))),
            (Some(order), _) if !self.ids.was_given(order) => {
                Err(self.illegal(Some(name), format!("{what} to an order never given")))
            }
            (Some(_), Outcome::Progress(pages)) => Ok(self.progressed(index, pages, ready)),
            (Some(order), outcome) => {
                let Some(verb) = vm.asked_as(order) else {
                    return Ok(self.old_news());
                };
                if vm.host(verb.side()) != host || !verb.is_answered_by(&outcome) {
                    return Err(self.illegal(Some(name), format!("{what} in answer to {verb:?}")));
                }
                self.answered(now, index, verb, report.at, outcome, ready);
                Ok(News::OfVm(index))
            }
        }
    }

    /// Progress is news as long as the VM's memory is on its way, also after `Converged`.
    fn progressed(&mut self, index: usize, pages: PageProgress, ready: &mut Ready) -> News {
        let vm = &mut self.vms[index];
        if !vm.streaming || !self.stage.is_before_commit() {
            return self.old_news();
        }
        vm.pages = pages;
        ready.events.push(Happening::Progress {
            vm: vm.name().clone(),
            pages,
        });
        News::Nothing
    }

    fn answered(
        &mut self,
        now: Now,
        index: usize,
        verb: Verb,
        at: WallMicros,
        outcome: Outcome,
        ready: &mut Ready,
    ) {
        match outcome {
            Outcome::Refused(refusal) => self.refused(now, index, verb, refusal, ready),
            Outcome::Failed(fault) => self.failed(now, index, verb, &fault, ready),
            Outcome::PreCopying => self.vms[index].streaming = true,
            outcome => {
                self.learn(index, outcome, at);
                self.done(now, index, verb, ready);
            }
        }
    }

    /// Keeps what an answer carries.
    fn learn(&mut self, index: usize, outcome: Outcome, at: WallMicros) {
        let vm = &mut self.vms[index];
        match outcome {
            Outcome::Prepared { page_stream } => vm.page_stream = Some(page_stream),
            Outcome::Converged(pages) => {
                vm.streaming = true;
                vm.pages = pages;
            }
            Outcome::TargetBufferOpen { tunnels } => vm.tunnels = tunnels,
            Outcome::Captured { times, .. } => vm.capture = Some(times),
            Outcome::Copied { pages, times } => {
                vm.pages = pages;
                vm.copy = Some(times);
            }
            Outcome::Loaded { loaded_at } => vm.loaded_at = Some(loaded_at),
            Outcome::Activated(times) => vm.activation = Some(times),
            Outcome::SourceClosed(frames) => vm.source_frames = Some(frames),
            Outcome::TargetClosed(frames) => vm.target_frames = Some(frames),
            Outcome::SourceRestored(frames) => {
                vm.source_frames = Some(frames);
                vm.restored_at = Some(at);
            }
            Outcome::Reserved
            | Outcome::SourceBufferOpen
            | Outcome::BuffersConnected
            | Outcome::CommitNoted
            | Outcome::Discarded { .. }
            | Outcome::Stopped
            | Outcome::Lost(_)
            | Outcome::TargetDropped => {}
            Outcome::Host(_)
            | Outcome::Started { .. }
            | Outcome::Destroyed
            | Outcome::PreCopying
            | Outcome::Progress(_)
            | Outcome::Refused(_)
            | Outcome::Failed(_) => {
                unreachable!("told apart before: this is no answer that completes an order")
            }
        }
    }

    /// An order is carried out: what follows for the journal and the VM's phase.
    fn done(&mut self, now: Now, index: usize, verb: Verb, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        vm.set_done(verb);
        vm.failures = 0;
        let name = vm.name().clone();
        match verb {
            Verb::StopAndCopy | Verb::AwaitLoaded => {
                if vm.is_done(Verb::StopAndCopy) && vm.is_done(Verb::AwaitLoaded) {
                    self.enter_phase(index..index + 1, Phase::Commitment, now.wall, ready);
                }
            }
            Verb::Activate => {
                if let Some(times) = vm.activation {
                    ready.persist.push(JournalEntry::VmActivated {
                        vm: name,
                        at: now.wall,
                        times,
                    });
                }
            }
            Verb::CloseSourceBuffer | Verb::CloseTargetBuffer => {
                if vm.is_closed() {
                    ready.persist.push(JournalEntry::VmClosed {
                        vm: name,
                        at: now.wall,
                        source: vm.source_frames,
                        target: vm.target_frames,
                    });
                }
            }
            Verb::Discard => {
                vm.over_at = Some(now.wall);
                ready.persist.push(JournalEntry::VmDiscarded {
                    vm: name,
                    at: now.wall,
                });
            }
            Verb::AbortSource => {
                vm.over_at = Some(now.wall);
                ready.persist.push(JournalEntry::VmRestored {
                    vm: name,
                    at: now.wall,
                    restored_at: vm.restored_at,
                    source: vm.source_frames,
                });
            }
            Verb::Reserve
            | Verb::Prepare
            | Verb::PreCopy
            | Verb::OpenSourceBuffer
            | Verb::OpenTargetBuffer
            | Verb::ConnectBuffers
            | Verb::Capture
            | Verb::Commit
            | Verb::AbortTarget => {}
        }
    }

    fn refused(&mut self, now: Now, index: usize, verb: Verb, refusal: Refusal, ready: &mut Ready) {
        let vm = &self.vms[index];
        let host = vm.host(verb.side()).clone();
        let event = Happening::Refused {
            host: host.clone(),
            vm: vm.name().clone(),
            refusal: refusal.clone(),
        };
        if self.stage.is_before_commit() {
            ready.events.push(event);
            self.refused = true;
            let trouble = trouble::refused(self.step, &host, vm.name(), &refusal);
            return self.roll_back(now, trouble, ready);
        }
        if self.refusal_settles(verb, refusal.kind) {
            ready.events.push(event);
            if verb == Verb::OpenTargetBuffer {
                self.vms[index].set_done(Verb::ConnectBuffers);
            }
            return self.done(now, index, verb, ready);
        }
        self.rest(now, index, verb, refusal.reason, event, ready);
    }

    /// After the decision an agent's "no" is as good as a "done" where nothing is left to do: the VM that an order
    /// would end is not there, an abort finds that a newer epoch has taken the VM over, or the agent has no broken
    /// tunnel to connect anew.
    fn refusal_settles(&self, verb: Verb, kind: RefusalKind) -> bool {
        match kind {
            RefusalKind::UnknownVm => verb.needs_nothing_of_an_absent_vm(),
            RefusalKind::StaleEpoch => self.stage == Stage::RollBack,
            RefusalKind::WrongState => matches!(verb, Verb::OpenTargetBuffer | Verb::ConnectBuffers),
            RefusalKind::AlreadyHere
            | RefusalKind::NoCapacity
            | RefusalKind::Qemu
            | RefusalKind::MachineType
            | RefusalKind::Mtu
            | RefusalKind::Disk
            | RefusalKind::AddressInUse
            | RefusalKind::BootFile
            | RefusalKind::Stranded
            | RefusalKind::PoweredOff => false,
        }
    }

    fn failed(&mut self, now: Now, index: usize, verb: Verb, fault: &Fault, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        let host = vm.host(verb.side()).clone();
        let event = failure(&host, vm, fault);
        if self.stage.is_before_commit() {
            ready.events.push(event);
            let trouble = trouble::failed(self.step, &host, self.vms[index].name(), fault);
            return self.roll_back(now, trouble, ready);
        }
        if fault.kind == FaultKind::Tunnel && self.stage == Stage::RollForward {
            vm.part_buffers();
        }
        self.rest(now, index, verb, fault.reason.clone(), event, ready);
    }

    /// Something broke by itself. Before commit it undoes the batch; after it, what broke is done again when the
    /// order that needs it says so, and a tunnel is connected anew at once; during roll-back it is what one expects
    /// when the other side is dropped first.
    fn spoke_up(
        &mut self,
        now: Now,
        index: usize,
        host: &HostName,
        fault: &Fault,
        ready: &mut Ready,
    ) -> News {
        let vm = &mut self.vms[index];
        match self.stage {
            Stage::RollBack | Stage::Over => self.old_news(),
            Stage::RollForward => {
                ready.events.push(failure(host, vm, fault));
                if fault.kind == FaultKind::Tunnel {
                    vm.part_buffers();
                }
                News::OfVm(index)
            }
            Stage::Reserve
            | Stage::Prepare
            | Stage::StartPreCopy
            | Stage::SourceBuffers
            | Stage::TargetBuffers
            | Stage::Capture
            | Stage::StopAndCopy => {
                ready.events.push(failure(host, vm, fault));
                let trouble = trouble::failed(self.step, host, self.vms[index].name(), fault);
                self.roll_back(now, trouble, ready);
                News::OfVm(index)
            }
        }
    }

    /// The order is given again after a pause that doubles. The event is shown once per reason.
    fn rest(
        &mut self,
        now: Now,
        index: usize,
        verb: Verb,
        reason: String,
        event: Happening,
        ready: &mut Ready,
    ) {
        let limits = &self.request.limits;
        let vm = &mut self.vms[index];
        let doubled = limits
            .retry_ms
            .0
            .saturating_mul(1 << vm.failures.min(RETRY_DOUBLINGS_MAX));
        let at = now.mono + Millis(doubled).min(limits.retry_ms_max);
        vm.failures = vm.failures.saturating_add(1);
        if let Some(order) = vm.rest(verb, at) {
            ready.timers.push((
                at,
                TimerId::Again {
                    vm: vm.name().clone(),
                    order,
                },
            ));
        }
        if vm.last_failure.as_ref() != Some(&reason) {
            vm.last_failure = Some(reason);
            ready.events.push(event);
        }
    }
}

fn failure(host: &HostName, vm: &super::vm::Vm, fault: &Fault) -> Happening {
    Happening::Failed {
        host: Some(host.clone()),
        vm: Some(vm.name().clone()),
        fault: fault.clone(),
    }
}
