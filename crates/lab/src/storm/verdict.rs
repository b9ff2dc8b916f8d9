//! Whether a round kept the promises, from what was seen of the machine afterwards. Pure.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::{HostName, VmName};

use super::facts::{
    Account, ClusterSight, Facts, MoveSight, QemuSight, RecordSight, Sighting, VmPlace, VmSight,
};
use super::fault::Fault;
use super::ledger::Counts;
use super::strike::Struck;

/// A target's QEMU killed this long before `Committed` may not have been missed in time: it is the
/// VM's only copy then.
const UNNOTICED_MS_MAX: i64 = 1_000;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Violation {
    /// The coordinator would not move a sound cluster.
    #[error("the move was refused: {0}")]
    Refused(String),
    /// The move is not over, and does not say why.
    #[error("the move is still running and does not say what it waits for")]
    HangsSilently,
    /// The move is not over.
    #[error("the move is still running, it waits for {0}")]
    StillRunning(String),
    /// Nothing was done to the move, and it did not commit.
    #[error("the move ended {0} without any fault")]
    NotCommitted(String),
    /// An agent or the coordinator does not run.
    #[error("{0} does not run and cannot be started again")]
    Dead(String),
    /// A part ended that nobody killed.
    #[error("{0} ended by itself")]
    Ended(String),
    /// The coordinator does not answer.
    #[error("the coordinator does not answer")]
    NoCoordinator,
    /// The coordinator lost an agent for good.
    #[error("host {0}: its agent is not connected")]
    NotConnected(HostName),
    /// The coordinator believes that the cluster still moves.
    #[error("the coordinator says that migration {0} is under way, though it is over")]
    Moving(u64),
    /// A VM still plays a part in a move that is over.
    #[error("VM {0} still plays a part in a move")]
    InRole(VmName),
    /// A VM that the coordinator does not know.
    #[error("VM {0} is unknown to the coordinator")]
    Unknown(VmName),
    /// A VM is gone that nobody killed, or nobody says so.
    #[error("VM {vm} has no QEMU, the coordinator says `{state}`")]
    Lost {
        /// The VM.
        vm: VmName,
        /// What the coordinator says of it.
        state: String,
    },
    /// Several QEMUs of one VM.
    #[error("VM {vm} has {} QEMUs: {}", at.len(), at.join(", "))]
    Several {
        /// The VM.
        vm: VmName,
        /// `h1 (pid 7)`.
        at: Vec<String>,
    },
    /// A VM runs in two places.
    #[error("VM {vm} runs in {} places: {}", at.len(), at.join(", "))]
    RunsTwice {
        /// The VM.
        vm: VmName,
        /// Hosts.
        at: Vec<String>,
    },
    /// The coordinator and the machine disagree.
    #[error("VM {vm} is on {there}, the coordinator says {said}")]
    Elsewhere {
        /// The VM.
        vm: VmName,
        /// Where its QEMU is.
        there: HostName,
        /// Where it should be.
        said: HostName,
    },
    /// A VM that does not run.
    #[error("VM {vm} does not run: the coordinator says `{state}`")]
    NotRunning {
        /// The VM.
        vm: VmName,
        /// What the coordinator says of it.
        state: String,
    },
    /// A guest that does not answer.
    #[error("the guest of VM {0} does not answer")]
    Silent(VmName),
    /// A QEMU of which its host's agent says nothing.
    #[error("host {host}: its agent does not list VM {vm}, whose QEMU is there")]
    Unlisted {
        /// The host.
        host: HostName,
        /// The VM.
        vm: VmName,
    },
    /// An agent that lists a VM without a QEMU.
    #[error("host {host}: its agent lists VM {vm}, which has no QEMU there")]
    Phantom {
        /// The host.
        host: HostName,
        /// The VM.
        vm: VmName,
    },
    /// A tap that no QEMU holds.
    #[error("host {host}: tap {name} belongs to no QEMU")]
    Tap {
        /// The host.
        host: HostName,
        /// The device.
        name: String,
    },
    /// A record of a VM that is not there.
    #[error("host {host}: a record of VM {vm}, which is not there")]
    Record {
        /// The host.
        host: HostName,
        /// The VM.
        vm: VmName,
    },
    /// A QEMU without a record.
    #[error("host {host}: the QEMU of VM {vm} has no record")]
    NoRecord {
        /// The host.
        host: HostName,
        /// The VM.
        vm: VmName,
    },
    /// A spool file that is left.
    #[error("host {host}: spool file {file} is left")]
    Spool {
        /// The host.
        host: HostName,
        /// The file.
        file: String,
    },
    /// A namespace too many.
    #[error("namespace {0} does not belong to the lab")]
    Namespace(String),
    /// A namespace too few.
    #[error("namespace {0} is gone")]
    NoNamespace(String),
    /// Not all or nothing (G2).
    #[error("batch {batch} is on both sides: {}", at.join(", "))]
    Split {
        /// The batch.
        batch: usize,
        /// `vm1 on h3`.
        at: Vec<String>,
    },
    /// The guests miss, doubled or reordered something (G1).
    #[error("by the guests' account: {0}")]
    Guests(Counts),
    /// There is no account.
    #[error("there is no account of the guests: {0}")]
    NoAccount(String),
    /// The product's own account is not clean (G1).
    #[error("by the report's account: {0}")]
    Report(Counts),
    /// A figure that cannot be.
    #[error("VM {vm}: the report says a blackout of {blackout_ms} ms in a move of {duration_ms} ms")]
    Impossible {
        /// The VM.
        vm: VmName,
        /// As reported.
        blackout_ms: f64,
        /// As reported.
        duration_ms: f64,
    },
}

