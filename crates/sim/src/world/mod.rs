//! A run: events in the order of their instants, until the move is over and every frame has
//! arrived.

mod acts;
mod agents;
mod alone;
mod buffers;
mod end;
mod faults;
mod links;
mod operators;
mod pages;
mod source_buffer;
mod strikes;
mod target_buffer;
mod tunnel;

use std::collections::BTreeMap;

use transhume_agent_core::{Machine, RunState, SpawnFor};
use transhume_model::{Epoch, HostName, Millis, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::message::Report;
use transhume_protocol::migration::{Cleaning, Input, JournalEntry, MoveRequest, Now, OrderIds};
use transhume_protocol::report::MigrationReport;

use crate::check::Violation;
use crate::coordinator::Coordinator;
use crate::fault::{ActFault, Fault};
use crate::guest::Guest;
use crate::host::qemu::Qemu;
use crate::host::tap::Tap;
use crate::host::{Host, Slot};
use crate::network::{At, Channel, Event, HostIx, MILLI, Micros, Network, SECOND, VmIx};
use crate::random::Random;
use crate::scenario::{GuestKind, Scenario};

/// Peers go on sending for a while after the end, over the new path.
const AFTERWARDS_MICROS: Micros = 20 * MILLI;
/// What is left to be written or adopted again after the end is, within this.
const QUIET_MICROS: Micros = 90 * SECOND;
/// A move that is open for longer after the last fault names what it waits for, or never ends.
const OPEN_MICROS_MAX: Micros = 900 * SECOND;
/// Pause between two frames for a VM of which nothing is being switched over.
const IDLE_GAP_MICROS: (Micros, Micros) = (2 * MILLI, 600 * MILLI);
/// Frames come fast for so long after an act that moves frames or guests.
const BUSY_MICROS: Micros = 30 * MILLI;

/// What came of a run in which every promise was kept.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The report; of a move that is still open, as of then.
    pub report: MigrationReport,
    /// The journal.
    pub journal: Vec<JournalEntry>,
    /// What the coordinator's last life said.
    pub events: Vec<Happening>,
    /// How often it was started.
    pub coordinator_runs: u64,
    /// How many of the aimed faults struck.
    pub faults_struck: usize,
    /// Simulated time.
    pub lasted: Millis,
    /// What came of a lost host, and when.
    pub loss: Loss,
    /// Events that happened.
    pub steps: u64,
    /// Acts in the order in which they took effect: VM, whether on its source, name.
    pub acts: Vec<(VmIx, bool, &'static str)>,
    /// How often each VM's record was changed on its source and on its target.
    pub writes: Vec<[usize; 2]>,
    /// Frames that reached guests.
    pub frames: u64,
}

/// A page stream between two lives of agents.
#[derive(Debug)]
struct Stream {
    id: u64,
    source: At,
    target: At,
}

/// Is shown what happens: simulated microseconds, and what.
pub type Watcher = fn(u64, &dyn std::fmt::Debug);

/// Everything there is.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    watcher: Option<Watcher>,
    request: MoveRequest,
    random: Random,
    network: Network,
    hosts: Vec<Host>,
    host_places: BTreeMap<HostName, HostIx>,
    vm_places: BTreeMap<VmName, VmIx>,
    guests: Vec<Guest>,
    coordinator: Coordinator,
    coordinator_clock_off: i64,
    /// The connection to each agent, by number; absent while broken.
    links: Vec<Option<u64>>,
    streams: Vec<Option<Stream>>,
    /// Links, runs, streams, tunnels and addresses take their numbers from here.
    serial: u64,
    faults: Vec<Fault>,
    /// What hosts that were given up still have of VMs.
    left: BTreeMap<(HostIx, VmIx), Cleaning>,
    /// Orders that clean it away: host, VM, which of its orders.
    asked: BTreeMap<transhume_model::OrderId, (HostIx, VmIx, usize)>,
    cleaning_ids: Option<OrderIds>,
    /// Changes of each VM's record so far, on its source and on its target.
    writes: Vec<[usize; 2]>,
    acts: Vec<(VmIx, bool, &'static str)>,
    /// The answer to this order is doubled.
    answered_twice: Option<transhume_model::OrderId>,
    /// What agents say where there is no coordinator.
    overheard: Option<Vec<(HostIx, Report)>>,
    /// The act on this host, after so many others, and what happens to it.
    next_act_fault: Option<(HostIx, usize, ActFault)>,
    busy_until: Micros,
    /// Peers' sending, numbered: it begins anew when something is switched over.
    flow: u64,
    over_at: Option<Micros>,
    loss: Loss,
}

/// The instants of a run in which a host is lost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loss {
    /// It lost its power.
    pub lost_at: Option<Millis>,
    /// The coordinator was started last: it waits anew from then on.
    pub coordinator_at: Option<Millis>,
    /// Somebody was asked to decide.
    pub asked_at: Option<Millis>,
    /// Somebody did, for the last time.
    pub decided_at: Option<Millis>,
    /// The move was over.
    pub over_at: Option<Millis>,
}

