//! A run: events in the order of their instants, until the move is over and every frame has arrived.

mod faults;
mod links;

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::{HostName, Millis, VmName, WallMicros};
use transhume_protocol::event::Happening;
use transhume_protocol::migration::{Input, JournalEntry, MoveRequest, Now};
use transhume_protocol::report::MigrationReport;

use crate::check::{Guest, Violation, check_end, check_told};
use crate::coordinator::Coordinator;
use crate::copy::Copy;
use crate::fault::Fault;
use crate::host::{Effect, Host};
use crate::network::{Channel, Event, Micros, Network, PATH_MICROS_MAX};
use crate::random::Random;
use crate::scenario::Scenario;

const MILLI: Micros = 1_000;
const CONVERGE_MICROS_MAX: Micros = 30 * MILLI;
const STREAM_MICROS_MAX: Micros = 10 * MILLI;
/// Without a marker the source waits this long; longer than any frame is under way.
const LINGER_MICROS: Micros = 2 * PATH_MICROS_MAX + MILLI;
const NOTICE_MICROS_MAX: Micros = 5 * MILLI;
const RESTART_MICROS_MIN: Micros = 10 * MILLI;
const RESTART_MICROS_MAX: Micros = 150 * MILLI;
/// Peers go on sending for a while after the end, over the new path.
const AFTERWARDS_MICROS: Micros = 20 * MILLI;
/// A move that takes longer never ends.
const RUN_MS_MAX: u64 = 120_000;

/// What came of a run in which every promise was kept.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The report.
    pub report: MigrationReport,
    /// The journal.
    pub journal: Vec<JournalEntry>,
    /// What the coordinator's last life said.
    pub events: Vec<Happening>,
    /// How often it was started.
    pub coordinator_runs: u64,
    /// Whether the aimed fault struck.
    pub fault_struck: bool,
    /// Frames that reached guests.
    pub frames: u64,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    request: MoveRequest,
    random: Random,
    network: Network,
    hosts: BTreeMap<HostName, Host>,
    /// Runs of the agents that live.
    alive: BTreeSet<u64>,
    guests: BTreeMap<VmName, Guest>,
    coordinator: Coordinator,
    /// The connection to each agent, by number; absent while broken.
    links: BTreeMap<HostName, u64>,
    link_serial: u64,
    run_serial: u64,
    fault: Option<Fault>,
    /// The answer to this order is doubled.
    answered_twice: Option<transhume_model::OrderId>,
    over_at: Option<Micros>,
}

impl World {
    /// A world before its first event.
    pub fn new(scenario: Scenario) -> Self {
        let request = scenario.request();
        let mut world = World {
            random: Random::new(scenario.seed),
            network: Network::default(),
            hosts: BTreeMap::new(),
            alive: BTreeSet::new(),
            guests: BTreeMap::new(),
            coordinator: Coordinator::new(),
            links: BTreeMap::new(),
            link_serial: 0,
            run_serial: 0,
            fault: scenario.fault.clone(),
            answered_twice: None,
            over_at: None,
            request,
            scenario,
        };
        for host in world.request.from.iter().chain(&world.request.to) {
            world.run_serial += 1;
            world.link_serial += 1;
            world.alive.insert(world.run_serial);
            world
                .hosts
                .insert(host.clone(), Host::new(host.clone(), world.run_serial));
            world.links.insert(host.clone(), world.link_serial);
        }
        for vm in world.request.batches.iter().flatten() {
            let home = Copy::at_home(vm.spec.clone());
            let source = world.hosts.get_mut(&vm.source).expect("from lists every source");
            source.vms.insert(vm.spec.name.clone(), home);
            world.guests.insert(
                vm.spec.name.clone(),
                Guest::new(vm.source.clone(), vm.target.clone()),
            );
            world.network.after(
                0,
                Event::PeerSends {
                    vm: vm.spec.name.clone(),
                },
            );
        }
        world
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        let ready = self.coordinator.begin(self.now(), self.request.clone());
        self.carry_out(ready)?;
        while let Some(event) = self.network.next() {
            self.happen(event)?;
            if self.over_at.is_none() && self.network.now > RUN_MS_MAX * MILLI {
                return Err(Violation::NeverEnds { ms: RUN_MS_MAX });
            }
        }
        let never = Violation::NeverEnds {
            ms: self.network.now / MILLI,
        };
        let report = self.coordinator.final_report().ok_or(never)?;
        check_told(&self.coordinator.events)?;
        check_end(&self.request, report, &self.guests, &self.hosts)?;
        Ok(Outcome {
            report: report.clone(),
            journal: self.coordinator.journal,
            events: self.coordinator.events,
            coordinator_runs: self.coordinator.run,
            fault_struck: self.scenario.fault.is_some() && self.fault.is_none(),
            frames: self.guests.values().map(|guest| guest.received).sum(),
        })
    }

