//! The whole coordinator, driven from both ends without QEMU: real HTTP on one side, on the other
//! fake agents that its real links connect to. They decide as real agents do, by the same machine,
//! and are held to the same contract.

mod clusters;
mod contract;
mod desk;
mod drains;
mod fake;
mod followers;
mod forecasts;
mod http;
mod link_checks;
mod links;
mod lost;
mod metrics;
mod moves;
mod paper;
mod refused;
mod restart;
mod rules;
mod sizes;
mod support;
mod trust;
mod verbs;
mod vms;
