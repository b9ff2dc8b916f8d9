//! Fence agents: commands that switch a host off, as Pacemaker's `fence_*` do by IPMI and the like.
//!
//! ```text
//!  asked ─▶ checked by the core (dry) ─▶ command runs ─▶ exit 0 ─▶ the core counts the host as off
//!                                            └─ anything else: refused, nothing has changed
//! ```
//!
//! The command's success stands for the operator's word, and for nothing less: whether its device
//! switched the right host off nobody here can see. Deliberately absent: a shell, retries, several
//! devices of one host, fencing that nobody asked for.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;
use transhume_model::{HostName, HostSpec};

/// Longest run of a command; it is killed then. Pacemaker's own default (`stonith-timeout`).
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// What is kept of what it says.
const SAID_BYTES_MAX: u64 = 16 << 10;
/// What is shown of it.
const SAID_CHARS_MAX: usize = 300;

/// Why a host was not switched off.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NotFenced {
    /// Its configuration names no command.
    #[error("host {0} has no fence agent")]
    NoCommand(HostName),
    /// Somebody else has it run.
    #[error("the fence agent of host {0} is running already")]
    UnderWay(HostName),
    /// It cannot be started.
    #[error("the fence agent `{program}` of host {host} cannot be run: {why}")]
    NotRun {
        host: HostName,
        program: String,
        why: String,
    },
    /// It ended, and says that it did not work.
    #[error("the fence agent `{program}` of host {host} failed ({status}){}{said}", if said.is_empty() { "" } else { ": " })]
    Failed {
        host: HostName,
        program: String,
        status: ExitStatus,
        said: String,
    },
    /// It did not end.
    #[error("the fence agent `{program}` of host {host} did not end within {} s and was killed", COMMAND_MAX.as_secs())]
    TooSlow { host: HostName, program: String },
}

impl NotFenced {
    /// The host.
    pub(crate) fn host(&self) -> HostName {
        match self {
            NotFenced::NoCommand(host)
            | NotFenced::UnderWay(host)
            | NotFenced::NotRun { host, .. }
            | NotFenced::Failed { host, .. }
            | NotFenced::TooSlow { host, .. } => host.clone(),
        }
    }
}

/// The commands of the configuration, by host.
#[derive(Debug, Default)]
pub(crate) struct FenceAgents {
    commands: BTreeMap<HostName, FenceAgent>,
}

#[derive(Debug)]
struct FenceAgent {
    command: Vec<String>,
    /// Held while the command runs: a host is not switched off by two at a time, and not by one
    /// that waited, when it may be on again.
    turn: Mutex<()>,
}

impl FenceAgents {
    pub(crate) fn of(hosts: &[HostSpec]) -> Self {
        let named = hosts.iter().filter(|host| !host.fence.is_empty());
        let agent = |host: &HostSpec| FenceAgent {
            command: host.fence.clone(),
            turn: Mutex::default(),
        };
        Self {
            commands: named.map(|host| (host.name.clone(), agent(host))).collect(),
        }
    }

    fn agent(&self, host: &HostName) -> Result<&FenceAgent, NotFenced> {
        let agent = self.commands.get(host);
        agent.ok_or_else(|| NotFenced::NoCommand(host.clone()))
    }

    /// Which program would be run; its arguments may hold secrets and are never shown.
    pub(crate) fn program(&self, host: &HostName) -> Result<&str, NotFenced> {
        self.agent(host).map(|agent| agent.command[0].as_str())
    }

    /// Switches a host off, and returns when its command says that it is.
    pub(crate) async fn fence(&self, host: &HostName) -> Result<(), NotFenced> {
        self.fence_within(host, COMMAND_MAX).await
    }

    async fn fence_within(&self, host: &HostName, limit: Duration) -> Result<(), NotFenced> {
        let agent = self.agent(host)?;
        let Ok(_turn) = agent.turn.try_lock() else {
            return Err(NotFenced::UnderWay(host.clone()));
        };
        let (host, program) = (host.clone(), agent.command[0].clone());
        match timeout(limit, run(&agent.command)).await {
            Err(_) => Err(NotFenced::TooSlow { host, program }),
            Ok(Err(error)) => Err(NotFenced::NotRun {
                host,
                program,
                why: error.to_string(),
            }),
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, said))) => Err(NotFenced::Failed {
                host,
                program,
                status,
                said,
            }),
        }
    }
}

/// Its end, and the last line that it said of itself.
async fn run(command: &[String]) -> std::io::Result<(ExitStatus, String)> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // With the wait for it.
        .kill_on_drop(true)
        .spawn()?;
    let said = child.stderr.take();
    let (status, said) = tokio::join!(child.wait(), last_line(said));
    Ok((status?, said))
}

/// All of it is read, so that it does not wait for a reader; the first part is kept.
async fn last_line(said: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut said) = said else {
        return String::new();
    };
    let mut kept = Vec::new();
    let read = (&mut said).take(SAID_BYTES_MAX).read_to_end(&mut kept).await;
    if read.is_ok() {
        let _ = tokio::io::copy(&mut said, &mut tokio::io::sink()).await;
    }
    let text = String::from_utf8_lossy(&kept);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    let shown = line.unwrap_or_default().trim().chars();
    let printable = shown.map(|c| if c.is_control() { '\u{fffd}' } else { c });
    printable.take(SAID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(command: &[&str]) -> (FenceAgents, HostName) {
        let host: HostSpec = serde_json::from_value(serde_json::json!({
            "name": "h1", "control": "127.0.0.1:1", "fence": command,
        }))
        .unwrap();
        (FenceAgents::of(std::slice::from_ref(&host)), host.name)
    }

    #[tokio::test]
    async fn success_is_an_exit_code_of_zero() {
        let (agents, h1) = agents(&["true"]);
        assert_eq!(agents.fence(&h1).await, Ok(()));
        assert_eq!(agents.program(&h1), Ok("true"));
    }

    #[tokio::test]
    async fn what_it_says_at_last_is_told_and_its_arguments_are_not() {
        let script = "echo connecting >&2; printf 'no \\033answer\\n\\n' >&2; exit 3";
        let (agents, h1) = agents(&["sh", "-c", script, "--password=hunter2"]);
        let said = agents.fence(&h1).await.unwrap_err().to_string();
        assert_eq!(
            said,
            "the fence agent `sh` of host h1 failed (exit status: 3): no \u{fffd}answer"
        );
    }

    #[tokio::test]
    async fn one_that_never_stops_talking_or_never_ends_is_killed() {
        for script in ["yes >&2", "exec sleep 600"] {
            let (agents, h1) = agents(&["sh", "-c", script]);
            let slow = agents.fence_within(&h1, Duration::from_millis(200)).await;
            assert!(matches!(slow, Err(NotFenced::TooSlow { .. })), "{slow:?}");
        }
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let (agents, h1) = agents(&["/no/such/fence_ipmilan"]);
        let missing = agents.fence(&h1).await.unwrap_err().to_string();
        assert!(
            missing.contains("/no/such/fence_ipmilan` of host h1 cannot be run"),
            "{missing}"
        );
        let (none, h1) = self::agents(&[]);
        let none = none.fence(&h1).await;
        assert_eq!(none, Err(NotFenced::NoCommand(h1)));
    }
}
