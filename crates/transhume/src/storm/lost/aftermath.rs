//! What must hold once the move is over: what lives runs in one place and missed no more than the
//! report says, what does not is booted elsewhere, and the cluster moves again.

use std::time::Instant;

use transhume_api::VmRestart;
use transhume_lab::storm::{Sighting, StatedLoss, look};
use transhume_model::{HostName, VmName};
use transhume_protocol::report::{Ending, MigrationReport};

use super::operator::fence;
use super::{CALM_MAX, LostLine, POLL};
use crate::failure::Failure;
use crate::storm::scene::{Scene, word};

/// What lives runs; what does not is booted elsewhere; the cluster moves again.
pub async fn check(scene: &mut Scene, report: &MigrationReport, line: &mut LostLine) -> Result<(), Failure> {
    let lost = line.lost.clone();
    let live: Vec<HostName> = scene
        .lab()
        .state
        .hosts
        .iter()
        .map(|host| host.name.clone())
        .collect();
    let live: Vec<HostName> = live
        .into_iter()
        .filter(|host| Some(host) != lost.as_ref())
        .collect();
    if let Some(host) = &lost {
        fence(scene, host).await?;
    }
    check_copies(scene, report, line).await?;
    check_guests(scene, report, line).await?;
    let cluster = scene.cluster().await?;
    for vm in &cluster.vms {
        if lost.as_ref() == Some(&vm.host) {
            let on = live[line.restarted.len() % live.len()].to_string();
            let restarted = scene.restart(&vm.vm, VmRestart { on }).await;
            match restarted {
                Ok(()) => line.restarted.push(vm.vm.clone()),
                Err(failure) => line
                    .violations
                    .push(format!("VM {} cannot be restarted: {}", vm.vm, failure.message)),
            }
        } else if !vm.running && line.lost_vms.contains(&vm.vm) {
            match scene.start(&vm.vm).await {
                Ok(()) => line.restarted.push(vm.vm.clone()),
                Err(failure) => line
                    .violations
                    .push(format!("VM {} cannot be started: {}", vm.vm, failure.message)),
            }
        }
    }
    all_run(scene, line).await?;
    again(scene, &live, line).await
}

/// Before anything is booted again: a VM whose QEMU is there runs and is not called lost; one that
/// has none is.
async fn check_copies(scene: &Scene, report: &MigrationReport, line: &mut LostLine) -> Result<(), Failure> {
    let seen: Sighting = look(&scene.lab()).await?;
    for vm in &report.vms {
        let copies: Vec<String> = seen
            .qemus
            .iter()
            .filter(|qemu| qemu.vm == vm.id)
            .map(|qemu| qemu.host.to_string())
            .collect();
        let lost = vm.lost.is_some();
        let on_lost_host = line.lost.as_ref() == Some(&vm.host);
        match copies.as_slice() {
            [] if !lost && !on_lost_host => line
                .violations
                .push(format!("VM {} is gone, and nobody says so", vm.id)),
            [host] if lost => line
                .violations
                .push(format!("VM {} is called lost, and is on {host}", vm.id)),
            [host] if *host != vm.host.as_str() => {
                line.violations
                    .push(format!("VM {} is on {host}, the report says {}", vm.id, vm.host));
            }
            [_, _, ..] => line
                .violations
                .push(format!("VM {} is on {}", vm.id, copies.join(", "))),
            [] | [_] => {}
        }
        if vm
            .frames
            .is_some_and(|frames| frames.lost + frames.duplicated + frames.reordered > 0)
            && !lost
        {
            line.violations.push(format!("VM {}: {:?}", vm.id, vm.frames));
        }
    }
    Ok(())
}

/// Before anything is booted again: what the guests that live count of each other.
async fn check_guests(
    scene: &mut Scene,
    report: &MigrationReport,
    line: &mut LostLine,
) -> Result<(), Failure> {
    let cluster = scene.cluster().await?;
    let gone = cluster
        .vms
        .into_iter()
        .filter(|vm| !vm.running || line.lost.as_ref() == Some(&vm.host) || line.lost_vms.contains(&vm.vm));
    let gone: Vec<VmName> = gone.map(|vm| vm.vm).collect();
    line.guests = scene.count(&gone).await?;
    let contradiction = StatedLoss::of(report, &gone).contradicted_by(&line.guests);
    line.violations.extend(contradiction);
    Ok(())
}

async fn all_run(scene: &Scene, line: &mut LostLine) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let cluster = scene.cluster().await?;
        let seen = look(&scene.lab()).await?;
        let mut wrong = Vec::new();
        for vm in &cluster.vms {
            let answers = seen
                .guests
                .iter()
                .any(|guest| guest.vm == vm.vm && guest.host == vm.host);
            if !vm.running || !answers {
                wrong.push(format!(
                    "VM {} on {} is {}, and answers: {answers}",
                    vm.vm, vm.host, vm.state
                ));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > CALM_MAX {
            line.violations.extend(wrong);
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Nothing of the lost host holds the cluster.
async fn again(scene: &Scene, live: &[HostName], line: &mut LostLine) -> Result<(), Failure> {
    let cluster = scene.cluster().await?;
    let from: Vec<HostName> = live
        .iter()
        .filter(|host| cluster.vms.iter().any(|vm| vm.host == **host))
        .take(1)
        .cloned()
        .collect();
    let to: Vec<HostName> = live.iter().filter(|host| !from.contains(host)).cloned().collect();
    let migration = match scene.migrate(&from, &to, 1).await {
        Ok(migration) => migration,
        Err(failure) => {
            line.again = "refused".to_owned();
            line.violations
                .push(format!("the cluster cannot be moved again: {}", failure.message));
            return Ok(());
        }
    };
    let begun = Instant::now();
    loop {
        let report = scene.client.report(migration).await?;
        line.again = word(&report.outcome);
        match report.outcome {
            Ending::Committed => return Ok(()),
            Ending::Running if begun.elapsed() < CALM_MAX => tokio::time::sleep(POLL).await,
            _ => {
                line.violations.push(format!(
                    "moved again it ends as {}: {:?}",
                    line.again, report.trouble
                ));
                return Ok(());
            }
        }
    }
}
