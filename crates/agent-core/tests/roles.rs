//! The ways of a VM through its roles, and what guests do meanwhile.

mod rig;

use rig::{KEPT, Rig, address, process, vm};
use transhume_agent_core::{Act, AdoptBuffers, CopyStatus, Found, Input, RunState, Timer};
use transhume_model::Millis;
use transhume_protocol::message::{Command, GuestState, Mode, Outcome, RefusalKind, VmRole};

fn activate(run: bool) -> Command {
    Command::Activate { vm: vm(), run }
}

#[test]
fn a_vm_boots_stopped_is_recorded_then_runs() {
    let mut rig = Rig::new();
    rig.hanging = vec!["spawn", "cont"];
    let id = rig.send(Command::StartVm { spec: rig::spec() });
    assert!(
        rig.disk.as_ref().unwrap().process().is_none(),
        "recorded before the spawn"
    );
    let spawn = rig.unhang();
    rig.answer(spawn);
    assert_eq!(rig.disk.as_ref().unwrap().process(), Some(&process()));
    assert_eq!(rig.acts, ["admit", "spawn", "cont"]);
    let cont = rig.unhang();
    rig.answer(cont);
    assert!(matches!(rig.answer_to(id), Some(Outcome::Started { .. })));
    assert_eq!(rig.machine.vm_state().unwrap().guest, GuestState::Running);
}

#[test]
fn a_source_goes_through_the_ten_steps() {
    let mut rig = Rig::new();
    rig.boot();
    let pre_copy = rig.leave(Mode::Live);
    assert_eq!(rig.answer_to(pre_copy), Some(Outcome::PreCopying));
    rig.fire(Timer::Look, Millis(100));
    assert!(matches!(rig.answer_to(pre_copy), Some(Outcome::Converged(_))));
    rig.capture();
    rig.ok(Command::Commit { vm: vm() });
    assert_eq!(rig.role(), Some(VmRole::Left));
    let closed = rig.ok(Command::CloseSourceBuffer { vm: vm() });
    assert!(matches!(closed, Outcome::SourceClosed(frames) if frames.captured == KEPT));
    rig.ok(Command::Discard { vm: vm() });
    assert!(rig.machine.is_gone() && rig.disk.is_none());
    let expected = [
        "open-page-stream",
        "start-migration",
        "open-source-buffer",
        "probe-guest",
        "connect-source-buffer",
        "look",
        "catch-up",
        "shut-source-buffer",
        "stop",
        "capture",
        "finish-copy",
        "surrender",
        "finish-source-buffer",
        "end",
    ];
    assert_eq!(rig.acts, expected);
}

#[test]
fn a_target_goes_through_the_ten_steps() {
    let mut rig = Rig::new();
    rig.load();
    assert!(matches!(rig.ok(activate(true)), Outcome::Activated(_)));
    assert_eq!(rig.role(), Some(VmRole::Arrived));
    let closed = rig.ok(Command::CloseTargetBuffer { vm: vm() });
    assert!(matches!(closed, Outcome::TargetClosed(frames) if frames.delivered == KEPT));
    assert_eq!(rig.role(), Some(VmRole::Home));
    // Given again after all is over, also to a later agent.
    assert!(matches!(rig.ok(activate(true)), Outcome::Activated(_)));
    rig.restart(Found::Alive(process()));
    assert!(matches!(rig.ok(activate(true)), Outcome::Activated(_)));
    assert!(matches!(
        rig.ok(Command::CloseTargetBuffer { vm: vm() }),
        Outcome::TargetClosed(_)
    ));
    let run = rig.acts.iter().filter(|act| **act == "run-arrived").count();
    assert_eq!(run, 1, "run once");
}

