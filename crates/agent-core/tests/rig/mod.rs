//! A machine with hands: every act is answered as a healthy host would, or fails where the test
//! says so.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use transhume_agent_core::{
    Act, Change, CopyStatus, Effect, Flow, Found, Input, Looked, Machine, Product, Ready, Record, RunState,
    Signal, Timer, Trouble,
};
use transhume_model::{
    Boot, Endpoint, Epoch, HostName, Mebibytes, MigrationId, Millis, NicSpec, OrderId, ProcessId, Secret,
    Vcpus, VmName, VmSpec, WallMicros,
};
use transhume_protocol::message::{
    Command, FaultKind, GuestState, Mode, Order, Outcome, PageProgress, Report, SourceFrames, TargetFrames,
};
use transhume_protocol::migration::Now;

pub fn vm() -> VmName {
    "vm1".parse().unwrap()
}

pub fn host() -> HostName {
    "h1".parse().unwrap()
}

pub fn spec() -> VmSpec {
    VmSpec {
        name: vm(),
        cluster: "herd".parse().unwrap(),
        vcpus: Vcpus(1),
        memory: Mebibytes(64),
        machine: None,
        nics: vec![NicSpec {
            mac: "52:54:00:00:00:01".parse().unwrap(),
            mtu: 1500,
        }],
        disks: Vec::new(),
        boot: Boot {
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: String::new(),
        },
    }
}

pub fn process() -> ProcessId {
    ProcessId {
        pid: 4711,
        start_ticks: 1,
        boot: "b".to_owned(),
    }
}

pub fn address() -> Endpoint {
    Endpoint {
        host: "h2".parse().unwrap(),
        address: SocketAddr::from(([10, 0, 0, 2], 7000)),
        secret: Secret::new([7; Secret::BYTES]),
    }
}

pub const KEPT: u64 = 7;

pub fn kept() -> SourceFrames {
    SourceFrames {
        captured: KEPT,
        ..SourceFrames::default()
    }
}

pub struct Rig {
    pub machine: Machine,
    pub now: Now,
    pub epoch: Epoch,
    next_order: u64,
    /// Names of all acts so far, in order.
    pub acts: Vec<&'static str>,
    pub reports: Vec<Report>,
    pub signals: Vec<Signal>,
    /// What lies on the disk.
    pub disk: Option<Record>,
    /// Writes fail while this holds.
    pub disk_full: bool,
    /// Acts that fail the next time, by name.
    pub failing: BTreeMap<&'static str, Trouble>,
    /// Acts that are not answered until the test does.
    pub hanging: Vec<&'static str>,
    pub hung: Vec<Effect>,
    /// How the guest answers looks and probes.
    pub run: RunState,
    pub status: CopyStatus,
    pub takes: bool,
    pub flow: Flow,
}

pub fn trouble() -> Trouble {
    Trouble::failed(FaultKind::Qemu, "as the test wants it")
}

impl Rig {
    pub fn new() -> Self {
        Self::of(Machine::new(host(), vm()))
    }

    fn of(machine: Machine) -> Self {
        Rig {
            machine,
            now: Now {
                mono: Millis(1_000),
                wall: WallMicros(1_000_000),
            },
            epoch: Epoch(1),
            next_order: 1,
            acts: Vec::new(),
            reports: Vec::new(),
            signals: Vec::new(),
            disk: None,
            disk_full: false,
            failing: BTreeMap::new(),
            hanging: Vec::new(),
            hung: Vec::new(),
            run: RunState::Running,
            status: CopyStatus::Active,
            takes: true,
            flow: Flow::default(),
        }
    }

    /// The agent is killed now; another one starts.
    pub fn restart(&mut self, found: Found) {
        let record = self.disk.clone().expect("something is recorded");
        let (machine, ready) = Machine::recover(self.now, host(), record, found);
        self.machine = machine;
        (self.hung, self.signals) = (Vec::new(), Vec::new());
        self.take(ready);
    }

    pub fn fail(&mut self, act: &'static str) {
        self.failing.insert(act, trouble());
    }

    /// Gives an order; what came of it, if it is answered by now.
    pub fn order(&mut self, command: Command) -> Option<Outcome> {
        let id = self.send(command);
        self.answer_to(id)
    }

    pub fn send(&mut self, command: Command) -> OrderId {
        let id = OrderId(self.next_order);
        self.next_order += 1;
        let epoch = self.epoch;
        self.give(Input::Order(Order { id, epoch, command }));
        id
    }

    /// The last report on an order.
    pub fn answer_to(&self, id: OrderId) -> Option<Outcome> {
        let mut reports = self.reports.iter().rev();
        let report = reports.find(|report| report.order == Some(id))?;
        Some(report.outcome.clone())
    }

    pub fn give(&mut self, input: Input) {
        let ready = self.machine.handle(self.now, input);
        self.take(ready);
        while let Some(ready) = self.machine.next(self.now) {
            self.take(ready);
        }
    }

    fn take(&mut self, ready: Ready) {
        let written = match (ready.change(), self.disk_full) {
            (None, _) => Ok(()),
            (Some(_), true) => Err("no space left".to_owned()),
            (Some(Change::Write(record)), false) => {
                let read = Record::read(&record.to_bytes()).expect("what is written can be read");
                assert_eq!(read, **record);
                self.disk = Some(read);
                Ok(())
            }
            (Some(Change::Remove), false) => {
                self.disk = None;
                Ok(())
            }
        };
        let after = self.machine.proceed(self.now, ready, written);
        self.signals.extend(after.signals);
        self.reports.extend(after.reports);
        for effect in after.effects {
            self.acts.push(effect.act.name());
            if self.hanging.contains(&effect.act.name()) {
                self.hung.push(effect);
            } else {
                self.answer(effect);
            }
        }
    }

