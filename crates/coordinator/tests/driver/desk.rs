//! What surrounds the machines in an agent, on paper: records, acts that are carried out or wait,
//! timers, and the clock. Everything that is decided, is decided by the machine that ships.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use transhume_agent_core::{
    Act, Change, Effect, Input, Machine, Ready, Record, Signal, Ticket, Timer, Trouble, absent, admit,
};
use transhume_model::{Bytes, Capacity, Epoch, Millis, OrderId, VmName, WallMicros};
use transhume_protocol::message::{
    Command, FaultKind, Hello, HostState, Leader, LinkFigures, Order, Outcome, Refusal, Report,
};
use transhume_protocol::migration::Now;

use super::fake::Fate;
use super::paper::{At, Made, Paper};

/// A link of an agent's, whose rate the port of the other end tells.
const LINK: LinkFigures = LinkFigures {
    bytes: Bytes(0),
    sent_us: 2_000_000,
    round_trip_us: 90,
    round_trip_us_max: 400,
    source_cpu_us: 300_000,
    target_cpu_us: 200_000,
    target_limited_us: 0,
    encrypted: false,
};
/// An act that waits gives up after this.
const ACT_MS_MAX: Millis = Millis(30_000);

/// One VM in the agent's memory.
#[derive(Debug)]
struct Slot {
    machine: Machine,
    /// Acts that wait for another host, and until when.
    waiting: Vec<(Millis, Effect)>,
    timers: Vec<(Millis, Timer)>,
}

/// An agent and what outlives it and its connections.
#[derive(Debug)]
pub struct Desk {
    pub state: HostState,
    pub fates: BTreeMap<&'static str, Fate>,
    /// Every order but questions, in the order of arrival.
    pub orders: Vec<Order>,
    /// Whom it obeys.
    pub leader: Option<Leader>,
    /// What nobody was told yet.
    pub reports: Vec<Report>,
    /// How far the host's clock is ahead.
    pub clock_ahead_us: i64,
    /// Acts so far.
    pub acts: usize,
    /// The act after so many is done and fails all the same.
    pub failing: Option<usize>,
    /// A QEMU that is started does not come up.
    pub holding: bool,
    slots: BTreeMap<VmName, Slot>,
    records: BTreeMap<VmName, Record>,
    paper: Arc<Mutex<Paper>>,
    /// VMs whose QEMU ends as soon as something is done to it.
    dying: Vec<VmName>,
    /// `None` while time stands still.
    begun: Option<Instant>,
    /// Time that did not have to be waited for.
    passed: Millis,
}

impl Desk {
    /// Why a coordinator is not obeyed.
    pub fn admits(&mut self, hello: &Hello) -> Option<Refusal> {
        match admit(&self.state.host, self.leader.as_ref(), hello) {
            Ok(newer) => {
                self.leader = newer.or(self.leader.take());
                None
            }
            Err(refusal) => Some(refusal),
        }
    }

    pub fn new(state: HostState, paper: Arc<Mutex<Paper>>) -> Self {
        Self {
            state,
            fates: BTreeMap::new(),
            orders: Vec::new(),
            leader: None,
            reports: Vec::new(),
            clock_ahead_us: 0,
            acts: 0,
            failing: None,
            holding: false,
            slots: BTreeMap::new(),
            records: BTreeMap::new(),
            paper,
            dying: Vec::new(),
            begun: Some(Instant::now()),
            passed: Millis(0),
        }
    }

    pub fn now(&self) -> Now {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let waited = self.begun.map_or(0, |begun| begun.elapsed().as_millis() as u64);
        Now {
            mono: Millis(waited) + self.passed,
            wall: WallMicros((since_1970.as_micros() as u64).strict_add_signed(self.clock_ahead_us)),
        }
    }

    fn at(&self, vm: &VmName) -> At {
        (self.state.host.clone(), vm.clone())
    }

    /// VMs of which anything is here, and whether they run.
    pub fn vms(&self) -> BTreeMap<VmName, bool> {
        let recorded = self.records.keys().map(|vm| (vm.clone(), false));
        let mut vms: BTreeMap<_, _> = recorded.collect();
        let paper = self.paper.lock().unwrap();
        vms.extend(paper.on(&self.state.host).map(|(vm, runs)| (vm.clone(), runs)));
        vms
    }

