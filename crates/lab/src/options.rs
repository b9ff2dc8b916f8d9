//! What a lab is asked to be.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use transhume_guest::app::App;
use transhume_guest::settings::{PEERS_MAX, Traffic};
use transhume_model::{Bytes, Mebibytes, Vcpus};

use crate::layout::{COORDINATORS_MAX, Circuits};
use crate::{LabError, LabName, config, process};

/// Addresses end at .199: from .200 on are coordinators, from .210 on etcd, .250 is the storage.
pub const HOSTS_MAX: u16 = 199;
/// RFC 791 at the lower end, what the fabric is built for at the upper.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 68..=9000;
/// Fewer are no cluster.
const APP_VMS_MIN: u16 = 2;
const LINK_BITS_PER_S_MIN: u64 = 1_000_000;

/// What a lab's journal is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JournalKind {
    /// A file of the coordinator's.
    #[default]
    Redb,
    /// Three members of etcd on machines of their own.
    Etcd,
}

/// How to build a lab.
#[derive(Debug, Clone)]
pub struct LabUp {
    /// The lab's name, `lab` unless several are to live side by side.
    pub name: LabName,
    /// Number of hosts.
    pub hosts: u16,
    /// Number of VMs, placed in turn on the first half of the hosts.
    pub vms: u16,
    /// The last so many of them are a cluster of their own, `stay`, which no move of `lab` names:
    /// in turn on the first host and on the first of the other half.
    pub staying: u16,
    /// Memory of each VM.
    pub memory: Mebibytes,
    /// Memory of the VMs in turn, where they are not alike; all have `memory` where it is empty.
    pub memory_in_turn: Vec<Mebibytes>,
    /// What a host may promise; enough for twice its share of the VMs where absent.
    pub host_vcpus: Option<Vcpus>,
    /// Likewise for memory.
    pub host_memory: Option<Mebibytes>,
    /// How the bands reach the hosts.
    pub circuits: Circuits,
    /// Speed of every link, per direction; absent for unlimited, which only separate circuits can
    /// be.
    pub link_bits_per_s: Option<u64>,
    /// Largest IP packet of the guests, in bytes.
    pub mtu: u16,
    /// Size of each VM's disk; absent for VMs without disk.
    pub disk: Option<Mebibytes>,
    /// The cluster that runs in the guests; none where absent.
    pub app: Option<App>,
    /// A directory that is laid over every guest's root.
    pub overlay: Option<PathBuf>,
    /// A shell script that every guest runs.
    pub run: Option<String>,
    /// What the guests send.
    pub traffic: Traffic,
    /// Messages per second into each receiver.
    pub rate: u32,
    /// `auto`, `kvm` or `tcg`, as the agents take it.
    pub accel: String,
    /// Limit of a VM's network buffer, bytes; the agents' own where absent.
    pub buffer_bytes_max: Option<u64>,
    /// Where the agents write what their buffers held; none of it where absent.
    pub buffer_traces: Option<PathBuf>,
    /// Whether the coordinator is told the links' speed. Where it is not, links have no budget and
    /// no page stream has a rate.
    pub links_told: bool,
    /// Size of each agent's state directory, which is then a file system in memory; no limit of
    /// its own where absent.
    pub state_bytes_max: Option<Bytes>,
    /// Page classes that the agents do not use, by name.
    pub pages_off: Vec<String>,
    /// Page classes that they use beside the usual ones, by name.
    pub pages_on: Vec<String>,
    /// Whether every link is in the clear.
    pub insecure: bool,
    /// What the journal is in.
    pub journal: JournalKind,
    /// Number of coordinators, of which one leads; more than one share a journal in etcd.
    pub coordinators: u16,
    /// How long a coordinator that does not reach etcd leads on, seconds; its default where absent.
    pub lease_s: Option<u32>,
    /// A process that the lab belongs to: once it has ended, the next `up` of any lab removes this
    /// one. Without, it stays.
    pub owner: Option<u32>,
    /// The program that is `agent` and `coordinator`; the current one where absent.
    pub program: Option<PathBuf>,
    /// Told what is being done.
    pub progress: Progress,
}

impl Default for LabUp {
    fn default() -> Self {
        LabUp {
            name: LabName::default(),
            hosts: 4,
            vms: 4,
            staying: 0,
            memory: Mebibytes(96),
            memory_in_turn: Vec::new(),
            host_vcpus: None,
            host_memory: None,
            circuits: Circuits::Separate,
            link_bits_per_s: Some(1_000_000_000),
            mtu: 1500,
            disk: Some(Mebibytes(16)),
            app: None,
            overlay: None,
            run: None,
            traffic: Traffic::Mesh,
            rate: 100,
            accel: "auto".to_owned(),
            buffer_bytes_max: None,
            buffer_traces: None,
            links_told: true,
            state_bytes_max: None,
            pages_off: Vec::new(),
            pages_on: Vec::new(),
            insecure: false,
            journal: JournalKind::default(),
            coordinators: 1,
            lease_s: None,
            owner: None,
            program: None,
            progress: Progress::default(),
        }
    }
}

impl LabUp {
    /// Memory of the VM with this index, from 0.
    pub fn memory_of(&self, index: u16) -> Mebibytes {
        let mut in_turn = self.memory_in_turn.iter().cycle();
        in_turn.nth(usize::from(index)).copied().unwrap_or(self.memory)
    }

