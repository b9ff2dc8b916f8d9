//! One test per sentence of §3.2, and of step 1 of §3.3.2, that says something about the placement.

use std::collections::BTreeMap;

use transhume_planner::input::{PlanInput, read};
use transhume_planner::report::{Answer, Plan};
use transhume_planner::{Impossible, K, Options, Strategy, plan};

/// What each VM asks: processors and MiB.
type Asked<'a> = (&'a str, &'a str, u64, u64);

/// VMs that leave their hosts for S2, which is given with what it has free.
fn input(targets: &[(&str, u64, u64)], vms: &[Asked<'_>]) -> PlanInput {
    let amounts = |vcpus: u64, memory: u64| format!("{{vcpus: {vcpus}, memory: {memory}}}");
    let mut free: BTreeMap<&str, (u64, u64)> = vms.iter().map(|vm| (vm.1, (0, 0))).collect();
    free.extend(targets.iter().map(|target| (target.0, (target.1, target.2))));
    let mut text = String::from("hosts:\n");
    for (host, (vcpus, memory)) in &free {
        // What runs there now is not free: "incremented by the count of virtual machines with the
        // same ID running on X".
        let own = vms.iter().filter(|vm| vm.1 == *host);
        let (vcpus, memory) = own.fold((*vcpus, *memory), |(v, m), vm| (v + vm.2, m + vm.3));
        text += &format!("  - {{name: {host}, capacity: {}}}\n", amounts(vcpus, memory));
    }
    let to: Vec<&str> = targets.iter().map(|target| target.0).collect();
    let from: Vec<&str> = free
        .keys()
        .copied()
        .filter(|host| vms.iter().any(|vm| vm.1 == *host))
        .collect();
    text += &format!("from: [{}]\nto: [{}]\n", from.join(", "), to.join(", "));
    text += "cluster:\n  name: ds\n  vms:\n";
    for (vm, host, vcpus, memory) in vms {
        text += &format!(
            "    - {{name: {vm}, host: {host}, demand: {}}}\n",
            amounts(*vcpus, *memory)
        );
    }
    read("paper.yaml", &text).unwrap()
}

fn answer(input: &PlanInput, strategy: Strategy, k: K) -> Answer {
    let options = Options {
        strategy,
        k,
        strict: true,
        ..Options::default()
    };
    plan(input, &options).unwrap().answer
}

fn planned(input: &PlanInput, strategy: Strategy, k: K) -> Plan {
    match answer(input, strategy, k) {
        Answer::Planned(plan) => *plan,
        other => panic!("not planned: {other:?}"),
    }
}

fn by_paper(input: &PlanInput) -> Plan {
    planned(input, Strategy::Paper, K::All)
}

fn impossible(input: &PlanInput, strategy: Strategy) -> Impossible {
    match answer(input, strategy, K::All) {
        Answer::Impossible(why) => *why,
        other => panic!("not impossible: {other:?}"),
    }
}

fn target<'a>(plan: &'a Plan, vm: &str) -> &'a str {
    let placed = plan.placement.iter().find(|placed| placed.vm.as_str() == vm);
    placed.unwrap().target.as_str()
}

fn hosts_used(plan: &Plan) -> f64 {
    plan.targets.value.as_f64()
}

/// "the message B contains the count of free resources incremented by the count of virtual machines
/// with the same ID running on X"
#[test]
fn the_clusters_own_vms_count_as_free_on_their_host() {
    // h2 has nothing free, but its own VM may stay.
    let plan = by_paper(&input(&[("h2", 0, 0)], &[("vm-1", "h2", 2, 512)]));
    assert_eq!(target(&plan, "vm-1"), "h2");
    assert!(plan.batches.is_empty());
}

/// "S_1 may have same common items with S_2"
#[test]
fn a_vm_on_a_host_in_both_sets_stays_when_that_costs_no_host() {
    let vms = [("vm-1", "h1", 1, 256), ("vm-2", "h2", 1, 256)];
    let plan = by_paper(&input(&[("h2", 8, 4096), ("h3", 9, 4096)], &vms));
    assert_eq!(hosts_used(&plan), 1.0);
}

/// "nodes with the highest amount of resources will be used first"
#[test]
fn the_host_with_most_free_resources_is_used_first() {
    let plan = by_paper(&input(
        &[("small", 4, 2048), ("large", 16, 8192)],
        &[("vm-1", "h1", 1, 256)],
    ));
    assert_eq!(target(&plan, "vm-1"), "large");
}

/// "let us make M(S1, S2) with minimal N(S2)"
#[test]
fn the_fewest_hosts_are_used_and_proved() {
    let names: Vec<String> = (0..5).map(|i| format!("vm-{i}")).collect();
    let sizes = names.iter().zip([5, 4, 3, 3, 2]);
    let vms: Vec<Asked<'_>> = sizes.map(|(name, v)| (name.as_str(), "h0", v, v * 256)).collect();
    let hosts = [("h1", 10, 2560), ("h2", 7, 1792), ("h3", 7, 1792)];
    let plan = by_paper(&input(&hosts, &vms));
    assert_eq!(hosts_used(&plan), 2.0);
    assert!(plan.targets.optimal);
}