impl World {
    /// A world before its first event.
    pub fn new(scenario: Scenario) -> Self {
        let request = scenario.request();
        let names: Vec<HostName> = request.from.iter().chain(&request.to).cloned().collect();
        let vms = scenario.vms;
        let mut world = World {
            random: Random::new(scenario.seed),
            network: Network::default(),
            hosts: Vec::new(),
            host_places: BTreeMap::new(),
            vm_places: BTreeMap::new(),
            guests: Vec::new(),
            coordinator: Coordinator::new(),
            coordinator_clock_off: 0,
            links: Vec::new(),
            streams: (0..vms).map(|_| None).collect(),
            serial: 0,
            faults: scenario.faults.clone(),
            left: BTreeMap::new(),
            asked: BTreeMap::new(),
            cleaning_ids: None,
            writes: vec![[0; 2]; vms],
            acts: Vec::new(),
            answered_twice: None,
            overheard: None,
            next_act_fault: None,
            busy_until: 0,
            flow: 0,
            over_at: None,
            loss: Loss::default(),
            request,
            scenario,
            watcher: None,
        };
        for (place, name) in names.into_iter().enumerate() {
            let (run, link) = (world.number(), world.number());
            world.host_places.insert(name.clone(), place);
            world.hosts.push(Host::new(name, vms, run));
            world.links.push(Some(link));
        }
        let all: Vec<_> = world.request.batches.iter().flatten().cloned().collect();
        for (vm, moved) in all.into_iter().enumerate() {
            let (source, target) = (world.host_places[&moved.source], world.host_places[&moved.target]);
            let kind = world.scenario.guest(vm);
            let name = moved.spec.name.clone();
            world.vm_places.insert(name.clone(), vm);
            world.guests.push(Guest::new(name, source, target, kind));
            world.settle_in(source, vm, moved.spec);
            world.network.after(0, Event::PeerSends { vm, flow: 0 });
        }
        world.strike_later();
        world
    }

    /// The same world, watched: for whoever looks into one seed.
    pub fn watched(mut self, watcher: Watcher) -> Self {
        self.watcher = Some(watcher);
        self
    }

    fn show(&self, what: &dyn std::fmt::Debug) {
        if let Some(watcher) = self.watcher {
            watcher(self.network.now, what);
        }
    }

    /// A number that nothing else has.
    fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A VM that lives on its source and has not moved yet.
    fn settle_in(&mut self, at: HostIx, vm: VmIx, spec: transhume_model::VmSpec) {
        let host = &mut self.hosts[at];
        host.pids += 1;
        let mut qemu = Qemu::new(host.pids, SpawnFor::Boot);
        let kind = self.guests[vm].kind;
        qemu.run = match kind {
            GuestKind::Healthy | GuestKind::Deaf => RunState::Running,
            GuestKind::Paused => RunState::Paused,
            GuestKind::Panicked => RunState::Panicked,
            GuestKind::DiskError => RunState::DiskError,
            GuestKind::Off => RunState::Shutdown,
        };
        qemu.deaf = kind == GuestKind::Deaf;
        let place = if kind == GuestKind::Off {
            transhume_agent_core::Place::Off {
                why: "it was powered off by order".to_owned(),
                arrival: None,
            }
        } else {
            let process = qemu.id.clone();
            host.things[vm].qemu = Some(qemu);
            host.things[vm].tap = Some(Tap::default());
            transhume_agent_core::Place::Home {
                process,
                started: true,
                arrival: None,
            }
        };
        let record = transhume_agent_core::Record {
            version: transhume_agent_core::RECORD_VERSION,
            spec,
            epoch: Epoch(1),
            place,
        };
        let change = transhume_agent_core::Change::Write(Box::new(record));
        host.disk.write(vm, &change).expect("the disk is empty");
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        for host in 0..self.hosts.len() {
            self.take_up_all(host)?;
        }
        let ready = self.coordinator.begin(self.now(), self.request.clone());
        self.carry_out(ready)?;
        while let Some(event) = self.network.next() {
            if self.network.now > self.ends_at() {
                break;
            }
            self.happen(event)?;
        }
        let report = self.check_end()?;
        let seen = |vm: VmIx| {
            let copies = self.hosts.iter().filter_map(|host| host.things[vm].qemu.as_ref());
            copies.map(|qemu| qemu.seen).max().unwrap_or_default()
        };
        Ok(Outcome {
            report,
            frames: (0..self.guests.len()).map(seen).sum(),
            journal: self.coordinator.journal,
            events: self.coordinator.events,
            coordinator_runs: self.coordinator.run,
            faults_struck: self.scenario.faults.len() - self.faults.len(),
            lasted: Millis(self.network.now / MILLI),
            loss: Loss {
                over_at: self.over_at.map(|at| Millis(at / MILLI)),
                ..self.loss
            },
            steps: self.network.serial(),
            acts: self.acts,
            writes: self.writes,
        })
    }

