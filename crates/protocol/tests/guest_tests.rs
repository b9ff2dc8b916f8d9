//! Guests as they are: powered off, paused, lost after the decision. And what a move says it waits
//! for.

mod support;

use support::{Hand, answer, host, request, vm};
use transhume_model::{VmName, WallMicros};
use transhume_protocol::event::Happening;
use transhume_protocol::message::{
    Command, Fault, FaultKind, GuestState, Mode, Order, OrderKind, Outcome, RefusalKind, SourceFrames,
};
use transhume_protocol::migration::{Input, JournalEntry, MoveRequest, RunOn};
use transhume_protocol::report::{Ending, VmReport, WaitReason};

/// VMs 1 to `vms` in batches of `k`; VM 1 is powered off.
fn first_is_off(vms: usize, k: usize) -> MoveRequest {
    let mut request = request(vms, k, Mode::Live);
    request.batches[0][0].powered_off = true;
    request
}

fn is_for(order: &Order, name: &VmName, kind: OrderKind) -> bool {
    order.command.vm() == Some(name) && order.command.kind() == kind
}

fn gone() -> Outcome {
    Outcome::Lost(Fault::new(FaultKind::Qemu, "QEMU of vm1 ended with signal 9"))
}

/// VM 1 answers `Activate` with this; what its source captured comes with `Discard`.
fn activate_ends_with(outcome: Outcome) -> impl Fn(&Order) -> Option<Outcome> {
    let frames = SourceFrames {
        captured: 40,
        ..SourceFrames::default()
    };
    move |order| {
        if is_for(order, &vm(1), OrderKind::Activate) {
            Some(outcome.clone())
        } else if is_for(order, &vm(1), OrderKind::Discard) {
            Some(Outcome::Discarded { frames: Some(frames) })
        } else {
            None
        }
    }
}

fn report_of(hand: &Hand, index: usize) -> VmReport {
    hand.report().vms[index - 1].clone()
}

#[test]
fn of_a_powered_off_vm_only_the_place_moves() {
    let mut hand = Hand::begin_with(first_is_off(2, 2));
    hand.play_out(0, |_| None);
    assert_eq!(
        hand.orders_of(&vm(1)),
        ["Reserve", "Activate", "Commit", "Discard"]
    );
    let (_, reserve) = hand.order(&vm(1), "Reserve");
    assert!(matches!(
        reserve.command,
        Command::Reserve {
            powered_off: true,
            ..
        }
    ));
    let (_, activate) = hand.order(&vm(1), "Activate");
    assert!(matches!(activate.command, Command::Activate { run: false, .. }));
    let report = hand.report();
    assert_eq!((hand.done, report.outcome), (true, Ending::Committed));
    let off = &report.vms[0];
    assert_eq!((&off.host, off.guest), (&host("t1"), GuestState::Off));
    assert_eq!((off.blackout_ms, off.frames), (None, None));
    assert_eq!(report.vms[1].guest, GuestState::Running);
    assert!(report.vms[1].blackout_ms.is_some());
}

#[test]
fn a_batch_of_nothing_but_powered_off_vms_moves() {
    let mut hand = Hand::begin_with(first_is_off(2, 1));
    hand.play_out(0, |_| None);
    assert_eq!(hand.report().outcome, Ending::Committed);
    assert!(hand.hosts().values().all(|host| host.as_str().starts_with('t')));
}

#[test]
fn a_source_that_cannot_close_is_discarded_once_its_target_has_all() {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, "CloseSourceBuffer");
    for _ in 0..5 {
        hand.fail(&vm(1), "CloseSourceBuffer");
        hand.wait(10_000);
    }
    assert!(!hand.was_sent("Discard"), "its target may still wait for frames");
    hand.answer(&vm(1), "CloseTargetBuffer");
    for _ in 0..4 {
        assert!(
            !hand.was_sent("Discard"),
            "it may be able to say itself what it captured"
        );
        hand.fail(&vm(1), "CloseSourceBuffer");
        hand.wait(10_000);
    }
    assert_eq!(hand.count(&vm(1), "Discard"), 1);
}

