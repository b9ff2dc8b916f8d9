//! One event of each kind.

use transhume_protocol::event::Happening;
use transhume_protocol::message::{BandsChange, Fault, FaultKind, PageProgress, Refusal, RefusalKind};
use transhume_protocol::migration::{Converge, RunOn, StuckRates};
use transhume_protocol::report::{Ending, Lost};
use transhume_protocol::step::{Phase, Side, Step};

use crate::samples::{host, vm};

pub fn all() -> impl Iterator<Item = Happening> {
    let (vm, host) = (vm("vm1"), host("h1"));
    let refusal = Refusal {
        kind: RefusalKind::Disk,
        reason: "no export".into(),
        hint: "start it".into(),
    };
    let fault = Fault {
        kind: FaultKind::BufferLimit,
        reason: "full".into(),
        hint: None,
    };
    let (vm_lost, lost_on, lost) = (vm.clone(), host.clone(), fault.clone().with_hint("start it"));
    let steps = Step::ALL
        .into_iter()
        .map(|step| Happening::StepEntered { batch: 1, step });
    let others = [
        Happening::Begun {
            vms: vec![vm.clone()],
            batches: 1,
        },
        Happening::PhaseEntered {
            vm: vm.clone(),
            phase: Phase::PreCopy,
        },
        Happening::Progress {
            vm: vm.clone(),
            pages: PageProgress::default(),
        },
        Happening::Outlook {
            done: 0.25,
            left_ms: Some(1500),
        },
        Happening::Stuck {
            vm: vm.clone(),
            rates: StuckRates {
                dirty_mbit_s: 120.0,
                most_mbit_s: Some(80.0),
            },
            policy: Converge::Throttle { percent: 20 },
        },
        Happening::PutOff {
            vm: vm.clone(),
            batch: 2,
        },
        Happening::Rearranged {
            batches: 4,
            batch_max: 8,
        },
        Happening::Refused {
            host: host.clone(),
            vm: vm.clone(),
            refusal,
        },
        Happening::Failed {
            host: Some(host.clone()),
            vm: None,
            fault,
        },
        Happening::AgentLost { host: host.clone() },
        Happening::AgentBack { host: host.clone() },
        Happening::HostGone { host: host.clone() },
        Happening::GivenUp {
            vm: vm.clone(),
            host: host.clone(),
            side: Side::Source,
        },
        Happening::DecisionWanted {
            vm: vm.clone(),
            host: host.clone(),
            lost: Lost::Host,
            hint: "fence it".into(),
        },
        Happening::Resolved {
            vm: vm.clone(),
            run_on: RunOn::Target,
        },
        Happening::Bands {
            host,
            change: BandsChange::PutBack,
        },
        Happening::RollingBack {
            batch: 1,
            reason: "it broke".into(),
        },
        Happening::AlreadyRollingBack { batch: 1 },
        Happening::Committed { batch: 1 },
        Happening::VmLost {
            vm: vm_lost,
            host: lost_on,
            fault: lost,
        },
        Happening::Ended {
            ending: Ending::Committed,
        },
    ];
    steps.chain(others)
}
