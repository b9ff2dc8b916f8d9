//! What the migration links have to give (§2.2.2, §2.2.4): whether a move may begin, how fast each
//! page stream goes, how long it will take, and which VM is stuck. `docs/design/governor.md` is its
//! page.
//!
//! Pure: the coordinator feeds figures and the time, and sends the rates to the agents.
#![forbid(unsafe_code)]

mod cut;
mod estimate;
mod governor;
pub mod limits;
mod network;
mod outlook;
mod reservations;
mod share;
mod stuck;

pub use cut::{BatchSize, Candidate, cut};
pub use estimate::{Estimate, Figures};
pub use governor::{Batch, Governor, Stream};
pub use network::{Link, Network, Uplink};
pub use outlook::Outlook;
pub use reservations::{Flow, Needs, Reservations, Short, needs};
pub use stuck::{Stuck, StuckWatch, Why};
