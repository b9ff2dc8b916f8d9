//! The two long-running commands.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Logs go to stderr; RUST_LOG chooses, `info` by default.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .init();
}

/// What is made from here on is for its owner alone, also by the programs that are started.
fn keep_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

pub async fn agent(config: &Path) -> Result<ExitCode, Failure> {
    log();
    keep_private();
    let config = transhume_agent::Config::read(config).map_err(|error| Failure::of(&error))?;
    transhume_agent::run(config).await.map_err(|error| Failure {
        hint: error.hint(),
        ..Failure::of(&error)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub async fn coordinator(config: &Path) -> Result<ExitCode, Failure> {
    log();
    keep_private();
    let config = transhume_coordinator::Config::read(config).map_err(|error| Failure::of(&error))?;
    transhume_coordinator::run(config)
        .await
        .map_err(|error| Failure {
            hint: error.hint().map(str::to_owned),
            ..Failure::of(&error)
        })?;
    Ok(ExitCode::SUCCESS)
}
