//! Starting QEMU so that it outlives the agent: own session, no terminal, tap descriptors inherited
//! by number.
//!
//! Unsafe: what must happen between fork and exec.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::process::Stdio;

use rustix::io::FdFlags;
use tokio::process::{Child, Command};

use crate::limits::STDERR_TAIL_BYTES;

/// Starts the process. `taps` stay open in it under the numbers they have here; nothing else is
/// inherited that is close-on-exec, as all of Rust's descriptors are.
pub(crate) fn spawn_detached(
    binary: &Path,
    args: &[OsString],
    taps: &[BorrowedFd<'_>],
    stderr_path: &Path,
) -> io::Result<Child> {
    let stderr = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(stderr_path)?;
    let inherited: Vec<RawFd> = taps.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(binary);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(stderr.try_clone()?)
        .stderr(stderr)
        .kill_on_drop(false);
    // SAFETY: between fork and exec only setsid and fcntl are called, both async-signal-safe;
    // nothing allocates. The descriptors are open: the caller's `BorrowedFd`s outlive this
    // function, which outlives the fork.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            for &fd in &inherited {
                rustix::io::fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::empty())?;
            }
            Ok(())
        });
    }
    command.spawn()
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
