//! Evacuation under a deadline: what is promised, and what is said before.

use transhume_planner::input::{PlanInput, read};
use transhume_planner::report::{Answer, Plan};
use transhume_planner::{K, Options, PlanError, generate, plan, validate};

/// Random instances of one run. The seeds are 0 to CASES.
const CASES: u64 = 20_000;

/// VMs on `dies` (name, MiB, weight), a link of 1 Gbit/s each, room for all on `t`.
fn dying(vms: &[(&str, u64, u32)]) -> PlanInput {
    let mut text = String::from("from: [dies]\nhosts:\n");
    for host in ["dies", "t"] {
        text +=
            &format!("  - {{name: {host}, capacity: {{memory: 1048576}}, bands: {{vmct-mbit-s: 1000}}}}\n");
    }
    text += "cluster:\n  name: c\n  vms:\n";
    for (name, memory, weight) in vms {
        text += &format!(
            "    - {{name: {name}, host: dies, weight: {weight}, demand: {{memory: {memory}}}, memory: {{dirty-mib-s: [1], touched-mib: {memory}, compressed-to: [1, 1]}}}}\n"
        );
    }
    read("dying.yaml", &text).unwrap()
}

fn within(input: &PlanInput, safe_by_s: f64) -> Result<Plan, PlanError> {
    let options = Options {
        safe_by_s: Some(safe_by_s),
        ..Options::default()
    };
    match plan(input, &options)?.answer {
        Answer::Planned(plan) => Ok(*plan),
        other => panic!("not planned: {other:?}"),
    }
}

fn order(plan: &Plan) -> Vec<&str> {
    let steps = plan.batches.iter().flat_map(|batch| &batch.moves);
    steps.map(|one| one.step.vm.as_str()).collect()
}

#[test]
fn most_weight_is_safe_in_time_and_the_rest_is_told_before() {
    // 1 GiB takes 9 to 16 s at 1 Gbit/s.
    let input = dying(&[("big", 8192, 3), ("a", 1024, 1), ("b", 1024, 5), ("c", 1024, 1)]);
    let plan = within(&input, 60.0).unwrap();
    assert_eq!(validate(&input, &plan), Vec::<String>::new());
    assert_eq!(order(&plan), ["b", "a", "c", "big"]);
    let safe_by = plan.safe_by.unwrap();
    assert_eq!((safe_by.weight_safe, safe_by.weight), (7, 10));
    let late: Vec<&str> = safe_by.late.iter().map(|late| late.vm.as_str()).collect();
    assert_eq!(late, ["big"]);
    assert!(safe_by.late[0].safe_after_s > Some(60.0));
    let said = safe_by.sentences();
    assert!(said[0].contains("7 of a weight of 10"), "{said:?}");
    assert!(said[1].contains("VM big is not safe in time"), "{said:?}");

    let plan = within(&input, 600.0).unwrap();
    assert_eq!(plan.safe_by.unwrap().late, []);
}

#[test]
fn a_vm_without_a_place_is_never_safe() {
    let mut input = dying(&[("a", 1024, 1), ("pinned", 1024, 9)]);
    input.cluster.vms[1].pin = vec!["dies".parse().unwrap()];
    let safe_by = within(&input, 600.0).unwrap().safe_by.unwrap();
    assert_eq!((safe_by.weight_safe, safe_by.weight), (1, 10));
    assert_eq!(safe_by.late[0].safe_after_s, None);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let input = dying(&[("a", 1024, 1)]);
    let said = |input: &PlanInput, safe_by_s, k| {
        let options = Options {
            safe_by_s: Some(safe_by_s),
            k,
            ..Options::default()
        };
        match plan(input, &options) {
            Err(PlanError::Input(error)) => (error.place.path, error.what, error.hint.unwrap()),
            other => panic!("not refused: {other:?}"),
        }
    };
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(said(&input, bad, K::Chosen).0, "safe_by_s");
    }
    assert!(said(&input, 9.0, K::AtMost(1)).1.contains("whatever k is"));
    let mut everywhere = input.clone();
    everywhere.from.clear();
    assert!(said(&everywhere, 9.0, K::Chosen).2.contains("`from`"));
    let mut target = input;
    target.to = vec!["t".parse().unwrap(), "dies".parse().unwrap()];
    assert!(said(&target, 9.0, K::Chosen).1.contains("host dies"));
}

/// Whatever the constraints, the order is one that can be carried out, and nobody is called safe
/// who is not.
#[test]
fn plans_under_a_deadline_keep_every_rule() {
    let mut seen = 0;
    for seed in 0..CASES {
        let mut input = generate::small(seed);
        let Some(home) = input.cluster.vms.first().map(|vm| vm.host.clone()) else {
            continue;
        };
        input.to.clear();
        input.from = vec![home];
        for (weight, vm) in (0..).zip(&mut input.cluster.vms) {
            vm.weight = weight % 4;
        }
        let options = Options {
            safe_by_s: Some(30.0),
            ..Options::default()
        };
        // Some of these inputs contradict themselves.
        let Ok(Answer::Planned(made)) = plan(&input, &options).map(|report| report.answer) else {
            continue;
        };
        seen += 1;
        assert_eq!(validate(&input, &made), Vec::<String>::new(), "seed {seed}");
        let mut now_s = 0.0;
        let safe_by = made.safe_by.as_ref().unwrap();
        for batch in &made.batches {
            now_s += batch.duration_s.high;
            for one in &batch.moves {
                let late = safe_by.late.iter().any(|late| late.vm == one.step.vm);
                assert_eq!(late, now_s > 30.0, "seed {seed}: {}", one.step.vm);
            }
        }
    }
    assert!(seen > CASES / 3, "most of them are planned: {seen}");
}
