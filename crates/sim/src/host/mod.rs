//! A simulated host: processes, taps, spools and records, which survive the agent, and the agent,
//! which does not.

pub(crate) mod disk;
pub(crate) mod qemu;
pub(crate) mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use transhume_agent_core::{Act, Effect, Machine, Ticket};
use transhume_model::{Capacity, Endpoint, HostName, Secret};
use transhume_protocol::message::{HostState, PROTOCOL_VERSION, SourceFrames};

use self::disk::Disk;
use self::qemu::Qemu;
use self::tap::{SourceSpool, Tap, TargetSpool};
use crate::network::{HostIx, Micros, VmIx};

/// What of a VM is on a host, whoever knows of it. All of it carries the VM's mark.
#[derive(Debug, Default)]
pub(crate) struct Things {
    pub(crate) qemu: Option<Qemu>,
    pub(crate) tap: Option<Tap>,
    pub(crate) source_spool: Option<SourceSpool>,
    pub(crate) target_spool: Option<TargetSpool>,
}

impl Things {
    pub(crate) fn is_empty(&self) -> bool {
        self.qemu.is_none() && !self.have_files()
    }

    pub(crate) fn have_files(&self) -> bool {
        self.tap.is_some() || self.source_spool.is_some() || self.target_spool.is_some()
    }

    pub(crate) fn runs(&self) -> bool {
        self.qemu.as_ref().is_some_and(Qemu::runs)
    }
}

/// Where a source's buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Open,
    Shut,
    Capturing,
    /// The way back: nothing is captured.
    Stopped,
}

/// The agent's half of a source's buffer.
#[derive(Debug)]
pub(crate) struct SourceBuffer {
    pub(crate) stage: Stage,
    pub(crate) committed: bool,
    /// Where it is to be connected to.
    pub(crate) peer: Option<Endpoint>,
    pub(crate) tunnel: Option<u64>,
    /// So many of the spool went into this tunnel.
    pub(crate) sent: u64,
    pub(crate) fin_sent: bool,
    pub(crate) marker_seen: bool,
    pub(crate) lingered: bool,
    pub(crate) finishing: bool,
    /// The target said that all is delivered.
    pub(crate) finished: bool,
    /// Pause before it connects again.
    pub(crate) pause: Micros,
}

impl SourceBuffer {
    pub(crate) fn new(stage: Stage) -> Self {
        SourceBuffer {
            stage,
            committed: false,
            peer: None,
            tunnel: None,
            sent: 0,
            fin_sent: false,
            marker_seen: false,
            lingered: false,
            finishing: false,
            finished: false,
            pause: 0,
        }
    }
}

/// The agent's half of a target's buffer.
#[derive(Debug)]
pub(crate) struct TargetBuffer {
    pub(crate) address: Endpoint,
    pub(crate) tunnel: Option<u64>,
}

/// An act that has begun.
#[derive(Debug)]
pub(crate) struct Doing {
    pub(crate) effect: Effect,
    /// It has taken effect and waits for something.
    pub(crate) waits: bool,
}

/// One VM in an agent's memory.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) machine: Machine,
    pub(crate) queue: VecDeque<Effect>,
    /// One after the other.
    pub(crate) doing: Option<Doing>,
    /// Beside it.
    pub(crate) finishing: Option<Doing>,
    pub(crate) source: Option<SourceBuffer>,
    pub(crate) target: Option<TargetBuffer>,
    /// Where the page stream is listened for.
    pub(crate) listener: Option<Endpoint>,
    pub(crate) stream: Option<u64>,
    /// What everything of it was ended with: the account is given again to whoever asks again.
    pub(crate) account: Option<SourceFrames>,
}

impl Slot {
    pub(crate) fn new(machine: Machine) -> Self {
        Slot {
            machine,
            queue: VecDeque::new(),
            doing: None,
            finishing: None,
            source: None,
            target: None,
            listener: None,
            stream: None,
            account: None,
        }
    }

