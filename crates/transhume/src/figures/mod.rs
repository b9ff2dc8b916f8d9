//! `transhume lab figures`: the paper's figures drawn anew, each in labs of its own. See
//! docs/design/figures.md.

mod buffers;
mod growth;
mod loss;

use std::ops::RangeInclusive;
use std::process::ExitCode;

use transhume_lab::growth::ClusterMove;
use transhume_lab::occupancy::Passage;

use crate::args::FiguresArgs;
use crate::failure::{Failure, Kind};
use crate::follow::Interrupts;
use crate::measurement::{self, File};
use loss::Loss;
pub use loss::stock;

const REPETITIONS: RangeInclusive<usize> = 1..=200;
const LOSS_AND_BLACKOUT: [u8; 2] = [6, 7];
const GROWTH: u8 = 8;
const BUFFERS: u8 = 9;

/// What was measured so far.
#[derive(Debug, Default)]
struct Measured {
    loss: Loss,
    moves: Vec<ClusterMove>,
    passages: Vec<Passage>,
}

pub async fn figures(args: FiguresArgs) -> Result<ExitCode, Failure> {
    let wanted = wanted(&args)?;
    let measure = async |ctrl_c: &mut Interrupts, measured: &mut Measured| {
        measure(ctrl_c, &args, &wanted, measured).await
    };
    let measured = measurement::conduct(&args.out, measure, |measured| files(&wanted, measured)).await?;
    measurement::tell(&args.out, args.json, &measured.loss.rows, || summary(&measured))
}

fn summary(measured: &Measured) -> String {
    let mut text = String::new();
    if !measured.loss.rows.is_empty() {
        text += &loss::summary(&measured.loss);
    }
    if !measured.moves.is_empty() {
        text += &growth::summary(&measured.moves);
    }
    text
}

/// Refuses what cannot be measured.
fn wanted(args: &FiguresArgs) -> Result<Vec<u8>, Failure> {
    if let Some(reps) = args.reps {
        let hint = "20 give a good picture of figures 6 and 7, 3 of figure 8";
        measurement::check_count("repetitions", reps, &REPETITIONS, hint)?;
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
        loss::measure(ctrl_c, args, &mut measured.loss).await?;
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
    let mut files = loss::files(&measured.loss, wanted)?;
    files.extend(growth::files(&measured.moves)?);
    files.extend(buffers::files(&measured.passages)?);
    Ok(files)
}
