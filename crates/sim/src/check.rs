//! What must hold: after every event for the VM it was about, and for all at the end.

use std::collections::BTreeMap;

use transhume_model::{HostName, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::message::{Command, Order, VmRole};
use transhume_protocol::migration::{Illegal, JournalEntry, RecoverError, RunOn};
use transhume_protocol::report::{Ending, MigrationReport};

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
    /// G2: a target runs only after the decision, a source only before it.
    #[error("VM {vm} runs on {host}, where it must not as its batch stands")]
    RunsWrongly {
        /// The VM.
        vm: VmName,
        /// Where.
        host: HostName,
    },
    /// An agent ended the only copy.
    #[error("the agent of {host} ended VM {vm}, which had no other place")]
    EndedWrongly {
        /// The VM.
        vm: VmName,
        /// Where.
        host: HostName,
    },
    /// G1: a frame was lost, duplicated or reordered.
    #[error("VM {vm} received frame {got} on {host} when {expected} was due")]
    OutOfTurn {
        /// The VM.
        vm: VmName,
        /// Where.
        host: HostName,
        /// The frame that was due.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// G1, at the end: frames that never arrived.
    #[error("VM {vm} has {received} of {sent} frames")]
    Lost {
        /// The VM.
        vm: VmName,
        /// Sent to it.
        sent: u64,
        /// The last that arrived.
        received: u64,
    },
    /// Something of a VM is on a host and nothing there knows of it.
    #[error("something of VM {vm} is on {host}, and no record or report names it")]
    Unnamed {
        /// The VM.
        vm: VmName,
        /// Where.
        host: HostName,
    },
    /// A machine and what would be recovered from its record are not the same.
    #[error("VM {vm} on {host} is {live:?}, and its record says {recorded:?}")]
    RecordDiffers {
        /// The VM.
        vm: VmName,
        /// Where.
        host: HostName,
        /// The machine.
        live: Option<VmRole>,
        /// Its record.
        recorded: Option<VmRole>,
    },
    /// A record that was written cannot be read.
    #[error("the record of VM {vm}: {why}")]
    Record {
        /// The VM.
        vm: VmName,
        /// Why.
        why: String,
    },
    /// G2, at the end: a VM is not where the report says, or not only there, or not as its user
    /// left it.
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
    /// A VM went back to its source as one that never ran on its target, and it had.
    #[error("VM {vm} went back to its source on the word that it never ran on its target, and it had")]
    NoProof {
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
    #[error("the group state machine refused an input")]
    Illegal(#[source] Illegal),
    /// The machine could not read its own journal.
    #[error("the journal could not be taken up")]
    Recover(#[source] RecoverError),
    /// The move did not end, and does not name what it waits for.
    #[error("the move was not over after {ms} ms: {waits}")]
    NeverEnds {
        /// Simulated time.
        ms: u64,
        /// What is known of it.
        waits: String,
    },
}

/// Whether the order may only leave when the journal holds the decision, which it must by now.
pub(crate) fn check_sent(journal: &[JournalEntry], order: &Order) -> Result<(), Violation> {
    let (command, Some(vm)) = (order.command.name(), order.command.vm()) else {
        return Ok(());
    };
    let reclaimed = |entry: &JournalEntry| matches!(entry, JournalEntry::Resolved { vm: of, run_on: RunOn::Source, .. } if of == vm);
    if matches!(order.command, Command::Reclaim { .. }) && !journal.iter().any(reclaimed) {
        let vm = vm.clone();
        return Err(Violation::SentBeforePersist { vm, command });
    }
    let decides = matches!(
        order.command,
        Command::Activate { .. }
            | Command::Commit { .. }
            | Command::CloseSourceBuffer { .. }
            | Command::CloseTargetBuffer { .. }
            | Command::OpenPlug { .. }
            | Command::Discard { .. }
    );
    let decided = |entry: &JournalEntry| match entry {
        JournalEntry::Committed { vms, .. } => vms.iter().any(|so_far| so_far.vm == *vm),
        JournalEntry::Resolved {
            vm: kept,
            run_on: RunOn::Target,
            ..
        } => kept == vm,
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

/// Steps, phases, decisions and the end are told once in a coordinator's life.
pub(crate) fn check_told(events: &[Happening]) -> Result<(), Violation> {
    let mut told: BTreeMap<String, &Happening> = BTreeMap::new();
    for event in events {
        let once = matches!(
            event,
            Happening::Begun { .. }
                | Happening::StepEntered { .. }
                | Happening::PhaseEntered { .. }
                | Happening::RollingBack { .. }
                | Happening::Committed { .. }
                | Happening::Ended { .. }
        );
        // The batch begins anew.
        if let Happening::PutOff { .. } = event {
            told.retain(|_, event| !is_of_batch(event));
        }
        if !once {
            continue;
        }
        let text = format!("{event:?}");
        if told.insert(text.clone(), event).is_some() {
            return Err(Violation::ToldTwice { event: text });
        }
    }
    Ok(())
}

/// What is told again where a batch begins anew.
fn is_of_batch(event: &Happening) -> bool {
    matches!(
        event,
        Happening::StepEntered { .. } | Happening::PhaseEntered { .. } | Happening::RollingBack { .. }
    )
}

pub(crate) fn check_batches(report: &MigrationReport) -> Result<(), Violation> {
    let mut committed = 0;
    let batches = report.vms.iter().map(|vm| vm.batch).max().unwrap_or_default();
    for batch in 1..=batches {
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
        Ending::Committed | Ending::CommittedWithLoss => committed == batches,
        Ending::PartlyCommitted => (1..batches).contains(&committed),
        Ending::RolledBack | Ending::Refused => committed == 0,
        Ending::Running => true,
    };
    if fits {
        return Ok(());
    }
    Err(Violation::FalseReport {
        vm: report.vms[0].id.clone(),
        what: format!("{committed} batches moved, but it says {:?}", report.outcome),
    })
}
