//! What the paper leaves open and the design decides: lost agents, retries, ids, the report's
//! arithmetic.

mod support;

use support::{Hand, answer, request, vm};
use transhume_model::{Interval, MigrationId, Millis, OrderId, WallMicros};
use transhume_protocol::event::Happening;
use transhume_protocol::forecast::{Expected, MoveForecast, VmForecast};
use transhume_protocol::message::{
    ActivationTimes, CaptureTimes, CopyTimes, GuestState, Mode, Outcome, RefusalKind,
};
use transhume_protocol::migration::{Limits, MoveRequest, OrderIds};
use transhume_protocol::report::Ending;

fn committed() -> Hand {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, "Activate");
    hand
}

fn patient() -> Hand {
    let mut request = request(1, 1, Mode::Live);
    request.limits.agent_lost_ms_max = Millis(5_000);
    Hand::begin_with(request)
}

#[test]
fn after_commit_a_lost_agent_gets_its_open_orders_the_moment_it_is_back() {
    let mut hand = committed();
    hand.lose("t1");
    hand.bring_back("t1");
    assert_eq!(
        (hand.count(&vm(1), "Activate"), hand.count(&vm(1), "Commit")),
        (2, 1)
    );
}

#[test]
fn an_answer_to_an_earlier_attempt_counts() {
    let mut hand = committed();
    let (host, first) = hand.order(&vm(1), "Activate");
    hand.wait(Limits::default().activate_ms_max.0);
    assert_eq!(hand.count(&vm(1), "Activate"), 2);
    let report = transhume_protocol::message::Report {
        order: Some(first.id),
        epoch: first.epoch,
        vm: Some(vm(1)),
        at: hand.now.wall,
        outcome: answer::natural("Activate", hand.now.wall),
    };
    hand.give(transhume_protocol::migration::Input::Report { host, report })
        .unwrap();
    hand.wait(3_600_000);
    assert_eq!(hand.count(&vm(1), "Activate"), 2);
}

#[test]
fn before_commit_a_tolerated_agent_that_is_back_in_time_goes_on() {
    let mut hand = patient();
    hand.lose("t1");
    hand.wait(4_000);
    hand.bring_back("t1");
    hand.wait(4_000);
    assert_eq!(
        (hand.count(&vm(1), "Reserve"), hand.was_sent("AbortTarget")),
        (2, false)
    );
}

#[test]
fn before_commit_a_tolerated_agent_that_stays_away_rolls_the_batch_back() {
    let mut hand = patient();
    hand.lose("s1");
    hand.wait(5_000);
    hand.answer(&vm(1), "AbortTarget");
    assert_eq!(hand.report().outcome, Ending::RolledBack);
}

