//! VMs that do not get ready, and moves that take too long.

mod support;

use support::{Hand, request, vm};
use transhume_model::{Epoch, Millis, WallMicros};
use transhume_protocol::event::Happening;
use transhume_protocol::message::Mode;
use transhume_protocol::migration::{Converge, Input, JournalEntry, Migration, MoveRequest, StuckRates};
use transhume_protocol::report::Ending;

const RATES: StuckRates = StuckRates {
    dirty_mbit_s: 400.0,
    most_mbit_s: Some(200.0),
};

fn with(vms: usize, k: usize, converge: Converge) -> MoveRequest {
    MoveRequest {
        converge,
        ..request(vms, k, Mode::Live)
    }
}

fn stuck(hand: &mut Hand, index: usize) {
    let input = Input::Stuck {
        vm: vm(index),
        rates: RATES,
    };
    hand.give(input).unwrap();
}

/// A batch of three whose memory is being copied.
fn copying(converge: Converge) -> Hand {
    let mut hand = Hand::begin_with(with(3, 3, converge));
    hand.up_to(3, "Converge");
    hand
}

fn put_offs(hand: &Hand) -> usize {
    let is = |entry: &&JournalEntry| matches!(entry, JournalEntry::PutOff { .. });
    hand.journal.iter().filter(is).count()
}

#[test]
fn who_is_waited_for_or_slowed_down_is_only_told_of() {
    for converge in [Converge::Wait, Converge::Throttle { percent: 20 }] {
        let mut hand = copying(converge);
        let sent = hand.sent.len();
        stuck(&mut hand, 2);
        let told = Happening::Stuck {
            vm: vm(2),
            rates: RATES,
            policy: converge,
        };
        assert_eq!(
            (hand.last.events.as_slice(), hand.sent.len()),
            (&[told][..], sent)
        );
        hand.play_out(0, |_| None);
        assert_eq!(hand.report().outcome, Ending::Committed);
    }
}

#[test]
fn stop_brings_the_batch_back_and_names_the_vm() {
    let mut hand = copying(Converge::Stop);
    let sent = hand.sent.len();
    stuck(&mut hand, 2);
    hand.play_out(sent, |_| None);
    let report = hand.report();
    assert_eq!(report.outcome, Ending::RolledBack);
    let trouble = report.trouble.unwrap();
    assert_eq!(trouble.vm, Some(vm(2)));
    assert!(
        trouble.reason.contains("400 Mbit/s") && trouble.reason.contains("200 Mbit/s"),
        "{trouble:?}"
    );
}

#[test]
fn shrink_lets_the_others_go_and_the_stuck_one_last() {
    let mut hand = copying(Converge::Shrink);
    let sent = hand.sent.len();
    stuck(&mut hand, 2);
    hand.play_out(sent, |_| None);
    let report = hand.report();
    assert_eq!((report.outcome, put_offs(&hand)), (Ending::Committed, 1));
    let batches: Vec<_> = report
        .vms
        .iter()
        .map(|vm| (vm.id.to_string(), vm.batch))
        .collect();
    let expected = [("vm1", 1), ("vm3", 1), ("vm2", 2)];
    assert_eq!(batches, expected.map(|(vm, batch)| (vm.to_owned(), batch)));
    assert!(hand.is_committed(1) && hand.is_committed(2));
    let epochs: Vec<u64> = hand.journal.iter().filter_map(epoch_of).collect();
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    assert!(*epochs.last().unwrap() < 1 + hand.machine.request().epochs());
}

fn epoch_of(entry: &JournalEntry) -> Option<u64> {
    match entry {
        JournalEntry::BatchBegun { epoch, .. } | JournalEntry::PutOff { epoch, .. } => Some(epoch.0),
        _ => None,
    }
}

#[test]
fn who_is_alone_or_ready_is_not_put_off() {
    let mut hand = copying(Converge::Shrink);
    hand.answer(&vm(2), "Converge");
    stuck(&mut hand, 2);
    assert_eq!(hand.last.events, [], "it is ready");
    let mut hand = Hand::begin_with(with(1, 1, Converge::Shrink));
    hand.up_to(1, "Converge");
    stuck(&mut hand, 1);
    assert_eq!(hand.last.persist, []);
    stuck(&mut hand, 9);
    assert_eq!(hand.last.events, [], "nobody knows it");
}

