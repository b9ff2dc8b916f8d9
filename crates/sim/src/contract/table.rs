//! The table of all answers: how it is asked for, and how a cell of it is read.

use std::fmt::Write as _;

use transhume_protocol::message::OrderKind;

use super::{Breakable, Case, Role, Subject, orders};

/// The one table of what is answered, as it is written down.
pub const TABLE: &str = include_str!("../../testdata/contract.txt");

/// Widths of the columns: what is given, and each answer.
const WIDTHS: (usize, usize) = (19, 20);

/// The parts of the table in which an order has one answer in a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Given for the first time.
    Fresh,
    /// Given again.
    Again,
}

impl Section {
    fn title(self) -> &'static str {
        match self {
            Section::Fresh => "fresh",
            Section::Again => "given again",
        }
    }
}

/// Everything that a subject answers, as [`TABLE`] has it.
pub fn table<S: Breakable>(make: impl Fn() -> S) -> String {
    let fresh = grid(Section::Fresh, |role, kind| Case::new(make(), role).ask(kind));
    let again = grid(Section::Again, |role, kind| {
        let mut case = Case::new(make(), role);
        let (first, second) = (case.ask(kind), case.ask(kind));
        if first == second { "=".to_owned() } else { second }
    });
    [fresh, again, failing(make)].join("\n")
}

fn line(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let (first_width, width) = WIDTHS;
    let mut line = format!("{first:<first_width$}");
    for cell in cells {
        line += &format!("{cell:<width$}");
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

fn grid(section: Section, ask: impl Fn(Role, OrderKind) -> String) -> String {
    let mut text = String::new();
    let names = Role::ALL.iter().map(|role| role.name().to_owned());
    line(&mut text, section.title(), names);
    for kind in orders() {
        line(
            &mut text,
            kind.name(),
            Role::ALL.iter().map(|role| ask(*role, kind)),
        );
    }
    text
}

/// For each act of an order that is carried out: what is answered when it fails, and when the order
/// is given again. An act on which no answer depends is left out: looks at a guest come by time, in
/// each subject at another.
fn failing<S: Breakable>(make: impl Fn() -> S) -> String {
    let mut text = "an act fails       (order in role: act, answer, answer when given again)\n".to_owned();
    for role in Role::ALL {
        for kind in orders() {
            let mut whole = Case::new(make(), role);
            let before = whole.subject.acts(role.place());
            let first = whole.ask(kind);
            let acts = whole.subject.acts(role.place()) - before;
            let healthy = (first, whole.ask(kind));
            if healthy.0.starts_with("refused") {
                continue;
            }
            for nth in 0..acts {
                let mut case = Case::new(make(), role);
                case.subject.fail_act(role.place(), nth);
                let answers = (case.ask(kind), case.ask(kind));
                if answers == healthy {
                    continue;
                }
                let (first, second) = answers;
                let what = format!("{kind} in {}", role.name());
                // Writing to a string does not fail.
                let _ = writeln!(text, "{what:<35}{:<5}{first:<24}{second}", nth + 1);
            }
        }
    }
    text
}

/// What [`TABLE`] says of an order in a role.
pub fn expected(section: Section, kind: OrderKind, role: Role) -> String {
    let (first_width, width) = WIDTHS;
    let column = Role::ALL.iter().position(|of| *of == role);
    let begin = first_width + width * column.expect("all roles are listed");
    let part = TABLE.split("\n\n").find(|part| part.starts_with(section.title()));
    let mut rows = part.expect("the table has each section").lines().skip(1);
    let row = rows.find(|row| row.split_whitespace().next() == Some(kind.name()));
    let cells = row.expect("each order has its row").chars();
    let cell: String = cells.skip(begin).take(width).collect();
    match cell.trim() {
        "=" => expected(Section::Fresh, kind, role),
        said => said.to_owned(),
    }
}

/// What [`TABLE`] says of an order in a role whose n-th act, from 1, fails: its answer, and that
/// when it is given again.
pub fn expected_failing(kind: OrderKind, role: Role, act: usize) -> (String, String) {
    let begin = format!("{kind} in {} ", role.name());
    let parsed = TABLE.lines().find_map(|line| {
        let (nth, answers) = line.strip_prefix(&begin)?.trim().split_once(' ')?;
        let (first, second) = answers.trim().split_once("  ")?;
        let answers = (first.to_owned(), second.trim().to_owned());
        (nth == act.to_string()).then_some(answers)
    });
    parsed.unwrap_or_else(|| panic!("the table has no act {act} of {begin}"))
}

/// Orders of an older epoch that are not refused as such; there must be none.
pub fn not_stale<S: Subject>(make: impl Fn() -> S) -> Vec<String> {
    let mut wrong = Vec::new();
    // What is stranded without a record holds no epoch, and refuses everything but its end.
    let holds = |role: &&Role| !matches!(role, Role::None | Role::Stranded | Role::Booting);
    for role in Role::ALL.iter().filter(holds) {
        for kind in orders() {
            let mut case = Case::new(make(), *role);
            if *role == Role::Home {
                // It was at home before any order of this epoch.
                case.ask(OrderKind::AbortSource);
            }
            let answer = case.ask_stale(kind);
            if answer != "refused StaleEpoch" {
                wrong.push(format!("{kind} in {}: {answer}", role.name()));
            }
        }
    }
    wrong
}

/// Orders that led into a role and are answered otherwise by an agent that was killed since; there
/// must be none.
pub fn forgotten_by_restart<S: Subject>(make: impl Fn() -> S) -> Vec<String> {
    let mut wrong = Vec::new();
    for (role, kind) in [
        (Role::Left, OrderKind::Commit),
        (Role::Arrived, OrderKind::Activate),
        (Role::Arrived, OrderKind::OpenTargetBuffer),
        (Role::Loaded, OrderKind::AwaitLoaded),
        (Role::Expected, OrderKind::Reserve),
        (Role::Off, OrderKind::StopVm),
    ] {
        let before = Case::new(make(), role).ask(kind);
        let mut case = Case::new(make(), role);
        case.subject.restart(role.place());
        let after = case.ask(kind);
        if after != before {
            wrong.push(format!("{kind} in {}: {before}, then {after}", role.name()));
        }
    }
    wrong
}
