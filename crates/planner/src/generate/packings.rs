//! Instances of the tables in `docs/design/planner-figures.md` that are known by name: perfect
//! packings, and sites with the distributions of a public trace.

use super::{DataCentre, Seeded, amounts, data_centre, host, host_name, input, triplets, vm, vm_name};
use crate::input::PlanInput;

/// Full hosts taken apart: `per_host` VMs whose three resources fill a host exactly, so that as
/// many hosts as were filled are enough and fewer are not.
pub fn perfect(hosts: usize, per_host: usize, seed: u64) -> PlanInput {
    let mut rng = Seeded::new(seed);
    let names = ["vcpus", "memory", "nic"];
    // Whole vCPUs, whole GiB, Mbit/s.
    let (whole, unit) = ([128, 512, 10_000], [1, 1024, 1]);
    let mut sizes: Vec<Vec<u64>> = Vec::new();
    for _ in 0..hosts {
        let parts: Vec<Vec<u64>> = whole
            .iter()
            .map(|whole| cut(&mut rng, *whole, per_host))
            .collect();
        let of = |vm: usize| {
            parts
                .iter()
                .zip(unit)
                .map(|(part, unit)| part[vm] * unit)
                .collect()
        };
        sizes.extend((0..per_host).map(of));
    }
    rng.shuffle(&mut sizes);
    let full: Vec<u64> = whole.iter().zip(unit).map(|(whole, unit)| whole * unit).collect();
    // All leave one host, which is in maintenance; the targets are half more than suffice.
    let mut all = vec![host(host_name(0), amounts(&names, &full))];
    all[0].maintenance = true;
    all.extend((1..=hosts + hosts / 2).map(|i| host(host_name(i), amounts(&names, &full))));
    let vms = sizes.iter().enumerate();
    let vms = vms.map(|(i, size)| vm(vm_name(i), host_name(0), amounts(&names, size)));
    input(all, vms.collect())
}

