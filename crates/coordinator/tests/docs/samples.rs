//! Values of the very types, written as the API and the CLI write them.

use crate::happenings;
use serde_json::{Value, json};
use transhume_api::*;
use transhume_model::*;
use transhume_planner::report::{Answer, PlanReport};
use transhume_planner::{Options, Strategy, generate, plan};
use transhume_protocol::event::Event;
use transhume_protocol::forecast::{Actual, Comparison, Expected, MoveForecast, VmComparison, VmForecast};
use transhume_protocol::message::{
    BandsState, Fault, FaultKind, GuestState, Mode, OldPath, OrderKind, PageProgress, QemuState, Stranded,
    VmRole,
};
use transhume_protocol::migration::{Converge, RunOn};
use transhume_protocol::report::{
    BlackoutParts, Ending, Frames, MigrationReport, PhaseTime, SourceLoss, Trouble, VmLoss, VmReport, Wait,
    WaitReason,
};
use transhume_protocol::step::{Phase, Step};

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
        ("drain-order", json!(drain_order())),
        ("drain-order", json!({ "hosts": ["h1"] })),
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

fn hosts() -> HostList {
    let qemu = QemuState {
        version: Version {
            major: 10,
            minor: 0,
            micro: 2,
        },
        machines: vec![MachineType("pc-q35-10.0".into())],
        accel: "tcg".into(),
    };
    let amount = Some(Capacity {
        vcpus: Vcpus(4),
        memory: Mebibytes(1024),
    });
    let there = HostView {
        name: host("h1"),
        connected: true,
        away: None,
        capacity: amount,
        free: amount,
        qemu: Some(qemu),
        qemu_error: None,
        vms: vec![vm("vm1")],
        stranded: vec![Stranded {
            vm: vm("vm2"),
            what: "QEMU with pid 71 and no record".into(),
            hint: "end it by hand".into(),
        }],
        bands: Some(BandsState {
            vmct: Some(BandRates {
                guaranteed: rate("500mbit"),
                ceiling: rate("1gbit"),
            }),
            put_back: 1,
            trouble: Some(Fault::new(FaultKind::Network, "somebody has a queue there")),
        }),
        clock: Some(ClockView {
            offset_ms: -3.5,
            uncertainty_ms: 0.25,
        }),
        fenced_at: None,
        cordoned: true,
        leftovers: Vec::new(),
    };
    let away = HostView {
        name: host("h2"),
        connected: false,
        away: Some("connection refused".into()),
        capacity: None,
        free: None,
        qemu: None,
        qemu_error: Some("it is not installed".into()),
        vms: Vec::new(),
        stranded: Vec::new(),
        bands: None,
        clock: None,
        fenced_at: Some(WallMicros(1_800_000_000_000_000)),
        cordoned: false,
        leftovers: vec![vm("vm3")],
    };
    HostList {
        hosts: vec![there, away],
    }
}

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn line(migration: Option<MigrationId>) -> ClusterLine {
    ClusterLine {
        name: lab(),
        stage: ClusterStage::Live,
        vms: 2,
        hosts: vec![host("h1")],
        migration,
    }
}

fn view() -> ClusterView {
    let roles = [
        VmRole::Home,
        VmRole::Source,
        VmRole::Left,
        VmRole::Expected,
        VmRole::Target,
        VmRole::Arrived,
        VmRole::Off,
    ];
    let roles = roles.into_iter().map(Some).chain([None]);
    let vms = VmLife::ALL
        .into_iter()
        .zip(roles.cycle())
        .map(|(state, role)| VmView {
            id: vm("vm1"),
            host: host("h1"),
            state,
            role,
            demand: Demand {
                vcpus: Vcpus(1),
                memory: Mebibytes(96),
            },
        });
    ClusterView {
        name: lab(),
        stage: ClusterStage::Starting,
        migration: None,
        vms: vms.collect(),
    }
}