/// "until all items of S_1 are mapped onto S_2"
#[test]
fn every_vm_is_mapped_within_what_is_offered() {
    let names: Vec<String> = (0..40).map(|i| format!("vm-{i}")).collect();
    let vms: Vec<Asked<'_>> = names.iter().map(|name| (name.as_str(), "h0", 2, 512)).collect();
    let hosts = [
        ("t1", 20, 5120),
        ("t2", 20, 5120),
        ("t3", 20, 5120),
        ("t4", 20, 5120),
    ];
    let input = input(&hosts, &vms);
    let plan = by_paper(&input);
    assert_eq!((plan.placement.len(), hosts_used(&plan)), (40, 4.0));
    for host in hosts {
        let on_it = plan
            .placement
            .iter()
            .filter(|placed| placed.target.as_str() == host.0);
        assert!(on_it.count() <= 10, "{} holds too much", host.0);
    }
}

/// "the verification relative to the intended migration solution existence is performed"
#[test]
fn what_is_short_is_named_with_its_amount() {
    let two = [("vm-1", "h0", 2, 512), ("vm-2", "h0", 2, 512)];
    for strategy in [Strategy::Paper, Strategy::Exact] {
        let why = impossible(&input(&[("h1", 2, 4096), ("h2", 1, 4096)], &two), strategy);
        assert!(
            why.sentence().contains("vcpus is short by 1"),
            "{}",
            why.sentence()
        );
        let why = impossible(&input(&[("h1", 8, 200), ("h2", 1, 300)], &two), strategy);
        assert!(why.sentence().contains("VM vm-1"), "{}", why.sentence());
        assert!(why.sentence().contains("212"), "{}", why.sentence());
    }
}

/// "(If the solution does not exist the set S_2 must be modified.)"
#[test]
fn enough_in_all_but_not_host_by_host_is_told_with_the_hosts_that_would_do() {
    let vms = [("vm-1", "h0", 4, 1), ("vm-2", "h0", 3, 1), ("vm-3", "h0", 3, 1)];
    for strategy in [Strategy::Paper, Strategy::Exact] {
        let why = impossible(&input(&[("h1", 5, 9), ("h2", 5, 9)], &vms), strategy);
        assert_eq!(why.addition.map(|more| more.count), Some(1), "{strategy:?}");
        planned(
            &input(&[("h1", 5, 9), ("h2", 5, 9), ("h3", 3, 9)], &vms),
            strategy,
            K::All,
        );
    }
}

/// "Select k virtual machines from V, ... 0 < k < N(V), ... and remove these virtual machines from
/// V"
#[test]
fn batches_hold_every_moving_vm_once() {
    let names: Vec<String> = (0..5).map(|i| format!("vm-{i}")).collect();
    let vms: Vec<Asked<'_>> = names.iter().map(|name| (name.as_str(), "h0", 1, 64)).collect();
    let input = input(&[("h1", 8, 4096)], &vms);
    let sizes = |k| -> Vec<usize> {
        let plan = planned(&input, Strategy::Paper, k);
        plan.batches.iter().map(|batch| batch.moves.len()).collect()
    };
    assert_eq!(sizes(K::AtMost(2)), [2, 2, 1]);
    assert_eq!(sizes(K::AtMost(5)), [5], "k = N(V): the whole cluster at once");
    assert_eq!(sizes(K::All), [5]);
    let refused = |k| {
        let options = Options {
            k: K::AtMost(k),
            ..Options::default()
        };
        plan(&input, &options).unwrap_err().to_string()
    };
    assert!(refused(0).contains("k = 0"), "{}", refused(0));
    assert!(
        refused(6).contains("k = 6 is more than the 5 VMs"),
        "{}",
        refused(6)
    );
}

/// Both copies of a VM exist until its batch commits.
#[test]
fn a_place_given_up_is_used_one_batch_later() {
    // h2 is full with vm-b, which must leave for h3 before vm-a can come.
    let vms = [("vm-a", "h1", 4, 100), ("vm-b", "h2", 2, 50)];
    let plan = planned(
        &input(&[("h2", 2, 50), ("h3", 2, 50)], &vms),
        Strategy::Exact,
        K::All,
    );
    let order: Vec<Vec<&str>> = plan
        .batches
        .iter()
        .map(|batch| batch.moves.iter().map(|one| one.step.vm.as_str()).collect())
        .collect();
    assert_eq!(order, [["vm-b"], ["vm-a"]]);
}

/// The default strategy finds what the paper's misses.
#[test]
fn the_exact_strategy_uses_fewer_hosts_where_the_papers_list_misleads() {
    let vms = [("vm-1", "h0", 2, 1), ("vm-2", "h0", 2, 1)];
    let input = input(&[("wide", 2, 9), ("tall", 4, 2)], &vms);
    let by = |strategy| planned(&input, strategy, K::All);
    let used = |strategy| hosts_used(&by(strategy));
    assert_eq!((used(Strategy::Paper), used(Strategy::Exact)), (2.0, 1.0));
    assert!(!by(Strategy::Paper).targets.optimal && by(Strategy::Exact).targets.optimal);
}
