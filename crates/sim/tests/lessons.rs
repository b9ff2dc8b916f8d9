//! Faults that once were in the product, each as the schedule that shows it; and the proof that the
//! simulation sees what it must see.

use transhume_protocol::message::OrderKind;
use transhume_protocol::report::Ending;
use transhume_sim::{
    ActFault, Fault, Mischief, OrderFault, Outcome, Place, Scenario, Violation, Weather, World, WriteFault,
};

const SOURCE: Place = Place::Source;
const TARGET: Place = Place::Target;

fn act(place: Place, act: &'static str, what: ActFault) -> Fault {
    Fault::Act {
        vm: 1,
        place,
        act,
        what,
    }
}

/// Three VMs in one batch; the second is struck, in every way in which the rest may fall out.
fn runs(faults: &[Fault]) -> impl Iterator<Item = Result<Outcome, Violation>> {
    (0..40).map(|seed| {
        World::new(Scenario {
            faults: faults.to_vec(),
            ..Scenario::calm(seed, 3, 3)
        })
        .run()
    })
}

fn all_hold(faults: &[Fault], endings: &[Ending]) {
    for (seed, outcome) in runs(faults).enumerate() {
        let outcome = outcome.unwrap_or_else(|violation| panic!("seed {seed}: {violation}: {violation:?}"));
        assert_eq!(outcome.faults_struck, faults.len(), "{faults:?} did not strike");
        let ending = outcome.report.outcome;
        assert!(endings.contains(&ending), "seed {seed} ends as {ending:?}");
    }
}

/// The batch is undone: everything of step 6 is refused once.
fn undone() -> Fault {
    Fault::Order {
        vm: 0,
        order: OrderKind::AwaitLoaded,
        what: OrderFault::Cancelled,
    }
}

#[test]
fn an_agent_killed_as_it_starts_a_target_leaves_nothing() {
    all_hold(
        &[act(TARGET, "spawn", ActFault::AgentDiesAfter)],
        &[Ending::RolledBack],
    );
}

#[test]
fn a_target_whose_qemu_dies_between_the_decision_and_its_run_is_reported_as_lost_or_goes_back() {
    all_hold(
        &[act(TARGET, "run-arrived", ActFault::QemuDies)],
        &[Ending::CommittedWithLoss, Ending::PartlyCommitted],
    );
}

#[test]
fn a_target_agent_killed_as_it_delivers_goes_on_delivering() {
    for fault in [ActFault::AgentDiesBefore, ActFault::AgentDiesAfter] {
        for at in ["activate-buffer", "finish-target-buffer"] {
            all_hold(&[act(TARGET, at, fault)], &[Ending::Committed]);
        }
    }
}

#[test]
fn frames_survive_a_way_back_that_fails_halfway() {
    for at in ["shut-for-abort", "cancel-migration", "cont", "put-back"] {
        for fault in [ActFault::Fails, ActFault::FailsAfter, ActFault::AgentDiesAfter] {
            all_hold(&[undone(), act(SOURCE, at, fault)], &[Ending::RolledBack]);
        }
    }
}

#[test]
fn a_target_that_does_not_obey_at_once_is_told_again() {
    for fault in [ActFault::Fails, ActFault::FailsAfter, ActFault::Hangs] {
        all_hold(&[act(TARGET, "run-arrived", fault)], &[Ending::Committed]);
    }
}

#[test]
fn a_source_that_cannot_be_adopted_is_not_taken_for_gone() {
    let faults = [
        act(SOURCE, "finish-copy", ActFault::AgentDiesAfter),
        act(SOURCE, "adopt", ActFault::Fails),
    ];
    // The first adoption, when the world begins, is the one that fails; the second VM stays where
    // it is.
    for outcome in runs(&faults) {
        let outcome = outcome.expect("it is adopted later, and nowhere said to be gone");
        assert!(matches!(
            outcome.report.outcome,
            Ending::RolledBack | Ending::Refused
        ));
    }
}

#[test]
fn a_plug_that_is_shut_for_the_way_back_is_opened_by_a_later_agent() {
    // Cancelled before its frames are captured: only the buffer is open.
    let cancelled = Fault::Order {
        vm: 0,
        order: OrderKind::Capture,
        what: OrderFault::Cancelled,
    };
    let killed = act(SOURCE, "shut-for-abort", ActFault::AgentDiesAfter);
    all_hold(&[cancelled, killed], &[Ending::RolledBack]);
}

#[test]
fn a_disk_that_forgets_what_it_acknowledged_is_seen() {
    let forgets = |place, nth| Fault::Write {
        vm: 1,
        place,
        nth,
        what: WriteFault::NotDurable,
    };
    // The target's first is the promise of room, its third the QEMU that was started; the source's
    // later ones the commit. Not every run must break by it, but one that is never seen to break
    // proves nothing.
    let broken = |fault: Fault| runs(&[fault]).filter(Result::is_err).count();
    assert!((0..6).map(|nth| broken(forgets(TARGET, nth))).sum::<usize>() > 0);
    assert!((0..8).map(|nth| broken(forgets(SOURCE, nth))).sum::<usize>() > 0);
}

#[test]
fn a_move_ends_without_the_host_that_it_lost() {
    for (place, at) in [(TARGET, "await-loaded"), (SOURCE, "finish-source-buffer")] {
        for outcome in runs(&[act(place, at, ActFault::HostDies)]) {
            let report = outcome.expect("no promise is broken").report;
            assert_ne!(report.outcome, Ending::Running, "{:?}", report.waiting);
            assert!(report.waiting.is_empty());
        }
    }
}

#[test]
fn a_minute_without_a_network_ends() {
    for order in [
        OrderKind::PreCopy,
        OrderKind::StopAndCopy,
        OrderKind::Activate,
        OrderKind::CloseSourceBuffer,
    ] {
        let cut_off = Fault::Order {
            vm: 1,
            order,
            what: OrderFault::Partitioned,
        };
        // After commit a minute is longer than a source is waited for.
        let endings = [Ending::Committed, Ending::CommittedWithLoss, Ending::RolledBack];
        all_hold(&[cut_off], &endings);
    }
}

#[test]
fn clocks_that_are_set_change_nothing() {
    for seed in 0..40 {
        let weather = Weather {
            until_ms: 1_000,
            strike_ms_max: 100,
            strikes: vec![Mischief::ClockStepped],
            ..Weather::default()
        };
        let scenario = Scenario {
            weather,
            ..Scenario::calm(seed, 3, 3)
        };
        let outcome = World::new(scenario).run().expect("no promise is made of clocks");
        assert_eq!(outcome.report.outcome, Ending::Committed);
    }
}
