//! Without faults everything moves, live and offline, few VMs and many.

use transhume_protocol::message::Mode;
use transhume_protocol::report::Ending;
use transhume_protocol::step::Phase;
use transhume_sim::{Outcome, Scenario, World};

fn run(scenario: Scenario) -> Outcome {
    let seed = scenario.seed;
    let outcome = World::new(scenario).run();
    let outcome = outcome.unwrap_or_else(|violation| panic!("seed {seed}: {violation}: {violation:?}"));
    assert_eq!(outcome.report.outcome, Ending::Committed, "seed {seed}");
    outcome
}

#[test]
fn calm_moves_commit() {
    for seed in 0..100 {
        let outcome = run(Scenario::calm(seed, 7, 3));
        assert!(
            outcome.report.frames.captured > 0,
            "frames come while VMs are stopped"
        );
        assert_eq!(outcome.coordinator_runs, 1);
    }
}

#[test]
fn offline_moves_commit() {
    for seed in 0..50 {
        let outcome = run(Scenario {
            mode: Mode::Offline,
            ..Scenario::calm(seed, 4, 2)
        });
        assert!(outcome.report.vms.iter().all(|vm| vm.phase == Phase::Activation));
    }
}

#[test]
fn three_thousand_vms_move_in_batches_of_250() {
    let scenario = Scenario {
        sources: 100,
        targets: 80,
        frame_gap_micros_max: 200_000,
        ..Scenario::calm(1, 3_000, 250)
    };
    assert_eq!(run(scenario).report.used.len(), 80);
}
