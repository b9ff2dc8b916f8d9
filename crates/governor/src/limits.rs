//! Every limit of admission and governor by name.

use transhume_model::Millis;

/// Pause between two rounds of the governor.
pub const ROUND_MS: Millis = Millis(250);

/// Least rate of a page stream, bytes per second: QEMU's headers and the end of a pass always get
/// through. 1 Mbit/s.
pub const LEAST_BYTES_PER_S: f64 = 125_000.0;

/// Least rate that admission counts for a VM, bits per second.
pub const NEED_BITS_PER_S_MIN: u64 = 1_000_000;

/// Share of a budget that page streams are given: the rest are headers. Of a full frame of 1 514
/// bytes 1 448 are a stream's.
pub const PAYLOAD_SHARE: f64 = 0.95;

/// Where less than this is left, a VM still gets a share as if it were so much, bytes: what is
/// found dirty next is sent at once.
pub const LEFT_BYTES_MIN: f64 = 262_144.0;

/// A stream that does not use its rate is offered so many times what it used.
pub const UNUSED_OFFER: f64 = 1.5;

/// It does not use its rate where it goes at less than this share of it.
pub const USED_SHARE: f64 = 0.8;

/// A rate that changes by less than this share is not told anew.
pub const CHANGE_MIN: f64 = 0.02;

/// Passes in a row that leave as much as the one before, until a VM counts as stuck.
pub const STUCK_PASSES: u32 = 2;

/// A pass leaves less than the one before where it leaves at most this share of it.
pub const STUCK_SHRINK: f64 = 0.9;

/// And so long it must have been so.
pub const STUCK_MS: Millis = Millis(3_000);

/// Passes before a VM's dirty rate says anything.
pub const STUCK_AFTER_PASSES: u64 = 2;

/// Steps in which a guest is slowed down to the share that was named.
pub const THROTTLE_STEPS: u8 = 5;

/// VMs of the first batch of a move whose batches are cut by what they cost.
pub const BATCH_FIRST: usize = 4;

/// What the VMs of such a batch dirty takes at most this share of a link: the rest brings them
/// over.
pub const DIRTY_SHARE_MAX: f64 = 0.5;

/// Blackouts of at most this share of what is allowed let the next batch be larger.
pub const BLACKOUT_SHARE_SMALL: f64 = 0.5;

/// So many times.
pub const BATCH_GROWTH: usize = 2;

/// Pause between two outlooks.
pub const OUTLOOK_MS: Millis = Millis(1_000);
