//! What an operator may decide about a VM whose other host is lost, and why something cannot be.
//!
//! Deliberately absent: when a decision is asked for, and what follows from it (`lost`).

use std::fmt;

use transhume_model::{HostName, MigrationId, VmName};

use super::RunOn;
use crate::report::Lost;
use crate::step::Side;

/// What an operator may decide about a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolvable {
    /// Its batch rolls back, its source is lost, and its target holds, or may hold, all of it.
    OnlyCopyOnTarget,
    /// Its batch is committed, and its target is lost.
    TargetLost,
    /// Its batch is committed, and its target, which answers, lost it before it was seen to run.
    LostOnTarget,
}

/// Whether a VM may have run on its target. There may be something that only its disks know of
/// then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// It provably never did: its target's record says so, or it was never told to.
    Never,
    /// It may have, and have written its disks.
    Maybe,
}

impl Ran {
    /// In words, behind "it".
    pub fn words(self) -> &'static str {
        match self {
            Ran::Never => "provably never ran",
            Ran::Maybe => "may have run and written its disks",
        }
    }
}

/// A decision that can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The host that must be off for it, unless its agent has said that nothing of the VM runs
    /// there.
    pub off: Option<HostName>,
    /// Of a VM that goes back to its source: whether it may have run on its target.
    pub ran: Ran,
}

/// Why a decision about a VM cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cannot {
    /// It is not in the batch under way.
    #[error("VM {0} is not in the batch under way")]
    NotInBatch(VmName),
    /// Nothing is to be decided.
    #[error("VM {0} waits for no decision: neither of its hosts is lost for good, or all is decided")]
    NotOpen(VmName),
    /// It may have run on its target, and nobody said that this does not matter.
    #[error("VM {vm} was committed to host {target}, where it may have run and written its disks")]
    MayHaveRun {
        /// The VM.
        vm: VmName,
        /// Its target.
        target: HostName,
    },
    /// Not this.
    #[error("VM {vm} cannot be resolved to run on its {}: {why}", .run_on.name())]
    NotThere {
        /// The VM.
        vm: VmName,
        /// As asked.
        run_on: RunOn,
        /// Why.
        why: String,
    },
}

impl Resolvable {
    /// The side that is lost.
    pub fn lost_side(self) -> Side {
        match self {
            Resolvable::OnlyCopyOnTarget => Side::Source,
            Resolvable::TargetLost | Resolvable::LostOnTarget => Side::Target,
        }
    }

    /// The host of that side, or what it had.
    pub(super) fn lost(self) -> Lost {
        match self {
            Resolvable::OnlyCopyOnTarget | Resolvable::TargetLost => Lost::Host,
            Resolvable::LostOnTarget => Lost::Vm,
        }
    }

    /// What can be decided, and how.
    pub(super) fn hint(self, migration: MigrationId, vm: &VmName, lost: &HostName, ran: Ran) -> String {
        let back = match ran {
            Ran::Never => format!("source` lets it go on there, for it never ran on host {lost}"),
            Ran::Maybe => format!(
                "source --although-it-may-have-run` lets it go on there, although it may have written its disks on \
                 host {lost}"
            ),
        };
        let fence =
            format!("if host {lost} is off, `transhume host fence {lost} --powered-off` says so, then");
        let resolve = format!("`transhume migration resolve {migration} --vm {vm} --run-on");
        match self {
            Resolvable::OnlyCopyOnTarget => format!(
                "{fence} {resolve} target` runs it from its loaded copy; the frames captured for it are lost"
            ),
            Resolvable::TargetLost => format!(
                "{fence} {resolve} {back}; `--run-on nowhere` gives it up, so that it can be started from its disks"
            ),
            Resolvable::LostOnTarget => format!(
                "{resolve} {back}; `--run-on nowhere` gives it up, so that it can be started from its disks"
            ),
        }
    }
}

impl fmt::Display for Resolvable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resolvable::OnlyCopyOnTarget => "its only copy may be the one on its target",
            Resolvable::TargetLost => "it was committed to its target",
            Resolvable::LostOnTarget => "it was lost on its target",
        })
    }
}
