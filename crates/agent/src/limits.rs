//! Every queue and wait of the agent that is not a parameter of an order.

use std::time::Duration;

/// Pause between two looks at the bands.
pub(crate) const BANDS_LOOK: Duration = Duration::from_secs(1);

/// Connections to the address for metrics at the same time; further ones wait.
pub(crate) const METRICS_CONNECTIONS_MAX: usize = 8;

/// From the acceptance of such a connection to its end, whatever the client does.
pub(crate) const METRICS_CONVERSATION_MAX: Duration = Duration::from_secs(10);

/// Longest head of a request for metrics: the least that hyper takes.
pub(crate) const METRICS_HEAD_BYTES_MAX: usize = 8 << 10;

/// Headers of such a request.
pub(crate) const METRICS_HEADERS_MAX: usize = 32;

/// Pause after such a connection could not be accepted, for want of descriptors as a rule.
pub(crate) const METRICS_ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Orders waiting for one VM's task. The coordinator sends at most one per step and VM, and repeats
/// slowly.
pub(crate) const ORDERS_WAITING_MAX: usize = 64;

/// Reports waiting for the link; beyond it the link is taken for dead.
pub(crate) const REPORTS_WAITING_MAX: usize = 4096;

/// Silence on the coordinator's connection after which it is closed.
pub(crate) const LINK_SILENCE_MS_MAX: u64 = 60_000;

/// Wait for the source's connection to a target's page stream listener.
pub(crate) const PAGE_STREAM_CONNECT: Duration = Duration::from_secs(10);

/// A link check is over at each end within this.
pub(crate) const LINK_TRIAL_MAX: Duration = Duration::from_secs(15);

/// Link checks that wait or run on a host.
pub(crate) const LINK_TRIALS_MAX: usize = 4;

/// Bytes read from a page stream at once.
pub(crate) const PAGE_CHUNK_BYTES: usize = 256 << 10;

/// How long the link is busy with what a stream has read ahead of it in its first pass; and its
/// bytes.
pub(crate) const PAGE_AHEAD: Duration = Duration::from_millis(32);
pub(crate) const PAGE_AHEAD_BYTES_MAX: usize = 4 << 20;

/// Bytes for the other agent that may wait. A target past it takes nothing more, neither from the
/// source nor from QEMU; to a source an honest target's questions never come so far, past what it
/// reads ahead, its window and one chunk, and others end the stream.
pub(crate) const PAGE_OUTGOING_BYTES_MAX: usize = 16 << 20;

/// TLS records without bytes that may follow one another.
pub(crate) const TLS_EMPTY_RECORDS_MAX: u32 = 32;

/// Bytes read at once from what a target's QEMU says to the source's.
pub(crate) const RETURN_PATH_BYTES: usize = 4096;

/// Bytes of one stream that are sent or retained and not acknowledged, beside what is read ahead;
/// 1 Gbit/s over 32 ms.
pub(crate) const PAGE_WINDOW_BYTES_MAX: u64 = 4 << 20;

/// How long a page stream waits for pages that other streams of its source carry, before it asks
/// for them. The windows of eight streams take 1.3 s at 200 Mbit/s; a stream that breaks takes its
/// promises back at once.
pub(crate) const PAGE_SIBLING_WAIT: Duration = Duration::from_secs(3);

/// Send buffer of a page stream's socket: the link's own latency is short, and what waits in front
/// of the last pages lengthens the blackout.
pub(crate) const PAGE_SEND_BUFFER_BYTES: usize = 512 << 10;

/// Send buffer of a target's socket to its QEMU; the kernel doubles it. What waits in it waits in
/// front of the last pages.
pub(crate) const QEMU_SOCKET_BYTES: usize = 512 << 10;

/// Page versions kept for delta, per stream and side: 4 MiB.
pub(crate) const PAGE_VERSION_SLOTS: u32 = 1024;

/// Wait for QEMU to say `pre-switchover` or `completed` after the pause; the order's own limit is
/// the coordinator's.
pub(crate) const STOP_AND_COPY_MAX: Duration = Duration::from_secs(120);

/// Wait for a VM's files to be opened, and copied where its QEMU may not read them.
pub(crate) const FILES_OPEN_MAX: Duration = Duration::from_secs(20);

/// Wait for an NBD server's answer about an export.
pub(crate) const DISK_PROBE_MAX: Duration = Duration::from_secs(3);

/// Time for a held page stream to catch up before the guest is stopped; measured in
/// `docs/design/qemu.md`.
pub(crate) const CATCH_UP: Duration = Duration::from_millis(30);

/// How long a VM that is ready for its stop waits for others of its host, from the moment in which
/// each of them began to prepare: [`CATCH_UP`], and the emptying of its ring.
pub(crate) const TOGETHER_MAX: Duration = Duration::from_millis(45);

/// Bytes under way to the target's agent with which a VM may be stopped: 4 ms at 1 Gbit/s.
pub(crate) const LAG_BYTES_MAX: u64 = 512 << 10;

/// What QEMU, buffers and streams report by themselves, waiting for the VM's task; each of them
/// does so a few times in a move.
pub(crate) const INPUTS_WAITING_MAX: usize = 256;

/// Longest act of a VM, but for those that wait for memory to cross: a backstop behind the limits
/// of QEMU and `netbuf`.
pub(crate) const ACT_MAX: Duration = Duration::from_secs(120);

/// Longest act that waits for memory to cross: two waits of [`STOP_AND_COPY_MAX`] and some talk
/// with QEMU.
pub(crate) const COPY_ACT_MAX: Duration = Duration::from_secs(270);

/// Longest act that closes a buffer; the coordinator asks again, and the closing goes on meanwhile.
pub(crate) const FINISH_ACT_MAX: Duration = Duration::from_secs(90);

/// How often it is looked whether such an act is given up.
pub(crate) const FINISH_LOOK: Duration = Duration::from_millis(200);

/// How long a target's closed buffer goes on answering a source that missed that it is closed.
pub(crate) const CLOSED_BUFFER_KEPT: Duration = Duration::from_secs(5);

/// Longest wait of a starting agent for what an earlier one left to be taken over, before it hears
/// the coordinator. What takes longer is shown as it was recorded.
pub(crate) const TAKE_OVER_MAX: Duration = Duration::from_secs(10);

/// Processes looked at for the mark of a QEMU; more than Linux has.
pub(crate) const PROCESSES_MAX: usize = 4 << 20;

/// Longest command line of a process that is looked at for a mark.
pub(crate) const COMMAND_LINE_BYTES_MAX: u64 = 1 << 20;

/// A guest's console, and a QEMU's own errors: so much of what was written last is kept, and as
/// much again of what was written before, bytes.
pub(crate) const LOG_KEPT_BYTES_MAX: u64 = 4 << 20;

/// Between two looks at the logs of a QEMU. A guest writes some 100 KB of its console in a second.
pub(crate) const LOG_LOOK: Duration = Duration::from_secs(5);

/// What a QEMU may have beside its guest's memory, MiB: 1 GiB of it is what TCG may keep
/// translated. Wide, since the kernel ends whoever needs more.
pub(crate) const QEMU_MEMORY_BEYOND_GUEST_MIB: u64 = 2048;

/// Threads of a QEMU beside those that are its processors; those that work on disks are 64 at most.
pub(crate) const QEMU_THREADS_BEYOND_VCPUS: u64 = 128;