#[test]
fn the_pause_between_attempts_doubles_up_to_its_limit() {
    let mut hand = committed();
    let mut pauses = Vec::new();
    for attempt in 1..=9 {
        assert_eq!(hand.count(&vm(1), "Activate"), attempt);
        hand.fail(&vm(1), "Activate");
        let before = hand.now.mono;
        while hand.count(&vm(1), "Activate") == attempt {
            hand.wait(50);
        }
        pauses.push(hand.now.mono.saturating_sub(before).0);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
}

#[test]
fn the_same_failure_is_shown_once() {
    let mut hand = committed();
    for _ in 0..5 {
        hand.fail(&vm(1), "Activate");
        hand.wait(10_000);
    }
    assert_eq!(
        hand.events
            .iter()
            .filter(|event| matches!(event, Happening::Failed { .. }))
            .count(),
        1
    );
}

#[test]
fn an_abort_that_finds_a_newer_owner_or_no_vm_is_done() {
    for kind in [RefusalKind::StaleEpoch, RefusalKind::UnknownVm] {
        let mut hand = Hand::begin(1, 1);
        hand.up_to(1, "Capture");
        hand.fail(&vm(1), "Capture");
        hand.answer_with(&vm(1), "AbortSource", answer::refusal(kind))
            .unwrap();
        hand.answer_with(&vm(1), "AbortTarget", answer::refusal(kind))
            .unwrap();
        assert!(hand.done, "{kind:?}");
    }
}

#[test]
fn an_activation_that_is_refused_is_issued_again() {
    let mut hand = committed();
    for kind in [RefusalKind::StaleEpoch, RefusalKind::WrongState] {
        let before = hand.count(&vm(1), "Activate");
        hand.answer_with(&vm(1), "Activate", answer::refusal(kind))
            .unwrap();
        hand.wait(10_000);
        assert!(hand.count(&vm(1), "Activate") > before, "{kind:?}");
    }
}

#[test]
fn an_order_id_tells_its_move() {
    let mut ids = OrderIds::of(MigrationId(7));
    assert_ne!(ids.next_id(), ids.next_id());
    assert_eq!(OrderIds::migration_of(ids.next_id()), Some(MigrationId(7)));
    assert_eq!(
        OrderIds::migration_of(OrderIds::of(MigrationId(0)).next_id()),
        None
    );
    assert_eq!(OrderIds::migration_of(OrderId(5)), None);
}

fn forecast_of(vms: usize) -> MoveForecast {
    let wide = Interval { low: 0.0, high: 1e9 };
    let expected = Expected {
        bytes: wide,
        duration_ms: Interval { low: 1.0, high: 30.0 },
        blackout_ms: wide,
        gap_ms: Some(wide),
    };
    let of_vm = |index| VmForecast {
        vm: vm(index),
        rate_mbit_s: 250.0,
        dirty_mib_s: None,
        expected,
        modelled: None,
        assumed: Vec::new(),
    };
    MoveForecast {
        vms: (1..=vms).map(of_vm).collect(),
        expected,
        learnt_from: 0,
    }
}

#[test]
fn actual_figures_stand_beside_the_forecast_and_each_vm_counts_from_its_own_batch() {
    let mut request = request(2, 1, Mode::Live);
    request.forecast = Some(forecast_of(2));
    let mut hand = Hand::begin_with(request);
    let figures = |hand: &Hand, index: usize| {
        let forecast = hand.report().vms[index - 1].forecast.clone();
        forecast.expect("it was forecast").figures
    };
    assert_eq!(figures(&hand, 1).blackout_ms.actual, None);
    for command in answer::COURSE {
        hand.answer(&vm(1), command);
    }
    let first = figures(&hand, 1);
    assert_eq!(first.bytes.actual, Some(answer::pages().wire.0 as f64));
    assert_eq!(first.duration_ms.inside, Some(true), "{first:?}");
    assert_eq!(figures(&hand, 2).duration_ms.actual, None, "it has only begun");
    assert_eq!(
        hand.report().forecast.unwrap().bytes.actual,
        None,
        "nor is the move over"
    );
    hand.restart(10);
    assert_eq!(figures(&hand, 1).bytes, first.bytes, "the journal keeps both");

    let mut hand = Hand::begin_with(MoveRequest {
        forecast: Some(forecast_of(2)),
        ..hand.machine.request().clone()
    });
    for index in [1, 2] {
        answer::COURSE
            .into_iter()
            .for_each(|command| hand.answer(&vm(index), command));
    }
    assert!(hand.done);
    let (first, second) = (figures(&hand, 1), figures(&hand, 2));
    assert_eq!(
        first.duration_ms.actual, second.duration_ms.actual,
        "the same orders, the same time"
    );
    let report = hand.report();
    let whole = report.forecast.unwrap();
    assert_eq!(whole.duration_ms.actual, Some(report.duration_ms));
    assert_eq!(whole.duration_ms.inside, Some(report.duration_ms <= 30.0));
    let bytes = answer::pages().wire.0 as f64;
    assert_eq!(whole.bytes.actual, Some(2.0 * bytes));
}

#[test]
fn the_parts_of_the_blackout_add_up() {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, "Capture");
    let at = |ms: u64| WallMicros(5_000_000 + ms * 1_000);
    let captured = CaptureTimes {
        stopped_at: at(0),
        capturing_at: at(2),
        ..CaptureTimes::default()
    };
    let copied = CopyTimes {
        pre_switchover_at: at(10),
        completed_at: at(15),
        ..CopyTimes::default()
    };
    let activated = ActivationTimes {
        begun_at: at(18),
        running_at: at(22),
        ..ActivationTimes::default()
    };
    hand.answer_with(
        &vm(1),
        "Capture",
        Outcome::Captured {
            times: captured,
            guest: GuestState::Running,
        },
    )
    .unwrap();
    hand.answer_with(
        &vm(1),
        "StopAndCopy",
        Outcome::Copied {
            pages: answer::pages(),
            times: copied,
        },
    )
    .unwrap();
    hand.answer_with(&vm(1), "AwaitLoaded", Outcome::Loaded { loaded_at: at(16) })
        .unwrap();
    hand.pass(30);
    hand.answer_with(&vm(1), "Activate", Outcome::Activated(activated))
        .unwrap();
    let report = &hand.report().vms[0];
    let parts = report.blackout_parts.expect("it was stopped and runs");
    assert_eq!(
        [
            parts.capture_ms,
            parts.memory_ms,
            parts.device_ms,
            parts.commit_ms,
            parts.resume_ms
        ],
        [2.0, 8.0, 6.0, 2.0, 4.0]
    );
    assert_eq!(report.blackout_ms, Some(22.0));
}

#[test]
fn after_the_end_everything_is_ignored() {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, "");
    let report = hand.report();
    hand.lose("s1");
    hand.answer(&vm(1), "Discard");
    hand.pass(1_000);
    assert_eq!(hand.report(), report);
    assert_eq!(hand.machine.ignored(), 2);
}

#[test]
fn an_agent_with_nothing_to_connect_anew_does_not_hold_the_closing_up() {
    let mut hand = committed();
    hand.restart(2);
    hand.bring_back("s1");
    hand.bring_back("t1");
    hand.answer_with(
        &vm(1),
        "OpenTargetBuffer",
        answer::refusal(RefusalKind::WrongState),
    )
    .unwrap();
    hand.answer(&vm(1), "Activate");
    hand.answer(&vm(1), "Commit");
    assert_eq!(hand.count(&vm(1), "CloseSourceBuffer"), 1);
    assert!(
        !hand.was_sent("ConnectBuffers"),
        "there are no tunnel ends to connect to"
    );
}
