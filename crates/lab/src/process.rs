//! Processes of the lab: started inside a namespace, remembered by pid and start time, ended only
//! when they still are the same process.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddrV4;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::{LabError, Namespace};

const LISTEN_WAIT_MS_MAX: u64 = 10_000;
const LISTEN_POLL: Duration = Duration::from_millis(20);
const END_POLL: Duration = Duration::from_millis(10);
/// A process that does not end after SIGTERM in this time is killed.
pub const TERM_WAIT_MS_MAX: u64 = 2000;
/// A killed process that is still there after this time is reported.
const KILL_WAIT_MS_MAX: u64 = 5000;

/// A process that outlives the one that started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// `agent h1`, `coordinator`, `disk vm3`.
    pub what: String,
    /// Its id.
    pub pid: i32,
    /// Its start time in clock ticks since boot: with the pid it names one process for ever.
    pub start_ticks: u64,
}

/// Starts a program inside a namespace, detached, its output in `log`.
pub fn spawn(
    namespace: &Namespace,
    what: &str,
    program: &Path,
    arguments: &[String],
    log: &Path,
) -> Result<ProcessRecord, LabError> {
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(|source| LabError::File {
            action: "open",
            path: log.to_owned(),
            source,
        })?;
    let start = |source| LabError::Start {
        program: program.display().to_string(),
        source,
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(start)?)
        .stderr(output)
        .process_group(0);
    let mut child = namespace.run(|| command.spawn().map_err(start))?;
    let pid = child.id() as i32;
    let start_ticks = start_ticks(pid).ok_or_else(|| LabError::Ended {
        what: what.to_owned(),
        log: log.to_owned(),
    })?;
    // A starter that lives on (a test) collects the exit status; otherwise PID 1 does.
    thread::spawn(move || child.wait());
    Ok(ProcessRecord {
        what: what.to_owned(),
        pid,
        start_ticks,
    })
}

impl ProcessRecord {
    /// The record of a running process.
    pub fn of(what: String, pid: i32) -> Option<Self> {
        Some(ProcessRecord {
            what,
            pid,
            start_ticks: start_ticks(pid)?,
        })
    }

    /// It still runs: a zombie or another process with its pid does not count.
    pub fn alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Sends a signal, if it still is the same process; whether it was.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return false;
        };
        // The descriptor pins the process, so the check after opening it holds for the signal.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        self.alive() && pidfd_send_signal(pidfd, signal).is_ok()
    }
}

/// The record of a process that a lab shall belong to.
pub fn owner(pid: u32) -> Result<ProcessRecord, LabError> {
    let record = i32::try_from(pid)
        .ok()
        .and_then(|pid| ProcessRecord::of("owner".to_owned(), pid));
    record.ok_or_else(|| LabError::Option {
        option: "owner",
        reason: format!("there is no process {pid}"),
    })
}

/// Ends all of them together: SIGTERM, then SIGKILL. Returns what would not go.
pub fn end_all(processes: &[ProcessRecord], term_wait_ms: u64) -> Vec<ProcessRecord> {
    let wait = |limit_ms: u64| {
        let deadline = Instant::now() + Duration::from_millis(limit_ms);
        while processes.iter().any(ProcessRecord::alive) && Instant::now() < deadline {
            thread::sleep(END_POLL);
        }
    };
    if term_wait_ms > 0 {
        processes
            .iter()
            .for_each(|process| _ = process.signal(Signal::TERM));
        wait(term_wait_ms);
    }
    processes
        .iter()
        .for_each(|process| _ = process.signal(Signal::KILL));
    wait(KILL_WAIT_MS_MAX);
    processes
        .iter()
        .filter(|process| process.alive())
        .cloned()
        .collect()
}

/// Every process that lives in one of these namespaces.
pub fn inside(namespaces: &[Namespace]) -> Vec<ProcessRecord> {
    let inodes: Vec<u64> = namespaces.iter().filter_map(Namespace::inode).collect();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino());
        namespace.is_ok_and(|inode| inodes.contains(&inode))
    })
    .filter_map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        ProcessRecord::of(name.trim().to_owned(), pid)
    })
    .collect()
}

