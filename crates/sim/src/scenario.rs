//! What is simulated: hosts, VMs, their guests, batches and faults.

use std::str::FromStr;

use transhume_model::{
    Boot, ClusterName, Epoch, HostName, Mac, Mebibytes, MigrationId, NicSpec, Vcpus, VmName, VmSpec,
};
use transhume_protocol::message::{GuestState, Mode};
use transhume_protocol::migration::{Converge, Limits, MoveRequest, MoveVm};
use transhume_protocol::step::ORDERS;

use crate::fault::{ActFault, Fault, Mischief, OrderFault, Place, PowerLoss, Weather, WriteFault};
use crate::random::Random;

/// Acts of a move, on either side.
const ACTS_OF_A_MOVE: [&str; 18] = [
    "admit",
    "spawn",
    "open-page-listener",
    "open-page-stream",
    "start-migration",
    "open-source-buffer",
    "open-target-buffer",
    "connect-source-buffer",
    "shut-source-buffer",
    "stop",
    "capture",
    "finish-copy",
    "await-loaded",
    "run-arrived",
    "activate-buffer",
    "surrender",
    "finish-source-buffer",
    "finish-target-buffer",
];

/// What a guest does when the move begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestKind {
    /// It runs and takes its frames.
    Healthy,
    /// Its user paused it.
    Paused,
    /// It panicked.
    Panicked,
    /// QEMU stopped it on a disk error.
    DiskError,
    /// It runs and takes no frames.
    Deaf,
    /// It is powered off.
    Off,
}

impl GuestKind {
    /// As its agent says it.
    fn state(self) -> GuestState {
        match self {
            GuestKind::Healthy | GuestKind::Deaf => GuestState::Running,
            GuestKind::Paused => GuestState::Paused,
            GuestKind::Panicked => GuestState::Panicked,
            GuestKind::DiskError => GuestState::DiskError,
            GuestKind::Off => GuestState::Off,
        }
    }
}

/// One run to be made.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Every chance in the run comes from it.
    pub seed: u64,
    /// N(V): the VMs are `vm1` …, spread evenly.
    pub vms: usize,
    /// k: batches of this many.
    pub batch: usize,
    /// N(S1): the sources are `s1` ….
    pub sources: usize,
    /// N(S2): the targets are `t1` ….
    pub targets: usize,
    /// Live or offline.
    pub mode: Mode,
    /// What becomes of a VM that does not get ready.
    pub converge: Converge,
    /// Whether batches that are to come may be cut anew, with so many VMs at most.
    pub batch_max: Option<usize>,
    /// What the guests do, one after the other and again from the first.
    pub guests: Vec<GuestKind>,
    /// Longest pause between two frames for one VM while it is being switched over.
    pub frame_gap_micros_max: u64,
    /// Aimed faults.
    pub faults: Vec<Fault>,
    /// Faults by chance.
    pub weather: Weather,
}

impl Scenario {
    /// `vms` VMs in batches of `batch` from two hosts to two, without faults.
    pub fn calm(seed: u64, vms: usize, batch: usize) -> Self {
        Scenario {
            seed,
            vms,
            batch,
            sources: 2,
            targets: 2,
            mode: Mode::Live,
            converge: Converge::Wait,
            batch_max: None,
            guests: vec![GuestKind::Healthy],
            frame_gap_micros_max: 3_000,
            faults: Vec::new(),
            weather: Weather::default(),
        }
    }

    /// A move in a storm that the seed makes up: how many VMs, what their guests do, which kinds of
    /// fault there are and how often. A storm has a few kinds only, so that each is seen alone,
    /// too.
    pub fn storm(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5707_0000_0000_0000);
        let vms = random.between(1, 5) as usize;
        let batch = random.between(1, vms as u64) as usize;
        let offline = random.happens(100_000);
        Scenario {
            mode: if offline { Mode::Offline } else { Mode::Live },
            sources: random.between(1, vms.min(2) as u64) as usize,
            targets: random.between(1, vms.min(2) as u64) as usize,
            converge: *random.pick(&[Converge::Wait, Converge::Shrink, Converge::Stop]),
            batch_max: random.happens(500_000).then_some(vms),
            guests: guests(&mut random),
            weather: weather(&mut random),
            ..Scenario::calm(seed, vms, batch)
        }
    }

    /// A move in which one host loses its power, at a step, an act or an instant that the seed
    /// makes up: a source, a target, or one that has no part in what is under way. Sometimes the
    /// coordinator is killed as well.
    pub fn power_loss(seed: u64, loss: PowerLoss) -> Self {
        let mut random = Random::new(seed ^ 0x0ff0_0000_0000_0000);
        let vms = random.between(1, 4) as usize;
        let batch = random.between(1, vms as u64) as usize;
        let vm = random.between(0, vms as u64 - 1) as usize;
        let (order, act, strike) = match loss {
            PowerLoss::ForGood => (OrderFault::HostDies, ActFault::HostDies, Mischief::HostDies),
            PowerLoss::ComesBack => (
                OrderFault::HostReboots,
                ActFault::HostReboots,
                Mischief::HostReboots,
            ),
        };
        let mut weather = Weather::default();
        let faults = match random.between(0, 5) {
            0 | 1 => vec![Fault::Order {
                vm,
                order: random.pick(&ORDERS).order,
                what: order,
            }],
            2 | 3 => vec![Fault::Act {
                vm,
                place: *random.pick(&[Place::Source, Place::Target]),
                act: ACTS_OF_A_MOVE[random.between(0, ACTS_OF_A_MOVE.len() as u64 - 1) as usize],
                what: act,
            }],
            _ => {
                (weather.until_ms, weather.strike_ms_max) = (2_000, random.between(50, 1_500));
                weather.strikes = vec![strike];
                Vec::new()
            }
        };
        if random.happens(250_000) {
            weather.until_ms = 60_000;
            weather.coordinator_dies = *random.pick(&[2_000, 20_000]);
        }
        Scenario {
            mode: if random.happens(100_000) {
                Mode::Offline
            } else {
                Mode::Live
            },
            sources: random.between(1, vms.min(2) as u64) as usize,
            targets: random.between(1, vms.min(2) as u64) as usize,
            guests: guests(&mut random),
            faults,
            weather,
            ..Scenario::calm(seed, vms, batch)
        }
    }

    /// The same with one source and one target.
    pub(crate) fn with_one_pair(self) -> Self {
        Scenario {
            sources: 1,
            targets: 1,
            ..self
        }
    }

    pub(crate) fn guest(&self, index: usize) -> GuestKind {
        self.guests[index % self.guests.len()]
    }

    pub(crate) fn request(&self) -> MoveRequest {
        let vms: Vec<MoveVm> = (0..self.vms)
            .map(|index| MoveVm {
                powered_off: self.guest(index) == GuestKind::Off,
                guest: self.guest(index).state(),
                need: None,
                round: index / (2 * self.batch),
                spec: spec(index),
                source: host("s", index % self.sources),
                target: host("t", index % self.targets),
            })
            .collect();
        MoveRequest {
            migration: MigrationId(1),
            cluster: name("herd"),
            mode: self.mode,
            epoch: Epoch(2),
            from: (0..self.sources).map(|index| host("s", index)).collect(),
            to: (0..self.targets).map(|index| host("t", index)).collect(),
            batches: vms.chunks(self.batch).map(<[MoveVm]>::to_vec).collect(),
            limits: Limits::default(),
            duration_ms_max: None,
            converge: self.converge,
            batch_max: self.batch_max,
            forecast: None,
        }
    }
}

