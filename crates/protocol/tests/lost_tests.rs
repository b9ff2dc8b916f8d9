//! A host that is lost for good: every move ends without it, or names the decision that it waits
//! for.

mod support;

use support::{Hand, host, request, vm};
use transhume_model::Millis;
use transhume_protocol::event::Happening;
use transhume_protocol::message::{
    Command, Fault, FaultKind, GuestState, HostState, Mode, Outcome, SourceFrames, VmRole, VmState,
};
use transhume_protocol::migration::{
    Cannot, Cleaning, Illegal, Input, JournalEntry, Limits, MoveRequest, Ran, RunOn,
};
use transhume_protocol::report::{Ending, Lost, WaitReason};

/// The named limit, and a little.
fn limit() -> u64 {
    Limits::default().host_lost_ms_max.0 + 1
}

fn up_to(stop: &str) -> Hand {
    let mut hand = Hand::begin(1, 1);
    hand.up_to(1, stop);
    hand
}

/// All loaded on the target, the source not yet known to have sent everything.
fn loaded() -> Hand {
    let mut hand = up_to("StopAndCopy");
    hand.answer(&vm(1), "AwaitLoaded");
    hand
}

fn cleanings(hand: &Hand) -> Vec<(String, Cleaning)> {
    let left = hand.journal.iter().filter_map(|entry| match entry {
        JournalEntry::LeftBehind { host, clean, .. } => Some((host.to_string(), *clean)),
        _ => None,
    });
    left.collect()
}

fn decisions(hand: &Hand) -> usize {
    lost_parts(hand).len()
}

/// What the move's open decisions are for.
fn lost_parts(hand: &Hand) -> Vec<Lost> {
    let waits = hand.report().waiting.into_iter();
    let parts = waits.filter_map(|wait| match wait.why {
        WaitReason::Decision { lost, .. } => Some(lost),
        _ => None,
    });
    parts.collect()
}

fn resolve_with(hand: &mut Hand, run_on: RunOn, although_it_may_have_run: bool) -> Result<(), Illegal> {
    hand.give(Input::Resolve {
        vm: vm(1),
        run_on,
        although_it_may_have_run,
    })
}

fn resolve(hand: &mut Hand, run_on: RunOn) {
    hand.resolve(&vm(1), run_on);
}

#[test]
fn a_lost_target_ends_the_move_within_its_limit_before_commit() {
    for stop in ["Prepare", "PreCopy", "OpenTargetBuffer", "Capture", "StopAndCopy"] {
        let mut hand = up_to(stop);
        hand.lose("t1");
        if hand.was_sent("AbortSource") {
            hand.answer(&vm(1), "AbortSource");
        }
        hand.wait(limit() - 10);
        assert_eq!(hand.report().outcome, Ending::Running, "{stop}");
        hand.wait(20);
        let report = hand.report();
        assert_eq!(report.outcome, Ending::RolledBack, "{stop}");
        assert!(report.vms[0].lost.is_none(), "{stop}: it lives on its source");
        assert_eq!(
            cleanings(&hand),
            [("t1".to_owned(), Cleaning::DropTarget)],
            "{stop}"
        );
    }
}

#[test]
fn what_is_left_behind_is_durable_before_the_end() {
    let mut hand = up_to("Capture");
    hand.lose("t1");
    hand.answer(&vm(1), "AbortSource");
    hand.wait(limit());
    let at = |is: fn(&JournalEntry) -> bool| hand.journal.iter().position(is);
    let left = at(|entry| matches!(entry, JournalEntry::LeftBehind { .. }));
    let end = at(|entry| matches!(entry, JournalEntry::Ended { .. }));
    assert!(left.is_some() && left < end);
}

#[test]
fn a_target_that_is_back_in_time_is_dropped_as_ever() {
    let mut hand = up_to("Capture");
    hand.lose("t1");
    hand.answer(&vm(1), "AbortSource");
    hand.wait(limit() / 2);
    hand.bring_back("t1");
    hand.answer(&vm(1), "AbortTarget");
    assert_eq!(hand.report().outcome, Ending::RolledBack);
    assert!(cleanings(&hand).is_empty());
}