#[test]
fn other_orders_are_answered_while_the_buffers_close() {
    let mut rig = Rig::new();
    rig.load();
    rig.ok(activate(true));
    rig.hanging = vec!["finish-target-buffer"];
    let closing = rig.send(Command::CloseTargetBuffer { vm: vm() });
    assert!(matches!(rig.ok(activate(true)), Outcome::Activated(_)));
    rig.ok(Command::OpenTargetBuffer { vm: vm() });
    let again = rig.send(Command::CloseTargetBuffer { vm: vm() });
    assert_eq!(rig.hung.len(), 1, "closed once");
    let finish = rig.unhang();
    rig.answer(finish);
    assert_eq!(rig.answer_to(closing), None);
    assert!(matches!(rig.answer_to(again), Some(Outcome::TargetClosed(_))));
}

#[test]
fn a_paused_guest_moves_and_stays_paused() {
    let mut rig = Rig::new();
    rig.boot();
    rig.run = RunState::Paused;
    rig.give(Input::RunState(RunState::Paused));
    let pre_copy = rig.leave(Mode::Live);
    // QEMU waits for no agreement where nothing runs.
    (rig.status, rig.run) = (CopyStatus::PreSwitchover, RunState::FinishMigrate);
    rig.fire(Timer::Look, Millis(100));
    assert!(matches!(rig.answer_to(pre_copy), Some(Outcome::Converged(_))));
    let captured = rig.ok(Command::Capture { vm: vm() });
    assert!(matches!(
        captured,
        Outcome::Captured {
            guest: GuestState::Paused,
            ..
        }
    ));
    rig.ok(Command::StopAndCopy { vm: vm() });
    rig.ok(Command::AbortSource { vm: vm() });
    assert_eq!(rig.machine.vm_state().unwrap().guest, GuestState::Paused);
    for act in ["stop", "cont", "probe-guest", "catch-up"] {
        assert!(
            !rig.acts.contains(&act),
            "{act} of a paused guest: {:?}",
            rig.acts
        );
    }
    let mut target = Rig::new();
    target.load();
    target.ok(activate(false));
    assert!(!target.acts.contains(&"run-arrived"));
    assert!(
        target.acts.contains(&"activate-buffer"),
        "its frames are there when it runs"
    );
}

/// QEMU loads a guest in the state in which its source was stopped, and says so of itself only when
/// it is asked.
#[test]
fn a_guest_that_had_fallen_is_told_as_what_it_is_where_it_came_to() {
    for (run, guest) in [
        (RunState::DiskError, GuestState::DiskError),
        (RunState::Panicked, GuestState::Panicked),
        (RunState::Paused, GuestState::Paused),
    ] {
        let mut target = Rig::new();
        target.run = run;
        target.load();
        target.ok(activate(false));
        assert_eq!(target.machine.vm_state().unwrap().guest, guest);
        target.ok(Command::CloseTargetBuffer { vm: vm() });
        assert_eq!(target.machine.vm_state().unwrap().guest, guest, "at home");
        assert!(!target.acts.contains(&"run-arrived"));
    }
}

#[test]
fn what_its_user_does_in_between_is_kept() {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    rig.give(Input::RunState(RunState::Paused));
    rig.give(Input::RunState(RunState::Running));
    rig.run = RunState::DiskError;
    rig.give(Input::RunState(rig.run));
    rig.ok(Command::AbortSource { vm: vm() });
    assert_eq!(rig.machine.vm_state().unwrap().guest, GuestState::DiskError);
    assert!(!rig.acts.contains(&"cont"));
}

#[test]
fn a_guest_that_takes_no_frames_is_known_before_anybody_is_stopped() {
    let mut rig = Rig::new();
    rig.boot();
    rig.takes = false;
    let pre_copy = rig.leave(Mode::Live);
    rig.fire(Timer::Look, Millis(100));
    assert!(
        matches!(rig.answer_to(pre_copy), Some(Outcome::Progress(_))),
        "not known yet"
    );
    for _ in 0..20 {
        rig.fire(Timer::Probe, Millis(100));
    }
    assert!(matches!(rig.answer_to(pre_copy), Some(Outcome::Converged(_))));
    // A question under way would be waited for by the capture, and by the whole batch.
    let asked = |rig: &Rig| rig.acts.iter().filter(|act| **act == "probe-guest").count();
    let before = asked(&rig);
    rig.fire(Timer::Probe, Millis(200));
    assert_eq!(asked(&rig), before);
    rig.hanging = vec!["shut-source-buffer"];
    rig.send(Command::Capture { vm: vm() });
    let shut = rig.unhang();
    assert_eq!(
        shut.act,
        transhume_agent_core::Act::ShutSourceBuffer { as_is: true }
    );
}

