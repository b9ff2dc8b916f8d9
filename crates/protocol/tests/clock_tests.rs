//! Clocks of hosts that are wrong: what is corrected, what stays uncertain, what is no number.

mod support;

use support::{Hand, answer, host, request, vm};
use transhume_model::{Interval, WallMicros};
use transhume_protocol::forecast::{Expected, MoveForecast, VmForecast};
use transhume_protocol::message::Mode;
use transhume_protocol::migration::Input;
use transhume_protocol::report::VmReport;

const HOUR_US: i64 = 3_600_000_000;
const NATURAL_GAP_MS: f64 = 30.0;

fn estimate(hand: &mut Hand, name: &str, offset_us: i64, uncertainty_us: u64) {
    hand.give(Input::Clock {
        host: host(name),
        offset_us,
        uncertainty_us,
    })
    .unwrap();
}

/// The target's clock is off by this: it answers by it.
fn answer_off(hand: &mut Hand, command: &str, off_us: i64) {
    let now = hand.now.wall.0 as i64 + 1_000;
    let outcome = answer::natural(command, WallMicros((now + off_us) as u64));
    hand.answer_with(&vm(1), command, outcome).unwrap();
}

/// A move whose target is off by `off_us`, forecast, and estimated as `estimates` says.
fn moved(off_us: i64, estimates: &[(&str, i64, u64)]) -> Hand {
    let wide = Interval { low: 0.0, high: 1e12 };
    let expected = Expected {
        bytes: wide,
        duration_ms: wide,
        blackout_ms: wide,
        gap_ms: Some(wide),
    };
    let mut request = request(1, 1, Mode::Live);
    request.forecast = Some(MoveForecast {
        vms: vec![VmForecast {
            vm: vm(1),
            rate_mbit_s: 250.0,
            dirty_mib_s: None,
            expected,
            modelled: None,
            assumed: Vec::new(),
        }],
        expected,
        learnt_from: 0,
    });
    let mut hand = Hand::begin_with(request);
    // Far from zero, so that no clock stands before its origin.
    hand.now.wall += WallMicros(10 * HOUR_US as u64);
    for (name, offset_us, uncertainty_us) in estimates {
        estimate(&mut hand, name, *offset_us, *uncertainty_us);
    }
    hand.up_to(1, "AwaitLoaded");
    answer_off(&mut hand, "AwaitLoaded", off_us);
    hand.pass(20);
    answer_off(&mut hand, "Activate", off_us);
    hand.answer(&vm(1), "Commit");
    hand.answer(&vm(1), "CloseSourceBuffer");
    answer_off(&mut hand, "CloseTargetBuffer", off_us);
    hand
}

fn first(hand: &Hand) -> VmReport {
    hand.report().vms[0].clone()
}

fn has_no_figures(hand: &mut Hand) -> String {
    let vm1 = first(hand);
    assert_eq!(
        (vm1.blackout_ms, vm1.blackout_parts, vm1.gap_ms),
        (None, None, None)
    );
    hand.answer(&vm(1), "Discard");
    assert!(hand.done);
    let report = hand.report();
    let of_vm = report.vms[0].forecast.as_ref().expect("it was forecast");
    assert_eq!(
        of_vm.figures.blackout_ms.actual, None,
        "nothing is learnt from it"
    );
    assert!(of_vm.figures.bytes.actual.is_some());
    let of_all = report.forecast.expect("it was forecast");
    assert_eq!(of_all.blackout_ms.actual, None);
    assert_eq!(of_all.gap_ms.expect("it was forecast").actual, None);
    vm1.clocks.expect("it says why")
}

#[test]
fn without_an_estimate_an_hour_between_the_clocks_is_no_figure() {
    for off_us in [HOUR_US, -HOUR_US] {
        let mut hand = moved(off_us, &[]);
        let why = has_no_figures(&mut hand);
        assert!(
            why.starts_with("the clocks of s1 and t1 contradict each other: its blackout would be"),
            "{why}"
        );
        assert_eq!(first(&hand).clock_uncertainty_ms, None);
    }
}

#[test]
fn with_an_estimate_an_hour_between_the_clocks_does_not_show() {
    let alike = first(&moved(0, &[]));
    assert!(alike.blackout_ms.is_some_and(|ms| (20.0..40.0).contains(&ms)));
    for off_us in [HOUR_US, -HOUR_US] {
        let hand = moved(off_us, &[("s1", 0, 150), ("t1", off_us, 250)]);
        let vm1 = first(&hand);
        assert_eq!(
            (vm1.blackout_ms, vm1.blackout_parts, vm1.gap_ms),
            (alike.blackout_ms, alike.blackout_parts, alike.gap_ms)
        );
        assert!(
            vm1.gap_ms
                .is_some_and(|ms| ms > 0.0 && ms <= NATURAL_GAP_MS + 1.0)
        );
        assert_eq!((vm1.clock_uncertainty_ms, vm1.clocks), (Some(0.4), None));
    }
}

