//! The fault matrix: each order of each step × each fault × the first, middle and last VM of the batch. Every run
//! ends with every VM running in exactly one place, its batch on one side, and every frame delivered once, in order
//! (`World` checks these); how it ends is compared with `testdata/fault_matrix.txt`.
#![allow(clippy::disallowed_methods, reason = "reads and rewrites a golden")]

use std::fmt::Write as _;

use transhume_model::VmName;
use transhume_protocol::report::Ending;
use transhume_protocol::step::{OnFault, Step};
use transhume_sim::{CrashPoint, Fault, OrderFault, Scenario, World};

const FAULTS: [(&str, OrderFault); 11] = [
    ("refused", OrderFault::Refused),
    ("failed", OrderFault::Failed),
    ("time-out", OrderFault::Unanswered),
    ("duplicate", OrderFault::AnsweredTwice),
    ("stale-epoch", OrderFault::StaleCopyFirst),
    ("agent-dies", OrderFault::AgentDiesBefore),
    ("agent-dies-after", OrderFault::AgentDiesAfter),
    ("link-breaks", OrderFault::LinkBreaks),
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

/// VMs 1 to 3 go first; the fault strikes the second batch, so that the first must stay committed.
const BATCH: usize = 3;
const POSITIONS: [(&str, &str); 3] = [("first", "vm4"), ("middle", "vm5"), ("last", "vm6")];

/// Every order of the ten steps, with its step; those to sources first.
fn orders() -> impl Iterator<Item = (Step, &'static str)> {
    Step::ALL.into_iter().flat_map(|step| {
        let mut orders: Vec<_> = step.orders().collect();
        orders.sort_by_key(|row| row.side);
        orders.into_iter().map(move |row| (step, row.order.name()))
    })
}

fn run(seed: u64, batches: usize, command: &'static str, vm: &str, what: OrderFault) -> Ending {
    let vm: VmName = vm.parse().expect("a VM name");
    let fault = Fault { command, vm, what };
    let scenario = Scenario {
        fault: Some(fault.clone()),
        ..Scenario::calm(seed, batches * BATCH, BATCH)
    };
    let outcome = World::new(scenario).run();
    let outcome =
        outcome.unwrap_or_else(|violation| panic!("seed {seed}, {fault:?}: {violation}: {violation:?}"));
    assert!(outcome.fault_struck, "{fault:?} never struck");
    outcome.report.outcome
}

fn short(ending: Ending) -> &'static str {
    match ending {
        Ending::Committed => "committed",
        Ending::CommittedWithLoss => "with-loss",
        Ending::PartlyCommitted => "partly",
        Ending::RolledBack => "rolled-back",
        Ending::Refused => "refused",
        Ending::Running => "running",
    }
}

/// One line per order and position: how the move of two batches ends, fault by fault.
fn matrix() -> String {
    let mut table = format!("{:<20}{:<8}", "order", "VM");
    for (name, _) in FAULTS {
        write!(table, "{name:<18}").expect("a string takes all");
    }
    let mut seed = 0;
    for (_, order) in orders() {
        for (position, vm) in POSITIONS {
            write!(table, "\n{order:<20}{position:<8}").expect("a string takes all");
            for (_, what) in FAULTS {
                seed += 1;
                write!(table, "{:<18}", short(run(seed, 2, order, vm, what))).expect("a string takes all");
            }
        }
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

#[test]
fn each_order_and_each_fault_end_as_written_down() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fault_matrix.txt");
    let matrix = matrix();
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
fn the_matrix_follows_from_the_step_table() {
    for (index, (step, order)) in orders().enumerate() {
        for (offset, (name, what)) in FAULTS.into_iter().enumerate() {
            let ending = run(
                (1_000 + index * FAULTS.len() + offset) as u64,
                1,
                order,
                "vm2",
                what,
            );
            // A move of which nothing is durable was never accepted: the user asks again, and it goes through.
            let never_begun =
                order == "Reserve" && what == OrderFault::CoordinatorDies(CrashPoint::BeforePersist);
            let harmless =
                matches!(what, OrderFault::AnsweredTwice | OrderFault::StaleCopyFirst) || never_begun;
            // Orders of step 8 stand behind `Committed` in one Ready: not durable, it never was.
            let undecided =
                step == Step::Activate && what == OrderFault::CoordinatorDies(CrashPoint::BeforePersist);
            let rolls_back = (step.row().on_fault == OnFault::RollBack && !harmless) || undecided;
            match ending {
                Ending::Committed => assert!(!rolls_back, "{name} at {order} must roll back"),
                Ending::RolledBack => assert!(rolls_back, "{name} at {order} must roll forward"),
                Ending::Refused => assert!(step == Step::SelectBatch && what == OrderFault::Refused),
                other => panic!("one batch cannot end as {other:?}"),
            }
        }
    }
}