fn guests(random: &mut Random) -> Vec<GuestKind> {
    const ODD: [GuestKind; 5] = [
        GuestKind::Paused,
        GuestKind::Panicked,
        GuestKind::DiskError,
        GuestKind::Deaf,
        GuestKind::Off,
    ];
    let odd_ones = random.happens(300_000);
    (0..5)
        .map(|_| match odd_ones && random.happens(400_000) {
            true => *random.pick(&ODD),
            false => GuestKind::Healthy,
        })
        .collect()
}

fn some<T: Copy>(random: &mut Random, of: &[T]) -> Vec<T> {
    let how_many = random.between(1, 4);
    (0..how_many).map(|_| *random.pick(of)).collect()
}

fn weather(random: &mut Random) -> Weather {
    const ACTS: [ActFault; 8] = [
        ActFault::Fails,
        ActFault::FailsAfter,
        ActFault::Hangs,
        ActFault::Late,
        ActFault::AnsweredTwice,
        ActFault::AgentDiesBefore,
        ActFault::AgentDiesAfter,
        ActFault::QemuDies,
    ];
    const WRITES: [WriteFault; 5] = [
        WriteFault::Fails,
        WriteFault::DiskFull,
        WriteFault::AgentDiesBefore,
        WriteFault::AgentDiesAfter,
        WriteFault::Unreadable,
    ];
    let mut rate = |kinds: &[u32]| *random.pick(kinds);
    let (act, write) = (rate(&[0, 1_500, 6_000, 30_000]), rate(&[0, 2_000, 15_000]));
    let (link_breaks, comes_twice) = (rate(&[0, 0, 1_500, 8_000]), rate(&[0, 10_000, 100_000]));
    let (coordinator_dies, tunnel_breaks) = (rate(&[0, 0, 2_000, 10_000]), rate(&[0, 1_000]));
    let mut strikes = some(random, &Mischief::CURABLE);
    if random.happens(60_000) {
        strikes.push(Mischief::HostDies);
    }
    Weather {
        until_ms: *random.pick(&[600, 1_500, 4_000, 30_000]),
        act,
        acts: some(random, &ACTS),
        write,
        writes: some(random, &WRITES),
        link_breaks,
        comes_twice,
        coordinator_dies,
        tunnel_breaks,
        strike_ms_max: *random.pick(&[0, 300, 1_000, 3_000, 10_000]),
        strikes,
    }
}

fn name<N: FromStr<Err = transhume_model::IdError>>(text: &str) -> N {
    text.parse().expect("the simulation's names are well-formed")
}

/// The VM with this index, from 0.
pub(crate) fn vm_name(index: usize) -> VmName {
    name(&format!("vm{}", index + 1))
}

fn host(side: &str, index: usize) -> HostName {
    name(&format!("{side}{}", index + 1))
}

/// The VM with this index, from 0.
pub(crate) fn spec(index: usize) -> VmSpec {
    let [.., c, d] = (index as u32).to_be_bytes();
    VmSpec {
        name: vm_name(index),
        cluster: name::<ClusterName>("herd"),
        vcpus: Vcpus(1),
        memory: Mebibytes(96),
        machine: None,
        nics: vec![NicSpec {
            mac: Mac::new([0x52, 0x54, 0, 0, c, d]).expect("a unicast address"),
            mtu: 1500,
        }],
        disks: Vec::new(),
        boot: Boot {
            kernel: "/boot/k".into(),
            initrd: "/boot/i".into(),
            cmdline: String::new(),
        },
    }
}
