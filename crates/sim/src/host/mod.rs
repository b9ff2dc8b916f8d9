//! The model agent: roles, epochs, idempotence, buffers. What it does is one function of (role, order).
//!
//! ```text
//! (none) ─Reserve─▶ Expected ─Prepare─▶ Target ─Activate─▶ Arrived ─FIN─▶ Home ─PreCopy─▶ Source ─Commit─▶ Left ─Discard─▶ (none)
//!    ▲                 └──AbortTarget──────┴──▶ (none)                      ▲──AbortSource───┘
//! ```

mod frames;
mod source;
mod target;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use transhume_model::{Capacity, HostName, OrderId, VmName, WallMicros};
use transhume_protocol::message::{
    Command, Fault, FaultKind, HostState, Order, Outcome, PROTOCOL_VERSION, Refusal, RefusalKind, Report,
    VmRole,
};

use crate::copy::{Copy, Soft};
use crate::network::InTunnel;

/// What an agent wants to happen outside of itself.
#[derive(Debug)]
pub(crate) enum Effect {
    Report(Box<Report>),
    /// A frame reaches the guest.
    Guest {
        vm: VmName,
        frame: u64,
    },
    Tunnel {
        vm: VmName,
        target_run: u64,
        what: InTunnel,
    },
    FinDone {
        vm: VmName,
    },
    Announce {
        vm: VmName,
    },
    Converging {
        vm: VmName,
    },
    Stream {
        vm: VmName,
        target_run: u64,
    },
    Linger {
        vm: VmName,
    },
}

/// A host with its agent.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: HostName,
    /// Of the agent; no two lives of any agent have the same.
    pub(crate) run: u64,
    pub(crate) up: bool,
    pub(crate) vms: BTreeMap<VmName, Copy>,
    pub(crate) effects: Vec<Effect>,
}

/// Carried out and answered, under way, or not carried out.
#[derive(Debug)]
enum Acted {
    Done(Outcome),
    UnderWay,
    Not(Outcome),
}

fn address(run: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(run as u32), 1))
}

fn run_of(address: SocketAddr) -> u64 {
    match address {
        SocketAddr::V4(v4) => u64::from(u32::from(*v4.ip())),
        SocketAddr::V6(_) => unreachable!("the model's addresses are runs in IPv4"),
    }
}

pub(crate) fn failed(kind: FaultKind, reason: &str) -> Outcome {
    Outcome::Failed(Fault {
        kind,
        reason: reason.to_owned(),
        hint: None,
    })
}

pub(crate) fn refused(kind: RefusalKind, reason: String) -> Outcome {
    Outcome::Refused(Refusal {
        kind,
        reason,
        hint: "none in a simulation".to_owned(),
    })
}

fn is_for_target(command: &Command) -> bool {
    matches!(
        command,
        Command::Reserve { .. }
            | Command::Prepare { .. }
            | Command::OpenTargetBuffer { .. }
            | Command::AwaitLoaded { .. }
            | Command::Activate { .. }
            | Command::CloseTargetBuffer { .. }
            | Command::AbortTarget { .. }
    )
}

fn wrong_state(command: &Command, vm: &VmName, role: VmRole) -> Outcome {
    let reason = format!("{} is not possible for {vm}: {role:?}", command.name());
    refused(RefusalKind::WrongState, reason)
}

fn done_or_under_way(outcome: Option<Outcome>) -> Acted {
    outcome.map_or(Acted::UnderWay, Acted::Done)
}

impl Host {
    pub(crate) fn new(name: HostName, run: u64) -> Self {
        Host {
            name,
            run,
            up: true,
            vms: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    pub(crate) fn state(&self) -> HostState {
        HostState {
            protocol: PROTOCOL_VERSION,
            host: self.name.clone(),
            agent_run: self.run,
            capacity: Capacity::default(),
            free: Capacity::default(),
            qemu: None,
            qemu_error: None,
            mtu_max: 1500,
            vms: self.vms.values().map(Copy::state).collect(),
            stranded: Vec::new(),
            dirty: BTreeMap::new(),
        }
    }

    /// The agent dies: memory, listeners and tunnels are gone.
    pub(crate) fn die(&mut self) {
        self.up = false;
        self.vms.values_mut().for_each(|copy| copy.soft = Soft::default());
    }

    pub(crate) fn start(&mut self, run: u64) {
        (self.run, self.up) = (run, true);
    }

    /// Carries an order out. `alive` tells whether an agent's run still lives.
    pub(crate) fn act(&mut self, now: WallMicros, order: &Order, alive: &dyn Fn(u64) -> bool) {
        let Some(name) = order.command.vm() else { return };
        let command = order.command.name();
        if let Some(copy) = self.vms.get_mut(name) {
            if order.epoch < copy.epoch {
                let reason = format!("{name} is held at epoch {}", copy.epoch);
                return self.report(now, order.id, order, refused(RefusalKind::StaleEpoch, reason));
            }
            copy.epoch = order.epoch;
            if let Some(outcome) = copy.soft.answers.get(command).cloned() {
                return self.report(now, order.id, order, outcome);
            }
        }
        let acted = match self.vms.contains_key(name) {
            true if is_for_target(&order.command) => self.act_as_target(now, order, name),
            true => self.act_as_source(now, order, name, alive),
            false => self.act_without_copy(order, name),
        };
        match acted {
            Acted::Done(outcome) => {
                if let Some(copy) = self.vms.get_mut(name) {
                    copy.soft.answers.insert(command, outcome.clone());
                }
                self.report(now, order.id, order, outcome);
            }
            Acted::UnderWay => {
                if let Some(copy) = self.vms.get_mut(name) {
                    copy.soft.waiting.insert(command, (order.id, order.epoch));
                }
            }
            Acted::Not(outcome) => self.report(now, order.id, order, outcome),
        }
        self.follow_up(now, name);
    }

    fn report(&mut self, at: WallMicros, id: OrderId, order: &Order, outcome: Outcome) {
        let vm = order.command.vm().cloned();
        self.effects.push(Effect::Report(Box::new(Report {
            order: Some(id),
            epoch: order.epoch,
            vm,
            at,
            outcome,
        })));
    }

    fn act_without_copy(&mut self, order: &Order, name: &VmName) -> Acted {
        match &order.command {
            Command::Reserve { spec, .. } => {
                let copy = Copy::new(spec.clone(), VmRole::Expected, order.epoch, false);
                self.vms.insert(name.clone(), copy);
                Acted::Done(Outcome::Reserved)
            }
            Command::Discard { .. } => Acted::Done(Outcome::Discarded { frames: None }),
            Command::AbortTarget { .. } => Acted::Done(Outcome::TargetDropped),
            other => Acted::Not(refused(
                RefusalKind::UnknownVm,
                format!("no {name} here for {}", other.name()),
            )),
        }
    }
}
