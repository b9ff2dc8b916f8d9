//! The faults of a storm, each with its name. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which host of a moving VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one it leaves.
    Source,
    /// The one it goes to.
    Target,
}

/// One way to hurt a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to the source's agent; started again after a while.
    KillSourceAgent,
    /// The same for the target's.
    KillTargetAgent,
    /// The same for the coordinator.
    KillCoordinator,
    /// SIGKILL to the VM's QEMU on the source.
    KillSourceQemu,
    /// The same on the target.
    KillTargetQemu,
    /// SIGSTOP to the source's agent; it goes on after a while.
    FreezeSourceAgent,
    /// The same for the target's.
    FreezeTargetAgent,
    /// The same for the coordinator.
    FreezeCoordinator,
    /// The source's agent hears nobody and nobody hears it; the guests' frames pass.
    CutSourceControl,
    /// The same for the target's.
    CutTargetControl,
    /// The source is off the CT circuit, its guests' frames with it.
    CutSourceCt,
    /// The same for the target.
    CutTargetCt,
    /// The source is off the VMCT circuit.
    CutSourceVmct,
    /// The same for the target.
    CutTargetVmct,
    /// The source's state directory is full.
    FillSource,
    /// The same for the target's.
    FillTarget,
    /// The clock of the source's agent steps, and back.
    StepSourceClock,
    /// The same for the target's.
    StepTargetClock,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 18] = [
        Fault::KillSourceAgent,
        Fault::KillTargetAgent,
        Fault::KillCoordinator,
        Fault::KillSourceQemu,
        Fault::KillTargetQemu,
        Fault::FreezeSourceAgent,
        Fault::FreezeTargetAgent,
        Fault::FreezeCoordinator,
        Fault::CutSourceControl,
        Fault::CutTargetControl,
        Fault::CutSourceCt,
        Fault::CutTargetCt,
        Fault::CutSourceVmct,
        Fault::CutTargetVmct,
        Fault::FillSource,
        Fault::FillTarget,
        Fault::StepSourceClock,
        Fault::StepTargetClock,
    ];

    /// Its name for `--faults` and the table.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillSourceAgent => "kill-source-agent",
            Fault::KillTargetAgent => "kill-target-agent",
            Fault::KillCoordinator => "kill-coordinator",
            Fault::KillSourceQemu => "kill-source-qemu",
            Fault::KillTargetQemu => "kill-target-qemu",
            Fault::FreezeSourceAgent => "freeze-source-agent",
            Fault::FreezeTargetAgent => "freeze-target-agent",
            Fault::FreezeCoordinator => "freeze-coordinator",
            Fault::CutSourceControl => "cut-source-control",
            Fault::CutTargetControl => "cut-target-control",
            Fault::CutSourceCt => "cut-source-ct",
            Fault::CutTargetCt => "cut-target-ct",
            Fault::CutSourceVmct => "cut-source-vmct",
            Fault::CutTargetVmct => "cut-target-vmct",
            Fault::FillSource => "fill-source",
            Fault::FillTarget => "fill-target",
            Fault::StepSourceClock => "step-source-clock",
            Fault::StepTargetClock => "step-target-clock",
        }
    }

    /// How often it is drawn beside the others. A QEMU that is killed costs a new lab, and a cut CT
    /// circuit hides what the product lost behind what the fabric lost: both are rarer than the
    /// kills that tell most.
    pub(crate) fn weight(self) -> u64 {
        match self {
            Fault::KillSourceAgent | Fault::KillTargetAgent | Fault::KillCoordinator => 4,
            Fault::FreezeSourceAgent
            | Fault::FreezeTargetAgent
            | Fault::FreezeCoordinator
            | Fault::CutSourceControl
            | Fault::CutTargetControl
            | Fault::CutSourceVmct
            | Fault::CutTargetVmct
            | Fault::FillSource
            | Fault::FillTarget => 2,
            Fault::KillSourceQemu
            | Fault::KillTargetQemu
            | Fault::CutSourceCt
            | Fault::CutTargetCt
            | Fault::StepSourceClock
            | Fault::StepTargetClock => 1,
        }
    }

    /// The fabric itself loses guests' frames: the guests' account cannot tell whose loss it is.
    pub fn loses_frames(self) -> bool {
        matches!(self, Fault::CutSourceCt | Fault::CutTargetCt)
    }

    /// The faults that a list names: each is a name, or the first word of several (`kill`,
    /// `freeze`, `cut`, `fill`, `step`).
    pub fn selection(names: &[String]) -> Result<Vec<Fault>, String> {
        let mut chosen = Vec::new();
        for name in names {
            let start = format!("{name}-");
            let named = |fault: &&Fault| fault.name() == name || fault.name().starts_with(&start);
            let found: Vec<Fault> = Fault::ALL.iter().filter(named).copied().collect();
            if found.is_empty() {
                return Err(format!("there is no fault `{name}`"));
            }
            chosen.extend(found);
        }
        chosen.sort();
        chosen.dedup();
        Ok(chosen)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Fault::ALL.into_iter().find(|fault| fault.name() == text);
        found.ok_or_else(|| format!("there is no fault `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_listed_once_and_read_by_its_name() {
        let mut all = Fault::ALL.to_vec();
        all.sort();
        all.dedup();
        assert_eq!(all, Fault::ALL, "in order, each once");
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
    }

    #[test]
    fn a_list_names_faults_or_whole_kinds() {
        let chosen = |text: &str| Fault::selection(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(
            chosen("fill,kill-coordinator,fill-target").unwrap(),
            [Fault::KillCoordinator, Fault::FillSource, Fault::FillTarget]
        );
        assert_eq!(chosen("kill").unwrap().len(), 5);
        assert!(chosen("kil").unwrap_err().contains("`kil`"));
    }
}
