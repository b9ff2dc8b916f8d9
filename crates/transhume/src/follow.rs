//! Watching a move: bars on a terminal, lines elsewhere. Ctrl-C ends the watching, never the move.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use transhume_model::VmName;
use transhume_protocol::event::{Event, Happening};
use transhume_protocol::report::MigrationReport;

use crate::client::Client;
use crate::failure::{Failure, Kind};
use crate::progress::{Bars, FULL};

/// Where what happens is shown.
enum Shown {
    Bars {
        all: MultiProgress,
        bars: BTreeMap<VmName, ProgressBar>,
    },
    Lines,
    Nothing,
}

impl Shown {
    fn new(quiet: bool) -> Self {
        if quiet {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            Shown::Bars {
                all: MultiProgress::new(),
                bars: BTreeMap::new(),
            }
        } else {
            Shown::Lines
        }
    }

    fn bar(&mut self, vm: &VmName, model: &Bars) {
        let Shown::Bars { all, bars } = self else { return };
        let bar = bars.entry(vm.clone()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix:12} {bar:40} {msg}")
                .expect("a template that is tested by use");
            all.add(
                ProgressBar::new(FULL)
                    .with_style(style)
                    .with_prefix(vm.to_string()),
            )
        });
        let (position, phase) = model.of(vm);
        bar.set_position(position);
        bar.set_message(phase.to_string());
    }

    fn line(&self, text: &str) {
        match self {
            // A closed terminal is no reason to stop.
            Shown::Bars { all, .. } => drop(all.println(text)),
            Shown::Lines => eprintln!("{text}"),
            Shown::Nothing => {}
        }
    }

    fn end(&mut self, model: &mut Bars) {
        if let Shown::Bars { bars, .. } = self {
            model.fill();
            bars.values().for_each(|bar| bar.abandon());
        }
    }
}

/// What is worth a line.
fn line(event: &Event) -> Option<String> {
    Some(match &event.what {
        Happening::Begun { vms, batches } => format!(
            "migration {}: {} VMs, batches: {batches}",
            event.migration,
            vms.len()
        ),
        Happening::StepEntered { batch, step } => format!("batch {batch}, step {}: {step}", step.number()),
        Happening::Refused { host, refusal, .. } => format!("host {host} refuses: {}", refusal.reason),
        Happening::Failed { fault, .. } => format!("fault: {}", fault.reason),
        Happening::AgentLost { host } => format!("host {host}: its agent does not answer"),
        Happening::AgentBack { host } => format!("host {host}: its agent answers again"),
        Happening::RollingBack { batch, reason } => format!("batch {batch} rolls back: {reason}"),
        Happening::AlreadyRollingBack { batch } => format!("batch {batch} rolls back already"),
        Happening::VmLost { vm, host, fault } => format!("VM {vm} is lost on host {host}: {}", fault.reason),
        Happening::Committed { batch } => format!("batch {batch} is committed"),
        Happening::PhaseEntered { .. } | Happening::Progress { .. } | Happening::Ended { .. } => return None,
    })
}

/// Ctrl-C from now on: it no longer ends this process by itself. One listener for all events: one made anew for each would be
/// deaf between them.
pub struct Interrupts(Signal);

impl Interrupts {
    pub fn listen() -> Result<Self, Failure> {
        signal(SignalKind::interrupt())
            .map(Self)
            .map_err(|error| Failure::of(&error))
    }
}

/// Follows a move to its end; the report.
pub async fn follow(
    client: &Client,
    migration: u64,
    quiet: bool,
    mut interrupts: Interrupts,
) -> Result<MigrationReport, Failure> {
    let mut shown = Shown::new(quiet);
    let mut bars = Bars::default();
    let mut events = std::pin::pin!(client.events(migration, 0).await?);
    loop {
        let event = tokio::select! {
            biased;
            _ = interrupts.0.recv() => return Err(detached(migration)),
            event = events.next() => event,
        };
        let Some(event) = event.transpose()? else { break };
        if let Some(vm) = bars.take(&event) {
            shown.bar(&vm, &bars);
        }
        if let Some(text) = line(&event) {
            shown.line(&text);
        }
        if matches!(event.what, Happening::Ended { .. }) {
            break;
        }
    }
    shown.end(&mut bars);
    client.get(&format!("/v1/migrations/{migration}")).await
}

fn detached(migration: u64) -> Failure {
    Failure::new(
        Kind::Detached,
        format!("no longer watching; migration {migration} goes on"),
        format!("`transhume follow {migration}` watches it again, `transhume cancel {migration}` cancels it"),
    )
}