/// Cuts a whole into so many parts of at least 1, at random places.
fn cut(rng: &mut Seeded, whole: u64, parts: usize) -> Vec<u64> {
    let mut places = std::collections::BTreeSet::from([0, whole]);
    while places.len() < parts + 1 {
        places.insert(rng.between(1, whole - 1));
    }
    let places: Vec<u64> = places.into_iter().collect();
    places.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// vCPUs of a VM and how many had so many in the trace; 2 GiB a vCPU.
const TRACE_VMS: [(u64, u64); 7] = [
    (2, 276),
    (4, 779),
    (8, 320),
    (16, 201),
    (32, 100),
    (64, 104),
    (88, 2),
];
/// Of each host in it: vCPUs, memory in MiB.
const TRACE_HOST: [u64; 2] = [88, 368_776];
/// vCPUs in use, of each hundred.
const TRACE_USED_PERCENT: u64 = 93;

/// A site with the distributions of one production cluster, 237 hosts and 1 782 VMs, as published
/// with VMR2L (EuroSys '25; `reset_vm_pm0.json` of its repository): VMs of seven kinds on equal
/// hosts of which 93 % is in use. NUMA nodes are not modelled. All hosts are source and target.
pub fn trace(hosts: usize, seed: u64) -> PlanInput {
    let mut rng = Seeded::new(seed);
    let names = ["vcpus", "memory"];
    let kinds: u64 = TRACE_VMS.iter().map(|(_, count)| count).sum();
    let mut free = vec![TRACE_HOST[0]; hosts];
    let mut to_fill = hosts as u64 * TRACE_HOST[0] * TRACE_USED_PERCENT / 100;
    let mut vms = Vec::new();
    while to_fill >= TRACE_VMS[0].0 {
        let mut drawn = rng.between(1, kinds);
        let kind = TRACE_VMS.iter().find(|(_, count)| {
            let found = drawn <= *count;
            drawn = drawn.saturating_sub(*count);
            found
        });
        let vcpus = kind.unwrap_or(&TRACE_VMS[0]).0;
        let start = rng.between(0, hosts as u64 - 1) as usize;
        let home = (0..hosts)
            .map(|k| (start + k) % hosts)
            .find(|h| free[*h] >= vcpus);
        // A large one that has no room any more is drawn anew.
        let Some(home) = home.filter(|_| vcpus <= to_fill) else {
            continue;
        };
        free[home] -= vcpus;
        to_fill -= vcpus;
        vms.push(vm(
            vm_name(vms.len()),
            host_name(home),
            amounts(&names, &[vcpus, vcpus * 2048]),
        ));
    }
    let all = (0..hosts).map(|i| host(host_name(i), amounts(&names, &TRACE_HOST)));
    input(all.collect(), vms)
}

/// The instances that have a name.
pub const NAMES: [&str; 12] = [
    "triplets-60",
    "triplets-249",
    "triplets-501",
    "400-all-different",
    "400-of-20-kinds",
    "100-of-10-kinds",
    "30000",
    "perfect-20x10",
    "perfect-40x10",
    "perfect-40x4",
    "trace-237",
    "trace-1176",
];

/// The instance of a name; `None` for no name.
pub fn named(name: &str, seed: u64) -> Option<PlanInput> {
    let shape = DataCentre {
        vms: 400,
        vm_kinds: 0,
        hosts: 40,
        host_kinds: 1,
        resources: 3,
        anti_affinity_percent: 0,
    };
    let of_20_kinds = DataCentre {
        vm_kinds: 20,
        host_kinds: 3,
        anti_affinity_percent: 5,
        ..shape
    };
    let middling = DataCentre {
        vms: 100,
        vm_kinds: 10,
        hosts: 20,
        host_kinds: 2,
        anti_affinity_percent: 10,
        ..shape
    };
    let large = DataCentre {
        vms: 30_000,
        vm_kinds: 40,
        hosts: 5_000,
        host_kinds: 5,
        resources: 4,
        anti_affinity_percent: 5,
    };
    Some(match name {
        "triplets-60" => triplets(60, seed),
        "triplets-249" => triplets(249, seed),
        "triplets-501" => triplets(501, seed),
        "400-all-different" => data_centre(shape, seed),
        "400-of-20-kinds" => data_centre(of_20_kinds, seed),
        "100-of-10-kinds" => data_centre(middling, seed),
        "30000" => data_centre(large, seed),
        "perfect-20x10" => perfect(20, 10, seed),
        "perfect-40x10" => perfect(40, 10, seed),
        "perfect-40x4" => perfect(40, 4, seed),
        "trace-237" => trace(237, seed),
        "trace-1176" => trace(1176, seed),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{UNIT, check};

    #[test]
    fn every_name_has_a_good_instance_and_no_other_word_has() {
        for name in NAMES {
            let made = named(name, 0).unwrap_or_else(|| panic!("{name} has no instance"));
            assert_eq!(check(&made), Ok(()), "{name}");
        }
        assert_eq!(named("perfect", 0), None);
    }

    #[test]
    fn a_perfect_packing_fills_as_many_hosts_as_were_taken_apart() {
        let made = perfect(20, 10, 7);
        assert_eq!((made.cluster.vms.len(), made.hosts.len()), (200, 31));
        for (name, of_a_host) in &made.hosts[1].capacity {
            let sum: u128 = made.cluster.vms.iter().map(|vm| vm.demand[name].parts()).sum();
            assert_eq!(sum, of_a_host.parts() * 20, "{name}");
        }
    }

    #[test]
    fn a_site_of_the_trace_is_as_full_as_the_trace() {
        let made = trace(237, 1);
        let vcpus: u128 = made.cluster.vms.iter().map(|vm| vm.demand["vcpus"].parts()).sum();
        assert_eq!(vcpus.div_ceil(237 * 88 * UNIT / 100), 93);
        assert!(
            (1_500..2_100).contains(&made.cluster.vms.len()),
            "{}",
            made.cluster.vms.len()
        );
    }
}
