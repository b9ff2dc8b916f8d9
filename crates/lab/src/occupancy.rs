//! What the virtual network buffers hold through a move (§4.4, figure 9): the agents' traces,
//! aligned, averaged on a grid, drawn. Pure but for the strings.

use std::fmt::Write;

use transhume_model::VmName;

use crate::lines::{Line, Lines};

/// Distance of the grid's points.
pub const GRID_MS: f64 = 1.0;
/// The grid begins so long before the capture.
const BEFORE_MS: f64 = 20.0;
/// The grid ends here at the latest, however long a buffer took to close.
const GRID_POINTS_MAX: usize = 10_000;

/// One line of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// From when on, microseconds since 1970.
    pub at_us: u64,
    /// Bytes not passed on yet.
    pub waiting_bytes: u64,
    /// Bytes kept.
    pub kept_bytes: u64,
    /// Unicast frames so far: at the source captured, at the target delivered.
    pub frames: u64,
}

/// The traces of one VM's two buffers through one move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Which move, from 1.
    pub number: usize,
    /// The VM.
    pub vm: VmName,
    /// The source's buffer. It begins to be traced when it begins to capture.
    pub out: Vec<Sample>,
    /// The target's.
    pub into: Vec<Sample>,
}

/// What the buffers hold at one instant, on the average of VMs and moves, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// Since the capture.
    pub at_ms: f64,
    /// At the source, not sent yet.
    pub out_waiting: f64,
    /// At the source, kept.
    pub out_kept: f64,
    /// At the target, not delivered yet.
    pub in_waiting: f64,
    /// At the target, kept.
    pub in_kept: f64,
}

/// Reads the file of a trace, as an agent writes it; else the first line that is none of a trace.
pub fn parse(text: &str) -> Result<Vec<Sample>, String> {
    let sample = |line: &str| {
        let mut fields = line.split(',').map(str::parse::<u64>);
        let mut next = || fields.next()?.ok();
        let sample = Sample {
            at_us: next()?,
            waiting_bytes: next()?,
            kept_bytes: next()?,
            frames: next()?,
        };
        fields.next().is_none().then_some(sample)
    };
    let read = |line: &str| sample(line).ok_or_else(|| line.to_owned());
    text.lines().skip(1).map(read).collect()
}

impl Passage {
    fn captured_at_us(&self) -> Option<u64> {
        Some(self.out.first()?.at_us)
    }

    fn since_capture_ms(&self, sample: &Sample) -> f64 {
        let capture = self.captured_at_us().unwrap_or(sample.at_us);
        (i128::from(sample.at_us) - i128::from(capture)) as f64 / 1e3
    }

    fn end_ms(&self) -> f64 {
        let last = [&self.out, &self.into]
            .into_iter()
            .filter_map(|trace| trace.last());
        last.map(|sample| self.since_capture_ms(sample))
            .fold(0.0, f64::max)
    }

    /// What a buffer held then: what its last sample before says, nothing before the first.
    fn held(&self, trace: &[Sample], at_ms: f64) -> (u64, u64) {
        let later = trace.partition_point(|sample| self.since_capture_ms(sample) <= at_ms);
        match later.checked_sub(1).and_then(|place| trace.get(place)) {
            Some(sample) => (sample.waiting_bytes, sample.kept_bytes),
            None => (0, 0),
        }
    }
}

/// The average of all passages, each aligned at its own capture; what a buffer holds last it holds
/// on. Passages whose source captured nothing are left out.
pub fn average(passages: &[Passage]) -> Vec<Held> {
    let passages: Vec<&Passage> = passages
        .iter()
        .filter(|passage| !passage.out.is_empty())
        .collect();
    let Some(end_ms) = passages.iter().map(|passage| passage.end_ms()).reduce(f64::max) else {
        return Vec::new();
    };
    let points = (((end_ms + BEFORE_MS) / GRID_MS).ceil() as usize + 1).min(GRID_POINTS_MAX);
    let mean = |sum: u64| sum as f64 / passages.len() as f64;
    let held = |point: usize| {
        let at_ms = point as f64 * GRID_MS - BEFORE_MS;
        let mut sums = [0; 4];
        for passage in &passages {
            let (out_waiting, out_kept) = passage.held(&passage.out, at_ms);
            let (in_waiting, in_kept) = passage.held(&passage.into, at_ms);
            for (sum, held) in sums.iter_mut().zip([out_waiting, out_kept, in_waiting, in_kept]) {
                *sum += held;
            }
        }
        let [out_waiting, out_kept, in_waiting, in_kept] = sums.map(mean);
        Held {
            at_ms,
            out_waiting,
            out_kept,
            in_waiting,
            in_kept,
        }
    };
    (0..points).map(held).collect()
}

