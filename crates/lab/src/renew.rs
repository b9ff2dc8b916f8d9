//! Agents and coordinator anew, under guests that go on running: what a measurement wants that is
//! to begin each time with hosts that have seen nothing.

use std::time::{Duration, Instant};

use transhume_api::{Client, VmLife};
use transhume_model::ClusterName;

use crate::state::Lab;
use crate::up::{all_connected, blocking, coordinator_config, start_agent, start_coordinator};
use crate::{LabError, LabUp, config, faults};

/// Until the new coordinator has heard of every VM.
const RENEWED_MS_MAX: u64 = 60_000;
const POLL: Duration = Duration::from_millis(50);

/// Ends coordinator and agents, and starts them again; the coordinator with the configuration that
/// these options give it. No agent knows a page of an earlier move then. No move may be under way.
pub async fn renew(lab: Lab, options: &LabUp) -> Result<Lab, LabError> {
    let asked = options.clone();
    let lab = blocking(move || restart(lab, &asked)).await?;
    let client = Client::unix(&lab.layout.api_socket());
    let cluster: ClusterName = "lab".parse()?;
    let deadline = Instant::now() + Duration::from_millis(RENEWED_MS_MAX);
    while !(all_connected(&client).await? && all_run(&client, &cluster).await?) {
        if Instant::now() > deadline {
            return Err(LabError::Timeout {
                what: "the new coordinator's word of every VM".to_owned(),
                waited_ms: RENEWED_MS_MAX,
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(lab)
}

fn restart(mut lab: Lab, options: &LabUp) -> Result<Lab, LabError> {
    let hosts: Vec<String> = lab.state.hosts.iter().map(|host| host.name.to_string()).collect();
    faults::kill(&lab, "coordinator")?;
    for host in &hosts {
        faults::kill(&lab, &format!("agent {host}"))?;
    }
    let path = coordinator_config(&lab.layout);
    let trust = config::trust_of(&path)?;
    config::write_coordinator(&path, &lab.layout, options, 0, trust)?;
    for host in &hosts {
        start_agent(&mut lab, host)?;
    }
    start_coordinator(&mut lab)?;
    Ok(lab)
}

async fn all_run(client: &Client, cluster: &ClusterName) -> Result<bool, LabError> {
    let view = client.cluster(cluster).await?;
    Ok(view.vms.iter().all(|vm| vm.state == VmLife::Running))
}