#[test]
fn a_vm_died_with_its_source_when_there_was_no_other_whole_copy() {
    let mut hand = up_to("Converge");
    hand.lose("s1");
    hand.wait(limit());
    hand.answer(&vm(1), "AbortTarget");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::RolledBack);
    let lost = report.vms[0].lost.as_ref().expect("it is told");
    assert!(
        lost.hint.contains("transhume host fence s1 --powered-off"),
        "{lost:?}"
    );
    assert!(lost.hint.contains("transhume vm restart"), "{lost:?}");
    assert_eq!(cleanings(&hand), [("s1".to_owned(), Cleaning::RestoreSource)]);
}

#[test]
fn the_only_whole_copy_is_kept_until_somebody_decides() {
    let mut hand = loaded();
    hand.lose("s1");
    hand.wait(10 * limit());
    assert!(!hand.was_sent("AbortTarget"), "it would be the end of the VM");
    assert_eq!(decisions(&hand), 1);
    let machine = &hand.machine;
    assert_eq!(machine.undecided(), [(vm(1), host("s1"))]);
    let target = machine.check_resolution(&vm(1), RunOn::Target, false);
    assert_eq!(target.unwrap().off, Some(host("s1")));
    assert!(matches!(
        machine.check_resolution(&vm(1), RunOn::Source, true),
        Err(Cannot::NotThere { .. })
    ));
    assert!(resolve_with(&mut hand, RunOn::Source, true).is_err());
}

#[test]
fn a_target_that_reports_loaded_while_its_batch_rolls_back_is_whole() {
    let mut hand = up_to("StopAndCopy");
    hand.lose("s1");
    hand.answer(&vm(1), "AwaitLoaded");
    hand.wait(limit());
    assert_eq!(decisions(&hand), 1);
}

#[test]
fn a_copy_that_is_kept_runs_on_the_target_without_fin_and_the_loss_is_told() {
    let mut hand = loaded();
    hand.lose("s1");
    hand.wait(limit());
    resolve(&mut hand, RunOn::Target);
    hand.answer(&vm(1), "Activate");
    hand.answer(&vm(1), "OpenPlug");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::PartlyCommitted);
    let line = &report.vms[0];
    assert_eq!((&line.host, line.guest), (&host("t1"), GuestState::Running));
    let loss = line.source_lost.as_ref().expect("it is told");
    assert_eq!(loss.frames_lost, None, "nobody can say how many");
    assert_eq!(line.frames, None, "no zero stands for an unknown number");
    assert_eq!(cleanings(&hand), [("s1".to_owned(), Cleaning::DiscardSource)]);
}

#[test]
fn a_copy_that_is_given_up_is_dropped_and_the_vm_lost() {
    let mut hand = loaded();
    hand.lose("s1");
    hand.wait(limit());
    resolve(&mut hand, RunOn::Nowhere);
    hand.answer(&vm(1), "AbortTarget");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::RolledBack);
    assert!(report.vms[0].lost.is_some());
    assert_eq!(cleanings(&hand), [("s1".to_owned(), Cleaning::RestoreSource)]);
}

#[test]
fn a_source_that_is_back_needs_no_decision() {
    let mut hand = loaded();
    hand.lose("s1");
    hand.wait(limit());
    hand.bring_back("s1");
    assert_eq!(decisions(&hand), 0);
    assert!(resolve_with(&mut hand, RunOn::Target, false).is_err());
    hand.answer(&vm(1), "AbortSource");
    hand.answer(&vm(1), "AbortTarget");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::RolledBack);
    assert!(report.vms[0].lost.is_none());
}

#[test]
fn after_commit_a_target_goes_on_without_its_lost_source() {
    let mut hand = up_to("Activate");
    hand.answer(&vm(1), "Activate");
    hand.lose("s1");
    hand.wait(limit());
    hand.answer(&vm(1), "OpenPlug");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::CommittedWithLoss);
    assert!(report.vms[0].source_lost.is_some() && report.vms[0].lost.is_none());
    assert_eq!(cleanings(&hand), [("s1".to_owned(), Cleaning::DiscardSource)]);
}

#[test]
fn a_fence_or_an_order_does_not_wait_for_the_limit() {
    let inputs = [
        Input::Fenced { host: host("s1") },
        Input::GiveUpSource { vm: vm(1) },
    ];
    for input in inputs {
        let mut hand = up_to("Activate");
        hand.answer(&vm(1), "Activate");
        hand.lose("s1");
        assert!(!hand.was_sent("OpenPlug"));
        hand.give(input).unwrap();
        hand.answer(&vm(1), "OpenPlug");
        assert_eq!(hand.report().outcome, Ending::CommittedWithLoss);
    }
}

