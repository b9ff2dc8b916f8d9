//! The way back after commit: by a `Reclaim` order alone, recorded before anything runs, and never
//! twice.

mod rig;

use rig::{KEPT, Rig, process, vm};
use transhume_agent_core::{Found, Input, Place, Product, RunState};
use transhume_protocol::message::{Command, FaultKind, GuestState, Mode, Outcome, RefusalKind, VmRole};

fn reclaim() -> Command {
    Command::Reclaim { vm: vm() }
}

/// Committed and surrendered.
fn left() -> Rig {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    rig.capture();
    rig.ok(Command::Commit { vm: vm() });
    rig.acts.clear();
    rig
}

fn ran(rig: &Rig) -> usize {
    rig.acts.iter().filter(|act| **act == "cont").count()
}

#[test]
fn a_surrendered_vm_runs_again_with_its_frames_put_back() {
    let mut rig = left();
    let outcome = rig.ok(reclaim());
    assert!(matches!(outcome, Outcome::SourceRestored(frames) if frames.put_back == KEPT));
    let expected = [
        "reclaim",
        "shut-for-abort",
        "cancel-migration",
        "cont",
        "put-back",
    ];
    assert_eq!(rig.acts, expected);
    assert_eq!(rig.role(), Some(VmRole::Home));
    assert_eq!(rig.machine.vm_state().unwrap().guest, GuestState::Running);
    // Given again, also to a later agent, it is answered and nothing is done.
    rig.ok(reclaim());
    rig.restart(Found::Alive(process()));
    rig.ok(reclaim());
    assert_eq!(ran(&rig), 1);
}

/// A later agent must not take it for surrendered: what runs must never be ended as a copy.
#[test]
fn it_is_recorded_as_no_longer_surrendered_before_it_may_run() {
    let mut rig = left();
    rig.hanging = vec!["reclaim"];
    rig.send(reclaim());
    let record = rig.disk.as_ref().expect("it is recorded");
    assert!(
        matches!(record.place, Place::Source { restoring: true, .. }),
        "{record:?}"
    );
    assert_eq!(rig.acts, ["reclaim"]);
    rig.hanging.clear();
    rig.run = RunState::PostMigrate;
    rig.restart(Found::Alive(process()));
    assert_eq!(rig.role(), Some(VmRole::Source));
    rig.ok(reclaim());
    assert_eq!((rig.role(), ran(&rig)), (Some(VmRole::Home), 1));
}

/// Its buffers were closed, so nothing is put back; all the same it was stopped by us.
#[test]
fn it_runs_again_where_its_agent_dies_between_closing_and_going_on() {
    let mut rig = left();
    rig.ok(Command::CloseSourceBuffer { vm: vm() });
    rig.acts.clear();
    rig.hanging = vec!["reclaim"];
    rig.send(reclaim());
    rig.hanging.clear();
    rig.run = RunState::PostMigrate;
    rig.restart(Found::Alive(process()));
    rig.ok(reclaim());
    assert_eq!((rig.role(), ran(&rig)), (Some(VmRole::Home), 1), "{:?}", rig.acts);
    assert_eq!(rig.machine.vm_state().unwrap().guest, GuestState::Running);
}

#[test]
fn where_the_record_cannot_be_written_it_stays_surrendered() {
    let mut rig = left();
    rig.disk_full = true;
    let failed = rig.order(reclaim());
    assert!(matches!(failed, Some(Outcome::Failed(_))), "{failed:?}");
    assert_eq!((rig.role(), rig.acts.len()), (Some(VmRole::Left), 0));
    rig.disk_full = false;
    rig.ok(reclaim());
    assert_eq!(rig.role(), Some(VmRole::Home));
}

#[test]
fn each_step_that_fails_is_taken_again() {
    for act in [
        "reclaim",
        "shut-for-abort",
        "cancel-migration",
        "cont",
        "put-back",
    ] {
        let mut rig = left();
        rig.fail(act);
        assert!(matches!(rig.order(reclaim()), Some(Outcome::Failed(_))), "{act}");
        assert_eq!(rig.role(), Some(VmRole::Source), "{act}");
        rig.ok(reclaim());
        assert_eq!(rig.role(), Some(VmRole::Home), "{act}");
    }
}

/// Copies of orders from before the decision come late.
#[test]
fn nothing_surrenders_or_ends_it_again() {
    let mut rig = left();
    rig.ok(reclaim());
    for late in [
        Command::Commit { vm: vm() },
        Command::Discard { vm: vm() },
        Rig::pre_copy(Mode::Live),
    ] {
        let outcome = rig.order(late.clone());
        assert!(
            matches!(outcome, Some(Outcome::Refused(_))),
            "{late:?}: {outcome:?}"
        );
    }
    assert_eq!(rig.role(), Some(VmRole::Home));
}

#[test]
fn an_older_order_is_refused() {
    let mut rig = left();
    rig.epoch = transhume_model::Epoch(0);
    let outcome = rig.order(reclaim());
    let stale =
        matches!(&outcome, Some(Outcome::Refused(refusal)) if refusal.kind == RefusalKind::StaleEpoch);
    assert!(stale, "{outcome:?}");
    assert_eq!(rig.role(), Some(VmRole::Left));
}

