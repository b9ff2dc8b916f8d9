//! Every wait and queue of the machine.

use transhume_model::Millis;

/// Orders of one VM that wait for the one that is being carried out. The coordinator sends at most
/// one per step and VM, and repeats slowly.
pub const ORDERS_WAITING_MAX: usize = 64;

/// Pause between two looks at a page stream's progress.
pub const PROGRESS_MS: Millis = Millis(100);

/// Passes over memory before a prediction is believed: the first copies everything, the second what
/// it missed.
pub const ROUNDS_MIN: u64 = 2;

/// Longest wait for a page stream whose predicted blackout fits until the target's agent lags
/// little.
pub const LAG_MS_MAX: Millis = Millis(200);

/// Pause between two looks whether it does.
pub const LAG_LOOK_MS: Millis = Millis(5);

/// What a blackout lasts beside the memory that is predicted: barrier, state, commit and resumption
/// of a small batch (docs/performance.md).
pub const BUFFER_MARGIN_MS: Millis = Millis(50);

/// How long a VM that is ready but for its buffer waits for less to come, before its move is given
/// up.
pub const FLOOD_MS_MAX: Millis = Millis(10_000);

/// A guest that has taken no frame for so long takes none. A healthy one may be starved of
/// processor for a while, and taking it for deaf costs it the one frame that QEMU holds.
pub const DEAF_MS_MIN: Millis = Millis(2_000);

/// Pause between two questions to a guest that took none.
pub const PROBE_AGAIN_MS: Millis = Millis(100);

/// Pause between two questions to a guest of which it is known.
pub const PROBE_EVERY_MS: Millis = Millis(200);

/// A guest that had taken frames and has taken none for so long is not waited for at the capture:
/// its buffer would wait as long and then take it as it is.
pub const SUSPECTED_MS_MIN: Millis = Millis(1_000);

/// Pause before the power button of a guest that does not power itself off is pressed again: one
/// that still boots hears nothing of it.
pub const POWER_PRESS_EVERY_MS: Millis = Millis(10_000);

/// Presses of the power button; a minute in all.
pub const POWER_PRESSES_MAX: u32 = 6;

/// Pause before something that could not be taken over is tried again.
pub const ADOPT_AGAIN_MS: Millis = Millis(5_000);

/// Pause before a record that could not be written is written again.
pub const WRITE_AGAIN_MS: Millis = Millis(500);
