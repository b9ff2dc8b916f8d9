//! A driver held in the hand: it gives inputs one by one and keeps what the machine wanted done.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use transhume_model::*;
use transhume_protocol::event::Happening;
use transhume_protocol::message::*;
use transhume_protocol::migration::*;
use transhume_protocol::report::MigrationReport;

pub mod answer;
pub mod script;

pub fn vm(index: usize) -> VmName {
    format!("vm{index}").parse().unwrap()
}

pub fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

/// VM `index` (from 1) goes from one of `s1`, `s2` to one of `t1`, `t2`, alternating.
pub fn move_vm(index: usize) -> MoveVm {
    let side = |side: &str| host(&format!("{side}{}", 2 - index % 2));
    MoveVm {
        spec: VmSpec {
            name: vm(index),
            cluster: "herd".parse().unwrap(),
            vcpus: Vcpus(1),
            memory: Mebibytes(96),
            machine: None,
            nics: vec![NicSpec {
                mac: Mac::new([0x52, 0x54, 0, 0, 0, index as u8]).unwrap(),
                mtu: 1500,
            }],
            disks: Vec::new(),
            boot: Boot {
                kernel: "/k".into(),
                initrd: "/i".into(),
                cmdline: String::new(),
            },
        },
        source: side("s"),
        target: side("t"),
        powered_off: false,
        guest: GuestState::Running,
        need: None,
        round: 0,
    }
}

/// `vms` VMs in batches of `k`.
pub fn request(vms: usize, k: usize, mode: Mode) -> MoveRequest {
    let vms: Vec<MoveVm> = (1..=vms).map(move_vm).collect();
    MoveRequest {
        migration: MigrationId(1),
        cluster: "herd".parse().unwrap(),
        mode,
        epoch: Epoch(1),
        from: vec![host("s1"), host("s2")],
        to: vec![host("t1"), host("t2")],
        batches: vms.chunks(k).map(<[MoveVm]>::to_vec).collect(),
        limits: Limits::default(),
        duration_ms_max: None,
        converge: Converge::Wait,
        batch_max: None,
        forecast: None,
    }
}

/// The machine with everything around it that a test needs to see.
pub struct Hand {
    pub machine: Migration,
    pub now: Now,
    pub journal: Vec<JournalEntry>,
    pub events: Vec<Happening>,
    /// Every order sent, oldest first.
    pub sent: Vec<(HostName, Order)>,
    pub timers: Vec<(Millis, TimerId)>,
    pub done: bool,
    /// The latest `Ready`.
    pub last: Ready,
}

impl Hand {
    pub fn begin(vms: usize, k: usize) -> Self {
        Self::begin_with(request(vms, k, Mode::Live))
    }

    pub fn begin_with(request: MoveRequest) -> Self {
        let now = Now {
            mono: Millis(0),
            wall: WallMicros(1_000_000),
        };
        let (machine, ready) = Migration::begin(now, request).unwrap();
        let mut hand = Hand {
            machine,
            now,
            journal: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            timers: Vec::new(),
            done: false,
            last: Ready::default(),
        };
        hand.keep(ready);
        hand
    }

    fn keep(&mut self, ready: Ready) {
        self.journal.extend(ready.persist.clone());
        self.events.extend(ready.events.clone());
        self.sent.extend(ready.send.clone());
        self.timers.extend(ready.timers.clone());
        self.done |= ready.done;
        self.last = ready;
    }

    /// Names of what is to come, batch by batch.
    pub fn to_come(&self) -> Vec<Vec<VmName>> {
        let names = |batch: &Vec<MoveVm>| batch.iter().map(|vm| vm.spec.name.clone()).collect();
        self.machine.to_come().iter().map(names).collect()
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.mono += Millis(ms);
        self.now.wall += WallMicros(ms * 1_000);
    }

    /// One input, a millisecond after the one before.
    pub fn give(&mut self, input: Input) -> Result<(), Illegal> {
        self.pass(1);
        let ready = self.machine.handle(self.now, input)?;
        self.keep(ready);
        Ok(())
    }

    /// Lets time pass and fires every timer that is due by then; the effects are gathered in
    /// `last`.
    pub fn wait(&mut self, ms: u64) {
        let until = self.now.mono + Millis(ms);
        let mut all = Ready::default();
        while let Some(place) = self.due(until) {
            let (at, timer) = self.timers.remove(place);
            let ahead = at.saturating_sub(self.now.mono).0;
            self.pass(ahead);
            let ready = self.machine.handle(self.now, Input::Timer(timer)).unwrap();
            self.keep(ready);
            let ready = std::mem::take(&mut self.last);
            all.persist.extend(ready.persist);
            all.send.extend(ready.send);
            all.events.extend(ready.events);
            all.timers.extend(ready.timers);
            all.done |= ready.done;
        }
        let rest = until.saturating_sub(self.now.mono).0;
        self.pass(rest);
        self.last = all;
    }

    fn due(&self, until: Millis) -> Option<usize> {
        let due = self.timers.iter().enumerate().filter(|(_, (at, _))| *at <= until);
        due.min_by_key(|(_, (at, _))| *at).map(|(place, _)| place)
    }

