//! One VM of a cluster: start, stop, forget.

use std::process::ExitCode;

use transhume_api::{Client, Decision, VmCheck, VmRestart, VmStart, VmStop};
use transhume_model::{ClusterName, IdError, VmName};

use crate::args::VmCommand;
use crate::clusters::{cluster_name, show};
use crate::failure::{Failure, Kind};
use crate::operators;

pub async fn run(client: &Client, command: VmCommand) -> Result<ExitCode, Failure> {
    let (cluster, vm, check, deciding) = match command {
        VmCommand::OpenPlug {
            cluster,
            vm,
            deciding,
        } => {
            let (cluster, vm) = names(&cluster, &vm)?;
            let ask = |dry_run| client.open_plug(&cluster, &vm, Decision { dry_run });
            return operators::decide(&deciding, ask).await;
        }
        VmCommand::Restart {
            cluster,
            vm,
            on,
            deciding,
        } => (cluster, vm, VmCheck::Restart { on }, deciding),
        VmCommand::Start {
            cluster,
            vm,
            host,
            deciding,
        } => (cluster, vm, VmCheck::Start { host }, deciding),
        VmCommand::Stop {
            cluster,
            vm,
            force,
            deciding,
        } => (cluster, vm, VmCheck::Stop { force }, deciding),
        VmCommand::Forget {
            cluster,
            vm,
            deciding,
        } => (cluster, vm, VmCheck::Forget, deciding),
    };
    let (cluster, vm) = names(&cluster, &vm)?;
    let planned = client.check_vm(&cluster, &vm, &check);
    if let Some(told) = operators::ask_back(&deciding, planned).await? {
        return Ok(told);
    }
    let view = match check {
        VmCheck::Start { host } => client.start_vm(&cluster, &vm, &VmStart { host }).await?,
        VmCheck::Restart { on } => client.restart_vm(&cluster, &vm, &VmRestart { on }).await?,
        VmCheck::Stop { force } => client.stop_vm(&cluster, &vm, &VmStop { force }).await?,
        VmCheck::Forget => client.forget_vm(&cluster, &vm).await?,
    };
    show(&view, deciding.json)
}

fn names(cluster: &str, vm: &str) -> Result<(ClusterName, VmName), Failure> {
    let hint = format!("`transhume cluster show {cluster}` shows which VMs there are");
    let vm = vm.parse();
    let vm = vm.map_err(|error: IdError| Failure::new(Kind::Refused, error.to_string(), hint))?;
    Ok((cluster_name(cluster)?, vm))
}
