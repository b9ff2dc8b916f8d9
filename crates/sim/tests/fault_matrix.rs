//! Each order × each act of its sequence × each fault. Every run ends with every VM in exactly one
//! place, its batch on one side, and every frame delivered once, in order (`World` checks these);
//! how it ends is compared with `testdata/fault_matrix.txt`.
#![allow(clippy::disallowed_methods, reason = "reads and rewrites a golden")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use transhume_protocol::message::OrderKind;
use transhume_protocol::report::Ending;
use transhume_protocol::step::{ORDERS, OnFault, Part, Step};
use transhume_sim::{ActFault, CrashPoint, Fault, OrderFault, Place, Scenario, World, WriteFault};

const ORDER_FAULTS: [(&str, OrderFault); 10] = [
    ("lost", OrderFault::Lost),
    ("twice", OrderFault::ComesTwice),
    ("answer-twice", OrderFault::AnsweredTwice),
    ("stale-copy", OrderFault::StaleCopyFirst),
    ("agent-dies", OrderFault::AgentDies),
    ("link-breaks", OrderFault::LinkBreaks),
    ("cut-off", OrderFault::Partitioned),
    (
        "coord-unpersisted",
        OrderFault::CoordinatorDies(CrashPoint::BeforePersist),
    ),
    (
        "coord-persisted",
        OrderFault::CoordinatorDies(CrashPoint::AfterPersist),
    ),
    (
        "coord-half-sent",
        OrderFault::CoordinatorDies(CrashPoint::BetweenSends),
    ),
];

const ACT_FAULTS: [(&str, ActFault); 9] = [
    ("fails", ActFault::Fails),
    ("fails-after", ActFault::FailsAfter),
    ("hangs", ActFault::Hangs),
    ("late", ActFault::Late),
    ("answered-twice", ActFault::AnsweredTwice),
    ("dies-before", ActFault::AgentDiesBefore),
    ("dies-after", ActFault::AgentDiesAfter),
    ("qemu-dies", ActFault::QemuDies),
    ("host-dies", ActFault::HostDies),
];

const WRITE_FAULTS: [(&str, WriteFault); 5] = [
    ("fails", WriteFault::Fails),
    ("disk-full", WriteFault::DiskFull),
    ("dies-before", WriteFault::AgentDiesBefore),
    ("dies-after", WriteFault::AgentDiesAfter),
    ("unreadable", WriteFault::Unreadable),
];

/// VMs 0 to 2 go first; the fault strikes one of the second batch, so that the first must stay
/// committed.
const BATCH: usize = 3;
const STRUCK: usize = 4;

/// The source of what is struck dies for good before it sends FIN.
const SOURCE_LOST: Fault = Fault::Act {
    vm: STRUCK,
    place: Place::Source,
    act: "finish-source-buffer",
    what: ActFault::HostDies,
};

/// The second batch is undone after it was captured: what is struck is on the way back.
const UNDONE: Fault = Fault::Order {
    vm: 3,
    order: OrderKind::AwaitLoaded,
    what: OrderFault::Cancelled,
};

fn scenario(seed: u64, faults: Vec<Fault>) -> Scenario {
    Scenario {
        faults,
        ..Scenario::calm(seed, 2 * BATCH, BATCH)
    }
}

fn run(seed: u64, faults: Vec<Fault>) -> Ending {
    let count = faults.len();
    let outcome = World::new(scenario(seed, faults.clone())).run();
    let outcome =
        outcome.unwrap_or_else(|violation| panic!("seed {seed}, {faults:?}: {violation}: {violation:?}"));
    assert_eq!(outcome.faults_struck, count, "{faults:?} did not strike");
    outcome.report.outcome
}

fn short(ending: Ending) -> &'static str {
    match ending {
        Ending::Committed => "committed",
        Ending::CommittedWithLoss => "with-loss",
        Ending::PartlyCommitted => "partly",
        Ending::RolledBack => "rolled-back",
        Ending::Refused => "refused",
        Ending::Running => "open",
    }
}

