//! What the machine knows of one VM: what is done, what is asked, what was measured.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use transhume_model::{HostName, Millis, OrderId, VmName, VmSpec, WallMicros};

use super::journal::VmSoFar;
use super::request::{MoveRequest, MoveVm};
use super::verb::{Side, Verb};
use crate::message::{
    ActivationTimes, CaptureTimes, Command, CopyTimes, PageProgress, SourceFrames, TargetFrames,
};
use crate::step::Phase;

/// Ids of an order's latest attempts: an answer to any of them counts.
const ATTEMPTS_REMEMBERED_MAX: usize = 8;

/// An order that is not answered yet.
#[derive(Debug)]
pub(super) struct Asked {
    ids: Vec<OrderId>,
    pub(super) state: AskedState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedState {
    /// On its way or being carried out; given again at the instant, if there is one.
    Waiting { again_at: Option<Millis> },
    /// It failed; given again at the instant.
    Resting { again_at: Millis },
    /// Its host is lost; given again when it is back.
    Held,
}

/// One VM of the move.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) spec: VmSpec,
    pub(super) source: HostName,
    pub(super) target: HostName,
    /// From 0.
    pub(super) batch: usize,
    done: BTreeSet<Verb>,
    asked: BTreeMap<Verb, Asked>,
    /// Sides that got an order: these need an order to abort.
    pub(super) source_touched: bool,
    pub(super) target_touched: bool,
    /// Failures of the current orders in a row, for the pause before the next attempt.
    pub(super) failures: u32,
    /// What the last event about a failure said, so that it is said once.
    pub(super) last_failure: Option<String>,
    pub(super) streaming: bool,
    pub(super) page_stream: Option<SocketAddr>,
    pub(super) tunnels: Vec<SocketAddr>,
    pub(super) committed: bool,
    pub(super) pages: PageProgress,
    pub(super) capture: Option<CaptureTimes>,
    pub(super) copy: Option<CopyTimes>,
    pub(super) loaded_at: Option<WallMicros>,
    pub(super) activation: Option<ActivationTimes>,
    pub(super) source_frames: Option<SourceFrames>,
    pub(super) target_frames: Option<TargetFrames>,
    /// By the source's clock; only after an abort.
    pub(super) restored_at: Option<WallMicros>,
    /// By the coordinator's clock, in order.
    pub(super) entered: Vec<(Phase, WallMicros)>,
    /// When its move was over.
    pub(super) over_at: Option<WallMicros>,
}

impl Vm {
    pub(super) fn new(vm: &MoveVm, batch: usize) -> Self {
        Vm {
            spec: vm.spec.clone(),
            source: vm.source.clone(),
            target: vm.target.clone(),
            batch,
            done: BTreeSet::new(),
            asked: BTreeMap::new(),
            source_touched: false,
            target_touched: false,
            failures: 0,
            last_failure: None,
            streaming: false,
            page_stream: None,
            tunnels: Vec::new(),
            committed: false,
            pages: PageProgress::default(),
            capture: None,
            copy: None,
            loaded_at: None,
            activation: None,
            source_frames: None,
            target_frames: None,
            restored_at: None,
            entered: Vec::new(),
            over_at: None,
        }
    }

    pub(super) fn name(&self) -> &VmName {
        &self.spec.name
    }

