//! Lets one fault fall on the running lab, and undoes it.
//!
//! A strike blocks its thread while it holds; what it did is undone when its guard is dropped, also
//! after an error.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use transhume_model::{Band, HostName, VmName};

use super::draw::PlannedStrike;
use super::fault::{Fault, Side};
use super::look;
use crate::state::Lab;
use crate::{LabError, ProcessRecord, faults, process};

/// The process of the coordinator, as the lab calls it.
const COORDINATOR: &str = "coordinator";
/// Takes up what a state directory has left.
const BALLAST: &str = "ballast";
const BALLAST_PIECE_BYTES: usize = 64 << 10;
/// More than a state directory of a storm holds: nothing fills a disk of the machine.
const BALLAST_BYTES_MAX: usize = 1 << 30;

/// A VM that moves, and between which hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The VM.
    pub vm: VmName,
    /// Host it leaves.
    pub source: HostName,
    /// Host it goes to.
    pub target: HostName,
}

/// A fault that fell, or would have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Struck {
    /// What.
    pub fault: Fault,
    /// The VM that it was drawn for.
    pub vm: Option<VmName>,
    /// The part or process.
    pub victim: String,
    /// Its victim was there.
    pub hit: bool,
    /// When, milliseconds of the wall clock.
    pub at_ms: i64,
    /// Undoing it failed, and why; `revive` tries again.
    pub trouble: Option<String>,
}

/// The file whose number of milliseconds the agent of a host adds to its clock.
pub fn clock_file(lab: &Lab, host: &HostName) -> PathBuf {
    lab.layout.clock_file(host)
}

/// Lets a fault fall on one moving VM's hosts, holds it, and undoes it.
pub fn strike(lab: &Mutex<Lab>, planned: &PlannedStrike, pair: &Pair) -> Struck {
    let target = Aim::of(planned.fault, pair);
    let mut struck = Struck {
        fault: planned.fault,
        vm: Some(pair.vm.clone()),
        victim: target.name(pair),
        hit: false,
        at_ms: wall_ms(),
        trouble: None,
    };
    match fall(lab, planned, &target, pair) {
        Ok(None) => {}
        Ok(Some(guard)) => {
            struck.hit = true;
            thread::sleep(Duration::from_millis(planned.hold_ms));
            struck.trouble = guard.undo(lab).err().map(|error| chain(&error));
        }
        Err(error) => struck.trouble = Some(chain(&error)),
    }
    struck
}

/// Starts every part again that does not run; the names of those that stay dead, and why.
pub fn revive(lab: &Mutex<Lab>) -> Vec<String> {
    let dead = look::dead_parts(&locked(lab));
    let still = dead.into_iter().filter_map(|what| {
        let error = start(lab, &what).err()?;
        Some(format!("{what} ({})", chain(&error)))
    });
    still.collect()
}

