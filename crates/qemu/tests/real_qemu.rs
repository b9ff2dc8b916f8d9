//! The life of a VM on a real QEMU: start, adoption, held pre-copy, abort after `completed`,
//! commit.
#![allow(missing_docs)]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::*;
use transhume_model::{Epoch, MachineType, VmSpec};
use transhume_qemu::{
    Accel, AccelChoice, AdoptedIncoming, CommitPermit, Incoming, Launcher, MigrationStatus, QemuBinary,
    QemuError, RunState, Running, VmPaths,
};

const FINISH_LIMIT: Duration = Duration::from_secs(60);
const DIRTY_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn the_binary_is_probed_and_a_stranger_refused() {
    in_namespace(|| async {
        let binary = QemuBinary::probe(&qemu_path()).await.unwrap();
        assert!(
            binary.newest_machine().0.starts_with("pc-q35-"),
            "{}",
            binary.newest_machine()
        );
        assert!(binary.machines().contains(binary.newest_machine()));
        let error = QemuBinary::probe("/bin/true".as_ref()).await.unwrap_err();
        assert!(matches!(error, QemuError::NotQemu { .. }), "{error}");
        let error = QemuBinary::probe("/nowhere".as_ref()).await.unwrap_err();
        assert!(matches!(error, QemuError::Binary { .. }), "{error}");
        // Whatever this host has, one of the two must come out, and TCG when told so.
        let users = users();
        Accel::detect(&binary, AccelChoice::Auto, &users).await.unwrap();
        let told = Accel::detect(&binary, AccelChoice::Tcg, &users).await;
        assert_eq!(told.unwrap(), Accel::Tcg);
    });
}

#[test]
fn an_unknown_machine_and_a_broken_start_say_why() {
    in_namespace(|| async {
        let dir = TempDir::new("start");
        let launcher = launcher().await;
        let taps = [tap("t0")];
        let mut spec = spec(&dir.0, "vm-1", 0);
        spec.machine = Some(MachineType("pc-q35-99.0".into()));
        let error = launcher
            .boot(&spec, &dir.vm("a"), means(&spec, &borrowed(&taps)))
            .await
            .unwrap_err();
        assert!(matches!(error, QemuError::Machine { .. }), "{error}");

        spec.machine = None;
        spec.boot.kernel = dir.0.join("no-kernel");
        std::fs::write(&spec.boot.kernel, "no kernel").unwrap();
        let error = launcher
            .boot(&spec, &dir.vm("b"), means(&spec, &borrowed(&taps)))
            .await
            .unwrap_err();
        assert!(matches!(error, QemuError::DiedAtStart { .. }), "{error}");
        assert!(error.to_string().contains("linux kernel too old"), "{error}");
    });
}

#[test]
fn a_vm_is_adopted_and_its_death_noticed() {
    in_namespace(|| async {
        let dir = TempDir::new("adopt");
        let taps = [tap("t0")];
        let (spec, paths) = (spec(&dir.0, "vm-1", 0), dir.vm("a"));
        let first = boot(&launcher().await, &spec, &paths, &taps).await;
        let process = first.vm().process().clone();
        let _kill = KillOnDrop::new(&process);
        counted(&paths, 0, 2).await;
        // The old agent is gone: its monitor connection closes.
        drop(first);
        let running = Running::adopt(&spec.name, &process, &paths).await.unwrap();
        assert_eq!(running.vm().query_status().await.unwrap(), RunState::Running);

        running.stop().await.unwrap();
        assert_eq!(running.vm().query_status().await.unwrap(), RunState::Paused);
        let still = count(&paths);
        running.cont().await.unwrap();
        counted(&paths, still, 2).await;

        let refused = running
            .vm()
            .qmp()
            .execute("device_del", serde_json::json!({"id": "none"}))
            .await;
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("VM vm-1") && text.contains("`device_del` (DeviceNotFound)"),
            "{text}"
        );

        let watched = running.vm().clone();
        let died = tokio::spawn(async move { watched.died().await });
        running.vm().kill().await.unwrap();
        died.await.unwrap();
        let gone = Running::adopt(&spec.name, &process, &paths).await.unwrap_err();
        assert!(matches!(gone, QemuError::NotTheSameProcess { .. }), "{gone}");
    });
}