#[test]
fn a_fence_of_a_host_that_answers_means_nothing_and_its_plug_is_not_opened() {
    let mut hand = up_to("Activate");
    hand.give(Input::Fenced { host: host("s1") }).unwrap();
    assert!(hand.give(Input::GiveUpSource { vm: vm(1) }).is_err());
    assert!(!hand.was_sent("OpenPlug"));
}

#[test]
fn after_commit_a_lost_target_is_a_decision_and_the_old_copy_is_kept() {
    let mut hand = up_to("Activate");
    hand.answer(&vm(1), "Commit");
    hand.lose("t1");
    hand.wait(10 * limit());
    assert_eq!(decisions(&hand), 1);
    assert!(!hand.was_sent("Discard"), "the old copy is kept");
    resolve(&mut hand, RunOn::Nowhere);
    hand.answer(&vm(1), "Discard");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::CommittedWithLoss);
    assert!(
        report.vms[0]
            .lost
            .as_ref()
            .unwrap()
            .hint
            .contains("host fence t1")
    );
    assert_eq!(cleanings(&hand), [("t1".to_owned(), Cleaning::Destroy)]);
}

#[test]
fn what_was_given_up_and_resolved_holds_across_a_restart() {
    let mut hand = loaded();
    hand.lose("s1");
    hand.wait(limit());
    resolve(&mut hand, RunOn::Target);
    hand.restart(50);
    hand.bring_back("t1");
    hand.answer(&vm(1), "Activate");
    hand.answer(&vm(1), "OpenPlug");
    assert_eq!(hand.report().outcome, Ending::PartlyCommitted);
    assert_eq!(hand.count(&vm(1), "AbortTarget"), 0);
}

/// The coordinator starts anew, and only the target comes back.
fn restart_without_source(hand: &mut Hand, whole: bool) {
    hand.restart(50);
    let moved = hand.machine.request().batches[0][0].spec.clone();
    let state = VmState {
        spec: moved,
        role: VmRole::Target,
        epoch: transhume_model::Epoch(1),
        guest: GuestState::Paused,
        whole,
    };
    let state = HostState {
        vms: vec![state],
        ..support::answer::host_state(host("t1"))
    };
    hand.give(Input::AgentBack {
        host: host("t1"),
        state: Box::new(state),
    })
    .unwrap();
    hand.wait(limit());
}

/// Whoever saw how it was stopped is gone with its source or its coordinator.
#[test]
fn a_guest_that_was_paused_when_it_was_moved_is_not_run_by_a_later_coordinator() {
    for (guest, runs) in [(GuestState::Paused, false), (GuestState::Running, true)] {
        let mut request = request(1, 1, Mode::Live);
        request.batches[0][0].guest = guest;
        let mut hand = Hand::begin_with(request);
        hand.up_to(1, "StopAndCopy");
        hand.answer(&vm(1), "AwaitLoaded");
        restart_without_source(&mut hand, true);
        resolve(&mut hand, RunOn::Target);
        let (_, activate) = hand.order(&vm(1), "Activate");
        assert_eq!(activate.command, Command::Activate { vm: vm(1), run: runs });
    }
}

/// Nothing of the earlier life is known but the journal: what the target says decides.
#[test]
fn after_a_restart_the_target_says_whether_it_is_whole() {
    for whole in [true, false] {
        let mut hand = loaded();
        restart_without_source(&mut hand, whole);
        assert_eq!(decisions(&hand), usize::from(whole));
        assert_eq!(hand.was_sent("AbortTarget"), !whole);
    }
}

#[test]
fn a_decision_is_told_once_a_loss_and_a_bystander_is_nobodys_business() {
    let mut hand = Hand::begin_with(request(2, 1, Mode::Live));
    hand.up_to(1, "StopAndCopy");
    hand.answer(&vm(1), "AwaitLoaded");
    let wanted = |hand: &Hand| {
        let is = |what: &&Happening| matches!(what, Happening::DecisionWanted { .. });
        hand.last.events.iter().filter(is).count()
    };
    hand.lose("s1");
    hand.pass(limit());
    hand.give(Input::Timer(transhume_protocol::migration::TimerId::HostLost {
        host: host("s1"),
    }))
    .unwrap();
    assert_eq!(wanted(&hand), 1);
    hand.pass(Millis(60_000).0);
    hand.give(Input::Timer(transhume_protocol::migration::TimerId::HostLost {
        host: host("s1"),
    }))
    .unwrap();
    assert_eq!(wanted(&hand), 0);
}