    pub(super) fn host(&self, side: Side) -> &HostName {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    pub(super) fn is_on(&self, host: &HostName) -> bool {
        self.source == *host || self.target == *host
    }

    pub(super) fn is_done(&self, verb: Verb) -> bool {
        self.done.contains(&verb)
    }

    /// Answered: nothing more is expected for this order.
    pub(super) fn set_done(&mut self, verb: Verb) {
        self.done.insert(verb);
        self.asked.remove(&verb);
    }

    /// The buffers must be connected anew before they can be closed: one of the two agents may have restarted.
    pub(super) fn part_buffers(&mut self) {
        if self.is_done(Verb::CloseSourceBuffer) {
            return;
        }
        for verb in [Verb::OpenTargetBuffer, Verb::ConnectBuffers] {
            self.done.remove(&verb);
            self.asked.remove(&verb);
        }
    }

    /// Whether both buffers are closed.
    pub(super) fn is_closed(&self) -> bool {
        self.is_done(Verb::CloseSourceBuffer) && self.is_done(Verb::CloseTargetBuffer)
    }

    /// Whether every side that got an order is undone.
    pub(super) fn is_undone(&self) -> bool {
        (!self.source_touched || self.is_done(Verb::AbortSource))
            && (!self.target_touched || self.is_done(Verb::AbortTarget))
    }

    /// The order that a report answers, if it is still open.
    pub(super) fn asked_as(&self, order: OrderId) -> Option<Verb> {
        let mut asked = self.asked.iter();
        asked
            .find(|(_, asked)| asked.ids.contains(&order))
            .map(|(verb, _)| *verb)
    }

    pub(super) fn asked(&self, verb: Verb) -> Option<AskedState> {
        self.asked.get(&verb).map(|asked| asked.state)
    }

    /// Notes that an order leaves under this id.
    pub(super) fn ask(&mut self, verb: Verb, order: OrderId, again_at: Option<Millis>) {
        match verb.side() {
            Side::Source => self.source_touched = true,
            Side::Target => self.target_touched = true,
        }
        let state = AskedState::Waiting { again_at };
        let asked = self.asked.entry(verb).or_insert(Asked {
            ids: Vec::new(),
            state,
        });
        if asked.ids.len() == ATTEMPTS_REMEMBERED_MAX {
            asked.ids.remove(0);
        }
        asked.ids.push(order);
        asked.state = state;
    }

    /// The order failed and rests until the instant; `None` if it is not wanted any more.
    pub(super) fn rest(&mut self, verb: Verb, again_at: Millis) -> Option<OrderId> {
        let asked = self.asked.get_mut(&verb)?;
        asked.state = AskedState::Resting { again_at };
        asked.ids.last().copied()
    }

    /// If `order` is the latest attempt of an open order and it is time to give it again, lets it be given again.
    pub(super) fn give_again(&mut self, order: OrderId, now: Millis) -> bool {
        let mut open = self.asked.values_mut();
        let Some(asked) = open.find(|asked| asked.ids.last() == Some(&order)) else {
            return false;
        };
        let due = match asked.state {
            AskedState::Waiting { again_at } => again_at.is_some_and(|at| at <= now),
            AskedState::Resting { again_at } => again_at <= now,
            AskedState::Held => false,
        };
        if due {
            asked.state = AskedState::Held;
        }
        due
    }

    /// Orders to this host may have been lost with its connection.
    pub(super) fn hold_orders_to(&mut self, host: &HostName) {
        let lost = [
            (Side::Source, self.source == *host),
            (Side::Target, self.target == *host),
        ];
        for (verb, asked) in &mut self.asked {
            if lost.iter().any(|(side, lost)| *lost && *side == verb.side()) {
                asked.state = AskedState::Held;
            }
        }
    }

    /// Nothing that was asked matters any more.
    pub(super) fn forget_orders(&mut self) {
        self.asked.clear();
    }

    /// The order in full.
    pub(super) fn command(&self, verb: Verb, request: &MoveRequest) -> Command {
        let vm = self.name().clone();
        match verb {
            Verb::Reserve => Command::Reserve {
                migration: request.migration,
                spec: self.spec.clone(),
                powered_off: false,
            },
            Verb::Prepare => Command::Prepare { vm },
            Verb::PreCopy => Command::PreCopy {
                migration: request.migration,
                vm,
                page_stream: self.page_stream.expect("pre-copy is wanted only after Prepared"),
                mode: request.mode,
                blackout_max: request.limits.blackout_ms_max,
            },
            Verb::OpenSourceBuffer => Command::OpenSourceBuffer { vm },
            Verb::OpenTargetBuffer => Command::OpenTargetBuffer { vm },
            Verb::ConnectBuffers => Command::ConnectBuffers {
                vm,
                tunnels: self.tunnels.clone(),
            },
            Verb::Capture => Command::Capture { vm },
            Verb::StopAndCopy => Command::StopAndCopy { vm },
            Verb::AwaitLoaded => Command::AwaitLoaded { vm },
            Verb::Activate => Command::Activate { vm, run: true },
            Verb::Commit => Command::Commit { vm },
            Verb::CloseSourceBuffer => Command::CloseSourceBuffer { vm },
            Verb::CloseTargetBuffer => Command::CloseTargetBuffer { vm },
            Verb::Discard => Command::Discard { vm },
            Verb::AbortSource => Command::AbortSource { vm },
            Verb::AbortTarget => Command::AbortTarget { vm },
        }
    }

    /// Notes that it enters a phase; false if it is there already.
    pub(super) fn enter(&mut self, phase: Phase, at: WallMicros) -> bool {
        let new = self.entered.last().is_none_or(|(last, _)| *last < phase);
        if new {
            self.entered.push((phase, at));
        }
        new
    }

    /// What the journal keeps of it at a decision.
    pub(super) fn so_far(&self) -> VmSoFar {
        VmSoFar {
            vm: self.name().clone(),
            capture: self.capture,
            copy: self.copy,
            loaded_at: self.loaded_at,
            pages: self.pages,
            entered: self.entered.clone(),
        }
    }

    /// The same, read back.
    pub(super) fn restore(&mut self, so_far: &VmSoFar) {
        self.capture = so_far.capture;
        self.copy = so_far.copy;
        self.loaded_at = so_far.loaded_at;
        self.pages = so_far.pages;
        self.entered.clone_from(&so_far.entered);
    }
}
