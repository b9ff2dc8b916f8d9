//! What an operator decides about hosts that are lost, and about VMs that wait for such a decision.

use std::future::Future;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use transhume_api::{Client, ClientError, Decision, HostFence, MoveResolution, Verdict};
use transhume_model::{HostName, IdError, MigrationId};

use crate::args::{Deciding, HostCommand, MigrationCommand};
use crate::clusters;
use crate::drains;
use crate::failure::{Failure, Kind};
use crate::moves::print_json;

pub async fn host(client: &Client, command: HostCommand) -> Result<ExitCode, Failure> {
    let (host, verb, deciding) = match command {
        HostCommand::List { json } => return clusters::hosts(client, json).await,
        HostCommand::Show { host, json } => {
            let view = client.host(&host_name(&host)?).await?;
            return clusters::show_host(&view, json);
        }
        HostCommand::Drain(args) => return drains::drain(client, args).await,
        HostCommand::Fence {
            host,
            powered_off,
            force,
            deciding,
        } => {
            let host = host_name(&host)?;
            let ask = |dry_run| {
                let (client, host) = (client.clone(), host.clone());
                async move {
                    let fence = HostFence {
                        powered_off,
                        force,
                        dry_run,
                    };
                    client.fence_host(&host, &fence).await
                }
            };
            return decide(&deciding, ask).await;
        }
        HostCommand::Cordon { host, deciding } => (host, "cordon", deciding),
        HostCommand::Uncordon { host, deciding } => (host, "uncordon", deciding),
        HostCommand::Forget { host, deciding } => (host, "forget", deciding),
    };
    let host = host_name(&host)?;
    decide(&deciding, |dry_run| {
        client.decide_host(&host, verb, Decision { dry_run })
    })
    .await
}

pub async fn migration(client: &Client, command: MigrationCommand) -> Result<ExitCode, Failure> {
    let MigrationCommand::Resolve {
        migration,
        vm,
        run_on,
        although_it_may_have_run,
        deciding,
    } = command;
    let ask = |dry_run| {
        let resolution = MoveResolution {
            vm: vm.clone(),
            run_on: run_on.into(),
            although_it_may_have_run,
            dry_run,
        };
        let client = client.clone();
        async move { client.resolve(MigrationId(migration), &resolution).await }
    };
    decide(&deciding, ask).await
}

/// Shows what a decision does and what may be lost by it, asks back, and takes it.
pub async fn decide<F>(deciding: &Deciding, ask: impl Fn(bool) -> F) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<Verdict, ClientError>>,
{
    match ask_back(deciding, ask(true)).await? {
        Some(told) => Ok(told),
        None => show(&ask(false).await?, deciding.json),
    }
}

/// Says what would be done where only that was asked for; else asks back where something may be
/// lost. `None`: go on.
pub async fn ask_back<E>(
    deciding: &Deciding,
    planned: impl Future<Output = Result<Verdict, E>>,
) -> Result<Option<ExitCode>, Failure>
where
    Failure: From<E>,
{
    if deciding.dry_run {
        return show(&planned.await?, deciding.json).map(Some);
    }
    if !deciding.yes {
        let planned = planned.await?;
        if !planned.may_be_lost.is_empty() {
            confirm(&planned)?;
        }
    }
    Ok(None)
}

fn confirm(planned: &Verdict) -> Result<(), Failure> {
    let refused = |message: &str| Failure::new(Kind::Refused, message, "--yes decides without asking back");
    eprint!("{}", text(planned));
    if !std::io::stdin().is_terminal() {
        return Err(refused(
            "nobody can be asked whether that may be lost; nothing was changed",
        ));
    }
    eprint!("go on? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stderr()
        .flush()
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "yes") => Ok(()),
        Ok(_) | Err(_) => Err(refused("nothing was changed")),
    }
}

pub fn show(verdict: &Verdict, json: bool) -> Result<ExitCode, Failure> {
    if json {
        return print_json(verdict);
    }
    out!("{}", text(verdict));
    Ok(ExitCode::SUCCESS)
}

fn text(verdict: &Verdict) -> String {
    let mut text = match verdict.done {
        true => format!("{}\n", verdict.what),
        false => format!("would be so: {}\n", verdict.what),
    };
    for lost in &verdict.may_be_lost {
        text.push_str(&format!("may be lost: {lost}\n"));
    }
    text
}

pub fn host_name(text: &str) -> Result<HostName, Failure> {
    let hint = "`transhume host list` shows which hosts there are";
    text.parse()
        .map_err(|error: IdError| Failure::new(Kind::Refused, error.to_string(), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_lost_is_named_before_and_after() {
        let lost = vec!["VM db1: everything that it held in memory".to_owned()];
        let mut verdict = Verdict::planned("VM db1 is given up".to_owned(), lost);
        assert_eq!(
            text(&verdict),
            "would be so: VM db1 is given up\nmay be lost: VM db1: everything that it held in memory\n"
        );
        verdict.done = true;
        assert!(text(&verdict).starts_with("VM db1 is given up\nmay be lost: "));
    }
}
