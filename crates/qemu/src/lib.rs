//! Everything about one QEMU process: finding the binary, starting it, talking to it, moving its
//! guest.
//!
//! ```text
//!  VmSpec ─▶ CommandLine ─▶ Launcher ─┬─ boot ────▶ Running ──cont─▶ (guest runs)
//!                       (always -S)   │               └───surrender──▶ Surrendered ─▶ kill
//!                                     └─ receive ─▶ Incoming<Waiting> ─▶ Incoming<Loaded>
//!                                                                            │ resume(CommitPermit)
//!                                                                            ▼
//!                                                                         Running
//! ```
//!
//! Resuming a target before commit does not compile: `resume` wants a [`CommitPermit`], which is
//! only made from the epoch of an `Activate` order. Nothing in QEMU itself stops a double run
//! (design §4), so the types do.
//!
//! Deliberately absent: taps, bridges and plugs (`netbuf`, `netcfg`), the page stream's bytes
//! (`pages`, `agent`), any decision to commit or abort, multifd and postcopy (they cannot be held,
//! filtered or rolled back).
#![deny(unsafe_code)]

mod accel;
mod access;
mod binary;
mod command_line;
mod dirty_rate;
mod error;
mod files;
mod hold;
mod launcher;
mod limits;
mod migration;
mod passes;
mod paths;
mod process;
mod qmp;
mod return_path;
mod spawn;
#[cfg(feature = "testing")]
pub mod testing;
mod user;
mod vm;

pub use accel::{Accel, AccelChoice};
pub use access::Access;
pub use binary::QemuBinary;
pub use command_line::{CommandLine, NICS_MAX, StartMode};
pub use dirty_rate::DirtyRate;
pub use error::QemuError;
pub use files::VmFiles;
pub use hold::{HoldPace, NextRead};
pub use launcher::{Launcher, Means};
pub use limits::*;
pub use migration::{MigrationProgress, MigrationStatus};
pub use passes::Passes;
pub use paths::{VmPaths, marked_vm};
pub use process::{identify, is_alive, kill};
pub use qmp::{Qmp, QmpError, QmpEvent, QmpTime};
pub use return_path::{MessageType, ReturnPathFilter};
pub use user::{UserChoice, UserError, Users};
pub use vm::{
    AdoptedIncoming, Arrived, CommitPermit, Incoming, Loaded, ReclaimPermit, RunState, Running, Surrendered,
    Vm, Waiting,
};
