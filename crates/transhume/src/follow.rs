//! Watching a move: bars on a terminal, lines elsewhere. Ctrl-C ends the watching, never the move.
//! A coordinator that goes away meanwhile is waited for, and watching goes on where it stopped.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use transhume_api::{Client, ClientError};
use transhume_model::{HostName, MigrationId, VmName};
use transhume_protocol::event::{Event, Happening};
use transhume_protocol::message::BandsChange;
use transhume_protocol::migration::{Converge, StuckRates};
use transhume_protocol::report::{Lost, MigrationReport};

use crate::failure::{Failure, Kind};
use crate::progress::{Bars, FULL};

/// A coordinator that went away while a move was watched is waited for so long.
pub const AWAY_MAX: Duration = Duration::from_secs(120);
/// It is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Where what happens is shown.
enum Shown {
    Bars {
        all: MultiProgress,
        bars: BTreeMap<VmName, ProgressBar>,
        /// Of the whole move.
        whole: Option<ProgressBar>,
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
                whole: None,
            }
        } else {
            Shown::Lines
        }
    }

    fn bar(&mut self, vm: &VmName, model: &Bars) {
        let Shown::Bars { all, bars, .. } = self else {
            return;
        };
        let bar = bars
            .entry(vm.clone())
            .or_insert_with(|| all.add(new_bar(vm.as_str())));
        let (position, phase) = model.of(vm);
        bar.set_position(position);
        bar.set_message(phase.to_string());
    }

    /// How far the whole move is; below the bars of its VMs.
    fn outlook(&mut self, done: f64, left_ms: Option<u64>) {
        let Shown::Bars { all, whole, .. } = self else {
            return;
        };
        let bar = whole.get_or_insert_with(|| all.add(new_bar("all")));
        bar.set_position((done * FULL as f64) as u64);
        bar.set_message(match left_ms {
            Some(ms) => format!("{:.0} %, about {} s left", done * 100.0, ms.div_ceil(1_000)),
            None => format!("{:.0} %", done * 100.0),
        });
    }

    fn line(&self, text: &str) {
        match self {
            // A closed terminal is no reason to stop.
            Shown::Bars { all, .. } => drop(all.println(text)),
            Shown::Lines => eprintln!("{text}"),
            Shown::Nothing => {}
        }
    }

    /// What a user must know even where nothing else is shown.
    fn notice(&self, text: &str) {
        match self {
            Shown::Bars { .. } | Shown::Lines => self.line(text),
            Shown::Nothing => eprintln!("{text}"),
        }
    }

    fn end(&mut self, model: &mut Bars) {
        if let Shown::Bars { bars, whole, .. } = self {
            model.fill();
            bars.values().chain(whole.as_ref()).for_each(ProgressBar::abandon);
        }
    }
}

fn new_bar(name: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:12} {bar:40} {msg}").expect("a template that is tested by use");
    ProgressBar::new(FULL)
        .with_style(style)
        .with_prefix(name.to_owned())
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
        Happening::HostGone { host } => {
            format!("host {host} is lost; the move does not wait for it any longer")
        }
        Happening::GivenUp { vm, host, side } => {
            format!("VM {vm} goes on without its {side}, host {host}")
        }
        Happening::DecisionWanted { vm, host, lost, hint } => {
            let what = match lost {
                Lost::Host => "is lost",
                Lost::Vm => "lost it before it was seen to run",
            };
            format!("VM {vm} waits for a decision, for host {host} {what}: {hint}")
        }
        Happening::Resolved { vm, run_on } => {
            format!("an operator decided: VM {vm} {}", run_on.sentence())
        }
        Happening::Bands { host, change } => bands(host, change),
        Happening::RollingBack { batch, reason } => format!("batch {batch} rolls back: {reason}"),
        Happening::AlreadyRollingBack { batch } => {
            format!("batch {batch} is to be cancelled, and rolls back already")
        }
        Happening::VmLost { vm, host, fault } => {
            format!("VM {vm} IS LOST on host {host}: {}", fault.reason)
        }
        Happening::Committed { batch } => format!("batch {batch} is committed"),
        Happening::Stuck { vm, rates, policy } => stuck(vm, rates, *policy),
        Happening::PutOff { vm, batch } => {
            format!("the batch begins again without VM {vm}, which goes last, in batch {batch}")
        }
        Happening::Rearranged { batches, batch_max } => {
            format!("what is to come is cut anew: {batches} batches in all, of {batch_max} VMs at most")
        }
        Happening::PhaseEntered { .. }
        | Happening::Progress { .. }
        | Happening::Outlook { .. }
        | Happening::Ended { .. } => return None,
    })
}

fn bands(host: &HostName, change: &BandsChange) -> String {
    match change {
        BandsChange::PutBack => format!("host {host}: somebody changed its bands; they were put back"),
        BandsChange::Trouble { fault } => {
            format!(
                "host {host}: its links are not divided as configured: {}",
                fault.reason
            )
        }
        BandsChange::AsConfigured => format!("host {host}: its bands are as configured again"),
    }
}

