//! A whole data centre on one machine: hosts as network namespaces, real guests, workloads, faults
//! and figures.
//!
//! `up` builds it, `down` removes whatever is left of it. Everything is a library call with an
//! options struct; progress goes through a callback, nothing is printed. See `docs/design/lab.md`.
#![forbid(unsafe_code)]

pub mod apps;
pub mod boxes;
pub mod brownout;
mod chance;
mod channel;
mod config;
mod division;
mod down;
pub mod drawing;
mod error;
mod etcd;
mod exec;
mod fabric;
pub mod faults;
mod figures;
mod filters;
pub mod growth;
pub mod image;
mod layout;
pub mod lines;
pub mod load;
mod logs;
mod meter;
mod mounts;
mod namespace;
pub mod neighbours;
pub mod occupancy;
mod options;
pub mod plot;
mod process;
mod profile;
mod renew;
mod rights;
mod state;
pub mod stock;
mod storage;
pub mod storm;
mod tuning;
mod up;

pub use transhume_guest::app::{App, AppStats, ClusterStats};
pub use transhume_guest::settings::Traffic;
pub use transhume_guest::wire;

pub use channel::{Channel, Transcript};
pub use down::{DownReport, down, sweep};
pub use error::LabError;
pub use exec::{ExecReport, exec};
pub use fabric::{FabricLink, FabricSpec, LimitedBy};
pub use figures::{Figures, PairFigures, VmFigures, collect, collect_without};
pub use layout::{Circuit, Circuits, LabName, Layout, guest_cmdline, vm_mac};
pub use logs::{LogPart, Target, log};
pub use meter::Meter;
pub use namespace::Namespace;
pub use options::{JournalKind, LabUp, Progress};
pub use process::{ProcessRecord, spawn};
pub use profile::Profile;
pub use renew::renew;
pub use state::{HostState, Lab, State, VmState};
pub use storage::DiskServer;
pub use up::{infrastructure, up, wait_for_guests};
