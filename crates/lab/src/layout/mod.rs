//! Names and addresses of everything in a lab, derived from its name and numbers. Pure.

mod circuits;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

use transhume_guest::settings::Settings;
use transhume_model::{
    Band, BandAddresses, Boot, ClusterName, ClusterSpec, Disk, HostName, Mac, NicSpec, PlacedVm,
    PlacementRules, Vcpus, VmName, VmSpec,
};

use crate::image::Image;
use crate::{LabError, LabUp};

pub use circuits::{Circuit, Circuits};

/// Every namespace of a lab starts with this.
pub const NAMESPACE_PREFIX: &str = "th-";
/// A directory for each lab, of its name.
pub const RUN_DIR: &str = "/run/transhume";
const SPOOL_DIR: &str = "/dev/shm/transhume";
const DISK_PORT_FIRST: u16 = 10809;
/// Where every agent takes orders.
pub const CONTROL_PORT: u16 = 7401;
const API_PORT: u16 = 7400;
/// The first coordinator; further ones and etcd's members follow.
const COORDINATOR_HOST: u8 = 200;
const ETCD_HOST: u8 = 210;
/// Where a member of etcd answers clients and other members.
pub const ETCD_PORT: u16 = 2379;
pub const ETCD_PEER_PORT: u16 = 2380;
/// As many coordinators a lab may have.
pub const COORDINATORS_MAX: u16 = 5;
/// Members of a lab's etcd: one may be lost.
pub const ETCD_MEMBERS: u16 = 3;
const STORAGE_HOST: u8 = 250;
/// Fast start on an emulated machine: `nokaslr` and `cryptomgr.notests` alone save half a second.
/// Without KASLR the kernels of two guests are more alike than elsewhere; figures of deduplication
/// must say so.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=4 no_timer_check tsc=reliable mitigations=off nokaslr cryptomgr.notests \
                       random.trust_cpu=on rcupdate.rcu_expedited=1 ipv6.disable=1 panic=0";
/// Length of the network prefix of the VMs' addresses.
pub const VM_PREFIX: u8 = 16;
/// Length of the network prefix of the hosts' addresses, per band.
pub const HOST_PREFIX: u8 = 24;

