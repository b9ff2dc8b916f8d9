//! What a buffer held over time: how it fills and empties through a move (§4.4, figure 9). Off
//! unless its configuration asks for it.

use std::fmt::Write;

use transhume_model::WallMicros;

use crate::limits::TRACE_SAMPLES_MAX;

/// What the buffer held from one instant on, until the next sample's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// From when on, by this host's clock.
    pub at: WallMicros,
    /// Bytes not passed on yet: at the source not sent, at the target not delivered.
    pub waiting_bytes: u64,
    /// Bytes kept, the frames that were passed on included.
    pub kept_bytes: u64,
    /// Unicast frames so far: at the source captured, at the target delivered.
    pub frames: u64,
}

impl Sample {
    fn differs(&self, other: &Sample) -> bool {
        (self.waiting_bytes, self.kept_bytes, self.frames)
            != (other.waiting_bytes, other.kept_bytes, other.frames)
    }
}

/// Samples in the order of time: one for each change, up to [`TRACE_SAMPLES_MAX`]. Where there are
/// more, every second one goes, and of what follows only every second change is taken, then every
/// fourth: what stays was true, but a peak between two samples may be missing. First and last are
/// always there.
#[derive(Debug)]
pub(crate) struct Trace {
    samples: Vec<Sample>,
    /// The last change, where it is not among the samples.
    last: Option<Sample>,
    /// Every so many changes one is taken.
    every: usize,
    /// Changes since one was taken.
    passed: usize,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            last: None,
            every: 1,
            passed: 0,
        }
    }
}

impl Trace {
    /// What the buffer holds now; nothing where that is what it held.
    pub(crate) fn add(&mut self, sample: Sample) {
        if self.newest().is_some_and(|newest| !newest.differs(&sample)) {
            return;
        }
        self.passed += 1;
        if !self.samples.is_empty() && self.passed < self.every {
            self.last = Some(sample);
            return;
        }
        if self.samples.len() == TRACE_SAMPLES_MAX {
            self.thin();
        }
        self.samples.push(sample);
        (self.last, self.passed) = (None, 0);
    }

    fn newest(&self) -> Option<&Sample> {
        self.last.as_ref().or(self.samples.last())
    }

    fn thin(&mut self) {
        let mut place = 0;
        self.samples.retain(|_| {
            place += 1;
            place % 2 == 1
        });
        self.every *= 2;
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.samples.iter().copied().chain(self.last).collect()
    }
}

/// As the file of a trace has them: a header, and a line for each sample.
pub fn trace_csv(samples: &[Sample]) -> String {
    let mut text = "at_us,waiting_bytes,kept_bytes,frames\n".to_owned();
    for Sample {
        at,
        waiting_bytes,
        kept_bytes,
        frames,
    } in samples
    {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{},{waiting_bytes},{kept_bytes},{frames}", at.0);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, waiting_bytes: u64) -> Sample {
        Sample {
            at: WallMicros(at),
            waiting_bytes,
            kept_bytes: at,
            frames: 0,
        }
    }

    #[test]
    fn only_changes_are_taken() {
        let mut trace = Trace::default();
        for (at, waiting) in [(1, 0), (2, 7), (3, 7), (4, 0)] {
            trace.add(Sample {
                kept_bytes: 0,
                ..sample(at, waiting)
            });
        }
        let at: Vec<u64> = trace.samples().iter().map(|sample| sample.at.0).collect();
        assert_eq!(at, [1, 2, 4]);
    }

    #[test]
    fn a_long_trace_is_thinned_and_keeps_its_ends() {
        let mut trace = Trace::default();
        let count = 5 * TRACE_SAMPLES_MAX as u64 + 3;
        for at in 0..count {
            trace.add(sample(at, at));
            assert!(trace.samples.len() <= TRACE_SAMPLES_MAX);
        }
        let samples = trace.samples();
        assert!(samples.len() > TRACE_SAMPLES_MAX / 2);
        assert_eq!(samples[0].at.0, 0);
        assert_eq!(samples[samples.len() - 1].at.0, count - 1);
        assert!(samples.windows(2).all(|pair| pair[0].at < pair[1].at));
        assert!(samples.iter().all(|sample| sample.waiting_bytes == sample.at.0));
    }

    #[test]
    fn the_file_has_a_line_for_each_sample() {
        let text = trace_csv(&[sample(5, 3)]);
        assert_eq!(text, "at_us,waiting_bytes,kept_bytes,frames\n5,3,5,0\n");
    }
}
