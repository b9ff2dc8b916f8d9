//! Any one host loses its power at any step and never comes back, or comes back with what is on its
//! disk: every move ends within its limit or waits for a decision by name, what lives runs, and
//! what is lost is told. The world checks the rest after every event; a failure names its seed.
#![allow(clippy::disallowed_methods, reason = "one seed alone is named by a variable")]

use std::collections::BTreeMap;

use transhume_protocol::migration::Limits;
use transhume_protocol::report::Ending;
use transhume_sim::{Outcome, PowerLoss, Scenario, World};

/// Above the named limit after which a host is given up.
const BEYOND_MS_MAX: u64 = 30_000;

/// One seed alone: `TRANSHUME_SEED=17 cargo test -p transhume-sim --test power_loss for_good`.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("TRANSHUME_SEED") {
        Ok(seed) => vec![seed.parse().expect("TRANSHUME_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

fn run(seed: u64, loss: PowerLoss) -> Outcome {
    World::new(Scenario::power_loss(seed, loss))
        .run()
        .unwrap_or_else(|violation| {
            panic!("TRANSHUME_SEED={seed} breaks a promise: {violation}: {violation:?}")
        })
}

/// Within the limit and 30 s the move is over or somebody is asked; within as much of the decision
/// it is over.
fn check_bounds(seed: u64, outcome: &Outcome) {
    let loss = outcome.loss;
    let Some(lost_at) = loss.lost_at else { return };
    let bound = Limits::default().host_lost_ms_max.0 + BEYOND_MS_MAX;
    let over_at = loss
        .over_at
        .unwrap_or_else(|| panic!("TRANSHUME_SEED={seed}: never over"));
    // A coordinator that starts waits anew.
    let lost_at = lost_at.max(loss.coordinator_at.unwrap_or(lost_at));
    let waited_for = loss.asked_at.unwrap_or(over_at).saturating_sub(lost_at).0;
    assert!(
        waited_for <= bound,
        "TRANSHUME_SEED={seed}: {waited_for} ms until it is over or asks"
    );
    let decided_at = loss.decided_at.unwrap_or(lost_at).max(lost_at);
    let after = over_at.saturating_sub(decided_at).0;
    assert!(
        after <= bound,
        "TRANSHUME_SEED={seed}: over {after} ms after the decision"
    );
}

#[test]
fn for_good() {
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    let (mut struck, mut decided, mut back, mut lost) = (0, 0, [0, 0], 0);
    for seed in seeds(2_000) {
        let outcome = run(seed, PowerLoss::ForGood);
        check_bounds(seed, &outcome);
        struck += usize::from(outcome.loss.lost_at.is_some());
        decided += usize::from(outcome.loss.decided_at.is_some());
        for vm in &outcome.report.vms {
            lost += usize::from(vm.lost.is_some());
            if let Some(reclaimed) = &vm.reclaimed {
                back[usize::from(reclaimed.may_have_run)] += 1;
            }
        }
        *endings
            .entry(format!("{:?}", outcome.report.outcome))
            .or_default() += 1;
    }
    println!("{struck} hosts lost, {decided} decisions, {lost} VMs lost, {back:?} back, {endings:?}");
    if std::env::var_os("TRANSHUME_SEED").is_none() {
        assert!(struck > 1_000 && decided > 100 && lost > 100 && back[1] > 20);
        for ending in [
            Ending::CommittedWithLoss,
            Ending::RolledBack,
            Ending::PartlyCommitted,
        ] {
            assert!(endings.contains_key(&format!("{ending:?}")), "{endings:?}");
        }
    }
}

#[test]
fn and_back() {
    let mut back = [0, 0];
    for seed in seeds(2_000) {
        let outcome = run(seed, PowerLoss::ComesBack);
        for reclaimed in outcome.report.vms.iter().filter_map(|vm| vm.reclaimed.as_ref()) {
            back[usize::from(reclaimed.may_have_run)] += 1;
        }
    }
    println!("{back:?} back");
    if std::env::var_os("TRANSHUME_SEED").is_none() {
        assert!(back[0] > 0 && back[1] > 0, "{back:?}");
    }
}
