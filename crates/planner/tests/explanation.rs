//! What is told in words: every sentence must be true of the plan or the proof it is about.

use transhume_planner::input::{Amount, PlanInput, read};
use transhume_planner::report::{Answer, Plan};
use transhume_planner::{K, Options, Strategy, plan, svg};

fn input(text: &str) -> PlanInput {
    read("test.yaml", text).unwrap_or_else(|e| panic!("{e}"))
}

fn inventory(hosts: &str, vms: &str, more: &str) -> PlanInput {
    input(&format!(
        "hosts:\n{hosts}cluster:\n  name: c\n  vms:\n{vms}{more}"
    ))
}

fn planned(input: &PlanInput, options: &Options) -> Plan {
    match plan(input, options).unwrap().answer {
        Answer::Planned(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

fn explained(input: &PlanInput) -> String {
    planned(input, &Options::default()).explanation.join("\n")
}

fn with_k(k: usize) -> Options {
    Options {
        k: K::AtMost(k),
        ..Options::default()
    }
}

/// Three hosts of 100, and VMs of 10 on `a`.
fn roomy(vms: usize, more: &str) -> PlanInput {
    let hosts = "  - {name: a, capacity: {memory: 100}, labels: {rack: a}}
  - {name: b, capacity: {memory: 100}, labels: {rack: b}}
  - {name: old, capacity: {memory: 100}, maintenance: true}
";
    let vms: String = (0..vms)
        .map(|i| format!("    - {{name: v{i}, host: old, demand: {{memory: 10}}}}\n"))
        .collect();
    inventory(hosts, &vms, more)
}

#[test]
fn talkers_are_only_said_to_be_near_where_they_are() {
    let pair = |a: usize, b: usize| format!("    - {{between: [v{a}, v{b}], mbit-s: 10}}\n");
    assert!(!explained(&roomy(2, "")).contains("talk"), "nobody talks");
    let near = roomy(2, &format!("  traffic:\n{}", pair(0, 1)));
    assert!(explained(&near).contains("talk to each other move in the same or the next batch"));
    // One VM talks to all; with k = 1 most of them are far from it.
    let star: String = (1..9).map(|i| pair(0, i)).collect();
    let star = planned(&roomy(9, &format!("  traffic:\n{star}")), &with_k(1));
    let sentence = star
        .explanation
        .iter()
        .find(|line| line.contains("talk"))
        .unwrap();
    assert!(
        sentence.starts_with("Of 8 pairs that talk to each other, ")
            && sentence.contains("move more than one batch apart: ")
            && sentence.contains(" more."),
        "{sentence}"
    );
}

#[test]
fn what_forbids_fewer_targets_is_named() {
    let group = "  groups:\n    - {name: apart, kind: anti-affinity, vms: [v0, v1]}\n";
    let by_group = explained(&roomy(2, group));
    assert!(
        by_group.contains("Fewer than 2 cannot do: group apart keeps 2 VMs apart."),
        "{by_group}"
    );
    let mut racks = roomy(2, "");
    for (vm, rack) in [(0, "a"), (1, "b")] {
        racks.cluster.vms[vm].selector = [("rack".to_owned(), rack.to_owned())].into();
    }
    assert!(
        explained(&racks).contains("no two of VMs v0 and v1 have an allowed host in common"),
        "{}",
        explained(&racks)
    );
}

#[test]
fn constraints_that_cost_a_target_are_singled_out() {
    let mut hosts = roomy(3, "");
    hosts.hosts.push(hosts.hosts[0].clone());
    hosts.hosts[3].name = "c".parse().unwrap();
    let group = |kind: &str, name: &str, members: [usize; 2]| {
        let [x, y] = members;
        format!("{{name: {name}, kind: {kind}, vms: [v{x}, v{y}]}}")
    };
    let with = |vms: usize, groups: &[String]| {
        let groups = format!("  groups: [{}]\n", groups.join(", "));
        let mut input = roomy(vms, &groups);
        input.hosts = hosts.hosts.clone();
        input
    };
    let cycle = [[0, 1], [1, 2], [2, 0]].map(|pair| group("anti-affinity", &format!("g{}", pair[0]), pair));
    let words = explained(&with(3, &cycle));
    assert!(
        words.contains(
            "Fewer than 3 cannot do: amounts would allow it, but not these constraints; it would do without any one of \
             group g0 (anti-affinity), group g1 (anti-affinity) and group g2 (anti-affinity)."
        ),
        "{words}"
    );
    // 60 and 40 fill a host, twice; 40 and 40 tied together leave three that are more than half a
    // host.
    let mut tied = with(4, &[group("affinity", "tied", [2, 3])]);
    for (vm, size) in tied.cluster.vms.iter_mut().zip([60, 60, 40, 40]) {
        vm.demand = [("memory".to_owned(), Amount::units(size))].into();
    }
    let words = explained(&tied);
    assert!(
        words.contains("Fewer than 3 cannot do: amounts would allow it, but not group tied (affinity)."),
        "{words}"
    );
    // Without constraints it is the amounts.
    tied.cluster.groups.clear();
    for vm in &mut tied.cluster.vms {
        vm.demand = [("memory".to_owned(), Amount::units(60))].into();
    }
    tied.cluster.vms.truncate(3);
    let words = explained(&tied);
    assert!(
        words.contains("Fewer than 3 cannot do: sums would allow it, but not what fits together on a host."),
        "{words}"
    );
}

#[test]
fn a_shortage_is_never_rounded_away() {
    let hosts = "  - {name: a, capacity: {nic: 9999}}\n  - {name: b, capacity: {nic: 9999}}\n  - {name: old, capacity: {nic: 10000}, maintenance: true}\n";
    let vms =
        "    - {name: p, host: old, demand: {nic: 9000}}\n    - {name: q, host: old, demand: {nic: 1000}}\n";
    let words = explained(&inventory(hosts, vms, ""));
    assert!(
        words.contains("Fewer than 2 cannot do: the host with most nic holds 9999 of the 10000 needed."),
        "{words}"
    );
}

#[test]
fn every_host_is_told_to_be_chosen_or_left_out() {
    let hosts = "  - {name: home, capacity: {memory: 100}, labels: {rack: a}}
  - {name: old, capacity: {memory: 100}, maintenance: true}
  - {name: tiny, capacity: {memory: 5}, labels: {rack: a}}
  - {name: other, capacity: {memory: 100}, labels: {rack: b}}
  - {name: spare-1, capacity: {memory: 50}, labels: {rack: a}}
  - {name: apart, capacity: {memory: 50}, labels: {rack: a}}
";
    let vms = "    - {name: p, host: home, demand: {memory: 30}, selector: {rack: a}}
    - {name: q, host: old, demand: {memory: 10}, selector: {rack: a}}
";
    let mut hosts = inventory(hosts, vms, "");
    hosts.from = vec!["old".parse().unwrap(), "home".parse().unwrap()];
    hosts.to = ["home", "tiny", "other", "spare-1"]
        .map(|h| h.parse().unwrap())
        .to_vec();
    let words = explained(&hosts);
    for sentence in [
        "Target home holds 2 VMs: 1 of them is there already; fullest is memory, 40 % of what is free there.",
        "Left out, in maintenance: old.",
        "Left out, not among the targets that `from` and `to` leave: apart.",
        "Left out, excluded by pins, selectors or processor models of every VM: other.",
        "Left out, too small for any VM that may run there: tiny.",
        "Left out, not needed: spare-1.",
    ] {
        assert!(words.contains(sentence), "{sentence}\n{words}");
    }
}

#[test]
fn the_papers_strategy_leaves_vms_outside_s1_where_they_are() {
    let hosts = "  - {name: a, capacity: {memory: 100}}
  - {name: b, capacity: {memory: 100}}
  - {name: c, capacity: {memory: 90}}
";
    let vms = "    - {name: p, host: a, demand: {memory: 70}}
    - {name: q, host: b, demand: {memory: 40}}
";
    let mut part = inventory(hosts, vms, "");
    part.from = vec!["a".parse().unwrap()];
    let paper = Options {
        strategy: Strategy::Paper,
        ..Options::default()
    };
    let plan_of = |input: &PlanInput| {
        let placed = planned(input, &paper).placement.into_iter();
        placed.map(|p| p.target.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(plan_of(&part), ["c", "b"], "b has 60 left beside q");
    // A named constraint is refused by its name.
    part.cluster.vms[1].pin = vec!["b".parse().unwrap()];
    let error = plan(&part, &paper).unwrap_err().to_string();
    assert!(error.contains("amounts only, not the pin of VM q"), "{error}");
}

#[test]
fn k_above_the_moving_vms_is_refused() {
    let two = roomy(2, "");
    let error = plan(&two, &with_k(3)).unwrap_err().to_string();
    assert!(
        error.contains("k = 3 is more than the 2 VMs that move"),
        "{error}"
    );
    assert_eq!(planned(&two, &with_k(2)).batches.len(), 1);
    let mut stays = roomy(1, "");
    stays.cluster.vms[0].host = "a".parse().unwrap();
    assert_eq!(
        planned(&stays, &with_k(5)).batches.len(),
        0,
        "nothing moves, whatever k is"
    );
}

#[test]
fn links_and_assumptions_are_told_once_each() {
    let traffic = "  traffic:\n    - {between: [v0, v1], mbit-s: 500}\n";
    let mut input = roomy(2, traffic);
    input.cluster.vms[0].storage_mbit_s = Amount::units(250);
    input.cluster.vms[0].memory.dirty_mib_s = vec![1.0];
    // They end on different hosts, so that they are heard over the links.
    input.cluster.vms[0].pin = vec!["a".parse().unwrap()];
    input.cluster.vms[1].pin = vec!["b".parse().unwrap()];
    let plan = planned(&input, &with_k(2));
    assert_eq!(
        plan.fullest_links().unwrap(),
        "CT 0-20 % (a, batch 1), VMCT 80-100 % (old, batch 1), NAST 0-10 % (a, batch 1)"
    );
    assert_eq!(
        plan.assumptions(),
        [
            "30 to 100 % of the memory is in use (2 VMs)",
            "compression leaves 30 to 100 % (2 VMs)",
            "any part of the memory may be written (2 VMs)",
            "0 to 50 MiB/s are dirtied (1 VM)",
        ]
    );
}

#[test]
fn the_picture_names_its_scale_and_what_others_use() {
    let name = "h".repeat(40);
    let hosts = format!(
        "  - {{name: {name}, capacity: {{\"a<b\": 100}}, used: {{\"a<b\": 60}}}}\n  - {{name: old, capacity: {{\"a<b\": 100}}, maintenance: true}}\n"
    );
    let vms = "    - {name: wide, host: old, demand: {\"a<b\": 30}}\n    - {name: slim, host: old, demand: {\"a<b\": 1}}\n";
    let plan = planned(&inventory(&hosts, vms, ""), &Options::default());
    let bar = plan.bars.iter().find(|bar| bar.host.as_str() == name).unwrap();
    assert_eq!(
        (bar.resource.as_str(), bar.others, bar.whole.as_f64()),
        ("a<b", 600, 100.0)
    );
    assert_eq!(
        bar.after[0].1, 300,
        "of all the host has, not of what others leave"
    );
    let picture = svg(&plan);
    assert!(
        picture.contains("a&lt;b 100<") && !picture.contains("a<b"),
        "{picture}"
    );
    assert!(
        picture.contains("…<title>hhhh"),
        "the long name is shortened and told in full"
    );
    assert!(picture.contains(">wide</text>"), "a wide box has its name in it");
    assert!(!picture.contains(">slim</text>"), "a narrow one only a tooltip");
    assert!(picture.contains("used by others"));
}
