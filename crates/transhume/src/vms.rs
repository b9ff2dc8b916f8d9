//! One VM of a cluster: start, stop, forget.

use std::process::ExitCode;

use transhume_api::{Client, Decision, VmRestart, VmStart, VmStop};
use transhume_model::{ClusterName, IdError, VmName};

use crate::args::VmCommand;
use crate::clusters::{cluster_name, show};
use crate::failure::{Failure, Kind};
use crate::operators;

pub async fn run(client: &Client, command: VmCommand) -> Result<ExitCode, Failure> {
    let (view, json) = match command {
        VmCommand::Restart {
            cluster,
            vm,
            on,
            json,
        } => {
            let (cluster, vm) = names(&cluster, &vm)?;
            (client.restart_vm(&cluster, &vm, &VmRestart { on }).await?, json)
        }
        VmCommand::OpenPlug {
            cluster,
            vm,
            deciding,
        } => {
            let (cluster, vm) = names(&cluster, &vm)?;
            let ask = |dry_run| client.open_plug(&cluster, &vm, Decision { dry_run });
            return operators::decide(&deciding, ask).await;
        }
        VmCommand::Start {
            cluster,
            vm,
            host,
            json,
        } => {
            let (cluster, vm) = names(&cluster, &vm)?;
            (client.start_vm(&cluster, &vm, &VmStart { host }).await?, json)
        }
        VmCommand::Stop {
            cluster,
            vm,
            force,
            json,
        } => {
            let (cluster, vm) = names(&cluster, &vm)?;
            (client.stop_vm(&cluster, &vm, &VmStop { force }).await?, json)
        }
        VmCommand::Forget { cluster, vm, json } => {
            let (cluster, vm) = names(&cluster, &vm)?;
            (client.forget_vm(&cluster, &vm).await?, json)
        }
    };
    show(&view, json)
}

fn names(cluster: &str, vm: &str) -> Result<(ClusterName, VmName), Failure> {
    let hint = format!("`transhume cluster show {cluster}` shows which VMs there are");
    let vm = vm.parse();
    let vm = vm.map_err(|error: IdError| Failure::new(Kind::Refused, error.to_string(), hint))?;
    Ok((cluster_name(cluster)?, vm))
}