#[test]
fn a_powered_off_vm_is_not_waited_for_by_the_others_of_its_batch() {
    let mut hand = Hand::begin_with(first_is_off(2, 2));
    hand.answer(&vm(2), "Reserve");
    assert_eq!(
        hand.count(&vm(2), "Prepare"),
        0,
        "its place must be reserved as well"
    );
    hand.answer(&vm(1), "Reserve");
    hand.play_out(2, |order| {
        assert!(!is_for(order, &vm(1), OrderKind::Prepare));
        None
    });
    assert!(hand.done);
}

#[test]
fn when_its_batch_rolls_back_the_place_of_a_powered_off_vm_stays() {
    let mut hand = Hand::begin_with(first_is_off(2, 2));
    hand.play_out(0, |order| {
        is_for(order, &vm(2), OrderKind::Capture).then(|| answer::fault(FaultKind::Qemu))
    });
    assert_eq!(hand.report().outcome, Ending::RolledBack);
    assert_eq!(hand.orders_of(&vm(1)), ["Reserve", "AbortTarget"]);
    assert_eq!(report_of(&hand, 1).host, host("s1"));
}

#[test]
fn a_restarted_coordinator_has_nothing_to_undo_at_the_source_of_a_powered_off_vm() {
    let mut hand = Hand::begin_with(first_is_off(2, 2));
    hand.restart(5);
    for name in ["s1", "s2", "t1", "t2"] {
        hand.bring_back(name);
    }
    assert_eq!(hand.orders_of(&vm(1)), ["AbortTarget"]);
    hand.play_out(0, |_| None);
    assert!(hand.done);
}

#[test]
fn a_paused_guest_stays_paused_on_its_target() {
    let mut hand = Hand::begin(2, 2);
    hand.up_to(2, "Capture");
    hand.answer(&vm(1), "Capture");
    let Outcome::Captured { times, .. } = answer::natural("Capture", hand.now.wall) else {
        panic!("capture is answered by its times")
    };
    let guest = GuestState::Paused;
    hand.answer_with(&vm(2), "Capture", Outcome::Captured { times, guest })
        .unwrap();
    for command in ["StopAndCopy", "AwaitLoaded"] {
        hand.all(2, command);
    }
    let runs = |hand: &Hand, index: usize| match hand.order(&vm(index), "Activate").1.command {
        Command::Activate { run, .. } => run,
        other => panic!("{other:?}"),
    };
    assert_eq!((runs(&hand, 1), runs(&hand, 2)), (true, false));
    hand.restart(5);
    for name in ["s1", "s2", "t1", "t2"] {
        hand.bring_back(name);
    }
    assert_eq!(
        (runs(&hand, 1), runs(&hand, 2)),
        (true, false),
        "the journal keeps what the guest did"
    );
    hand.play_out(0, |_| None);
    let paused = report_of(&hand, 2);
    assert_eq!((paused.guest, paused.blackout_ms), (guest, None));
    assert!(paused.frames.is_some(), "what was captured is accounted for");
    assert_eq!(hand.report().outcome, Ending::Committed);
}

/// VM 1 is lost when it is to run, and an operator lets it be so.
fn play_out_and_give_up(hand: &mut Hand) {
    hand.play_out(0, activate_ends_with(gone()));
    let next = hand.sent.len();
    hand.resolve(&vm(1), RunOn::Nowhere);
    hand.play_out(next, activate_ends_with(gone()));
}

#[test]
fn a_vm_that_is_lost_in_the_switchover_does_not_hold_the_others_up() {
    for outcome in [gone(), answer::refusal(RefusalKind::UnknownVm)] {
        let mut hand = Hand::begin(3, 2);
        hand.play_out(0, activate_ends_with(outcome.clone()));
        let waits = hand.report().waiting;
        assert!(
            waits.iter().all(|wait| wait.vm == vm(1)),
            "the other VM is through: {waits:?}"
        );
        let next = hand.sent.len();
        hand.resolve(&vm(1), RunOn::Nowhere);
        hand.play_out(next, activate_ends_with(outcome));
        assert!(hand.done, "the second batch goes on, and the move ends");
        let report = hand.report();
        assert_eq!(report.outcome, Ending::CommittedWithLoss);
        assert_eq!(report.trouble, None);
        let orders = hand.orders_of(&vm(1));
        assert!(orders.ends_with(&["Activate", "Commit", "Discard"]), "{orders:?}");
        assert!(report.vms[1..].iter().all(|vm| vm.lost.is_none()));
    }
}

