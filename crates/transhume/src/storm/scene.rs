//! The lab of a storm, and what it is asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use transhume_api::{Client, HostView, MoveOrder, VmLife, VmRestart, VmStart, VmView};
use transhume_lab::storm::{ClusterSight, Counts, HostSight, VmSight};
use transhume_lab::{Figures, Lab, LabUp, PairFigures, collect, up};
use transhume_model::{Bytes, ClusterName, HostName, IdError, Mebibytes, MigrationId, VmName};
use transhume_protocol::message::VmRole;

use crate::args::StormArgs;
use crate::client;
use crate::failure::Failure;
use crate::labs::progress;

/// The lab's cluster.
const CLUSTER: &str = "lab";
/// Small enough to be filled at once, large enough for records, sockets and consoles.
const STATE_BYTES: Bytes = Bytes(32 << 20);
/// Every guest has heard from others and written to its disk within this time.
const TRAFFIC_WAIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(300);

/// A lab that is up, with what its guests had lost before the round.
pub struct Scene {
    lab: Arc<Mutex<Lab>>,
    pub client: Client,
    cluster: ClusterName,
    before: Counts,
    /// Pairs that lost, doubled or reordered something so far, for the evidence.
    pub pairs: Vec<PairFigures>,
}

impl Scene {
    pub async fn raise(args: &StormArgs) -> Result<Self, Failure> {
        let options = LabUp {
            hosts: args.hosts,
            vms: args.vms,
            memory: Mebibytes(args.memory_mib),
            circuits: args.circuits.into(),
            rate: args.rate,
            state_bytes_max: Some(STATE_BYTES),
            owner: Some(args.owner.unwrap_or_else(std::process::id)),
            progress: progress(),
            ..LabUp::default()
        };
        let lab = up(&options).await?;
        let mut scene = Scene {
            lab: Arc::new(Mutex::new(lab)),
            client: client::of_lab(),
            cluster: CLUSTER.parse().map_err(|error: IdError| Failure::of(&error))?,
            before: Counts::default(),
            pairs: Vec::new(),
        };
        scene.before = counts(&scene.traffic().await?);
        Ok(scene)
    }

    /// Waits until all guests exchange messages.
    async fn traffic(&self) -> Result<Figures, Failure> {
        let begun = Instant::now();
        loop {
            let figures = collect(&self.lab(), false).await?;
            let silent = figures
                .vms
                .iter()
                .any(|vm| vm.received == 0 || vm.disk_writes == 0);
            if !silent {
                return Ok(figures);
            }
            if begun.elapsed() > TRAFFIC_WAIT {
                let message = format!("the guests are silent after {} s", TRAFFIC_WAIT.as_secs());
                return Err(Failure::other(message));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// As it is now.
    pub fn lab(&self) -> Lab {
        self.lab.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For those who start its parts again.
    pub fn shared(&self) -> Arc<Mutex<Lab>> {
        Arc::clone(&self.lab)
    }

    /// The guests' account since it was last asked for, without VMs that are lost.
    pub async fn count(&mut self, lost: &[VmName]) -> Result<Counts, Failure> {
        let mut lab = self.lab();
        lab.state.vms.retain(|vm| !lost.contains(&vm.name));
        let figures = collect(&lab, true).await?;
        let now = counts(&figures);
        self.pairs = figures.pairs;
        let counted = now.since(&self.before);
        self.before = now;
        Ok(counted)
    }

    /// The coordinator's view of the cluster and of the hosts.
    pub async fn cluster(&self) -> Result<ClusterSight, Failure> {
        let cluster = self.client.cluster(&self.cluster).await?;
        let hosts = self.client.hosts().await?;
        let vm = |vm: VmView| VmSight {
            vm: vm.id,
            host: vm.host,
            running: vm.state == VmLife::Running,
            state: vm.state.name().to_owned(),
            moving: vm.role.is_some_and(|role| role != VmRole::Home),
        };
        let host = |host: HostView| HostSight {
            host: host.name,
            connected: host.connected,
            vms: host.vms,
        };
        Ok(ClusterSight {
            migration: cluster.migration.map(|id| id.0),
            vms: cluster.vms.into_iter().map(vm).collect(),
            hosts: hosts.hosts.into_iter().map(host).collect(),
        })
    }

    /// Begins a move.
    pub async fn migrate(
        &self,
        from: &[HostName],
        to: &[HostName],
        batch: usize,
    ) -> Result<MigrationId, Failure> {
        let names = |hosts: &[HostName]| hosts.iter().map(ToString::to_string).collect();
        let order = MoveOrder {
            from: names(from),
            to: names(to),
            batch: Some(batch),
            ..MoveOrder::default()
        };
        Ok(self.client.migrate(&self.cluster, &order).await?.migration)
    }

    /// Boots a VM from its disks on another host.
    pub async fn restart(&self, vm: &VmName, restart: VmRestart) -> Result<(), Failure> {
        self.client.restart_vm(&self.cluster, vm, &restart).await?;
        Ok(())
    }

    /// Starts a VM again that was lost.
    pub async fn start(&self, vm: &VmName) -> Result<(), Failure> {
        let here = VmStart { host: None };
        self.client.start_vm(&self.cluster, vm, &here).await?;
        Ok(())
    }
}

/// An enum's word on the wire.
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

fn counts(figures: &Figures) -> Counts {
    figures.vms.iter().fold(Counts::default(), |sum, vm| {
        sum.plus(&Counts {
            lost: vm.lost,
            duplicated: vm.duplicated,
            reordered: vm.reordered,
            tcp_broken: vm.tcp_broken,
            disk_errors: vm.disk_errors,
        })
    })
}
