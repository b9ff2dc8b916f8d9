//! Transhume's one binary: parses, dispatches, prints. What it does is in the library crates, which
//! never print.
#![forbid(unsafe_code)]

#[macro_use]
mod out;

mod apps;
mod args;
mod authority;
mod bands;
mod brownout;
mod client;
mod clusters;
mod daemon;
mod drains;
mod failure;
mod figures;
mod follow;
mod forecasts;
mod import;
mod journals;
mod labs;
mod links;
mod local;
mod machine;
mod measurement;
mod memory;
mod moves;
mod neighbours;
mod operators;
mod plan_file;
mod progress;
mod report;
mod storm;
mod table;
mod vms;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{AgentCommand, Args, CheckCommand, Command, InventoryCommand};
use crate::failure::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::other(format!("cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(dispatch(args)));
    match done {
        Ok(code) => code,
        Err(failure) => failure.show(),
    }
}

async fn dispatch(args: Args) -> Result<ExitCode, Failure> {
    let client = || client::open(args.api.as_deref(), args.certificate.as_deref());
    match args.command {
        Command::Lab { command } => labs::run(command).await,
        Command::Cluster { command } => clusters::run(&client()?, command).await,
        Command::Vm { command } => vms::run(&client()?, command).await,
        Command::Host { command } => operators::host(&client()?, command).await,
        Command::Check {
            command: CheckCommand::Link { from, to, json },
        } => links::check(&client()?, &from, &to, json).await,
        Command::Migration { command } => operators::migration(&client()?, command).await,
        Command::Hosts { json } => clusters::hosts(&client()?, json).await,
        Command::Plan(args) => match args.inventory.clone() {
            Some(file) => plan_file::run(&file, &args),
            None => moves::plan(&client()?, args).await,
        },
        Command::Inventory {
            command: InventoryCommand::Import { from },
        } => import::run(from).await,
        Command::Ca { dir, command } => authority::run(&dir, command),
        Command::Journal { command } => journals::run(command).await,
        Command::Drain(args) => drains::drain(&client()?, args).await,
        Command::Drains(args) => drains::drains(&client()?, args).await,
        Command::Migrate(order) => moves::migrate(&client()?, order).await,
        Command::Migrations { json } => moves::migrations(&client()?, json).await,
        Command::Report { all: true, json, .. } => forecasts::all(&client()?, json).await,
        Command::Report { migration, json, .. } => moves::report(&client()?, migration, json).await,
        Command::Follow { migration, json } => moves::follow(&client()?, migration, json).await,
        Command::Cancel { migration, json } => moves::cancel(&client()?, migration, json).await,
        Command::Bands { command } => bands::run(&command),
        Command::Agent {
            command: Some(AgentCommand::Vm { command }),
            ..
        } => local::run(command).await,
        Command::Agent {
            config: Some(config), ..
        } => daemon::agent(&config).await,
        // The parser lets nobody through without either.
        Command::Agent { .. } => Err(Failure::other("name the agent's configuration with --config")),
        Command::Coordinator {
            config: Some(config), ..
        } => daemon::coordinator(&config).await,
        Command::Coordinator { config: None, .. } => {
            outln!("{}", transhume_coordinator::openapi());
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "transhume", &mut script);
            out::bytes(&script);
            Ok(ExitCode::SUCCESS)
        }
    }
}