    /// Message B, with those dirty rates that are asked for and known.
    pub fn host_state(&self, asked: Option<&Command>) -> HostState {
        let machines = || self.slots.values().map(|slot| &slot.machine);
        let vms: Vec<_> = machines().filter_map(Machine::vm_state).collect();
        let mut state = HostState {
            free: vms.iter().fold(self.state.capacity, |free: Capacity, vm| {
                free.minus(&vm.spec.demand())
            }),
            vms,
            stranded: machines().filter_map(Machine::stranded_state).collect(),
            ..self.state.clone()
        };
        if let Some(command) = asked {
            let is_asked =
                |vm: &VmName| matches!(command, Command::Inspect { dirty_of } if dirty_of.contains(vm));
            state.dirty.retain(|vm, _| is_asked(vm));
        }
        state
    }

    /// A report of its own making, beside the machines'.
    pub fn report(&self, order: Option<(OrderId, Epoch)>, vm: Option<VmName>, outcome: Outcome) -> Report {
        Report {
            order: order.map(|(id, _)| id),
            epoch: order.map_or(Epoch::default(), |(_, epoch)| epoch),
            vm,
            at: self.now().wall,
            outcome,
        }
    }

    /// An order is obeyed.
    pub fn obey(&mut self, order: Order) {
        let Some(vm) = order.command.vm().cloned() else {
            let outcome = match &order.command {
                Command::Pace { .. } => Outcome::Paced,
                Command::HearLink => Outcome::HearsLink {
                    at: self.paper.lock().unwrap().next_end(&self.state.host),
                },
                Command::TryLink { target } => Outcome::LinkTried(LinkFigures {
                    bytes: Bytes(u64::from(target.address.port()) * 1_000_000),
                    ..LINK
                }),
                asked => Outcome::Host(Box::new(self.host_state(Some(asked)))),
            };
            let report = self.report(Some((order.id, order.epoch)), None, outcome);
            return self.reports.push(report);
        };
        if !self.slots.contains_key(&vm) {
            if let Some(outcome) = absent(&self.state.host, &order) {
                let report = self.report(Some((order.id, order.epoch)), Some(vm), outcome);
                return self.reports.push(report);
            }
            let machine = Machine::new(self.state.host.clone(), vm.clone());
            self.keep(&vm, machine);
        }
        self.feed(&vm, Input::Order(order));
    }

    fn keep(&mut self, vm: &VmName, machine: Machine) {
        let (waiting, timers) = (Vec::new(), Vec::new());
        self.slots.insert(
            vm.clone(),
            Slot {
                machine,
                waiting,
                timers,
            },
        );
    }

