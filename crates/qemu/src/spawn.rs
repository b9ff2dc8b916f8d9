//! Starting QEMU so that it outlives the agent and has none of its rights: own session, somebody
//! else, no capabilities and no way to any, nothing open but what it is handed.
//!
//! Unsafe: what must happen between fork and exec.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Stdio;

use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use tokio::process::{Child, Command};

use crate::limits::STDERR_TAIL_BYTES;
use crate::user::User;

/// Standard input, output and error output come before.
const FIRST_FD: libc::c_uint = 3;

/// Lists of a control group's processes, opened for writing: this process is written as `0`.
const ITSELF: &[u8] = b"0";

/// What a process that runs QEMU may have.
pub(crate) struct Confined<'a> {
    pub(crate) user: User,
    /// Control groups that it goes into, each by its list of processes.
    pub(crate) groups: &'a [File],
    /// No file that it writes grows beyond so many bytes.
    pub(crate) file_bytes_max: u64,
}

/// Starts the process. Those of `inherited` stay open in it under the numbers that they have here,
/// and nothing else.
pub(crate) fn spawn_detached(
    binary: &Path,
    args: &[OsString],
    inherited: &[RawFd],
    stderr: OwnedFd,
    confined: &Confined<'_>,
) -> io::Result<Child> {
    let mut command = Command::new(binary);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(stderr.try_clone()?)
        .stderr(stderr)
        .kill_on_drop(false);
    confine(&mut command, inherited, confined);
    command.spawn()
}

/// Arranges what is done between fork and exec.
pub(crate) fn confine(command: &mut Command, inherited: &[RawFd], confined: &Confined<'_>) {
    use std::os::fd::AsRawFd;
    let inherited = inherited.to_vec();
    let groups: Vec<RawFd> = confined.groups.iter().map(AsRawFd::as_raw_fd).collect();
    let (user, file_bytes_max) = (confined.user, confined.file_bytes_max);
    // SAFETY: between fork and exec only system calls are made, all of them async-signal-safe;
    // nothing allocates. The descriptors are open: their owners outlive the call that starts the
    // process, which outlives the fork.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            for &group in &groups {
                rustix::io::write(BorrowedFd::borrow_raw(group), ITSELF)?;
            }
            keep_open_only(&inherited)?;
            limit(file_bytes_max)?;
            become_powerless(user)
        });
    }
}

/// All others close with exec, whoever opened them.
fn keep_open_only(inherited: &[RawFd]) -> io::Result<()> {
    // SAFETY: takes three numbers; nothing is closed before exec.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_FD,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    for &fd in inherited {
        // SAFETY: the caller's promise: it is open.
        rustix::io::fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::empty())?;
    }
    Ok(())
}

/// No core file, which would be the guest's memory; no file beyond its size, and no end by the
/// signal that says so: what does not fit is not written.
fn limit(file_bytes_max: u64) -> io::Result<()> {
    for (resource, most) in [(Resource::Core, 0), (Resource::Fsize, file_bytes_max)] {
        // Whoever started the agent may have allowed less.
        let most = getrlimit(resource)
            .maximum
            .map_or(most, |before| before.min(most));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    // SAFETY: installs no handler.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// In this order: each step needs what a later one gives up.
fn become_powerless(user: User) -> io::Result<()> {
    for capability in 0..=u64::BITS {
        // SAFETY: takes numbers. The kernel knows none from here on: all are dropped.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if dropped != 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINVAL) => break,
                _ => return Err(error),
            }
        }
    }
    match user.device_group {
        Some(group) => set_thread_groups(&[group])?,
        None => set_thread_groups(&[])?,
    }
    set_thread_res_gid(user.gid, user.gid, user.gid)?;
    set_thread_res_uid(user.uid, user.uid, user.uid)?;
    // The change from root took them already; one that is not root has kept them.
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_no_new_privs(true)?;
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    Ok(())
}

/// The end of an error output, for a message; empty where it cannot be read.
pub(crate) fn stderr_tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(STDERR_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(STDERR_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}
