//! What may be done to a VM on a host whose coordinator is gone, by whoever is at the host: decided
//! from its record alone.
//!
//! A record says what this host knows. What another host does meanwhile nobody here can know: so a
//! copy that may run elsewhere is never run here, and what would help is named instead.

use crate::input::RunState;
use crate::record::{Place, Record};

/// What can be asked for at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalVerb {
    /// Let a guest that stands still go on.
    Resume,
    /// End the process of a VM.
    Kill,
}

/// It may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// What it does.
    pub what: String,
    /// What may be lost by it.
    pub may_be_lost: Vec<String>,
}

/// It must not be done, or there is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAllowed {
    /// Why.
    pub why: String,
    /// The verb that helps.
    pub hint: String,
}

/// What a VM is on this host, in a few words.
pub fn place_in_words(place: &Place) -> &'static str {
    match place {
        Place::Booting { .. } => "about to be started",
        Place::Home { .. } => "at home",
        Place::Off { .. } => "powered off",
        Place::Source { .. } => "leaving",
        Place::Left { .. } => "gone to another host",
        Place::Expected { .. } => "expected",
        Place::Preparing { .. } => "being prepared",
        Place::Target { .. } => "coming",
        Place::Arrived { .. } => "arrived",
    }
}

/// Whether a verb may be carried out. `run` is what its QEMU says; `None`: there is no process.
pub fn check_local(verb: LocalVerb, record: &Record, run: Option<RunState>) -> Result<Allowed, NotAllowed> {
    match verb {
        LocalVerb::Resume => resume(record, run),
        LocalVerb::Kill => kill(record, run),
    }
}

fn resume(record: &Record, run: Option<RunState>) -> Result<Allowed, NotAllowed> {
    let (vm, cluster) = (&record.spec.name, &record.spec.cluster);
    let no = |why: String, hint: String| Err(NotAllowed { why, hint });
    let Some(run) = run else {
        return no(
            format!(
                "VM {vm} has no QEMU here: it is {}",
                place_in_words(&record.place)
            ),
            format!("where a coordinator runs, `transhume vm start {cluster} {vm}` boots it from its disks"),
        );
    };
    match (&record.place, run) {
        (_, RunState::Running) => no(
            format!("VM {vm} runs already"),
            "`transhume agent vm list` shows what each VM does".to_owned(),
        ),
        (Place::Home { .. } | Place::Arrived { .. }, RunState::Paused | RunState::Prelaunch | RunState::DiskError) => {
            Ok(Allowed {
                what: format!("the guest of VM {vm} goes on"),
                may_be_lost: Vec::new(),
            })
        }
        (Place::Home { .. } | Place::Arrived { .. }, _) => no(
            format!("the guest of VM {vm} cannot go on: it panicked, or is being moved"),
            format!("`transhume agent vm kill {vm}` ends it"),
        ),
        (Place::Left { .. }, _) => no(
            format!("VM {vm} was committed to another host, where it may run: two of it would write its disks"),
            "`transhume report` says which migration it is; where its target is lost, `transhume migration resolve N \
             --vm VM --run-on source` lets it run here again"
                .to_owned(),
        ),
        (Place::Source { .. }, _) => no(
            format!("VM {vm} was being moved: its batch may be committed, and it may run on its target"),
            "a coordinator that starts again undoes or finishes the move; `transhume migration resolve` decides where a \
             host is lost"
                .to_owned(),
        ),
        (Place::Target { .. }, _) => no(
            format!("VM {vm} is coming: whether it was committed is not known here, and it may run on its source"),
            "a coordinator that starts again undoes or finishes the move; where its source is lost, `transhume migration \
             resolve N --vm VM --run-on target` runs it here"
                .to_owned(),
        ),
        (Place::Booting { .. } | Place::Off { .. } | Place::Expected { .. } | Place::Preparing { .. }, _) => no(
            format!("VM {vm} never ran here: it is {}", place_in_words(&record.place)),
            format!("where a coordinator runs, `transhume vm start {cluster} {vm}` boots it"),
        ),
    }
}