/// A VM that an operator kept on its target, whose target is lost then: there is a way out of that,
/// too, and the old copy is ended when its host is back.
#[test]
fn a_kept_copy_that_is_lost_as_well_is_another_decision() {
    let mut hand = loaded();
    hand.lose("s1");
    hand.wait(limit());
    resolve(&mut hand, RunOn::Target);
    hand.lose("t1");
    hand.wait(limit());
    assert!(!hand.done);
    assert_eq!(decisions(&hand), 1, "{:?}", hand.report().waiting);
    resolve(&mut hand, RunOn::Nowhere);
    assert!(hand.done);
    assert!(hand.report().vms[0].lost.is_some());
    let mut left = cleanings(&hand);
    left.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        left,
        [
            ("s1".to_owned(), Cleaning::DiscardSource),
            ("t1".to_owned(), Cleaning::Destroy)
        ]
    );
}

/// Committed, and its target's link broke before the order to run it could leave.
fn committed_unsaid() -> Hand {
    let mut hand = Hand::begin_with(MoveRequest {
        limits: Limits {
            agent_lost_ms_max: Millis(5_000),
            ..Limits::default()
        },
        ..request(1, 1, Mode::Live)
    });
    hand.up_to(1, "StopAndCopy");
    hand.answer(&vm(1), "AwaitLoaded");
    hand.lose("t1");
    hand.answer(&vm(1), "StopAndCopy");
    assert!(hand.is_committed(1) && !hand.was_sent("Activate"));
    hand
}

fn ran(hand: &Hand) -> Ran {
    let nowhere = hand.machine.check_resolution(&vm(1), RunOn::Nowhere, false);
    nowhere.expect("it can always be given up").ran
}

/// What the report says of a VM that went back.
fn back(hand: &Hand) -> Option<bool> {
    let line = &hand.report().vms[0];
    line.reclaimed.as_ref().map(|back| back.may_have_run)
}

#[test]
fn a_vm_that_was_never_told_to_run_goes_back_to_its_source_by_a_decision_alone() {
    let mut hand = committed_unsaid();
    hand.answer(&vm(1), "Commit");
    hand.wait(10 * limit());
    assert_eq!((lost_parts(&hand), ran(&hand)), (vec![Lost::Host], Ran::Never));
    assert!(!hand.was_sent("Reclaim") && !hand.was_sent("Discard"));
    resolve(&mut hand, RunOn::Source);
    assert_eq!(cleanings(&hand), [("t1".to_owned(), Cleaning::Destroy)]);
    assert!(!hand.done, "it does not run yet");
    hand.answer(&vm(1), "Reclaim");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::RolledBack);
    assert_eq!((report.vms[0].host.as_str(), back(&hand)), ("s1", Some(false)));
    assert_eq!(report.frames.lost, 0);
    assert!(report.vms[0].lost.is_none() && report.vms[0].frames.is_some());
    let trouble = report.trouble.expect("why it is where it was");
    assert!(trouble.reason.contains("provably never ran"), "{trouble:?}");
    assert!(!hand.was_sent("Discard"), "nothing ends the copy that runs");
}

#[test]
fn a_vm_that_may_have_run_goes_back_only_where_somebody_says_so() {
    let mut hand = up_to("Activate");
    hand.answer(&vm(1), "Commit");
    hand.lose("t1");
    hand.wait(limit());
    assert_eq!(ran(&hand), Ran::Maybe);
    let refused = hand.machine.check_resolution(&vm(1), RunOn::Source, false);
    assert!(matches!(refused, Err(Cannot::MayHaveRun { .. })), "{refused:?}");
    assert!(resolve_with(&mut hand, RunOn::Source, false).is_err());
    resolve_with(&mut hand, RunOn::Source, true).unwrap();
    hand.answer(&vm(1), "Reclaim");
    let report = hand.report();
    assert_eq!((report.outcome, back(&hand)), (Ending::RolledBack, Some(true)));
    assert_eq!(report.vms[0].frames, None, "no zero stands for an unknown number");
    assert!(report.trouble.unwrap().reason.contains("may have run"));
}

