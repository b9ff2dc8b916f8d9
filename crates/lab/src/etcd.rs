//! The etcd that a lab's coordinators share: real members, each on a machine of its own.

use std::net::SocketAddrV4;
use std::path::Path;

use crate::process::{self, ProcessRecord};
use crate::state::Lab;
use crate::{LabError, Namespace, config, layout};

/// The fabric of a lab answers within a millisecond. Where a member that leads is lost, etcd is
/// away for one to two of the latter, and as long again where two members ask for votes in the same
/// heartbeat: the more heartbeats there are in it, the rarer.
const HEARTBEAT_MS: u32 = 50;
const ELECTION_MS: u32 = 500;
/// Every write is kept for so long in etcd's history.
const COMPACT_AFTER: &str = "1h";

/// Starts all members, and waits until they are one etcd.
pub fn start(lab: &mut Lab) -> Result<(), LabError> {
    let all: Vec<ProcessRecord> = (0..layout::ETCD_MEMBERS)
        .map(|index| start_member(lab, index))
        .collect::<Result<_, _>>()?;
    (0u16..)
        .zip(&all)
        .try_for_each(|(index, process)| ready(lab, index, process))
}

/// Starts one member, also after it was killed.
pub fn start_member(lab: &mut Lab, index: u16) -> Result<ProcessRecord, LabError> {
    let name = layout::etcd_name(index);
    let peer = |index: u16| {
        format!(
            "http://{}:{}",
            layout::etcd_address(index),
            layout::ETCD_PEER_PORT
        )
    };
    let client = config::etcd_client(index);
    let initial =
        (0..layout::ETCD_MEMBERS).map(|index| format!("{}={}", layout::etcd_name(index), peer(index)));
    let initial: Vec<String> = initial.collect();
    let arguments = [
        ("name", name.clone()),
        ("data-dir", lab.layout.etcd_dir(index).display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer(index)),
        ("initial-advertise-peer-urls", peer(index)),
        ("initial-cluster", initial.join(",")),
        ("heartbeat-interval", HEARTBEAT_MS.to_string()),
        ("election-timeout", ELECTION_MS.to_string()),
        ("auto-compaction-retention", COMPACT_AFTER.to_owned()),
        ("logger", "zap".to_owned()),
        ("log-level", "warn".to_owned()),
    ];
    let arguments = arguments.map(|(name, value)| format!("--{name}={value}"));
    let namespace = Namespace::named(lab.layout.etcd_namespace(index));
    let log = lab.layout.etcd_dir(index).with_extension("log");
    let process = process::spawn(&namespace, &name, Path::new(config::ETCD), &arguments, &log)?;
    lab.record(process.clone())?;
    Ok(process)
}

/// A member answers clients once a majority is there.
fn ready(lab: &Lab, index: u16, process: &ProcessRecord) -> Result<(), LabError> {
    let namespace = Namespace::named(lab.layout.etcd_namespace(index));
    let address = SocketAddrV4::new(layout::etcd_address(index), layout::ETCD_PORT);
    let log = lab.layout.etcd_dir(index).with_extension("log");
    process::wait_for_listener(&namespace, address, process, &log)
}
