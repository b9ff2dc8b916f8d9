//! The network between the hosts: per circuit (§3.1) a bridge in the fabric's namespace and one
//! veth per host, both directions at the link's speed.

use std::net::Ipv4Addr;

use transhume_model::Band;

use crate::division::{self, Room};
use crate::layout::{Circuit, Circuits, HOST_PREFIX};
use crate::{LabError, Namespace, tuning};

/// Frames of a guest's burst must fit; at 1 Gbit/s a full queue is 33 ms.
const LINK_QUEUE_BYTES: u64 = 4 << 20;
/// A segment that the kernel has not cut yet must fit.
const BURST_BYTES_MIN: u64 = 128 << 10;
/// Timer interrupts per second that the burst must bridge.
const TIMER_HZ_MIN: u64 = 100;
const MTU_MIN: u16 = 1500;

/// The whole fabric.
#[derive(Debug, Clone)]
pub struct FabricSpec {
    /// Where the bridges are.
    pub namespace: Namespace,
    /// How the bands share the links.
    pub circuits: Circuits,
    /// One per host, storage and coordinator and circuit.
    pub links: Vec<FabricLink>,
    /// Per link and direction; absent for unlimited.
    pub bits_per_s: Option<u64>,
    /// Largest packet of the guests.
    pub mtu: u16,
}

/// One veth between the fabric and a namespace.
#[derive(Debug, Clone)]
pub struct FabricLink {
    /// Short name of the other end: `h1`, `storage`.
    pub peer: String,
    /// Namespace of the other end.
    pub namespace: Namespace,
    /// What it is a part of.
    pub circuit: Circuit,
    /// Addresses of the other end.
    pub addresses: Vec<Ipv4Addr>,
    /// The other end becomes a port of this bridge, which then has the addresses.
    pub bridge: Option<String>,
    /// Who limits what the other end sends.
    pub limited_by: LimitedBy,
}

/// Who limits what the other end of a link sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitedBy {
    /// The lab, with one queue.
    Lab,
    /// The host's agent, which divides the link.
    Agent,
}

impl FabricLink {
    /// The device in the fabric.
    pub fn fabric_device(&self) -> String {
        self.circuit.fabric_device(&self.peer)
    }

    /// The device in the other namespace.
    pub fn host_device(&self) -> String {
        self.circuit.host_device()
    }
}

/// Builds it; the namespaces exist.
pub fn build(spec: &FabricSpec) -> Result<(), LabError> {
    let mtu = spec.mtu.max(MTU_MIN);
    tuning::namespace(&spec.namespace)?;
    let mut fabric = Batch::default();
    for circuit in spec.circuits.all() {
        fabric.bridge(&circuit.bridge(), mtu);
    }
    for link in &spec.links {
        let (inner, outer) = (link.fabric_device(), link.host_device());
        fabric.link(format!(
            "link add {inner} mtu {mtu} type veth peer name {outer} mtu {mtu} netns {}",
            link.namespace.name()
        ));
        fabric.link(format!("link set {inner} master {} up", link.circuit.bridge()));
        match spec.circuits {
            Circuits::Separate | Circuits::Undivided => fabric.speed(&inner, spec.bits_per_s),
            Circuits::Shared => fabric.divided(&inner, spec.bits_per_s),
        }
        if link.circuit == spec.circuits.carrying(Band::Ct) {
            // For faults. Put there later it would take the link's queue away, with what is in it.
            fabric.tc(format!("qdisc add dev {inner} clsact"));
        }
    }
    fabric.run(&spec.namespace)?;
    let inner: Vec<_> = spec.links.iter().map(FabricLink::fabric_device).collect();
    tuning::one_cpu_per_device(&spec.namespace, &inner)?;
    for namespace in distinct(&spec.links) {
        let links = spec.links.iter().filter(|link| &link.namespace == namespace);
        connect(namespace, &links.collect::<Vec<_>>(), spec.bits_per_s, mtu)?;
    }
    Ok(())
}

fn distinct(links: &[FabricLink]) -> Vec<&Namespace> {
    let mut found: Vec<&Namespace> = Vec::new();
    for link in links {
        if !found.contains(&&link.namespace) {
            found.push(&link.namespace);
        }
    }
    found
}

/// The other ends of one namespace.
fn connect(
    namespace: &Namespace,
    links: &[&FabricLink],
    speed: Option<u64>,
    mtu: u16,
) -> Result<(), LabError> {
    tuning::namespace(namespace)?;
    let mut batch = Batch::default();
    batch.link("link set lo up".to_owned());
    for link in links {
        let device = link.host_device();
        let mut addressed = &device;
        if let Some(bridge) = &link.bridge {
            batch.bridge(bridge, mtu);
            batch.link(format!("link set {device} master {bridge}"));
            addressed = bridge;
        }
        for address in &link.addresses {
            batch.link(format!("addr add {address}/{HOST_PREFIX} dev {addressed}"));
        }
        batch.link(format!("link set {device} up"));
        match link.limited_by {
            LimitedBy::Lab => batch.speed(&device, speed),
            LimitedBy::Agent => {}
        }
    }
    batch.run(namespace)?;
    let devices: Vec<_> = links.iter().map(|link| link.host_device()).collect();
    tuning::one_cpu_per_device(namespace, &devices)
}

/// Takes a link down or up again, at the fabric's end: the host sees its carrier go.
pub fn set_link(fabric: &Namespace, device: &str, up: bool) -> Result<(), LabError> {
    let mut batch = Batch::default();
    batch.link(format!("link set {device} {}", if up { "up" } else { "down" }));
    batch.run(fabric)
}

/// Lines for `ip -batch` and `tc -batch`.
#[derive(Default)]
pub struct Batch {
    ip: Vec<String>,
    tc: Vec<String>,
}

impl Batch {
    pub fn link(&mut self, line: String) {
        self.ip.push(line);
    }

    fn bridge(&mut self, name: &str, mtu: u16) {
        self.link(format!(
            "link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ));
        // An MTU that was set by hand no longer follows the smallest port.
        self.link(format!("link set {name} mtu {mtu} up"));
    }

    fn speed(&mut self, device: &str, bits_per_s: Option<u64>) {
        if let Some(speed) = bits_per_s {
            let burst = burst_bytes(speed);
            self.tc(format!(
                "qdisc add dev {device} root tbf rate {speed}bit burst {burst} limit {LINK_QUEUE_BYTES}"
            ));
        }
    }

    fn divided(&mut self, device: &str, bits_per_s: Option<u64>) {
        let room = Room {
            burst_bytes,
            queue_bytes: LINK_QUEUE_BYTES,
        };
        if let Some(speed) = bits_per_s {
            self.tc.extend(division::of_port(device, speed, room));
        }
    }

    pub fn tc(&mut self, line: String) {
        self.tc.push(line);
    }

    pub fn run(&self, namespace: &Namespace) -> Result<(), LabError> {
        for (tool, lines) in [("ip", &self.ip), ("tc", &self.tc)] {
            if !lines.is_empty() {
                namespace.run(|| feed(tool, lines))?;
            }
        }
        Ok(())
    }
}

/// What a queue of this speed may send at once.
fn burst_bytes(bits_per_s: u64) -> u64 {
    (bits_per_s / 8 / TIMER_HZ_MIN).max(BURST_BYTES_MIN)
}

fn feed(tool: &str, lines: &[String]) -> Result<(), LabError> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let start = |source| LabError::Start {
        program: tool.to_owned(),
        source,
    };
    let mut child = Command::new(tool)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let text = lines.join("\n") + "\n";
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(start)?;
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Tool {
        tool: tool.to_owned(),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
