//! Which VM goes to which host, in which batches, and why not.
//!
//! Start with [`place()`] (§3.2) and [`batches`] (step 1 of §3.3.2). Pure: no clock, no files, no
//! sockets, no randomness of its own; how long a search may work is an argument.
#![forbid(unsafe_code)]

mod bars;
mod batch;
mod by_paper;
mod detour;
mod explain;
pub mod forecast;
pub mod generate;
mod infeasible;
pub mod input;
pub mod lesson;
mod link;
mod meanwhile;
pub mod measure;
mod notes;
mod offer;
mod order;
mod paper;
mod partial;
mod place;
mod plan;
mod problem;
pub mod report;
mod schedule;
mod sequence;
mod solve;
mod summary;
mod svg;
mod validate;
pub mod words;

pub use batch::{Batch, BatchError, batches};
pub use infeasible::{Addition, Cause, Constraint, Help, Impossible, Known, Reason, Unplaced};
pub use offer::{Offer, OfferError, Offers, Request, Resource};
pub use place::{Move, NoSolution, Placement, Shortage, Strategy, place};
pub use plan::{Options, PlanError, plan, plan_while};
pub use schedule::forecast;
pub use solve::{Ended, Go, Watch};
pub use svg::svg;
pub use validate::validate;
