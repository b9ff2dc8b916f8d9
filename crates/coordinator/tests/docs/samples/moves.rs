//! Plans, drains, moves and their reports.

use super::*;

fn drain_stay() -> DrainStay {
    DrainStay {
        cluster: lab(),
        vms: vec![vm("vm2")],
        why: "VM vm2 fits no target".into(),
    }
}

pub(super) fn drain_view() -> DrainView {
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

pub(super) fn drain_plan() -> DrainPlanView {
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
        picture: Some("<svg/>".into()),
    }
}

pub(super) fn live_plan() -> PlanView {
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
    gap_ms: Some(RANGE),
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
        gap_ms: figure,
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

pub(super) fn record() -> ForecastRecord {
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

pub(super) fn migration_line(outcome: Ending) -> MigrationLine {
    MigrationLine {
        migration: NUMBER,
        cluster: lab(),
        outcome,
        vms: 2,
    }
}

pub(super) fn report(outcome: Ending) -> MigrationReport {
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
        reclaimed: Some(Reclaimed {
            from: host("h2"),
            may_have_run: true,
        }),
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
        WaitReason::Decision {
            lost: Lost::Vm,
            lost_ms: 50,
            hint: "resolve it".into(),
        },
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
