//! The coordinator's HTTP API: every document that goes over it as a type and, with the feature
//! `client`, the one client that the command line and the lab use.
//!
//! `docs/openapi.json` and `docs/schema/` are derived from these types. Deliberately absent: routes
//! and decisions (the coordinator), and how anything is shown (the command line).
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
mod client;
mod clusters;
mod drains;
mod forecasts;
mod hosts;
mod links;
mod moves;
mod problem;
#[cfg(feature = "testing")]
pub mod testing;
mod waits;

#[cfg(feature = "client")]
pub use client::{Client, ClientError, Events};
pub use clusters::{
    ClusterLine, ClusterList, ClusterStage, ClusterView, VmCheck, VmLife, VmRestart, VmStart, VmStop, VmView,
};
pub use drains::{
    DrainLeft, DrainList, DrainMove, DrainPlanView, DrainStage, DrainStay, DrainStep, DrainView,
};
pub use forecasts::{ForecastLine, ForecastRecord, Score};
pub use hosts::{ClockView, Decision, HostFence, HostList, HostView, MoveResolution, Verdict};
pub use links::{LinkLimit, LinkView};
pub use moves::{Accepted, MigrationLine, MigrationList, MoveOrder, PlanView, PlannedMove, StaysBehind};
pub use problem::{COORDINATOR_ENDING, NO_BANDWIDTH, NO_LEADER, NOT_LEADER, Problem, TOO_SLOW};
pub use waits::wait_in_words;