/// Until QEMU has begun: before its own thread says so, it would begin another one.
async fn measuring(vm: &transhume_qemu::Vm) {
    let begun = Instant::now();
    let asked = || vm.qmp().execute("query-dirty-rate", serde_json::json!({}));
    while asked().await.unwrap()["status"] != "measuring" {
        assert!(begun.elapsed() < DIRTY_LIMIT, "QEMU does not begin to measure");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_dirty_rate_is_measured_while_the_guest_runs_on() {
    in_namespace(|| async {
        let dir = TempDir::new("dirty");
        let launcher = launcher().await;
        let mut rates = Vec::new();
        // An idle guest, and one that writes 8 MiB anew several times a second.
        for (name, dirty_kib) in [("idle", 0), ("busy", 8 << 10)] {
            let (spec, paths) = (spec(&dir.0, "vm-1", dirty_kib), dir.vm(name));
            let taps = [tap(&format!("d-{name}"))];
            let running = boot(&launcher, &spec, &paths, &taps).await;
            let _kill = KillOnDrop::new(running.vm().process());
            let counts = counted(&paths, 0, 2).await;
            let begun = Instant::now();
            let vm = running.vm();
            let rate = vm.dirty_rate(spec.memory, DIRTY_LIMIT).await.unwrap();
            assert!(
                begun.elapsed() >= transhume_qemu::DIRTY_SAMPLING,
                "{:?}",
                begun.elapsed()
            );
            assert!(rate.sampled_pages >= 1_000, "{rate:?}");
            counted(&paths, counts, 1).await;
            // Two measurements at the same time: the second is told so.
            let (first, second) = tokio::join!(vm.dirty_rate(spec.memory, DIRTY_LIMIT), async {
                measuring(vm).await;
                vm.dirty_rate(spec.memory, DIRTY_LIMIT).await
            });
            assert!(first.is_ok() && second.is_err(), "{first:?} {second:?}");
            let late = vm.dirty_rate(spec.memory, Duration::from_millis(200)).await;
            assert!(matches!(late, Err(QemuError::Timeout { .. })), "{late:?}");
            vm.kill().await.unwrap();
            rates.push(rate.per_second.0);
        }
        assert!(rates[0] <= 3, "idle: {} MiB/s", rates[0]);
        assert!((4..=40).contains(&rates[1]), "busy: {} MiB/s", rates[1]);
    });
}

struct Move {
    dir: TempDir,
    launcher: Launcher,
    spec: VmSpec,
    source: Running,
    source_paths: VmPaths,
    attempt: u32,
    _kill: Vec<KillOnDrop>,
}

impl Move {
    async fn new(name: &str, dirty_kib: u32) -> Self {
        let dir = TempDir::new(name);
        let launcher = launcher().await;
        let mut spec = spec(&dir.0, "vm-1", dirty_kib);
        spec.machine = Some(launcher.binary().newest_machine().clone());
        let source_paths = dir.vm("source");
        let source = boot(&launcher, &spec, &source_paths, &[tap("s0")]).await;
        let kill = KillOnDrop::new(source.vm().process());
        counted(&source_paths, 0, 2).await;
        Self {
            dir,
            launcher,
            spec,
            source,
            source_paths,
            attempt: 0,
            _kill: vec![kill],
        }
    }

    /// A new target, and the stream towards it held after the first copy.
    async fn pre_copy(&mut self) -> (Incoming<transhume_qemu::Waiting>, VmPaths) {
        self.attempt += 1;
        let paths = self.dir.vm(&format!("target-{}", self.attempt));
        let taps = [tap(&format!("t{}", self.attempt))];
        let mut target = self
            .launcher
            .receive(&self.spec, &paths, means(&self.spec, &borrowed(&taps)))
            .await
            .unwrap();
        self._kill.push(KillOnDrop::new(target.vm().process()));
        let stream = self.dir.0.join(format!("stream-{}", self.attempt));
        let proxy = proxy(stream.clone(), &mut target).await;
        self.source.start_migration(&stream).await.unwrap();
        let begun = Instant::now();
        loop {
            let now = self.source.vm().migration_progress().await.unwrap();
            assert_eq!(now.error, None);
            // With the ack withheld it iterates: three looks for dirty pages are past the first
            // full copy.
            if now.dirty_sync_count >= 3 && now.remaining.0 < 4 << 20 {
                assert_eq!(now.status, MigrationStatus::Active);
                assert!(
                    proxy.holds_ack.load(Ordering::Relaxed),
                    "the target must have said it is ready"
                );
                break;
            }
            assert!(begun.elapsed() < FINISH_LIMIT, "{now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxy.released.store(true, Ordering::Relaxed);
        (target, paths)
    }
}

#[test]
fn the_withheld_ack_holds_then_abort_after_completed_then_commit() {
    in_namespace(|| async {
        let mut it = Move::new("commit", 64).await;

        let (target, _) = it.pre_copy().await;
        let held = count(&it.source_paths);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            it.source.vm().migration_progress().await.unwrap().status,
            MigrationStatus::Active
        );
        counted(&it.source_paths, held, 2).await;

        // Abort in the middle of pre-copy.
        target.discard().await.unwrap();
        run_here(&it.source).await;
        assert_eq!(it.source.vm().query_status().await.unwrap(), RunState::Running);

        // Abort after everything has arrived.
        let (target, _) = it.pre_copy().await;
        it.source.stop().await.unwrap();
        let done = finish(&it.source, FINISH_LIMIT).await;
        assert_eq!(done.status, MigrationStatus::Completed);
        let whole = loaded(target, FINISH_LIMIT).await;
        let stopped_at = count(&it.source_paths);
        whole.discard().await.unwrap();
        run_here(&it.source).await;
        counted(&it.source_paths, stopped_at, 3).await;

        // Commit, with an agent restart at the target between loaded and activation.
        let (target, target_paths) = it.pre_copy().await;
        it.source.stop().await.unwrap();
        finish(&it.source, FINISH_LIMIT).await;
        let whole = loaded(target, FINISH_LIMIT).await;
        let stopped_at = count(&it.source_paths);
        let process = whole.vm().process().clone();
        drop(whole);
        let adopted = Incoming::adopt(&it.spec.name, &process, &target_paths)
            .await
            .unwrap();
        let AdoptedIncoming::Loaded(whole) = adopted else {
            panic!("{adopted:?} should be loaded")
        };
        let running = whole
            .resume(CommitPermit::of_activate_order(Epoch(3)))
            .await
            .unwrap();
        let left = it.source.surrender();
        let next = counted(&target_paths, 0, 1).await;
        assert!(
            next > stopped_at && next <= stopped_at + 3,
            "counted {next} after {stopped_at}"
        );
        assert_eq!(left.vm().query_status().await.unwrap(), RunState::Postmigrate);
        left.discard().await.unwrap();
        counted(&target_paths, next, 3).await;
        running.vm().quit().await.unwrap();
    });
}

#[test]
fn an_offline_move_needs_no_ack_either() {
    in_namespace(|| async {
        let it = Move::new("offline", 0).await;
        let paths = it.dir.vm("target");
        let mut target = it
            .launcher
            .receive(&it.spec, &paths, means(&it.spec, &borrowed(&[tap("t9")])))
            .await
            .unwrap();
        let _kill = KillOnDrop::new(target.vm().process());
        let stream = it.dir.0.join("stream");
        let proxy = proxy(stream.clone(), &mut target).await;
        proxy.released.store(true, Ordering::Relaxed);
        it.source.stop().await.unwrap();
        let stopped_at = count(&it.source_paths);
        it.source.start_migration(&stream).await.unwrap();
        finish(&it.source, FINISH_LIMIT).await;
        let whole = loaded(target, FINISH_LIMIT).await;
        let running = whole
            .resume(CommitPermit::of_activate_order(Epoch(1)))
            .await
            .unwrap();
        counted(&paths, stopped_at, 2).await;
        running.vm().kill().await.unwrap();
    });
}

#[test]
fn a_target_that_dies_is_an_error_and_the_source_runs_on() {
    in_namespace(|| async {
        let mut it = Move::new("death", 0).await;
        let (target, _) = it.pre_copy().await;
        let handle = target.vm().clone();
        let waiting = tokio::spawn(async move { target.arrived(FINISH_LIMIT).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        handle.kill().await.unwrap();
        assert!(waiting.await.unwrap().is_err());
        let error = it.source.await_completed(FINISH_LIMIT).await.unwrap_err();
        assert!(matches!(error, QemuError::Migration { .. }), "{error}");
        let at = count(&it.source_paths);
        run_here(&it.source).await;
        counted(&it.source_paths, at, 2).await;
    });
}
