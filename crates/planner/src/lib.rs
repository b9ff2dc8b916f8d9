//! Which VM goes to which host, in which batches, and why not.
//!
//! Start with [`plan()`] (§3.2 and step 1 of §3.3.2). Pure: no clock, no files, no sockets, no
//! randomness of its own; how long a search may work is an argument.
#![forbid(unsafe_code)]

mod bars;
mod by_paper;
mod deadline;
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
mod order;
mod paper;
mod partial;
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

pub use infeasible::{Addition, Cause, Constraint, Help, Impossible, Known, Reason, Unplaced};
pub use plan::{K, Options, PlanError, Strategy, plan, plan_while};
pub use schedule::forecast;
pub use solve::{Ended, Go, Watch};
pub use svg::svg;
pub use validate::validate;
