//! The source's side of a move: switching on what we need, starting the stream, watching and
//! steering it.
//!
//! ```text
//!  start ─▶ setup ─▶ active ──(stop)──▶ pre-switchover ──(continue)──▶ device ─▶ completed
//!                      │ ack withheld: stays here                                    │
//!                      └──────────────── cancel ─────▶ cancelled ◀─── until continue ┘ cont even after completed
//! ```
//!
//! The run state of a guest whose migration completed is `postmigrate`; QEMU obeys `cont` even
//! then. That makes an abort possible up to the commit, and fencing necessary after it (design §4).
//!
//! Deliberately absent: pacing and compression (the page stream's proxy), multifd, postcopy.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use transhume_model::{Bytes, Millis};

use crate::binary::CAPABILITIES;
use crate::error::QemuError;
use crate::limits::MIGRATION_POLL;
use crate::qmp::{Qmp, QmpError};

/// What QEMU calls the socket of its migration stream.
const STREAM: &str = "stream";

/// What QEMU may leave for the pause, milliseconds. Small, since the pause instant is ours (the ack
/// is withheld); not zero, since QEMU then never looks for newly dirtied pages.
const DOWNTIME_LIMIT_MS: u64 = 5;

/// Where a migration is, as QEMU says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationStatus {
    /// None yet.
    None,
    /// Connecting.
    Setup,
    /// Being cancelled.
    Cancelling,
    /// Cancelled.
    Cancelled,
    /// Copying memory; on a target, receiving.
    Active,
    /// Postcopy runs; never asked for.
    PostcopyActive,
    /// Postcopy is interrupted; never asked for.
    PostcopyPaused,
    /// Postcopy recovers; never asked for.
    #[serde(alias = "postcopy-recover-setup")]
    PostcopyRecover,
    /// Done.
    Completed,
    /// Failed.
    Failed,
    /// COLO; never asked for.
    Colo,
    /// The guest is paused and QEMU waits for `migrate-continue`.
    PreSwitchover,
    /// Device state is being sent.
    Device,
    /// Waits for a network fail-over to unplug.
    WaitUnplug,
}

impl MigrationStatus {
    /// As QEMU writes it.
    pub fn name(self) -> &'static str {
        match self {
            MigrationStatus::None => "none",
            MigrationStatus::Setup => "setup",
            MigrationStatus::Cancelling => "cancelling",
            MigrationStatus::Cancelled => "cancelled",
            MigrationStatus::Active => "active",
            MigrationStatus::PostcopyActive => "postcopy-active",
            MigrationStatus::PostcopyPaused => "postcopy-paused",
            MigrationStatus::PostcopyRecover => "postcopy-recover",
            MigrationStatus::Completed => "completed",
            MigrationStatus::Failed => "failed",
            MigrationStatus::Colo => "colo",
            MigrationStatus::PreSwitchover => "pre-switchover",
            MigrationStatus::Device => "device",
            MigrationStatus::WaitUnplug => "wait-unplug",
        }
    }

    /// Whether a migration is under way that can still be cancelled.
    pub fn is_under_way(self) -> bool {
        matches!(
            self,
            MigrationStatus::Setup
                | MigrationStatus::Active
                | MigrationStatus::PreSwitchover
                | MigrationStatus::Device
                | MigrationStatus::Cancelling
                | MigrationStatus::WaitUnplug
        )
    }

    /// Whether it ended without success.
    pub fn is_lost(self) -> bool {
        matches!(self, MigrationStatus::Failed | MigrationStatus::Cancelled)
    }
}

