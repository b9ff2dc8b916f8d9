//! Between a VM's machine and the world: its record, its reports, its timers, and the acts that
//! wait for their turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::task::block_in_place;
use transhume_agent_core::{Effect, Input, Machine, Pace, Ready, Signal, Ticket, Timer};
use transhume_model::{Millis, VmName};
use transhume_protocol::message::{GuestState, Order, Report, VmRole};
use transhume_qemu::Vm;

use super::Snapshot;
use super::holdings::Reach;
use crate::clock;
use crate::context::{Context, locked};
use crate::text::chain;

/// The machine, and what it waits for.
pub(super) struct Decisions {
    machine: Machine,
    context: Arc<Context>,
    reach: Reach,
    snapshot: Arc<Mutex<Snapshot>>,
    timers: BTreeMap<Timer, Millis>,
    acts: VecDeque<Effect>,
    /// Its QEMU, as of the last act.
    vm: Option<Vm>,
    /// What is said after the VM was struck out.
    last_reports: Vec<Report>,
}

impl Decisions {
    pub(super) fn new(
        machine: Machine,
        context: Arc<Context>,
        reach: Reach,
        snapshot: Arc<Mutex<Snapshot>>,
    ) -> Self {
        let mut decisions = Self {
            machine,
            context,
            reach,
            snapshot,
            timers: BTreeMap::new(),
            acts: VecDeque::new(),
            vm: None,
            last_reports: Vec::new(),
        };
        decisions.publish();
        decisions
    }

    /// Nothing of the VM is here any more.
    pub(super) fn is_over(&self) -> bool {
        self.machine.is_gone()
    }

    /// Whether an order is being carried out.
    pub(super) fn is_busy(&self) -> bool {
        self.machine.busy_with().is_some()
    }

    /// What is left to say, and the orders that nobody took.
    pub(super) fn into_last(self) -> (Vec<Report>, Vec<Order>) {
        (self.last_reports, self.machine.into_postponed())
    }

    /// Takes one input, and the orders whose time comes with it.
    pub(super) fn take(&mut self, input: Input) {
        let ready = self.machine.handle(clock::now(), input);
        self.proceed(ready);
        while !self.machine.is_gone()
            && let Some(ready) = self.machine.next(clock::now())
        {
            self.proceed(ready);
        }
    }

    /// Writes, then lets happen what may happen.
    pub(super) fn proceed(&mut self, ready: Ready) {
        let written = match ready.change() {
            Some(change) => {
                let name = self.machine.name();
                block_in_place(|| self.context.store.apply(name, change)).map_err(|error| chain(&error))
            }
            None => Ok(()),
        };
        if let Err(why) = &written {
            tracing::error!("its record cannot be written: {why}");
        }
        let after = self.machine.proceed(clock::now(), ready, written);
        self.publish();
        after.signals.into_iter().for_each(|signal| self.obey(signal));
        for report in after.reports {
            tracing::debug!(outcome = report.outcome.name(), "report");
            match self.machine.is_gone() {
                true => self.last_reports.push(report),
                false => self.context.reports.send(report),
            }
        }
        self.acts.extend(after.effects);
    }

    fn obey(&mut self, signal: Signal) {
        match signal {
            Signal::Timer { at, timer } => {
                self.timers.insert(timer, at);
            }
            Signal::Pace(Pace::Held) => self.reach.pace.hold(),
            Signal::Pace(Pace::Released) => self.reach.pace.release(),
            Signal::StopWaitingForSiblings => {
                if let Some(stream) = locked(&self.reach.stream).as_ref() {
                    stream.stop_waiting_for_siblings();
                }
            }
            Signal::CutPageStream => drop(locked(&self.reach.stream).take()),
            Signal::Interrupt(ticket) => self.reach.give_up(ticket),
        }
    }

    /// The act whose turn it is.
    pub(super) fn next_act(&mut self) -> Option<Effect> {
        self.acts.pop_front()
    }

    /// Whether this act is to be given up, if it can be.
    pub(super) fn is_given_up(&self, ticket: Ticket) -> bool {
        self.reach.is_given_up(ticket)
    }

    /// Waits for the first timer, and takes it away.
    pub(super) async fn due(&mut self) -> Timer {
        let Some((timer, at)) = self.timers.iter().min_by_key(|(_, at)| **at) else {
            return std::future::pending().await;
        };
        let timer = *timer;
        tokio::time::sleep_until(clock::instant(*at)).await;
        self.timers.remove(&timer);
        timer
    }

    /// An act is over, and may have made or ended its QEMU.
    pub(super) fn note_vm(&mut self, vm: Option<&Vm>) {
        self.vm = vm.cloned();
    }

    /// Brings up to date what the rest of the agent sees.
    fn publish(&mut self) {
        let state = self.machine.vm_state();
        let runs_at_home = state
            .as_ref()
            .is_some_and(|state| state.role == VmRole::Home && state.guest == GuestState::Running);
        *locked(&self.snapshot) = Snapshot {
            at_home: self.vm.clone().filter(|_| runs_at_home),
            stranded: self.machine.stranded_state(),
            has_qemu: self.vm.is_some(),
            state,
        };
    }

    pub(super) fn name(&self) -> &VmName {
        self.machine.name()
    }
}

#[cfg(test)]
mod tests;