fn kill(record: &Record, run: Option<RunState>) -> Result<Allowed, NotAllowed> {
    let vm = &record.spec.name;
    if run.is_none() {
        return Err(NotAllowed {
            why: format!(
                "VM {vm} has no QEMU here: it is {}",
                place_in_words(&record.place)
            ),
            hint: "`transhume agent vm list` shows which VMs have one".to_owned(),
        });
    }
    let lost = match &record.place {
        Place::Home { .. } | Place::Arrived { .. } => {
            format!("VM {vm}: what it holds in memory, and what its guest has not written to its disks yet")
        }
        Place::Source { .. } => format!(
            "VM {vm}: what it holds in memory; it was being moved, and unless it was committed this is its only copy"
        ),
        Place::Target { .. } => format!(
            "VM {vm}: the copy that came here; where its source is lost, or its batch committed, this is its only one"
        ),
        Place::Left { .. } => {
            format!("VM {vm}: the copy that it left here; where its target is lost, this is its only one")
        }
        Place::Booting { .. } | Place::Off { .. } | Place::Expected { .. } | Place::Preparing { .. } => {
            format!("VM {vm}: what it holds in memory")
        }
    };
    Ok(Allowed {
        what: format!("the QEMU of VM {vm} is killed; its disks and its place stay"),
        may_be_lost: vec![lost],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RECORD_VERSION;
    use transhume_model::{Epoch, MigrationId, ProcessId};
    use transhume_protocol::message::GuestState;

    fn record(place: Place) -> Record {
        Record {
            version: RECORD_VERSION,
            spec: serde_json::from_value(serde_json::json!({
                "name": "vm1", "cluster": "lab", "vcpus": 1, "memory": 64, "nics": [],
                "boot": { "kernel": "/k", "initrd": "/i", "cmdline": "" },
            }))
            .unwrap(),
            epoch: Epoch(1),
            place,
        }
    }

    fn process() -> ProcessId {
        ProcessId {
            pid: 7,
            start_ticks: 1,
            boot: "b".to_owned(),
        }
    }

    fn places() -> [(Place, bool); 5] {
        let (process, migration, tunnels) = (process(), MigrationId(1), Vec::new);
        [
            (
                Place::Home {
                    process: process.clone(),
                    started: true,
                    arrival: None,
                },
                true,
            ),
            (
                Place::Arrived {
                    process: process.clone(),
                    migration,
                    run: true,
                    tunnels: tunnels(),
                    activated: None,
                },
                true,
            ),
            (
                Place::Source {
                    process: process.clone(),
                    migration,
                    guest: GuestState::Running,
                    capturing: true,
                    restoring: false,
                    tunnels: tunnels(),
                },
                false,
            ),
            (
                Place::Left {
                    process: Some(process.clone()),
                    migration,
                    guest: GuestState::Running,
                    tunnels: tunnels(),
                    closed: None,
                },
                false,
            ),
            (
                Place::Target {
                    process,
                    migration,
                    tunnels: tunnels(),
                    guest: GuestState::Running,
                },
                false,
            ),
        ]
    }

    #[test]
    fn only_what_cannot_run_elsewhere_is_resumed_and_each_refusal_names_a_verb() {
        for (place, allowed) in places() {
            let record = record(place);
            for run in [RunState::Paused, RunState::PostMigrate] {
                let checked = check_local(LocalVerb::Resume, &record, Some(run));
                let expected = allowed && run == RunState::Paused;
                assert_eq!(checked.is_ok(), expected, "{record:?}, {run:?}: {checked:?}");
                if let Err(refused) = checked {
                    assert!(refused.hint.contains("transhume "), "{refused:?}");
                }
            }
            assert!(check_local(LocalVerb::Resume, &record, Some(RunState::Running)).is_err());
        }
    }

    #[test]
    fn what_is_killed_names_what_may_be_lost_and_what_is_gone_is_not_killed() {
        for (place, _) in places() {
            let record = record(place);
            let killed = check_local(LocalVerb::Kill, &record, Some(RunState::Paused)).unwrap();
            assert!(killed.may_be_lost[0].contains("vm1"), "{killed:?}");
            let gone = check_local(LocalVerb::Kill, &record, None).unwrap_err();
            assert!(gone.hint.contains("transhume agent vm list"), "{gone:?}");
        }
    }
}
