//! What is told in words: every sentence must be true of the plan or the proof it is about.

use transhume_planner::input::{Amount, PlanInput, read};
use transhume_planner::report::{Answer, Plan};
use transhume_planner::{Ended, Go, Impossible, Known, Options, Strategy, plan, plan_while, svg};

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

fn told(input: &PlanInput) -> String {
    planned(input, &Options::default()).explanation.join("\n")
}

fn impossible(input: &PlanInput) -> Impossible {
    match plan(input, &Options::default()).unwrap().answer {
        Answer::Impossible(why) => *why,
        other => panic!("{other:?}"),
    }
}

fn with_k(k: usize) -> Options {
    Options {
        k: Some(k),
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
    assert!(!told(&roomy(2, "")).contains("talk"), "nobody talks");
    let near = roomy(2, &format!("  traffic:\n{}", pair(0, 1)));
    assert!(told(&near).contains("talk to each other move in the same or the next batch"));
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
    let by_group = told(&roomy(2, group));
    assert!(
        by_group.contains("Fewer than 2 cannot do: group apart keeps 2 VMs apart."),
        "{by_group}"
    );
    let mut racks = roomy(2, "");
    for (vm, rack) in [(0, "a"), (1, "b")] {
        racks.cluster.vms[vm].selector = [("rack".to_owned(), rack.to_owned())].into();
    }
    assert!(
        told(&racks).contains("no two of VMs v0 and v1 have an allowed host in common"),
        "{}",
        told(&racks)
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
    let ring = [[0, 1], [1, 2], [2, 0]].map(|pair| group("anti-affinity", &format!("g{}", pair[0]), pair));
    let words = told(&with(3, &ring));
    assert!(
        words.contains(
            "Fewer than 3 cannot do: amounts would allow it, but not these constraints; it would do without any one of \
             group g0 (anti-affinity), group g1 (anti-affinity) and group g2 (anti-affinity)."
        ),
        "{words}"
    );
    // 60 and 40 fill a host, twice; 40 and 40 tied together leave three that are more than half a host.
    let mut tied = with(4, &[group("affinity", "tied", [2, 3])]);
    for (vm, size) in tied.cluster.vms.iter_mut().zip([60, 60, 40, 40]) {
        vm.demand = [("memory".to_owned(), Amount::units(size))].into();
    }
    let words = told(&tied);
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
    let words = told(&tied);
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
    let words = told(&inventory(hosts, vms, ""));
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
    let words = told(&hosts);
    for sentence in [
        "Target home holds 2 VMs: 1 of them is there already; fullest is memory, 40 %.",
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
fn more_kinds_of_hosts_than_are_tried_are_not_denied() {
    let sizes = |n: u64| {
        let hosts: String = (1..=n)
            .map(|i| format!("  - {{name: h{i}, capacity: {{memory: {i}}}}}\n"))
            .collect();
        hosts
    };
    let vms = |sizes: &[u64]| {
        let vms: String = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| format!("    - {{name: v{i}, host: h1, demand: {{memory: {size}}}}}\n"))
            .collect();
        vms
    };
    let big = inventory(
        &format!("{}  - {{name: big, capacity: {{memory: 100}}}}\n", sizes(16)),
        &vms(&[100, 100]),
        "",
    );
    let why = impossible(&big);
    assert_eq!(why.hint(), "1 more like big would do");
    // Of 40 kinds the largest are tried, and that is said.
    let why = impossible(&inventory(&sizes(40), &vms(&[21; 41]), ""));
    assert_eq!(why.addition_known, Known::Part { tried: 16, of: 40 });
    assert!(
        why.hint()
            .contains("would do (only 16 of 40 kinds of hosts were tried)"),
        "{}",
        why.hint()
    );
    // What fits no host needs no trying.
    let why = impossible(&inventory(&sizes(40), &vms(&[41]), ""));
    assert_eq!((why.addition.as_ref(), why.addition_known), (None, Known::Proved));
    assert_eq!(
        why.hint(),
        "no number of hosts like these would do: a larger host is needed, or a smaller VM"
    );
}

#[test]
fn questions_that_were_stopped_are_told_as_open() {
    let hosts = "  - {name: a, capacity: {memory: 100}}\n  - {name: b, capacity: {memory: 100}}\n";
    let vms: String = (0..3)
        .map(|i| format!("    - {{name: v{i}, host: a, demand: {{memory: 10}}}}\n"))
        .collect();
    let group = "  groups:\n    - {name: apart, kind: anti-affinity, vms: [v0, v1, v2]}\n";
    let apart = inventory(hosts, &vms, group);
    let why = impossible(&apart);
    assert_eq!(why.conflict_known, Known::Proved);
    assert!(
        why.sentence().ends_with("these cannot all be kept: group apart"),
        "{}",
        why.sentence()
    );
    let by = Ended::WorkBound;
    let options = Options {
        work_max: 0,
        ..Options::default()
    };
    let Answer::Impossible(why) = plan(&apart, &options).unwrap().answer else {
        panic!("the group's size needs no search");
    };
    assert_eq!(
        (why.conflict_known, why.addition_known),
        (Known::Stopped { by }, Known::Stopped { by })
    );
    assert!(
        why.sentence()
            .ends_with("whether constraints conflict was not found out: the bound on work ended the search"),
        "{}",
        why.sentence()
    );
    assert!(
        why.hint()
            .contains("was not found out (the bound on work ended the search)"),
        "{}",
        why.hint()
    );
}

#[test]
fn many_constraints_are_not_taken_for_none() {
    let hosts =
        "  - {name: a, capacity: {memory: 1000}, labels: {rack: a}}\n  - {name: b, capacity: {memory: 1}}\n";
    let vms: String = (0..201)
        .map(|i| format!("    - {{name: v{i}, host: a, demand: {{memory: 1}}, pin: [b]}}\n"))
        .collect();
    let mut pinned = inventory(hosts, &vms, "");
    pinned.from = vec!["a".parse().unwrap()];
    pinned.to = vec!["a".parse().unwrap(), "b".parse().unwrap()];
    let why = impossible(&pinned);
    assert_eq!(
        (why.conflict.len(), why.conflict_known),
        (0, Known::Part { tried: 0, of: 201 })
    );
    assert!(
        why.sentence().contains("not all 201 constraints together"),
        "{}",
        why.sentence()
    );
    // Amounts alone: the constraints are innocent, however many there are.
    for vm in &mut pinned.cluster.vms {
        vm.demand = [("memory".to_owned(), Amount::units(6))].into();
    }
    let why = impossible(&pinned);
    assert_eq!((why.conflict.len(), why.conflict_known), (0, Known::Proved));
}

#[test]
fn hundreds_of_vms_that_fit_nowhere_are_counted() {
    let vms: String = (0..300)
        .map(|i| format!("    - {{name: v{i}, host: a, demand: {{memory: 200}}}}\n"))
        .collect();
    let why = impossible(&inventory("  - {name: a, capacity: {memory: 100}}\n", &vms, ""));
    let sentence = why.sentence();
    assert_eq!(why.reasons.len(), 301);
    assert!(
        sentence.len() < 500 && sentence.contains("298 more VMs fit nowhere either"),
        "{sentence}"
    );
    let tied: String = (0..300).map(|i| format!("v{i}, ")).collect();
    let tied = format!("  groups:\n    - {{name: t, kind: affinity, vms: [{tied}]}}\n");
    let why = impossible(&inventory(
        "  - {name: a, capacity: {memory: 100}}\n",
        &vms,
        &tied,
    ));
    assert!(why.sentence().contains("v4 and 295 more"), "{}", why.sentence());
    assert!(why.sentence().len() < 500, "{}", why.sentence());
}

#[test]
fn a_label_that_no_host_has_is_told_with_the_nearest() {
    let hosts = "  - {name: a, capacity: {memory: 100}, labels: {rack: north}, cpu-model: epyc-7313}\n";
    for (asked, sentence) in [
        (
            "selector: {rck: north}",
            "no host has a label `rck` (did you mean `rack`?)",
        ),
        (
            "selector: {rack: nroth}",
            "no host has the label `rack: nroth` (did you mean `north`?)",
        ),
        (
            "cpu-models: [epyc-7331]",
            "no host has processor model epyc-7331 (did you mean `epyc-7313`?)",
        ),
    ] {
        let vms = format!("    - {{name: p, host: a, demand: {{memory: 30}}, {asked}}}\n");
        let why = impossible(&inventory(hosts, &vms, ""));
        assert!(why.sentence().contains(sentence), "{}", why.sentence());
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

#[test]
fn a_deadline_during_the_explanation_is_told() {
    let hosts = "  - {name: a, capacity: {memory: 100}}\n";
    let vms =
        "    - {name: p, host: a, demand: {memory: 70}}\n    - {name: q, host: a, demand: {memory: 70}}\n";
    let mut short = inventory(hosts, vms, "");
    short.from = vec!["a".parse().unwrap()];
    short.to = vec!["a".parse().unwrap()];
    let mut ask = || Go::Deadline;
    let report = plan_while(&short, &Options::default(), &mut ask).unwrap();
    let Answer::Impossible(why) = report.answer else {
        panic!("{report:?}");
    };
    // Small questions need no more time than the caller is asked for.
    assert_eq!(why.hint(), "1 more like a would do");
}
