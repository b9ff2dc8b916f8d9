//! The lab of a storm, and what it is asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use transhume_coordinator::api::{Accepted, ClusterView, HostList, MoveOrder, VmLife};
use transhume_lab::storm::{ClusterSight, Counts, HostSight, VmSight};
use transhume_lab::{Figures, Lab, LabUp, collect, up};
use transhume_model::{Bytes, HostName, Mebibytes, VmName};
use transhume_protocol::message::VmRole;
use transhume_protocol::report::MigrationReport;

use crate::args::StormArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::labs::told;

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
    before: Counts,
}

impl Scene {
    pub async fn raise(args: &StormArgs) -> Result<Self, Failure> {
        let options = LabUp {
            hosts: args.hosts,
            vms: args.vms,
            memory: Mebibytes(args.memory_mib),
            rate: args.rate,
            state_bytes_max: Some(STATE_BYTES),
            owner: Some(args.owner.unwrap_or_else(std::process::id)),
            progress: told(),
            ..LabUp::default()
        };
        let lab = up(&options).await?;
        let mut scene = Scene {
            lab: Arc::new(Mutex::new(lab)),
            client: Client::of_lab()?,
            before: Counts::default(),
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
        let now = counts(&collect(&lab, true).await?);
        let counted = now.since(&self.before);
        self.before = now;
        Ok(counted)
    }

    /// The coordinator's view of the cluster and of the hosts.
    pub async fn cluster(&self) -> Result<ClusterSight, Failure> {
        let cluster: ClusterView = self.client.get(&format!("/v1/clusters/{CLUSTER}")).await?;
        let hosts: HostList = self.client.get("/v1/hosts").await?;
        let vm = |vm: transhume_coordinator::api::VmView| VmSight {
            vm: vm.id,
            host: vm.host,
            running: vm.state == VmLife::Running,
            state: word(&vm.state),
            moving: vm.role.is_some_and(|role| role != VmRole::Home),
        };
        let host = |host: transhume_coordinator::api::HostView| HostSight {
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

    pub async fn migrate(&self, from: &[HostName], to: &[HostName], batch: usize) -> Result<u64, Failure> {
        let names = |hosts: &[HostName]| hosts.iter().map(ToString::to_string).collect();
        let order = MoveOrder {
            from: names(from),
            to: names(to),
            batch: Some(batch),
            offline: false,
            blackout_ms_max: None,
            strategy: None,
        };
        let path = format!("/v1/clusters/{CLUSTER}/migrations");
        let accepted: Accepted = self.client.post(&path, &order).await?;
        Ok(accepted.migration.0)
    }

    pub async fn report(&self, migration: u64) -> Result<MigrationReport, Failure> {
        self.client.get(&format!("/v1/migrations/{migration}")).await
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
