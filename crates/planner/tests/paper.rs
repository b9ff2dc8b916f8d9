//! One test per sentence of §3.2, and of step 1 of §3.3.2, that says something about the placement.

use transhume_model::{Capacity, Demand, HostName, Mebibytes, Vcpus};
use transhume_planner::{
    BatchError, NoSolution, Offer, Offers, Placement, Request, Resource, Shortage, Strategy, batches, place,
};

fn capacity(vcpus: u64, memory: u64) -> Capacity {
    Capacity {
        vcpus: Vcpus(vcpus),
        memory: Mebibytes(memory),
    }
}

fn offers(hosts: &[(&str, u64, u64)]) -> Offers {
    let offer = |(name, vcpus, memory): &(&str, u64, u64)| Offer {
        host: name.parse().unwrap(),
        free: capacity(*vcpus, *memory),
    };
    Offers::new(hosts.iter().map(offer)).unwrap()
}

fn request(vm: &str, source: &str, vcpus: u64, memory: u64) -> Request {
    Request {
        vm: vm.parse().unwrap(),
        source: source.parse().unwrap(),
        demand: Demand {
            vcpus: Vcpus(vcpus),
            memory: Mebibytes(memory),
        },
    }
}

fn solve(hosts: &[(&str, u64, u64)], requests: &[Request]) -> Result<Placement, NoSolution> {
    place(&offers(hosts), requests, Strategy::Paper)
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

/// "the message B contains the count of free resources incremented by the count of virtual machines
/// with the same ID running on X"
#[test]
fn the_clusters_own_vms_count_as_free_on_their_host() {
    // h2 has nothing free, but its own VM may stay.
    let placement = solve(&[("h2", 0, 0)], &[request("vm-1", "h2", 2, 512)]).unwrap();
    assert!(placement.moves[0].stays());
}

/// "S_1 may have same common items with S_2"
#[test]
fn a_vm_on_a_host_in_both_sets_stays_when_that_costs_no_host() {
    let requests = [request("vm-1", "h1", 1, 256), request("vm-2", "h2", 1, 256)];
    let placement = solve(&[("h2", 8, 4096), ("h3", 9, 4096)], &requests).unwrap();
    assert_eq!(placement.hosts_used, 1);
}

/// "nodes with the highest amount of resources will be used first"
#[test]
fn the_host_with_most_free_resources_is_used_first() {
    let placement = solve(
        &[("small", 4, 2048), ("large", 16, 8192)],
        &[request("vm-1", "h1", 1, 256)],
    )
    .unwrap();
    assert_eq!(placement.moves[0].target, host("large"));
}

/// "let us make M(S1, S2) with minimal N(S2)"
#[test]
fn the_fewest_hosts_are_used_and_proved() {
    let requests: Vec<Request> = [5, 4, 3, 3, 2]
        .iter()
        .enumerate()
        .map(|(i, v)| request(&format!("vm-{i}"), "h0", *v, v * 256))
        .collect();
    let placement = solve(&[("h1", 10, 2560), ("h2", 7, 1792), ("h3", 7, 1792)], &requests).unwrap();
    assert_eq!(placement.hosts_used, 2);
    assert!(placement.is_proved_minimal());
}

/// "until all items of S_1 are mapped onto S_2"
#[test]
fn every_vm_is_mapped_within_what_is_offered() {
    let requests: Vec<Request> = (0..40)
        .map(|i| request(&format!("vm-{i}"), "h0", 2, 512))
        .collect();
    let hosts: Vec<(String, u64, u64)> = (1..=4).map(|i| (format!("t{i}"), 20, 5120)).collect();
    let hosts: Vec<(&str, u64, u64)> = hosts.iter().map(|(n, v, m)| (n.as_str(), *v, *m)).collect();
    let placement = solve(&hosts, &requests).unwrap();
    assert_eq!((placement.moves.len(), placement.hosts_used), (40, 4));
    for (name, free) in offers(&hosts).iter() {
        let on_it = placement.moves.iter().filter(|m| m.target == *name);
        let (vcpus, memory) = on_it.fold((0, 0), |(v, m), x| (v + x.demand.vcpus.0, m + x.demand.memory.0));
        assert!(
            vcpus <= free.vcpus.0 && memory <= free.memory.0,
            "{name} holds too much"
        );
    }
}

/// "the verification relative to the intended migration solution existence is performed"
#[test]
fn what_is_short_is_named_with_amount_and_vm() {
    let two = [request("vm-1", "h0", 2, 512), request("vm-2", "h0", 2, 512)];
    assert_eq!(
        solve(&[("h1", 2, 4096), ("h2", 1, 4096)], &two),
        Err(NoSolution::Total {
            hosts: 2,
            short: Shortage {
                resource: Resource::Vcpus,
                by: 1
            },
            vm: "vm-2".parse().unwrap(),
        })
    );
    let error = solve(&[("h1", 8, 200), ("h2", 1, 300)], &two).unwrap_err();
    assert_eq!(
        error.to_string(),
        "VM vm-1 fits no target: the nearest is h2, short of 1 vCPU and 212 MiB of memory"
    );
}

/// "(If the solution does not exist the set S_2 must be modified.)"
#[test]
fn enough_in_all_but_not_host_by_host_is_told_apart() {
    let requests = [
        request("vm-1", "h0", 4, 1),
        request("vm-2", "h0", 3, 1),
        request("vm-3", "h0", 3, 1),
    ];
    let error = solve(&[("h1", 5, 9), ("h2", 5, 9)], &requests).unwrap_err();
    assert!(matches!(error, NoSolution::Fragmented { .. }), "{error}");
    assert!(solve(&[("h1", 5, 9), ("h2", 5, 9), ("h3", 3, 9)], &requests).is_ok());
}

#[test]
fn no_targets_and_double_requests_are_refused() {
    let vm = request("vm-1", "h0", 1, 1);
    assert_eq!(
        solve(&[], std::slice::from_ref(&vm)),
        Err(NoSolution::NoTargets { vms: 1 })
    );
    let twice = [vm.clone(), vm];
    assert!(matches!(
        solve(&[("h1", 9, 9)], &twice),
        Err(NoSolution::DuplicateVm(_))
    ));
}

/// "Select k virtual machines from V, ... 0 < k < N(V), ... and remove these virtual machines from
/// V"
#[test]
fn batches_hold_every_moving_vm_once() {
    let requests: Vec<Request> = (0..5).map(|i| request(&format!("vm-{i}"), "h0", 1, 64)).collect();
    let placement = solve(&[("h1", 8, 4096)], &requests).unwrap();
    let sizes = |k| -> Vec<usize> {
        let batches = batches(&placement, k).unwrap();
        batches.iter().map(|b| b.moves.len()).collect()
    };
    assert_eq!(sizes(2), [2, 2, 1]);
    assert_eq!(sizes(5), [5], "k = N(V): the whole cluster at once");
    assert_eq!(batches(&placement, 0), Err(BatchError::Zero { vms: 5 }));
    assert_eq!(batches(&placement, 6), Err(BatchError::TooLarge { k: 6, vms: 5 }));
}

/// Both copies of a VM exist until its batch commits.
#[test]
fn a_place_given_up_is_used_one_batch_later() {
    // h2 is full with vm-b, which must leave for h3 before vm-a can come.
    let requests = [request("vm-a", "h1", 4, 100), request("vm-b", "h2", 2, 50)];
    let mut placement = solve(&[("h2", 2, 50), ("h3", 2, 50)], &requests).unwrap();
    assert_eq!(placement.moves[0].target, host("h2"));
    assert_eq!(placement.moves[1].target, host("h3"));
    let rounds = batches(&placement, 2).unwrap();
    let order: Vec<&str> = rounds.iter().flat_map(|b| b.vms().map(|v| v.as_str())).collect();
    assert_eq!((rounds.len(), order), (2, vec!["vm-b", "vm-a"]));

    // Two that swap hosts without a spare one can never start.
    placement.moves[0].target = host("h2");
    placement.moves[1].target = host("h1");
    placement.free = [(host("h1"), capacity(0, 0)), (host("h2"), capacity(1, 10))].into();
    let error = batches(&placement, 1).unwrap_err();
    assert!(
        matches!(&error, BatchError::Cycle { waiting } if waiting.len() == 2),
        "{error}"
    );
}

/// The default strategy finds what the paper's misses, with the same types.
#[test]
fn the_exact_strategy_uses_fewer_hosts_where_the_papers_list_misleads() {
    let offered = offers(&[("wide", 2, 9), ("tall", 4, 2)]);
    let requests = [request("vm-1", "h0", 2, 1), request("vm-2", "h0", 2, 1)];
    let by = |strategy| place(&offered, &requests, strategy).unwrap();
    assert_eq!(
        (by(Strategy::Paper).hosts_used, by(Strategy::Exact).hosts_used),
        (2, 1)
    );
    assert!(!by(Strategy::Paper).is_proved_minimal() && by(Strategy::Exact).is_proved_minimal());
    assert_eq!(batches(&by(Strategy::default()), 2).unwrap().len(), 1);
}

/// Both strategies explain what is short in the same words.
#[test]
fn the_exact_strategy_explains_as_well() {
    let offered = offers(&[("h1", 5, 9), ("h2", 5, 9)]);
    let requests = [4, 3, 3].iter().enumerate();
    let requests: Vec<Request> = requests
        .map(|(i, v)| request(&format!("vm-{i}"), "h0", *v, 1))
        .collect();
    let by = |strategy| place(&offered, &requests, strategy).unwrap_err().to_string();
    assert_eq!(by(Strategy::Exact), by(Strategy::Paper));
}
