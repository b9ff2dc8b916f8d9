//! What is asked of a move, and every wait in it by name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, Epoch, HostName, MigrationId, Millis, VmName, VmSpec};

use crate::forecast::MoveForecast;
use crate::message::Mode;
use crate::step::WaitLimit;

/// A move as the planner laid it out and the user accepted it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// Its number, from 1. Order ids are derived from it: see [`super::OrderIds`].
    pub migration: MigrationId,
    /// The cluster that moves.
    pub cluster: ClusterName,
    /// Live or offline.
    pub mode: Mode,
    /// Epoch of the first batch; each batch takes the next one, [`MoveRequest::epoch_last`] is the
    /// last. The driver allots epochs: each one is newer than any an agent may hold for these VMs.
    pub epoch: Epoch,
    /// S1, for the report.
    pub from: Vec<HostName>,
    /// S2 as asked, for the report.
    pub to: Vec<HostName>,
    /// The VMs, in batches of k, in the order in which they go.
    pub batches: Vec<Vec<MoveVm>>,
    /// How long things may take.
    #[serde(default)]
    pub limits: Limits,
    /// What is expected, for the report. Nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<MoveForecast>,
}

/// One VM of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveVm {
    /// The VM, machine type filled in.
    pub spec: VmSpec,
    /// Host it leaves.
    pub source: HostName,
    /// Host it goes to; another one than `source`.
    pub target: HostName,
    /// It is powered off: its place moves with the cluster, nothing is copied.
    #[serde(default)]
    pub powered_off: bool,
}

/// Why a move cannot even begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to move.
    #[error("migration {migration} has no VM, or a batch without one")]
    Empty {
        /// The move.
        migration: MigrationId,
    },
    /// A VM appears in two places of the request.
    #[error("VM {vm} is in the move twice")]
    Twice {
        /// The VM.
        vm: VmName,
    },
    /// A VM is to go where it is.
    #[error("VM {vm} is on host {host} already")]
    AlreadyThere {
        /// The VM.
        vm: VmName,
        /// Its source and target.
        host: HostName,
    },
}

impl MoveRequest {
    /// Whether the request can be carried out at all. (Whether hosts, names and resources fit is
    /// the planner's.)
    pub(super) fn check(&self) -> Result<(), RequestError> {
        if self.batches.is_empty() || self.batches.iter().any(Vec::is_empty) {
            return Err(RequestError::Empty {
                migration: self.migration,
            });
        }
        let mut seen = BTreeSet::new();
        for MoveVm {
            spec, source, target, ..
        } in self.batches.iter().flatten()
        {
            if source == target {
                return Err(RequestError::AlreadyThere {
                    vm: spec.name.clone(),
                    host: source.clone(),
                });
            }
            if !seen.insert(&spec.name) {
                return Err(RequestError::Twice {
                    vm: spec.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Epoch of the last batch. The driver's next epoch must be above it.
    pub fn epoch_last(&self) -> Epoch {
        Epoch(self.epoch.0 + self.batches.len().saturating_sub(1) as u64)
    }
}

/// Every wait of a move. Milliseconds; before commit a wait that runs out rolls the batch back,
/// after it the order is given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Step 1: all targets have reserved.
    pub reserve_ms_max: Millis,
    /// Step 1: all targets have prepared.
    pub prepare_ms_max: Millis,
    /// Step 2: all page streams run.
    pub start_pre_copy_ms_max: Millis,
    /// Steps 3 and 4: all buffers are open and connected.
    pub buffers_ms_max: Millis,
    /// Steps 2 to 4: all VMs have converged, counted from the start of pre-copy.
    pub pre_copy_ms_max: Millis,
    /// Step 5: all VMs are stopped and captured.
    pub capture_ms_max: Millis,
    /// Step 6: all VMs are loaded on their targets.
    pub stop_and_copy_ms_max: Millis,
    /// Step 8: an order to activate without answer is given again after this.
    pub activate_ms_max: Millis,
    /// Step 9: an order to close or discard without answer is given again after this.
    pub close_ms_max: Millis,
    /// Roll-back: an order to abort without answer is given again after this.
    pub abort_ms_max: Millis,
    /// How long a lost agent is tolerated before commit. Its restart breaks page stream and tunnel,
    /// so 0.
    pub agent_lost_ms_max: Millis,
    /// Pause before an order that failed is given again, after commit and during roll-back; doubles
    /// each time.
    pub retry_ms: Millis,
    /// Longest such pause.
    pub retry_ms_max: Millis,
    /// Budget for the predicted blackout: a VM has converged when it is within.
    pub blackout_ms_max: Millis,
}

impl Limits {
    /// How long the answer to an order may take.
    pub fn of(&self, limit: WaitLimit) -> Millis {
        match limit {
            WaitLimit::Reserve => self.reserve_ms_max,
            WaitLimit::Prepare => self.prepare_ms_max,
            WaitLimit::StartPreCopy => self.start_pre_copy_ms_max,
            WaitLimit::Buffers => self.buffers_ms_max,
            WaitLimit::Capture => self.capture_ms_max,
            WaitLimit::StopAndCopy => self.stop_and_copy_ms_max,
            WaitLimit::Activate => self.activate_ms_max,
            WaitLimit::Close => self.close_ms_max,
            WaitLimit::Abort => self.abort_ms_max,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            reserve_ms_max: Millis(10_000),
            prepare_ms_max: Millis(60_000),
            start_pre_copy_ms_max: Millis(30_000),
            buffers_ms_max: Millis(30_000),
            pre_copy_ms_max: Millis(600_000),
            capture_ms_max: Millis(10_000),
            stop_and_copy_ms_max: Millis(60_000),
            activate_ms_max: Millis(10_000),
            close_ms_max: Millis(30_000),
            abort_ms_max: Millis(30_000),
            agent_lost_ms_max: Millis(0),
            retry_ms: Millis(100),
            retry_ms_max: Millis(5_000),
            blackout_ms_max: Millis(300),
        }
    }
}