fn cluster() -> ClusterSpec {
    let nbd = Disk::Nbd {
        host: "10.0.0.9".into(),
        port: 10809,
        export: "vm1".into(),
    };
    let spec = VmSpec {
        name: vm("vm1"),
        cluster: lab(),
        vcpus: Vcpus(1),
        memory: Mebibytes(96),
        machine: Some(MachineType("pc-q35-10.0".into())),
        nics: vec![NicSpec {
            mac: "52:54:00:00:00:01".parse().unwrap(),
            mtu: 1500,
        }],
        disks: vec![
            nbd,
            Disk::File {
                path: "/shared/vm1".into(),
            },
        ],
        boot: Boot {
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: "quiet".into(),
        },
    };
    ClusterSpec {
        name: lab(),
        vms: vec![PlacedVm {
            host: host("h1"),
            spec,
        }],
        rules: rules(),
    }
}

fn drain_order() -> DrainOrder {
    DrainOrder {
        hosts: vec!["h1".into()],
        to: vec!["h2".into()],
        batch: Some(2),
        adaptive: true,
        offline: true,
        blackout_ms_max: Some(300),
        duration_ms_max: Some(600_000),
        converge: Some(Converge::Stop),
        strategy: Some(Strategy::Exact),
    }
}

fn drain_stay() -> DrainStay {
    DrainStay {
        cluster: lab(),
        vms: vec![vm("vm2")],
        why: "VM vm2 fits no target".into(),
    }
}

fn drain_view() -> DrainView {
    DrainView {
        drain: DrainId(1),
        hosts: vec![host("h1")],
        stage: DrainStage::Running,
        doing: Some("migration 7 is under way".into()),
        moves: vec![DrainMove {
            cluster: lab(),
            migration: NUMBER,
            outcome: Some(Ending::Committed),
        }],
        left: vec![DrainLeft {
            cluster: lab(),
            vm: vm("vm2"),
            host: host("h1"),
        }],
        stays: vec![drain_stay()],
    }
}

fn drain_plan() -> DrainPlanView {
    DrainPlanView {
        hosts: vec![host("h1")],
        targets_used: 1,
        targets_min: 1,
        moves: vec![DrainStep {
            cluster: lab(),
            vm: vm("vm1"),
            source: host("h1"),
            target: host("h2"),
        }],
        stays: vec![drain_stay()],
        notes: vec!["a note".into()],
    }
}

fn rules() -> PlacementRules {
    PlacementRules {
        groups: vec![Group {
            name: "replicas".into(),
            kind: GroupKind::AntiAffinity,
            vms: vec![vm("vm1"), vm("vm2")],
        }],
        vms: [(
            vm("vm1"),
            VmRules {
                pin: vec![host("h1")],
                selector: [("zone".into(), "a".into())].into(),
                weight: Some(10),
            },
        )]
        .into(),
    }
}

fn live_plan() -> PlanView {
    let one = PlannedMove {
        vm: vm("vm1"),
        batch: 1,
        source: host("h1"),
        target: host("h2"),
    };
    PlanView {
        cluster: lab(),
        batch: 1,
        hosts_used: 1,
        hosts_min: 1,
        moves: vec![one],
        stay: vec![vm("vm2")],
        unplaced: vec![StaysBehind {
            vms: vec![vm("vm3")],
            must_leave: true,
            why: "VM vm3 fits no target".into(),
        }],
        notes: vec!["a note".into()],
        explanation: vec!["one host does".into()],
        picture: Some("<svg/>".into()),
        forecast: MoveForecast {
            vms: vec![vm_forecast(None), vm_forecast(Some(RANGE))],
            expected: EXPECTED,
            learnt_from: 24,
        },
    }
}

const RANGE: Interval = Interval { low: 1.0, high: 2.5 };
const EXPECTED: Expected = Expected {
    bytes: RANGE,
    duration_ms: RANGE,
    blackout_ms: RANGE,
};

fn vm_forecast(dirty_mib_s: Option<Interval>) -> VmForecast {
    VmForecast {
        vm: vm("vm1"),
        rate_mbit_s: 250.0,
        dirty_mib_s,
        expected: EXPECTED,
        modelled: dirty_mib_s.map(|_| EXPECTED),
        assumed: vec!["compression leaves 30 to 100 %".into()],
    }
}