    /// When nothing can come any more that matters.
    fn ends_at(&self) -> Micros {
        match self.over_at {
            Some(at) => self.calm_from().max(at) + QUIET_MICROS,
            None => self.calm_from() + OPEN_MICROS_MAX,
        }
    }

    fn calm_from(&self) -> Micros {
        self.scenario.weather.until_ms * MILLI
    }

    /// By the coordinator's clocks.
    fn now(&self) -> Now {
        self.now_with(self.coordinator_clock_off)
    }

    /// By a host's clocks.
    fn now_at(&self, host: HostIx) -> Now {
        self.now_with(self.hosts[host].clock_off)
    }

    fn now_with(&self, off: i64) -> Now {
        Now {
            mono: Millis(self.network.now / MILLI),
            wall: self.network.wall(off),
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        self.show(&event);
        match event {
            Event::OrderArrives { host, link, order } => {
                if self.links[host] == Some(link) {
                    self.order_arrived(host, *order)?;
                }
            }
            Event::ReportArrives { host, link, report } => {
                if self.links[host] == Some(link) && !self.cleaned(&report) {
                    let host = self.hosts[host].name.clone();
                    let report = *report;
                    self.feed_coordinator(Input::Report { host, report })?;
                }
            }
            Event::LossNoticed {
                host,
                coordinator_run,
            } => {
                if coordinator_run == self.coordinator.run && self.links[host].is_none() {
                    let host = self.hosts[host].name.clone();
                    self.feed_coordinator(Input::AgentLost { host })?;
                }
            }
            Event::Decides { coordinator_run } => {
                if coordinator_run == self.coordinator.run {
                    self.decides()?;
                }
            }
            Event::Cleans { host } => self.clean(host),
            Event::LinkBack {
                host,
                coordinator_run,
            } => self.link_back(host, coordinator_run)?,
            Event::PartitionHeals { host } => self.partition_heals(host),
            Event::DiskFreed { host } => self.hosts[host].disk.full -= 1,
            Event::AgentStarts { host } => self.agent_starts(host)?,
            Event::HostBoots { host } => {
                self.hosts[host].booting = false;
                self.agent_starts(host)?;
            }
            Event::AgentKilled { host, run } => {
                if self.hosts[host].run() == Some(run) {
                    self.agent_dies(host)?;
                }
            }
            Event::CoordinatorStarts => self.coordinator_starts()?,
            Event::CoordinatorTimer {
                coordinator_run,
                timer,
            } => {
                if coordinator_run == self.coordinator.run {
                    self.feed_coordinator(Input::Timer(timer))?;
                }
            }
            Event::AgentTimer { at, timer } => {
                self.feed(at, transhume_agent_core::Input::Timer(timer))?;
            }
            Event::ActDue { at, ticket } => self.act_due(at, ticket)?,
            Event::ActAnswers { at, ticket, result } => self.answer(at, ticket, *result)?,
            Event::ActLimit { at, ticket } => self.act_took_too_long(at, ticket)?,
            Event::QemuSays { host, vm, pid } => self.qemu_says(host, vm, pid)?,
            Event::QemuGone { at } => {
                let why = "the simulation ended it".to_owned();
                self.feed(at, transhume_agent_core::Input::Died { why })?;
            }
            Event::QemuDies { host, vm, pid } => {
                if self.is_pid(host, vm, pid) {
                    self.qemu_dies(host, vm)?;
                }
            }
            Event::PowersOff { host, vm, pid } => {
                if self.is_pid(host, vm, pid) {
                    self.guest_falls(host, vm, RunState::Shutdown, GuestKind::Off);
                }
            }
            Event::StreamBroke { at } => self.stream_broke(at)?,
            Event::StreamDone { vm, stream } => self.stream_done(vm, stream)?,
            Event::TunnelDelivers { vm, tunnel, what } => self.tunnel_delivers(vm, tunnel, what)?,
            Event::TunnelBroken { at, tunnel } => self.tunnel_broken(at, tunnel)?,
            Event::TunnelAgain { at } => self.tunnel_again(at)?,
            Event::FinDone { at, tunnel } => self.fin_done(at, tunnel)?,
            Event::LingerOver { at } => self.linger_over(at)?,
            Event::PeerSends { vm, flow } => {
                if flow == self.flow {
                    self.peer_sends(vm);
                }
            }
            Event::FrameArrives { host, vm, frame } => {
                if let Some(tap) = &mut self.hosts[host].things[vm].tap {
                    tap.arrive(frame);
                    self.pump(host, vm)?;
                }
            }
            Event::Learned { vm, host } => self.learned(vm, host),
            Event::MarkerArrives { host, vm } => self.marker_arrived(host, vm)?,
            Event::Strikes { what } => {
                self.strike(what)?;
                self.strike_later();
            }
        }
        Ok(())
    }

    fn is_pid(&self, host: HostIx, vm: VmIx, pid: u32) -> bool {
        let qemu = self.hosts[host].things[vm].qemu.as_ref();
        qemu.is_some_and(|qemu| qemu.id.pid == pid)
    }

    /// A VM in the life that its host's agent is living, if it lives.
    fn at(&self, host: HostIx, vm: VmIx) -> Option<At> {
        let run = self.hosts[host].run()?;
        Some(At { host, run, vm })
    }

    /// A VM in an agent's memory, if it is still that agent.
    fn slot(&mut self, at: At) -> Option<&mut Slot> {
        let host = &mut self.hosts[at.host];
        match host.run() == Some(at.run) {
            true => host.slot_mut(at.vm),
            false => None,
        }
    }

    fn machine(&self, host: HostIx, vm: VmIx) -> Option<&Machine> {
        self.hosts[host].slot(vm).map(|slot| &slot.machine)
    }

    /// Frames come fast from now on: those that would have come in a while come at once.
    fn is_busy(&mut self) {
        let was_idle = self.busy_until < self.network.now;
        self.busy_until = self.network.now + BUSY_MICROS;
        if was_idle {
            self.flow += 1;
            for vm in 0..self.guests.len() {
                let flow = self.flow;
                let delay = self.random.between(10, MILLI);
                self.network.after(delay, Event::PeerSends { vm, flow });
            }
        }
    }

    fn peer_sends(&mut self, vm: VmIx) {
        if let Some(over_at) = self.over_at
            && self.network.now > over_at.max(self.calm_from()) + AFTERWARDS_MICROS
        {
            return;
        }
        let guest = &mut self.guests[vm];
        guest.sent += 1;
        let (host, frame) = (guest.learned, guest.sent);
        let event = Event::FrameArrives { host, vm, frame };
        self.network
            .send(&mut self.random, Channel::Path(vm, host), event);
        let (low, high) = match self.network.now < self.busy_until {
            true => (100, self.scenario.frame_gap_micros_max),
            false => IDLE_GAP_MICROS,
        };
        let gap = self.random.between(low, high);
        let flow = self.flow;
        self.network.after(gap, Event::PeerSends { vm, flow });
    }

    /// The announcement floods: new frames take the new path, and its echo follows the last on the
    /// old one.
    fn learned(&mut self, vm: VmIx, host: HostIx) {
        let guest = &mut self.guests[vm];
        guest.learned = host;
        let source = guest.source;
        if source != host {
            let channel = Channel::Path(vm, source);
            let event = Event::MarkerArrives { host: source, vm };
            self.network.send(&mut self.random, channel, event);
        }
    }
}
