//! What a VM's parts leave for whoever scrapes the agent: read without waiting for any act.

use std::sync::{Arc, Mutex};

use transhume_netbuf::{Figures, Meter};
use transhume_protocol::message::PageProgress;

use crate::context::locked;
use crate::pace::Pace;

/// Of one VM. Its locks are held for a copy and no longer.
#[derive(Debug, Default)]
pub(crate) struct VmMeter {
    /// Shared with the page stream.
    pace: Arc<Pace>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    pages: Option<PageProgress>,
    source: Vec<Arc<Meter>>,
    target: Vec<Arc<Meter>>,
}

/// As it was read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct VmFigures {
    /// While it leaves.
    pub(crate) pages: Option<PageProgress>,
    /// Rate that its page stream is held to, bytes per second.
    pub(crate) rate: Option<u64>,
    /// Its buffers of the move under way or of the last one, all NICs together.
    pub(crate) source: Option<Figures>,
    pub(crate) target: Option<Figures>,
}

impl VmMeter {
    pub(super) fn new(pace: Arc<Pace>) -> Self {
        Self {
            pace,
            parts: Mutex::default(),
        }
    }

    /// A move that leaves begins: what was of the one before goes.
    pub(super) fn leaves(&self) {
        *locked(&self.parts) = Parts::default();
    }

    /// The page stream is this far.
    pub(super) fn pages(&self, pages: PageProgress) {
        locked(&self.parts).pages = Some(pages);
    }

    /// There is no page stream any more.
    pub(super) fn stays(&self) {
        locked(&self.parts).pages = None;
    }

    pub(super) fn source(&self, meters: Vec<Arc<Meter>>) {
        locked(&self.parts).source = meters;
    }

    pub(super) fn target(&self, meters: Vec<Arc<Meter>>) {
        locked(&self.parts).target = meters;
    }

    /// What there is now.
    pub(crate) fn read(&self) -> VmFigures {
        let parts = locked(&self.parts);
        VmFigures {
            pages: parts.pages,
            rate: self.pace.rate().filter(|_| parts.pages.is_some()),
            source: sum(&parts.source),
            target: sum(&parts.target),
        }
    }
}

fn sum(meters: &[Arc<Meter>]) -> Option<Figures> {
    let figures = meters.iter().map(|meter| meter.read());
    figures.reduce(|a, b| a + b)
}