    /// One input to a machine, with all that follows.
    pub fn feed(&mut self, vm: &VmName, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.now();
            let Some(slot) = self.slots.get_mut(vm) else {
                return;
            };
            let mut next = Some(slot.machine.handle(now, input));
            while let Some(ready) = next {
                self.proceed(vm, ready, &mut inputs);
                next = self.slots.get_mut(vm).and_then(|slot| slot.machine.next(now));
            }
        }
        if self.slots.get(vm).is_some_and(|slot| slot.machine.is_gone()) {
            let slot = self.slots.remove(vm).expect("it was just looked at");
            for order in slot.machine.into_postponed() {
                self.obey(order);
            }
        }
    }

    /// Durable first; then signals, reports and effects.
    fn proceed(&mut self, vm: &VmName, ready: Ready, inputs: &mut VecDeque<Input>) {
        match ready.change() {
            Some(Change::Write(record)) => drop(self.records.insert(vm.clone(), (**record).clone())),
            Some(Change::Remove) => drop(self.records.remove(vm)),
            None => {}
        }
        let now = self.now();
        let slot = self.slots.get_mut(vm).expect("it was just asked");
        let after = slot.machine.proceed(now, ready, Ok(()));
        self.reports.extend(after.reports);
        for signal in after.signals {
            match signal {
                Signal::Timer { at, timer } => slot.timers.push((at, timer)),
                Signal::Interrupt(ticket) => {
                    let interrupted = slot.waiting.extract_if(.., |(_, effect)| {
                        effect.ticket == ticket
                            && matches!(effect.act, Act::FinishCopy { .. } | Act::AwaitLoaded)
                    });
                    inputs
                        .extend(interrupted.map(|(_, effect)| given_up(effect.ticket, "it was interrupted")));
                }
                Signal::Pace(_) | Signal::StopWaitingForSiblings | Signal::CutPageStream => {}
            }
        }
        for effect in after.effects {
            self.carry_out(vm, effect, inputs);
        }
    }

    fn carry_out(&mut self, vm: &VmName, effect: Effect, inputs: &mut VecDeque<Input>) {
        self.acts += 1;
        if mem::take(&mut self.dying).contains(vm) {
            self.paper.lock().unwrap().dies(&self.at(vm));
            let why = "its QEMU ended".to_owned();
            inputs.push_back(Input::Died { why });
        }
        let fails = self.failing.take_if(|after| *after == 0).is_some();
        self.failing = self.failing.map(|after| after - 1);
        if self.holding && matches!(effect.act, Act::Spawn { .. }) {
            return;
        }
        let made = self.act(vm, &effect.act);
        let ticket = effect.ticket;
        let obeys = matches!(effect.act, Act::PowerDown) && !fails;
        match made {
            _ if fails => inputs.push_back(given_up(ticket, "it is to fail")),
            Some(result) => inputs.push_back(Input::Done { ticket, result }),
            None => {
                let until = self.now().mono + ACT_MS_MAX;
                let slot = self.slots.get_mut(vm).expect("it asked for the act");
                slot.waiting.push((until, effect));
            }
        }
        if obeys {
            inputs.push_back(Input::PoweredOff);
        }
    }

    fn act(&self, vm: &VmName, act: &Act) -> Made {
        let now = self.now().wall;
        self.paper.lock().unwrap().act(&self.at(vm), act, now)
    }

    /// Timers that are due, and acts that may not have to wait any longer.
    pub fn tick(&mut self) {
        let now = self.now().mono;
        for vm in self.slots.keys().cloned().collect::<Vec<_>>() {
            let slot = self
                .slots
                .get_mut(&vm)
                .expect("only a tick of its own removes it");
            let due: Vec<_> = slot.timers.extract_if(.., |(at, _)| *at <= now).collect();
            let waiting = mem::take(&mut slot.waiting);
            for (_, timer) in due {
                self.feed(&vm, Input::Timer(timer));
            }
            for (until, effect) in waiting {
                let ticket = effect.ticket;
                match self.act(&vm, &effect.act) {
                    Some(result) => self.feed(&vm, Input::Done { ticket, result }),
                    None if until <= now => self.feed(&vm, given_up(ticket, "it took too long")),
                    None => {
                        let slot = self.slots.get_mut(&vm).expect("an act of it waits");
                        slot.waiting.push((until, effect));
                    }
                }
            }
        }
    }

    /// From now on no timer fires by itself.
    pub fn time_stands_still(&mut self) {
        self.begun = None;
    }

    /// So much time is over, without anybody's having to wait.
    pub fn passes(&mut self, time: Millis) {
        self.passed += time;
        self.tick();
    }

    /// The agent is killed, and everything in its memory with it.
    pub fn dies(&mut self) {
        self.slots.clear();
        self.reports.clear();
        self.paper.lock().unwrap().agent_dies(&self.state.host);
    }

    /// An agent starts: every record is taken up.
    pub fn takes_over(&mut self) {
        self.state.agent_run += 1;
        for (vm, record) in self.records.clone() {
            let found = self.paper.lock().unwrap().found(&self.at(&vm));
            let (machine, ready) = Machine::recover(self.now(), self.state.host.clone(), record, found);
            self.keep(&vm, machine);
            let mut inputs = VecDeque::new();
            self.proceed(&vm, ready, &mut inputs);
            for input in inputs {
                self.feed(&vm, input);
            }
        }
    }

    /// What is here of a VM cannot be taken over.
    pub fn strands(&mut self, vm: &VmName, what: &str, hint: &str) {
        self.records.remove(vm);
        let (what, hint) = (what.to_owned(), hint.to_owned());
        let machine = Machine::stranded(self.state.host.clone(), vm.clone(), what, hint);
        self.keep(vm, machine);
    }

    /// Every VM here is gone, as after a loss of power.
    pub fn loses_all(&mut self) {
        self.slots.clear();
        self.records.clear();
        self.paper.lock().unwrap().lose(&self.state.host);
    }

    /// This VM is gone, with its record.
    pub fn loses(&mut self, vm: &VmName) {
        let at = self.at(vm);
        self.slots.remove(vm);
        self.records.remove(vm);
        self.paper.lock().unwrap().lose_one(&at);
    }

    /// The guest powers itself off.
    pub fn powers_off(&mut self, vm: &VmName) {
        self.paper.lock().unwrap().powers_off(&self.at(vm));
        self.feed(vm, Input::PoweredOff);
    }

    /// Its QEMU ends at what is done to it next.
    pub fn is_to_die(&mut self, vm: &VmName) {
        self.dying.push(vm.clone());
    }
}

fn given_up(ticket: Ticket, why: &str) -> Input {
    let result = Err(Trouble::failed(FaultKind::Internal, why));
    Input::Done { ticket, result }
}
