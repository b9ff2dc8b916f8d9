//! Without faults: every VM arrives, and its frames with it, whatever its guest does.

use transhume_protocol::message::Mode;
use transhume_protocol::report::Ending;
use transhume_sim::{GuestKind, Outcome, Scenario, World};

fn run(scenario: Scenario) -> Outcome {
    let seed = scenario.seed;
    let outcome = World::new(scenario).run();
    outcome.unwrap_or_else(|violation| panic!("seed {seed}: {violation}: {violation:?}"))
}

#[test]
fn a_cluster_moves_batch_by_batch() {
    for seed in 0..20 {
        for (vms, batch) in [(1, 1), (4, 1), (4, 2), (4, 4), (7, 3)] {
            let outcome = run(Scenario::calm(seed, vms, batch));
            assert_eq!(outcome.report.outcome, Ending::Committed);
            assert!(outcome.report.frames.captured > 0);
            assert_eq!(outcome.report.frames.captured, outcome.report.frames.delivered);
            assert!(outcome.frames > 0);
        }
    }
}

#[test]
fn offline_too() {
    for seed in 0..10 {
        let scenario = Scenario {
            mode: Mode::Offline,
            ..Scenario::calm(seed, 3, 2)
        };
        assert_eq!(run(scenario).report.outcome, Ending::Committed);
    }
}

#[test]
fn guests_move_as_they_are() {
    use GuestKind::{Deaf, DiskError, Healthy, Panicked, Paused};
    for seed in 0..10 {
        for odd in [Paused, Panicked, DiskError, Deaf] {
            let scenario = Scenario {
                guests: vec![Healthy, odd, Healthy],
                ..Scenario::calm(seed, 4, 4)
            };
            assert_eq!(run(scenario).report.outcome, Ending::Committed, "{odd:?}");
        }
    }
}

#[test]
fn two_hundred_vms() {
    let scenario = Scenario {
        sources: 10,
        targets: 6,
        frame_gap_micros_max: 20_000,
        ..Scenario::calm(1, 200, 50)
    };
    let outcome = run(scenario);
    assert_eq!(outcome.report.outcome, Ending::Committed);
    assert_eq!(outcome.report.vms.len(), 200);
}