fn comparison(figure: Option<f64>) -> Comparison {
    let actual = Actual {
        bytes: figure,
        duration_ms: figure,
        blackout_ms: figure,
    };
    Comparison::of(&EXPECTED, actual)
}

fn vm_comparison(truth: Option<f64>) -> VmComparison {
    VmComparison {
        rate_mbit_s: 250.0,
        dirty_mib_s: truth.map(|_| RANGE),
        assumed: Vec::new(),
        modelled: truth.map(|_| EXPECTED),
        figures: comparison(truth),
    }
}

fn record() -> ForecastRecord {
    ForecastRecord {
        migrations: vec![ForecastLine {
            migration: NUMBER,
            cluster: lab(),
            vms: 2,
            figures: comparison(Some(2.0)),
        }],
        bytes: Score { inside: 1, of: 2 },
        ..ForecastRecord::default()
    }
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

fn migration_line(outcome: Ending) -> MigrationLine {
    MigrationLine {
        migration: NUMBER,
        cluster: lab(),
        outcome,
        vms: 2,
    }
}

fn report(outcome: Ending) -> MigrationReport {
    let whole = VmReport {
        id: vm("vm1"),
        batch: 1,
        source: host("h1"),
        target: host("h2"),
        host: host("h2"),
        guest: GuestState::Running,
        source_lost: Some(SourceLoss {
            host: host("h1"),
            frames_lost: None,
            delivered: 12,
        }),
        lost: None,
        phase: Phase::Activation,
        blackout_ms: Some(41.5),
        blackout_parts: Some(BlackoutParts::default()),
        gap_ms: Some(52.0),
        clock_uncertainty_ms: Some(0.4),
        clocks: None,
        frames: Some(Frames::default()),
        old_path: Some(OldPath::Marker),
        buffer_peak_bytes: 4096,
        pages: PageProgress::default(),
        ready_ms: Some(1_250.5),
        phases: Phase::ALL.map(|phase| PhaseTime { phase, ms: 1.5 }).to_vec(),
        forecast: Some(vm_comparison(Some(2.0))),
    };
    let untouched = VmReport {
        id: vm("vm2"),
        guest: GuestState::Off,
        lost: Some(VmLoss {
            reason: "QEMU ended".into(),
            hint: "`transhume vm start lab vm2` boots it again from its disk".into(),
        }),
        clocks: Some("the clocks of h1 and h2 contradict each other".into()),
        blackout_ms: None,
        blackout_parts: None,
        gap_ms: None,
        frames: None,
        old_path: None,
        forecast: Some(vm_comparison(None)),
        ..whole.clone()
    };
    MigrationReport {
        migration: NUMBER,
        cluster: lab(),
        outcome,
        mode: if outcome == Ending::Refused {
            Mode::Offline
        } else {
            Mode::Live
        },
        from: vec![host("h1")],
        to: vec![host("h2")],
        used: vec![host("h2")],
        batch: 2,
        started_at: WallMicros(1),
        duration_ms: 4_340.0,
        frames: Frames::default(),
        vms: vec![whole, untouched],
        forecast: (outcome != Ending::Refused).then(|| comparison(None)),
        trouble: (outcome != Ending::Committed).then(|| Trouble {
            step: Step::Capture,
            host: Some(host("h1")),
            vm: None,
            reason: "it broke".into(),
            hint: "mend it".into(),
        }),
        waiting: waits(outcome),
    }
}

fn waits(outcome: Ending) -> Vec<Wait> {
    if outcome != Ending::Running {
        return Vec::new();
    }
    let reasons = [
        WaitReason::InFlight,
        WaitReason::BackingOff {
            reason: "it broke".into(),
        },
        WaitReason::NotConnected { lost_ms: 40 },
    ];
    let wait = |why| Wait {
        vm: vm("vm1"),
        order: OrderKind::Activate,
        host: host("h2"),
        since_ms: 12,
        why,
    };
    reasons.into_iter().map(wait).collect()
}
