//! The whole coordinator, driven from both ends without QEMU: real HTTP on one side, on the other
//! fake agents that its real links connect to. What real agents do is tested in the lab.

mod clusters;
mod fake;
mod forecasts;
mod http;
mod links;
mod moves;
mod refused;
mod restart;
mod support;
mod vms;
