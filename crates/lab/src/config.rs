//! The configuration files of the agents and the coordinator.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::Serialize;
use transhume_model::{Capacity, HostName, HostSpec, Mebibytes, Vcpus};
use transhume_trust::TrustFiles;

use crate::division::{self, AgentBands};
use crate::layout::Circuits;
use crate::{JournalKind, LabError, LabUp, Layout, image, layout};

/// Where the agents find QEMU.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Where the lab finds etcd.
pub const ETCD: &str = "/usr/bin/etcd";
/// Frames up to this size pass the fabric of the lab.
const MTU_MAX: u16 = 9000;
/// User ids from here on are nobody's: above those that containers and systemd use.
const USER_ID_FIRST: u32 = 3_900_000_000;
/// More than the VMs of the largest lab.
const USER_IDS_PER_HOST: u32 = 1_000;
/// Where the agents answer Prometheus, at their address in CT.
const METRICS_PORT: u16 = 7402;

#[derive(Serialize)]
struct AgentConfig<'a> {
    host: &'a HostName,
    state_dir: PathBuf,
    spool_dir: PathBuf,
    bridge: &'a str,
    qemu: &'a str,
    qemu_user: String,
    images: Vec<PathBuf>,
    accel: &'a str,
    mtu_max: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_traces: Option<&'a Path>,
    metrics: SocketAddr,
    listen: Listen,
    capacity: Capacity,
    pages: Pages<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bands: Option<AgentBands>,
    insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<TrustFiles>,
}

#[derive(Serialize)]
struct Pages<'a> {
    off: &'a [String],
    on: &'a [String],
}

#[derive(Serialize)]
struct Listen {
    control: SocketAddr,
    ct: IpAddr,
    vmct: IpAddr,
}

#[derive(Serialize)]
struct CoordinatorConfig {
    api: SocketAddrV4,
    api_socket: PathBuf,
    journal: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<EtcdConfig>,
    insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<TrustFiles>,
    hosts: Vec<HostSpec>,
}

#[derive(Serialize)]
struct EtcdConfig {
    endpoints: Vec<String>,
    prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_s: Option<u32>,
}

/// The bridge of every host that holds the taps of its VMs.
pub const BRIDGE: &str = "br-ct";

/// User ids of a host's QEMUs, of which no account has one; each host has its own, as if it were
/// a machine of its own.
pub fn qemu_user(host: u16) -> String {
    let first = USER_ID_FIRST + u32::from(host) * USER_IDS_PER_HOST;
    format!("{first}-{}", first + USER_IDS_PER_HOST - 1)
}

/// What a host may promise: as asked, or twice its share, so that half of the hosts can leave.
pub fn capacity(options: &LabUp) -> Capacity {
    let share = u64::from(options.vms.div_ceil(options.hosts / 2));
    let (_, largest) = options.memory_range();
    Capacity {
        vcpus: options.host_vcpus.unwrap_or(Vcpus(2 * share)),
        memory: options.host_memory.unwrap_or(Mebibytes(2 * share * largest.0)),
    }
}

/// Writes a host's configuration.
pub fn write_agent(
    path: &Path,
    layout: &Layout,
    options: &LabUp,
    index: u16,
    trust: Option<TrustFiles>,
) -> Result<(), LabError> {
    let host = layout::host_name(index)?;
    let addresses = layout::band_addresses(index);
    write(
        path,
        &AgentConfig {
            state_dir: layout.host_dir(&host),
            spool_dir: layout.spool_dir().join(host.as_str()),
            host: &host,
            bridge: BRIDGE,
            qemu: QEMU,
            qemu_user: qemu_user(index),
            images: vec![image::CACHE.into(), layout.dir()],
            accel: &options.accel,
            mtu_max: MTU_MAX,
            buffer_bytes_max: options.buffer_bytes_max,
            buffer_traces: options.buffer_traces.as_deref(),
            metrics: SocketAddr::new(addresses.ct, METRICS_PORT),
            listen: Listen {
                control: layout::control_address(index),
                ct: addresses.ct,
                vmct: addresses.vmct,
            },
            capacity: capacity(options),
            pages: Pages {
                off: &options.pages_off,
                on: &options.pages_on,
            },
            bands: match options.circuits {
                Circuits::Shared => options
                    .link_bits_per_s
                    .map(|speed| division::of_agent(index, speed)),
                Circuits::Separate | Circuits::Undivided => None,
            },
            insecure: trust.is_none(),
            trust,
        },
    )
}

/// Speed of the migration links, for forecasts and rates; unknown when they are not limited, or it
/// is not told.
fn vmct_mbit_s(options: &LabUp) -> Option<u32> {
    let mbit_s = options.link_bits_per_s.filter(|_| options.links_told)? / 1_000_000;
    Some(u32::try_from(mbit_s).unwrap_or(u32::MAX))
}

/// Writes a coordinator's configuration.
pub fn write_coordinator(
    path: &Path,
    layout: &Layout,
    options: &LabUp,
    index: u16,
    trust: Option<TrustFiles>,
) -> Result<(), LabError> {
    let host = |index| -> Result<HostSpec, LabError> {
        Ok(HostSpec {
            name: layout::host_name(index)?,
            control: layout::control_address(index),
            vmct_mbit_s: vmct_mbit_s(options),
            labels: BTreeMap::new(),
            fence: Vec::new(),
        })
    };
    write(
        path,
        &CoordinatorConfig {
            api: layout::api_address(index),
            api_socket: layout.socket_of_coordinator(index),
            journal: layout.dir_of_coordinator(index).join("journal.redb"),
            etcd: match options.journal {
                JournalKind::Redb => None,
                JournalKind::Etcd => Some(EtcdConfig {
                    endpoints: (0..layout::ETCD_MEMBERS).map(etcd_client).collect(),
                    prefix: format!("/transhume/{}", layout.name()),
                    lease_s: options.lease_s,
                }),
            },
            insecure: trust.is_none(),
            trust,
            hosts: (0..options.hosts).map(host).collect::<Result<_, _>>()?,
        },
    )
}

/// Where a member of etcd answers clients.
pub fn etcd_client(index: u16) -> String {
    format!("http://{}:{}", layout::etcd_address(index), layout::ETCD_PORT)
}

/// The certificates that a configuration names.
pub fn trust_of(path: &Path) -> Result<Option<TrustFiles>, LabError> {
    #[derive(serde::Deserialize)]
    struct Named {
        trust: Option<TrustFiles>,
    }
    let unreadable = |source| LabError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let named: Named = toml::from_str(&text).map_err(|error| unreadable(std::io::Error::other(error)))?;
    Ok(named.trust)
}

fn write(path: &Path, config: &impl Serialize) -> Result<(), LabError> {
    let text = toml::to_string_pretty(config).expect("names, numbers and paths below /run are TOML");
    fs::write(path, text).map_err(|source| LabError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}
