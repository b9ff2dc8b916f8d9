//! Every wait and size of the buffers.

use std::time::Duration;

/// Frames a tap's ring holds while nobody reads it.
pub const RING_FRAMES: u32 = 16_384;
/// Bytes a plug holds while it is shut.
pub const PLUG_BYTES_MAX: u32 = 256 << 20;
/// Limit of one NIC's buffer before commit unless configured otherwise.
pub const BUFFER_BYTES_MAX: u64 = 64 << 20;
/// After commit a buffer may grow to so many times its limit before it stops reading; frames then wait in the tap.
pub(crate) const COMMITTED_GROWTH: usize = 8;

/// Longest wait for the guest to empty its ring before it is stopped: a full ring at 2000 frames/s. Frames wait in the plug meanwhile.
pub(crate) const RING_WAIT_MAX: Duration = Duration::from_secs(8);
/// Longest time in which it takes none.
pub(crate) const RING_IDLE_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks how many it has taken.
pub(crate) const RING_COUNT_PAUSE: Duration = Duration::from_millis(20);
/// The ring must be seen empty twice, so far apart: a frame may be on its way into it when the plug shuts.
pub(crate) const RING_SETTLE: Duration = Duration::from_micros(200);
/// Longest wait for a stopped QEMU to take the frame that it holds. It has just answered `stop`, so it is awake.
pub(crate) const HELD_WAIT: Duration = Duration::from_millis(250);
/// Pause between two looks whether it has.
pub(crate) const HELD_SETTLE: Duration = Duration::from_micros(30);
/// Longest wait for the marker.
pub(crate) const MARKER_WAIT: Duration = Duration::from_millis(1_000);
/// Wait after the marker before the last drain: a frame that a bridge looked up before it heard the announcement may be sent after it, when its
/// processor was away in between.
pub(crate) const MARKER_SETTLE: Duration = Duration::from_millis(10);
/// Wait before FIN where no marker came.
pub(crate) const LINGER: Duration = Duration::from_millis(300);
/// Longest wait for the target to say that flooding is on.
pub(crate) const FLOODING_WAIT: Duration = Duration::from_secs(10);
/// The old path closes once it has been silent for so long after that: longer than a processor is away that holds a frame.
pub(crate) const LATE_QUIET: Duration = Duration::from_millis(200);
/// Longest wait for that silence: a fabric that never heard the announcement goes on sending here until the VM itself speaks.
pub(crate) const LATE_WAIT: Duration = Duration::from_secs(2);
/// A queue must be seen empty so often, with the ring read in between, before it counts as empty.
pub(crate) const EMPTY_LOOKS: u32 = 2;
/// Pause between two looks.
pub(crate) const EMPTY_PAUSE: Duration = Duration::from_micros(300);
/// Looks at most; what comes later counts as late.
pub(crate) const EMPTY_LOOKS_MAX: u32 = 100;
/// Longest wait for the last delivery.
pub(crate) const DELIVERY_WAIT: Duration = Duration::from_secs(30);
/// Frames read from a tap before the tunnel gets its turn.
pub(crate) const READ_BATCH_FRAMES: usize = 256;
/// Bytes read from a tunnel at once.
pub(crate) const TUNNEL_CHUNK_BYTES: usize = 1 << 20;
/// Pause before the guest's full ring is tried again.
pub(crate) const RING_FULL_PAUSE: Duration = Duration::from_micros(200);
/// Longest time a guest may leave its ring full while kept frames are put back.
pub(crate) const PUT_BACK_MS_MAX: u64 = 30_000;
/// Pause between two attempts to connect a broken tunnel after commit.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Attempts to connect a broken tunnel after commit.
pub(crate) const RECONNECTS_MAX: u32 = 300;
