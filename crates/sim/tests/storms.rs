//! Weather: faults by chance at any instant. Every promise is checked after every event; a failure names its seed.
#![allow(clippy::disallowed_methods, reason = "a seed may be named")]

use std::collections::BTreeMap;

use transhume_protocol::report::Ending;
use transhume_sim::{Outcome, Scenario, Weather, World};

/// One seed alone: `TRANSHUME_SEED=17 cargo test -p transhume-sim --test storms`.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("TRANSHUME_SEED") {
        Ok(seed) => vec![seed.parse().expect("TRANSHUME_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

fn run(scenario: Scenario) -> Outcome {
    let seed = scenario.seed;
    World::new(scenario).run().unwrap_or_else(|violation| {
        panic!("TRANSHUME_SEED={seed} breaks a promise: {violation}: {violation:?}")
    })
}

fn storm() -> Weather {
    Weather {
        until_ms: 1_500,
        agent_dies: 4_000,
        link_breaks: 3_000,
        coordinator_dies: 4_000,
        order_fails: 1_000,
        order_hangs: 1_000,
        tunnel_breaks: 2_000,
        user_cancels: 500,
    }
}

#[test]
fn no_storm_breaks_a_promise() {
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    for seed in seeds(4_000) {
        let scenario = Scenario {
            weather: storm(),
            ..Scenario::calm(seed, 4, 2)
        };
        *endings
            .entry(format!("{:?}", run(scenario).report.outcome))
            .or_default() += 1;
    }
    println!("{endings:?}");
    if std::env::var_os("TRANSHUME_SEED").is_none() {
        for ending in ["Committed", "PartlyCommitted", "RolledBack"] {
            assert!(
                endings.get(ending).is_some_and(|n| *n > 50),
                "storms hardly ever end as {ending}: {endings:?}"
            );
        }
    }
}

#[test]
fn coordinators_that_die_again_and_again_still_finish() {
    for seed in seeds(300) {
        let weather = Weather {
            coordinator_dies: 60_000,
            until_ms: 3_000,
            ..Weather::default()
        };
        let outcome = run(Scenario {
            weather,
            ..Scenario::calm(seed, 3, 3)
        });
        assert!(matches!(
            outcome.report.outcome,
            Ending::Committed | Ending::RolledBack
        ));
    }
}

#[test]
fn a_thousand_vms_in_a_storm() {
    let weather = Weather {
        agent_dies: 20,
        link_breaks: 20,
        coordinator_dies: 50,
        ..storm()
    };
    let scenario = Scenario {
        sources: 40,
        targets: 25,
        frame_gap_micros_max: 60_000,
        weather: Weather {
            order_fails: 10,
            order_hangs: 0,
            tunnel_breaks: 10,
            user_cancels: 0,
            ..weather
        },
        ..Scenario::calm(1, 1_000, 100)
    };
    for seed in seeds(2) {
        run(Scenario {
            seed,
            ..scenario.clone()
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = Scenario {
        weather: storm(),
        ..Scenario::calm(7, 6, 3)
    };
    let (first, second) = (run(scenario.clone()), run(scenario));
    assert_eq!(first.journal, second.journal);
    assert_eq!(first.frames, second.frames);
}
