//! An agent that starts takes over what an earlier one left (G6), and finds what carries its mark
//! without a record.
//!
//! A record whose process lives, or has none, is taken up by its VM's machine. What has no record
//! that can be read, or another process than the recorded one, is stranded: left alone, reported,
//! and nobody may use its name.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};
use transhume_agent_core::{Found, Machine, Record};
use transhume_model::VmName;
use transhume_qemu::is_alive;

use crate::agent::Agent;
use crate::clock;
use crate::limits::TAKE_OVER_MAX;
use crate::marks::Marks;
use crate::store::{Kept, KeptRecord};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Starts the tasks of all VMs of which something is here; waits a while until each is taken over.
pub(crate) async fn take_over(agent: &Agent) -> Result<(), AnyError> {
    let begun = tokio::time::Instant::now();
    for task in tokio::task::block_in_place(|| enlist_all(agent))? {
        let left = TAKE_OVER_MAX.saturating_sub(begun.elapsed());
        // One that takes longer is shown as it was recorded.
        let _ = timeout(left.max(Duration::from_millis(1)), task).await;
    }
    Ok(())
}

fn enlist_all(agent: &Agent) -> Result<Vec<oneshot::Receiver<()>>, AnyError> {
    let context = agent.context();
    let kept = context.store.read_all()?;
    let marks = Marks::look(context.store.vms_dir(), &context.owner)?;
    let without_record: Vec<VmName> = marks
        .vms()
        .filter(|vm| kept.iter().all(|kept| kept.vm != **vm))
        .cloned()
        .collect();
    let mut tasks = Vec::new();
    for Kept { vm, found } in kept {
        match found {
            KeptRecord::Readable(record) => tasks.push(take_up(agent, *record, &marks)),
            KeptRecord::Unreadable { why } => tasks.push(strand_unreadable(agent, &vm, &why, &marks)),
            KeptRecord::Missing => match marks.describe(&vm) {
                Some(what) => tasks.push(strand(agent, &vm, format!("{what} has no record"))),
                None => context.store.forget(&vm)?,
            },
        }
    }
    for vm in without_record {
        let what = marks.describe(&vm).unwrap_or_default();
        tasks.push(strand(agent, &vm, format!("{what} has no record")));
    }
    Ok(tasks)
}

fn take_up(agent: &Agent, record: Record, marks: &Marks) -> oneshot::Receiver<()> {
    let context = agent.context();
    let vm = record.spec.name.clone();
    context.reservations().enter(&record.spec);
    let found = match record.process() {
        Some(process) if is_alive(process) => Found::Alive(process.clone()),
        Some(process) => match marks.describe(&vm) {
            Some(what) => {
                let what = format!("{what} is not process {}, which its record names", process.pid);
                return strand(agent, &vm, what);
            }
            None => Found::Gone,
        },
        None => match marks.processes.get(&vm).and_then(|processes| processes.first()) {
            Some(process) => Found::Alive(process.clone()),
            None => Found::Gone,
        },
    };
    info!(%vm, ?found, "takes up a record");
    let host = context.config.host.clone();
    let (machine, ready) = Machine::recover(clock::now(), host, record, found);
    agent.enlist(machine, Some(ready))
}

fn strand_unreadable(agent: &Agent, vm: &VmName, why: &str, marks: &Marks) -> oneshot::Receiver<()> {
    let aside = agent.context().store.vm_dir(vm).join("state.json.unreadable");
    let left = marks
        .describe(vm)
        .map_or("nothing of it runs".to_owned(), |what| {
            format!("still there: {what}")
        });
    let what = format!(
        "its record cannot be read ({why}) and was set aside as {}; {left}",
        aside.display()
    );
    strand(agent, vm, what)
}

fn strand(agent: &Agent, vm: &VmName, what: String) -> oneshot::Receiver<()> {
    warn!(%vm, "stranded: {what}");
    let host = agent.context().config.host.clone();
    let hint =
        "look whether the VM runs elsewhere; then destroy it here, which ends what is left of it".to_owned();
    agent.enlist(Machine::stranded(host, vm.clone(), what, hint), None)
}
