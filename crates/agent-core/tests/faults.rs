//! A failure at every act, a record that cannot be written, and an agent that is killed anywhere:
//! nothing half-happens.

mod rig;

use rig::{KEPT, Rig, process, trouble, vm};
use transhume_agent_core::limits::FLOOD_MS_MAX;
use transhume_agent_core::{CopyStatus, Flow, Found, Input, RunState, Signal, Timer};
use transhume_model::{Bytes, Epoch, Millis};
use transhume_protocol::message::{Command, FaultKind, Mode, Order, Outcome, RefusalKind, Report, VmRole};

type Journey = fn(&mut Rig);

fn before_commit(rig: &mut Rig) {
    let _ = rig.order(Rig::pre_copy(Mode::Live));
    for command in [
        Command::OpenSourceBuffer { vm: vm() },
        Command::ConnectBuffers {
            vm: vm(),
            tunnels: vec![rig::address()],
        },
        Command::Capture { vm: vm() },
        Command::StopAndCopy { vm: vm() },
    ] {
        if matches!(rig.order(command), Some(Outcome::Failed(_) | Outcome::Refused(_))) {
            return;
        }
    }
}

/// Every act of a journey, by its place.
fn acts_of(journey: Journey, begin: Journey) -> Vec<&'static str> {
    let mut rig = Rig::new();
    begin(&mut rig);
    journey(&mut rig);
    rig.acts
}

fn restored(rig: &mut Rig) -> Outcome {
    for _ in 0..3 {
        let outcome = rig.order(Command::AbortSource { vm: vm() });
        if matches!(outcome, Some(Outcome::SourceRestored(_))) {
            return outcome.unwrap();
        }
    }
    panic!("never restored: {:?}", rig.reports.last());
}

#[test]
fn a_failure_at_any_act_before_commit_leads_home() {
    let acts = acts_of(before_commit, Rig::boot);
    assert_eq!(acts.len(), 10, "{acts:?}");
    for act in acts {
        let mut rig = Rig::new();
        rig.boot();
        rig.fail(act);
        before_commit(&mut rig);
        restored(&mut rig);
        assert_eq!(rig.role(), Some(VmRole::Home), "after {act} failed");
        assert!(rig.disk.is_some());
    }
}

/// A6: after a failed `cont` the kept frames were gone, and the next attempt left the plug shut.
#[test]
fn a_failure_at_any_act_of_the_way_back_keeps_every_frame() {
    for act in ["shut-for-abort", "cancel-migration", "cont", "put-back"] {
        let mut rig = Rig::new();
        rig.boot();
        before_commit(&mut rig);
        rig.acts.clear();
        rig.fail(act);
        let failed = rig.order(Command::AbortSource { vm: vm() });
        assert!(matches!(failed, Some(Outcome::Failed(_))), "{act}");
        assert_eq!(rig.role(), Some(VmRole::Source), "as it was, after {act}");
        let outcome = restored(&mut rig);
        assert!(
            matches!(outcome, Outcome::SourceRestored(frames) if frames.put_back == KEPT),
            "{act}"
        );
        assert!(rig.acts.contains(&"cont"));
    }
}

/// A7: after a failed `cont` on the target every further order to activate was refused until the
/// agent was restarted.
#[test]
fn a_target_that_does_not_run_at_once_is_run_by_the_next_order() {
    for act in ["run-arrived", "activate-buffer"] {
        let mut rig = Rig::new();
        rig.load();
        rig.fail(act);
        let activate = Command::Activate { vm: vm(), run: true };
        assert!(
            matches!(rig.order(activate.clone()), Some(Outcome::Failed(_))),
            "{act}"
        );
        assert!(
            matches!(rig.order(activate), Some(Outcome::Activated(_))),
            "{act}"
        );
    }
}

#[test]
fn what_could_not_be_started_is_taken_back() {
    let mut rig = Rig::new();
    rig.fail("spawn");
    assert!(matches!(
        rig.order(Command::StartVm { spec: rig::spec() }),
        Some(Outcome::Failed(_))
    ));
    assert_eq!(rig.acts, ["admit", "spawn", "end"]);
    assert!(rig.machine.is_gone() && rig.disk.is_none());

    let mut rig = Rig::new();
    rig.reserve(false);
    rig.fail("spawn");
    assert!(matches!(
        rig.order(Command::Prepare { vm: vm() }),
        Some(Outcome::Failed(_))
    ));
    assert_eq!(rig.role(), Some(VmRole::Expected), "the promise stays");
    rig.ok(Command::Prepare { vm: vm() });
}

