//! Every wait and size this crate bounds.

use std::time::Duration;

/// Oldest QEMU accepted: `switchover-ack` came with 8.1, what is tested starts at 8.2.
pub const QEMU_VERSION_MIN: transhume_model::Version = transhume_model::Version {
    major: 8,
    minor: 2,
    micro: 0,
};

/// Older ones move guests under KVM only: with 8.2.2 pages that a guest under TCG wrote were old at
/// the target, stock `migrate` or ours; with 9.2.1 none was (docs/design/qemu.md).
pub const TCG_VERSION_MIN: transhume_model::Version = transhume_model::Version {
    major: 9,
    minor: 2,
    micro: 0,
};

/// Longest wait for the answer to one QMP command, unless the call names its own.
pub const QMP_CALL_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for QMP's greeting on a socket that exists.
pub const QMP_GREETING_LIMIT: Duration = Duration::from_secs(5);

/// Longest QMP line accepted, bytes. `query-qmp-schema` of QEMU 10 answers with 200 KB.
pub const QMP_LINE_BYTES_MAX: usize = 4 << 20;

/// Events kept for a subscriber that is behind; it is told when it missed some.
pub const QMP_EVENTS_MAX: usize = 256;

/// Commands that may wait for an answer at once on one connection.
pub const QMP_CALLS_MAX: usize = 64;

/// Longest wait from spawning QEMU to its QMP greeting.
pub const START_LIMIT: Duration = Duration::from_secs(20);

/// Pause between two attempts to reach a QMP socket that is not there yet.
pub const START_RETRY: Duration = Duration::from_millis(10);

/// Longest wait for a process to end after `quit`; then it is killed.
pub const QUIT_LIMIT: Duration = Duration::from_secs(3);

/// Longest wait for a process to end after SIGKILL.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Longest run of one of the questions asked of a QEMU binary.
pub const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// Longest run of the trial guest that decides whether KVM works.
pub const ACCEL_TRIAL_LIMIT: Duration = Duration::from_secs(10);

/// Second look at a migration whose next event has not come: events may be missed, the state never
/// lies.
pub const MIGRATION_POLL: Duration = Duration::from_millis(200);

/// Longest wait for a cancelled migration to reach its end state.
pub const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// End of QEMU's error output kept for an error message, bytes.
pub const STDERR_TAIL_BYTES: u64 = 2048;

/// Longest path of a Unix socket that Linux takes, bytes.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Time between the two looks at a guest's pages; whole seconds are what every accepted QEMU takes.
pub const DIRTY_SAMPLING: Duration = Duration::from_secs(1);

/// Pages of a guest that are looked at for its dirty rate: the error of the estimate is then a few
/// percent of the memory, and the two looks together cost some 20 ms of a processor.
pub const DIRTY_SAMPLE_PAGES: u64 = 2_048;

/// Fewest and most pages of each GiB that QEMU can be told to look at.
pub const DIRTY_SAMPLE_PAGES_PER_GIB: (u64, u64) = (128, 16_384);

/// Pause between two questions whether a dirty rate is measured.
pub const DIRTY_POLL: Duration = Duration::from_millis(50);

/// Longest file of accounts that is read, bytes.
pub const ACCOUNT_BYTES_MAX: u64 = 4 << 20;

/// Longest kernel or initial file system that is copied for a QEMU that may not read it, bytes.
pub const BOOT_FILE_BYTES_MAX: u64 = 1 << 30;

/// A log that a QEMU writes (the guest's console, its own errors) ends here also where no agent
/// shortens it, bytes. A VM with a disk in a file has the size of its largest in its place: the
/// kernel has one limit for all files of a process.
pub const LOG_BYTES_MAX: u64 = 64 << 20;
