//! The coordinator's HTTP API over its Unix socket, as far as the lab needs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, ClusterSpec, HostName, VmName};

use crate::LabError;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a cluster's VMs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub name: ClusterName,
    /// Its VMs.
    pub vms: Vec<VmView>,
}

/// Where a VM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmView {
    /// The VM.
    pub id: VmName,
    /// Its host.
    pub host: HostName,
    /// As the coordinator says it: `running`, …
    pub state: String,
}

/// A client of one coordinator.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    socket: PathBuf,
}

impl Api {
    /// A client; nothing is connected yet.
    pub fn new(socket: &Path) -> Result<Self, LabError> {
        let client = reqwest::Client::builder()
            .unix_socket(socket)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|source| LabError::Unreachable {
                socket: socket.to_owned(),
                source,
            })?;
        Ok(Api {
            client,
            socket: socket.to_owned(),
        })
    }

    /// Whether every host's agent is connected to the coordinator.
    pub async fn hosts_connected(&self) -> Result<bool, LabError> {
        #[derive(Deserialize)]
        struct Hosts {
            hosts: Vec<Host>,
        }
        #[derive(Deserialize)]
        struct Host {
            connected: bool,
        }
        let request = self.client.get("http://coordinator/v1/hosts");
        let response = self.send("GET /v1/hosts", request).await?;
        let hosts: Hosts = response.json().await.map_err(|source| LabError::Unreachable {
            socket: self.socket.clone(),
            source,
        })?;
        Ok(hosts.hosts.iter().all(|host| host.connected))
    }

    /// Registers a cluster and starts its VMs.
    pub async fn create(&self, spec: &ClusterSpec) -> Result<(), LabError> {
        let request = self.client.post("http://coordinator/v1/clusters").json(spec);
        self.send("POST /v1/clusters", request).await.map(|_| ())
    }

    /// Where its VMs are.
    pub async fn cluster(&self, name: &ClusterName) -> Result<ClusterView, LabError> {
        let request = self.client.get(format!("http://coordinator/v1/clusters/{name}"));
        let response = self.send(&format!("GET /v1/clusters/{name}"), request).await?;
        response.json().await.map_err(|source| LabError::Unreachable {
            socket: self.socket.clone(),
            source,
        })
    }

    async fn send(
        &self,
        what: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, LabError> {
        let unreachable = |source| LabError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = response.text().await.unwrap_or_default();
        Err(LabError::Refused {
            request: what.to_owned(),
            status: status.as_u16(),
            said,
        })
    }
}