/// What became of a round.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every promise was kept.
    Kept,
    /// These VMs lost their only copy to a fault, and the product says so; everything else was
    /// kept.
    LostAndReported(Vec<VmName>),
    /// These promises were not kept.
    Violated(Vec<Violation>),
}

/// VMs whose only copy a fault may have ended.
pub fn may_be_lost(struck: &[Struck], moved: &MoveSight) -> BTreeSet<VmName> {
    let lost = |strike: &Struck| {
        let vm = strike.vm.as_ref()?;
        let batch = moved.vms.iter().find(|place| &place.vm == vm)?.batch;
        let committed = moved.committed_at_ms.get(&batch);
        let may = match (strike.fault, committed) {
            _ if !strike.hit => false,
            (Fault::KillSourceQemu, Some(committed)) => strike.at_ms <= *committed,
            (Fault::KillSourceQemu, None) => true,
            (Fault::KillTargetQemu, Some(committed)) => strike.at_ms + UNNOTICED_MS_MAX >= *committed,
            _ => false,
        };
        may.then(|| vm.clone())
    };
    struck.iter().filter_map(lost).collect()
}

/// Judges a round.
pub fn judge(facts: &Facts) -> Verdict {
    let mut found = Vec::new();
    let nothing = MoveSight::default();
    let moved = facts.moved.as_ref().unwrap_or(&nothing);
    let lost = lost_and_said(facts, &may_be_lost(&facts.struck, moved));
    match &facts.moved {
        Err(reason) => found.push(Violation::Refused(reason.clone())),
        Ok(moved) => move_found(facts, moved, &lost, &mut found),
    }
    parts_found(facts, &mut found);
    match &facts.seen.cluster {
        None => found.push(Violation::NoCoordinator),
        Some(cluster) => {
            vms_found(facts, cluster, &lost, &mut found);
            hosts_found(&facts.seen, cluster, &lost, &mut found);
        }
    }
    remains_found(&facts.seen, &lost, &mut found);
    account_found(facts, &mut found);
    if !found.is_empty() {
        return Verdict::Violated(found);
    }
    match lost.is_empty() {
        true => Verdict::Kept,
        false => Verdict::LostAndReported(lost.into_iter().collect()),
    }
}

/// Those of `may` that have no QEMU and of which the coordinator says that they do not run.
fn lost_and_said(facts: &Facts, may: &BTreeSet<VmName>) -> BTreeSet<VmName> {
    let Some(cluster) = &facts.seen.cluster else {
        return BTreeSet::new();
    };
    let gone = |vm: &&VmName| facts.seen.qemus.iter().all(|qemu| &qemu.vm != *vm);
    let said = |vm: &&VmName| cluster.vms.iter().any(|sight| &sight.vm == *vm && !sight.running);
    may.iter().filter(gone).filter(said).cloned().collect()
}

