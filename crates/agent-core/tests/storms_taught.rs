//! What the simulation's storms found, each at the machine itself.

mod rig;

use rig::{Rig, address, process, vm};
use transhume_agent_core::{
    Act, AdoptBuffers, CopyStatus, Flow, Found, Input, Looked, Place, Product, RunState, Timer,
};
use transhume_model::{Epoch, Millis};
use transhume_protocol::message::{Command, GuestState, Mode, Outcome, PageProgress, VmRole};

fn activate() -> Command {
    Command::Activate { vm: vm(), run: true }
}

fn died() -> Input {
    let why = "killed".to_owned();
    Input::Died { why }
}

fn guest(rig: &Rig) -> GuestState {
    rig.machine.vm_state().expect("it is here").guest
}

/// What the next agent is asked to adopt.
fn adopted_with(rig: &mut Rig, found: Found) -> (AdoptBuffers, bool) {
    rig.hanging = vec!["adopt"];
    rig.restart(found);
    match rig.unhang().act {
        Act::Adopt {
            buffers, surrendered, ..
        } => (buffers, surrendered),
        other => panic!("{}", other.name()),
    }
}

#[test]
fn a_plug_is_recorded_as_shut_before_it_is_on_the_way_back() {
    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.hanging = vec!["shut-for-abort"];
    rig.send(Command::AbortSource { vm: vm() });
    assert_eq!(rig.hung.len(), 1);
    let (buffers, _) = adopted_with(&mut rig, Found::Alive(process()));
    assert_eq!(buffers, AdoptBuffers::Abort);

    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.fail("shut-for-abort");
    rig.send(Command::AbortSource { vm: vm() });
    rig.restart(Found::Alive(process()));
    rig.acts.clear();
    rig.ok(Command::AbortSource { vm: vm() });
    assert!(rig.acts.contains(&"put-back"), "{:?}", rig.acts);
}

#[test]
fn a_target_that_may_be_committed_keeps_its_buffer_across_a_restart() {
    let mut rig = Rig::new();
    rig.load();
    let (buffers, _) = adopted_with(&mut rig, Found::Alive(process()));
    let tunnels = vec![address()];
    let activated = false;
    assert_eq!(buffers, AdoptBuffers::Deliver { tunnels, activated });
}

#[test]
fn what_was_delivered_is_answered_for_by_later_agents() {
    let mut rig = Rig::new();
    rig.load();
    rig.ok(activate());
    rig.ok(Command::CloseTargetBuffer { vm: vm() });
    let (buffers, _) = adopted_with(&mut rig, Found::Alive(process()));
    let tunnels = vec![address()];
    assert_eq!(buffers, AdoptBuffers::Delivered { tunnels });
}

#[test]
fn what_a_source_captured_outlives_its_qemu() {
    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.capture();
    rig.ok(Command::Commit { vm: vm() });
    rig.give(died());
    let (buffers, surrendered) = adopted_with(&mut rig, Found::Gone);
    assert!(surrendered && matches!(buffers, AdoptBuffers::Capture { .. }));
}

#[test]
fn a_source_whose_qemu_was_gone_before_the_decision_delivers_after_it() {
    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.capture();
    rig.restart(Found::Gone);
    rig.acts.clear();
    rig.ok(Command::Commit { vm: vm() });
    assert_eq!(rig.acts, ["adopt"]);
    rig.ok(Command::CloseSourceBuffer { vm: vm() });
}

#[test]
fn a_source_whose_qemu_ended_still_learns_of_the_decision() {
    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.capture();
    rig.give(died());
    rig.ok(Command::Commit { vm: vm() });
    assert_eq!(rig.role(), Some(VmRole::Left));
}

#[test]
fn qemu_that_ends_under_an_order_leaves_no_home_without_it() {
    let mut rig = Rig::new();
    rig.boot();
    rig.hanging = vec!["open-page-stream"];
    rig.send(Rig::pre_copy(Mode::Live));
    rig.give(died());
    rig.fail("open-page-stream");
    let stream = rig.unhang();
    rig.answer(stream);
    assert_eq!(rig.role(), Some(VmRole::Off));

    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.hanging = vec!["put-back"];
    rig.send(Command::AbortSource { vm: vm() });
    rig.give(died());
    let put_back = rig.unhang();
    rig.answer(put_back);
    assert_eq!(rig.role(), Some(VmRole::Off));
}

