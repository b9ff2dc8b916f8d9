//! Every wait and size of the buffers.

use std::time::Duration;

/// Frames a tap's ring holds while nobody reads it.
pub const RING_FRAMES: u32 = 16_384;
/// Longest virtio-net header that there is: with hashes.
pub(crate) const VNET_HEADER_BYTES_MAX: usize = 20;
/// Bytes a plug holds while it is shut.
pub const PLUG_BYTES_MAX: u32 = 256 << 20;
/// Samples of one NIC's trace, 512 KiB: the changes of some ten seconds under load. Beyond it every
/// second one goes.
pub const TRACE_SAMPLES_MAX: usize = 16_384;
/// Limit of one NIC's buffer before commit unless configured otherwise.
pub const BUFFER_BYTES_MAX: u64 = 64 << 20;
/// After commit a buffer may grow to so many times its limit before it stops reading; frames then
/// wait in the tap.
pub(crate) const COMMITTED_GROWTH: usize = 8;
/// Addresses beside its NIC's that a guest may send from and keep through a move.
pub const OTHER_ADDRESSES_MAX: usize = 64;

/// Longest time in which a guest that is asked whether it takes frames takes none. It runs
/// meanwhile; one that does answers in microseconds, and one that does not is asked again. A
/// capture that comes meanwhile waits for it. Only time in which we had a processor counts, here
/// and below.
pub const PROBE_IDLE_MAX: Duration = Duration::from_millis(250);
/// Pause between two looks whether it has.
pub(crate) const PROBE_PAUSE: Duration = Duration::from_millis(1);
/// Longest wait for the guest to empty its ring before it is stopped: a full ring at 2000 frames/s.
/// Frames wait in the plug meanwhile. Then it is taken as it is.
pub const RING_WAIT_MAX: Duration = Duration::from_secs(8);
/// Longest time in which it takes none. A guest that has been deaf for long is known before; one
/// that is only short of processors, eight of them on two, has its turn several times in so long.
pub const RING_IDLE_MAX: Duration = Duration::from_secs(1);
/// Pause between two looks how many it has taken.
pub(crate) const RING_COUNT_PAUSE: Duration = Duration::from_millis(20);
/// The ring must be seen empty twice, so far apart: a frame may be on its way into it when the plug
/// shuts.
pub(crate) const RING_SETTLE: Duration = Duration::from_micros(200);
/// Longest wait for a QEMU that has just stopped to take the frame that it is to hold. It has just
/// answered `stop`, so it is awake.
pub(crate) const HELD_WAIT: Duration = Duration::from_millis(250);
/// The same for one that had stopped before: mostly it holds a frame already, and takes no other.
pub(crate) const HELD_BEFORE_WAIT: Duration = Duration::from_millis(20);
/// The same for the second frame of ours, which is taken only where the guest took the first
/// itself.
pub(crate) const HELD_AGAIN_WAIT: Duration = Duration::from_millis(5);
/// Pause between two looks whether it has.
pub(crate) const HELD_SETTLE: Duration = Duration::from_micros(30);
/// Wait on an abort between the shutting of the plug and the last drain: a frame that has left the
/// plug and is not in the ring yet, its bearer being preempted, would come before those that are
/// put back.
pub(crate) const ABORT_SETTLE: Duration = Duration::from_millis(20);
/// Longest wait for the marker.
pub(crate) const MARKER_WAIT: Duration = Duration::from_millis(1_000);
/// Wait after the marker before the last drain: a frame that a bridge looked up before it heard the
/// announcement may be sent after it, when it was preempted in between.
pub(crate) const MARKER_SETTLE: Duration = Duration::from_millis(10);
/// Wait before FIN where no marker came.
pub(crate) const LINGER: Duration = Duration::from_millis(300);
/// The target's answer to FIN is late after so long: reported, and waited for again.
pub(crate) const FLOODING_WAIT: Duration = Duration::from_secs(30);
/// The old path closes once it has been silent for so long after that: longer than a sender that
/// holds a frame is preempted.
pub(crate) const LATE_QUIET: Duration = Duration::from_millis(200);
/// Longest wait for that silence: a fabric that never heard the announcement goes on sending here
/// until the VM itself sends.
pub(crate) const LATE_WAIT: Duration = Duration::from_secs(2);
/// Shortest time between two announcements to a fabric that still sends to the source.
pub(crate) const REMIND_PAUSE: Duration = Duration::from_millis(10);
/// A queue must be seen empty so often, with the ring read in between, before it counts as empty.
pub(crate) const EMPTY_LOOKS: u32 = 2;
/// Pause between two looks.
pub(crate) const EMPTY_PAUSE: Duration = Duration::from_micros(300);
/// Looks at most; what comes later counts as late.
pub(crate) const EMPTY_LOOKS_MAX: u32 = 100;
/// The last delivery is late after so long: reported, and waited for again.
pub(crate) const DELIVERY_WAIT: Duration = Duration::from_secs(30);
/// Longest wait of an abort for its reader to end.
pub(crate) const FINISH_WAIT_MAX: Duration = Duration::from_secs(30);
/// Frames read from a tap before the tunnel gets its turn.
pub(crate) const READ_BATCH_FRAMES: usize = 256;
/// Bytes read from a tunnel at once.
pub(crate) const TUNNEL_CHUNK_BYTES: usize = 1 << 20;
/// Pause before the guest's full ring is tried again.
pub(crate) const RING_FULL_PAUSE: Duration = Duration::from_micros(200);
/// Longest time in which a guest with a full ring takes none before its VM is announced all the
/// same.
pub const ACTIVATE_IDLE_MAX: Duration = Duration::from_millis(250);
/// Longest delay of the announcement in all, for a guest that takes frames slowly.
pub const ACTIVATE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest time in which a guest with a full ring takes none before frames for it are given up.
pub const UNTAKEN_IDLE_MAX: Duration = Duration::from_secs(10);
/// How long is looked at the end whether it takes those that are in its ring.
pub(crate) const UNTAKEN_LOOK: Duration = Duration::from_millis(100);
/// The same while kept frames are put back.
pub const PUT_BACK_IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the other end when a broken tunnel is connected again.
pub(crate) const RECONNECT_WAIT: Duration = Duration::from_secs(1);
/// Answers of a target that are taken before its source goes on with the tap.
pub(crate) const ANSWERS_AT_ONCE_MAX: usize = 256;
/// Bytes that are sealed, or read sealed, at once.
pub(crate) const SEALED_BYTES_MAX: usize = 256 << 10;
/// Sealed answers that the source does not take; then it is given up.
pub(crate) const SEALED_WAITING_BYTES_MAX: usize = 256 << 10;
/// Sealed records without bytes that may follow one another.
pub(crate) const EMPTY_RECORDS_MAX: u32 = 32;
/// Pause between two attempts to connect a broken tunnel after commit.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// After so many attempts in a row it is reported that the tunnel stays broken.
pub(crate) const RECONNECTS_REPORTED: u32 = 300;

/// Frames of a buffer that are told of one by one where the kernel does not let them into the ring.
pub const UNFIT_TOLD_MAX: u64 = 8;
/// So much of each: its virtio-net header and those of Ethernet, IP and TCP.
pub const UNFIT_TOLD_BYTES: usize = 80;
