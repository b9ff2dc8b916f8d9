//! Instances for tests and benchmarks, each from a seed that is printed with the results.

mod packings;

use std::collections::BTreeMap;

pub use packings::{NAMES, named, perfect, trace};
use transhume_model::{HostName, VmName};

use crate::input::{
    Amount, Amounts, Bands, Cluster, Group, GroupKind, Host, MEMORY, MemoryFigures, PlanInput, Traffic, Vm,
};

/// A small deterministic generator (xorshift64*).
pub struct Seeded(u64);

impl Seeded {
    /// Different seeds give different sequences.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        low + (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % (high - low + 1)
    }

    /// Every order is as likely.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.between(0, i as u64) as usize);
        }
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }
}

fn host_name(i: usize) -> HostName {
    format!("h{i}").parse().expect("a letter and digits")
}

fn vm_name(i: usize) -> VmName {
    format!("vm-{i}").parse().expect("letters and digits")
}

fn amounts(names: &[&str], units: &[u64]) -> Amounts {
    let pairs = names.iter().zip(units);
    pairs
        .map(|(name, units)| ((*name).to_owned(), Amount::units(*units)))
        .collect()
}

fn host(name: HostName, capacity: Amounts) -> Host {
    Host {
        name,
        capacity,
        overcommit: BTreeMap::new(),
        used: Amounts::new(),
        labels: BTreeMap::new(),
        cpu_model: None,
        maintenance: false,
        bands: Bands::default(),
    }
}

fn vm(name: VmName, on: HostName, demand: Amounts) -> Vm {
    Vm {
        name,
        host: on,
        demand,
        pin: Vec::new(),
        selector: BTreeMap::new(),
        cpu_models: Vec::new(),
        weight: 1,
        storage_mbit_s: Amount::default(),
        memory: MemoryFigures::default(),
    }
}

fn input(hosts: Vec<Host>, vms: Vec<Vm>) -> PlanInput {
    PlanInput {
        hosts,
        cluster: Cluster {
            name: "generated".parse().expect("letters"),
            vms,
            groups: Vec::new(),
            traffic: Vec::new(),
        },
        from: Vec::new(),
        to: Vec::new(),
    }
}

/// Falkenauer's bin packing triplets: hosts of 1000, three VMs fill each exactly, sizes 250 to 499.
pub fn triplets(vms: usize, seed: u64) -> PlanInput {
    let mut rng = Seeded::new(seed);
    let mut sizes = Vec::new();
    while sizes.len() < vms {
        let first = rng.between(380, 490);
        let second = rng.between(250, (1000 - first) / 2);
        sizes.extend([first, second, 1000 - first - second]);
    }
    rng.shuffle(&mut sizes);
    // The hosts to leave are one, in maintenance; as many targets as could be needed.
    let mut hosts = vec![host(host_name(0), amounts(&["vcpus", "memory"], &[1, 1]))];
    hosts[0].maintenance = true;
    hosts.extend(
        (1..=sizes.len() / 2).map(|i| host(host_name(i), amounts(&["vcpus", "memory"], &[1000, 1000]))),
    );
    let vms = sizes.iter().take(vms).enumerate();
    let vms = vms.map(|(i, s)| vm(vm_name(i), host_name(0), amounts(&["vcpus", "memory"], &[1, *s])));
    input(hosts, vms.collect())
}

/// A data centre: VMs of `vm_kinds` kinds spread over hosts of `host_kinds` kinds, some kept apart
/// in groups of up to four.
#[derive(Debug, Clone, Copy)]
pub struct DataCentre {
    /// VMs.
    pub vms: usize,
    /// Kinds of VMs; 0: each VM is different.
    pub vm_kinds: usize,
    /// Hosts.
    pub hosts: usize,
    /// Kinds of hosts.
    pub host_kinds: usize,
    /// Resources, 1 to 4.
    pub resources: usize,
    /// Share of VMs in anti-affinity groups, percent.
    pub anti_affinity_percent: u64,
}