/// A look at a migration.
#[derive(Debug, Clone, PartialEq)]
pub struct MigrationProgress {
    /// Where it is.
    pub status: MigrationStatus,
    /// Guest memory in all.
    pub total: Bytes,
    /// Sent so far, as QEMU counts.
    pub transferred: Bytes,
    /// Still to send, as of the last look for dirty pages.
    pub remaining: Bytes,
    /// How often QEMU looked for dirty pages.
    pub dirty_sync_count: u64,
    /// Dirtied per second.
    pub dirty_bytes_per_second: Bytes,
    /// Rate of sending, megabits per second.
    pub mbps: f64,
    /// Blackout that QEMU predicts.
    pub expected_downtime: Option<Millis>,
    /// Blackout that QEMU measured on the source, once completed.
    pub downtime: Option<Millis>,
    /// QEMU's words about a failure.
    pub error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Answer {
    #[serde(default)]
    status: Option<MigrationStatus>,
    #[serde(default)]
    ram: Ram,
    expected_downtime: Option<u64>,
    downtime: Option<u64>,
    error_desc: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Ram {
    total: u64,
    transferred: u64,
    remaining: u64,
    dirty_sync_count: u64,
    dirty_pages_rate: u64,
    page_size: u64,
    mbps: f64,
}

impl From<Answer> for MigrationProgress {
    fn from(answer: Answer) -> Self {
        let ram = answer.ram;
        Self {
            status: answer.status.unwrap_or(MigrationStatus::None),
            total: Bytes(ram.total),
            transferred: Bytes(ram.transferred),
            remaining: Bytes(ram.remaining),
            dirty_sync_count: ram.dirty_sync_count,
            dirty_bytes_per_second: Bytes(ram.dirty_pages_rate.saturating_mul(ram.page_size)),
            mbps: ram.mbps,
            expected_downtime: answer.expected_downtime.map(Millis),
            downtime: answer.downtime.map(Millis),
            error: answer.error_desc,
        }
    }
}

/// One look.
pub(crate) async fn progress(qmp: &Qmp) -> Result<MigrationProgress, QmpError> {
    Ok(qmp.query::<Answer>("query-migrate").await?.into())
}

/// The same on both sides; must precede `migrate` and `migrate-incoming`.
pub(crate) async fn set_capabilities(qmp: &Qmp) -> Result<(), QmpError> {
    let capabilities: Vec<Value> = CAPABILITIES
        .iter()
        .map(|name| json!({"capability": name, "state": true}))
        .collect();
    qmp.execute("migrate-set-capabilities", json!({"capabilities": capabilities}))
        .await?;
    Ok(())
}

/// No limit of QEMU's own on the stream's rate: pacing is the proxy's.
pub(crate) async fn set_parameters(qmp: &Qmp) -> Result<(), QmpError> {
    let parameters = json!({"max-bandwidth": 0, "downtime-limit": DOWNTIME_LIMIT_MS});
    qmp.execute("migrate-set-parameters", parameters).await?;
    Ok(())
}

/// Starts the page stream into a connected socket.
pub(crate) async fn start(qmp: &Qmp, stream: BorrowedFd<'_>) -> Result<(), QmpError> {
    stream_through(qmp, "migrate", stream).await
}

/// Has the page stream come from a connected socket.
pub(crate) async fn receive(qmp: &Qmp, stream: BorrowedFd<'_>) -> Result<(), QmpError> {
    stream_through(qmp, "migrate-incoming", stream).await
}

/// QEMU can open no socket of its agent's, and none of anybody else: it is handed this one.
async fn stream_through(qmp: &Qmp, command: &str, stream: BorrowedFd<'_>) -> Result<(), QmpError> {
    let named = json!({"fdname": STREAM});
    qmp.execute_with_fd("getfd", named, stream).await?;
    let channel = json!([{
        "channel-type": "main",
        "addr": {"transport": "socket", "type": "fd", "str": STREAM},
    }]);
    qmp.execute(command, json!({"channels": channel})).await?;
    Ok(())
}

/// Waits until the migration is in one of the `wanted` states; a lost one is an error unless
/// wanted.
pub(crate) async fn wait_for(
    qmp: &Qmp,
    wanted: &[MigrationStatus],
    what: &'static str,
    limit: Duration,
) -> Result<MigrationProgress, QemuError> {
    // Subscribed before the first look, so that no change falls between the two.
    let mut events = qmp.events();
    let wait = async {
        loop {
            let now = progress(qmp).await?;
            if wanted.contains(&now.status) {
                return Ok(now);
            }
            if now.status.is_lost() {
                return Err(lost(qmp, &now, what));
            }
            let changed = async {
                loop {
                    match events.recv().await {
                        Ok(event) if event.name == "MIGRATION" => return,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => return,
                        // Never closes while `qmp` is held; the look tells what became of QEMU.
                        Err(RecvError::Closed) => return std::future::pending().await,
                    }
                }
            };
            // Too late for the event is fine: the state is looked at again.
            let _ = timeout(MIGRATION_POLL, changed).await;
        }
    };
    match timeout(limit, wait).await {
        Ok(outcome) => outcome,
        Err(_) => Err(QemuError::Timeout {
            vm: qmp.vm().clone(),
            step: what,
            limit,
        }),
    }
}

fn lost(qmp: &Qmp, now: &MigrationProgress, waiting_for: &'static str) -> QemuError {
    QemuError::Migration {
        vm: qmp.vm().clone(),
        status: now.status.name().to_owned(),
        waiting_for,
        reason: now.error.clone().unwrap_or_else(|| "QEMU gave no reason".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_before_any_migration_and_a_full_one() {
        let none: Answer = serde_json::from_str("{}").unwrap();
        assert_eq!(MigrationProgress::from(none).status, MigrationStatus::None);
        let text = r#"{"expected-downtime":300,"status":"active","setup-time":2,"total-time":531,"ram":{"total":134889472,
            "postcopy-requests":0,"dirty-sync-count":3,"multifd-bytes":0,"pages-per-second":100,"downtime-bytes":0,
            "page-size":4096,"remaining":8192,"postcopy-bytes":0,"mbps":93.5,"transferred":1234,"dirty-sync-missed-zero-copy":0,
            "precopy-bytes":1234,"duplicate":3,"dirty-pages-rate":10,"normal-bytes":4096,"normal":1}}"#;
        let full: MigrationProgress = serde_json::from_str::<Answer>(text).unwrap().into();
        assert_eq!(full.status, MigrationStatus::Active);
        assert_eq!(full.dirty_bytes_per_second, Bytes(40960));
        assert_eq!(full.remaining, Bytes(8192));
        assert_eq!(full.expected_downtime, Some(Millis(300)));
    }
}