    /// The latest order of that name to a VM.
    pub fn order(&self, vm: &VmName, command: &str) -> (HostName, Order) {
        let mut orders = self.sent.iter().rev();
        let found =
            orders.find(|(_, order)| order.command.name() == command && order.command.vm() == Some(vm));
        found
            .unwrap_or_else(|| panic!("{command} was never sent for {vm}"))
            .clone()
    }

    /// How often an order of that name was sent for a VM.
    pub fn count(&self, vm: &VmName, command: &str) -> usize {
        let matches = |order: &Order| order.command.name() == command && order.command.vm() == Some(vm);
        self.sent.iter().filter(|(_, order)| matches(order)).count()
    }

    pub fn was_sent(&self, command: &str) -> bool {
        self.sent.iter().any(|(_, order)| order.command.name() == command)
    }

    /// Reports an outcome in answer to the latest order of that name.
    pub fn answer_with(&mut self, vm: &VmName, command: &str, outcome: Outcome) -> Result<(), Illegal> {
        let (host, order) = self.order(vm, command);
        let at = WallMicros(self.now.wall.0 + 1_000);
        let report = Report {
            order: Some(order.id),
            epoch: order.epoch,
            vm: Some(vm.clone()),
            at,
            outcome,
        };
        self.give(Input::Report { host, report })
    }

    /// The answer that everybody hopes for.
    pub fn answer(&mut self, vm: &VmName, command: &str) {
        let outcome = answer::natural(command, WallMicros(self.now.wall.0 + 1_000));
        let order = if command == "Converge" { "PreCopy" } else { command };
        self.answer_with(vm, order, outcome).unwrap();
    }

    /// Answers every order as it comes, until nothing is open: as `special` says, else as everybody
    /// hopes. Orders from `first` on, by their place in `sent`.
    pub fn play_out(&mut self, first: usize, special: impl Fn(&Order) -> Option<Outcome>) {
        let mut next = first;
        while let Some((host, order)) = self.sent.get(next).cloned() {
            next += 1;
            let name = order.command.name();
            let natural = |name: &str, hand: &Hand| answer::natural(name, hand.now.wall);
            let mut outcomes = vec![special(&order).unwrap_or_else(|| natural(name, self))];
            if outcomes[0] == Outcome::PreCopying {
                outcomes.push(natural("Converge", self));
            }
            for outcome in outcomes {
                let report = Report {
                    order: Some(order.id),
                    epoch: order.epoch,
                    vm: order.command.vm().cloned(),
                    at: self.now.wall,
                    outcome,
                };
                let host = host.clone();
                self.give(Input::Report { host, report }).unwrap();
            }
        }
    }

    /// Names of the orders that were sent for a VM, in order.
    pub fn orders_of(&self, vm: &VmName) -> Vec<&'static str> {
        let about = self
            .sent
            .iter()
            .filter(|(_, order)| order.command.vm() == Some(vm));
        about.map(|(_, order)| order.command.name()).collect()
    }

    /// An operator says where a VM runs that waits for it.
    pub fn resolve(&mut self, vm: &VmName, run_on: RunOn) {
        let resolve = Input::Resolve {
            vm: vm.clone(),
            run_on,
            although_it_may_have_run: false,
        };
        self.give(resolve).expect("it waits for that");
    }

    pub fn refuse(&mut self, vm: &VmName, command: &str) {
        self.answer_with(vm, command, answer::refusal(RefusalKind::NoCapacity))
            .unwrap();
    }

    pub fn fail(&mut self, vm: &VmName, command: &str) {
        self.answer_with(vm, command, answer::fault(FaultKind::Qemu))
            .unwrap();
    }

    /// Answers this order for VMs `1..=vms` of a first batch.
    pub fn all(&mut self, vms: usize, command: &str) {
        for index in 1..=vms {
            self.answer(&vm(index), command);
        }
    }

    /// All orders up to, not including, `stop`, are answered for every VM of the first batch.
    pub fn up_to(&mut self, vms: usize, stop: &str) {
        for command in answer::COURSE {
            if command == stop {
                return;
            }
            self.all(vms, command);
        }
    }

    pub fn lose(&mut self, name: &str) {
        self.give(Input::AgentLost { host: host(name) }).unwrap();
    }

    pub fn bring_back(&mut self, name: &str) {
        let state = Box::new(answer::host_state(host(name)));
        self.give(Input::AgentBack {
            host: host(name),
            state,
        })
        .unwrap();
    }

    /// The coordinator dies and takes the move up from the journal; agents are not yet connected.
    pub fn restart(&mut self, epoch: u64) {
        self.pass(1);
        let recovered = Migration::recover(self.now, &self.journal, Epoch(epoch)).unwrap();
        let (machine, ready) = recovered.expect("the move is not over");
        (self.machine, self.done) = (machine, false);
        (self.sent, self.timers) = (Vec::new(), Vec::new());
        self.keep(ready);
    }

    pub fn report(&self) -> MigrationReport {
        self.machine.report(self.now)
    }

    /// Whether the journal holds the decision for a batch, from 1.
    pub fn is_committed(&self, wanted: usize) -> bool {
        self.journal
            .iter()
            .any(|entry| matches!(entry, JournalEntry::Committed { batch, .. } if *batch == wanted))
    }

    /// Hosts by VM, as the report tells.
    pub fn hosts(&self) -> BTreeMap<VmName, HostName> {
        self.report().vms.into_iter().map(|vm| (vm.id, vm.host)).collect()
    }
}
