//! The contract of an agent, in full, on the machine that ships with simulated hosts:
//! `testdata/contract.txt` is the one table of what is answered.
#![allow(clippy::disallowed_methods, reason = "reads and rewrites a golden")]

use std::fmt::Write as _;

use transhume_protocol::message::OrderKind;
use transhume_sim::World;
use transhume_sim::contract::{Case, Role, Subject, orders};

fn case(role: Role) -> Case<World> {
    Case::new(World::alone(), role)
}

fn line(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let mut line = format!("{first:<19}");
    for cell in cells {
        write!(line, "{cell:<20}").expect("a string takes all");
    }
    writeln!(text, "{}", line.trim_end()).expect("a string takes all");
}

fn fresh() -> String {
    let mut text = String::new();
    line(
        &mut text,
        "fresh",
        Role::ALL.iter().map(|role| role.name().to_owned()),
    );
    for kind in orders() {
        let cells = Role::ALL.iter().map(|role| case(*role).ask(kind));
        line(&mut text, kind.name(), cells);
    }
    text
}

/// What is answered when the order is given again, where that is not the same.
fn again() -> String {
    let mut text = String::new();
    line(
        &mut text,
        "given again",
        Role::ALL.iter().map(|role| role.name().to_owned()),
    );
    for kind in orders() {
        let cells = Role::ALL.iter().map(|role| {
            let mut case = case(*role);
            let (first, second) = (case.ask(kind), case.ask(kind));
            if first == second { "=".to_owned() } else { second }
        });
        line(&mut text, kind.name(), cells);
    }
    text
}

/// For each act of an order that is carried out: what is answered when it fails, and when the order
/// is given again.
fn failing() -> String {
    let mut text = "an act fails       (order in role: act, answer, answer when given again)\n".to_owned();
    for role in Role::ALL {
        for kind in orders() {
            let mut whole = case(role);
            let before = whole.subject.acts(role.place());
            let healthy = whole.ask(kind);
            let acts = whole.subject.acts(role.place()) - before;
            if healthy.starts_with("refused") {
                continue;
            }
            for nth in 0..acts {
                let mut case = case(role);
                case.subject.fail_act(role.place(), nth);
                let (first, second) = (case.ask(kind), case.ask(kind));
                let what = format!("{kind} in {}", role.name());
                writeln!(text, "{what:<35}{:<5}{first:<24}{second}", nth + 1).expect("a string takes all");
            }
        }
    }
    text
}

#[test]
fn every_order_in_every_role_is_answered_as_written_down() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/contract.txt");
    let table = [fresh(), again(), failing()].join("\n");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(path, &table).expect("the golden can be written");
    }
    let golden = std::fs::read_to_string(path).expect("the golden is there");
    assert!(
        table == golden,
        "differs from {path} (UPDATE_GOLDENS=1 rewrites it):\n{table}"
    );
}

#[test]
fn an_older_epoch_is_refused_in_every_role_that_holds_one() {
    // What is stranded without a record holds no epoch, and refuses everything but its end.
    let holds = |role: &&Role| !matches!(role, Role::None | Role::Stranded | Role::Booting);
    for role in Role::ALL.iter().filter(holds) {
        for kind in orders() {
            // Home and off were there before any order of this epoch.
            let mut case = case(*role);
            if *role == Role::Home {
                case.ask(OrderKind::AbortSource);
            }
            assert_eq!(
                case.ask_stale(kind),
                "refused StaleEpoch",
                "{kind} in {}",
                role.name()
            );
        }
    }
}

#[test]
fn an_agent_that_was_killed_answers_the_last_order_again() {
    for (role, kind) in [
        (Role::Left, OrderKind::Commit),
        (Role::Arrived, OrderKind::Activate),
        (Role::Arrived, OrderKind::OpenTargetBuffer),
        (Role::Loaded, OrderKind::AwaitLoaded),
        (Role::Expected, OrderKind::Reserve),
        (Role::Off, OrderKind::StopVm),
    ] {
        let mut before = case(role);
        let answer = before.ask(kind);
        let mut case = case(role);
        case.subject.restart(role.place());
        assert_eq!(case.ask(kind), answer, "{kind} in {}", role.name());
    }
}
