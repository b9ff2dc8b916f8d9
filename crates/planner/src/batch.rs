//! Step 1 of §3.3.2: which k VMs move in each round.
//!
//! Until a batch commits, both copies of each of its VMs exist, so a target must hold the newcomers
//! beside everything that is still there. What a VM occupied on its source is free for the batches
//! after its own.
//! The paper writes 0 < k < N(V). k = N(V) is allowed here: it is the whole cluster as one batch,
//! which "the simplest solution" of §3.2 describes and small clusters want; with N(V) = 1 the
//! paper's rule would allow no k at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use transhume_model::{Capacity, HostName, VmName};

use crate::place::{Move, Placement};

/// The set V_k of one round of the ten steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// At least one, at most k moves; all commit together.
    pub moves: Vec<Move>,
}

/// Why the VMs cannot be cut into batches.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// k = 0: no round would ever move anything.
    #[error("k = 0 moves nothing: choose k from 1 to {vms}, the number of VMs that move (§3.3.2 step 1)")]
    Zero {
        /// VMs that move.
        vms: usize,
    },
    /// k is larger than the cluster.
    #[error("k = {k} is more than the {vms} VMs that move: choose k from 1 to {vms} (§3.3.2 step 1)")]
    TooLarge {
        /// As asked.
        k: usize,
        /// VMs that move.
        vms: usize,
    },
    /// What is left to move waits for each other's place: no target can hold a second copy.
    #[error(
        "{} cannot move: each waits on {} for room that only another of them would give back; a spare host, or less to move, would break the cycle",
        names(.waiting), first_target(.waiting)
    )]
    Cycle {
        /// The moves that wait for each other.
        waiting: Vec<Move>,
    },
}

fn names(moves: &[Move]) -> String {
    let names: Vec<&str> = moves.iter().map(|m| m.vm.as_str()).collect();
    names.join(", ")
}

fn first_target(moves: &[Move]) -> &str {
    moves.first().map_or("its target", |m| m.target.as_str())
}

/// Cuts the moves into batches of at most k, in an order in which every target holds both copies'
/// worth at every moment. VMs that stay are in no batch; when all stay there is no batch, whatever
/// k is.
pub fn batches(placement: &Placement, k: usize) -> Result<Vec<Batch>, BatchError> {
    let mut waiting: Vec<&Move> = placement.moves.iter().filter(|m| !m.stays()).collect();
    let vms = waiting.len();
    match k {
        0 => return Err(BatchError::Zero { vms }),
        _ if vms == 0 => return Ok(Vec::new()),
        k if k > vms => return Err(BatchError::TooLarge { k, vms }),
        _ => {}
    }
    let mut free = placement.free.clone();
    let mut batches = Vec::new();
    while !waiting.is_empty() {
        let batch = take_batch(&mut waiting, &mut free, k);
        if batch.is_empty() {
            return Err(BatchError::Cycle {
                waiting: waiting.into_iter().cloned().collect(),
            });
        }
        for done in &batch {
            if let Some(left) = free.get_mut(&done.source) {
                *left = left.plus(&done.demand);
            }
        }
        batches.push(Batch { moves: batch });
    }
    Ok(batches)
}

/// Takes up to k moves that fit beside what is there, in the order of the placement.
fn take_batch(waiting: &mut Vec<&Move>, free: &mut BTreeMap<HostName, Capacity>, k: usize) -> Vec<Move> {
    let mut batch = Vec::new();
    waiting.retain(|candidate| {
        let room = free.get_mut(&candidate.target).filter(|_| batch.len() < k);
        match room {
            Some(left) if left.holds(&candidate.demand) => {
                *left = left.minus(&candidate.demand);
                batch.push((*candidate).clone());
                false
            }
            Some(_) | None => true,
        }
    });
    batch
}

impl Batch {
    /// The VMs of the batch.
    pub fn vms(&self) -> impl Iterator<Item = &VmName> {
        self.moves.iter().map(|m| &m.vm)
    }
}