/// A1: an agent that was killed just after it had started a QEMU left it and its tap for ever.
#[test]
fn whatever_a_killed_agent_was_starting_is_ended() {
    for found in [Found::Alive(process()), Found::Gone] {
        let mut rig = Rig::new();
        rig.hanging = vec!["spawn"];
        rig.send(Command::StartVm { spec: rig::spec() });
        rig.hanging.clear();
        rig.restart(found.clone());
        assert_eq!(rig.acts.last(), Some(&"end"));
        assert!(rig.machine.is_gone() && rig.disk.is_none());

        let mut rig = Rig::new();
        rig.reserve(false);
        rig.hanging = vec!["spawn"];
        rig.send(Command::Prepare { vm: vm() });
        rig.hanging.clear();
        rig.restart(found);
        assert_eq!(rig.acts.last(), Some(&"end"));
        assert_eq!(rig.role(), Some(VmRole::Expected));
    }
}

#[test]
fn a_killed_agent_leads_home_from_anywhere_before_commit() {
    let acts = acts_of(before_commit, Rig::boot);
    for act in acts {
        let mut rig = Rig::new();
        rig.boot();
        rig.hanging = vec![act];
        before_commit(&mut rig);
        rig.hanging.clear();
        let stopped = rig.acts.contains(&"stop");
        rig.run = if stopped {
            RunState::Paused
        } else {
            RunState::Running
        };
        rig.restart(Found::Alive(process()));
        rig.acts.clear();
        restored(&mut rig);
        assert_eq!(rig.role(), Some(VmRole::Home), "killed at {act}");
        assert_eq!(
            rig.acts.contains(&"cont"),
            stopped,
            "killed at {act}: {:?}",
            rig.acts
        );
        let captured = rig.disk.is_some() && rig.acts.contains(&"put-back");
        // Nothing waits for the answer to a probe: that journey goes on to its end.
        let capturing = [
            "probe-guest",
            "shut-source-buffer",
            "stop",
            "capture",
            "finish-copy",
        ];
        let may_capture = capturing.contains(&act);
        assert_eq!(captured, may_capture, "killed at {act}");
    }
}

#[test]
fn a_killed_agent_leads_home_from_anywhere_on_the_way_back() {
    for act in ["shut-for-abort", "cancel-migration", "cont", "put-back"] {
        let mut rig = Rig::new();
        rig.boot();
        before_commit(&mut rig);
        rig.hanging = vec![act];
        rig.send(Command::AbortSource { vm: vm() });
        rig.hanging.clear();
        rig.run = if act == "put-back" {
            RunState::Running
        } else {
            RunState::Paused
        };
        rig.restart(Found::Alive(process()));
        let outcome = restored(&mut rig);
        assert!(
            matches!(outcome, Outcome::SourceRestored(frames) if frames.put_back == KEPT),
            "{act}"
        );
    }
}

/// A8: a VM that could not be adopted was unlisted, and then its QEMU was as good as gone.
#[test]
fn what_cannot_be_taken_over_is_not_absent() {
    let mut rig = Rig::new();
    rig.boot();
    before_commit(&mut rig);
    rig.fail("adopt");
    rig.restart(Found::Alive(process()));
    assert_eq!(rig.role(), None);
    assert!(rig.machine.stranded_state().unwrap().what.contains("4711"));
    for command in [
        Command::Discard { vm: vm() },
        Command::AbortTarget { vm: vm() },
        Command::AbortSource { vm: vm() },
        Command::Reserve {
            migration: transhume_model::MigrationId(2),
            spec: rig::spec(),
            powered_off: false,
        },
        Command::StartVm { spec: rig::spec() },
    ] {
        let outcome = rig.order(command);
        assert!(
            matches!(&outcome, Some(Outcome::Refused(refusal)) if refusal.kind == RefusalKind::Stranded),
            "{outcome:?}"
        );
    }
    rig.run = RunState::Paused;
    rig.fire(Timer::Adopt, Millis(5_000));
    restored(&mut rig);
    assert_eq!(rig.role(), Some(VmRole::Home));
}

