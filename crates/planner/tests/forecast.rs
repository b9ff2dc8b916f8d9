//! Forecasts of batches that are chosen already: what the live coordinator asks.

use transhume_planner::forecast;
use transhume_planner::forecast::Mode;
use transhume_planner::input::{PlanInput, read};
use transhume_planner::report::Step;

const LIVE: Mode = Mode::Live {
    blackout_ms_max: 300.0,
};

/// VMs a and b on h1 and h2, both to h3 over 1 Gbit/s.
fn two_to_one() -> PlanInput {
    let mut text = String::from("hosts:\n");
    for host in ["h1", "h2", "h3"] {
        text += &format!("  - {{name: {host}, capacity: {{memory: 8192}}, bands: {{vmct-mbit-s: 1000}}}}\n");
    }
    text += "cluster:\n  name: pair\n  vms:\n";
    for (vm, host) in [("a", "h1"), ("b", "h2")] {
        text += &format!(
            "    - {{name: {vm}, host: {host}, demand: {{memory: 1024}}, memory: {{dirty-mib-s: [2]}}}}\n"
        );
    }
    read("pair.yaml", &text).unwrap()
}

fn one_batch(vms: &[&str]) -> Vec<Step> {
    let source = |vm: &str| if vm == "a" { "h1" } else { "h2" };
    let moves = vms.iter().map(|vm| Step {
        vm: vm.parse().unwrap(),
        source: source(vm).parse().unwrap(),
        target: "h3".parse().unwrap(),
        spare: false,
    });
    moves.collect()
}

#[test]
fn chosen_batches_are_forecast_like_a_plans_own() {
    let input = two_to_one();
    let whole = forecast(&input, &[one_batch(&["a", "b"])], LIVE).unwrap();
    let rates: Vec<f64> = whole.batches[0].iter().map(|one| one.rate_mbit_s).collect();
    assert_eq!(rates, [500.0, 500.0], "both share the target's link");
    let single = [one_batch(&["a"]), one_batch(&["b"])];
    let single = forecast(&input, &single, LIVE).unwrap();
    assert_eq!(single.batches[1][0].rate_mbit_s, 1000.0);
    assert!(
        single.duration_s.high > single.batches[0][0].duration_s.high,
        "one after the other"
    );
    assert!(whole.refused.is_empty());

    let mut busy = input.clone();
    busy.cluster.vms[0].memory.dirty_mib_s = vec![80.0, 90.0];
    let refused = forecast(&busy, &[one_batch(&["a", "b"])], LIVE).unwrap().refused;
    let names: Vec<&str> = refused.iter().map(|one| one.vm.as_str()).collect();
    assert_eq!(names, ["a"], "{refused:?}");
    assert!(refused[0].rate_needed_mbit_s > Some(500.0), "{refused:?}");
    let stopped = forecast(&busy, &[one_batch(&["a", "b"])], Mode::Offline).unwrap();
    assert!(stopped.refused.is_empty(), "offline nothing is dirtied");
    assert!(
        stopped.batches[0][0]
            .assumed
            .iter()
            .all(|what| !what.contains("written"))
    );

    let error = forecast(&input, &[one_batch(&["nobody"])], LIVE).unwrap_err();
    assert!(error.to_string().contains("VM nobody"), "{error}");
}
