//! More of the kinds of `cases/`: each with the right value.

use transhume_planner::input::{PlanInput, read};
use transhume_planner::report::{Answer, Plan};
use transhume_planner::{Cause, K, Options, plan, validate};

fn input(hosts: &str, more: &str, vms: &str, relations: &str) -> PlanInput {
    let text = format!("hosts:\n{hosts}{more}cluster:\n  name: c\n  vms:\n{vms}{relations}");
    read("kinds.yaml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn planned(input: &PlanInput) -> Plan {
    match plan(input, &Options::default()).unwrap().answer {
        Answer::Planned(plan) => {
            assert_eq!(validate(input, &plan), Vec::<String>::new());
            *plan
        }
        other => panic!("{other:?}"),
    }
}

fn target<'a>(plan: &'a Plan, vm: &str) -> &'a str {
    let placed = plan.placement.iter().find(|p| p.vm.as_str() == vm).unwrap();
    placed.target.as_str()
}

const HOSTS: &str = "  - {name: h1, capacity: {vcpus: 8, memory: 8GiB}}
  - {name: h2, capacity: {vcpus: 8, memory: 8GiB}, labels: {rack: a}}
  - {name: h3, capacity: {vcpus: 8, memory: 8GiB}, labels: {rack: b}}
";

/// What stays: each line is a VM or relation that must not keep `a` from leaving h1.
#[test]
fn bystanders_are_never_the_reason() {
    let a = "    - {name: a, host: h1, demand: {vcpus: 1, memory: 1GiB}}\n";
    for (what, hosts, staying, relations, to) in [
        (
            "an overfull host",
            HOSTS,
            "    - {name: x, host: h2, demand: {vcpus: 90}}\n",
            "",
            "h3",
        ),
        (
            "a pin that is not kept",
            HOSTS,
            "    - {name: x, host: h2, demand: {vcpus: 8}, pin: [h3]}\n",
            "",
            "h3",
        ),
        (
            "a selector that is not met",
            HOSTS,
            "    - {name: x, host: h2, demand: {vcpus: 8}, selector: {rack: z}}\n",
            "",
            "h3",
        ),
        (
            "a model that is not there",
            HOSTS,
            "    - {name: x, host: h2, demand: {vcpus: 8}, cpu-models: [z]}\n",
            "",
            "h3",
        ),
        (
            "a group apart that is broken",
            HOSTS,
            "    - {name: x, host: h2, demand: {vcpus: 4}}\n    - {name: y, host: h2, demand: {vcpus: 4}}\n",
            "  groups:\n    - {name: g, kind: anti-affinity, vms: [x, y]}\n",
            "h3",
        ),
        (
            "a group together that is broken",
            HOSTS,
            "    - {name: x, host: h2, demand: {vcpus: 8}}\n    - {name: y, host: h3, demand: {vcpus: 4}}\n",
            "  groups:\n    - {name: g, kind: affinity, vms: [x, y]}\n",
            "h3",
        ),
        (
            "a host in maintenance",
            "  - {name: h1, capacity: {vcpus: 8, memory: 8GiB}}
  - {name: h2, capacity: {vcpus: 8, memory: 8GiB}, maintenance: true}
  - {name: h3, capacity: {vcpus: 8, memory: 8GiB}}\n",
            "    - {name: x, host: h2, demand: {vcpus: 1}}\n",
            "",
            "h3",
        ),
        (
            "others use more than there is",
            "  - {name: h1, capacity: {vcpus: 8, memory: 8GiB}}
  - {name: h2, capacity: {vcpus: 8, memory: 8GiB}, used: {memory: 9GiB}}
  - {name: h3, capacity: {vcpus: 8, memory: 8GiB}}\n",
            "    - {name: x, host: h2, demand: {memory: 1GiB}}\n",
            "",
            "h3",
        ),
    ] {
        let plan = planned(&input(hosts, "from: [h1]\n", &format!("{a}{staying}"), relations));
        assert!(
            plan.unplaced.is_empty() && plan.is_executable(),
            "{what}: {plan:?}"
        );
        assert_eq!(target(&plan, "a"), to, "{what}");
        let moving = plan.placement.iter().filter(|p| p.source != p.target).count();
        assert_eq!(moving, 1, "{what}: nothing else moves");
    }
}

