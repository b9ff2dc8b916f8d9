//! The opponent of the figures really moves real guests, and really loses what people lose today;
//! so do batches that are moved by hand.
//!
//! Needs root and QEMU.

use std::process::Command;
use std::time::Duration;

use tokio::task::JoinHandle;
use transhume_lab::stock::{DOWNTIME_MS_DEFAULT, HandMove, StockLab};
use transhume_lab::{Figures, Lab, LabError, LabName, LabUp, Progress, collect, down};

/// Half of the lab's hosts.
const AWAY: usize = 2;
const WARM_UP: Duration = Duration::from_secs(1);
/// Memory is under way for longer than it takes to stop a target in the middle of it.
const LINK_BITS_PER_S: u64 = 200_000_000;
/// Between two looks for a target that its source sends to.
const STRIKE_POLL: Duration = Duration::from_millis(2);
const STRIKE_LOOKS_MAX: usize = 15_000;
/// So long it stands still with its memory half there, then it dies.
const STRIKE_BEHIND: Duration = Duration::from_millis(300);

fn options(letter: char) -> (LabName, LabUp) {
    let name: LabName = format!("{letter}{}", std::process::id()).parse().unwrap();
    let options = LabUp {
        name: name.clone(),
        hosts: 4,
        vms: 2,
        rate: 1000,
        ..LabUp::default()
    };
    (name, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_qemu_moves_a_cluster_and_loses_messages() {
    let (name, options) = options('s');
    let moved = tokio::spawn(async move {
        let mut stock = StockLab::up(&options).await?;
        tokio::time::sleep(WARM_UP).await;
        let before = collect(&stock.lab, false).await?;
        let moves = stock.move_all(AWAY, DOWNTIME_MS_DEFAULT).await?;
        let after = collect(&stock.lab, false).await?;
        Ok::<_, LabError>((before, moves, after))
    })
    .await;
    down(&name, &Progress::default()).await.unwrap();
    let (before, moves, after) = moved.unwrap().unwrap();
    assert!(
        before.vms.iter().all(|vm| vm.lost == 0),
        "without a move: {before:?}"
    );
    assert_eq!(moves.len(), 2);
    assert!(moves.iter().all(|moved| !moved.blackout.is_zero()), "{moves:?}");
    assert!(
        after.vms.iter().any(|vm| vm.lost > 0),
        "a switchover without buffers: {after:?}"
    );
    assert!(after.vms.iter().all(|vm| vm.tcp_broken == 0), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_by_hand_stops_and_runs_together_or_not_at_all() {
    let (name, mut options) = options('b');
    options.link_bits_per_s = Some(LINK_BITS_PER_S);
    let moved = tokio::spawn(async move {
        let mut stock = StockLab::up(&options).await?;
        tokio::time::sleep(WARM_UP).await;
        let moves = stock.move_by_hand(AWAY, 2).await?;
        let there = [count(&stock, 0), count(&stock, AWAY)];
        let talks = talk(&stock).await?;
        // On the way back one target dies while memory is sent.
        let struck = strike(&stock.lab, 0);
        let refused = stock.move_by_hand(AWAY, 2).await;
        assert!(struck.await.unwrap(), "no target to kill");
        let back = [count(&stock, 0), count(&stock, AWAY)];
        let talks_on = talk(&stock).await?;
        // What was undone can be moved again, and one after the other.
        let again = stock.move_by_hand(AWAY, 1).await?;
        let home = [count(&stock, 0), count(&stock, AWAY)];
        Ok::<_, LabError>((moves, there, talks, refused, back, talks_on, again, home))
    })
    .await;
    down(&name, &Progress::default()).await.unwrap();
    let (moves, there, talks, refused, back, talks_on, again, home) = moved.unwrap().unwrap();

    assert_eq!(there, [0, 2], "both live at the targets, and nowhere else");
    assert_all_heard(&talks);
    assert_eq!(moves.len(), 2);
    moves.iter().for_each(assert_sound);
    let last_stop = moves.iter().map(|moved| moved.stopped).max().unwrap();
    let last_load = moves.iter().map(|moved| moved.loaded).max().unwrap();
    for moved in &moves {
        assert!(last_stop < moved.loaded, "they stand still together: {moves:?}");
        assert!(
            last_load <= moved.told,
            "none runs before all are loaded: {moves:?}"
        );
    }

    let refused = refused.expect_err("a target had died").to_string();
    assert!(refused.contains("vm"), "{refused}");
    assert_eq!(back, [0, 2], "undone: {refused}");
    assert_all_heard(&talks_on);

    again.iter().for_each(assert_sound);
    assert!(again[0].running <= again[1].stopped, "batches of one: {again:?}");
    assert_eq!(home, [2, 0]);
}

/// Every instant behind the one before it; the parts are the blackout.
fn assert_sound(moved: &HandMove) {
    let parts = moved.parts_ms();
    assert!(parts.iter().all(|part| *part >= 0.0), "{moved:?}");
    assert!(moved.blackout_ms() > 0.0, "{moved:?}");
    let sum: f64 = parts.iter().sum();
    assert!((sum - moved.blackout_ms()).abs() < 1e-6, "{moved:?}");
    assert!(moved.batch_ms >= moved.blackout_ms(), "{moved:?}");
    assert!(moved.source_completed >= moved.loaded, "{moved:?}");
}

/// What was heard in a second, so that all of them run.
async fn talk(stock: &StockLab) -> Result<[Figures; 2], LabError> {
    let before = collect(&stock.lab, false).await?;
    tokio::time::sleep(WARM_UP).await;
    Ok([before, collect(&stock.lab, false).await?])
}

fn assert_all_heard([before, after]: &[Figures; 2]) {
    for (before, after) in before.vms.iter().zip(&after.vms) {
        assert!(after.received > before.received, "{}: {after:?}", after.id);
    }
}

fn count(stock: &StockLab, first: usize) -> usize {
    qemus(&stock.lab, first).len()
}

/// QEMUs of a half of the lab's hosts, from this one on.
fn qemus(lab: &Lab, first: usize) -> Vec<u32> {
    let hosts = &lab.state.hosts[first..first + AWAY];
    let dirs: Vec<String> = hosts
        .iter()
        .map(|host| format!("{}/vms/", host.state_dir.display()))
        .collect();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("qemu-system") && dirs.iter().any(|dir| line.contains(dir.as_str()))
    })
    .collect()
}

/// Whether somebody's stream has reached this QEMU; nothing else speaks TCP on its host.
fn is_sent_to(pid: u32) -> bool {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let mut rows = table.lines().skip(1);
    rows.any(|row| row.split_whitespace().nth(3) == Some(ESTABLISHED))
}

/// Kills one of the two targets that come to a half of the hosts, in the middle of its memory: it
/// is stopped as soon as its source sends, so that what is under way cannot come to its end.
fn strike(lab: &Lab, first: usize) -> JoinHandle<bool> {
    let lab = lab.clone();
    tokio::spawn(async move {
        for _ in 0..STRIKE_LOOKS_MAX {
            if let [one, _] = qemus(&lab, first)[..]
                && is_sent_to(one)
            {
                let signal = |name: &str| Command::new("kill").arg(name).arg(one.to_string()).status();
                assert!(signal("-STOP").unwrap().success());
                tokio::time::sleep(STRIKE_BEHIND).await;
                return signal("-KILL").unwrap().success();
            }
            tokio::time::sleep(STRIKE_POLL).await;
        }
        false
    })
}
