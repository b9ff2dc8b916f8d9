//! A QEMU process that outlives its agent: identified so that a recycled number is never taken for
//! it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use transhume_model::{ProcessId, VmName};

use crate::error::QemuError;
use crate::limits::KILL_LIMIT;

/// Field of `/proc/PID/stat` that holds the start time, counted from the state (field 3).
const STAT_START_TIME_AFTER_STATE: usize = 19;

/// The identity of a process that exists now and has not ended.
pub fn identify(pid: u32) -> io::Result<ProcessId> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let start_ticks =
        start_ticks(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the process has ended"))?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(ProcessId {
        pid,
        start_ticks,
        boot: boot.trim().to_owned(),
    })
}

/// Whether the process still exists and has not ended.
pub fn is_alive(id: &ProcessId) -> bool {
    identify(id.pid).is_ok_and(|now| now == *id)
}

/// The start time in a stat line; `None` for a process that has ended and waits to be reaped.
fn start_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold spaces and parentheses itself.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(STAT_START_TIME_AFTER_STATE - 1)?.parse().ok()
}

/// Kills a process that nothing else of this crate holds, and waits until it is gone. Fine when it
/// has ended.
pub async fn kill(vm: &VmName, id: &ProcessId) -> Result<(), QemuError> {
    let failed = |source| QemuError::Io {
        vm: vm.clone(),
        step: "kill the QEMU that was left",
        source,
    };
    let process = match Process::open(id.clone()) {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    process.kill().map_err(failed)?;
    match timeout(KILL_LIMIT, process.ended()).await {
        Ok(ended) => ended.map_err(failed),
        Err(_) => Err(QemuError::Timeout {
            vm: vm.clone(),
            step: "waiting for a killed QEMU to end",
            limit: KILL_LIMIT,
        }),
    }
}

/// A process held by its pidfd.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of the recorded process; `NotFound` when it is gone or its number belongs to
    /// another.
    pub(crate) fn open(id: ProcessId) -> io::Result<Self> {
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let raw = i32::try_from(id.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(not_found)?;
        // The pidfd first, the check after: from here on the number cannot be recycled unnoticed.
        let pidfd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH) => return Err(not_found()),
            opened => opened?,
        };
        if !is_alive(&id) {
            return Err(not_found());
        }
        // SAFETY: `as_raw_fd` of an OwnedFd always gives the same descriptor, which nothing closes
        // before the AsyncFd that owns it is dropped.
        #[allow(unsafe_code)]
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) }?;
        Ok(Self { id, pidfd })
    }

    pub(crate) fn id(&self) -> &ProcessId {
        &self.id
    }

    /// Resolves when the process has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        // A pidfd becomes readable once and stays so.
        self.pidfd.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// SIGKILL; fine when it has ended already.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_nasty_name_is_read() {
        let tail = (4..22).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_ticks(&format!("7 (a) b (c) S {tail} 4711 0 0")), Some(4711));
        assert_eq!(start_ticks(&format!("7 (a) Z {tail} 4711 0 0")), None);
        assert_eq!(start_ticks("7 (a"), None);
    }

    #[tokio::test]
    async fn a_recycled_number_is_not_taken() {
        let mut id = identify(std::process::id()).unwrap();
        assert!(is_alive(&id));
        id.start_ticks += 1;
        assert_eq!(Process::open(id).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn what_is_left_is_killed_and_what_is_gone_is_fine() {
        let vm = "vm1".parse().unwrap();
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = identify(child.id().unwrap()).unwrap();
        kill(&vm, &id).await.unwrap();
        assert!(!child.wait().await.unwrap().success());
        kill(&vm, &id).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_is_noticed() {
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(identify(child.id().unwrap()).unwrap()).unwrap();
        process.kill().unwrap();
        process.ended().await.unwrap();
        assert!(!is_alive(process.id()));
        child.wait().await.unwrap();
        process.kill().unwrap();
    }
}
