//! The protocol of a cluster's move: six phases (§1.2), ten steps (§3.3.2), the messages, the
//! journal entries and the group state machine that decides.
//!
//! Start with [`step`]: the whole protocol as two tables. [`message`] is all that coordinator and
//! agents know of each other. Pure: no clock, no files, no sockets; `now` is an argument.
#![forbid(unsafe_code)]

pub mod event;
pub mod forecast;
pub mod message;
pub mod migration;
pub mod report;
mod row;
pub mod step;
pub mod wire;
