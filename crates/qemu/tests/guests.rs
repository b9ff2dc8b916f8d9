//! Guests as they are, on a real QEMU: powered off, rebooted, paused by their users.
#![allow(missing_docs)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use support::*;
use transhume_model::Epoch;
use transhume_qemu::{CommitPermit, MigrationStatus, Qmp, RunState, Running, Vm};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits for an event of this name.
async fn event(
    events: &mut tokio::sync::broadcast::Receiver<transhume_qemu::QmpEvent>,
    name: &str,
) -> serde_json::Value {
    let wait = async {
        loop {
            let event = events.recv().await.unwrap();
            if event.name == name {
                return event.data;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect(name)
}

async fn state(vm: &Vm) -> RunState {
    vm.query_status().await.unwrap()
}

#[test]
fn a_vm_starts_stopped_and_runs_when_it_is_told_to() {
    in_namespace(|| async {
        let dir = TempDir::new("stopped");
        let (spec, paths, taps) = (spec(&dir.0, "vm-1", 0), dir.vm("a"), [tap("t0")]);
        let launcher = launcher().await;
        let running = launcher
            .boot(&spec, &paths, means(&spec, &borrowed(&taps)))
            .await
            .unwrap();
        let _kill = KillOnDrop::new(running.vm().process());
        assert_eq!(state(running.vm()).await, RunState::Prelaunch);
        running.cont().await.unwrap();
        counted(&paths, 0, 1).await;
        running.vm().kill().await.unwrap();
    });
}

/// An agent that was not there finds out what became of the guest.
#[test]
fn a_guest_that_powers_itself_off_leaves_a_stopped_qemu_and_one_that_reboots_runs_on() {
    in_namespace(|| async {
        let dir = TempDir::new("off");
        let launcher = launcher().await;
        for (name, command, taken) in [
            ("off", "poweroff -f", "SHUTDOWN"),
            ("reboot", "reboot -f", "RESET"),
        ] {
            let ends = format!("[ $n = 3 ] && /bin/busybox {command}");
            let (spec, paths) = (spec_that(&dir.0, name, &ends), dir.vm(name));
            let running = launcher
                .boot(&spec, &paths, means(&spec, &borrowed(&[tap(name)])))
                .await
                .unwrap();
            let _kill = KillOnDrop::new(running.vm().process());
            let mut events = running.vm().events();
            running.cont().await.unwrap();
            let data = event(&mut events, taken).await;
            assert_eq!(data["guest"], true, "{data}");
            if name == "off" {
                event(&mut events, "STOP").await;
                let process = running.vm().process().clone();
                drop(running);
                let again = Running::adopt(&spec.name, &process, &paths).await.unwrap();
                assert_eq!(state(again.vm()).await, RunState::Shutdown);
                again.vm().kill().await.unwrap();
            } else {
                assert_eq!(state(running.vm()).await, RunState::Running);
                running.vm().kill().await.unwrap();
            }
        }
    });
}

/// Through the monitor that is the user's, beside the agent's.
async fn paused_by_its_user(vm: &Vm, paths: &transhume_qemu::VmPaths) {
    let mut events = vm.events();
    let user = Qmp::connect(vm.name(), &paths.user_qmp()).await.unwrap();
    user.execute("stop", json!({})).await.unwrap();
    event(&mut events, "STOP").await;
    assert_eq!(state(vm).await, RunState::Paused);
}

#[test]
fn a_guest_that_its_user_paused_moves_and_stays_paused_and_so_it_does_after_a_roll_back() {
    in_namespace(|| async {
        let dir = TempDir::new("paused");
        let launcher = launcher().await;
        let mut spec = spec(&dir.0, "vm-1", 0);
        spec.machine = Some(launcher.binary().newest_machine().clone());
        let source_paths = dir.vm("source");
        let source = boot(&launcher, &spec, &source_paths, &[tap("s0")]).await;
        let _kill_source = KillOnDrop::new(source.vm().process());
        counted(&source_paths, 0, 2).await;
        paused_by_its_user(source.vm(), &source_paths).await;
        let at = count(&source_paths);
        for (round, commit) in [("rolled-back", false), ("committed", true)] {
            let paths = dir.vm(round);
            let taps = [tap(&format!("t-{round}")[..9])];
            let mut target = launcher
                .receive(&spec, &paths, means(&spec, &borrowed(&taps)))
                .await
                .unwrap();
            let _kill_target = KillOnDrop::new(target.vm().process());
            let stream = dir.0.join(format!("stream-{round}"));
            let proxy = proxy(stream.clone(), &mut target).await;
            proxy.released.store(true, Ordering::Relaxed);
            source.start_migration(&stream).await.unwrap();
            // Nothing is waited for: the guest does not run.
            let seen = source.await_pre_switchover(LIMIT).await.unwrap();
            assert_eq!(seen.status, MigrationStatus::PreSwitchover);
            if !commit {
                target.discard().await.unwrap();
                source.cancel_migration().await.unwrap();
                assert_eq!(state(source.vm()).await, RunState::Paused);
                continue;
            }
            finish(&source, LIMIT).await;
            let whole = loaded(target, LIMIT).await;
            assert_eq!(state(whole.vm()).await, RunState::Paused);
            let here = whole.keep_stopped(CommitPermit::of_activate_order(Epoch(1)));
            assert_eq!((count(&source_paths), count(&paths)), (at, 0), "it ran meanwhile");
            here.cont().await.unwrap();
            counted(&paths, at, 1).await;
            here.vm().kill().await.unwrap();
        }
        source.vm().kill().await.unwrap();
    });
}
