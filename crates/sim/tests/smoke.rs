//! Without faults, everything moves.
use transhume_protocol::report::Ending;
use transhume_sim::{Scenario, World};

#[test]
fn calm_moves_commit() {
    for seed in 0..50 {
        let outcome = World::new(Scenario::calm(seed, 7, 3))
            .run()
            .unwrap_or_else(|v| panic!("seed {seed}: {v:?}"));
        assert_eq!(outcome.report.outcome, Ending::Committed);
    }
}