/// One that panics goes on taking frames until its ring is full; its memory is copied long before
/// that of the busy ones.
#[test]
fn a_guest_that_turns_deaf_while_the_others_are_copied_is_not_waited_for() {
    let mut rig = Rig::new();
    rig.boot();
    let pre_copy = rig.leave(Mode::Live);
    rig.fire(Timer::Look, Millis(100));
    assert!(matches!(rig.answer_to(pre_copy), Some(Outcome::Converged(_))));
    rig.takes = false;
    for _ in 0..11 {
        rig.fire(Timer::Probe, Millis(100));
    }
    rig.hanging = vec!["shut-source-buffer"];
    rig.send(Command::Capture { vm: vm() });
    let shut = rig.unhang();
    assert_eq!(
        shut.act,
        transhume_agent_core::Act::ShutSourceBuffer { as_is: true }
    );
}

#[test]
fn a_starved_guest_that_takes_frames_again_is_healthy() {
    let mut rig = Rig::new();
    rig.boot();
    rig.takes = false;
    let pre_copy = rig.leave(Mode::Live);
    rig.fire(Timer::Probe, Millis(1_900));
    rig.takes = true;
    rig.fire(Timer::Probe, Millis(50));
    rig.fire(Timer::Look, Millis(50));
    assert!(matches!(rig.answer_to(pre_copy), Some(Outcome::Converged(_))));
    rig.hanging = vec!["shut-source-buffer"];
    rig.send(Command::Capture { vm: vm() });
    let shut = rig.unhang();
    assert_eq!(
        shut.act,
        transhume_agent_core::Act::ShutSourceBuffer { as_is: false }
    );
}

#[test]
fn qemu_that_stops_a_running_guest_by_itself_is_a_fault() {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    (rig.status, rig.run) = (CopyStatus::PreSwitchover, RunState::FinishMigrate);
    rig.fire(Timer::Look, Millis(100));
    let last = rig.reports.last().unwrap();
    assert!(
        last.order.is_none() && matches!(last.outcome, Outcome::Failed(_)),
        "{last:?}"
    );
    // QEMU itself puts back the state that it was in: we did not stop it.
    rig.ok(Command::AbortSource { vm: vm() });
    assert!(!rig.acts.contains(&"cont"));
}

#[test]
fn a_vm_that_is_off_keeps_its_place_and_can_be_started_again() {
    let mut rig = Rig::new();
    rig.boot();
    rig.give(Input::PoweredOff);
    assert_eq!(rig.role(), Some(VmRole::Off));
    rig.restart(Found::Gone);
    assert_eq!(rig.role(), Some(VmRole::Off));
    assert!(matches!(
        rig.order(Rig::pre_copy(Mode::Live)),
        Some(Outcome::Refused(refusal)) if refusal.kind == RefusalKind::PoweredOff
    ));
    rig.fail("spawn");
    assert!(matches!(
        rig.order(Command::StartVm { spec: rig::spec() }),
        Some(Outcome::Failed(_))
    ));
    assert_eq!(rig.role(), Some(VmRole::Off), "as it was");
    rig.boot();
    assert_eq!(rig.role(), Some(VmRole::Home));
}

#[test]
fn the_place_of_a_vm_that_is_off_moves() {
    let mut source = Rig::new();
    source.boot();
    source.ok(Command::StopVm {
        vm: vm(),
        force: true,
    });
    source.acts.clear();
    source.ok(Command::Commit { vm: vm() });
    source.ok(Command::Discard { vm: vm() });
    assert!(source.machine.is_gone());
    let mut target = Rig::new();
    target.reserve(true);
    assert!(matches!(target.ok(activate(false)), Outcome::Activated(_)));
    assert_eq!(target.role(), Some(VmRole::Off));
    assert_eq!(target.acts, ["admit"]);
    target.restart(Found::Gone);
    assert!(matches!(target.ok(activate(false)), Outcome::Activated(_)));
}

