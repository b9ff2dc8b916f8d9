//! VMs of this host without a coordinator: list, resume, kill.

use std::process::ExitCode;

use transhume_agent::Config;
use transhume_agent::local::{self, Allowed, LocalError, LocalVerb, LocalVm};

use transhume_api::Verdict;
use transhume_model::{IdError, VmName};

use crate::args::{Deciding, LocalVmCommand};
use crate::failure::{Failure, Kind, chain};
use crate::moves::print_json;
use crate::operators;
use crate::table::Table;

pub async fn run(command: LocalVmCommand) -> Result<ExitCode, Failure> {
    let (vm, verb, config, deciding) = match command {
        LocalVmCommand::List { config, json } => {
            let vms = local::list(&state_dir(&config)?).await.map_err(refused)?;
            return list(&vms, json);
        }
        LocalVmCommand::Resume { vm, config, deciding } => (vm, LocalVerb::Resume, config, deciding),
        LocalVmCommand::Kill { vm, config, deciding } => (vm, LocalVerb::Kill, config, deciding),
    };
    decide(&vm_name(&vm)?, verb, &state_dir(&config)?, &deciding).await
}

async fn decide(
    vm: &VmName,
    verb: LocalVerb,
    state_dir: &std::path::Path,
    deciding: &Deciding,
) -> Result<ExitCode, Failure> {
    let planned = async {
        let allowed = local::check(state_dir, vm, verb).await;
        allowed.map(verdict).map_err(refused)
    };
    if let Some(told) = operators::ask_back(deciding, planned).await? {
        return Ok(told);
    }
    let done = local::carry_out(state_dir, vm, verb).await.map_err(refused)?;
    let done = Verdict {
        done: true,
        ..verdict(done)
    };
    operators::show(&done, deciding.json)
}

fn verdict(Allowed { what, may_be_lost }: Allowed) -> Verdict {
    Verdict::planned(what, may_be_lost)
}

fn list(vms: &[LocalVm], json: bool) -> Result<ExitCode, Failure> {
    if json {
        return print_json(&vms);
    }
    let mut table = Table::new(&["VM", "CLUSTER", "HERE", "PID", "GUEST"]);
    for vm in vms {
        table.row([
            vm.vm.to_string(),
            vm.cluster.as_ref().map_or("-".to_owned(), ToString::to_string),
            vm.role.clone(),
            vm.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            vm.guest.map_or("-".to_owned(), |guest| guest.name().to_owned()),
        ]);
    }
    out!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

fn state_dir(config: &std::path::Path) -> Result<std::path::PathBuf, Failure> {
    let config = Config::read(config).map_err(|error| Failure::of(&error))?;
    Ok(config.state_dir)
}

fn vm_name(text: &str) -> Result<VmName, Failure> {
    let hint = "`transhume agent vm list` shows which VMs are here";
    text.parse()
        .map_err(|error: IdError| Failure::new(Kind::Refused, error.to_string(), hint))
}

fn refused(error: LocalError) -> Failure {
    Failure::new(Kind::Refused, chain(&error), error.hint())
}
