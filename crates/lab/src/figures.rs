//! Exact figures of the workload: senders stop everywhere, what is in flight arrives, then every
//! number is final.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use transhume_guest::wire::{Op, Outcome, Stats};
use transhume_model::VmName;

use crate::state::{Lab, VmState};
use crate::{Channel, LabError};

/// A guest may be in the middle of a move.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Nothing new for this long: nothing is in flight any more.
const SETTLE_POLL: Duration = Duration::from_millis(300);
const SETTLE_MS_MAX: u64 = 15_000;

/// The figures of all VMs since their start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// By index.
    pub vms: Vec<VmFigures>,
    /// Pairs that lost, doubled or reordered something, or never met.
    pub pairs: Vec<PairFigures>,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFigures {
    /// Its name.
    pub id: VmName,
    /// Messages it sent.
    pub sent: u64,
    /// Different messages it received.
    pub received: u64,
    /// Messages sent to it that it never received.
    pub lost: u64,
    /// Messages it received once more.
    pub duplicated: u64,
    /// Messages that came to it after a later one.
    pub reordered: u64,
    /// Longest silence that a peer heard from it, since the figures were last collected.
    pub gap_ms: u64,
    /// Streams of this VM that broke.
    pub tcp_broken: u64,
    /// Longest time without a byte on one of its streams, since the figures were last collected.
    pub tcp_stall_ms: u64,
    /// Disk writes that failed, and blocks that held something else than what was written.
    pub disk_errors: u64,
    /// Disk blocks written.
    pub disk_writes: u64,
}

/// Messages from one VM to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairFigures {
    /// Sender.
    pub from: VmName,
    /// Receiver.
    pub to: VmName,
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
    /// Received once more.
    pub duplicated: u64,
    /// Received after a later one.
    pub reordered: u64,
}

/// Stops the senders, waits for what is in flight, and counts. The senders go on afterwards, also
/// after an error.
///
/// With `verify_disks` every block ever written is read back first.
pub async fn collect(lab: &Lab, verify_disks: bool) -> Result<Figures, LabError> {
    collect_of(lab, lab.state.vms.iter().collect(), verify_disks).await
}

/// The same without some VMs, that do not answer: what was between them and others is not counted.
pub async fn collect_without(lab: &Lab, out: &[VmName], verify_disks: bool) -> Result<Figures, LabError> {
    for vm in out {
        lab.vm(vm.as_str())?;
    }
    let vms = lab.state.vms.iter().filter(|vm| !out.contains(&vm.name));
    collect_of(lab, vms.collect(), verify_disks).await
}

async fn collect_of(lab: &Lab, vms: Vec<&VmState>, verify_disks: bool) -> Result<Figures, LabError> {
    let counted = count(lab, &vms, verify_disks).await;
    let resumed = everywhere(lab, &vms, Op::Resume).await;
    let figures = counted?;
    resumed?;
    Ok(figures)
}

