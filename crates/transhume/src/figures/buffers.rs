//! Figure 9: what the virtual network buffers hold through a move, as they say themselves.

use std::path::Path;

use transhume_lab::occupancy::{Passage, Sample, average, csv, lines, parse, samples_csv};
use transhume_lab::{LabName, LabUp, Layout, down, up};
use transhume_protocol::report::VmReport;

use super::loss::{WARM_UP, options};
use crate::args::{Batches, FiguresArgs};
use crate::client;
use crate::failure::Failure;
use crate::follow::Interrupts;
use crate::measurement::{File, drawn, move_once};

const REPETITIONS_DEFAULT: usize = 5;
const MTU: u16 = 1500;
/// The only NIC of a lab's VM.
const NIC: usize = 0;

/// The whole cluster back and forth, under the load of figures 6 and 7.
pub async fn measure(
    ctrl_c: &mut Interrupts,
    args: &FiguresArgs,
    passages: &mut Vec<Passage>,
) -> Result<(), Failure> {
    let traces = Layout::new(&LabName::default()).dir().join("buffer-traces");
    let options = LabUp {
        buffer_traces: Some(traces.clone()),
        ..options(args.vms, args.rate(), MTU)
    };
    up(&options).await?;
    let client = client::of_lab();
    tokio::time::sleep(WARM_UP).await;
    let reps = args.reps.unwrap_or(REPETITIONS_DEFAULT);
    let sides = [["h1", "h2"], ["h3", "h4"]];
    for number in 1..=reps {
        eprintln!("buffers: move {number} of {reps}");
        let (from, to) = (&sides[(number + 1) % 2], &sides[number % 2]);
        let report = move_once(
            ctrl_c,
            &client,
            from,
            to,
            args.batch
                .first()
                .map(|batch| Batches::Of(batch.of(usize::from(args.vms)))),
        )
        .await?;
        for vm in &report.vms {
            passages.push(passage(&traces, number, vm)?);
        }
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

fn passage(traces: &Path, number: usize, vm: &VmReport) -> Result<Passage, Failure> {
    let take = |host: &dyn std::fmt::Display, side: &str| {
        take(&traces.join(format!("{host}-{}-{side}-{NIC}.csv", vm.id)))
    };
    Ok(Passage {
        number,
        vm: vm.id.clone(),
        out: take(&vm.source, "source")?,
        into: take(&vm.target, "target")?,
    })
}

/// Reads a trace and removes it, so that no later move can be thought to have written it.
fn take(path: &Path) -> Result<Vec<Sample>, Failure> {
    let failed = |what: &str, why: &dyn std::fmt::Display| {
        Failure::other(format!("cannot {what} the trace {}: {why}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed("read", &error))?;
    std::fs::remove_file(path).map_err(|error| failed("remove", &error))?;
    parse(&text).map_err(|line| failed("understand", &format!("`{line}` is no sample")))
}

/// The averages, the picture, and every sample.
pub fn files(passages: &[Passage]) -> Result<Vec<File>, Failure> {
    let held = average(passages);
    if held.is_empty() {
        return Ok(Vec::new());
    }
    let lines = lines(&held);
    let mut files = vec![
        ("figure-9.csv".to_owned(), csv(&held).into_bytes()),
        (
            "figure-9-samples.csv".to_owned(),
            samples_csv(passages).into_bytes(),
        ),
    ];
    files.extend(drawn("figure-9", &lines)?);
    Ok(files)
}
