//! Values of the very types, written as the API and the CLI write them.

mod moves;
mod places;

use crate::happenings;
use serde_json::{Value, json};
use transhume_api::*;
use transhume_model::*;
use transhume_planner::report::{Answer, PlanReport};
use transhume_planner::{Options, Strategy, generate, plan};
use transhume_protocol::event::Event;
use transhume_protocol::forecast::{Actual, Comparison, Expected, MoveForecast, VmComparison, VmForecast};
use transhume_protocol::message::{
    BandsState, CertificateState, Fault, FaultKind, GuestState, LinkFigures, Mode, OldPath, OrderKind,
    PageProgress, QemuState, Stranded, VmRole,
};
use transhume_protocol::migration::{Converge, RunOn};
use transhume_protocol::report::{
    BlackoutParts, Ending, Frames, Lost, MigrationReport, PhaseTime, Reclaimed, SourceLoss, Trouble, VmLoss,
    VmReport, Wait, WaitReason,
};
use transhume_protocol::step::{Phase, Step};

use self::moves::*;
use self::places::*;

pub fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

fn lab() -> ClusterName {
    "lab".parse().unwrap()
}

const NUMBER: MigrationId = MigrationId(7);

/// Small instances that are planned for their answers.
const INSTANCES: u64 = 60;

/// File name under docs/schema, and a document that its schema must allow.
pub fn all() -> Vec<(&'static str, Value)> {
    let mut all = vec![
        ("hosts", json!(hosts())),
        (
            "cluster-list",
            json!(ClusterList {
                clusters: vec![line(None), line(Some(NUMBER))]
            }),
        ),
        ("cluster-show", json!(view())),
        ("cluster", json!(cluster())),
        ("host", json!(hosts().hosts[0])),
        ("order", json!({ "from": ["h1"] })),
        ("drain", json!(drain_view())),
        (
            "drains",
            json!(DrainList {
                drains: vec![drain_view()]
            }),
        ),
        ("drain-plan", json!(drain_plan())),
        ("cluster-rules", json!(rules())),
        ("cluster-rules", json!(PlacementRules::default())),
        (
            "order",
            json!(MoveOrder {
                from: vec!["h1".into()],
                to: vec!["h2".into()],
                batch: Some(2),
                adaptive: true,
                offline: true,
                blackout_ms_max: None,
                duration_ms_max: Some(600_000),
                converge: Some(Converge::Throttle { percent: 20 }),
                strategy: Some(Strategy::Paper),
                safe_by_ms: Some(1_200_000),
                partial: true,
                strict: true,
                draw: true,
                wait: true,
            }),
        ),
        ("order", json!({ "from": ["h1"], "to": ["h2"] })),
        (
            "vm-start",
            json!(VmStart {
                host: Some("h2".into())
            }),
        ),
        ("vm-start", json!(VmStart::default())),
        ("vm-stop", json!(VmStop { force: true })),
        ("vm-check", json!(VmCheck::Stop { force: true })),
        ("vm-restart", json!(VmRestart { on: "h3".into() })),
        (
            "host-fence",
            json!(HostFence {
                powered_off: true,
                force: false,
                dry_run: true,
            }),
        ),
        ("decision", json!(Decision { dry_run: true })),
        (
            "move-resolution",
            json!(MoveResolution {
                vm: Some("vm1".into()),
                run_on: RunOn::Target,
                although_it_may_have_run: false,
                dry_run: false,
            }),
        ),
        (
            "verdict",
            json!(Verdict::planned(
                "host h1 counts as powered off".into(),
                vec!["what VM vm1 held in memory".into()]
            )),
        ),
        ("link", json!(link())),
        ("vm-stop", json!({})),
        ("plan", json!(live_plan())),
        (
            "migrations",
            json!(MigrationList {
                migrations: endings().map(migration_line).collect()
            }),
        ),
        ("forecasts", json!(record())),
        (
            "cancel",
            json!(Accepted {
                migration: NUMBER,
                notes: vec!["a note".into()],
            }),
        ),
        (
            "problem",
            json!(Problem {
                code: "unknown-host".into(),
                message: "there is no host".into(),
                hint: "known: h1".into()
            }),
        ),
    ];
    all.extend(plans_from_files().map(|plan| ("plan-inventory", json!(plan))));
    all.extend(endings().map(|ending| ("report", json!(report(ending)))));
    all.extend(happenings::all().map(|what| {
        (
            "event",
            json!(Event {
                migration: NUMBER,
                number: 3,
                at: WallMicros(5),
                what
            }),
        )
    }));
    all
}

fn endings() -> impl Iterator<Item = Ending> {
    [
        Ending::Running,
        Ending::Committed,
        Ending::CommittedWithLoss,
        Ending::RolledBack,
        Ending::PartlyCommitted,
        Ending::Refused,
    ]
    .into_iter()
}

/// Real answers of the planner to small instances with every kind of constraint, and one that was
/// stopped.
fn plans_from_files() -> impl Iterator<Item = PlanReport> {
    let answers = (0..INSTANCES).filter_map(|seed| plan(&generate::small(seed), &Options::default()).ok());
    let mut answers: Vec<PlanReport> = answers.collect();
    let some = |what: fn(&Answer) -> bool| answers.iter().any(|report| what(&report.answer));
    assert!(some(
        |answer| matches!(answer, Answer::Planned(plan) if !plan.batches.is_empty())
    ));
    assert!(some(
        |answer| matches!(answer, Answer::Impossible(why) if !why.conflict.is_empty())
    ));
    assert!(some(
        |answer| matches!(answer, Answer::Impossible(why) if why.addition.is_some())
    ));
    let stopped = PlanReport {
        answer: Answer::NotFound {
            hosts_min: 3,
            addition: None,
        },
        ..answers[0].clone()
    };
    answers.push(stopped);
    answers.into_iter()
}

fn link() -> LinkView {
    let figures = LinkFigures {
        bytes: Bytes(2_000_000_000),
        sent_us: 2_000_000,
        round_trip_us: 85,
        round_trip_us_max: 1_240,
        source_cpu_us: 1_900_000,
        target_cpu_us: 1_000_000,
        target_limited_us: 20_000,
        encrypted: true,
    };
    let band = BitRate::from_bits_per_s(10_000_000_000);
    LinkView {
        from: "h1".parse().unwrap(),
        to: "h2".parse().unwrap(),
        limit: LinkLimit::of(&figures, band),
        figures,
        band,
    }
}
