//! The coordinator's group state machine and every agent's machine, the real ones, under a
//! simulated clock, network and hosts, with faults at any instant. One seed reproduces a run.
//!
//! ```text
//!  Coordinator (journal, Migration) ── orders ──▶ Agent: one Machine per VM, its acts and timers
//!         ▲ crash before persist,  ◀─ reports ──    │ record first, then acts; dies and starts again
//!         │ after it, between sends                 ▼
//!       World (clock, queue of events,          Host: records, QEMUs, taps, spools; survive the agent
//!         │      links, streams, tunnels)           ▲
//!         │                                         └─ peers: one numbered flow of frames per VM
//!         └── after every event: a VM runs once, where its batch lets it; nothing is unnamed
//! ```
//!
//! What is simulated is only what acts act upon (`world::acts`, `world::buffers`, `world::pages`);
//! everything that is decided, is decided by the code that ships. Frames follow design.md §3.
//! `docs/design/sim.md` has the faults, what must hold, and what was run.
//!
//! Deliberately absent: pages (their transfer is a delay), broadcast, bytes and rates, several NICs
//! of a VM.
#![forbid(unsafe_code)]

mod check;
pub mod contract;
mod coordinator;
mod fault;
mod guest;
mod host;
mod network;
mod random;
mod scenario;
mod world;

pub use check::Violation;
pub use coordinator::CrashPoint;
pub use fault::{ActFault, Fault, Mischief, OrderFault, Place, PowerLoss, Weather, WriteFault};
pub use random::Random;
pub use scenario::{GuestKind, Scenario};
pub use world::{Loss, Outcome, Watcher, World};