/// A data centre from a seed. Every VM has a home, more loosely packed than need be; all hosts are
/// source and target.
pub fn data_centre(shape: DataCentre, seed: u64) -> PlanInput {
    let mut rng = Seeded::new(seed);
    let names = &["vcpus", "memory", "nic", "hugepages"][..shape.resources];
    let draw = |rng: &mut Seeded| {
        let vcpus = rng.between(1, 8);
        let memory = vcpus * 1024 * rng.between(1, 8);
        vec![vcpus, memory, rng.between(50, 1200), 16 * rng.between(0, 8)]
    };
    let vm_units: Vec<Vec<u64>> = (0..shape.vm_kinds).map(|_| draw(&mut rng)).collect();
    // About three quarters of all hosts would do.
    let per_host = (shape.vms as u64 * 4).div_ceil(shape.hosts as u64 * 3).max(2);
    let host_units: Vec<Vec<u64>> = (0..shape.host_kinds)
        .map(|_| {
            let large = rng.between(90, 130);
            let scaled = |mean: u64| mean * per_host * large / 100;
            vec![
                scaled(5),
                scaled(22_000),
                scaled(rng.between(600, 700)),
                scaled(70),
            ]
        })
        .collect();
    let hosts: Vec<Host> = (0..shape.hosts)
        .map(|i| {
            host(
                host_name(i),
                amounts(names, &host_units[i % shape.host_kinds][..shape.resources]),
            )
        })
        .collect();
    let mut free: Vec<Vec<u64>> = (0..shape.hosts)
        .map(|i| host_units[i % shape.host_kinds].clone())
        .collect();
    let mut vms = Vec::new();
    for i in 0..shape.vms {
        let units = match shape.vm_kinds {
            0 => draw(&mut rng),
            kinds => vm_units[rng.between(0, kinds as u64 - 1) as usize].clone(),
        };
        // Next host with room, from a random one on.
        let start = rng.between(0, shape.hosts as u64 - 1) as usize;
        let fits = |h: &usize| {
            units
                .iter()
                .zip(&free[*h])
                .take(shape.resources)
                .all(|(u, f)| u <= f)
        };
        let home = (0..shape.hosts)
            .map(|k| (start + k) % shape.hosts)
            .find(fits)
            .unwrap_or(start);
        free[home]
            .iter_mut()
            .zip(&units)
            .for_each(|(f, u)| *f = f.saturating_sub(*u));
        vms.push(vm(
            vm_name(i),
            host_name(home),
            amounts(names, &units[..shape.resources]),
        ));
    }
    let mut input = input(hosts, vms);
    let mut next = 0;
    let apart = shape.vms * shape.anti_affinity_percent as usize / 100;
    while next + 1 < apart {
        let members = (rng.between(2, 4) as usize).min(apart - next);
        input.cluster.groups.push(Group {
            name: format!("apart-{next}"),
            kind: GroupKind::AntiAffinity,
            vms: (next..next + members.max(2)).map(vm_name).collect(),
        });
        next += members.max(2);
    }
    input
}

/// A site of equal hosts with one VM each, of which one host is left.
pub fn drain_one_of_many(hosts: usize) -> PlanInput {
    let names = ["vcpus", "memory"];
    let all = (0..hosts).map(|i| host(host_name(i), amounts(&names, &[64, 524_288])));
    let vms = (0..hosts).map(|i| vm(vm_name(i), host_name(i), amounts(&names, &[4, 16_384])));
    let mut input = input(all.collect(), vms.collect());
    input.from = vec![host_name(0)];
    input
}

/// A site of `hosts` hosts with `per_host` VMs each, of which the first `rack` hosts are left; the
/// VMs are of many kinds, the hosts about half full.
pub fn drain_a_rack(hosts: usize, per_host: usize, rack: usize, seed: u64) -> PlanInput {
    let mut rng = Seeded::new(seed);
    let names = ["vcpus", "memory"];
    let all = (0..hosts).map(|i| host(host_name(i), amounts(&names, &[128, 1_048_576])));
    let vms = (0..hosts * per_host).map(|i| {
        let vcpus = rng.between(1, 8);
        let demand = amounts(&names, &[vcpus, vcpus * 1024 * rng.between(2, 16)]);
        vm(vm_name(i), host_name(i / per_host), demand)
    });
    let vms = vms.collect();
    let mut input = input(all.collect(), vms);
    input.from = (0..rack).map(host_name).collect();
    input
}

/// Islands of nearly full hosts: every VM is to leave its host for another one of its island.
pub fn islands(count: usize, hosts: usize, seed: u64) -> PlanInput {
    let mut rng = Seeded::new(seed);
    let (mut all, mut vms) = (Vec::new(), Vec::new());
    for island in 0..count {
        let names: Vec<HostName> = (0..hosts).map(|h| host_name(island * hosts + h)).collect();
        for (h, name) in names.iter().enumerate() {
            let sizes: Vec<u64> = (0..4).map(|_| 1024 * rng.between(5, 9)).collect();
            let spare = if h == 0 { 5 * 1024 } else { 512 };
            let room = sizes.iter().sum::<u64>() + spare;
            all.push(host(name.clone(), amounts(&["vcpus", "memory"], &[64, room])));
            for size in sizes {
                let mut one = vm(
                    vm_name(vms.len()),
                    name.clone(),
                    amounts(&["vcpus", "memory"], &[1, size]),
                );
                one.pin = names.iter().filter(|other| *other != name).cloned().collect();
                vms.push(one);
            }
        }
    }
    input(all, vms)
}