/// What stays counts: its room is taken, and its groups hold for those who come.
#[test]
fn bystanders_count() {
    let a = "    - {name: a, host: h1, demand: {vcpus: 4, memory: 1GiB}}\n";
    for (what, staying, relations, to) in [
        (
            "room",
            "    - {name: x, host: h2, demand: {vcpus: 5}}\n",
            "",
            "h3",
        ),
        (
            "kept apart",
            "    - {name: x, host: h2, demand: {vcpus: 1}}\n",
            "  groups:\n    - {name: g, kind: anti-affinity, vms: [a, x]}\n",
            "h3",
        ),
        (
            "kept together",
            "    - {name: x, host: h3, demand: {vcpus: 1}}\n",
            "  groups:\n    - {name: g, kind: affinity, vms: [a, x]}\n",
            "h3",
        ),
        (
            "who talks",
            "    - {name: x, host: h3, demand: {vcpus: 1}}\n",
            "  traffic:\n    - {between: [a, x], mbit-s: 5}\n",
            "h3",
        ),
    ] {
        let plan = planned(&input(HOSTS, "from: [h1]\n", &format!("{a}{staying}"), relations));
        assert_eq!(target(&plan, "a"), to, "{what}");
        assert!(plan.traffic_mbit_s.optimal, "{what}");
    }
}

/// One VM cannot go; three others can, and do.
#[test]
fn each_that_stays_has_a_reason_of_its_own() {
    let others = "    - {name: a, host: h1, demand: {vcpus: 1, memory: 1GiB}}
    - {name: b, host: h1, demand: {vcpus: 1, memory: 1GiB}}
    - {name: c, host: h1, demand: {vcpus: 1, memory: 1GiB}}\n";
    for (odd, relations, cause, why) in [
        (
            "demand: {vcpus: 1}, pin: [h1]",
            "",
            Cause::Pin,
            "its pin allows only h1 (to be left)",
        ),
        (
            "demand: {vcpus: 1}, selector: {rack: c}",
            "",
            Cause::Selector,
            "no target has the label `rack: c`",
        ),
        (
            "demand: {vcpus: 1}, selector: {row: c}",
            "",
            Cause::Selector,
            "no target has a label `row`",
        ),
        (
            "demand: {vcpus: 1}, cpu-models: [x]",
            "",
            Cause::CpuModels,
            "no target has processor model x: h2 gives none and h3 gives none",
        ),
        (
            "demand: {vcpus: 1}, pin: [h2], selector: {rack: b}",
            "",
            Cause::Limits,
            "no target meets its pin, its selector and its processor models at once",
        ),
        (
            "demand: {vcpus: 9}",
            "",
            Cause::Amounts,
            "it fits none of the 2 hosts allowed; the nearest, h2 lacks 1 of vcpus",
        ),
        (
            "demand: {vcpus: 9}, pin: [h3]",
            "",
            Cause::Amounts,
            "it does not fit the one host allowed: h3 lacks 1 of vcpus",
        ),
        (
            "demand: {vcpus: 1}",
            "    - {name: x, host: h2, demand: {vcpus: 1}}\n    - {name: y, host: h3, demand: {vcpus: 1}}
  groups:\n    - {name: g, kind: anti-affinity, vms: [odd, x, y]}\n",
            Cause::Group,
            "group g keeps it apart from x on h2 and y on h3",
        ),
        (
            "demand: {vcpus: 1}, pin: [h3]",
            "    - {name: x, host: h2, demand: {vcpus: 1}}
  groups:\n    - {name: g, kind: affinity, vms: [odd, x]}\n",
            Cause::Group,
            "group g ties it to x on h2",
        ),
    ] {
        let vms = format!("{others}    - {{name: odd, host: h1, {odd}}}\n{relations}");
        let plan = planned(&input(HOSTS, "from: [h1]\n", &vms, ""));
        let [only] = plan.unplaced.as_slice() else {
            panic!("{odd}: {:?}", plan.unplaced);
        };
        assert_eq!(
            (only.vms[0].as_str(), only.cause),
            ("odd", cause),
            "{odd}: {only:?}"
        );
        assert_eq!(only.why, format!("VM odd stays: {why}"), "{odd}");
        assert!(only.must_leave && only.proved, "{odd}");
        for vm in ["a", "b", "c"] {
            assert_ne!(target(&plan, vm), "h1", "{odd}: {vm} goes");
        }
    }
}

#[test]
fn where_there_is_no_room_for_all_most_go() {
    let vms: String = (0..5)
        .map(|i| format!("    - {{name: v{i}, host: h1, demand: {{vcpus: 4}}}}\n"))
        .collect();
    let plan = planned(&input(HOSTS, "from: [h1]\n", &vms, ""));
    let [only] = plan.unplaced.as_slice() else {
        panic!("two hosts take four of five: {:?}", plan.unplaced);
    };
    assert_eq!((only.cause, only.proved), (Cause::Room, true));
    let addition = plan.why_not_all.unwrap().addition.unwrap();
    assert_eq!((addition.count, addition.smallest), (1, true));
}