/// Waits until something in the namespace listens on `address`.
///
/// The kernel's table is read instead of connecting: an agent answers only its newest connection,
/// and that must stay the coordinator's.
pub fn wait_for_listener(
    namespace: &Namespace,
    address: SocketAddrV4,
    process: &ProcessRecord,
    log: &Path,
) -> Result<(), LabError> {
    let deadline = Instant::now() + Duration::from_millis(LISTEN_WAIT_MS_MAX);
    namespace.run(|| {
        while !listens(
            &fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default(),
            address,
        ) {
            if !process.alive() {
                return Err(LabError::Ended {
                    what: process.what.clone(),
                    log: log.to_owned(),
                });
            }
            if Instant::now() > deadline {
                let what = format!("the start of {}", process.what);
                return Err(LabError::Timeout {
                    what,
                    waited_ms: LISTEN_WAIT_MS_MAX,
                });
            }
            thread::sleep(LISTEN_POLL);
        }
        Ok(())
    })
}

/// Looks up `address`, or its port on all addresses, among the listening sockets of /proc/net/tcp.
fn listens(table: &str, address: SocketAddrV4) -> bool {
    const LISTEN: &str = "0A";
    let port = address.port();
    // The kernel prints the address as it lies in memory.
    let exact = format!("{:08X}:{port:04X}", u32::from_le_bytes(address.ip().octets()));
    let any = format!("00000000:{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        (local == exact || local == any) && fields.nth(1) == Some(LISTEN)
    })
}

/// Start time of a process that is no zombie.
fn start_ticks(pid: i32) -> Option<u64> {
    start_ticks_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Clock ticks of processor time that a process has used with all its threads; none where it is
/// gone.
pub(crate) fn used_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    used_ticks_of(&stat)
}

/// What [`used_ticks`] reads.
fn used_ticks_of(stat: &str) -> u64 {
    const UTIME_AFTER_STATE: usize = 11;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = fields.split_ascii_whitespace().skip(UTIME_AFTER_STATE).take(2);
    times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// What [`start_ticks`] reads.
fn start_ticks_of(stat: &str) -> Option<u64> {
    const THREADS_AFTER_STATE: usize = 16;
    const STARTTIME_AFTER_THREADS: usize = 1;
    // The name, in parentheses, may hold anything: fields are counted from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u32 = fields.nth(THREADS_AFTER_STATE)?.parse().ok()?;
    // The first thread may be gone while others still hold the process's sockets.
    if state == "X" || (state == "Z" && threads <= 1) {
        return None;
    }
    fields.nth(STARTTIME_AFTER_THREADS)?.parse().ok()
}

/// The current program, for processes that are this program under another name.
pub fn current_program() -> io::Result<std::path::PathBuf> {
    std::env::current_exe()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (std::process::Child, ProcessRecord) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let record = ProcessRecord::of("sleep".into(), child.id() as i32).unwrap();
        (child, record)
    }

    #[test]
    fn a_process_is_ended_and_a_zombie_counts_as_ended() {
        let (mut child, record) = sleeper();
        assert!(record.alive());
        assert_eq!(end_all(std::slice::from_ref(&record), 1000), []);
        assert!(!record.alive(), "not yet waited for, but dead");
        child.wait().unwrap();
    }

    /// Found in the lab: a killed agent's listener was still there, and the next one could not
    /// start.
    #[test]
    fn a_process_whose_first_thread_alone_is_gone_still_lives() {
        let stat = |state, threads| {
            format!("7 (a) b) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 {threads} 0 4711 0")
        };
        assert_eq!(start_ticks_of(&stat("S", 3)), Some(4711));
        assert_eq!(start_ticks_of(&stat("Z", 3)), Some(4711));
        assert_eq!(start_ticks_of(&stat("Z", 1)), None);
        assert_eq!(start_ticks_of(&stat("X", 0)), None);
    }

    #[test]
    fn listeners_are_found_in_the_kernels_table() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("an IPv4 address")
        };
        let table = || fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        assert!(listens(&table(), address));
        drop(listener);
        assert!(!listens(&table(), address));
    }

    #[test]
    fn processor_time_is_user_and_system_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 120 34 5 6 20 0 4 0 99 0 0";
        assert_eq!(used_ticks_of(stat), 120 + 34);
        assert_eq!(used_ticks_of(""), 0);
    }

    #[test]
    fn another_process_with_the_same_pid_is_left_alone() {
        let (mut child, record) = sleeper();
        let older = ProcessRecord {
            start_ticks: record.start_ticks - 1,
            ..record.clone()
        };
        assert!(!older.signal(Signal::KILL));
        assert!(record.alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
