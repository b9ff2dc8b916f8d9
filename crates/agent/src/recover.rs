//! An agent that starts again takes over what an earlier one left (G6).
//!
//! Every recorded QEMU that is still the same process is adopted, its taps are taken out of it, and the VM stays exactly as it is:
//! one that is paused stays paused until the coordinator says what became of its batch.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};
use transhume_model::ProcessId;
use transhume_protocol::message::VmRole;
use transhume_qemu::{AdoptedIncoming, Incoming, RunState, Running, Surrendered, VmPaths};

use crate::agent::Shared;
use crate::nics::{Alarm, SourceBuffers, Taps, TargetBuffers};
use crate::record::{Record, RecordError};
use crate::vm::{self, Arrival, Leaving, Life};

/// Takes over every recorded VM. A VM whose QEMU is gone is forgotten: there is nothing of it here.
pub(crate) async fn recover(shared: &Arc<Shared>) -> Result<(), RecordError> {
    for record in Record::read_all(&shared.config.state_dir.join("vms"))? {
        let name = record.spec.name.clone();
        let dir = shared.config.vm_dir(&name);
        let Some(process) = record.process.clone().filter(transhume_qemu::is_alive) else {
            warn!(vm = %name, role = ?record.role, "its QEMU is gone; forgotten");
            Record::remove(&dir)?;
            continue;
        };
        let alarms = vm::alarms();
        match adopt(shared, &record, &process, &VmPaths::new(dir), &alarms.0).await {
            Ok(life) => {
                info!(vm = %name, role = ?record.role, pid = process.pid, "taken over");
                shared.book().enter(&record.spec);
                shared.enlist(record, life, alarms);
            }
            Err(error) => {
                // The promise is kept: the process holds the memory whether we can talk to it or not.
                shared.book().enter(&record.spec);
                warn!(vm = %name, pid = process.pid, "cannot be taken over: {}", vm::chain(error.as_ref()));
            }
        }
    }
    Ok(())
}

type AdoptError = Box<dyn std::error::Error + Send + Sync>;

async fn adopt(
    shared: &Arc<Shared>,
    record: &Record,
    process: &ProcessId,
    paths: &VmPaths,
    alarm: &mpsc::Sender<Alarm>,
) -> Result<Life, AdoptError> {
    let (name, config) = (&record.spec.name, &shared.config);
    let taps = Taps::take(record, process.pid)?;
    Ok(match record.role {
        // A VM that is powered off has no process: it is not adopted.
        VmRole::Home | VmRole::Off => Life::Home {
            qemu: Running::adopt(name, process, paths).await?,
            taps,
        },
        VmRole::Source => {
            let qemu = Running::adopt(name, process, paths).await?;
            let stopped = !matches!(qemu.vm().query_status().await?, RunState::Running);
            let buffers = match record.capturing {
                true => Some(SourceBuffers::resume(config, record, &taps, alarm.clone())?),
                false => None,
            };
            Life::Source {
                qemu,
                taps,
                leaving: Box::new(Leaving::adopted(buffers, stopped)),
            }
        }
        VmRole::Left => Life::Left {
            qemu: Surrendered::adopt(name, process, paths).await?,
            buffers: Some(SourceBuffers::resume(config, record, &taps, alarm.clone())?),
        },
        VmRole::Expected | VmRole::Target => {
            let arrival = match Incoming::adopt(name, process, paths).await {
                Ok(AdoptedIncoming::Loaded(qemu)) => Arrival::Loaded(qemu),
                // Its page stream went through the agent that died.
                Ok(AdoptedIncoming::Waiting(qemu)) => Arrival::Spoilt(qemu.vm().clone()),
                Err(error) => return Err(error.into()),
            };
            Life::Target {
                qemu: arrival,
                taps,
                stream: None,
                whole: None,
                buffers: None,
            }
        }
        VmRole::Arrived => {
            let qemu = Running::adopt(name, process, paths).await?;
            let buffers = Some(TargetBuffers::resume(config, record, &taps, alarm.clone())?);
            Life::Arrived { qemu, taps, buffers }
        }
    })
}