#[test]
fn the_report_says_of_a_lost_vm_why_what_can_be_done_and_what_was_lost_with_it() {
    let mut hand = Hand::begin(1, 1);
    play_out_and_give_up(&mut hand);
    let lost = report_of(&hand, 1);
    assert_eq!((&lost.host, lost.guest), (&host("t1"), GuestState::Off));
    let loss = lost.lost.expect("it is lost");
    assert_eq!(loss.reason, "QEMU of vm1 ended with signal 9");
    assert_eq!(
        loss.hint,
        "`transhume vm start herd vm1` boots it again from its disk"
    );
    let frames = lost.frames.expect("the source gave its account");
    assert_eq!((frames.captured, frames.delivered, frames.lost), (40, 0, 40));
    let told = hand
        .events
        .iter()
        .filter(|event| matches!(event, Happening::VmLost { .. }));
    assert_eq!(told.count(), 1);
}

#[test]
fn a_target_that_knows_nothing_of_a_committed_vm_is_named() {
    let mut hand = Hand::begin(1, 1);
    hand.play_out(0, activate_ends_with(answer::refusal(RefusalKind::UnknownVm)));
    let loss = report_of(&hand, 1).lost.expect("it is lost");
    assert!(
        loss.reason
            .starts_with("host t1 knows nothing of VM vm1 any more"),
        "{}",
        loss.reason
    );
}

#[test]
fn a_restarted_coordinator_does_not_start_a_lost_vm() {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, "Activate");
    hand.answer_with(&vm(1), "Activate", gone()).unwrap();
    let is_loss = |entry: &JournalEntry| matches!(entry, JournalEntry::VmLost { .. });
    assert!(hand.journal.iter().any(is_loss));
    hand.restart(5);
    hand.bring_back("s1");
    hand.bring_back("t1");
    assert_eq!(hand.orders_of(&vm(1)), ["Commit"]);
    play_out_and_give_up(&mut hand);
    assert_eq!(hand.orders_of(&vm(1)), ["Commit", "Discard"]);
    assert_eq!(hand.report().outcome, Ending::CommittedWithLoss);
    let frames = report_of(&hand, 1).frames.expect("the source gave its account");
    assert_eq!(frames.lost, 40);
    hand.journal.pop();
    hand.restart(9);
    assert_eq!(
        report_of(&hand, 1).frames,
        Some(frames),
        "the journal has the account of a discarded source"
    );
}

#[test]
fn a_vm_that_is_lost_after_it_ran_ends_the_closing_of_its_buffers() {
    for outcome in [gone(), answer::refusal(RefusalKind::UnknownVm)] {
        let mut hand = Hand::begin(1, 1);
        hand.up_to(1, "CloseSourceBuffer");
        hand.answer_with(&vm(1), "CloseTargetBuffer", outcome).unwrap();
        assert_eq!(
            hand.count(&vm(1), "Discard"),
            1,
            "nobody is left for whom the source could wait"
        );
        hand.answer(&vm(1), "CloseSourceBuffer");
        hand.answer(&vm(1), "Discard");
        assert_eq!(hand.report().outcome, Ending::CommittedWithLoss);
        let frames = report_of(&hand, 1).frames.expect("the source closed its half");
        assert_eq!((frames.captured, frames.lost), (40, 40));
    }
}

#[test]
fn no_other_order_can_lose_a_vm() {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, "Capture");
    let illegal = hand.answer_with(&vm(1), "Capture", gone()).unwrap_err();
    assert!(illegal.to_string().contains("Lost from host s1"), "{illegal}");
}