/// A table of endings: a row for each place, a column for each fault.
fn table<F: Copy>(
    title: &str,
    faults: &[(&str, F)],
    rows: Vec<(String, Vec<Fault>)>,
    strike: impl Fn(&[Fault], F) -> Vec<Fault>,
    seed: &mut u64,
) -> String {
    let mut text = format!("{title:<34}");
    for (name, _) in faults {
        write!(text, "{name:<18}").expect("a string takes all");
    }
    for (row, aim) in rows {
        write!(text, "\n{row:<34}").expect("a string takes all");
        for (_, what) in faults {
            *seed += 1;
            let ending = run(*seed, strike(&aim, *what));
            write!(text, "{:<18}", short(ending)).expect("a string takes all");
        }
    }
    let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// The acts of a VM's move and of its way back, each once, in the order in which they come.
fn acts() -> Vec<(&'static str, Place, Vec<Fault>)> {
    let mut all = Vec::new();
    for (part, faults) in [("", vec![]), ("back ", vec![UNDONE])] {
        let outcome = World::new(scenario(1, faults.clone())).run().expect("a calm run");
        let mut seen = BTreeSet::new();
        for (vm, on_source, act) in outcome.acts {
            let known = all.iter().any(|(name, place, _)| {
                *name == act && (*place == Place::Source) == on_source && part == "back "
            });
            if vm == STRUCK && seen.insert((on_source, act)) && !known {
                let place = if on_source { Place::Source } else { Place::Target };
                all.push((act, place, faults.clone()));
            }
        }
    }
    // The first adoption is that of a world that begins.
    all.retain(|(act, ..)| *act != "adopt");
    all
}

fn order_table(seed: &mut u64) -> String {
    let rows = ORDERS
        .iter()
        // Somebody has to decide for it: `power_loss` and `reclaim` of the agent's machine.
        .filter(|row| row.order != OrderKind::Reclaim)
        .map(|row| {
            let back = row.part == Part::RollBack;
            let first = match row.order {
                _ if back => vec![UNDONE],
                // Only where the source is lost.
                OrderKind::OpenPlug => vec![SOURCE_LOST],
                _ => vec![],
            };
            let aim = Fault::Order {
                vm: STRUCK,
                order: row.order,
                what: OrderFault::Lost,
            };
            (
                format!("{:<8}{}", row.side, row.order),
                [first, vec![aim]].concat(),
            )
        })
        .collect();
    let strike = |aim: &[Fault], what: OrderFault| {
        let aimed = |fault: &Fault| match *fault {
            Fault::Order { vm, order, .. } if vm == STRUCK => Fault::Order { vm, order, what },
            other => other,
        };
        aim.iter().map(aimed).collect()
    };
    table("order", &ORDER_FAULTS, rows, strike, seed)
}

fn act_table(seed: &mut u64) -> String {
    let rows = acts()
        .into_iter()
        .map(|(act, place, first)| {
            let aim = Fault::Act {
                vm: STRUCK,
                place,
                act,
                what: ActFault::Fails,
            };
            let back = if first.is_empty() { "" } else { "back: " };
            let side = if place == Place::Source {
                "source"
            } else {
                "target"
            };
            (format!("{side:<8}{back}{act}"), [first, vec![aim]].concat())
        })
        .collect();
    let strike = |aim: &[Fault], what: ActFault| {
        let aimed = |fault: &Fault| match *fault {
            Fault::Act { vm, place, act, .. } => Fault::Act { vm, place, act, what },
            other => other,
        };
        aim.iter().map(aimed).collect()
    };
    table("act", &ACT_FAULTS, rows, strike, seed)
}

fn write_table(seed: &mut u64) -> String {
    let mut rows = Vec::new();
    for (part, first) in [("", vec![]), ("back: ", vec![UNDONE])] {
        let outcome = World::new(scenario(1, first.clone())).run().expect("a calm run");
        for (side, place) in [("source", Place::Source), ("target", Place::Target)] {
            let count = outcome.writes[STRUCK][usize::from(place == Place::Target)];
            // Of the way back only what is its own: what comes before would undo the batch by
            // itself.
            let own = if place == Place::Source { 2 } else { 1 };
            let begin = if first.is_empty() { 0 } else { count - own };
            for nth in begin..count {
                let aim = Fault::Write {
                    vm: STRUCK,
                    place,
                    nth,
                    what: WriteFault::Fails,
                };
                let row = format!("{side:<8}{part}record {}", nth + 1);
                rows.push((row, [first.clone(), vec![aim]].concat()));
            }
        }
    }
    let strike = |aim: &[Fault], what: WriteFault| {
        let aimed = |fault: &Fault| match *fault {
            Fault::Write { vm, place, nth, .. } => Fault::Write { vm, place, nth, what },
            other => other,
        };
        aim.iter().map(aimed).collect()
    };
    table("record", &WRITE_FAULTS, rows, strike, seed)
}

#[test]
fn each_order_act_and_record_and_each_fault_end_as_written_down() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fault_matrix.txt");
    let mut seed = 0;
    let matrix = [
        order_table(&mut seed),
        act_table(&mut seed),
        write_table(&mut seed),
    ]
    .join("\n");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(path, &matrix).expect("the golden can be written");
    }
    let golden = std::fs::read_to_string(path).expect("the golden is there");
    assert!(
        matrix == golden,
        "differs from {path} (UPDATE_GOLDENS=1 rewrites it):\n{matrix}"
    );
}

#[test]
fn the_order_table_follows_from_the_protocol() {
    let of_every_move = |row: &&transhume_protocol::step::OrderRow| {
        !matches!(row.order, OrderKind::OpenPlug | OrderKind::Reclaim)
    };
    let steps = ORDERS
        .iter()
        .filter(of_every_move)
        .filter_map(|row| match row.part {
            Part::Step(step) => Some((step, row.order)),
            Part::RollBack => None,
        });
    for (index, (step, order)) in steps.enumerate() {
        for (offset, (name, what)) in ORDER_FAULTS.into_iter().enumerate() {
            let seed = (1_000 + index * ORDER_FAULTS.len() + offset) as u64;
            let fault = Fault::Order { vm: 1, order, what };
            let outcome = World::new(Scenario {
                faults: vec![fault],
                ..Scenario::calm(seed, BATCH, BATCH)
            })
            .run();
            let ending = outcome.expect("no promise is broken").report.outcome;
            // A move of which nothing is durable was never accepted: the user asks again, and it
            // goes through.
            let unpersisted = what == OrderFault::CoordinatorDies(CrashPoint::BeforePersist);
            let never_begun = order == OrderKind::Reserve && unpersisted;
            let repeated = matches!(
                what,
                OrderFault::ComesTwice | OrderFault::AnsweredTwice | OrderFault::StaleCopyFirst
            );
            let harmless = repeated || never_begun;
            // Orders of step 8 stand behind `Committed` in one Ready: not durable, it never was.
            let undecided = step == Step::Activate && unpersisted;
            let rolls_back = (step.row().on_fault == OnFault::RollBack && !harmless) || undecided;
            // Longer than a host is waited for.
            let given_up = what == OrderFault::Partitioned && !rolls_back;
            match ending {
                Ending::CommittedWithLoss if given_up => {}
                Ending::Committed => assert!(!rolls_back, "{name} at {order} must roll back"),
                Ending::RolledBack => assert!(rolls_back, "{name} at {order} must roll forward"),
                other => panic!("{name} at {order}: one batch cannot end as {other:?}"),
            }
        }
    }
}
