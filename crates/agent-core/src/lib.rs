//! What an agent decides about one VM, sans-IO (§3.3): a role, what an order does in it, and what
//! must be durable before it is done.
//!
//! ```text
//!             StartVm                 PreCopy              Commit             Discard
//!  (nothing) ─────────▶ Home ───────────────────▶ Source ─────────▶ Left ─────────────▶ (nothing)
//!     ▲                 ▲  ▲ └─power-off─▶ Off      │
//!     │     TargetClosed│  └──────AbortSource───────┘
//!     │                 │
//!     │              Arrived ◀──Activate── Target ◀──Prepare── Expected ◀──Reserve── (nothing)
//!     └──────────────────────AbortTarget─────┴───────────────────┘
//! ```
//!
//! [`Machine::handle`] takes one [`Input`] and returns a [`Ready`]; only [`Machine::proceed`] turns
//! that into the [`After`] with its effects, and it wants to know whether the record was written.
//! So nothing can be done before it is durable. Each effect is answered once, by [`Input::Done`].
//!
//! The real agent and the simulation both run this machine; `docs/design/agent.md` has the roles,
//! the records and what is done when something fails.
//!
//! Deliberately absent: clocks, files, sockets, QEMU, and any decision about a batch: the
//! coordinator's.
#![forbid(unsafe_code)]

mod absent;
mod answers;
mod effect;
mod input;
mod leader;
pub mod limits;
mod local;
mod machine;
mod record;
mod role;
mod trouble;

pub use absent::absent;
pub use effect::{Act, AdoptBuffers, Effect, Pace, Signal, SpawnFor, Ticket, Timer};
pub use input::{CopyStatus, Flow, Found, Input, Looked, Product, RunState};
pub use leader::admit;
pub use local::{Allowed, LocalVerb, NotAllowed, check_local, place_in_words};
pub use machine::{After, Machine, Ready};
pub use record::{Arrival, Change, Place, RECORD_VERSION, Record, RecordError, tap_name};
pub use trouble::Trouble;
