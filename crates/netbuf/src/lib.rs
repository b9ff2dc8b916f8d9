//! The virtual network buffer (§3.3.1): holds the frames for a VM while it is not running anywhere,
//! and brings them where it runs next.
//!
//! ```text
//!  bridge ─ tap ─ QEMU (source)                              bridge ─ tap ─ QEMU (target)
//!            │plug                                                     │plug  ▲
//!            └── capture ─▶ spool ═══ tunnel ═══▶ spool ─▶ deliver ────┴──────┘ inject
//! ```
//!
//! [`Tap`] makes a VM's interface with its plug; [`SourceBuffer`] and [`TargetBuffer`] are the two
//! ends of one NIC's buffer. Each runs one thread, and one for handshakes that it never waits for;
//! no async, no processes, on the path of a switchover only system calls. Every step may be asked
//! for again, by the same agent after an error or by the next after a kill. `docs/design/netbuf.md`
//! has layouts and limits.
#![deny(unsafe_code)]

mod abort;
mod account;
mod capture;
mod channel;
mod clock;
mod closing;
mod config;
mod deliver;
mod delivered;
mod error;
mod frame;
mod greeting;
mod inject;
pub mod limits;
mod mark;
mod meter;
mod plug;
mod reading;
mod ring;
mod sender;
mod source;
mod spool;
#[allow(
    unsafe_code,
    reason = "the system calls that rustix does not offer; each block says why it is sound"
)]
mod sys;
mod tap;
mod target;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod tunnel;
mod watch;

use std::sync::Arc;

pub use account::{OldPath, SourceAccount, TargetAccount};
pub use clock::wall;
pub use config::{NicIdentity, SourceConfig, TargetConfig};
pub use deliver::PlugOpener;
pub use delivered::Delivered;
pub use error::Error;
pub use mark::{MarkedTap, TapMark, marked_taps};
pub use meter::{Figures, Meter};
pub use plug::PlugState;
pub use source::{Responsiveness, Shut, SourceBuffer};
pub use tap::{Tap, TapConfig};
pub use target::{Activated, TargetBuffer};
pub use trace::{Sample, trace_csv};

/// What a buffer reports by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The buffer reads no more: its limit is reached. Frames wait in the tap.
    LimitReached {
        /// Bytes kept.
        bytes: u64,
    },
    /// The tunnel broke before commit.
    TunnelBroken {
        /// Why.
        why: String,
    },
    /// Something that should not happen did; the text says what.
    Broken {
        /// What.
        what: String,
    },
}

/// Takes events, on the buffer's thread; must not block.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;