    pub fn answer(&mut self, effect: Effect) {
        let result = match self.failing.remove(effect.act.name()) {
            Some(trouble) => Err(trouble),
            None => Ok(self.healthy(&effect.act)),
        };
        self.done(effect, result);
    }

    pub fn done(&mut self, effect: Effect, result: Result<Product, Trouble>) {
        let ticket = effect.ticket;
        self.give(Input::Done { ticket, result });
    }

    /// The next of the acts that hang.
    pub fn unhang(&mut self) -> Effect {
        self.hung.remove(0)
    }

    fn healthy(&mut self, act: &Act) -> Product {
        self.now.wall = WallMicros(self.now.wall.0 + 100);
        match act {
            Act::Admit { spec, .. } => Product::Admitted { spec: spec.clone() },
            Act::Spawn { .. } => Product::Spawned { process: process() },
            Act::Adopt { .. } => Product::Adopted { run: self.run },
            Act::End => Product::Ended { source: Some(kept()) },
            Act::OpenPageListener { .. } => Product::Listening { at: address() },
            Act::Look => Product::Looked(Looked {
                status: self.status.clone(),
                run: self.run,
                pages: PageProgress {
                    rounds: 2,
                    ..PageProgress::default()
                },
                lag_within_limit: true,
                flow: self.flow,
            }),
            Act::FinishCopy { .. } => Product::Copied {
                pages: PageProgress::default(),
                pre_switchover_at: self.now.wall,
            },
            Act::ProbeGuest => Product::Takes(self.takes),
            Act::ShutSourceBuffer { .. } => Product::Shut {
                shut_at: self.now.wall,
                empty_at: self.now.wall,
            },
            Act::FinishSourceBuffer => Product::SourceFrames(kept()),
            Act::PutBack => Product::SourceFrames(SourceFrames {
                put_back: KEPT,
                ..kept()
            }),
            Act::OpenTargetBuffer { .. } => Product::Tunnels(vec![address()]),
            Act::ActivateBuffer { .. } => Product::Announced {
                injected_at: self.now.wall,
                announced_at: self.now.wall,
            },
            Act::OpenPlug => Product::Done,
            Act::FinishTargetBuffer => Product::TargetFrames(TargetFrames {
                delivered: KEPT,
                ..TargetFrames::default()
            }),
            Act::Stop => Product::Stopped {
                run: match self.run {
                    RunState::Running => RunState::Paused,
                    fallen => fallen,
                },
            },
            Act::AwaitLoaded => Product::Loaded {
                run: match self.run {
                    RunState::Running => RunState::Paused,
                    fallen => fallen,
                },
            },
            Act::CancelMigration => Product::Cancelled { run: self.run },
            Act::Cont
            | Act::PowerDown
            | Act::OpenPageStream { .. }
            | Act::StartMigration
            | Act::CatchUp
            | Act::OpenSourceBuffer { .. }
            | Act::ConnectSourceBuffer { .. }
            | Act::Capture
            | Act::Surrender
            | Act::Reclaim { .. }
            | Act::ShutForAbort
            | Act::RunArrived { .. } => Product::Done,
        }
    }

    /// Time passes, and the timer fires.
    pub fn fire(&mut self, timer: Timer, after: Millis) {
        self.now.mono += after;
        self.give(Input::Timer(timer));
    }

    pub fn boot(&mut self) {
        let started = self.order(Command::StartVm { spec: spec() });
        assert!(matches!(started, Some(Outcome::Started { .. })), "{started:?}");
        self.acts.clear();
    }

    pub fn pre_copy(mode: Mode) -> Command {
        Command::PreCopy {
            migration: MigrationId(1),
            vm: vm(),
            page_stream: address(),
            mode,
            blackout_max: Millis(300),
        }
    }

    /// Steps 2 to 4 at the source; the order to pre-copy.
    pub fn leave(&mut self, mode: Mode) -> OrderId {
        let id = self.send(Self::pre_copy(mode));
        self.ok(Command::OpenSourceBuffer { vm: vm() });
        self.ok(Command::ConnectBuffers {
            vm: vm(),
            tunnels: vec![address()],
        });
        id
    }

    /// Steps 5 and 6 at the source.
    pub fn capture(&mut self) {
        self.ok(Command::Capture { vm: vm() });
        self.ok(Command::StopAndCopy { vm: vm() });
    }

    pub fn reserve(&mut self, powered_off: bool) {
        self.ok(Command::Reserve {
            migration: MigrationId(1),
            spec: spec(),
            powered_off,
        });
    }

    /// Steps 1, 4 and 6 at the target.
    pub fn load(&mut self) {
        self.load_sent_as(GuestState::Running);
    }

    /// Its guest did this until it was stopped.
    pub fn load_sent_as(&mut self, guest: GuestState) {
        self.reserve(false);
        self.ok(Command::Prepare { vm: vm() });
        self.ok(Command::OpenTargetBuffer { vm: vm() });
        self.ok(Command::AwaitLoaded { vm: vm(), guest });
    }

    /// An order that must be carried out.
    pub fn ok(&mut self, command: Command) -> Outcome {
        let name = command.name();
        let outcome = self.order(command);
        match outcome {
            Some(outcome) if !matches!(outcome, Outcome::Refused(_) | Outcome::Failed(_)) => outcome,
            other => panic!("{name}: {other:?}"),
        }
    }

    pub fn role(&self) -> Option<transhume_protocol::message::VmRole> {
        self.machine.vm_state().map(|state| state.role)
    }
}