/// What a fault is aimed at.
enum Aim<'a> {
    Part(String),
    Qemu(&'a HostName),
    Host(&'a HostName),
}

impl<'a> Aim<'a> {
    fn of(fault: Fault, pair: &'a Pair) -> Self {
        let host = |side| match side {
            Side::Source => &pair.source,
            Side::Target => &pair.target,
        };
        match fault {
            Fault::KillCoordinator | Fault::FreezeCoordinator => Aim::Part(COORDINATOR.to_owned()),
            Fault::KillSourceAgent | Fault::FreezeSourceAgent => Aim::Part(agent(host(Side::Source))),
            Fault::KillTargetAgent | Fault::FreezeTargetAgent => Aim::Part(agent(host(Side::Target))),
            Fault::KillSourceQemu => Aim::Qemu(host(Side::Source)),
            Fault::KillTargetQemu => Aim::Qemu(host(Side::Target)),
            Fault::CutSourceControl
            | Fault::CutSourceCt
            | Fault::CutSourceVmct
            | Fault::FillSource
            | Fault::StepSourceClock => Aim::Host(host(Side::Source)),
            Fault::CutTargetControl
            | Fault::CutTargetCt
            | Fault::CutTargetVmct
            | Fault::FillTarget
            | Fault::StepTargetClock => Aim::Host(host(Side::Target)),
        }
    }

    fn name(&self, pair: &Pair) -> String {
        match self {
            Aim::Part(what) => what.clone(),
            Aim::Qemu(host) => format!("qemu {} on {host}", pair.vm),
            Aim::Host(host) => format!("host {host}"),
        }
    }
}

fn agent(host: &HostName) -> String {
    format!("agent {host}")
}

/// What has to be undone.
enum Guard {
    /// Nothing brings a QEMU back.
    Nothing,
    Killed(String),
    Frozen(ProcessRecord),
    Cut(faults::CutLink),
    CutControl(faults::CutControl),
    Full(Ballast),
    Clock(SteppedClock),
}

impl Guard {
    fn undo(self, lab: &Mutex<Lab>) -> Result<(), LabError> {
        match self {
            Guard::Nothing => Ok(()),
            Guard::Killed(what) => start(lab, &what),
            Guard::Frozen(process) => {
                process.signal(Signal::CONT);
                Ok(())
            }
            Guard::Cut(link) => {
                drop(link);
                Ok(())
            }
            Guard::CutControl(filter) => {
                drop(filter);
                Ok(())
            }
            Guard::Full(ballast) => {
                drop(ballast);
                Ok(())
            }
            Guard::Clock(clock) => {
                drop(clock);
                Ok(())
            }
        }
    }
}

/// `None` where the victim is gone already.
fn fall(
    lab: &Mutex<Lab>,
    planned: &PlannedStrike,
    aim: &Aim,
    pair: &Pair,
) -> Result<Option<Guard>, LabError> {
    let lab = locked(lab).clone();
    Ok(match (planned.fault, aim) {
        (Fault::FreezeCoordinator | Fault::FreezeSourceAgent | Fault::FreezeTargetAgent, Aim::Part(what)) => {
            let process = lab.process(what)?.clone();
            process.signal(Signal::STOP).then_some(Guard::Frozen(process))
        }
        (_, Aim::Part(what)) => {
            let process = lab.process(what)?;
            let hit = process.signal(Signal::KILL);
            // Its addresses are free only when it is gone.
            process::end_all(std::slice::from_ref(process), 0);
            hit.then(|| Guard::Killed(what.clone()))
        }
        (_, Aim::Qemu(host)) => {
            let qemus = look::qemus(&lab)?;
            let found = qemus
                .iter()
                .find(|qemu| qemu.vm == pair.vm && &&qemu.host == host);
            let process = found.and_then(|qemu| ProcessRecord::of("qemu".to_owned(), qemu.pid));
            process
                .filter(|process| process.signal(Signal::KILL))
                .map(|_| Guard::Nothing)
        }
        (Fault::CutSourceControl | Fault::CutTargetControl, Aim::Host(host)) => {
            Some(Guard::CutControl(faults::cut_control(&lab, host.as_str())?))
        }
        (Fault::CutSourceCt | Fault::CutTargetCt, Aim::Host(host)) => {
            Some(Guard::Cut(faults::cut_link(&lab, host.as_str(), Band::Ct)?))
        }
        (Fault::FillSource | Fault::FillTarget, Aim::Host(host)) => {
            Some(Guard::Full(Ballast::fill(&lab.host(host.as_str())?.state_dir)?))
        }
        (Fault::StepSourceClock | Fault::StepTargetClock, Aim::Host(host)) => Some(Guard::Clock(
            SteppedClock::step(clock_file(&lab, host), planned.clock_step_ms)?,
        )),
        (_, Aim::Host(host)) => Some(Guard::Cut(faults::cut_link(&lab, host.as_str(), Band::Vmct)?)),
    })
}

/// Starts a part without keeping others from the lab's memory meanwhile.
fn start(lab: &Mutex<Lab>, what: &str) -> Result<(), LabError> {
    let mut copy = locked(lab).clone();
    if copy.process(what).is_ok_and(ProcessRecord::alive) {
        return Ok(());
    }
    let process = match what.strip_prefix("agent ") {
        Some(host) => faults::start_agent(&mut copy, host)?,
        None => faults::start_coordinator(&mut copy)?,
    };
    locked(lab).record(process)
}

/// A file that leaves its file system no room; gone when dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(dir: &Path) -> Result<Self, LabError> {
        let path = dir.join(BALLAST);
        let mut file = File::create(&path).map_err(|source| LabError::File {
            action: "create",
            path: path.clone(),
            source,
        })?;
        let ballast = Ballast(path);
        let (zeros, mut written) = (vec![0; BALLAST_PIECE_BYTES], 0);
        while written < BALLAST_BYTES_MAX {
            match file.write(&zeros) {
                Ok(length) if length > 0 => written += length,
                // Full, as it should be.
                _ => break,
            }
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the state directory stays full");
        }
    }
}

/// A clock that is off; right again when dropped.
struct SteppedClock(PathBuf);

impl SteppedClock {
    fn step(path: PathBuf, offset_ms: i64) -> Result<Self, LabError> {
        look::write_clock(&path, offset_ms)?;
        Ok(SteppedClock(path))
    }
}

impl Drop for SteppedClock {
    fn drop(&mut self) {
        if let Err(error) = look::write_clock(&self.0, 0) {
            tracing::warn!(path = %self.0.display(), %error, "the clock stays off");
        }
    }
}

pub(super) fn locked(lab: &Mutex<Lab>) -> MutexGuard<'_, Lab> {
    lab.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wall_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

fn chain(error: &LabError) -> String {
    let source = std::error::Error::source(error);
    source.map_or(error.to_string(), |source| format!("{error}: {source}"))
}