    /// Of the smallest and the largest VM.
    pub fn memory_range(&self) -> (Mebibytes, Mebibytes) {
        let least = self.memory_in_turn.iter().min();
        let most = self.memory_in_turn.iter().max();
        (
            least.copied().unwrap_or(self.memory),
            most.copied().unwrap_or(self.memory),
        )
    }

    /// Refuses what cannot be built, before anything is.
    pub fn check(&self) -> Result<(), LabError> {
        let refuse = |option, reason: String| Err(LabError::Option { option, reason });
        if self.hosts < 2 || self.hosts > HOSTS_MAX {
            return refuse(
                "hosts",
                format!("{} is not between 2 and {HOSTS_MAX}", self.hosts),
            );
        }
        if self.vms == 0 || usize::from(self.vms) > PEERS_MAX {
            return refuse("vms", format!("{} is not between 1 and {PEERS_MAX}", self.vms));
        }
        if self.staying >= self.vms {
            return refuse(
                "staying",
                format!("{} leave none of {} VMs to move", self.staying, self.vms),
            );
        }
        if self.app.is_some() && self.run.is_some() {
            return refuse("run", "an app has a script of its own".to_owned());
        }
        if self.app.is_some() && self.vms < APP_VMS_MIN {
            return refuse("vms", format!("an app needs at least {APP_VMS_MIN}"));
        }
        if !(1..=COORDINATORS_MAX).contains(&self.coordinators) {
            let reason = format!("{} is not between 1 and {COORDINATORS_MAX}", self.coordinators);
            return refuse("coordinators", reason);
        }
        if self.coordinators > 1 && self.journal != JournalKind::Etcd {
            let reason = "several share a journal: that takes --journal etcd";
            return refuse("coordinators", reason.to_owned());
        }
        if self.lease_s.is_some() && self.journal != JournalKind::Etcd {
            let reason = "only a journal in etcd is led by a lease: that takes --journal etcd";
            return refuse("lease", reason.to_owned());
        }
        if self.journal == JournalKind::Etcd && !Path::new(config::ETCD).exists() {
            let reason = format!("there is no {}: install the package etcd-server", config::ETCD);
            return refuse("journal", reason);
        }
        if !MTU_RANGE.contains(&self.mtu) {
            return refuse("mtu", format!("{} is not between 68 and 9000", self.mtu));
        }
        if self
            .link_bits_per_s
            .is_some_and(|speed| speed < LINK_BITS_PER_S_MIN)
        {
            return refuse("link speed", "below 1 Mbit/s".to_owned());
        }
        if self.link_bits_per_s.is_none() && self.circuits != Circuits::Separate {
            return Err(LabError::NoLinkSpeed);
        }
        if self.overlay.as_ref().is_some_and(|overlay| !overlay.is_dir()) {
            return refuse("overlay", "is not a directory".to_owned());
        }
        self.owner.map(process::owner).transpose()?;
        Ok(())
    }
}

/// Where the lab says what it is doing.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&str) + Send + Sync>);

impl Progress {
    /// Calls `tell` for every step.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Progress(Arc::new(tell))
    }

    /// One step begins.
    pub fn step(&self, text: &str) {
        tracing::info!("{text}");
        (self.0)(text);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new(|_| {})
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_circuit_for_all_bands_asks_for_its_speed() {
        for circuits in [Circuits::Shared, Circuits::Undivided] {
            let mut options = LabUp {
                circuits,
                ..LabUp::default()
            };
            assert!(options.check().is_ok());
            options.link_bits_per_s = None;
            let error = options.check().unwrap_err();
            assert!(error.to_string().contains("speed"), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("--link")));
        }
    }

    #[test]
    fn impossible_labs_are_refused_with_the_options_name() {
        assert!(LabUp::default().check().is_ok());
        let wrong = [
            (
                "hosts",
                LabUp {
                    hosts: 1,
                    ..LabUp::default()
                },
            ),
            (
                "vms",
                LabUp {
                    vms: 0,
                    ..LabUp::default()
                },
            ),
            (
                "staying",
                LabUp {
                    staying: 4,
                    ..LabUp::default()
                },
            ),
            (
                "mtu",
                LabUp {
                    mtu: 67,
                    ..LabUp::default()
                },
            ),
            (
                "link speed",
                LabUp {
                    link_bits_per_s: Some(9600),
                    ..LabUp::default()
                },
            ),
            (
                "run",
                LabUp {
                    app: Some(App::Redis),
                    run: Some("true".into()),
                    ..LabUp::default()
                },
            ),
            (
                "vms",
                LabUp {
                    app: Some(App::Redis),
                    vms: 1,
                    ..LabUp::default()
                },
            ),
            (
                "coordinators",
                LabUp {
                    coordinators: 2,
                    ..LabUp::default()
                },
            ),
            (
                "coordinators",
                LabUp {
                    coordinators: 0,
                    ..LabUp::default()
                },
            ),
            (
                "lease",
                LabUp {
                    lease_s: Some(15),
                    ..LabUp::default()
                },
            ),
            (
                "overlay",
                LabUp {
                    overlay: Some("/no/such".into()),
                    ..LabUp::default()
                },
            ),
        ];
        for (name, options) in wrong {
            assert!(options.check().unwrap_err().to_string().starts_with(name));
        }
    }
}