/// A lab's name: part of namespace and directory names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LabName {
    fn default() -> Self {
        LabName("lab".to_owned())
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for LabName {
    type Err = LabError;
    fn from_str(text: &str) -> Result<Self, LabError> {
        Ok(LabName(text.parse::<ClusterName>()?.into()))
    }
}

/// Where everything of one lab is.
#[derive(Debug, Clone)]
pub struct Layout {
    name: LabName,
}

impl Layout {
    /// The layout of a lab.
    pub fn new(name: &LabName) -> Self {
        Layout { name: name.clone() }
    }

    /// The lab's name.
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// Directory of everything the lab keeps.
    pub fn dir(&self) -> PathBuf {
        PathBuf::from(RUN_DIR).join(self.name.as_str())
    }

    /// What `down` needs.
    pub fn state_file(&self) -> PathBuf {
        self.dir().join("state.json")
    }

    /// Where the agent of a host keeps its VMs.
    pub fn host_dir(&self, host: &HostName) -> PathBuf {
        self.dir().join(host.as_str())
    }

    /// Milliseconds that the agent of a host adds to its clock, for storms.
    pub fn clock_file(&self, host: &HostName) -> PathBuf {
        self.dir().join(format!("{host}.clock"))
    }

    /// Where the agents keep captured frames: in memory, but not in a process.
    pub fn spool_dir(&self) -> PathBuf {
        PathBuf::from(SPOOL_DIR).join(self.name.as_str())
    }

    /// Where the coordinator keeps its journal; of several, the first.
    pub fn coordinator_dir(&self) -> PathBuf {
        self.dir_of_coordinator(0)
    }

    /// The same by index.
    pub fn dir_of_coordinator(&self, index: u16) -> PathBuf {
        self.dir().join(coordinator_name(index))
    }

    /// Where a member of etcd keeps its data.
    pub fn etcd_dir(&self, index: u16) -> PathBuf {
        self.dir().join(etcd_name(index))
    }

    /// The fleet's certificate authority.
    pub fn authority_dir(&self) -> PathBuf {
        self.dir().join("authority")
    }

    /// The coordinator's HTTP over a Unix socket; of several, the first's.
    pub fn api_socket(&self) -> PathBuf {
        self.socket_of_coordinator(0)
    }

    /// The same by index.
    pub fn socket_of_coordinator(&self, index: u16) -> PathBuf {
        self.dir_of_coordinator(index).join("api.sock")
    }

    /// Those of all coordinators that this lab has.
    pub fn api_sockets(&self) -> Vec<PathBuf> {
        let others = (1..COORDINATORS_MAX).filter(|index| self.dir_of_coordinator(*index).is_dir());
        let all = std::iter::once(0).chain(others);
        all.map(|index| self.socket_of_coordinator(index)).collect()
    }

    /// The initramfs of all VMs.
    pub fn initrd(&self) -> PathBuf {
        self.dir().join("initrd.img")
    }

    /// Backing file of a VM's disk.
    pub fn disk_file(&self, vm: &VmName) -> PathBuf {
        self.dir().join("storage").join(format!("{vm}.raw"))
    }

    /// Start of the names of all namespaces of this lab.
    pub fn namespace_prefix(&self) -> String {
        format!("{NAMESPACE_PREFIX}{}-", self.name)
    }

    /// The namespace of the fabric's bridges.
    pub fn fabric_namespace(&self) -> String {
        format!("{}fabric", self.namespace_prefix())
    }

    /// The namespace of the disk servers.
    pub fn storage_namespace(&self) -> String {
        format!("{}storage", self.namespace_prefix())
    }

    /// The namespace of a coordinator.
    pub fn coordinator_namespace(&self, index: u16) -> String {
        format!("{}{}", self.namespace_prefix(), coordinator_peer(index))
    }

    /// The namespace of a member of etcd.
    pub fn etcd_namespace(&self, index: u16) -> String {
        format!("{}{}", self.namespace_prefix(), etcd_name(index))
    }

    /// The namespace of a host.
    pub fn host_namespace(&self, host: &HostName) -> String {
        format!("{}{host}", self.namespace_prefix())
    }
}

/// `coordinator`, `coordinator2`, …: process and directory.
pub fn coordinator_name(index: u16) -> String {
    numbered("coordinator", index)
}

/// `coord`, `coord2`, …: its link.
pub fn coordinator_peer(index: u16) -> String {
    numbered("coord", index)
}

fn numbered(name: &str, index: u16) -> String {
    match index {
        0 => name.to_owned(),
        further => format!("{name}{}", further + 1),
    }
}

/// `etcd1`, `etcd2`, …: process, directory and link.
pub fn etcd_name(index: u16) -> String {
    format!("etcd{}", index + 1)
}

/// `h1`, `h2`, …
pub fn host_name(index: u16) -> Result<HostName, LabError> {
    Ok(format!("h{}", index + 1).parse()?)
}

/// `vm1`, `vm2`, …
pub fn vm_name(index: u16) -> Result<VmName, LabError> {
    Ok(format!("vm{}", index + 1).parse()?)
}

/// A network of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Bits behind the prefix are 0.
    pub address: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
}

impl Network {
    /// The bits that are the same everywhere in it.
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The addresses of a band.
pub fn network(band: Band) -> Network {
    Network {
        address: address(band, 0),
        prefix: HOST_PREFIX,
    }
}

/// The addresses of VMCT and NAST: one network, since theirs are neighbours.
pub fn network_beside_ct() -> Network {
    Network {
        address: address(Band::Vmct, 0),
        prefix: HOST_PREFIX - 1,
    }
}

fn address(band: Band, host: u8) -> Ipv4Addr {
    let net = match band {
        Band::Ct => 1,
        Band::Vmct => 2,
        Band::Nast => 3,
    };
    Ipv4Addr::new(10, 77, net, host)
}

/// A host's address in one band.
pub fn host_address(band: Band, index: u16) -> Ipv4Addr {
    address(band, index as u8 + 1)
}

/// Where a host's agent binds.
pub fn band_addresses(index: u16) -> BandAddresses {
    BandAddresses {
        ct: host_address(Band::Ct, index).into(),
        vmct: host_address(Band::Vmct, index).into(),
    }
}

/// Where a host's agent takes orders.
pub fn control_address(index: u16) -> SocketAddr {
    SocketAddr::new(host_address(Band::Ct, index).into(), CONTROL_PORT)
}

/// The API of a coordinator in CT.
pub fn api_address(index: u16) -> SocketAddrV4 {
    SocketAddrV4::new(coordinator_address(index), API_PORT)
}

/// A coordinator's address in CT.
pub fn coordinator_address(index: u16) -> Ipv4Addr {
    address(Band::Ct, COORDINATOR_HOST + index as u8)
}

/// A member of etcd in CT.
pub fn etcd_address(index: u16) -> Ipv4Addr {
    address(Band::Ct, ETCD_HOST + index as u8)
}

/// The storage's address in NAST.
pub fn storage_address() -> Ipv4Addr {
    address(Band::Nast, STORAGE_HOST)
}

/// The port of a VM's disk.
pub fn disk_port(index: u16) -> u16 {
    DISK_PORT_FIRST + index
}

/// A VM's address: consecutive, so that the kernel's command line names all of them as a range.
pub fn vm_address(index: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 78, 0, 1)) + u32::from(index))
}