#[test]
fn a_vm_is_not_gone_before_its_record_is() {
    let mut rig = Rig::new();
    rig.reserve(false);
    rig.disk_full = true;
    let dropped = rig.order(Command::AbortTarget { vm: vm() });
    assert_eq!(dropped, None, "nothing is said that is not durable");
    assert!(!rig.machine.is_gone());
    rig.disk_full = false;
    rig.fire(Timer::Write, Millis(500));
    assert!(rig.machine.is_gone() && rig.disk.is_none());
    assert!(matches!(
        rig.reports.last().unwrap().outcome,
        Outcome::TargetDropped
    ));
}

#[test]
fn convergence_is_reported_on_the_order_that_asked_for_it() {
    let mut rig = Rig::new();
    rig.boot();
    let begun_with = rig.epoch;
    let order = rig.leave(Mode::Live);
    // A newer coordinator, which does not know the order.
    rig.epoch = Epoch(begun_with.0 + 1);
    rig.order(Command::OpenTargetBuffer { vm: vm() });
    rig.fire(Timer::Look, Millis(200));
    let converged = rig
        .reports
        .iter()
        .find(|report| matches!(report.outcome, Outcome::Converged(_)))
        .expect("it converges");
    assert_eq!((converged.order, converged.epoch), (Some(order), begun_with));
}

#[test]
fn a_late_look_does_not_undo_what_qemu_said_since() {
    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.hanging = vec!["look"];
    rig.fire(Timer::Look, Millis(200));
    let look = rig.unhang();
    rig.give(Input::RunState(RunState::Panicked));
    let looked = Looked {
        status: CopyStatus::Active,
        run: RunState::Running,
        pages: PageProgress::default(),
        lag_within_limit: true,
        flow: Flow::default(),
    };
    rig.done(look, Ok(Product::Looked(looked)));
    assert_eq!(guest(&rig), GuestState::Panicked);
}

#[test]
fn what_qemu_says_during_an_adoption_is_not_missed() {
    let mut rig = Rig::new();
    rig.boot();
    rig.hanging = vec!["adopt"];
    rig.restart(Found::Alive(process()));
    rig.give(Input::RunState(RunState::Panicked));
    let adopt = rig.unhang();
    rig.done(
        adopt,
        Ok(Product::Adopted {
            run: RunState::Running,
        }),
    );
    assert_eq!(guest(&rig), GuestState::Panicked);

    rig.restart(Found::Alive(process()));
    rig.give(died());
    let adopt = rig.unhang();
    rig.done(
        adopt,
        Ok(Product::Adopted {
            run: RunState::Running,
        }),
    );
    assert_eq!(rig.role(), Some(VmRole::Off));
}

#[test]
fn a_process_that_ended_before_it_could_be_adopted_is_cleared_away() {
    let mut rig = Rig::new();
    rig.boot();
    rig.hanging = vec!["adopt"];
    rig.restart(Found::Alive(process()));
    let adopt = rig.unhang();
    rig.acts.clear();
    rig.done(adopt, Ok(Product::Gone));
    assert_eq!(rig.acts, ["end"], "its tap is not left");
    assert_eq!(rig.role(), Some(VmRole::Off));
}

#[test]
fn what_could_not_be_cleared_away_is_tried_again() {
    let mut rig = Rig::new();
    rig.boot();
    rig.fail("end");
    rig.give(Input::PoweredOff);
    assert!(rig.machine.stranded_state().is_some());
    rig.fire(Timer::Adopt, Millis(5_000));
    assert_eq!(rig.role(), Some(VmRole::Off));
    assert!(matches!(rig.disk.as_ref().unwrap().place, Place::Off { .. }));
}

#[test]
fn a_guest_that_ran_here_is_not_told_to_again() {
    let mut rig = Rig::new();
    rig.load();
    rig.fail("activate-buffer");
    let failed = rig.order(activate());
    assert!(matches!(failed, Some(Outcome::Failed(_))), "{failed:?}");
    rig.give(Input::RunState(RunState::Panicked));
    rig.acts.clear();
    rig.ok(activate());
    assert_eq!(rig.acts, ["activate-buffer"]);
    assert_eq!(guest(&rig), GuestState::Panicked);
}