    fn now(&self) -> Now {
        Now {
            mono: Millis(self.network.now / MILLI),
            wall: self.wall(),
        }
    }

    fn wall(&self) -> WallMicros {
        WallMicros(1_000_000_000 + self.network.now)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::OrderArrives { host, link, order } => {
                if self.links.get(&host) == Some(&link) {
                    self.order_arrived(&host, order);
                }
            }
            Event::OrderActedOn { host, run, order } => {
                let vm = order.command.vm().cloned();
                self.at_agent(&host, run, vm.as_ref(), |host, now, alive| {
                    host.act(now, &order, alive)
                })?;
                self.agent_may_die_after(&host, &order);
            }
            Event::ReportArrives { host, link, report } => {
                if self.links.get(&host) == Some(&link) {
                    self.feed(Input::Report {
                        host,
                        report: *report,
                    })?;
                    if self.chance(self.scenario.weather.user_cancels) {
                        self.feed(Input::Cancel)?;
                    }
                }
            }
            Event::LossNoticed {
                host,
                coordinator_run,
            } => {
                if coordinator_run == self.coordinator.run {
                    self.feed(Input::AgentLost { host })?;
                }
            }
            Event::LinkBack {
                host,
                coordinator_run,
            } => self.link_back(host, coordinator_run)?,
            Event::AgentStarts { host } => self.agent_starts(host),
            Event::CoordinatorStarts => self.coordinator_starts()?,
            Event::TimerFires {
                coordinator_run,
                timer,
            } => {
                if coordinator_run == self.coordinator.run {
                    self.feed(Input::Timer(timer))?;
                }
            }
            Event::Converges { host, run, vm } => {
                self.at_agent(&host, run, Some(&vm), |host, now, alive| {
                    host.converged(now, &vm, alive)
                })?;
            }
            Event::StreamEnds {
                vm,
                source_run,
                target_run,
            } => self.stream_ended(&vm, source_run, target_run)?,
            Event::TunnelDelivers {
                vm,
                source_run,
                target_run,
                what,
            } => {
                let (source, target) = self.places(&vm);
                let whole = self.is_alive(target_run) && !self.chance(self.scenario.weather.tunnel_breaks);
                if whole && self.is_alive(source_run) {
                    self.at_agent(&target, target_run, Some(&vm), |host, now, _| {
                        host.tunnel_delivered(now, &vm, &what);
                    })?;
                } else {
                    self.at_agent(&source, source_run, Some(&vm), |host, now, _| {
                        host.tunnel_broke(now, &vm)
                    })?;
                }
            }
            Event::FinDone { vm, run } => {
                let (source, _) = self.places(&vm);
                self.at_agent(&source, run, Some(&vm), |host, now, _| host.fin_is_done(now, &vm))?;
            }
            Event::PeerSends { vm } => self.peer_sends(vm),
            Event::FrameArrives { host, vm, frame } => {
                self.at_host(&host, Some(&vm), |host, now, _| {
                    host.frame_arrived(now, &vm, frame)
                })?;
            }
            Event::Learned { vm, host } => self.learned(vm, host),
            Event::MarkerArrives { host, vm } => {
                let run = self.hosts[&host].run;
                self.at_agent(&host, run, Some(&vm), |host, now, _| {
                    host.old_path_is_empty(now, &vm)
                })?;
            }
            Event::LingerOver { host, run, vm } => {
                self.at_agent(&host, run, Some(&vm), |host, now, _| {
                    host.old_path_is_empty(now, &vm)
                })?;
            }
        }
        Ok(())
    }

    fn is_alive(&self, run: u64) -> bool {
        self.alive.contains(&run)
    }

    fn places(&self, vm: &VmName) -> (HostName, HostName) {
        let guest = &self.guests[vm];
        (guest.source.clone(), guest.target.clone())
    }

    /// Something an agent does, if it is still the same life of it.
    fn at_agent(
        &mut self,
        name: &HostName,
        run: u64,
        vm: Option<&VmName>,
        act: impl FnOnce(&mut Host, WallMicros, &dyn Fn(u64) -> bool),
    ) -> Result<(), Violation> {
        let host = &self.hosts[name];
        if host.up && host.run == run {
            self.at_host(name, vm, act)
        } else {
            Ok(())
        }
    }

    /// Something that happens at a host, with all that follows and the check that must hold after it.
    fn at_host(
        &mut self,
        name: &HostName,
        vm: Option<&VmName>,
        act: impl FnOnce(&mut Host, WallMicros, &dyn Fn(u64) -> bool),
    ) -> Result<(), Violation> {
        let wall = self.wall();
        let host = self.hosts.get_mut(name).expect("events name hosts that exist");
        let alive = &self.alive;
        act(host, wall, &|run| alive.contains(&run));
        let (effects, run) = (std::mem::take(&mut host.effects), host.run);
        for effect in effects {
            self.take_effect(name, run, effect)?;
        }
        match vm {
            Some(vm) => self.guests[vm].check(vm, &self.hosts),
            None => Ok(()),
        }
    }

    fn take_effect(&mut self, name: &HostName, run: u64, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Report(report) => self.send_report(name, *report),
            Effect::Guest { vm, frame } => {
                let guest = self.guests.get_mut(&vm).expect("every VM has a guest");
                guest.receive(&vm, &self.hosts[name], frame)?;
            }
            Effect::Tunnel { vm, target_run, what } => {
                let event = Event::TunnelDelivers {
                    vm: vm.clone(),
                    source_run: run,
                    target_run,
                    what,
                };
                self.network.send(&mut self.random, Channel::Tunnel(vm), event);
            }
            Effect::FinDone { vm } => {
                let run = self.hosts[&self.guests[&vm].source].run;
                self.network.after(MILLI, Event::FinDone { vm, run });
            }
            Effect::Announce { vm } => {
                let delay = self.random.between(10, PATH_MICROS_MAX);
                self.network.after(
                    delay,
                    Event::Learned {
                        vm,
                        host: name.clone(),
                    },
                );
            }
            Effect::Converging { vm } => {
                let delay = self.random.between(MILLI, CONVERGE_MICROS_MAX);
                self.network.after(
                    delay,
                    Event::Converges {
                        host: name.clone(),
                        run,
                        vm,
                    },
                );
            }
            Effect::Stream { vm, target_run } => {
                let delay = self.random.between(MILLI, STREAM_MICROS_MAX);
                self.network.after(
                    delay,
                    Event::StreamEnds {
                        vm,
                        source_run: run,
                        target_run,
                    },
                );
            }
            Effect::Linger { vm } => {
                self.network.after(
                    LINGER_MICROS,
                    Event::LingerOver {
                        host: name.clone(),
                        run,
                        vm,
                    },
                );
            }
        }
        Ok(())
    }

    fn stream_ended(&mut self, vm: &VmName, source_run: u64, target_run: u64) -> Result<(), Violation> {
        let (source, target) = self.places(vm);
        let whole = self.is_alive(source_run) && self.is_alive(target_run);
        if whole {
            self.at_agent(&target, target_run, Some(vm), |host, now, _| host.loaded(now, vm))?;
        }
        self.at_agent(&source, source_run, Some(vm), |host, now, _| {
            host.copied(now, vm, whole)
        })
    }

    fn peer_sends(&mut self, vm: VmName) {
        if self
            .over_at
            .is_some_and(|at| self.network.now > at + AFTERWARDS_MICROS)
        {
            return;
        }
        let guest = self.guests.get_mut(&vm).expect("every VM has a guest");
        guest.sent += 1;
        let (host, frame) = (guest.learned.clone(), guest.sent);
        let channel = Channel::Path(vm.clone(), host.clone());
        self.network.send(
            &mut self.random,
            channel,
            Event::FrameArrives {
                host,
                vm: vm.clone(),
                frame,
            },
        );
        let gap = self.random.between(100, self.scenario.frame_gap_micros_max);
        self.network.after(gap, Event::PeerSends { vm });
    }

    /// The announcement floods: new frames take the new path, and its echo follows the last on the old one.
    fn learned(&mut self, vm: VmName, host: HostName) {
        let guest = self.guests.get_mut(&vm).expect("every VM has a guest");
        let old = std::mem::replace(&mut guest.learned, host);
        let channel = Channel::Path(vm.clone(), old.clone());
        self.network
            .send(&mut self.random, channel, Event::MarkerArrives { host: old, vm });
    }
}