fn move_found(facts: &Facts, moved: &MoveSight, lost: &BTreeSet<VmName>, found: &mut Vec<Violation>) {
    match (&moved.ended, &moved.waits_for) {
        (true, _) => {}
        (false, Some(what)) => found.push(Violation::StillRunning(what.clone())),
        (false, None) => found.push(Violation::HangsSilently),
    }
    if moved.ended && facts.struck.is_empty() && moved.outcome != "committed" {
        found.push(Violation::NotCommitted(moved.outcome.clone()));
    }
    // A VM that was lost took frames with it, also where it has been started again since.
    let with_loss = !lost.is_empty() || !facts.started_again.is_empty();
    if moved.ended && moved.frames != Counts::default() && !with_loss {
        found.push(Violation::Report(moved.frames));
    }
    for place in &moved.vms {
        if let Some(blackout_ms) = place.blackout_ms
            && moved.ended
            && !(0.0..=moved.duration_ms).contains(&blackout_ms)
        {
            found.push(Violation::Impossible {
                vm: place.vm.clone(),
                blackout_ms,
                duration_ms: moved.duration_ms,
            });
        }
    }
    if moved.ended {
        split_found(facts, moved, lost, found);
    }
}

/// Every batch is whole on one side (G2), but for VMs that somebody took back to their source.
fn split_found(facts: &Facts, moved: &MoveSight, lost: &BTreeSet<VmName>, found: &mut Vec<Violation>) {
    let mut batches: BTreeMap<usize, Vec<(&VmPlace, &HostName)>> = BTreeMap::new();
    let of_batch = |place: &&VmPlace| !lost.contains(&place.vm) && !place.reclaimed;
    for place in moved.vms.iter().filter(of_batch) {
        if let Some(qemu) = facts.seen.qemus.iter().find(|qemu| qemu.vm == place.vm) {
            batches.entry(place.batch).or_default().push((place, &qemu.host));
        }
    }
    for (batch, vms) in batches {
        let home = vms.iter().all(|(place, host)| &&place.source == host);
        let arrived = vms.iter().all(|(place, host)| &&place.target == host);
        if !home && !arrived {
            let at = vms.iter().map(|(place, host)| format!("{} on {host}", place.vm));
            found.push(Violation::Split {
                batch,
                at: at.collect(),
            });
        }
    }
}

fn parts_found(facts: &Facts, found: &mut Vec<Violation>) {
    let seen = &facts.seen;
    found.extend(facts.ended_by_themselves.iter().cloned().map(Violation::Ended));
    found.extend(seen.dead_parts.iter().cloned().map(Violation::Dead));
    found.extend(seen.strange_namespaces.iter().cloned().map(Violation::Namespace));
    found.extend(
        seen.missing_namespaces
            .iter()
            .cloned()
            .map(Violation::NoNamespace),
    );
}

fn vms_found(facts: &Facts, cluster: &ClusterSight, lost: &BTreeSet<VmName>, found: &mut Vec<Violation>) {
    let over = facts.moved.as_ref().is_ok_and(|moved| moved.ended);
    if let (Some(id), true) = (cluster.migration, over) {
        found.push(Violation::Moving(id));
    }
    for vm in &facts.vms {
        match cluster.vms.iter().find(|sight| &sight.vm == vm) {
            None => found.push(Violation::Unknown(vm.clone())),
            Some(sight) if !lost.contains(vm) => vm_found(&facts.seen, sight, over, found),
            Some(_) => {}
        }
    }
}

