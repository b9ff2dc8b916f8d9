//! The protocol under a simulated clock, network and hosts: the same group state machine that the coordinator
//! drives, against model agents, with faults at any instant. One seed reproduces a run.
//!
//! ```text
//!  Coordinator (journal, Migration) ── orders ──▶ Host (model agent: durable and volatile halves of each VM copy)
//!         ▲ crash before persist,  ◀─ reports ──    │ tunnel, FIFO, lost with either agent
//!         │ after it, between sends                 ▼
//!       World (clock, queue of events, links) ◀── peers: one numbered flow of frames per VM
//!         └── after every event: no VM runs twice; every guest sees 1, 2, 3 … of its flow
//! ```
//!
//! The model follows design.md §3: frames wait in the tap's queue while a VM is stopped, are kept until commit, are
//! numbered in the tunnel; the announcement moves the learned path and its echo, FIFO behind older frames, is the
//! marker. Deliberately absent: pages (their transfer is one delay), broadcast, bytes and rates, and the loss of a
//! host with its QEMUs: only agents and the coordinator die here.
#![forbid(unsafe_code)]

mod check;
mod coordinator;
mod copy;
mod fault;
mod host;
mod network;
mod random;
mod scenario;
mod world;

pub use check::Violation;
pub use coordinator::CrashPoint;
pub use fault::{Fault, OrderFault, Weather};
pub use random::Random;
pub use scenario::Scenario;
pub use world::{Outcome, World};