/// A small cluster with every kind of constraint, for comparison with trying everything.
pub fn small(seed: u64) -> PlanInput {
    let mut rng = Seeded::new(seed);
    let resources = &["memory", "vcpus", "nic"][..rng.between(1, 3) as usize];
    let hosts = rng.between(1, 4) as usize;
    let vms = rng.between(1, 7) as usize;
    let tight = rng.between(4, 9);
    let drawn = |rng: &mut Seeded, low, high| -> Vec<u64> {
        resources.iter().map(|_| rng.between(low, high)).collect()
    };
    let hosts: Vec<Host> = (0..hosts)
        .map(|i| {
            let units = if rng.chance(50) {
                vec![16; resources.len()]
            } else {
                drawn(&mut rng, 8, 22)
            };
            let mut host = host(host_name(i), amounts(resources, &units));
            host.maintenance = rng.chance(8);
            if rng.chance(40) {
                host.labels
                    .insert("rack".into(), format!("r{}", rng.between(0, 1)));
            }
            if rng.chance(60) {
                host.cpu_model = Some(["old", "new"][rng.between(0, 1) as usize].into());
            }
            if rng.chance(20) {
                let ratio = crate::input::Ratio::thousandths(rng.between(500, 2500));
                host.overcommit
                    .insert("memory".into(), ratio.expect("0.5 to 2.5 is a ratio"));
            }
            if rng.chance(15) {
                host.used
                    .insert("memory".into(), Amount::units(rng.between(1, 5)));
            }
            host
        })
        .collect();
    let count = hosts.len() as u64;
    let list: Vec<Vm> = (0..vms)
        .map(|i| {
            let home = host_name(rng.between(0, count - 1) as usize);
            let units = if rng.chance(40) {
                vec![tight.min(5); resources.len()]
            } else {
                drawn(&mut rng, 0, tight)
            };
            let mut vm = vm(vm_name(i), home, amounts(resources, &units));
            if rng.chance(12) {
                vm.pin = (0..rng.between(1, 2))
                    .map(|_| host_name(rng.between(0, count - 1) as usize))
                    .collect();
            }
            if rng.chance(10) {
                vm.selector
                    .insert("rack".into(), format!("r{}", rng.between(0, 1)));
            }
            if rng.chance(10) {
                vm.cpu_models = vec!["new".into()];
            }
            vm
        })
        .collect();
    let mut input = input(hosts, list);
    small_relations(&mut input, &mut rng);
    if rng.chance(30) {
        input.from = (0..rng.between(1, 2))
            .map(|_| host_name(rng.between(0, count - 1) as usize))
            .collect();
    }
    if rng.chance(20) {
        input.to = (0..rng.between(1, 3))
            .map(|_| host_name(rng.between(0, count - 1) as usize))
            .collect();
    }
    if seed % 3 == 1 {
        in_odd_bytes(&mut input);
    }
    input
}

/// Memory in bytes, a million and one for a MiB: what filled a host fills it to the byte.
fn in_odd_bytes(input: &mut PlanInput) {
    let hosts = input.hosts.iter_mut();
    let of_hosts = hosts.flat_map(|host| [&mut host.capacity, &mut host.used]);
    let of_vms = input.cluster.vms.iter_mut().map(|vm| &mut vm.demand);
    for memory in of_hosts
        .chain(of_vms)
        .filter_map(|amounts| amounts.get_mut(MEMORY))
    {
        *memory = Amount::bytes(memory.as_f64() as u64 * 1_000_001);
    }
}

fn small_relations(input: &mut PlanInput, rng: &mut Seeded) {
    let vms = input.cluster.vms.len() as u64;
    if vms < 2 {
        return;
    }
    for i in 0..rng.between(0, 2) {
        let mut members: Vec<VmName> = (0..vms as usize)
            .filter(|_| rng.chance(40))
            .map(vm_name)
            .collect();
        members.truncate(3);
        if members.len() < 2 {
            continue;
        }
        let kind = if rng.chance(60) {
            GroupKind::AntiAffinity
        } else {
            GroupKind::Affinity
        };
        input.cluster.groups.push(Group {
            name: format!("g{i}"),
            kind,
            vms: members,
        });
    }
    if rng.chance(50) {
        for _ in 0..rng.between(1, 6) {
            let (a, b) = (rng.between(0, vms - 1) as usize, rng.between(0, vms - 1) as usize);
            if a != b {
                input.cluster.traffic.push(Traffic {
                    between: [vm_name(a), vm_name(b)],
                    mbit_s: Amount::units(rng.between(1, 50)),
                });
            }
        }
    }
}
