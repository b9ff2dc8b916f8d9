//! What is told of an impossible plan: what is short, what conflicts, what would help, and how far
//! each was looked into.

use transhume_planner::input::{Amount, PlanInput, read};
use transhume_planner::report::Answer;
use transhume_planner::{Ended, Go, Impossible, Known, Options, plan, plan_while};

fn inventory(hosts: &str, vms: &str, more: &str) -> PlanInput {
    let text = format!("hosts:\n{hosts}cluster:\n  name: c\n  vms:\n{vms}{more}");
    read("test.yaml", &text).unwrap_or_else(|e| panic!("{e}"))
}

fn impossible(input: &PlanInput) -> Impossible {
    let strict = Options {
        strict: true,
        ..Options::default()
    };
    match plan(input, &strict).unwrap().answer {
        Answer::Impossible(why) => *why,
        other => panic!("{other:?}"),
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
        strict: true,
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
            "no target has a label `rck` (did you mean `rack`?)",
        ),
        (
            "selector: {rack: nroth}",
            "no target has the label `rack: nroth` (did you mean `north`?)",
        ),
        (
            "cpu-models: [epyc-7331]",
            "no target has processor model epyc-7331: a has epyc-7313",
        ),
    ] {
        let vms = format!("    - {{name: p, host: a, demand: {{memory: 30}}, {asked}}}\n");
        let why = impossible(&inventory(hosts, &vms, ""));
        assert!(why.sentence().contains(sentence), "{}", why.sentence());
    }
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

/// Where a pin leaves no target, nothing is said to be short.
#[test]
fn a_pin_that_leaves_no_target_is_the_only_reason() {
    let text = "from: [h1]\nhosts:\n  - {name: h1, capacity: {memory: 8}}\n  - {name: h2, capacity: {memory: 8}}\n\
        cluster:\n  name: c\n  vms:\n    - {name: a, host: h1, demand: {memory: 4}, pin: [h1]}\n";
    let input = read("pinned.yaml", text).unwrap();
    let Answer::Impossible(why) = plan(&input, &Options::default()).unwrap().answer else {
        panic!("it can go nowhere");
    };
    let said = why.sentence();
    assert!(said.contains("its pin allows only h1"), "{said}");
    assert!(!said.contains("short by"), "{said}");
}
