//! One task per VM. What is decided about it is `transhume_agent_core`'s machine; here its effects
//! are carried out.
//!
//! ```text
//!  orders, QEMU, buffers, timers ─▶ Decisions (machine, record) ──acts──▶ acts::carry_out(Holdings)
//!                                        ▲                                        │
//!                                        └────────────────── Done ◀───────────────┘
//! ```
//!
//! The order of reading: `task` (the loop), `decisions` (what is written, reported and waited for),
//! `holdings` (what is owned), `acts`.

mod acts;
mod decisions;
mod holdings;
mod meter;
mod task;
mod watch;

use transhume_model::VmName;
use transhume_protocol::message::{Stranded, VmState};
use transhume_qemu::Vm;

pub(crate) use self::meter::{VmFigures, VmMeter};
pub(crate) use self::task::{Farewell, VmTask};
pub(crate) use self::watch::run_state;

/// A VM as the rest of the agent sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// The host state's line.
    pub(crate) state: Option<VmState>,
    /// Why it cannot be taken over, if it cannot.
    pub(crate) stranded: Option<Stranded>,
    /// Its QEMU, while it is at home here and runs.
    pub(crate) at_home: Option<Vm>,
    /// Whether it has a QEMU, whatever that is for.
    pub(crate) has_qemu: bool,
}

/// A span of a VM's log.
fn span(vm: &VmName) -> tracing::Span {
    tracing::info_span!("vm", name = %vm)
}
