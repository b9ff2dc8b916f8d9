//! Faults for tests: a part dies, a circuit is cut, the fabric eats announcements. Guards undo what
//! they did.

use rustix::process::Signal;
use transhume_model::Band;

use crate::fabric::{self, Batch};
use crate::filters::{self, Program};
use crate::layout::Circuit;
use crate::state::{HostState, Lab};
use crate::storage::DiskServer;
use crate::{LabError, Namespace, process};

pub use crate::etcd::start_member as start_etcd;
pub use crate::storage::Room;
pub use crate::up::{start_agent, start_coordinator, start_coordinator_of};

/// Preference of what drops announcements, among the filters of a port.
const RARP_FILTER: u16 = 1;

/// Kills a part at once (`agent h1`, `coordinator`, `disk vm1`) and waits until it is gone.
pub fn kill(lab: &Lab, what: &str) -> Result<(), LabError> {
    end_within(lab, what, 0)
}

/// Ends a part as a service manager does: it is asked, and killed where it does not go.
pub fn end(lab: &Lab, what: &str) -> Result<(), LabError> {
    end_within(lab, what, process::TERM_WAIT_MS_MAX)
}

fn end_within(lab: &Lab, what: &str, waited_ms: u64) -> Result<(), LabError> {
    let process = lab.process(what)?;
    match process::end_all(std::slice::from_ref(process), waited_ms).first() {
        None => Ok(()),
        Some(stuck) => Err(LabError::Timeout {
            what: format!("the end of {}", stuck.what),
            waited_ms,
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

/// A host that is cut off one band; whole again when dropped.
#[derive(Debug)]
pub struct CutLink {
    fabric: Namespace,
    device: String,
    how: Cut,
}

/// A link of one band goes down; of a link of all bands, one band's packets are dropped.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Down,
    Dropped(Band),
}

/// Cuts a host off one band.
pub fn cut_link(lab: &Lab, host: &str, band: Band) -> Result<CutLink, LabError> {
    let host = lab.host(host)?;
    let circuit = lab.state.circuits.carrying(band);
    let cut = CutLink {
        fabric: Namespace::named(lab.layout.fabric_namespace()),
        device: circuit.fabric_device(host.name.as_str()),
        how: match circuit {
            Circuit::Of(_) => Cut::Down,
            Circuit::Whole => Cut::Dropped(band),
        },
    };
    match cut.how {
        Cut::Down => fabric::set_link(&cut.fabric, &cut.device, false)?,
        Cut::Dropped(band) => drop_both_ways(
            &cut.fabric,
            &cut.device,
            band_filter(band),
            &filters::drop_band(band),
        )?,
    }
    Ok(cut)
}

/// Cuts a coordinator or a member of etcd (`coord2`, `etcd1`) off everybody.
pub fn cut_part(lab: &Lab, peer: &str) -> Result<CutLink, LabError> {
    let cut = CutLink {
        fabric: Namespace::named(lab.layout.fabric_namespace()),
        device: lab.state.circuits.carrying(Band::Ct).fabric_device(peer),
        how: Cut::Down,
    };
    fabric::set_link(&cut.fabric, &cut.device, false)?;
    Ok(cut)
}

impl Drop for CutLink {
    fn drop(&mut self) {
        let whole = match self.how {
            Cut::Down => fabric::set_link(&self.fabric, &self.device, true),
            Cut::Dropped(band) => pass_both_ways(&self.fabric, &self.device, band_filter(band)),
        };
        if let Err(error) = whole {
            tracing::warn!(device = self.device, %error, "the link stays cut");
        }
    }
}

/// Preference of what cuts an agent off, after the one for RARP, so that both can be there.
const CONTROL_FILTER: u16 = 2;

/// Preference of what cuts a band off.
fn band_filter(band: Band) -> u16 {
    match band {
        Band::Ct => 3,
        Band::Vmct => 4,
        Band::Nast => 5,
    }
}

fn drop_both_ways(
    fabric: &Namespace,
    device: &str,
    preference: u16,
    program: &Program,
) -> Result<(), LabError> {
    let mut batch = Batch::default();
    for way in WAYS {
        batch.tc(format!(
            "filter add dev {device} {way} pref {preference} bpf direct-action bytecode \"{}\"",
            program.bytecode()
        ));
    }
    batch.run(fabric)
}

fn pass_both_ways(fabric: &Namespace, device: &str, preference: u16) -> Result<(), LabError> {
    let mut batch = Batch::default();
    for way in WAYS {
        batch.tc(format!("filter del dev {device} {way} pref {preference}"));
    }
    batch.run(fabric)
}

/// A host whose agent hears nobody; whole again when dropped.
#[derive(Debug)]
pub struct CutControl {
    fabric: Namespace,
    device: String,
}

/// Cuts a host's agent off CT, orders and tunnels alike; its guests' own frames pass.
pub fn cut_control(lab: &Lab, host: &str) -> Result<CutControl, LabError> {
    let host = lab.host(host)?;
    let cut = CutControl {
        fabric: Namespace::named(lab.layout.fabric_namespace()),
        device: ct_device(lab, host),
    };
    drop_both_ways(&cut.fabric, &cut.device, CONTROL_FILTER, &filters::drop_control())?;
    Ok(cut)
}

impl Drop for CutControl {
    fn drop(&mut self) {
        if let Err(error) = pass_both_ways(&self.fabric, &self.device, CONTROL_FILTER) {
            tracing::warn!(device = self.device, %error, "the host's agent stays cut off");
        }
    }
}

/// The fabric's end of the link that carries a host's CT.
fn ct_device(lab: &Lab, host: &HostState) -> String {
    lab.state
        .circuits
        .carrying(Band::Ct)
        .fabric_device(host.name.as_str())
}

/// Both directions of a port.
const WAYS: [&str; 2] = ["ingress", "egress"];

/// A fabric that eats RARP frames; it stops when this is dropped.
#[derive(Debug)]
pub struct BlockedRarp {
    fabric: Namespace,
    devices: Vec<String>,
}

/// Lets the fabric drop every RARP frame that hosts send.
pub fn block_rarp(lab: &Lab) -> Result<BlockedRarp, LabError> {
    let hosts = lab.state.hosts.iter();
    let blocked = BlockedRarp {
        fabric: Namespace::named(lab.layout.fabric_namespace()),
        devices: hosts.map(|host| ct_device(lab, host)).collect(),
    };
    let program = filters::drop_rarp().bytecode();
    let mut batch = Batch::default();
    for device in &blocked.devices {
        batch.tc(format!(
            "filter add dev {device} ingress pref {RARP_FILTER} bpf direct-action bytecode \"{program}\""
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