/// The averages, one line per point of the grid, with a header; bytes.
pub fn csv(held: &[Held]) -> String {
    let mut text = "ms,out_waiting,out_kept,in_waiting,in_kept\n".to_owned();
    for point in held {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:.0},{:.1},{:.1},{:.1},{:.1}",
            point.at_ms, point.out_waiting, point.out_kept, point.in_waiting, point.in_kept
        );
    }
    text
}

/// Every sample as it was taken, with a header.
pub fn samples_csv(passages: &[Passage]) -> String {
    let mut text = "move,vm,side,ms,waiting_bytes,kept_bytes,frames\n".to_owned();
    for passage in passages {
        for (side, trace) in [("out", &passage.out), ("in", &passage.into)] {
            for sample in trace {
                // Writing to a string does not fail.
                let _ = writeln!(
                    text,
                    "{},{},{side},{:.3},{},{},{}",
                    passage.number,
                    passage.vm,
                    passage.since_capture_ms(sample),
                    sample.waiting_bytes,
                    sample.kept_bytes,
                    sample.frames
                );
            }
        }
    }
    text
}

/// The drawing: of the source what it keeps, for it passes on at once what it reads; of the target
/// what waits for its guest.
pub fn lines(held: &[Held]) -> Lines {
    let line = |label: &str, color, of: fn(&Held) -> f64| Line {
        label: label.to_owned(),
        color,
        dashed: false,
        path: held
            .iter()
            .map(|point| (point.at_ms, of(point) / 1024.0))
            .collect(),
        points: Vec::new(),
    };
    Lines {
        title: "Virtual network buffers through a move".to_owned(),
        x_label: "time since the capture, ms".to_owned(),
        y_label: "in the buffer of a VM, KiB".to_owned(),
        lines: vec![
            line("out: kept at the source", "#b0413e", |point| point.out_kept),
            line("in: waiting at the target", "#4878a8", |point| point.in_waiting),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_us: u64, waiting_bytes: u64) -> Sample {
        Sample {
            at_us,
            waiting_bytes,
            kept_bytes: 0,
            frames: 0,
        }
    }

    fn passage(out: &[Sample], into: &[Sample]) -> Passage {
        Passage {
            number: 1,
            vm: "vm1".parse().unwrap(),
            out: out.to_vec(),
            into: into.to_vec(),
        }
    }

    fn at(held: &[Held], ms: f64) -> Held {
        *held.iter().find(|point| point.at_ms == ms).unwrap()
    }

    #[test]
    fn a_trace_is_read_and_what_is_none_is_named() {
        let text = "at_us,waiting_bytes,kept_bytes,frames\n7,1,2,3\n";
        let read = parse(text).unwrap();
        assert_eq!((read[0].at_us, read[0].waiting_bytes), (7, 1));
        assert_eq!((read[0].kept_bytes, read[0].frames), (2, 3));
        for wrong in ["7,1,2", "7,1,2,3,4", "7,1,2,x"] {
            assert_eq!(parse(&format!("{text}{wrong}\n")), Err(wrong.to_owned()));
        }
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn each_vm_is_aligned_at_its_own_capture() {
        let late = 5_000_000;
        let held = average(&[
            passage(&[sample(1_000, 100), sample(4_000, 0)], &[sample(500, 0)]),
            passage(
                &[sample(late, 300), sample(late + 10_000, 0)],
                &[sample(late + 2_000, 50)],
            ),
        ]);
        assert_eq!(held[0].at_ms, -BEFORE_MS);
        assert_eq!(at(&held, -1.0).out_waiting, 0.0, "nothing before the capture");
        assert_eq!(at(&held, 0.0).out_waiting, 200.0);
        assert_eq!(
            at(&held, 3.0).out_waiting,
            150.0,
            "a sample counts from its instant on"
        );
        assert_eq!(at(&held, 10.0).out_waiting, 0.0);
        assert_eq!(
            (at(&held, 1.0).in_waiting, at(&held, 2.0).in_waiting),
            (0.0, 25.0)
        );
        assert_eq!(held[held.len() - 1].at_ms, 10.0, "it ends with the last change");
    }

    #[test]
    fn the_grid_is_bounded_and_there_is_none_of_nothing() {
        let hours = 3_600_000_000;
        let held = average(&[passage(&[sample(0, 1), sample(hours, 0)], &[])]);
        assert_eq!(held.len(), GRID_POINTS_MAX);
        assert_eq!(average(&[passage(&[], &[sample(1, 1)])]), []);
    }

    #[test]
    fn the_tables_have_the_averages_and_every_sample() {
        let passages = [passage(&[sample(1_000, 64)], &[sample(500, 32)])];
        let averages = csv(&average(&passages));
        assert_eq!(averages.lines().last(), Some("0,64.0,0.0,32.0,0.0"));
        let samples: Vec<String> = samples_csv(&passages).lines().map(str::to_owned).collect();
        assert_eq!(samples[1], "1,vm1,out,0.000,64,0,0");
        assert_eq!(samples[2], "1,vm1,in,-0.500,32,0,0");
    }
}
