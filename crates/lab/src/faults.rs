//! Faults for tests: a part dies, a circuit is cut, the fabric eats announcements. Guards undo what
//! they did.

use rustix::process::Signal;
use transhume_model::Band;

use crate::fabric::{self, Batch, circuit};
use crate::state::Lab;
use crate::storage::DiskServer;
use crate::{LabError, Namespace, process};

pub use crate::storage::Room;
pub use crate::up::{start_agent, start_coordinator};

/// `drop what has the ethertype of RARP, pass the rest`, as classic BPF.
const DROP_RARP: &str = "4,40 0 0 12,21 0 1 32821,6 0 0 2,6 0 0 4294967295";
/// Its preference among the filters of a port.
const RARP_FILTER: u16 = 1;

/// Kills a part at once (`agent h1`, `coordinator`, `disk vm1`) and waits until it is gone.
pub fn kill(lab: &Lab, what: &str) -> Result<(), LabError> {
    let process = lab.process(what)?;
    match process::end_all(std::slice::from_ref(process), 0).first() {
        None => Ok(()),
        Some(stuck) => Err(LabError::Timeout {
            what: format!("the end of {}", stuck.what),
            waited_ms: 0,
        }),
    }
}

/// Stops a part without ending it, as a host that hangs; `false` where it was gone.
pub fn freeze(lab: &Lab, what: &str) -> Result<bool, LabError> {
    Ok(lab.process(what)?.signal(Signal::STOP))
}

/// Lets a frozen part go on.
pub fn thaw(lab: &Lab, what: &str) -> Result<bool, LabError> {
    Ok(lab.process(what)?.signal(Signal::CONT))
}

/// From now on the disk of a VM takes writes, or none for lack of space: its server is another.
pub fn serve_disk(lab: &mut Lab, vm: &str, room: Room) -> Result<(), LabError> {
    let server = DiskServer::of(&lab.layout, lab.vm(vm)?);
    kill(lab, &format!("disk {vm}"))?;
    let process = server.serve(room)?;
    lab.record(process.clone())?;
    server.ready(&process)
}

/// A cut circuit of one host; whole again when dropped.
#[derive(Debug)]
pub struct CutLink {
    fabric: Namespace,
    device: String,
}

/// Cuts a host off one circuit.
pub fn cut_link(lab: &Lab, host: &str, band: Band) -> Result<CutLink, LabError> {
    let host = lab.host(host)?;
    let cut = CutLink {
        fabric: Namespace::named(lab.layout.fabric_namespace()),
        device: format!("{}-{}", circuit(band), host.name),
    };
    fabric::set_link(&cut.fabric, &cut.device, false)?;
    Ok(cut)
}

impl Drop for CutLink {
    fn drop(&mut self) {
        if let Err(error) = fabric::set_link(&self.fabric, &self.device, true) {
            tracing::warn!(device = self.device, %error, "the link stays cut");
        }
    }
}

/// Drops IPv4 packets to 10.77.1.0/24, the hosts' own addresses in the CT circuit, and passes the
/// guests' frames.
const DROP_CONTROL: &str =
    "7,40 0 0 12,21 0 4 2048,32 0 0 30,84 0 0 4294967040,21 0 1 172818688,6 0 0 2,6 0 0 4294967295";
/// Its preference among the filters of a port; after the one for RARP, so that both can be there.
const CONTROL_FILTER: u16 = 2;

/// A host whose agent hears nobody; whole again when dropped.
#[derive(Debug)]
pub struct CutControl {
    fabric: Namespace,
    device: String,
}

/// Cuts a host's agent off the CT circuit, orders and tunnels alike; its guests' own frames pass.
pub fn cut_control(lab: &Lab, host: &str) -> Result<CutControl, LabError> {
    let host = lab.host(host)?;
    let cut = CutControl {
        fabric: Namespace::named(lab.layout.fabric_namespace()),
        device: format!("{}-{}", circuit(Band::Ct), host.name),
    };
    let mut batch = Batch::default();
    for way in WAYS {
        batch.tc(format!(
            "filter add dev {} {way} pref {CONTROL_FILTER} bpf direct-action bytecode \"{DROP_CONTROL}\"",
            cut.device
        ));
    }
    batch.run(&cut.fabric)?;
    Ok(cut)
}

impl Drop for CutControl {
    fn drop(&mut self) {
        let mut batch = Batch::default();
        for way in WAYS {
            batch.tc(format!(
                "filter del dev {} {way} pref {CONTROL_FILTER}",
                self.device
            ));
        }
        if let Err(error) = batch.run(&self.fabric) {
            tracing::warn!(device = self.device, %error, "the host's agent stays cut off");
        }
    }
}

/// Both directions of a port.
const WAYS: [&str; 2] = ["ingress", "egress"];

/// A fabric that eats RARP frames; it stops when this is dropped.
#[derive(Debug)]
pub struct BlockedRarp {
    fabric: Namespace,
    devices: Vec<String>,
}

/// Lets the fabric of the CT circuit drop every RARP frame that hosts send.
pub fn block_rarp(lab: &Lab) -> Result<BlockedRarp, LabError> {
    let devices = lab
        .state
        .hosts
        .iter()
        .map(|host| format!("{}-{}", circuit(Band::Ct), host.name))
        .collect();
    let blocked = BlockedRarp {
        fabric: Namespace::named(lab.layout.fabric_namespace()),
        devices,
    };
    let mut batch = Batch::default();
    for device in &blocked.devices {
        batch.tc(format!(
            "filter add dev {device} ingress pref {RARP_FILTER} bpf direct-action bytecode \"{DROP_RARP}\""
        ));
    }
    batch.run(&blocked.fabric)?;
    Ok(blocked)
}

impl Drop for BlockedRarp {
    fn drop(&mut self) {
        let mut batch = Batch::default();
        for device in &self.devices {
            batch.tc(format!("filter del dev {device} ingress pref {RARP_FILTER}"));
        }
        if let Err(error) = batch.run(&self.fabric) {
            tracing::warn!(%error, "RARP stays blocked");
        }
    }
}
