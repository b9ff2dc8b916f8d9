//! The opponent of the figures really moves real guests, and really loses what people lose today.
//!
//! Needs root and QEMU.

use transhume_lab::stock::{DOWNTIME_MS_DEFAULT, StockLab};
use transhume_lab::{LabName, LabUp, Progress, collect, down};

#[tokio::test(flavor = "multi_thread")]
async fn stock_qemu_moves_a_cluster_and_loses_messages() {
    let name: LabName = format!("s{}", std::process::id()).parse().unwrap();
    let options = LabUp {
        name: name.clone(),
        hosts: 4,
        vms: 2,
        rate: 1000,
        ..LabUp::default()
    };
    let moved = tokio::spawn(async move {
        let mut stock = StockLab::up(&options).await?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let before = collect(&stock.lab, false).await?;
        let moves = stock.move_all(2, DOWNTIME_MS_DEFAULT).await?;
        let after = collect(&stock.lab, false).await?;
        Ok::<_, transhume_lab::LabError>((before, moves, after))
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