async fn count(lab: &Lab, vms: &[&VmState], verify_disks: bool) -> Result<Figures, LabError> {
    everywhere(lab, vms, Op::Quiesce).await?;
    if verify_disks {
        // A VM without disk refuses; its figures then say nothing about disks.
        let verify = |vm| async move { Channel::new(lab, vm).call(Op::VerifyDisk, CALL_LIMIT).await };
        for result in join_all(vms.iter().copied().map(verify)).await {
            match result {
                Ok(_) | Err(LabError::Guest { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let stats = settled(lab, vms).await?;
    Ok(figures(vms, &stats))
}

async fn everywhere(lab: &Lab, vms: &[&VmState], op: Op) -> Result<Vec<Stats>, LabError> {
    try_join_all(vms.iter().map(|vm| {
        let op = op.clone();
        async move {
            match Channel::new(lab, vm).call(op, CALL_LIMIT).await?.outcome {
                Outcome::Stats(stats) => Ok(stats),
                other => {
                    let said = format!("answered {other:?} instead of figures");
                    Err(LabError::Guest {
                        vm: vm.name.to_string(),
                        said,
                    })
                }
            }
        }
    }))
    .await
}

/// Asks until two answers in a row agree.
async fn settled(lab: &Lab, vms: &[&VmState]) -> Result<Vec<Stats>, LabError> {
    let deadline = Instant::now() + Duration::from_millis(SETTLE_MS_MAX);
    let mut before = everywhere(lab, vms, Op::Stats).await?;
    loop {
        sleep(SETTLE_POLL).await;
        let now = everywhere(lab, vms, Op::Stats).await?;
        if arrived(&now) == arrived(&before) {
            return Ok(now);
        }
        if Instant::now() > deadline {
            let what = "the arrival of everything in flight".to_owned();
            return Err(LabError::Timeout {
                what,
                waited_ms: SETTLE_MS_MAX,
            });
        }
        before = now;
    }
}

/// What each has heard from each; a VM that is left out sends on and is not waited for.
fn arrived(stats: &[Stats]) -> Vec<u64> {
    let asked = |index| stats.iter().any(|vm| vm.index == index);
    stats
        .iter()
        .flat_map(|vm| vm.peers.iter().filter(|peer| asked(peer.index)))
        .map(|peer| peer.received + peer.duplicated)
        .collect()
}

/// Pure: both ends of every pair, put together.
fn figures(vms: &[&VmState], stats: &[Stats]) -> Figures {
    let name: BTreeMap<u16, &VmName> = vms.iter().map(|vm| (vm.index, &vm.name)).collect();
    let peer = |at: u16, of: u16| {
        let stats = stats.iter().find(|stats| stats.index == at)?;
        stats.peers.iter().find(|peer| peer.index == of)
    };
    let mut pairs = Vec::new();
    let rows = vms.iter().zip(stats).map(|(vm, own)| {
        let streams = || own.tcp.iter().filter(|stream| name.contains_key(&stream.index));
        let mut row = VmFigures {
            id: vm.name.clone(),
            sent: own.peers.iter().map(|peer| peer.sent).sum(),
            received: 0,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            gap_ms: own
                .peers
                .iter()
                .filter_map(|p| peer(p.index, vm.index))
                .map(|p| p.gap_ms)
                .max()
                .unwrap_or(0),
            tcp_broken: streams().filter(|stream| stream.broken).count() as u64,
            tcp_stall_ms: streams().map(|stream| stream.stall_ms).max().unwrap_or(0),
            disk_errors: own.disk.map_or(0, |disk| disk.errors),
            disk_writes: own.disk.map_or(0, |disk| disk.writes),
        };
        for from in own.peers.iter().filter(|from| name.contains_key(&from.index)) {
            let sent = peer(from.index, vm.index).map_or(0, |there| there.sent);
            row.received += from.received;
            row.lost += sent.saturating_sub(from.received);
            row.duplicated += from.duplicated;
            row.reordered += from.reordered;
            let clean = sent == from.received && from.duplicated == 0 && from.reordered == 0;
            if (!clean || sent == 0)
                && let Some(&sender) = name.get(&from.index)
            {
                pairs.push(PairFigures {
                    from: sender.clone(),
                    to: vm.name.clone(),
                    sent,
                    received: from.received,
                    duplicated: from.duplicated,
                    reordered: from.reordered,
                });
            }
        }
        row
    });
    let vms = rows.collect();
    Figures { vms, pairs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_guest::wire::PeerStats;

    fn vm(index: u16) -> VmState {
        VmState {
            name: format!("vm{}", index + 1).parse().unwrap(),
            index,
            ip: [10, 78, 0, 1].into(),
            first_host: "h1".parse().unwrap(),
        }
    }

    fn stats(index: u16, peers: Vec<PeerStats>) -> Stats {
        Stats {
            index,
            peers,
            ..Stats::default()
        }
    }

    #[test]
    fn loss_is_counted_per_pair_and_belongs_to_the_receiver() {
        let peer = |index, sent, received, gap_ms| PeerStats {
            index,
            sent,
            received,
            gap_ms,
            ..Default::default()
        };
        let figures = figures(
            &[&vm(0), &vm(1)],
            &[
                stats(0, vec![peer(1, 100, 50, 7)]),
                stats(1, vec![peer(0, 50, 97, 40)]),
            ],
        );
        let row = |at: usize| {
            let vm = &figures.vms[at];
            (vm.sent, vm.received, vm.lost, vm.gap_ms)
        };
        assert_eq!(row(0), (100, 50, 0, 40), "vm2 heard nothing from vm1 for 40 ms");
        assert_eq!(row(1), (50, 97, 3, 7));
        assert_eq!(figures.pairs.len(), 1);
        assert_eq!(
            (figures.pairs[0].from.as_str(), figures.pairs[0].to.as_str()),
            ("vm1", "vm2")
        );
    }

    #[test]
    fn what_was_between_a_vm_that_is_left_out_and_others_is_not_counted() {
        let peer = |index, sent, received| PeerStats {
            index,
            sent,
            received,
            ..Default::default()
        };
        let counted = figures(
            &[&vm(0), &vm(2)],
            &[
                stats(0, vec![peer(1, 100, 50), peer(2, 8, 9)]),
                stats(2, vec![peer(0, 9, 8), peer(1, 70, 3)]),
            ],
        );
        assert_eq!(counted.pairs, []);
        let received: Vec<_> = counted.vms.iter().map(|vm| (vm.received, vm.lost)).collect();
        assert_eq!(received, [(9, 0), (8, 0)]);
        let heard = |left_out, other| {
            let peers = vec![peer(1, 0, left_out), peer(2, 0, other)];
            arrived(&[stats(0, peers), stats(2, vec![])])
        };
        assert_eq!(heard(50, 9), heard(51, 9), "it sends on, and is not waited for");
        assert_ne!(heard(50, 8), heard(50, 9));
    }
}
