//! The opponent of the figures on real QEMU: a move by plain `migrate` arrives, keeps the guests whole, and costs messages.
//!
//! Needs root and QEMU; says so where it cannot run.

use std::path::Path;
use std::time::Duration;

use transhume_lab::stock::{DOWNTIME_MS_DEFAULT, StockLab};
use transhume_lab::wire::{Op, Outcome};
use transhume_lab::{Channel, Figures, Lab, LabName, LabUp, Progress, Traffic, collect, down};

const CALL: Duration = Duration::from_secs(30);
/// Traffic before, and after, the move.
const TRAFFIC: Duration = Duration::from_secs(2);

/// Removes the lab also when the test panics.
struct Guard(LabName);

impl Drop for Guard {
    fn drop(&mut self) {
        let name = self.0.clone();
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(down(&name, &Progress::default()))
        })
        .join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    let qemu = Path::new("/usr/bin/qemu-system-x86_64").exists() && Path::new("/usr/bin/qemu-nbd").exists();
    if !(root && qemu) {
        eprintln!("SKIPPED: this test needs root ({root}) and QEMU with qemu-nbd ({qemu})");
    }
    root && qemu
}

/// Whether the only QEMU of each VM is on the wanted host: its console answers there, and nowhere else.
async fn all_answer_on(lab: &Lab, hosts: [&str; 2]) {
    for (vm, here) in lab.state.vms.iter().zip(hosts) {
        for host in &lab.state.hosts {
            let channel = Channel::at(vm.name.clone(), host.channel_socket(&vm.name));
            let limit = match host.name.as_str() == here {
                true => CALL,
                false => Duration::from_millis(500),
            };
            let answer = channel.call(Op::Stats, limit).await;
            let answered = matches!(&answer, Ok(said) if matches!(said.outcome, Outcome::Stats(_)));
            assert_eq!(
                answered,
                host.name.as_str() == here,
                "{} on {}",
                vm.name,
                host.name
            );
        }
    }
}

/// Messages lost in all.
fn lost(figures: &Figures) -> u64 {
    figures.vms.iter().map(|vm| vm.lost).sum()
}

fn whole(figures: &Figures) {
    for vm in &figures.vms {
        assert_eq!((vm.disk_errors, vm.tcp_broken), (0, 0), "{vm:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_move_arrives_and_costs_messages() {
    if !able() {
        return;
    }
    let options = LabUp {
        name: format!("t{}-stock", std::process::id()).parse().unwrap(),
        vms: 2,
        rate: 1000,
        traffic: Traffic::Mesh,
        ..LabUp::default()
    };
    let _guard = Guard(options.name.clone());
    let mut stock = StockLab::up(&options).await.unwrap();
    all_answer_on(&stock.lab, ["h1", "h2"]).await;
    tokio::time::sleep(TRAFFIC).await;
    let control = collect(&stock.lab, false).await.unwrap();
    assert_eq!(control.pairs, [], "without a move nothing is lost");

    let moves = stock.move_all(2, DOWNTIME_MS_DEFAULT).await.unwrap();
    let names: Vec<_> = moves.iter().map(|moved| moved.vm.to_string()).collect();
    assert_eq!(names, ["vm1", "vm2"]);
    assert!(moves.iter().all(|moved| !moved.blackout.is_zero()), "{moves:?}");
    all_answer_on(&stock.lab, ["h3", "h4"]).await;
    tokio::time::sleep(TRAFFIC).await;
    let moved = collect(&stock.lab, true).await.unwrap();
    whole(&moved);
    eprintln!("{moves:?}, lost {}", lost(&moved));
    assert!(
        lost(&moved) > 0,
        "nobody holds messages for a VM that stands still: {moved:?}"
    );

    // The second visit of a host finds the sockets of the first.
    stock.move_all(2, DOWNTIME_MS_DEFAULT).await.unwrap();
    all_answer_on(&stock.lab, ["h1", "h2"]).await;
    whole(&collect(&stock.lab, true).await.unwrap());
}
