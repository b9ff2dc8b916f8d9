//! The contract of an agent, in full, on the machine that ships with simulated hosts:
//! `testdata/contract.txt` is the one table of what is answered.
#![allow(clippy::disallowed_methods, reason = "rewrites a golden")]

use transhume_protocol::message::OrderKind;
use transhume_sim::World;
use transhume_sim::contract::{
    Role, Section, TABLE, expected, expected_failing, forgotten_by_restart, not_stale, table,
};

#[test]
fn every_order_in_every_role_is_answered_as_written_down() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/contract.txt");
    let asked = table(World::alone);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(path, &asked).expect("the golden can be written");
        return;
    }
    assert!(
        asked == TABLE,
        "differs from {path} (UPDATE_GOLDENS=1 rewrites it):\n{asked}"
    );
}

#[test]
fn a_cell_of_the_table_is_found_by_its_order_and_role() {
    let fresh = |kind, role| expected(Section::Fresh, kind, role);
    assert_eq!(fresh(OrderKind::StartVm, Role::None), "Started");
    assert_eq!(fresh(OrderKind::StartVm, Role::Booting), "–");
    assert_eq!(fresh(OrderKind::PreCopy, Role::Off), "refused PoweredOff");
    assert_eq!(fresh(OrderKind::AbortTarget, Role::Stranded), "refused Stranded");
    let again = |kind, role| expected(Section::Again, kind, role);
    assert_eq!(again(OrderKind::AwaitLoaded, Role::Target), "failed Qemu");
    assert_eq!(again(OrderKind::AwaitLoaded, Role::Loaded), "Loaded");
    let (first, second) = expected_failing(OrderKind::PreCopy, Role::Home, 1);
    assert_eq!((&*first, &*second), ("failed Internal", "failed PageStream"));
}

#[test]
fn an_older_epoch_is_refused_in_every_role_that_holds_one() {
    assert_eq!(not_stale(World::alone), Vec::<String>::new());
}

#[test]
fn an_agent_that_was_killed_answers_the_last_order_again() {
    assert_eq!(forgotten_by_restart(World::alone), Vec::<String>::new());
}
