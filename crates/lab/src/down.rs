//! Removes a lab, whole or crashed, with or without its state file, and those whose owner has
//! ended. Can be repeated.
//!
//! First the processes that the lab recorded, then every process that lives in one of its
//! namespaces: this finds the QEMUs that agents started, whatever became of the agents. Then the
//! namespaces, with them all devices, then the files.

use std::fs;
use std::io;

use crate::process::{self, ProcessRecord, TERM_WAIT_MS_MAX};
use crate::state::Lab;
use crate::up::{blocking, namespaces_of};
use crate::{LabError, LabName, Layout, Progress, mounts, rights, tuning};

/// More rounds than this of processes that appear while others are ended are not normal.
const ROUNDS_MAX: usize = 5;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DownReport {
    /// There was something.
    pub existed: bool,
    /// Processes ended.
    pub processes: usize,
    /// Namespaces removed.
    pub namespaces: usize,
}

/// Removes everything of a lab. Where there is none, the report says so and nothing is done.
pub async fn down(name: &LabName, progress: &Progress) -> Result<DownReport, LabError> {
    let (name, progress) = (name.clone(), progress.clone());
    blocking(move || remove(&name, &progress)).await
}

fn remove(name: &LabName, progress: &Progress) -> Result<DownReport, LabError> {
    let layout = Layout::new(name);
    let lab = match Lab::open(name) {
        Ok(lab) => Some(lab),
        Err(LabError::NoLab { .. } | LabError::State { .. }) => None,
        Err(error) => return Err(error),
    };
    let namespaces = namespaces_of(&layout);
    let existed = lab.is_some() || !namespaces.is_empty() || layout.dir().exists();
    if !existed {
        return Ok(DownReport::default());
    }
    progress.step("ending the lab's processes");
    let recorded = lab
        .as_ref()
        .map(|lab| lab.state.processes.clone())
        .unwrap_or_default();
    let mut ended = end(
        &recorded
            .into_iter()
            .filter(ProcessRecord::alive)
            .collect::<Vec<_>>(),
        TERM_WAIT_MS_MAX,
    )?;
    for _ in 0..ROUNDS_MAX {
        let inside = process::inside(&namespaces);
        if inside.is_empty() {
            break;
        }
        ended += end(&inside, 0)?;
    }
    progress.step("removing the network");
    for namespace in &namespaces {
        namespace.delete()?;
    }
    if let Some(before) = lab.as_ref().and_then(|lab| lab.state.backlog_before) {
        tuning::restore_backlog(before)?;
    }
    rights::remove_group(&layout);
    mounts::unmount_below(&layout.dir())?;
    for directory in [layout.spool_dir(), layout.dir()] {
        match fs::remove_dir_all(&directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(LabError::File {
                    action: "remove",
                    path: directory,
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(DownReport {
        existed,
        processes: ended,
        namespaces: namespaces.len(),
    })
}

fn end(processes: &[ProcessRecord], term_wait_ms: u64) -> Result<usize, LabError> {
    match process::end_all(processes, term_wait_ms).first() {
        None => Ok(processes.len()),
        Some(stuck) => Err(LabError::Timeout {
            what: format!("the end of {} (pid {})", stuck.what, stuck.pid),
            waited_ms: term_wait_ms,
        }),
    }
}

/// Removes every lab whose owner has ended: what a killed test, measurement or `up` left.
pub async fn sweep(progress: &Progress) -> Result<(), LabError> {
    let progress = progress.clone();
    blocking(move || {
        let orphaned = |lab: &Lab| lab.state.owner.as_ref().is_some_and(|owner| !owner.alive());
        for lab in Lab::all().iter().filter(|lab| orphaned(lab)) {
            let name = lab.layout.name();
            progress.step(&format!("removing lab `{name}`, whose owner has ended"));
            remove(name, &progress)?;
        }
        Ok(())
    })
    .await
}

/// `up` builds on clean ground only.
pub fn refuse_leftovers(name: &LabName) -> Result<(), LabError> {
    let layout = Layout::new(name);
    let state = Lab::open(name).ok().map(|lab| lab.state);
    let alive = |state: &crate::State| state.processes.iter().filter(|process| process.alive()).count();
    if state
        .as_ref()
        .is_some_and(|state| state.complete && alive(state) > 0)
    {
        return Err(LabError::AlreadyUp {
            name: name.to_string(),
        });
    }
    let namespaces = namespaces_of(&layout);
    let processes = process::inside(&namespaces);
    let mut found: Vec<String> = namespaces
        .iter()
        .map(|namespace| namespace.name().to_owned())
        .collect();
    found.extend(
        processes
            .iter()
            .map(|process| format!("{} (pid {})", process.what, process.pid)),
    );
    if layout.dir().exists() {
        found.push(layout.dir().display().to_string());
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(LabError::Leftovers {
            name: name.to_string(),
            found,
        })
    }
}