#[test]
fn a_guest_that_falls_in_the_instant_of_its_stop_moves_as_it_is() {
    for (run, fallen) in [
        (RunState::Panicked, GuestState::Panicked),
        (RunState::DiskError, GuestState::DiskError),
        (RunState::Paused, GuestState::Running),
    ] {
        let mut rig = Rig::new();
        rig.boot();
        let _ = rig.leave(Mode::Live);
        // QEMU's own word of it comes later, or never.
        rig.run = run;
        let captured = rig.ok(Command::Capture { vm: vm() });
        assert!(
            matches!(captured, Outcome::Captured { guest, .. } if guest == fallen),
            "{captured:?}"
        );
    }
}

#[test]
fn a_guest_that_panicked_while_no_agent_watched_its_capture_is_left_so() {
    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.fail("stop");
    rig.order(Command::Capture { vm: vm() });
    rig.run = RunState::Panicked;
    rig.restart(Found::Alive(process()));
    rig.acts.clear();
    rig.ok(Command::AbortSource { vm: vm() });
    assert!(!rig.acts.contains(&"cont"), "{:?}", rig.acts);
    assert_eq!(guest(&rig), GuestState::Panicked);
}

#[test]
fn what_is_delivered_can_be_cleared_away_later() {
    let mut rig = Rig::new();
    rig.load();
    rig.ok(activate());
    rig.give(Input::PoweredOff);
    rig.fail("end");
    let failed = rig.order(Command::CloseTargetBuffer { vm: vm() });
    assert!(matches!(failed, Some(Outcome::Failed(_))), "{failed:?}");
    rig.acts.clear();
    rig.ok(Command::CloseTargetBuffer { vm: vm() });
    assert_eq!(rig.acts, ["end"]);
    assert_eq!(rig.role(), Some(VmRole::Off));
}

/// Its source is lost, and an operator has it run from what is here: nothing is.
#[test]
fn a_target_whose_loading_was_broken_off_is_lost_when_it_is_to_run() {
    let mut rig = Rig::new();
    rig.reserve(false);
    rig.ok(Command::Prepare { vm: vm() });
    rig.run = RunState::InMigrate;
    rig.restart(Found::Alive(process()));
    let lost = rig.ok(activate());
    assert!(
        matches!(&lost, Outcome::Lost(fault) if fault.reason.contains("broken off")),
        "{lost:?}"
    );
    assert_eq!(rig.role(), Some(VmRole::Off));
}

/// The same where all of it is here: only QEMU knows that the guest had panicked.
#[test]
fn a_guest_that_stopped_by_itself_is_not_run_whatever_the_order_says() {
    for fallen in [RunState::Panicked, RunState::DiskError] {
        let mut rig = Rig::new();
        rig.run = fallen;
        rig.load();
        rig.acts.clear();
        rig.ok(activate());
        assert_eq!(rig.acts, ["activate-buffer"], "{fallen:?}");
        assert_eq!(Some(guest(&rig)), fallen.guest());
    }
}

/// Its user had paused it, and coordinator and source are gone: the target was told.
#[test]
fn a_guest_that_was_sent_paused_is_not_run_whatever_the_order_says() {
    for restarted in [false, true] {
        let mut rig = Rig::new();
        rig.load_sent_as(GuestState::Paused);
        if restarted {
            rig.run = RunState::Paused;
            rig.restart(Found::Alive(process()));
        }
        rig.acts.clear();
        rig.ok(activate());
        assert_eq!(rig.acts, ["activate-buffer"]);
    }
}

/// The panic came right before the migration stopped QEMU, and was hidden behind that.
#[test]
fn what_a_guest_did_right_before_its_migration_stopped_it_is_learned_on_the_way_back() {
    for (fallen, role, state) in [
        (RunState::Panicked, VmRole::Home, GuestState::Panicked),
        (RunState::Paused, VmRole::Home, GuestState::Paused),
        (RunState::Shutdown, VmRole::Off, GuestState::Off),
    ] {
        let mut rig = Rig::new();
        rig.boot();
        let _ = rig.leave(Mode::Live);
        rig.give(Input::RunState(RunState::FinishMigrate));
        rig.run = fallen;
        rig.ok(Command::AbortSource { vm: vm() });
        assert_eq!((rig.role(), guest(&rig)), (Some(role), state), "{fallen:?}");
    }
}