    pub(crate) fn begun(&mut self, ticket: Ticket) -> Option<&mut Doing> {
        let mut begun = self.doing.iter_mut().chain(&mut self.finishing);
        begun.find(|doing| doing.effect.ticket == ticket)
    }

    /// The act of this kind that waits.
    pub(crate) fn waiting(&self, is: impl Fn(&Act) -> bool) -> Option<Ticket> {
        let mut begun = self.doing.iter().chain(&self.finishing);
        let found = begun.find(|doing| doing.waits && is(&doing.effect.act));
        found.map(|doing| doing.effect.ticket)
    }

    /// Its act is answered.
    pub(crate) fn answered(&mut self, ticket: Ticket) -> bool {
        for place in [&mut self.doing, &mut self.finishing] {
            if place.as_ref().is_some_and(|doing| doing.effect.ticket == ticket) {
                *place = None;
                return true;
            }
        }
        false
    }
}

/// One life of an agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) run: u64,
    pub(crate) slots: BTreeMap<VmIx, Slot>,
}

/// A physical host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: HostName,
    pub(crate) things: Vec<Things>,
    pub(crate) disk: Disk,
    pub(crate) agent: Option<Agent>,
    /// For good, with everything on it.
    pub(crate) lost: bool,
    /// Its power is back, it is not up yet.
    pub(crate) booting: bool,
    pub(crate) partitioned: bool,
    /// Its clock is off by so many microseconds.
    pub(crate) clock_off: i64,
    pub(crate) pids: u32,
}

impl Host {
    pub(crate) fn new(name: HostName, vms: usize, run: u64) -> Self {
        Host {
            name,
            things: (0..vms).map(|_| Things::default()).collect(),
            disk: Disk::new(vms),
            agent: Some(Agent {
                run,
                slots: BTreeMap::new(),
            }),
            lost: false,
            booting: false,
            partitioned: false,
            clock_off: 0,
            pids: 100,
        }
    }

    pub(crate) fn run(&self) -> Option<u64> {
        self.agent.as_ref().map(|agent| agent.run)
    }

    pub(crate) fn slot(&self, vm: VmIx) -> Option<&Slot> {
        self.agent.as_ref()?.slots.get(&vm)
    }

    pub(crate) fn slot_mut(&mut self, vm: VmIx) -> Option<&mut Slot> {
        self.agent.as_mut()?.slots.get_mut(&vm)
    }

    /// What its agent says of itself.
    pub(crate) fn state(&self) -> HostState {
        let slots = self.agent.iter().flat_map(|agent| agent.slots.values());
        let machines: Vec<&Machine> = slots.map(|slot| &slot.machine).collect();
        HostState {
            protocol: PROTOCOL_VERSION,
            release: None,
            host: self.name.clone(),
            agent_run: self.run().unwrap_or_default(),
            capacity: Capacity::default(),
            free: Capacity::default(),
            qemu: None,
            qemu_error: None,
            mtu_max: 1500,
            vms: machines.iter().filter_map(|machine| machine.vm_state()).collect(),
            stranded: machines
                .iter()
                .filter_map(|machine| machine.stranded_state())
                .collect(),
            bands: None,
            no_throttle: None,
            insecure: true,
            certificate: None,
            dirty: BTreeMap::new(),
        }
    }
}

/// An address that says where it is: host, VM and a number of its own.
pub(crate) fn address(name: HostName, host: HostIx, vm: VmIx, serial: u64) -> Endpoint {
    let bits = (0xfd << 120) | ((host as u128) << 96) | ((vm as u128) << 64) | u128::from(serial);
    Endpoint {
        host: name,
        address: SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bits)), 1),
        secret: Secret::new(bits.to_be_bytes()),
    }
}

/// The host that an address is on.
pub(crate) fn host_of(end: &Endpoint) -> HostIx {
    match end.address.ip() {
        IpAddr::V6(ip) => ((u128::from(ip) >> 96) & 0xff_ffff) as HostIx,
        IpAddr::V4(_) => unreachable!("the simulation's addresses are IPv6"),
    }
}
