//! `transhume lab neighbours`: what those who stay notice of a move on their links, on a shared
//! circuit beside separate ones and an undivided one. See docs/design/neighbours.md.

mod measured;
mod moving;
mod scene;
mod tables;

use std::process::ExitCode;

use transhume_lab::Circuits;
use transhume_model::BitRate;

use crate::args::{NeighboursArgs, Part};
use crate::failure::{Failure, Kind};
use crate::follow::Interrupts;
use crate::measurement::{self, File, drawn, unless_interrupted};
use measured::Row;
use scene::Scene;
use tables::{boxes, csv, summary};

const REPETITIONS: std::ops::RangeInclusive<usize> = 1..=200;
const VMS: std::ops::RangeInclusive<u16> = 1..=16;
/// Moves of each part in one lab, before another form has its turn.
const BLOCK: usize = 4;
/// Repetitions of the parts that have no pairs: a median.
const UNPAIRED_MAX: usize = 5;

/// What is asked for, checked.
struct Wanted {
    parts: Vec<Part>,
    forms: Vec<Circuits>,
    link: BitRate,
    reps: usize,
    vms: u16,
    random_mib: u64,
}

pub async fn neighbours(args: NeighboursArgs) -> Result<ExitCode, Failure> {
    let wanted = wanted(&args)?;
    let measure = async |ctrl_c: &mut Interrupts, rows: &mut Vec<Row>| measure(ctrl_c, &wanted, rows).await;
    let rows = measurement::conduct(&args.out, measure, |rows| files(rows)).await?;
    measurement::tell(&args.out, args.json, &rows, || summary(&rows))
}

fn wanted(args: &NeighboursArgs) -> Result<Wanted, Failure> {
    measurement::check_count(
        "repetitions",
        args.reps,
        &REPETITIONS,
        "20 pairs give an interval",
    )?;
    measurement::check_count("VMs", args.vms, &VMS, "2 fit two cores")?;
    let Some(link) = args.link.0.and_then(BitRate::from_bits_per_s) else {
        return Err(Failure::new(
            Kind::Refused,
            "a link without a limit is not shared".to_owned(),
            "--link 100mbit gives a move of some seconds",
        ));
    };
    let parts = match args.parts.is_empty() {
        true => Part::ALL.to_vec(),
        false => args.parts.clone(),
    };
    Ok(Wanted {
        parts,
        forms: args.circuits.iter().copied().map(Circuits::from).collect(),
        link,
        reps: args.reps,
        vms: args.vms,
        random_mib: args.random_mib,
    })
}

impl Part {
    /// How often it is measured, and in which forms: without bands there is nothing to compare with
    /// what they allow.
    fn repetitions(self, form: Circuits, reps: usize) -> usize {
        match (self, form) {
            (Part::Rest | Part::Latency, _) => reps,
            (Part::Bulk, Circuits::Shared | Circuits::Undivided)
            | (Part::Alone, Circuits::Shared | Circuits::Separate)
            | (Part::Two, Circuits::Shared | Circuits::Separate) => reps.min(UNPAIRED_MAX),
            (Part::Bulk, Circuits::Separate) | (Part::Alone | Part::Two, Circuits::Undivided) => 0,
        }
    }
}

/// Every form in turn, a block at a time; the one that begins is another from block to block.
async fn measure(ctrl_c: &mut Interrupts, wanted: &Wanted, rows: &mut Vec<Row>) -> Result<(), Failure> {
    for (block, first) in (0..wanted.reps).step_by(BLOCK).enumerate() {
        for turn in 0..wanted.forms.len() {
            let form = wanted.forms[(block + turn) % wanted.forms.len()];
            let todo = todo(wanted, form, first);
            if todo.is_empty() {
                continue;
            }
            eprintln!("{form:?}, repetitions from {} of {}", first + 1, wanted.reps);
            let mut scene = Scene::up(wanted, form).await?;
            for (part, repetition) in todo {
                rows.push(unless_interrupted(ctrl_c, scene.measure(part, repetition)).await?);
            }
            scene.down().await?;
        }
    }
    Ok(())
}

/// What one lab has to do; two moves at once last, since they carry a stayer away.
fn todo(wanted: &Wanted, form: Circuits, first: usize) -> Vec<(Part, usize)> {
    let mut todo = Vec::new();
    for part in wanted.parts.iter().copied() {
        let end = part.repetitions(form, wanted.reps).min(first + BLOCK);
        // At rest nothing changes from one time to the next: once a lab.
        let end = if part == Part::Rest {
            end.min(first + 1)
        } else {
            end
        };
        todo.extend((first..end).map(|number| (part, number + 1)));
    }
    todo.sort_by_key(|(part, _)| *part == Part::Two);
    todo
}

fn files(rows: &[Row]) -> Result<Vec<File>, Failure> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut files = vec![
        ("neighbours.csv".to_owned(), csv(rows).into_bytes()),
        ("neighbours.txt".to_owned(), summary(rows).into_bytes()),
    ];
    let boxes = boxes(rows);
    if !boxes.groups.is_empty() {
        files.extend(drawn("neighbours", &boxes)?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_has_a_block_of_each_part_and_the_stayers_leave_last() {
        let wanted = Wanted {
            parts: vec![Part::Two, Part::Rest, Part::Latency],
            forms: vec![Circuits::Shared],
            link: BitRate::from_bits_per_s(100_000_000).unwrap(),
            reps: 10,
            vms: 2,
            random_mib: 48,
        };
        let of = |form, first| -> Vec<(Part, usize)> { todo(&wanted, form, first) };
        let two = |numbers: &[usize]| numbers.iter().map(|n| (Part::Two, *n)).collect::<Vec<_>>();
        let mut first = vec![(Part::Rest, 1)];
        first.extend((1..=4).map(|number| (Part::Latency, number)));
        first.extend(two(&[1, 2, 3, 4]));
        assert_eq!(of(Circuits::Shared, 0), first);
        assert_eq!(of(Circuits::Shared, 4).last(), two(&[5]).last());
        assert_eq!(
            of(Circuits::Undivided, 8),
            [(Part::Rest, 9), (Part::Latency, 9), (Part::Latency, 10)]
        );
    }
}
