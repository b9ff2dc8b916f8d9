//! Batches that are to come, cut anew while the move runs.

mod support;

use support::{Hand, request, vm};
use transhume_model::{Epoch, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::message::Mode;
use transhume_protocol::migration::{Converge, Input, JournalEntry, Migration, MoveRequest, StuckRates};
use transhume_protocol::report::Ending;

/// Six VMs, two at once: four in the first round, two in the second.
fn adaptive() -> MoveRequest {
    let mut adaptive = MoveRequest {
        batch_max: Some(3),
        ..request(6, 2, Mode::Live)
    };
    for vm in &mut adaptive.batches[2] {
        vm.round = 1;
    }
    adaptive
}

fn named(batches: &[&[usize]]) -> Vec<Vec<VmName>> {
    let names = |batch: &&[usize]| batch.iter().map(|index| vm(*index)).collect();
    batches.iter().map(names).collect()
}

fn arrange(hand: &mut Hand, batches: &[&[usize]]) -> Result<(), String> {
    let input = Input::Arrange {
        batches: named(batches),
    };
    hand.give(input).map_err(|illegal| illegal.to_string())
}

fn batches_of(hand: &Hand) -> Vec<(VmName, usize)> {
    hand.report()
        .vms
        .into_iter()
        .map(|vm| (vm.id, vm.batch))
        .collect()
}

#[test]
fn what_is_to_come_goes_as_it_was_cut_last() {
    let mut hand = Hand::begin_with(adaptive());
    hand.up_to(2, "Converge");
    arrange(&mut hand, &[&[4], &[3], &[6, 5]]).unwrap();
    let told = Happening::Rearranged {
        batches: 4,
        batch_max: 2,
    };
    assert_eq!(hand.last.events, [told]);
    assert_eq!(hand.last.persist.len(), 1);
    let sent = hand.sent.len();
    hand.play_out(0, |_| None);
    assert!(hand.sent.len() > sent);
    assert_eq!(hand.report().outcome, Ending::Committed);
    let expected = [(1, 1), (2, 1), (4, 2), (3, 3), (6, 4), (5, 4)];
    assert_eq!(
        batches_of(&hand),
        expected.map(|(index, batch)| (vm(index), batch))
    );
    assert_eq!(hand.report().batch, 2);
}

#[test]
fn the_same_again_is_no_news() {
    let mut hand = Hand::begin_with(adaptive());
    arrange(&mut hand, &[&[3, 4], &[5, 6]]).unwrap();
    assert_eq!((hand.last.persist.len(), hand.last.events.len()), (0, 0));
}

#[test]
fn what_is_no_arrangement_changes_nothing() {
    let mut hand = Hand::begin_with(adaptive());
    let before = hand.to_come();
    let cases: [(&[&[usize]], &str); 8] = [
        (&[&[3, 4]], "leaves a VM out"),
        (&[], "leaves a VM out"),
        (&[&[3, 4], &[5, 6, 5]], "twice"),
        (&[&[1, 3, 4], &[5, 6]], "not to come"),
        (&[&[3, 4], &[], &[5, 6]], "empty or too large"),
        (&[&[3, 4, 5, 6]], "empty or too large"),
        (&[&[3], &[4, 5], &[6]], "mixes rounds"),
        (&[&[5, 6], &[3, 4]], "before an earlier one"),
    ];
    for (batches, why) in cases {
        let error = arrange(&mut hand, batches).unwrap_err();
        assert!(error.contains(why), "{batches:?}: {error}");
        assert_eq!(hand.to_come(), before);
    }
    let mut fixed = Hand::begin(6, 2);
    let error = arrange(&mut fixed, &[&[3], &[4], &[5], &[6]]).unwrap_err();
    assert!(error.contains("are fixed"), "{error}");
}

#[test]
fn a_move_on_its_way_back_or_over_is_left_alone() {
    let mut hand = Hand::begin_with(adaptive());
    hand.up_to(2, "Converge");
    let sent = hand.sent.len();
    hand.give(Input::Cancel).unwrap();
    arrange(&mut hand, &[&[3], &[4], &[5], &[6]]).unwrap();
    assert_eq!(hand.last.persist, []);
    hand.play_out(sent, |_| None);
    arrange(&mut hand, &[&[9]]).unwrap();
    assert_eq!(hand.report().outcome, Ending::RolledBack);
}

#[test]
fn who_was_put_off_stays_last() {
    let mut hand = Hand::begin_with(MoveRequest {
        converge: Converge::Shrink,
        ..adaptive()
    });
    hand.up_to(2, "Converge");
    let sent = hand.sent.len();
    let rates = StuckRates {
        dirty_mbit_s: 400.0,
        most_mbit_s: None,
    };
    hand.give(Input::Stuck { vm: vm(1), rates }).unwrap();
    for command in ["AbortSource", "AbortTarget"] {
        hand.all(2, command);
    }
    let error = arrange(&mut hand, &[&[1], &[3, 4], &[5, 6]]).unwrap_err();
    assert!(error.contains("before an earlier one"), "{error}");
    arrange(&mut hand, &[&[3], &[4], &[5, 6], &[1]]).unwrap();
    hand.play_out(sent, |_| None);
    assert_eq!(hand.report().outcome, Ending::Committed);
    assert_eq!(batches_of(&hand).last(), Some(&(vm(1), 5)));
}

#[test]
fn a_restart_at_any_entry_knows_the_batches() {
    let mut whole = Hand::begin_with(adaptive());
    whole.up_to(2, "Converge");
    arrange(&mut whole, &[&[4, 3], &[6], &[5]]).unwrap();
    let arranged = whole.journal.len();
    whole.play_out(0, |_| None);
    for held in arranged..whole.journal.len() {
        let mut hand = Hand::begin_with(adaptive());
        hand.journal = whole.journal[..held].to_vec();
        hand.now = whole.now;
        hand.restart(50);
        for host in ["s1", "s2", "t1", "t2"] {
            hand.bring_back(host);
        }
        hand.play_out(0, |_| None);
        assert!(hand.done, "after {held} entries");
        assert_eq!(batches_of(&hand), batches_of(&whole), "after {held} entries");
    }
}

#[test]
fn epochs_suffice_where_each_vm_goes_alone() {
    let mut hand = Hand::begin_with(adaptive());
    let epochs = hand.machine.request().epochs();
    arrange(&mut hand, &[&[3], &[4], &[5], &[6]]).unwrap();
    hand.play_out(0, |_| None);
    let used = hand.journal.iter().filter_map(|entry| match entry {
        JournalEntry::BatchBegun { epoch, .. } => Some(epoch.0),
        _ => None,
    });
    assert!(used.max().unwrap() < 1 + epochs);
}

#[test]
fn a_journal_with_an_impossible_arrangement_is_refused() {
    let mut hand = Hand::begin_with(adaptive());
    arrange(&mut hand, &[&[3], &[4], &[5], &[6]]).unwrap();
    let mut journal = hand.journal.clone();
    if let Some(JournalEntry::Rearranged { batches, .. }) = journal.last_mut() {
        batches.pop();
    }
    let error = Migration::recover(hand.now, &journal, Epoch(50)).unwrap_err();
    assert!(error.to_string().contains("leaves a VM out"), "{error}");
}