fn vm_found(seen: &Sighting, sight: &VmSight, over: bool, found: &mut Vec<Violation>) {
    let (vm, state) = (sight.vm.clone(), sight.state.clone());
    let qemus: Vec<_> = seen.qemus.iter().filter(|qemu| qemu.vm == vm).collect();
    let answering: Vec<_> = seen.guests.iter().filter(|guest| guest.vm == vm).collect();
    if answering.len() > 1 {
        found.push(Violation::RunsTwice {
            vm: vm.clone(),
            at: answering.iter().map(|guest| guest.host.to_string()).collect(),
        });
    }
    match qemus.as_slice() {
        [] => return found.push(Violation::Lost { vm, state }),
        [only] if only.host != sight.host => found.push(Violation::Elsewhere {
            vm: vm.clone(),
            there: only.host.clone(),
            said: sight.host.clone(),
        }),
        [_] => {}
        several => found.push(Violation::Several {
            vm: vm.clone(),
            at: several
                .iter()
                .map(|qemu| format!("{} (pid {})", qemu.host, qemu.pid))
                .collect(),
        }),
    }
    if sight.moving && over {
        found.push(Violation::InRole(vm.clone()));
    }
    if !sight.running {
        found.push(Violation::NotRunning { vm, state });
    } else if answering.is_empty() {
        found.push(Violation::Silent(vm));
    }
}

/// The agents' lists and the process table, both ways.
fn hosts_found(seen: &Sighting, cluster: &ClusterSight, lost: &BTreeSet<VmName>, found: &mut Vec<Violation>) {
    for sight in &cluster.hosts {
        let host = sight.host.clone();
        if !sight.connected {
            found.push(Violation::NotConnected(host));
            continue;
        }
        let here: BTreeSet<&VmName> = seen
            .qemus
            .iter()
            .filter(|qemu| qemu.host == host)
            .map(|qemu| &qemu.vm)
            .collect();
        let listed: BTreeSet<&VmName> = sight.vms.iter().collect();
        found.extend(here.difference(&listed).map(|vm| Violation::Unlisted {
            host: host.clone(),
            vm: (*vm).clone(),
        }));
        let phantoms = listed.difference(&here).filter(|vm| !lost.contains(**vm));
        found.extend(phantoms.map(|vm| Violation::Phantom {
            host: host.clone(),
            vm: (*vm).clone(),
        }));
    }
}

/// Taps, records and spool files that nothing needs any more.
fn remains_found(seen: &Sighting, lost: &BTreeSet<VmName>, found: &mut Vec<Violation>) {
    let ownerless = seen.taps.iter().filter(|tap| tap.qemus.is_empty());
    found.extend(ownerless.map(|tap| Violation::Tap {
        host: tap.host.clone(),
        name: tap.name.clone(),
    }));
    let of_qemu = |qemu: &QemuSight| (qemu.host.clone(), qemu.vm.clone());
    let of_record = |record: &RecordSight| (record.host.clone(), record.vm.clone());
    let qemus: BTreeSet<_> = seen.qemus.iter().map(of_qemu).collect();
    let records: BTreeSet<_> = seen.records.iter().map(of_record).collect();
    let empty = records.difference(&qemus).filter(|(_, vm)| !lost.contains(vm));
    found.extend(empty.cloned().map(|(host, vm)| Violation::Record { host, vm }));
    let bare = qemus.difference(&records).cloned();
    found.extend(bare.map(|(host, vm)| Violation::NoRecord { host, vm }));
    found.extend(seen.spools.iter().map(|spool| Violation::Spool {
        host: spool.host.clone(),
        file: spool.file.clone(),
    }));
}

fn account_found(facts: &Facts, found: &mut Vec<Violation>) {
    let mut hit = facts.struck.iter().filter(|strike| strike.hit);
    let fabric_lost = hit.any(|strike| strike.fault.loses_frames());
    let counts = match &facts.account {
        Account::Missing(why) => return found.push(Violation::NoAccount(why.clone())),
        Account::Counted(counts) => *counts,
    };
    let counts = match fabric_lost {
        true => by_the_fabric(facts, counts),
        false => counts,
    };
    if counts != Counts::default() {
        found.push(Violation::Guests(counts));
    }
}

/// Without what a fabric did that lost a host's link. It loses frames; and it forgets the VMs
/// behind that link and floods to both sides, so that a frame can come once more, by the path that
/// is being closed: the report calls those late.
fn by_the_fabric(facts: &Facts, counts: Counts) -> Counts {
    let late = facts.moved.as_ref().map_or(0, |moved| moved.late);
    let flooded = counts.duplicated + counts.reordered <= late;
    Counts {
        lost: 0,
        duplicated: if flooded { 0 } else { counts.duplicated },
        reordered: if flooded { 0 } else { counts.reordered },
        ..counts
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