#[test]
fn a_move_names_every_order_it_waits_for() {
    let mut hand = Hand::begin(2, 2);
    hand.up_to(2, "Activate");
    hand.fail(&vm(1), "Activate");
    hand.answer(&vm(2), "Activate");
    hand.lose("s1");
    hand.pass(70);
    let waits = hand.report().waiting;
    assert_eq!(waits, hand.machine.waiting_for(hand.now));
    let named: Vec<_> = waits
        .iter()
        .map(|wait| (wait.vm.as_str(), wait.order, wait.host.as_str(), &wait.why))
        .collect();
    let failed = WaitReason::BackingOff {
        reason: "it broke".to_owned(),
    };
    let away = WaitReason::NotConnected { lost_ms: 70 };
    assert_eq!(
        named,
        [
            ("vm1", OrderKind::Activate, "t1", &failed),
            ("vm1", OrderKind::Commit, "s1", &away),
            ("vm2", OrderKind::Commit, "s2", &WaitReason::InFlight),
        ]
    );
    assert!(waits.iter().all(|wait| wait.since_ms >= 70), "{waits:?}");
    let first = hand.sent.len();
    hand.answer(&vm(2), "Commit");
    hand.bring_back("s1");
    hand.wait(5_000);
    hand.play_out(first, |_| None);
    assert!(hand.done && hand.report().waiting.is_empty());
}

#[test]
fn a_target_that_is_lost_is_named_as_what_the_roll_back_waits_for() {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, "Capture");
    hand.lose("t1");
    hand.answer(&vm(1), "AbortSource");
    hand.wait(20_000);
    let waits = hand.report().waiting;
    assert_eq!(waits.len(), 1);
    assert_eq!(
        (waits[0].order, waits[0].host.as_str()),
        (OrderKind::AbortTarget, "t1")
    );
    assert!(matches!(waits[0].why, WaitReason::NotConnected { lost_ms } if lost_ms >= 20_000));
}

#[test]
fn a_cancel_during_the_roll_back_changes_nothing_and_says_so() {
    let mut hand = Hand::begin(1, 1);
    hand.refuse(&vm(1), "Reserve");
    hand.give(Input::Cancel).unwrap();
    assert_eq!(hand.last.events, [Happening::AlreadyRollingBack { batch: 1 }]);
    assert!(hand.last.persist.is_empty() && hand.last.send.is_empty());
    assert_eq!(hand.machine.ignored(), 1);
}

#[test]
fn a_hint_fits_its_trouble() {
    let hint_of = |fault: Fault| {
        let mut hand = Hand::begin(1, 1);
        hand.up_to(1, "Capture");
        hand.answer_with(&vm(1), "Capture", Outcome::Failed(fault))
            .unwrap();
        hand.report().trouble.expect("it rolls back").hint
    };
    let network = hint_of(Fault::new(FaultKind::Network, "no clsact on br0"));
    assert!(
        network.contains("host s1") && !network.contains("between"),
        "{network}"
    );
    let stream = hint_of(Fault::new(FaultKind::PageStream, "connection reset"));
    assert!(stream.contains("between the two hosts"), "{stream}");
    let own = Fault::new(FaultKind::PageStream, "the guest powered itself off").with_hint("start it first");
    assert_eq!(hint_of(own), "start it first");
}

/// What the report says of a guest's frames, 40 of which were captured.
fn account_of(delivered: u64, untaken: u64, given_up: u64) -> (u64, u64, u64) {
    let mut hand = Hand::begin(1, 1);
    hand.play_out(0, |order| {
        let Outcome::TargetClosed(frames) = answer::natural("CloseTargetBuffer", WallMicros(0)) else {
            panic!("closing is answered by its account")
        };
        is_for(order, &vm(1), OrderKind::CloseTargetBuffer).then_some(Outcome::TargetClosed(
            transhume_protocol::message::TargetFrames {
                delivered,
                untaken,
                given_up,
                ..frames
            },
        ))
    });
    let frames = report_of(&hand, 1).frames.expect("both halves are there");
    assert_eq!(frames.captured, 40);
    (frames.delivered, frames.untaken, frames.lost)
}

#[test]
fn frames_that_the_guest_never_took_are_counted_apart_from_lost_ones() {
    assert_eq!(account_of(40, 10, 0), (40, 10, 0));
    assert_eq!(account_of(30, 30, 10), (30, 40, 0), "its ring was full");
}

/// What waits in the ring of a guest that takes none says nothing about what never got there.
#[test]
fn frames_that_did_not_arrive_are_lost_however_many_others_wait_for_the_guest() {
    assert_eq!(account_of(30, 30, 0), (30, 30, 10));
}