/// Which VM does not get ready, why, and what becomes of it.
fn stuck(vm: &VmName, rates: &StuckRates, policy: Converge) -> String {
    let why = match rates.most_mbit_s {
        Some(most) => format!("its links carry {most:.0} at most"),
        None => "pass after pass leaves as much as the one before".to_owned(),
    };
    let then = match policy {
        Converge::Wait => {
            "it is waited for; --converge throttle, shrink or stop, or --offline, would end that".to_owned()
        }
        Converge::Throttle { percent } => format!("its guest is slowed down, to {percent} % at least"),
        Converge::Shrink => "it goes last, alone".to_owned(),
        Converge::Stop => "its batch rolls back".to_owned(),
    };
    format!(
        "VM {vm} does not get ready: it dirties {:.0} Mbit/s, and {why}; {then}",
        rates.dirty_mbit_s
    )
}

/// Whether a restarted coordinator may send it again, from its journal.
fn is_in_the_journal(what: &Happening) -> bool {
    matches!(
        what,
        Happening::Begun { .. }
            | Happening::StepEntered { .. }
            | Happening::RollingBack { .. }
            | Happening::VmLost { .. }
            | Happening::Committed { .. }
    )
}

/// Ctrl-C from now on: it no longer ends this process by itself. One listener for all events: one
/// made anew for each would be deaf between them.
pub struct Interrupts(Signal);

impl Interrupts {
    pub fn listen() -> Result<Self, Failure> {
        signal(SignalKind::interrupt())
            .map(Self)
            .map_err(|error| Failure::of(&error))
    }

    /// The next one, also where it came before anybody waited.
    pub async fn heard(&mut self) {
        self.0.recv().await;
    }
}

/// Follows a move to its end; the report.
pub async fn follow(
    client: &Client,
    migration: MigrationId,
    quiet: bool,
    interrupts: &mut Interrupts,
) -> Result<MigrationReport, Failure> {
    let mut follower = Follower::new(client, migration, quiet);
    tokio::select! {
        biased;
        () = interrupts.heard() => Err(detached(migration)),
        report = follower.until_over() => report,
    }
}

struct Follower<'a> {
    client: &'a Client,
    migration: MigrationId,
    shown: Shown,
    bars: Bars,
    /// Number of the last event that was seen.
    seen: u64,
    /// Lines of what a restarted coordinator may send again.
    said: Vec<String>,
    /// When the coordinator was found to be away.
    away_since: Option<Instant>,
}

impl<'a> Follower<'a> {
    fn new(client: &'a Client, migration: MigrationId, quiet: bool) -> Self {
        Self {
            client,
            migration,
            shown: Shown::new(quiet),
            bars: Bars::default(),
            seen: 0,
            said: Vec::new(),
            away_since: None,
        }
    }

    async fn until_over(&mut self) -> Result<MigrationReport, Failure> {
        while !self.watch().await? {
            self.pause("it ended the stream of events").await?;
        }
        self.shown.end(&mut self.bars);
        loop {
            match self.client.report(self.migration).await {
                Ok(report) => return Ok(report),
                Err(error) => self.pause_after(error).await?,
            }
        }
    }

    /// Watches until the move is over, which is true, or the stream is cut off.
    async fn watch(&mut self) -> Result<bool, Failure> {
        let mut events = match self.client.events(self.migration, self.seen).await {
            Ok(events) => events,
            Err(error) => {
                self.pause_after(error).await?;
                return Ok(false);
            }
        };
        loop {
            match events.next().await {
                Ok(Some(event)) => {
                    self.take(&event);
                    if matches!(event.what, Happening::Ended { .. }) {
                        return Ok(true);
                    }
                }
                Ok(None) => return Ok(false),
                Err(error) => {
                    self.pause_after(error).await?;
                    return Ok(false);
                }
            }
        }
    }

    fn take(&mut self, event: &Event) {
        if self.away_since.take().is_some() {
            self.shown.notice("the coordinator answers again");
        }
        self.seen = event.number;
        if let Happening::Outlook { done, left_ms } = event.what {
            self.shown.outlook(done, left_ms);
        }
        if let Some(vm) = self.bars.take(event) {
            self.shown.bar(&vm, &self.bars);
        }
        let Some(text) = line(event) else { return };
        if is_in_the_journal(&event.what) {
            if self.said.contains(&text) {
                return;
            }
            self.said.push(text.clone());
        }
        self.shown.line(&text);
    }

    /// Waits a little before the next attempt, where one may help.
    async fn pause_after(&mut self, error: ClientError) -> Result<(), Failure> {
        if !error.is_away() {
            return Err(error.into());
        }
        self.pause(&crate::failure::chain(&error)).await
    }

    async fn pause(&mut self, why: &str) -> Result<(), Failure> {
        let limit_s = AWAY_MAX.as_secs();
        let since = *self.away_since.get_or_insert_with(|| {
            let text = format!("the coordinator does not answer; trying again for {limit_s} s");
            self.shown.notice(&text);
            Instant::now()
        });
        if since.elapsed() > AWAY_MAX {
            let (address, migration) = (self.client.address(), self.migration);
            return Err(Failure::new(
                Kind::Unreachable,
                format!("the coordinator at {address} has not answered for {limit_s} s: {why}"),
                format!(
                    "start it again: it goes on with migration {migration}, and `transhume follow {migration}` watches it"
                ),
            ));
        }
        sleep(AGAIN).await;
        Ok(())
    }
}

fn detached(migration: MigrationId) -> Failure {
    Failure::new(
        Kind::Detached,
        format!("no longer watching; migration {migration} goes on"),
        format!("`transhume follow {migration}` watches it again, `transhume cancel {migration}` cancels it"),
    )
}
