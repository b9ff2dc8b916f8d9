//! A storm: moves of the lab's cluster back and forth while parts die, hang, lose their links,
//! their disk or their clock.
//!
//! ```text
//!  seed, round ─draw─▶ RoundPlan ─strike─▶ processes ─look─▶ Sighting ─judge─▶ RoundLine
//!               pure               io                 io              pure
//! ```
//!
//! What is drawn, what is judged and what is counted is pure; only `strike`, `look` and `evidence`
//! touch the machine. Who moves the cluster and follows the move is `transhume lab storm`. See
//! `docs/design/storm.md`.

mod draw;
mod evidence;
mod facts;
mod fault;
mod ledger;
mod look;
mod loss;
mod power;
mod strike;
mod summary;
mod verdict;

pub use draw::{BatchSize, Moment, PlannedStrike, RoundPlan, Trigger};
pub use evidence::keep;
pub use facts::{
    Account, ClusterSight, Facts, GuestSight, HostSight, MoveSight, QemuSight, RecordSight, Sighting,
    SpoolSight, TapSight, VmPlace, VmSight,
};
pub use fault::{Fault, Side};
pub use ledger::{Counts, Ledger, LedgerError, Round, RoundLine, RoundVerdict, StruckLine};
pub use look::look;
pub use loss::StatedLoss;
pub use power::{Boldness, PowerPlan, Victim, end_everything, lose_power};
pub use strike::{Pair, Struck, revive, strike};
pub use summary::Summary;
pub use verdict::{Verdict, Violation, judge, may_be_lost};
