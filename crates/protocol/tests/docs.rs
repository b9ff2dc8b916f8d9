//! The tables in `docs/design/protocol.md` are the ones that execute. `UPDATE_GOLDENS=1` writes
//! them anew.
#![allow(clippy::disallowed_methods, reason = "reads and rewrites the page")]

use std::fmt::Write as _;
use std::fs;

use transhume_protocol::step::{Fact, Meaning, Need, ORDERS, OnFault, OrderRow, Part, STEPS};

fn list(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    if all.is_empty() {
        "–".to_owned()
    } else {
        all.join(", ")
    }
}

fn steps() -> String {
    let mut out =
        String::from("| step | phase of its VMs | over for a VM when | a fault |\n|---|---|---|---|\n");
    for row in &STEPS {
        let facts = row.done_when.iter().map(|fact| match fact {
            Fact::Started(order) => format!("{order} has started"),
            Fact::Done(order) => format!("{order} is done"),
        });
        let fault = match row.on_fault {
            OnFault::RollBack => "rolls the batch back",
            OnFault::RollForward => "is tried again",
        };
        let (number, step, phase) = (row.step.number(), row.step, row.phase);
        writeln!(out, "| {number} {step} | {phase} | {} | {fault} |", list(facts)).unwrap();
    }
    out
}

fn order(row: &OrderRow) -> String {
    let part = match row.part {
        Part::Step(step) => step.number().to_string(),
        Part::RollBack => "back".to_owned(),
    };
    let needs = row.needs.iter().map(|need| match need {
        Need::Own(order) => order.to_string(),
        Need::All(order) => format!("{order} of every VM"),
    });
    let mut done_by = row.done_by.to_string();
    if row.may_lose {
        done_by.push_str(" or Lost");
    }
    let refused = row.refused.iter().map(|(kind, meaning)| {
        let meaning = match meaning {
            Meaning::Done => "done",
            Meaning::Lost => "lost",
        };
        format!("{kind:?}: {meaning}")
    });
    format!(
        "| {} | {part} | {} | {} | {done_by} | {} | `{}` | {} |\n",
        row.order,
        row.side,
        list(needs),
        list(refused),
        row.limit.name(),
        if row.without_guest { "yes" } else { "no" },
    )
}

fn orders() -> String {
    let head = "| order | step | side | needs | done by | refusal that is no failure | answer within | VM without guest |\n\
                |---|---|---|---|---|---|---|---|\n";
    ORDERS.iter().fold(head.to_owned(), |all, row| all + &order(row))
}

/// The page with the table between its two marks replaced.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let from = page.find(&begin).expect("the page marks where the table begins") + begin.len();
    let to = page.find(&end).expect("the page marks where the table ends");
    format!("{}{table}{}", &page[..from], &page[to..])
}

#[test]
fn the_page_shows_the_tables_that_execute() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/design/protocol.md");
    let page = fs::read_to_string(path).expect("the page is there");
    let expected = with_table(&with_table(&page, "steps", &steps()), "orders", &orders());
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(path, &expected).expect("the page can be written");
    } else {
        assert!(page == expected, "UPDATE_GOLDENS=1 writes the tables anew");
    }
}
