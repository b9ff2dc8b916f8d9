//! What a report means: (open order, outcome) → facts about the VM.

use transhume_model::{Endpoint, HostName, Millis, WallMicros};

use super::course::Course;
use super::{Illegal, JournalEntry, Migration, News, Now, Ready, TimerId, trouble};
use crate::event::Happening;
use crate::message::{Fault, FaultKind, OrderKind, Outcome, PageProgress, Refusal, Report};
use crate::step::{Meaning, OrderRow, Phase, Side};

/// Doublings of the pause before an order that failed is issued again.
const RETRY_DOUBLINGS_MAX: u32 = 16;

/// Failures in a row of a source to close its buffer, until its target's word is enough.
const CLOSE_FAILURES_MAX: u32 = 3;

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
            return Ok(self.ignore());
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
            (None, Outcome::Failed(fault)) => Ok(self.broke_by_itself(now, index, host, &fault, ready)),
            (None, _) => Err(self.illegal(Some(name), format!("{what} without an order"))),
            (Some(order), _) if !self.ids.was_given(order) => {
                Err(self.illegal(Some(name), format!("{what} to an order never given")))
            }
            (Some(_), Outcome::Progress(pages)) => Ok(self.progressed(index, pages, ready)),
            (Some(order), outcome) => {
                let Some(row) = vm.open.answered_by(order) else {
                    return Ok(self.ignore());
                };
                if vm.host(row.side) != host || !row.is_answered_by(&outcome) {
                    return Err(self.illegal(Some(name), format!("{what} in answer to {}", row.order)));
                }
                let (at, outcome) = self.by_our_clock(index, row.side, report.at, outcome);
                Ok(self.answered(now, index, row, at, outcome, ready))
            }
        }
    }

    /// Progress is news as long as the VM's memory is on its way, also after `Converged`.
    fn progressed(&mut self, index: usize, pages: PageProgress, ready: &mut Ready) -> News {
        let vm = &mut self.vms[index];
        if !vm.is_started(OrderKind::PreCopy) || self.course != Course::BeforeCommit {
            return self.ignore();
        }
        vm.so_far.pages = pages;
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
        row: &'static OrderRow,
        at: WallMicros,
        outcome: Outcome,
        ready: &mut Ready,
    ) -> News {
        let late = self.course == Course::RollingBack && row.order == OrderKind::AwaitLoaded;
        match outcome {
            // Only whether the VM is whole still matters.
            Outcome::Refused(_) | Outcome::Failed(_) if late => {
                self.vms[index].open.close(row.order);
                return self.ignore();
            }
            Outcome::Refused(refusal) => self.refused(now, index, row, refusal, ready),
            Outcome::Failed(fault) => self.failed(now, index, row, &fault, ready),
            Outcome::Lost(fault) => self.lost(now, index, row, fault, ready),
            outcome if row.meanwhile.contains(&outcome.kind()) => {
                self.vms[index].set_started(row.order);
                return News::OfVm(index);
            }
            outcome => {
                self.learn(index, outcome, at);
                self.done(now, index, row.order, ready);
            }
        }
        if !self.barrier_fell(row.order) {
            return News::OfVm(index);
        }
        self.set_deadline(now, ready);
        News::OfAll
    }

    /// Keeps what an answer carries.
    fn learn(&mut self, index: usize, outcome: Outcome, at: WallMicros) {
        let vm = &mut self.vms[index];
        match outcome {
            // An agent tells where to reach it, never whom to trust there.
            Outcome::Prepared { page_stream } => {
                let host = vm.target.clone();
                vm.page_stream = Some(Endpoint { host, ..page_stream });
            }
            Outcome::Converged(pages) => {
                vm.set_started(OrderKind::PreCopy);
                vm.so_far.pages = pages;
                vm.so_far.ready_at.get_or_insert(at);
            }
            Outcome::TargetBufferOpen { tunnels } => {
                let host = vm.target.clone();
                let of_target = |end| Endpoint {
                    host: host.clone(),
                    ..end
                };
                vm.tunnels = tunnels.into_iter().map(of_target).collect();
            }
            Outcome::Captured { times, guest } => {
                vm.so_far.capture = Some(times);
                vm.so_far.guest = guest;
            }
            Outcome::Copied { pages, times } => {
                vm.so_far.pages = pages;
                vm.so_far.copy = Some(times);
            }
            Outcome::Loaded { loaded_at } => {
                vm.so_far.loaded_at = Some(loaded_at);
                vm.whole = true;
            }
            Outcome::Activated(times) => vm.activation = Some(times),
            Outcome::SourceClosed(frames) => vm.source_frames = Some(frames),
            Outcome::TargetClosed(frames) => vm.target_frames = Some(frames),
            Outcome::Discarded { frames } => vm.source_frames = vm.source_frames.or(frames),
            Outcome::SourceRestored(frames) => {
                vm.source_frames = Some(frames);
                vm.restored_at = Some(at);
            }
            Outcome::Reserved
            | Outcome::SourceBufferOpen
            | Outcome::BuffersConnected
            | Outcome::CommitNoted
            | Outcome::TargetDropped => {}
            Outcome::Host(_)
            | Outcome::Paced
            | Outcome::HearsLink { .. }
            | Outcome::LinkTried(_)
            | Outcome::Started { .. }
            | Outcome::Stopped
            | Outcome::Destroyed
            | Outcome::PreCopying
            | Outcome::Progress(_)
            | Outcome::Lost(_)
            | Outcome::Refused(_)
            | Outcome::Failed(_) => {
                unreachable!("no row of the protocol is done by {}", outcome.name())
            }
        }
    }

    /// An order is carried out: what follows for the journal and the VM's phase.
    fn done(&mut self, now: Now, index: usize, order: OrderKind, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        vm.set_done(order);
        vm.failures = 0;
        let name = vm.name().clone();
        match order {
            OrderKind::StopAndCopy | OrderKind::AwaitLoaded => {
                let both = vm.is_done(OrderKind::StopAndCopy) && vm.is_done(OrderKind::AwaitLoaded);
                if both && self.course == Course::BeforeCommit {
                    self.enter_phase(index..index + 1, Phase::Commitment, now.wall, ready);
                }
            }
            OrderKind::OpenPlug => {
                vm.without_fin = true;
                ready.persist.push(JournalEntry::VmClosed {
                    vm: name,
                    at: now.wall,
                    source: vm.source_frames,
                    target: vm.target_frames,
                    without_fin: true,
                });
            }
            OrderKind::Activate => {
                vm.activated_at = Some(now.wall);
                if let Some(times) = vm.activation {
                    ready.persist.push(JournalEntry::VmActivated {
                        vm: name,
                        at: now.wall,
                        times,
                    });
                }
            }
            OrderKind::CloseSourceBuffer | OrderKind::CloseTargetBuffer => {
                if vm.is_closed() {
                    ready.persist.push(JournalEntry::VmClosed {
                        vm: name,
                        at: now.wall,
                        source: vm.source_frames,
                        target: vm.target_frames,
                        without_fin: false,
                    });
                }
            }
            OrderKind::Discard => {
                vm.over_at = Some(now.wall);
                ready.persist.push(JournalEntry::VmDiscarded {
                    vm: name,
                    at: now.wall,
                    source: vm.source_frames,
                });
            }
            OrderKind::AbortSource | OrderKind::Reclaim => {
                vm.over_at = Some(now.wall);
                ready.persist.push(JournalEntry::VmRestored {
                    vm: name,
                    at: now.wall,
                    restored_at: vm.restored_at,
                    source: vm.source_frames,
                });
            }
            OrderKind::Inspect
            | OrderKind::Pace
            | OrderKind::HearLink
            | OrderKind::TryLink
            | OrderKind::StartVm
            | OrderKind::StopVm
            | OrderKind::DestroyVm
            | OrderKind::Reserve
            | OrderKind::Prepare
            | OrderKind::PreCopy
            | OrderKind::OpenSourceBuffer
            | OrderKind::OpenTargetBuffer
            | OrderKind::ConnectBuffers
            | OrderKind::Capture
            | OrderKind::Commit
            | OrderKind::AbortTarget => {}
        }
    }

    fn refused(
        &mut self,
        now: Now,
        index: usize,
        row: &'static OrderRow,
        refusal: Refusal,
        ready: &mut Ready,
    ) {
        let vm = &self.vms[index];
        let host = vm.host(row.side).clone();
        let event = Happening::Refused {
            host: host.clone(),
            vm: vm.name().clone(),
            refusal: refusal.clone(),
        };
        if self.course == Course::BeforeCommit {
            ready.events.push(event);
            self.refused = true;
            let trouble = trouble::refused(self.step, &host, vm.name(), &refusal);
            return self.roll_back(now, trouble, ready);
        }
        match row.meaning_of(refusal.kind) {
            Some(Meaning::Done) => {
                ready.events.push(event);
                if row.order == OrderKind::OpenTargetBuffer {
                    // It holds no tunnel end that the source could connect to.
                    self.vms[index].set_done(OrderKind::ConnectBuffers);
                }
                self.done(now, index, row.order, ready);
            }
            Some(Meaning::Lost) => {
                ready.events.push(event);
                let fault = trouble::forgotten(&host, vm.name(), &refusal);
                self.lost(now, index, row, fault, ready);
            }
            None => self.back_off(now, index, row.order, refusal.reason, event, ready),
        }
    }

    fn failed(&mut self, now: Now, index: usize, row: &'static OrderRow, fault: &Fault, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        let host = vm.host(row.side).clone();
        let event = failure(&host, vm, fault);
        if self.course == Course::BeforeCommit {
            ready.events.push(event);
            let trouble = trouble::failed(self.step, &host, self.vms[index].name(), fault);
            return self.roll_back(now, trouble, ready);
        }
        let vm = &self.vms[index];
        let target_has_all = vm.is_done(OrderKind::CloseTargetBuffer) && vm.failures >= CLOSE_FAILURES_MAX;
        if row.order == OrderKind::CloseSourceBuffer && target_has_all {
            // It may be unable to say so to its source any more. What the source knows comes when
            // it is discarded.
            ready.events.push(event);
            return self.done(now, index, row.order, ready);
        }
        if row.order == OrderKind::CloseSourceBuffer && fault.kind == FaultKind::SpoolLost {
            // It answers, and will never send FIN: as good as lost.
            ready.events.push(event);
            return self.give_up(index, Side::Source, now, ready);
        }
        let vm = &mut self.vms[index];
        if fault.kind == FaultKind::Tunnel && self.course == Course::Committed {
            vm.part_buffers();
        }
        self.back_off(now, index, row.order, fault.reason.clone(), event, ready);
    }

    /// The decision stands, but this VM is gone: its source is discarded without closing buffers,
    /// for there is nobody to deliver to, unless it was never seen to run and somebody decides
    /// otherwise. The other VMs of the batch go on.
    fn lost(&mut self, now: Now, index: usize, row: &'static OrderRow, fault: Fault, ready: &mut Ready) {
        let vm = &mut self.vms[index];
        vm.set_done(row.order);
        vm.failures = 0;
        let host = vm.host(row.side).clone();
        self.lose(index, &host, fault, now, ready);
        self.ask_whether_reclaimed(index, now, ready);
    }

    /// Something broke by itself. Before commit it undoes the batch; after it, what broke is done
    /// again when the order that needs it says so, and a tunnel is connected anew at once; during
    /// roll-back it is what one expects when the other side is dropped first.
    fn broke_by_itself(
        &mut self,
        now: Now,
        index: usize,
        host: &HostName,
        fault: &Fault,
        ready: &mut Ready,
    ) -> News {
        let vm = &mut self.vms[index];
        match self.course {
            Course::RollingBack | Course::Over => self.ignore(),
            Course::Committed => {
                ready.events.push(failure(host, vm, fault));
                if fault.kind == FaultKind::Tunnel {
                    vm.part_buffers();
                }
                News::OfVm(index)
            }
            Course::BeforeCommit => {
                ready.events.push(failure(host, vm, fault));
                let trouble = trouble::failed(self.step, host, self.vms[index].name(), fault);
                self.roll_back(now, trouble, ready);
                News::OfVm(index)
            }
        }
    }

    /// The order is issued again after a pause that doubles. The event is shown once per reason.
    fn back_off(
        &mut self,
        now: Now,
        index: usize,
        order: OrderKind,
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
        if let Some(order) = vm.open.back_off(order, &reason, at) {
            let vm = vm.name().clone();
            ready.timers.push((at, TimerId::Again { vm, order }));
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
