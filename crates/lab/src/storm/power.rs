//! A host that loses its power for good: which one and when is drawn (pure), and its processes die
//! and its links go down (io).

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use transhume_model::{Band, HostName};

use super::draw::{BatchSize, Moment, draw_moment};
use super::look;
use crate::chance::Chance;
use crate::layout::Circuit;
use crate::process::ProcessRecord;
use crate::state::Lab;
use crate::{LabError, Namespace, fabric, faults};

/// Which host loses its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Victim {
    /// The one that a VM leaves.
    Source,
    /// The one that it goes to.
    Target,
    /// One that has no part in the move.
    Bystander,
}

/// What an operator does with a VM that may have run on its lost target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boldness {
    /// It is given up and booted from its disks.
    GivesUp,
    /// It goes back to its source all the same.
    GoesBack,
}

/// One round with a lost host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerPlan {
    /// The storm's seed.
    pub seed: u64,
    /// The round's number, from 1.
    pub round: u64,
    /// k.
    pub batch: BatchSize,
    /// Which host.
    pub victim: Victim,
    /// When.
    pub moment: Moment,
    /// Which VM of the batch it is about, modulo their number.
    pub pick: usize,
    /// What the operator dares.
    pub boldness: Boldness,
}

impl PowerPlan {
    /// The plan of one round; `batch` fixes k.
    pub fn draw(seed: u64, round: u64, batch: Option<usize>) -> Self {
        let mut chance = Chance::of_round(seed ^ 0x0ff0, round);
        let drawn = match chance.below(2) {
            0 => BatchSize::Of(1),
            _ => BatchSize::All,
        };
        PowerPlan {
            seed,
            round,
            batch: batch.map_or(drawn, BatchSize::Of),
            victim: match chance.below(10) {
                0..=4 => Victim::Source,
                5..=8 => Victim::Target,
                _ => Victim::Bystander,
            },
            moment: draw_moment(&mut chance),
            pick: chance.below(64) as usize,
            boldness: match chance.below(2) {
                0 => Boldness::GivesUp,
                _ => Boldness::GoesBack,
            },
        }
    }
}

/// Everything on the host ends at once, and its links stay down.
pub fn lose_power(lab: &Lab, host: &HostName) -> Result<(), LabError> {
    let state = lab.host(host.as_str())?;
    let fabric = Namespace::named(lab.layout.fabric_namespace());
    let devices = match lab.state.circuits.carrying(Band::Ct) {
        whole @ Circuit::Whole => vec![whole.fabric_device(state.name.as_str())],
        Circuit::Of(_) => [Band::Ct, Band::Vmct, Band::Nast]
            .map(|band| {
                lab.state
                    .circuits
                    .carrying(band)
                    .fabric_device(state.name.as_str())
            })
            .to_vec(),
    };
    for device in devices {
        fabric::set_link(&fabric, &device, false)?;
    }
    end_everything(lab, host)
}

/// The host's agent and QEMUs are killed, as by a loss of power that is over at once.
pub fn end_everything(lab: &Lab, host: &HostName) -> Result<(), LabError> {
    let agent = format!("agent {host}");
    if lab.process(&agent).is_ok_and(ProcessRecord::alive) {
        faults::kill(lab, &agent)?;
    }
    for qemu in look::qemus(lab)?.into_iter().filter(|qemu| qemu.host == *host) {
        if let Some(process) = ProcessRecord::of("qemu".to_owned(), qemu.pid) {
            process.signal(Signal::KILL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_round_alone_decide_and_every_host_is_lost() {
        let plans = |seed| (1..=2_000).map(move |round| PowerPlan::draw(seed, round, None));
        assert!(plans(3).eq(plans(3)));
        assert!(!plans(3).eq(plans(4)));
        for victim in [Victim::Source, Victim::Target, Victim::Bystander] {
            assert!(plans(3).any(|plan| plan.victim == victim), "{victim:?}");
        }
    }
}