/// A VM that need not leave is no obstacle: the answer is whole.
#[test]
fn who_may_stay_is_not_in_the_way() {
    let vms =
        "    - {name: a, host: h2, demand: {vcpus: 90}}\n    - {name: b, host: h1, demand: {vcpus: 1}}\n";
    let plan = planned(&input(HOSTS, "", vms, ""));
    assert_eq!(plan.unplaced.len(), 1);
    assert_eq!(plan.in_the_way().count(), 0);
}

#[test]
fn scalars_of_the_core_schema_as_amounts_and_labels() {
    for (written, is) in [
        ("0x10", "16"),
        ("0o20", "16"),
        ("+16", "16"),
        ("16.0", "16"),
        ("1.6e1", "16"),
        ("!!int 16", "16"),
    ] {
        let vms = format!("    - {{name: a, host: h1, demand: {{own: {written}}}}}\n");
        let read = input("  - {name: h1, capacity: {own: 16}}\n", "", &vms, "");
        assert_eq!(read.cluster.vms[0].demand["own"].to_string(), is, "{written}");
    }
    for (written, is) in [
        ("True", "true"),
        ("\"True\"", "True"),
        ("~", ""),
        ("NULL", ""),
        ("!!str true", "true"),
        ("0x10", "0x10"),
        ("yes", "yes"),
    ] {
        let hosts = format!("  - {{name: h1, capacity: {{own: 16}}, labels: {{l: {written}}}}}\n");
        let read = input(&hosts, "", "    - {name: a, host: h1, demand: {own: 1}}\n", "");
        assert_eq!(read.hosts[0].labels["l"], is, "{written}");
    }
}

/// Pairs that are kept apart change places in one batch; ties move together.
#[test]
fn groups_hold_on_the_way() {
    let hosts = "  - {name: h1, capacity: {own: 10}}\n  - {name: h2, capacity: {own: 10}}\n  - {name: h3, capacity: {own: 10}}\n  - {name: h4, capacity: {own: 10}}\n";
    let change = "    - {name: a, host: h1, demand: {own: 1}, pin: [h2]}\n    - {name: b, host: h2, demand: {own: 1}, pin: [h1]}\n";
    let apart = "  groups:\n    - {name: g, kind: anti-affinity, vms: [a, b]}\n";
    let plan = planned(&input(hosts, "", change, apart));
    assert_eq!((plan.batches.len(), plan.broken_meanwhile.len()), (1, 0));
    let together = "    - {name: a, host: h1, demand: {own: 6}}\n    - {name: b, host: h1, demand: {own: 4}}\n    - {name: c, host: h2, demand: {own: 9}, pin: [h3]}\n";
    let tied = "from: [h1, h2]\nto: [h2, h3]\n";
    let plan = planned(&input(
        hosts,
        tied,
        together,
        "  groups:\n    - {name: g, kind: affinity, vms: [a, b]}\n",
    ));
    assert_eq!(plan.broken_meanwhile, []);
    assert_eq!(target(&plan, "a"), "h2");
}

/// Where k forbids it, it is told how long the group is broken.
#[test]
fn a_group_that_is_broken_on_the_way_is_told() {
    let hosts = "  - {name: h1, capacity: {own: 10}}\n  - {name: h2, capacity: {own: 10}}\n";
    let vms = "    - {name: a, host: h1, demand: {own: 1}}\n    - {name: b, host: h1, demand: {own: 1}}\n";
    let input = input(
        hosts,
        "from: [h1]\n",
        vms,
        "  groups:\n    - {name: g, kind: affinity, vms: [a, b]}\n",
    );
    let one_by_one = Options {
        k: K::AtMost(1),
        ..Options::default()
    };
    let Answer::Planned(plan) = transhume_planner::plan(&input, &one_by_one).unwrap().answer else {
        panic!("both fit h2");
    };
    assert_eq!(validate(&input, &plan), Vec::<String>::new());
    let [told] = plan.broken_meanwhile.as_slice() else {
        panic!("{:?}", plan.broken_meanwhile);
    };
    assert_eq!(
        (told.group.as_str(), told.after_batch, told.until_batch),
        ("g", 1, 2)
    );
    assert!(told.duration_s.high >= told.duration_s.low && told.duration_s.low > 0.0);
}