#[test]
fn both_hosts_may_be_off_from_the_coordinator() {
    let alike = first(&moved(0, &[]));
    let mut hand = Hand::begin(1, 1);
    hand.now.wall += WallMicros(10 * HOUR_US as u64);
    estimate(&mut hand, "s1", -HOUR_US, 100);
    estimate(&mut hand, "t1", 2 * HOUR_US, 100);
    hand.up_to(1, "Capture");
    for (command, off_us) in [
        ("Capture", -HOUR_US),
        ("StopAndCopy", -HOUR_US),
        ("AwaitLoaded", 2 * HOUR_US),
    ] {
        answer_off(&mut hand, command, off_us);
    }
    hand.pass(20);
    answer_off(&mut hand, "Activate", 2 * HOUR_US);
    assert_eq!(first(&hand).blackout_ms, alike.blackout_ms);
}

#[test]
fn an_instant_is_read_by_the_offset_that_held_when_it_was_reported() {
    let mut hand = Hand::begin(1, 1);
    hand.now.wall += WallMicros(10 * HOUR_US as u64);
    estimate(&mut hand, "s1", HOUR_US, 100);
    estimate(&mut hand, "t1", 0, 100);
    hand.up_to(1, "Capture");
    answer_off(&mut hand, "Capture", HOUR_US);
    // Somebody sets the source's clock right in the middle of the switchover.
    estimate(&mut hand, "s1", 0, 900);
    hand.answer(&vm(1), "StopAndCopy");
    hand.answer(&vm(1), "AwaitLoaded");
    hand.pass(20);
    hand.answer(&vm(1), "Activate");
    let vm1 = first(&hand);
    assert!(
        vm1.blackout_ms.is_some_and(|ms| (20.0..40.0).contains(&ms)),
        "{vm1:?}"
    );
    assert_eq!(vm1.clock_uncertainty_ms, Some(1.0), "the worst estimate counts");
}

#[test]
fn corrected_figures_survive_a_restart() {
    let mut hand = moved(HOUR_US, &[("s1", 0, 150), ("t1", HOUR_US, 250)]);
    let before = first(&hand);
    hand.restart(7);
    let after = first(&hand);
    assert_eq!(
        (after.blackout_ms, after.gap_ms, after.clock_uncertainty_ms),
        (before.blackout_ms, before.gap_ms, before.clock_uncertainty_ms)
    );
}

#[test]
fn a_contradiction_survives_a_restart() {
    let mut hand = moved(HOUR_US, &[]);
    let before = first(&hand).clocks;
    hand.restart(7);
    assert!(before.is_some());
    assert_eq!(first(&hand).clocks, before);
}

#[test]
fn corrected_and_uncorrected_instants_are_not_compared() {
    let mut hand = moved(0, &[("s1", 0, 150)]);
    let why = has_no_figures(&mut hand);
    assert_eq!(
        why,
        "the clocks of s1 and t1 were estimated for a part of the times only"
    );
}

#[test]
fn a_blackout_longer_than_the_vm_was_away_is_no_figure() {
    let mut hand = moved(500_000, &[]);
    let why = has_no_figures(&mut hand);
    assert!(why.contains("and it was away for"), "{why}");
}

#[test]
fn clocks_that_are_a_little_apart_cost_the_parts_only() {
    let hand = moved(-10_000, &[]);
    let vm1 = first(&hand);
    assert!(vm1.blackout_ms.is_some());
    assert_eq!(vm1.blackout_parts, None);
    assert_eq!(
        vm1.clocks.as_deref(),
        Some("the clocks of s1 and t1 are too far apart to tell the parts of its blackout")
    );
}

#[test]
fn after_an_abort_one_clock_is_enough() {
    let mut hand = Hand::begin(1, 1);
    hand.now.wall += WallMicros(10 * HOUR_US as u64);
    estimate(&mut hand, "s1", -HOUR_US, 100);
    hand.up_to(1, "Capture");
    answer_off(&mut hand, "Capture", -HOUR_US);
    hand.fail(&vm(1), "StopAndCopy");
    let (source, order) = hand.order(&vm(1), "AbortSource");
    let report = transhume_protocol::message::Report {
        order: Some(order.id),
        epoch: order.epoch,
        vm: Some(vm(1)),
        at: WallMicros(hand.now.wall.0 - HOUR_US as u64),
        outcome: answer::natural("AbortSource", hand.now.wall),
    };
    hand.give(Input::Report { host: source, report }).unwrap();
    let vm1 = first(&hand);
    assert_eq!((vm1.blackout_ms, vm1.clocks), (Some(1.0), None));
}

#[test]
fn an_offset_beyond_all_measure_breaks_nothing() {
    for offset_us in [i64::MIN, i64::MAX] {
        let mut hand = moved(0, &[("s1", 0, 9), ("t1", offset_us, u64::MAX)]);
        has_no_figures(&mut hand);
    }
}

#[test]
fn the_clock_of_a_host_without_part_in_the_move_is_refused() {
    let mut hand = Hand::begin(1, 1);
    let stranger = Input::Clock {
        host: host("elsewhere"),
        offset_us: 0,
        uncertainty_us: 0,
    };
    let illegal = hand.give(stranger).unwrap_err();
    assert!(illegal.input.contains("elsewhere"), "{illegal}");
}