#[test]
fn one_that_was_not_told_of_the_commit_goes_back_too() {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    rig.capture();
    rig.ok(reclaim());
    assert_eq!(rig.role(), Some(VmRole::Home));
    assert_eq!(rig.machine.vm_state().unwrap().guest, GuestState::Running);
}

#[test]
fn a_guest_that_its_user_paused_stays_paused_across_both_ways() {
    let mut rig = Rig::new();
    rig.boot();
    rig.run = RunState::Paused;
    rig.give(Input::RunState(RunState::Paused));
    rig.leave(Mode::Offline);
    rig.capture();
    rig.ok(Command::Commit { vm: vm() });
    rig.run = RunState::PostMigrate;
    rig.restart(Found::Alive(process()));
    assert_eq!(rig.role(), Some(VmRole::Left));
    rig.ok(reclaim());
    assert_eq!(ran(&rig), 0);
    assert_eq!(rig.machine.vm_state().unwrap().guest, GuestState::Paused);
}

/// Its closing waits for a target that is gone.
#[test]
fn a_closing_that_is_under_way_is_given_up_first() {
    let mut rig = left();
    rig.hanging = vec!["finish-source-buffer"];
    rig.send(Command::CloseSourceBuffer { vm: vm() });
    let id = rig.send(reclaim());
    assert_eq!(rig.answer_to(id), None);
    let closing = rig.unhang();
    assert!(
        rig.signals
            .contains(&transhume_agent_core::Signal::Interrupt(closing.ticket))
    );
    rig.done(closing, Err(rig::trouble()));
    assert!(matches!(rig.answer_to(id), Some(Outcome::SourceRestored(_))));
}

/// Its target had all and said so before it was lost: there is nothing to put back.
#[test]
fn closed_buffers_are_not_opened_again() {
    let mut rig = left();
    rig.ok(Command::CloseSourceBuffer { vm: vm() });
    rig.acts.clear();
    let outcome = rig.ok(reclaim());
    assert!(
        matches!(outcome, Outcome::SourceRestored(frames) if (frames.captured, frames.put_back) == (KEPT, 0)),
        "{outcome:?}"
    );
    assert_eq!(rig.acts, ["reclaim", "cancel-migration", "cont"]);
}

#[test]
fn one_whose_qemu_is_gone_is_lost_and_said_to_be() {
    let died = |rig: &mut Rig| {
        rig.give(Input::Died {
            why: "signal 9".to_owned(),
        })
    };
    let restarted = |rig: &mut Rig| rig.restart(Found::Gone);
    let ways: [&dyn Fn(&mut Rig); 2] = [&died, &restarted];
    for way in ways {
        let mut rig = left();
        way(&mut rig);
        rig.acts.clear();
        let outcome = rig.ok(reclaim());
        assert!(
            matches!(&outcome, Outcome::Lost(fault) if fault.kind == FaultKind::Qemu),
            "{outcome:?}"
        );
        assert_eq!(
            (rig.role(), rig.acts.as_slice()),
            (Some(VmRole::Off), ["end"].as_slice())
        );
    }
    // Nobody saw it go.
    let mut rig = left();
    rig.hanging = vec!["reclaim"];
    let id = rig.send(reclaim());
    let reclaiming = rig.unhang();
    rig.done(reclaiming, Ok(Product::Gone));
    assert!(matches!(rig.answer_to(id), Some(Outcome::Lost(_))));
}

#[test]
fn a_place_without_a_guest_is_taken_back() {
    let mut rig = Rig::new();
    rig.boot();
    rig.ok(Command::StopVm {
        vm: vm(),
        force: true,
    });
    rig.ok(Command::Commit { vm: vm() });
    assert_eq!(rig.role(), Some(VmRole::Left));
    rig.ok(reclaim());
    assert_eq!(rig.role(), Some(VmRole::Off));
}

/// What a target's record proves: `Arrived` is written before it is told to run.
#[test]
fn a_target_that_lost_its_vm_says_whether_it_ever_ran() {
    let kind = |outcome: Outcome| match outcome {
        Outcome::Lost(fault) => fault.kind,
        other => panic!("{other:?}"),
    };
    let activate = || Command::Activate { vm: vm(), run: true };
    let mut target = Rig::new();
    target.load();
    target.restart(Found::Gone);
    assert_eq!(kind(target.ok(activate())), FaultKind::NeverRan);
    // Asked again, also by a later coordinator and of a later agent.
    target.restart(Found::Gone);
    assert_eq!(kind(target.ok(activate())), FaultKind::NeverRan);

    let mut told = Rig::new();
    told.load();
    told.hanging = vec!["run-arrived"];
    told.send(activate());
    told.hanging.clear();
    told.restart(Found::Gone);
    assert_eq!(kind(told.ok(activate())), FaultKind::Qemu);
}