#[test]
fn a_cancel_meanwhile_ends_the_move() {
    let mut hand = copying(Converge::Shrink);
    let sent = hand.sent.len();
    stuck(&mut hand, 2);
    hand.give(Input::Cancel).unwrap();
    hand.play_out(sent, |_| None);
    assert_eq!((hand.report().outcome, put_offs(&hand)), (Ending::RolledBack, 0));
}

#[test]
fn a_coordinator_that_dies_at_any_entry_of_it_goes_on() {
    let mut whole = copying(Converge::Shrink);
    let (entries, sent) = (whole.journal.len(), whole.sent.len());
    stuck(&mut whole, 2);
    whole.play_out(sent, |_| None);
    for held in entries + 1..whole.journal.len() {
        let mut hand = copying(Converge::Shrink);
        hand.journal = whole.journal[..held].to_vec();
        hand.now = whole.now;
        let newest = hand.journal.iter().filter_map(epoch_of).max().unwrap();
        hand.restart(newest + 1);
        for host in ["s1", "s2", "t1", "t2"] {
            hand.bring_back(host);
        }
        hand.play_out(0, |_| None);
        assert!(hand.done, "after {held} entries");
        for index in 1..=3 {
            let mine = |batch: usize| {
                hand.report()
                    .vms
                    .iter()
                    .any(|one| one.id == vm(index) && one.batch == batch)
            };
            let committed = [1, 2]
                .into_iter()
                .any(|batch| mine(batch) && hand.is_committed(batch));
            let at_home = hand.hosts()[&vm(index)].as_str().starts_with('s');
            assert_eq!(committed, !at_home, "VM {index} after {held} entries");
        }
    }
}

#[test]
fn a_journal_that_puts_off_another_vm_is_refused() {
    let mut hand = copying(Converge::Shrink);
    let sent = hand.sent.len();
    stuck(&mut hand, 2);
    hand.play_out(sent, |_| None);
    let place = hand
        .journal
        .iter()
        .position(|entry| matches!(entry, JournalEntry::PutOff { .. }))
        .unwrap();
    let mut journal = hand.journal[..=place].to_vec();
    if let JournalEntry::PutOff { vm: name, .. } = &mut journal[place] {
        *name = vm(1);
    }
    let error = Migration::recover(hand.now, &journal, Epoch(50)).unwrap_err();
    assert!(error.to_string().contains("was not to be put off"), "{error}");
}

#[test]
fn a_move_that_takes_too_long_ends_with_what_is_committed() {
    let limited = |vms, k| MoveRequest {
        duration_ms_max: Some(Millis(60_000)),
        ..request(vms, k, Mode::Live)
    };
    let mut hand = Hand::begin_with(limited(2, 2));
    hand.up_to(2, "Converge");
    let sent = hand.sent.len();
    hand.wait(59_000);
    assert_eq!(hand.sent.len(), sent);
    hand.wait(2_000);
    hand.play_out(sent, |_| None);
    let report = hand.report();
    assert_eq!(report.outcome, Ending::RolledBack);
    assert_eq!(
        report.trouble.unwrap().reason,
        "the move was not over within 60 s"
    );

    let mut hand = Hand::begin_with(limited(4, 2));
    hand.up_to(2, "Discard");
    hand.wait(60_000);
    let sent = hand.sent.len();
    hand.all(2, "Discard");
    hand.play_out(sent, |_| None);
    assert_eq!(hand.report().outcome, Ending::PartlyCommitted);
    assert!(hand.orders_of(&vm(3)).is_empty(), "no other batch begins");
}

/// Two clocks are never read at the same instant, and one of them may be set back: the limit is
/// the one that the timer was set by.
#[test]
fn a_move_ends_in_time_whatever_the_wall_clock_says() {
    for behind in [WallMicros(1), WallMicros(30_000_000)] {
        let mut hand = Hand::begin_with(MoveRequest {
            duration_ms_max: Some(Millis(60_000)),
            ..request(2, 2, Mode::Live)
        });
        hand.up_to(2, "Converge");
        let sent = hand.sent.len();
        hand.now.wall = hand.now.wall.saturating_sub(behind);
        hand.wait(60_000);
        hand.play_out(sent, |_| None);
        assert_eq!(hand.report().outcome, Ending::RolledBack, "{behind:?}");
    }
}
