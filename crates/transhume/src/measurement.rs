//! What the measuring commands of the lab have in common: where their files go, a move, and what
//! was missed.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use transhume_api::{Client, MoveOrder};
use transhume_lab::drawing::Drawing;
use transhume_lab::stock::accelerator;
use transhume_lab::{Figures, LabName, LabUp, VmFigures, down};
use transhume_protocol::report::{Ending, MigrationReport};

use crate::args::{Batches, Together};
use crate::clusters::cluster_name;
use crate::failure::{Failure, Kind};
use crate::follow::{self, Interrupts};
use crate::labs::{progress, refuse_lab};
use crate::machine;
use crate::moves::print_json;

/// A file's name and content.
pub type File = (String, Vec<u8>);

/// The frame of every measurement: refused where a lab is up, its directory made before anything is
/// measured. However it ends, no lab stays, and what was measured by then is written.
pub async fn conduct<M: Default>(
    out: &Path,
    measure: impl AsyncFnOnce(&mut Interrupts, &mut M) -> Result<(), Failure>,
    files: impl FnOnce(&M) -> Result<Vec<File>, Failure>,
) -> Result<M, Failure> {
    refuse_lab("measurement").await?;
    prepare(out)?;
    let mut measured = M::default();
    let mut ctrl_c = Interrupts::listen()?;
    let done = measure(&mut ctrl_c, &mut measured).await;
    let removed = down(&LabName::default(), &progress()).await;
    let machine = machine::description(accelerator(&LabUp::default()).await?);
    write(out, files(&measured)?, &machine)?;
    done?;
    removed?;
    Ok(measured)
}

/// Tells what was measured: one JSON document, or a summary and where the files are.
pub fn tell<R: Serialize>(
    out: &Path,
    json: bool,
    rows: &R,
    summary: impl FnOnce() -> String,
) -> Result<ExitCode, Failure> {
    if json {
        return print_json(rows);
    }
    out!("{}", summary());
    outln!("written to {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Refuses a number of repetitions or of VMs that cannot be measured; `what` is the plural.
pub fn check_count<T>(what: &str, count: T, range: &RangeInclusive<T>, hint: &str) -> Result<(), Failure>
where
    T: PartialOrd + std::fmt::Display,
{
    if range.contains(&count) {
        return Ok(());
    }
    let message = format!(
        "{count} {what} are not between {} and {}",
        range.start(),
        range.end()
    );
    Err(Failure::new(Kind::Refused, message, hint))
}

/// Refuses a batch that is larger than the cluster, or empty.
pub fn check_batches(batches: &[Together], vms: u16) -> Result<(), Failure> {
    let all = usize::from(vms);
    let mut batches = batches.iter().map(|batch| batch.of(all));
    match batches.find(|batch| !(1..=all).contains(batch)) {
        None => Ok(()),
        Some(batch) => Err(Failure::new(
            Kind::Refused,
            format!("a batch of {batch} is not between 1 and {vms}"),
            "k is at most the number of VMs",
        )),
    }
}

/// The directory is there.
pub fn prepare(out: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(out)
        .map_err(|error| Failure::other(format!("cannot create {}: {error}", out.display())))
}

/// Writes what was measured, with the machine's description; nothing where nothing was.
fn write(out: &Path, mut files: Vec<File>, machine: &str) -> Result<(), Failure> {
    if files.is_empty() {
        return Ok(());
    }
    files.push(("machine.txt".to_owned(), machine.as_bytes().to_vec()));
    for (name, content) in files {
        let path = out.join(name);
        std::fs::write(&path, content)
            .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

/// A drawing's two files.
pub fn drawn(name: &str, drawing: &impl Drawing) -> Result<[File; 2], Failure> {
    let png = drawing
        .png()
        .map_err(|error| Failure::other(format!("cannot draw {name}: {error}")))?;
    Ok([
        (format!("{name}.svg"), drawing.svg().into_bytes()),
        (format!("{name}.png"), png),
    ])
}

/// Does a part of a measurement, unless a Ctrl-C comes, or has come since the part before: one
/// listener for all of it, for between two parts nobody waits.
pub async fn unless_interrupted<T, E: Into<Failure>>(
    ctrl_c: &mut Interrupts,
    part: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = ctrl_c.heard() => Err(interrupted()),
        done = part => done.map_err(Into::into),
    }
}

/// A move ends with its lab: there is nothing to watch again.
fn interrupted() -> Failure {
    Failure::new(
        Kind::Detached,
        "interrupted: the measurement and its lab are ended".to_owned(),
        "with --out, what was measured by then is written",
    )
}

/// Moves the lab's cluster and waits for the end.
pub async fn move_once(
    ctrl_c: &mut Interrupts,
    client: &Client,
    from: &[&str],
    to: &[&str],
    batch: Option<Batches>,
) -> Result<MigrationReport, Failure> {
    let order = MoveOrder {
        from: from.iter().map(ToString::to_string).collect(),
        to: to.iter().map(ToString::to_string).collect(),
        batch: batch.and_then(Batches::at_most),
        adaptive: matches!(batch, Some(Batches::Auto { .. })),
        ..MoveOrder::default()
    };
    let cluster = cluster_name("lab")?;
    let migration = client.migrate(&cluster, &order).await?.migration;
    let followed = follow::follow(client, migration, true, ctrl_c).await;
    let report = followed.map_err(|failure| match failure.kind {
        Kind::Detached => interrupted(),
        _ => failure,
    })?;
    committed(report)
}

/// A measurement wants a commit; anything else is a failure.
pub fn committed(report: MigrationReport) -> Result<MigrationReport, Failure> {
    match report.outcome {
        Ending::Committed => Ok(report),
        other => Err(Failure::other(format!(
            "migration {} ended as {other:?}: {:?}",
            report.migration, report.trouble
        ))),
    }
}

/// Lost, duplicated, reordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

impl Account {
    /// Of frames, by the reports of the moves.
    pub fn of(reports: &[MigrationReport]) -> Self {
        let sum = |count: fn(&MigrationReport) -> u64| reports.iter().map(count).sum();
        Account {
            lost: sum(|report| report.frames.lost),
            duplicated: sum(|report| report.frames.duplicated),
            reordered: sum(|report| report.frames.reordered),
        }
    }

    /// Of messages, by the guests' accounts before and after, of those VMs that count.
    pub fn between(before: &Figures, after: &Figures, counts: impl Fn(&VmFigures) -> bool) -> Self {
        let difference = |of: fn(&VmFigures) -> u64| {
            let sum = |figures: &Figures| figures.vms.iter().filter(|row| counts(row)).map(of).sum::<u64>();
            sum(after).saturating_sub(sum(before))
        };
        Account {
            lost: difference(|vm| vm.lost),
            duplicated: difference(|vm| vm.duplicated),
            reordered: difference(|vm| vm.reordered),
        }
    }

    pub fn text(self) -> String {
        format!("{}/{}/{}", self.lost, self.duplicated, self.reordered)
    }
}

impl std::iter::Sum for Account {
    fn sum<I: Iterator<Item = Self>>(accounts: I) -> Self {
        accounts.fold(Account::default(), |sum, one| Account {
            lost: sum.lost + one.lost,
            duplicated: sum.duplicated + one.duplicated,
            reordered: sum.reordered + one.reordered,
        })
    }
}
