//! Every limit of the bands.

/// Storage addresses of a host.
pub const SERVERS_MAX: usize = 64;
/// Slowest link that can be divided, bits per second.
pub const LINK_BITS_PER_S_MIN: u64 = 1_000_000;
/// Fastest link that can be divided, bits per second.
pub const LINK_BITS_PER_S_MAX: u64 = 400_000_000_000;
/// Of a link's speed, in percent, what is divided: the queue is to form where it is ordered, not in
/// the device.
pub const LINK_USED_PERCENT: u8 = 97;
/// Repairs within [`REPAIRS_WITHIN_MS`]; one more, and the link is left alone.
pub const REPAIRS_MAX: usize = 5;
/// See [`REPAIRS_MAX`], milliseconds.
pub const REPAIRS_WITHIN_MS: u64 = 60_000;
/// Bytes of a band that borrows before the next of the same priority does.
pub const QUANTUM_BYTES: u32 = 15_140;
/// Bytes that may wait in a band: above any guest's burst. A queue that drops early would lose
/// frames that nobody repeats.
pub const QUEUE_BYTES: u32 = 4 << 20;
/// A segment that the kernel has not cut yet passes at once.
pub const BURST_BYTES_MIN: u64 = 64 << 10;
/// What a band may send at once, in milliseconds of its rate: the kernel's timer is not finer
/// everywhere.
pub const BURST_MS: u64 = 1;
