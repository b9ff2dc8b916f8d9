//! What a stock VM's monitor says: events with their times, looks at a migration, and what went
//! wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, timeout_at};
use transhume_model::VmName;
use transhume_qemu::{MigrationStatus, QemuError, Qmp, QmpEvent};

use crate::LabError;

pub fn stock(vm: &VmName, source: QemuError) -> LabError {
    LabError::Stock {
        vm: vm.to_string(),
        source: Box::new(source),
    }
}

pub fn late(vm: &VmName, what: &str, limit: Duration) -> LabError {
    LabError::Timeout {
        what: format!("VM {vm} of the stock lab: {what}"),
        waited_ms: limit.as_millis() as u64,
    }
}

/// A look at a source's migration; one that is lost is an error.
pub async fn look(vm: &VmName, source: &Qmp) -> Result<Value, LabError> {
    let failed = |error: QemuError| stock(vm, error);
    let asked = source.query("query-migrate").await;
    let seen: Value = asked.map_err(|error| failed(error.into()))?;
    let lost = [MigrationStatus::Failed, MigrationStatus::Cancelled];
    match lost.iter().find(|lost| seen["status"] == lost.name()) {
        None => Ok(seen),
        Some(status) => Err(failed(QemuError::Migration {
            vm: vm.clone(),
            status: status.name().to_owned(),
            waiting_for: "its end",
            reason: seen["error-desc"]
                .as_str()
                .unwrap_or("QEMU gave no reason")
                .to_owned(),
        })),
    }
}

/// Waits for an event; when it happened, microseconds since 1970.
pub async fn event(
    vm: &VmName,
    events: &mut Receiver<QmpEvent>,
    what: &str,
    is_it: impl Fn(&QmpEvent) -> bool,
    limit: Duration,
) -> Result<u64, LabError> {
    let deadline = Instant::now() + limit;
    loop {
        match timeout_at(deadline, events.recv()).await {
            Ok(Ok(event)) if is_it(&event) => return Ok(event.timestamp.micros()),
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(late(vm, what, limit)),
        }
    }
}

/// Microseconds since 1970, as QEMU stamps its events.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64)
}

/// The same of an event that its name alone tells.
pub async fn named(
    vm: &VmName,
    events: &mut Receiver<QmpEvent>,
    name: &str,
    limit: Duration,
) -> Result<u64, LabError> {
    event(vm, events, name, |event| event.name == name, limit).await
}
