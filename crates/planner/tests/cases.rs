//! Inventories as they are, made after public reports of other tools: each with the right answer.
//! The files in `cases/` say what they are about.

use transhume_planner::input::{InputError, PlanInput, read};
use transhume_planner::report::{Answer, Plan, Total};
use transhume_planner::{Cause, Go, Help, Options, generate, plan, plan_while, validate};

macro_rules! case {
    ($name:literal) => {
        ($name, include_str!(concat!("cases/", $name)))
    };
}

fn parsed((name, text): (&str, &str)) -> PlanInput {
    read(name, text).unwrap_or_else(|e| panic!("{e}"))
}

fn refused((name, text): (&str, &str)) -> InputError {
    read(name, text).expect_err("it must be refused")
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

/// VM and target of everything that moves.
fn moved(plan: &Plan) -> Vec<(&str, &str)> {
    let moved = plan.placement.iter().filter(|p| p.source != p.target);
    moved.map(|p| (p.vm.as_str(), p.target.as_str())).collect()
}

fn complete(plan: &Plan) {
    assert!(plan.unplaced.is_empty() && plan.is_executable(), "{plan:?}");
}

#[test]
fn an_overfull_host_that_has_no_part_in_it_is_noted() {
    let plan = planned(&parsed(case!("01-overfull-bystander.yaml")));
    complete(&plan);
    assert_eq!(moved(&plan), [("web", "h3")]);
    assert_eq!(
        plan.notes,
        ["host h2 is overfull already: VMs that stay there need 12 of vcpus, it has 8"]
    );
    assert_eq!(plan.targets.value, Total::units(1));
}

#[test]
fn a_group_that_is_broken_elsewhere_is_noted() {
    let plan = planned(&parsed(case!("02-old-clash-bystander.yaml")));
    complete(&plan);
    assert_eq!(moved(&plan), [("web", "h3")]);
    assert_eq!(
        plan.notes,
        ["group db-apart is broken already: db-a and db-b on h2 stay there"]
    );
}

#[test]
fn one_of_many_hosts_is_drained() {
    let input = generate::drain_one_of_many(2_000);
    let plan = planned(&input);
    complete(&plan);
    assert_eq!(moved(&plan).len(), 1);
}

#[test]
fn large_amounts_are_as_exact_as_small_ones() {
    let (name, text) = case!("04-rounding-of-large-amounts.yaml");
    for text in [
        text.to_owned(),
        text.replace("500.0004", "100.0004").replace("1000}", "200}"),
    ] {
        let error = refused((name, &text));
        assert!(error.what.contains("more than three digits"), "{error}");
        assert_eq!(error.place.path, "cluster.vms[0].demand.memory");
    }
    // With a unit they are refused too; to the byte they are taken, and two of a byte more than
    // half do not fit.
    let with_unit = text.replace("500.0004", "500.0004MiB");
    assert!(
        refused((name, &with_unit))
            .what
            .contains("no whole number of bytes")
    );
    for (amount, unplaced) in [("524288001B", 1), ("524288000B", 0)] {
        let plan = planned(&parsed((name, &text.replace("500.0004", amount))));
        assert_eq!(plan.unplaced.len(), unplaced, "{amount}");
    }
}

#[test]
fn bytes_by_a_million_are_exact_with_and_without_a_unit() {
    let case = case!("05a-bytes-to-mib.yaml");
    complete(&planned(&parsed(case)));
    let written = case.1.replace("15258.7890625", "16GB");
    let written = written
        .replace("476.837158203125", "500MB")
        .replace("95.367431640625", "100MB");
    assert_eq!(parsed((case.0, &written)), parsed(case));
    // What fills a host to the last byte fits it.
    let full = written.replacen("16GB", "600MB", 2);
    complete(&planned(&parsed((case.0, &full))));
    let short = full
        .replacen("600MB", "16GB", 1)
        .replacen("600MB", "599999999B", 1);
    let plan = planned(&parsed((case.0, &short)));
    let why = &plan.unplaced[0].why;
    assert!(why.contains("lacks 0.00000095367431640625 of memory"), "{why}");
}

#[test]
fn one_vm_that_cannot_move_does_not_keep_the_others() {
    let plan = planned(&parsed(case!("06-one-unmovable.yaml")));
    let [only] = plan.unplaced.as_slice() else {
        panic!("{:?}", plan.unplaced);
    };
    assert_eq!(
        (only.cause, only.must_leave, only.proved),
        (Cause::Pin, true, true)
    );
    assert_eq!(only.why, "VM gpu stays: its pin allows only h1 (in maintenance)");
    assert_eq!(moved(&plan).len(), 5);
    assert!(plan.is_executable());
    let strict = Options {
        strict: true,
        ..Options::default()
    };
    let answer = plan_of(&parsed(case!("06-one-unmovable.yaml")), &strict);
    assert!(matches!(answer, Answer::Impossible(_)), "{answer:?}");
}

fn plan_of(input: &PlanInput, options: &Options) -> Answer {
    plan(input, options).unwrap().answer
}

#[test]
fn booleans_of_the_core_schema() {
    let input = parsed(case!("11a-yaml-True.yaml"));
    assert!(input.hosts[0].maintenance && !input.hosts[1].maintenance);
    complete(&planned(&input));
    let input = parsed(case!("11b-yaml-label-true.yaml"));
    let labels: Vec<(&str, &str)> = input.hosts[1]
        .labels
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(labels, [("gen", "1.10"), ("ssd", "true")]);
    complete(&planned(&input));
}

#[test]
fn names_as_people_have_them() {
    let plan = planned(&parsed(case!("12-names-of-real-hosts.yaml")));
    let to = "ip-10-20-30-40.eu-central-1.compute.internal";
    assert_eq!(moved(&plan), [("SAP_APP01", to)]);
}

#[test]
fn a_key_with_points_has_its_own_line() {
    let error = refused(case!("13-dotted-resource.yaml"));
    let last = include_str!("cases/13-dotted-resource.yaml").lines().count();
    assert_eq!(error.place.line, Some(last), "{error}");
    assert_eq!(error.hint.as_deref(), Some("did you mean `nvidia.com/gpu`?"));
}

#[test]
fn a_host_with_nothing_is_no_target() {
    for case in [
        case!("14a-witness-with-nothing.yaml"),
        case!("14b-off-and-in-maintenance.yaml"),
    ] {
        let plan = planned(&parsed(case));
        complete(&plan);
        assert_eq!(moved(&plan), [("a", "h2")]);
    }
}

#[test]
fn without_memory_nothing_is_claimed_of_it() {
    let plan = planned(&parsed(case!("16-memory-called-ram.yaml")));
    assert!(!plan.memory_moved_mib.optimal);
    let unknown: Vec<&str> = plan.memory_unknown.iter().map(|vm| vm.as_str()).collect();
    assert_eq!(unknown, ["big-1", "big-2"]);
    assert!(
        plan.notes[0].contains("are not known; is it what is called `ram`"),
        "{:?}",
        plan.notes
    );
}

#[test]
fn a_hint_was_tried_before_it_is_given() {
    let input = parsed(case!("17-fragmented-and-the-hint.yaml"));
    let Answer::Impossible(why) = plan_of(&input, &Options::default()) else {
        panic!("big fits nowhere now");
    };
    let Help::WidenFrom { hosts, to } = &why.help[0] else {
        panic!("{:?}", why.help);
    };
    assert!(
        why.hint()
            .starts_with("with `from` widened to h2, and `to: [h2 and h3]`, it can be done"),
        "{}",
        why.hint()
    );
    let mut widened = input.clone();
    widened.from.extend(hosts.iter().cloned());
    widened.to = to.clone();
    complete(&planned(&widened));
    let mut without = input;
    without.from.clear();
    complete(&planned(&without));
}

#[test]
fn what_models_the_hosts_have_is_told() {
    let input = parsed(case!("19-processor-models.yaml"));
    let plan = planned(&input);
    assert_eq!(moved(&plan).len(), 1, "b goes");
    let [a] = plan.unplaced.as_slice() else {
        panic!("{:?}", plan.unplaced);
    };
    assert_eq!(a.cause, Cause::CpuModels);
    assert_eq!(
        a.why,
        "VM a stays: no target has processor model Cascadelake-Server or Icelake-Server: \
         h2 has Skylake-Server and h3 gives none"
    );
    let help = &plan.why_not_all.unwrap().help;
    let (host, model) = ("h3".parse().unwrap(), "Cascadelake-Server".to_owned());
    assert!(help.contains(&Help::TellModel { host, model }), "{help:?}");
}

#[test]
fn islands_are_solved_one_by_one() {
    let input = generate::islands(10, 6, 7);
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        if asked < 200_000 { Go::On } else { Go::Deadline }
    };
    let answer = plan_while(&input, &Options::default(), &mut ask).unwrap().answer;
    let Answer::Planned(plan) = answer else {
        panic!("each island has a placement: {answer:?}");
    };
    assert_eq!(validate(&input, &plan), Vec::<String>::new());
}
