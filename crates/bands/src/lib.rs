//! How a host's links are divided between cluster traffic, memory on its way, and storage (§3.1):
//! from the configuration and what the kernel has, to steps. `docs/design/bands.md` is its page.
//!
//! Pure: whoever looks at the kernel and carries steps out is elsewhere (`netcfg`, `agent`).
#![forbid(unsafe_code)]

mod config;
mod error;
pub mod limits;
mod plan;
mod repairs;
mod seen;
mod tree;

pub use config::{
    Bands, Circuit, Dscp, NastShare, Percent, Separate, Server, Share, Shared, SocketMark, VmctShare,
};
pub use error::BandsError;
pub use plan::{Plan, Step, clear, plan, vmct_rates};
pub use repairs::{Repairs, Verdict};
pub use seen::{Link, Previous, Role, Root, Seen};
pub use tree::{Class, Filter, HANDLE, Key, Tree, class_of, priority, socket_priority};
