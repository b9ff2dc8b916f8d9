//! What those who stay notice of a move on their links (G5): probes in guests and between hosts, a
//! flow that takes what it gets, and the links' own counters. See `docs/design/neighbours.md`.

mod flow;
mod link;
mod probe;
mod share;
mod stats;

pub use flow::Flow;
pub use link::LinkWatch;
pub use probe::{AskRates, GuestProbe, HostProbe};
pub use share::rates;
pub use stats::{Meeting, Ratio, Reading, busiest_second, mean_rate, meeting, p99, plateau};
