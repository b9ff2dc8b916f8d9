//! Which VM goes to which host, in which batches, and why not.
//!
//! Start with [`place()`] (§3.2) and [`batches`] (step 1 of §3.3.2). Pure: no clock, no files, no sockets, no
//! randomness of its own; how long a search may work is an argument.
#![forbid(unsafe_code)]

mod batch;
mod offer;
mod paper;
mod place;

pub use batch::{Batch, BatchError, batches};
pub use offer::{Offer, OfferError, Offers, Request, Resource};
pub use place::{Move, NoSolution, Placement, Shortage, Strategy, place};