/// Whoever took the move up from the journal does not know whether the order had left.
#[test]
fn after_a_restart_of_the_coordinator_nobody_can_prove_that_it_never_ran() {
    let mut hand = committed_unsaid();
    hand.restart(50);
    hand.bring_back("s1");
    hand.wait(limit());
    assert_eq!(ran(&hand), Ran::Maybe);
}

#[test]
fn a_decision_to_go_back_holds_across_a_restart_and_is_asked_for_until_it_is_done() {
    for although in [false, true] {
        let mut hand = if although {
            up_to("Activate")
        } else {
            committed_unsaid()
        };
        hand.lose("t1");
        hand.wait(limit());
        resolve_with(&mut hand, RunOn::Source, although).unwrap();
        hand.restart(50);
        assert!(!hand.was_sent("Reclaim"), "its source is not there yet");
        hand.bring_back("s1");
        assert_eq!(hand.orders_of(&vm(1)), ["Reclaim"]);
        hand.answer_with(&vm(1), "Reclaim", support::answer::fault(FaultKind::Qemu))
            .unwrap();
        hand.wait(Limits::default().retry_ms.0 + 1);
        assert_eq!(hand.count(&vm(1), "Reclaim"), 2);
        hand.answer(&vm(1), "Reclaim");
        assert_eq!(
            (hand.report().outcome, back(&hand)),
            (Ending::RolledBack, Some(although))
        );
    }
}

/// A target that lost power and is back, or whose QEMU died between commit and run: its record is
/// the proof.
#[test]
fn a_target_that_lost_it_before_it_ran_leaves_the_choice() {
    for (kind, expected) in [(FaultKind::NeverRan, Ran::Never), (FaultKind::Qemu, Ran::Maybe)] {
        let lost = || Outcome::Lost(Fault::new(kind, "its QEMU is gone"));
        let mut hand = up_to("Activate");
        hand.answer(&vm(1), "Commit");
        hand.answer_with(&vm(1), "Activate", lost()).unwrap();
        assert_eq!((lost_parts(&hand), ran(&hand)), (vec![Lost::Vm], expected));
        assert!(!hand.was_sent("Discard"), "its source has the only copy");
        let check = hand
            .machine
            .check_resolution(&vm(1), RunOn::Source, true)
            .unwrap();
        assert_eq!(check.off, None, "its agent says that nothing runs there");
        let although = expected == Ran::Maybe;
        assert_eq!(resolve_with(&mut hand, RunOn::Source, false).is_err(), although);
        if although {
            resolve_with(&mut hand, RunOn::Source, true).unwrap();
        }
        hand.answer(&vm(1), "Reclaim");
        assert_eq!(
            (hand.report().outcome, back(&hand)),
            (Ending::RolledBack, Some(although))
        );
        assert_eq!(cleanings(&hand), [("t1".to_owned(), Cleaning::Destroy)]);
    }
}

#[test]
fn a_vm_that_was_lost_on_its_target_and_is_given_up_ends_as_lost() {
    let mut hand = up_to("Activate");
    hand.answer(&vm(1), "Commit");
    let lost = Outcome::Lost(Fault::new(FaultKind::NeverRan, "its QEMU is gone"));
    hand.answer_with(&vm(1), "Activate", lost).unwrap();
    hand.restart(50);
    hand.bring_back("s1");
    hand.bring_back("t1");
    assert_eq!(
        (decisions(&hand), ran(&hand)),
        (1, Ran::Never),
        "the journal has the proof"
    );
    hand.answer(&vm(1), "Commit");
    resolve(&mut hand, RunOn::Nowhere);
    hand.answer(&vm(1), "Discard");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::CommittedWithLoss);
    assert!(report.vms[0].lost.is_some());
}

#[test]
fn a_vm_that_was_seen_to_run_is_nobodys_choice_any_more() {
    let mut hand = up_to("Activate");
    hand.answer(&vm(1), "Activate");
    hand.answer(&vm(1), "Commit");
    hand.answer(&vm(1), "CloseSourceBuffer");
    let lost = Outcome::Lost(Fault::new(FaultKind::Qemu, "its QEMU is gone"));
    hand.answer_with(&vm(1), "CloseTargetBuffer", lost).unwrap();
    assert_eq!(decisions(&hand), 0);
    assert!(hand.was_sent("Discard"));
}

