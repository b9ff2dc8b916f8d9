//! What is asked of a move, and every wait in it by name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use transhume_model::{BitRate, ClusterName, Epoch, HostName, MigrationId, Millis, VmName, VmSpec};
use utoipa::ToSchema;

use crate::forecast::MoveForecast;
use crate::message::{GuestState, Mode};
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
    /// Epoch of the first batch; each batch takes the next one, [`MoveRequest::epochs`] says how
    /// many there are. The driver allots epochs: each one is newer than any an agent may hold for
    /// these VMs.
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
    /// How long the move may take in all, without what is committed by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms_max: Option<Millis>,
    /// What becomes of a VM that does not get ready.
    #[serde(default)]
    pub converge: Converge,
    /// Where present, the driver may cut the batches that are to come anew, with so many VMs at
    /// once at most. Without it they are as they stand here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_max: Option<usize>,
    /// What is expected, for the report. Nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<MoveForecast>,
}

/// What becomes of a VM that dirties its memory as fast as it can be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "policy")]
pub enum Converge {
    /// Its batch waits for it.
    #[default]
    Wait,
    /// Its guest gets less of its processors until it gets ready.
    Throttle {
        /// Hundredths that it keeps at least.
        percent: u8,
    },
    /// It leaves its batch, and goes last, alone.
    Shrink,
    /// Its batch rolls back.
    Stop,
}

/// Why a VM does not get ready.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StuckRates {
    /// What it adds to the wire, Mbit/s.
    pub dirty_mbit_s: f64,
    /// What its links could give it alone, Mbit/s; absent where no budget is known.
    pub most_mbit_s: Option<f64>,
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
    /// What its guest did when the move was ordered: holds where nobody is left who saw how it was
    /// stopped.
    #[serde(default, skip_serializing_if = "runs")]
    pub guest: GuestState,
    /// The least rate of its page stream at which it gets ready, as far as that is known: so much
    /// of its links is set aside for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<BitRate>,
    /// VMs of one round may go in any batches and order; those of a later one only behind all of
    /// them, because they may need the room that these give back. From 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn runs(guest: &GuestState) -> bool {
    *guest == GuestState::Running
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(round: &usize) -> bool {
    *round == 0
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

    /// How many epochs the move may use, the first included: one a batch, and two for each VM that
    /// may be put off. The driver's next epoch must be above them.
    pub fn epochs(&self) -> u64 {
        let vms = self.batches.iter().flatten().count();
        let put_off = match self.converge {
            Converge::Shrink => 2 * vms,
            Converge::Wait | Converge::Throttle { .. } | Converge::Stop => 0,
        };
        // At worst each VM goes alone.
        let batches = match self.batch_max {
            Some(_) => vms,
            None => self.batches.len(),
        };
        (batches + put_off) as u64
    }

    /// Rounds are numbered below this.
    pub(super) fn rounds(&self) -> usize {
        let rounds = self.batches.iter().flatten().map(|vm| vm.round + 1);
        rounds.max().unwrap_or_default()
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
    /// A host that is lost for so long is given up: what the move still wants of it is ended
    /// without it.
    pub host_lost_ms_max: Millis,
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
            host_lost_ms_max: Millis(30_000),
            retry_ms: Millis(100),
            retry_ms_max: Millis(5_000),
            blackout_ms_max: Millis(300),
        }
    }
}
