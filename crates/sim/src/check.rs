//! What must hold: after every event for the VM it was about, and for all at the end.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::{HostName, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::message::{Command, Order, VmRole};
use transhume_protocol::migration::{Illegal, JournalEntry, MoveRequest, RecoverError};
use transhume_protocol::report::{Ending, MigrationReport};

use crate::host::Host;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// G2: one VM, two places.
    #[error("VM {vm} runs on {first} and on {second}")]
    RunsTwice {
        /// The VM.
        vm: VmName,
        /// Here.
        first: HostName,
        /// And here.
        second: HostName,
    },
    /// G1: a frame was lost, duplicated or reordered.
    #[error("VM {vm} received frame {got} when {expected} was due")]
    OutOfTurn {
        /// The VM.
        vm: VmName,
        /// The frame that was due.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// A frame reached a VM that was not running there.
    #[error("frame {frame} reached VM {vm} on {host}, where it does not run")]
    IntoStopped {
        /// The VM.
        vm: VmName,
        /// Where.
        host: HostName,
        /// The frame.
        frame: u64,
    },
    /// G1, at the end: frames that never arrived.
    #[error("VM {vm} received {received} of {sent} frames")]
    Lost {
        /// The VM.
        vm: VmName,
        /// Sent to it.
        sent: u64,
        /// Arrived.
        received: u64,
    },
    /// G2, at the end: a VM is not where the report says, or not only there, or does not run.
    #[error("VM {vm}: {what}")]
    Misplaced {
        /// The VM.
        vm: VmName,
        /// What is wrong.
        what: String,
    },
    /// G2, at the end: a batch is on both sides.
    #[error("batch {batch} is split between sources and targets")]
    SplitBatch {
        /// From 1.
        batch: usize,
    },
    /// The account in the report is not the truth.
    #[error("the report of VM {vm} is wrong: {what}")]
    FalseReport {
        /// The VM.
        vm: VmName,
        /// What is wrong.
        what: String,
    },
    /// Persist before send: an order of step 8 or 9 left before the decision was durable.
    #[error("{command} for VM {vm} left before the journal held Committed")]
    SentBeforePersist {
        /// The VM.
        vm: VmName,
        /// The order.
        command: &'static str,
    },
    /// G2: the journal says `Committed`, but the VM is not whole on its target.
    #[error("VM {vm} is committed without being prepared")]
    Unprepared {
        /// The VM.
        vm: VmName,
    },
    /// Something was told twice.
    #[error("the event {event} was given twice")]
    ToldTwice {
        /// The event.
        event: String,
    },
    /// The machine took something an honest agent said for impossible.
    #[error("the machine refused an input")]
    Illegal(#[source] Illegal),
    /// The machine could not read its own journal.
    #[error("the journal could not be taken up")]
    Recover(#[source] RecoverError),
    /// The move did not end.
    #[error("the move was not over after {ms} ms")]
    NeverEnds {
        /// Simulated time.
        ms: u64,
    },
}

/// One VM's guest: a flow of numbered frames that it must see without gap.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Where the fabric takes it to be.
    pub(crate) learned: HostName,
    pub(crate) source: HostName,
    pub(crate) target: HostName,
}

impl Guest {
    pub(crate) fn new(source: HostName, target: HostName) -> Self {
        Guest {
            sent: 0,
            received: 0,
            learned: source.clone(),
            source,
            target,
        }
    }

    /// A frame reaches the guest on a host.
    pub(crate) fn receive(&mut self, vm: &VmName, host: &Host, frame: u64) -> Result<(), Violation> {
        if !host.vms.get(vm).is_some_and(|copy| copy.running) {
            return Err(Violation::IntoStopped {
                vm: vm.clone(),
                host: host.name.clone(),
                frame,
            });
        }
        let expected = self.received + 1;
        if frame != expected {
            return Err(Violation::OutOfTurn {
                vm: vm.clone(),
                expected,
                got: frame,
            });
        }
        self.received = frame;
        Ok(())
    }

    /// After every event: the VM runs in at most one place.
    pub(crate) fn check(&self, vm: &VmName, hosts: &BTreeMap<HostName, Host>) -> Result<(), Violation> {
        let runs_on = |host: &HostName| hosts[host].vms.get(vm).is_some_and(|copy| copy.running);
        if runs_on(&self.source) && runs_on(&self.target) {
            let (first, second) = (self.source.clone(), self.target.clone());
            return Err(Violation::RunsTwice {
                vm: vm.clone(),
                first,
                second,
            });
        }
        Ok(())
    }

    /// At the end: it runs, at home, where the report says, and nowhere is anything left of it.
    fn check_place(
        &self,
        vm: &VmName,
        host: &HostName,
        hosts: &BTreeMap<HostName, Host>,
    ) -> Result<(), Violation> {
        let misplaced = |what: String| Violation::Misplaced { vm: vm.clone(), what };
        let other = if *host == self.source {
            &self.target
        } else {
            &self.source
        };
        if let Some(copy) = hosts[other].vms.get(vm) {
            return Err(misplaced(format!("{other} still holds it as {:?}", copy.role)));
        }
        match hosts[host].vms.get(vm) {
            Some(copy) if copy.running && copy.role == VmRole::Home => Ok(()),
            Some(copy) => Err(misplaced(format!(
                "on {host} as {:?}, running: {}",
                copy.role, copy.running
            ))),
            None => Err(misplaced(format!("{host} does not hold it"))),
        }
    }
}

/// Whether the order may only leave when the journal holds the decision, which it must by now.
pub(crate) fn check_sent(journal: &[JournalEntry], order: &Order) -> Result<(), Violation> {
    let (command, Some(vm)) = (order.command.name(), order.command.vm()) else {
        return Ok(());
    };
    let decides = matches!(
        order.command,
        Command::Activate { .. }
            | Command::Commit { .. }
            | Command::CloseSourceBuffer { .. }
            | Command::CloseTargetBuffer { .. }
            | Command::Discard { .. }
    );
    let decided = |entry: &JournalEntry| match entry {
        JournalEntry::Committed { vms, .. } => vms.iter().any(|so_far| so_far.vm == *vm),
        _ => false,
    };
    if decides && !journal.iter().any(decided) {
        return Err(Violation::SentBeforePersist {
            vm: vm.clone(),
            command,
        });
    }
    Ok(())
}

/// When the decision falls, every VM of the batch is copied and loaded.
pub(crate) fn check_decision(
    entry: &JournalEntry,
    guests: &BTreeMap<VmName, Guest>,
    hosts: &BTreeMap<HostName, Host>,
) -> Result<(), Violation> {
    let JournalEntry::Committed { vms, .. } = entry else {
        return Ok(());
    };
    for so_far in vms {
        let guest = &guests[&so_far.vm];
        let copied = hosts[&guest.source]
            .vms
            .get(&so_far.vm)
            .is_some_and(|copy| copy.copied.is_some());
        let loaded = hosts[&guest.target]
            .vms
            .get(&so_far.vm)
            .is_some_and(|copy| copy.loaded_at.is_some());
        if !(copied && loaded) {
            return Err(Violation::Unprepared {
                vm: so_far.vm.clone(),
            });
        }
    }
    Ok(())
}

/// Steps, phases, decisions and the end are told once in a coordinator's life.
pub(crate) fn check_told(events: &[Happening]) -> Result<(), Violation> {
    let mut told = BTreeSet::new();
    for event in events {
        let once = match event {
            Happening::Begun { .. }
            | Happening::StepEntered { .. }
            | Happening::PhaseEntered { .. }
            | Happening::RollingBack { .. }
            | Happening::Committed { .. }
            | Happening::VmLost { .. }
            | Happening::Ended { .. } => true,
            Happening::Progress { .. }
            | Happening::Refused { .. }
            | Happening::Failed { .. }
            | Happening::AlreadyRollingBack { .. }
            | Happening::AgentLost { .. }
            | Happening::AgentBack { .. } => false,
        };
        let event = format!("{event:?}");
        if once && !told.insert(event.clone()) {
            return Err(Violation::ToldTwice { event });
        }
    }
    Ok(())
}

/// Everything that must hold when the move is over and all frames have arrived.
pub(crate) fn check_end(
    request: &MoveRequest,
    report: &MigrationReport,
    guests: &BTreeMap<VmName, Guest>,
    hosts: &BTreeMap<HostName, Host>,
) -> Result<(), Violation> {
    for vm in &report.vms {
        let guest = &guests[&vm.id];
        guest.check_place(&vm.id, &vm.host, hosts)?;
        if guest.sent != guest.received {
            let (sent, received) = (guest.sent, guest.received);
            return Err(Violation::Lost {
                vm: vm.id.clone(),
                sent,
                received,
            });
        }
        let false_report = |what: &str| Violation::FalseReport {
            vm: vm.id.clone(),
            what: what.to_owned(),
        };
        let moved = vm.host == vm.target;
        match vm.frames {
            Some(frames) if frames.captured != frames.delivered => {
                return Err(false_report("frames do not balance"));
            }
            None if moved => return Err(false_report("there is no account of frames")),
            Some(_) | None => {}
        }
        if moved && vm.blackout_ms.is_none() {
            return Err(false_report("there is no blackout"));
        }
    }
    check_batches(request, report)
}

fn check_batches(request: &MoveRequest, report: &MigrationReport) -> Result<(), Violation> {
    let mut committed = 0;
    for batch in 1..=request.batches.len() {
        let mut vms = report
            .vms
            .iter()
            .filter(|vm| vm.batch == batch)
            .map(|vm| vm.host == vm.target);
        let moved = vms.next().expect("batches have VMs");
        if vms.any(|other| other != moved) {
            return Err(Violation::SplitBatch { batch });
        }
        committed += usize::from(moved);
    }
    let fits = match report.outcome {
        Ending::Committed | Ending::CommittedWithLoss => committed == request.batches.len(),
        Ending::PartlyCommitted => (1..request.batches.len()).contains(&committed),
        Ending::RolledBack | Ending::Refused => committed == 0,
        Ending::Running => false,
    };
    let first = &report.vms[0].id;
    let what = format!("{committed} batches moved, but it says {:?}", report.outcome);
    if fits {
        Ok(())
    } else {
        Err(Violation::FalseReport {
            vm: first.clone(),
            what,
        })
    }
}