/// Both copies: the last one went with its source before it said that it runs.
#[test]
fn a_source_that_is_lost_on_the_way_back_is_given_up_too() {
    let mut hand = committed_unsaid();
    hand.wait(limit());
    resolve(&mut hand, RunOn::Source);
    hand.lose("s1");
    hand.wait(limit());
    assert!(hand.done);
    let report = hand.report();
    assert!(report.vms[0].lost.is_some(), "{report:?}");
    let left = [
        ("t1".to_owned(), Cleaning::Destroy),
        ("s1".to_owned(), Cleaning::Reclaim),
    ];
    assert_eq!(cleanings(&hand), left);
}

#[test]
fn a_copy_that_died_meanwhile_on_the_source_is_lost_and_told() {
    let mut hand = committed_unsaid();
    hand.wait(limit());
    resolve(&mut hand, RunOn::Source);
    let lost = Outcome::Lost(Fault::new(FaultKind::Qemu, "its QEMU is gone as well"));
    hand.answer_with(&vm(1), "Reclaim", lost).unwrap();
    assert!(hand.done && hand.report().vms[0].lost.is_some());
}

/// What the source still answers to orders of before the decision is old news.
#[test]
fn an_account_that_comes_late_does_not_disturb_the_way_back() {
    let mut hand = up_to("CloseSourceBuffer");
    hand.lose("t1");
    hand.wait(limit());
    let (_, close) = hand.order(&vm(1), "CloseSourceBuffer");
    resolve_with(&mut hand, RunOn::Source, true).unwrap();
    let report = transhume_protocol::message::Report {
        order: Some(close.id),
        epoch: close.epoch,
        vm: Some(vm(1)),
        at: hand.now.wall,
        outcome: Outcome::SourceClosed(SourceFrames::default()),
    };
    hand.give(Input::Report {
        host: host("s1"),
        report,
    })
    .unwrap();
    assert!(!hand.done && !hand.was_sent("Discard"));
    hand.answer(&vm(1), "Reclaim");
    assert!(hand.done);
}

/// A second decision has nothing to decide on.
#[test]
fn nothing_is_decided_twice() {
    for run_on in [RunOn::Source, RunOn::Nowhere] {
        let mut hand = committed_unsaid();
        hand.wait(limit());
        resolve(&mut hand, run_on);
        for again in [RunOn::Source, RunOn::Target, RunOn::Nowhere] {
            assert!(
                resolve_with(&mut hand, again, true).is_err(),
                "{run_on:?}, then {again:?}"
            );
        }
    }
}

/// The hosts of what is to come may be those that were lost.
#[test]
fn no_further_batch_begins_behind_a_vm_that_went_back() {
    let mut hand = Hand::begin(2, 1);
    hand.up_to(1, "Activate");
    hand.answer(&vm(1), "Commit");
    let lost = Outcome::Lost(Fault::new(FaultKind::NeverRan, "its QEMU is gone"));
    hand.answer_with(&vm(1), "Activate", lost).unwrap();
    resolve(&mut hand, RunOn::Source);
    hand.answer(&vm(1), "Reclaim");
    assert!(hand.done);
    assert_eq!(hand.report().outcome, Ending::RolledBack);
}

#[test]
fn a_batch_whose_host_is_gone_already_does_not_begin_to_wait_for_it() {
    let mut hand = Hand::begin(2, 1);
    hand.up_to(1, "CloseSourceBuffer");
    hand.lose("s2");
    hand.wait(limit());
    for command in ["CloseSourceBuffer", "CloseTargetBuffer", "Discard"] {
        hand.answer(&vm(1), command);
    }
    assert!(hand.done, "the second batch has nobody to move");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::PartlyCommitted);
    assert_eq!(report.trouble.unwrap().host, Some(host("s2")));
    assert_eq!(hand.count(&vm(2), "Reserve"), 0);
}

/// A source that was started anew: what it had captured went with its memory.
#[test]
fn a_source_that_answers_and_has_lost_its_spool_is_not_waited_for() {
    let mut hand = up_to("CloseSourceBuffer");
    let lost = Outcome::Failed(Fault::new(FaultKind::SpoolLost, "host s1 was started anew"));
    hand.answer_with(&vm(1), "CloseSourceBuffer", lost).unwrap();
    hand.answer(&vm(1), "OpenPlug");
    let report = hand.report();
    assert_eq!(report.outcome, Ending::CommittedWithLoss);
    assert_eq!(report.vms[0].source_lost.as_ref().unwrap().frames_lost, None);
    assert_eq!(cleanings(&hand), [("s1".to_owned(), Cleaning::DiscardSource)]);
}