#[test]
fn a_guest_is_asked_to_power_off_and_has_its_time() {
    let mut rig = Rig::new();
    rig.boot();
    let stop = Command::StopVm {
        vm: vm(),
        force: false,
    };
    let id = rig.send(stop.clone());
    assert_eq!(rig.answer_to(id), None);
    assert!(matches!(
        rig.order(Rig::pre_copy(Mode::Live)),
        Some(Outcome::Refused(_))
    ));
    // One that still boots hears nothing of the first press.
    for press in 1..=6 {
        assert_eq!(rig.acts, vec!["power-down"; press], "press {press}");
        assert_eq!(rig.answer_to(id), None);
        rig.fire(Timer::PowerDown, Millis(10_000));
    }
    assert!(matches!(rig.answer_to(id), Some(Outcome::Failed(_))));
    let id = rig.send(stop);
    rig.fire(Timer::PowerDown, Millis(10_000));
    rig.give(Input::RunState(RunState::Shutdown));
    assert_eq!(rig.answer_to(id), Some(Outcome::Stopped));
}

#[test]
fn a_guest_that_powers_off_in_its_move_is_off_at_home() {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    rig.give(Input::PoweredOff);
    assert!(matches!(rig.reports.last().unwrap().outcome, Outcome::Failed(_)));
    assert!(matches!(
        rig.order(Command::Capture { vm: vm() }),
        Some(Outcome::Failed(_))
    ));
    rig.ok(Command::AbortSource { vm: vm() });
    assert_eq!(rig.role(), Some(VmRole::Off));
}

#[test]
fn a_target_that_died_before_it_ran_is_lost_and_its_place_is_off() {
    let mut rig = Rig::new();
    rig.load();
    rig.give(Input::Died {
        why: "killed".to_owned(),
    });
    assert!(matches!(rig.ok(activate(true)), Outcome::Lost(_)));
    assert_eq!(rig.role(), Some(VmRole::Off));
    assert!(matches!(rig.ok(activate(true)), Outcome::Lost(_)), "said again");
    rig.restart(Found::Gone);
    assert!(matches!(
        rig.order(Command::CloseTargetBuffer { vm: vm() }),
        Some(Outcome::Lost(_))
    ));
    rig.boot();
}

#[test]
fn a_vm_that_dies_while_its_buffers_close_is_off_and_accounted_for() {
    let mut rig = Rig::new();
    rig.load();
    rig.ok(activate(true));
    rig.give(Input::PoweredOff);
    assert_eq!(rig.role(), Some(VmRole::Arrived));
    rig.ok(Command::CloseTargetBuffer { vm: vm() });
    assert_eq!(rig.role(), Some(VmRole::Off));
}

#[test]
fn tunnels_of_a_restarted_target_are_the_same() {
    let mut rig = Rig::new();
    rig.load();
    rig.ok(activate(true));
    rig.restart(Found::Alive(process()));
    assert_eq!(
        rig.ok(Command::OpenTargetBuffer { vm: vm() }),
        Outcome::TargetBufferOpen {
            tunnels: vec![address()]
        }
    );
}

/// Found by storms: killed between `Committed` and its record `arrived`, an agent came back without
/// the frames that lay in its spool, and could never close a buffer that it had not.
#[test]
fn a_restarted_target_takes_up_what_its_source_has_sent() {
    let mut rig = Rig::new();
    rig.load();
    rig.hanging = vec!["adopt"];
    rig.restart(Found::Alive(process()));
    let Act::Adopt {
        buffers, incoming, ..
    } = rig.unhang().act
    else {
        panic!("it is adopted first")
    };
    let tunnels = vec![address()];
    let activated = false;
    assert_eq!(buffers, AdoptBuffers::Deliver { tunnels, activated });
    assert!(incoming);
}