#[test]
fn an_order_that_cannot_be_recorded_changes_nothing() {
    let mut rig = Rig::new();
    rig.boot();
    let before = rig.disk.clone();
    rig.disk_full = true;
    rig.epoch = Epoch(2);
    let outcome = rig.order(Rig::pre_copy(Mode::Live));
    assert!(matches!(outcome, Some(Outcome::Failed(fault)) if fault.kind == FaultKind::Record));
    assert!(rig.acts.is_empty(), "{:?}", rig.acts);
    assert_eq!((rig.role(), &rig.disk), (Some(VmRole::Home), &before));
    assert_eq!(rig.machine.epoch(), Epoch(1), "not obeyed, not remembered");
    rig.disk_full = false;
    rig.leave(Mode::Live);
    rig.capture();
    rig.disk_full = true;
    assert!(matches!(
        rig.order(Command::Commit { vm: vm() }),
        Some(Outcome::Failed(_))
    ));
    assert_eq!(rig.role(), Some(VmRole::Source));
    rig.disk_full = false;
    rig.ok(Command::Commit { vm: vm() });
}

#[test]
fn a_fact_that_cannot_be_recorded_waits_until_it_can() {
    let mut rig = Rig::new();
    rig.hanging = vec!["spawn"];
    let id = rig.send(Command::StartVm { spec: rig::spec() });
    rig.disk_full = true;
    let spawn = rig.unhang();
    rig.answer(spawn);
    assert_eq!(
        rig.acts,
        ["admit", "spawn"],
        "it does not run before it is recorded"
    );
    let again = rig.signals.iter().any(|signal| {
        matches!(
            signal,
            Signal::Timer {
                timer: Timer::Write,
                ..
            }
        )
    });
    assert!(again);
    rig.disk_full = false;
    rig.fire(Timer::Write, Millis(500));
    assert_eq!(rig.acts, ["admit", "spawn", "cont"]);
    assert!(matches!(rig.answer_to(id), Some(Outcome::Started { .. })));
}

#[test]
fn an_abort_interrupts_and_goes_first() {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    rig.ok(Command::Capture { vm: vm() });
    rig.hanging = vec!["finish-copy"];
    let copy = rig.send(Command::StopAndCopy { vm: vm() });
    let capture = rig.send(Command::OpenSourceBuffer { vm: vm() });
    let abort = rig.send(Command::AbortSource { vm: vm() });
    let effect = rig.unhang();
    assert!(rig.signals.contains(&Signal::Interrupt(effect.ticket)));
    assert_eq!(rig.answer_to(abort), None, "not before the act has ended");
    rig.done(effect, Err(trouble()));
    assert!(matches!(rig.answer_to(copy), Some(Outcome::Failed(_))));
    assert!(matches!(rig.answer_to(abort), Some(Outcome::SourceRestored(_))));
    assert!(matches!(
        rig.answer_to(capture),
        Some(Outcome::Refused(refusal)) if refusal.kind == RefusalKind::WrongState
    ));
}

/// Its other side may be lost: what ends the VM here does not wait for it.
#[test]
fn a_closing_is_interrupted_by_what_ends_the_vm() {
    for ends in [Command::Discard { vm: vm() }, Command::DestroyVm { vm: vm() }] {
        let mut rig = Rig::new();
        rig.boot();
        rig.leave(Mode::Live);
        rig.capture();
        rig.ok(Command::Commit { vm: vm() });
        rig.hanging = vec!["finish-source-buffer"];
        let close = rig.send(Command::CloseSourceBuffer { vm: vm() });
        let end = rig.send(ends);
        let closing = rig.unhang();
        assert!(rig.signals.contains(&Signal::Interrupt(closing.ticket)));
        assert_eq!(rig.answer_to(end), None, "not before the act has ended");
        rig.done(closing, Err(trouble()));
        assert!(matches!(rig.answer_to(close), Some(Outcome::Failed(_))));
        assert!(matches!(
            rig.answer_to(end),
            Some(Outcome::Discarded { frames: Some(_) } | Outcome::Destroyed)
        ));
        assert!(rig.machine.is_gone());
    }

    let mut rig = Rig::new();
    rig.load();
    rig.ok(Command::Activate { vm: vm(), run: true });
    rig.hanging = vec!["finish-target-buffer"];
    rig.send(Command::CloseTargetBuffer { vm: vm() });
    let end = rig.send(Command::DestroyVm { vm: vm() });
    let closing = rig.unhang();
    assert!(rig.signals.contains(&Signal::Interrupt(closing.ticket)));
    rig.done(closing, Err(trouble()));
    assert_eq!(rig.answer_to(end), Some(Outcome::Destroyed));
}

