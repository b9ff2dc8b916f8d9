//! `transhume lab figures`: the paper's figures drawn anew, each in labs of its own. See
//! docs/design/figures.md.

mod buffers;
mod growth;
mod loss;

use std::ops::RangeInclusive;
use std::process::ExitCode;

use transhume_lab::growth::ClusterMove;
use transhume_lab::occupancy::Passage;
use transhume_lab::plot::Row;
use transhume_lab::stock::accelerator;
use transhume_lab::{LabName, LabUp, down};

use crate::args::FiguresArgs;
use crate::failure::{Failure, Kind};
use crate::follow::Interrupts;
use crate::labs::{progress, refuse_lab};
use crate::machine;
use crate::measurement::{self, File};
use crate::moves::print_json;
pub use loss::stock;

const REPETITIONS: RangeInclusive<usize> = 1..=200;
const LOSS_AND_BLACKOUT: [u8; 2] = [6, 7];
const GROWTH: u8 = 8;
const BUFFERS: u8 = 9;

/// What was measured so far.
#[derive(Debug, Default)]
struct Measured {
    rows: Vec<Row>,
    moves: Vec<ClusterMove>,
    passages: Vec<Passage>,
}

pub async fn figures(args: FiguresArgs) -> Result<ExitCode, Failure> {
    let wanted = wanted(&args)?;
    refuse_lab("measurement").await?;
    measurement::prepare(&args.out)?;
    let mut measured = Measured::default();
    let mut ctrl_c = Interrupts::listen()?;
    let done = measure(&mut ctrl_c, &args, &wanted, &mut measured).await;
    // Nothing stays, whatever happened; what was measured is written.
    let removed = down(&LabName::default(), &progress()).await;
    let machine = machine::description(accelerator(&LabUp::default()).await?);
    measurement::write(&args.out, files(&wanted, &measured)?, &machine)?;
    done?;
    removed?;
    if args.json {
        return print_json(&measured.rows);
    }
    if !measured.rows.is_empty() {
        print!("{}", loss::summary(&measured.rows));
    }
    if !measured.moves.is_empty() {
        print!("{}", growth::summary(&measured.moves));
    }
    println!("written to {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Refuses what cannot be measured.
fn wanted(args: &FiguresArgs) -> Result<Vec<u8>, Failure> {
    if args.reps.is_some_and(|reps| !REPETITIONS.contains(&reps)) {
        return refused(
            format!("{} repetitions are not between 1 and 200", args.reps.unwrap_or(0)),
            "20 give a good picture of figures 6 and 7, 3 of figure 8",
        );
    }
    loss::check(args)?;
    growth::check(args)?;
    let wanted = match args.figures.is_empty() {
        true => LOSS_AND_BLACKOUT.to_vec(),
        false => args.figures.clone(),
    };
    if let Some(other) = wanted.iter().find(|number| !(6..=9).contains(*number)) {
        return refused(
            format!("figure {other} is not drawn"),
            "6 is message loss, 7 blackout, 8 the time to move a cluster, 9 what its buffers hold",
        );
    }
    if args.json && wanted.iter().any(|number| !LOSS_AND_BLACKOUT.contains(number)) {
        return refused(
            "there is one JSON document, of figures 6 and 7".to_owned(),
            "the CSV of figures 8 and 9 has all that was measured",
        );
    }
    Ok(wanted)
}

fn refused<T>(message: String, hint: &str) -> Result<T, Failure> {
    Err(Failure::new(Kind::Refused, message, hint))
}

async fn measure(
    ctrl_c: &mut Interrupts,
    args: &FiguresArgs,
    wanted: &[u8],
    measured: &mut Measured,
) -> Result<(), Failure> {
    if LOSS_AND_BLACKOUT.iter().any(|number| wanted.contains(number)) {
        loss::measure(ctrl_c, args, &mut measured.rows).await?;
    }
    if wanted.contains(&GROWTH) {
        growth::measure(ctrl_c, args, &mut measured.moves).await?;
    }
    if wanted.contains(&BUFFERS) {
        buffers::measure(ctrl_c, args, &mut measured.passages).await?;
    }
    Ok(())
}

fn files(wanted: &[u8], measured: &Measured) -> Result<Vec<File>, Failure> {
    let mut files = loss::files(&measured.rows, wanted)?;
    files.extend(growth::files(&measured.moves)?);
    files.extend(buffers::files(&measured.passages)?);
    Ok(files)
}