/// A VM's Ethernet address.
pub fn vm_mac(index: u16) -> Mac {
    let [high, low] = index.to_be_bytes();
    Mac::new([0x52, 0x54, 0x00, 0x4c, high, low]).expect("neither group nor zero")
}

/// The host on which a VM starts: in turn on the first half; those that stay in turn on the first
/// of each half.
pub fn first_host(vm: u16, options: &LabUp) -> u16 {
    let half = options.hosts / 2;
    match vm.checked_sub(options.vms - options.staying) {
        None => vm % half,
        Some(staying) => staying % 2 * half,
    }
}

/// What a guest is told on its command line.
pub fn guest_settings(options: &LabUp, index: u16) -> Result<Settings, LabError> {
    Ok(Settings {
        name: vm_name(index)?.to_string(),
        index,
        ip: vm_address(index),
        prefix: VM_PREFIX,
        mtu: options.mtu,
        peers: (0..options.vms).map(vm_address).collect(),
        traffic: options.traffic,
        rate: options.rate,
        app: options.app,
    })
}

/// A guest's whole command line.
pub fn guest_cmdline(options: &LabUp, index: u16) -> Result<String, LabError> {
    Ok(format!("{CMDLINE} {}", guest_settings(options, index)?.cmdline()))
}

/// The clusters as the coordinator takes them, their VMs by index: `lab`, and `stay` where some are
/// to stay.
pub fn clusters(options: &LabUp, image: &Image) -> Result<Vec<ClusterSpec>, LabError> {
    let moving = options.vms - options.staying;
    let mut clusters = vec![cluster("lab", 0..moving, options, image)?];
    if options.staying > 0 {
        clusters.push(cluster("stay", moving..options.vms, options, image)?);
    }
    Ok(clusters)
}

fn cluster(
    name: &str,
    indices: std::ops::Range<u16>,
    options: &LabUp,
    image: &Image,
) -> Result<ClusterSpec, LabError> {
    let name: ClusterName = name.parse()?;
    let vms = indices.map(|index| -> Result<PlacedVm, LabError> {
        let vm = vm_name(index)?;
        let disks = options.disk.iter().map(|_| Disk::Nbd {
            host: storage_address().to_string(),
            port: disk_port(index),
            export: vm.to_string(),
        });
        Ok(PlacedVm {
            host: host_name(first_host(index, options))?,
            spec: VmSpec {
                cluster: name.clone(),
                vcpus: Vcpus(1),
                memory: options.memory_of(index),
                machine: None,
                nics: vec![NicSpec {
                    mac: vm_mac(index),
                    mtu: options.mtu,
                }],
                disks: disks.collect(),
                boot: Boot {
                    kernel: image.kernel.clone(),
                    initrd: image.initrd.clone(),
                    cmdline: guest_cmdline(options, index)?,
                },
                name: vm,
            },
        })
    });
    Ok(ClusterSpec {
        vms: vms.collect::<Result<_, _>>()?,
        name,
        rules: PlacementRules::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_never_collide_and_command_lines_stay_short() {
        let options = LabUp {
            hosts: 40,
            vms: 600,
            ..LabUp::default()
        };
        let ips: BTreeSet<_> = (0..options.vms).map(vm_address).collect();
        let macs: BTreeSet<_> = (0..options.vms).map(vm_mac).collect();
        assert_eq!((ips.len(), macs.len()), (600, 600));
        let longest_of_x86 = 2047;
        assert!(guest_cmdline(&options, 599).unwrap().len() < longest_of_x86);
    }

    #[test]
    fn vms_start_in_turn_on_the_first_half_of_the_hosts() {
        let image = Image {
            kernel: "/k".into(),
            initrd: "/i".into(),
        };
        let hosts = |options: &LabUp| -> Vec<Vec<String>> {
            let clusters = clusters(options, &image).unwrap();
            let hosts = |cluster: &ClusterSpec| cluster.vms.iter().map(|vm| vm.host.to_string()).collect();
            clusters.iter().map(hosts).collect()
        };
        let mut options = LabUp {
            hosts: 5,
            vms: 5,
            ..LabUp::default()
        };
        assert_eq!(hosts(&options), [["h1", "h2", "h1", "h2", "h1"]]);
        options.staying = 3;
        assert_eq!(hosts(&options), [vec!["h1", "h2"], vec!["h1", "h3", "h1"]]);
    }
}
