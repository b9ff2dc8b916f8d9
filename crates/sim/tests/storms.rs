//! Storms: faults by chance at any effect and any instant. Every promise is checked after every
//! event; a failure names its seed.
#![allow(clippy::disallowed_methods, reason = "one seed alone is named by a variable")]

use std::collections::BTreeMap;

use transhume_protocol::report::Ending;
use transhume_sim::{Mischief, Outcome, Scenario, Weather, World};

/// One seed alone: `TRANSHUME_SEED=17 cargo test -p transhume-sim --test storms no_storm_breaks`.
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

/// A quarter of ten thousand schedules; four tests, so that they share the processors.
fn quarter(which: u64) {
    const SCHEDULES: u64 = 2_500;
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    for seed in seeds(SCHEDULES) {
        let outcome = run(Scenario::storm(which * SCHEDULES + seed));
        *endings
            .entry(format!("{:?}", outcome.report.outcome))
            .or_default() += 1;
    }
    println!("{endings:?}");
    if std::env::var_os("TRANSHUME_SEED").is_none() {
        for ending in ["Committed", "PartlyCommitted", "RolledBack", "Running"] {
            assert!(
                endings.get(ending).is_some_and(|n| *n > 20),
                "storms hardly ever end as {ending}: {endings:?}"
            );
        }
    }
}

/// Found by long runs with lost hosts; `docs/design/sim.md` says of which kinds.
#[test]
fn seeds_that_once_broke_a_promise_keep_it() {
    for seed in [
        3_115_451, 3_226_247, 3_278_133, 3_340_850, 3_394_710, 3_415_576, 3_421_390, 5_876_056, 6_305_869,
        6_370_870, 7_147_315, 7_172_811, 8_231_846,
    ] {
        run(Scenario::storm(seed));
    }
}

#[test]
fn no_storm_breaks_a_promise() {
    quarter(0);
}

#[test]
fn no_storm_of_the_second_quarter_breaks_a_promise() {
    quarter(1);
}

#[test]
fn no_storm_of_the_third_quarter_breaks_a_promise() {
    quarter(2);
}

#[test]
fn no_storm_of_the_last_quarter_breaks_a_promise() {
    quarter(3);
}

#[test]
fn coordinators_that_die_again_and_again_still_finish() {
    for seed in seeds(300) {
        let weather = Weather {
            coordinator_dies: 60_000,
            until_ms: 5_000,
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
fn two_hundred_vms_in_a_storm() {
    let weather = Weather {
        until_ms: 2_000,
        act: 100,
        acts: Scenario::storm(0).weather.acts,
        link_breaks: 20,
        coordinator_dies: 50,
        strike_ms_max: 1_000,
        strikes: vec![Mischief::AgentDies, Mischief::TunnelBreaks],
        ..Weather::default()
    };
    for seed in seeds(2) {
        run(Scenario {
            sources: 10,
            targets: 6,
            frame_gap_micros_max: 20_000,
            weather: weather.clone(),
            ..Scenario::calm(seed, 200, 50)
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..50 {
        let (first, second) = (run(Scenario::storm(seed)), run(Scenario::storm(seed)));
        assert_eq!(first.journal, second.journal);
        assert_eq!(first.acts, second.acts);
        assert_eq!((first.frames, first.steps), (second.frames, second.steps));
    }
}