#[test]
fn an_older_epoch_is_refused_and_a_newer_one_is_kept() {
    let mut rig = Rig::new();
    rig.boot();
    rig.epoch = Epoch(5);
    rig.leave(Mode::Live);
    let order = Order {
        id: transhume_model::OrderId(999),
        epoch: Epoch(4),
        command: Command::AbortSource { vm: vm() },
    };
    rig.give(Input::Order(order));
    let last = rig.answer_to(transhume_model::OrderId(999));
    assert!(matches!(last, Some(Outcome::Refused(refusal)) if refusal.kind == RefusalKind::StaleEpoch));
    rig.restart(Found::Alive(process()));
    assert_eq!(rig.machine.epoch(), Epoch(5));
}

#[test]
fn answers_that_come_twice_or_for_nothing_change_nothing() {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    let (role, disk, acts) = (rig.role(), rig.disk.clone(), rig.acts.len());
    for ticket in 0..40 {
        let ticket = transhume_agent_core::Ticket(ticket);
        let result = Ok(transhume_agent_core::Product::Done);
        rig.give(Input::Done { ticket, result });
    }
    assert_eq!((rig.role(), &rig.disk, rig.acts.len()), (role, &disk, acts));
}

#[test]
fn a_lost_stream_is_reported_once_and_leads_home() {
    let mut rig = Rig::new();
    rig.boot();
    rig.leave(Mode::Live);
    rig.status = CopyStatus::Lost {
        why: "connection reset".to_owned(),
    };
    rig.fire(Timer::Look, Millis(100));
    rig.fire(Timer::Look, Millis(100));
    rig.give(Input::PageStreamBroke {
        why: "as well".to_owned(),
    });
    let spoken = rig.reports.iter().filter(|report| report.order.is_none()).count();
    assert_eq!(spoken, 1);
    restored(&mut rig);
}

/// 64 MiB are 54 ms of a flow of 10 Gbit/s: a capture would end in a roll-back, with the batch
/// stopped meanwhile.
#[test]
fn a_vm_whose_buffer_would_overflow_is_not_ready_and_after_a_while_says_so() {
    let ten_gbit = 1_250_000_000;
    let flow = |bytes_per_s| Flow {
        bytes_per_s,
        bytes_max: Bytes(64 << 20),
    };
    let converged = |rig: &Rig| {
        let said = |report: &Report| matches!(report.outcome, Outcome::Converged(_));
        rig.reports.iter().any(said)
    };
    let mut rig = Rig::new();
    rig.boot();
    let _ = rig.leave(Mode::Live);
    rig.order(Command::OpenTargetBuffer { vm: vm() });
    rig.flow = flow(2 * ten_gbit);
    for _ in 0..3 {
        rig.fire(Timer::Look, Millis(100));
    }
    assert!(!converged(&rig));
    // What it waits for is told once in ten seconds.
    rig.fire(Timer::Look, FLOOD_MS_MAX);
    let told = |rig: &Rig| {
        let fault = |report: &Report| match &report.outcome {
            Outcome::Failed(fault) => Some((fault.kind, fault.reason.clone())),
            _ => None,
        };
        rig.reports.iter().filter_map(fault).collect::<Vec<_>>()
    };
    let [(kind, reason)] = &told(&rig)[..] else {
        panic!("{:?}", told(&rig));
    };
    assert_eq!(*kind, FaultKind::BufferLimit);
    for part in ["vm1", "h1", "2500000000", "26 ms", "50 ms"] {
        assert!(reason.contains(part), "{reason}");
    }
    // 53 ms of it fit.
    rig.flow = flow(ten_gbit);
    rig.fire(Timer::Look, Millis(100));
    assert!(converged(&rig));
    assert_eq!(told(&rig).len(), 1);
}
