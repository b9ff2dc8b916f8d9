//! What a move costs, whoever makes it: bytes that hosts sent in the VMCT circuit, and processor
//! time of the machine.

use std::fs;
use std::time::Duration;

use transhume_model::Band;

use crate::fabric::circuit;
use crate::state::Lab;
use crate::{LabError, Namespace};

/// One reading; the difference of two is what lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// Bytes with all headers, both directions.
    pub vmct_bytes: u64,
    /// Of all processes and the kernel.
    pub busy: Duration,
}

impl Meter {
    /// Reads the lab's links and the machine's processors.
    pub fn read(lab: &Lab) -> Result<Self, LabError> {
        let read = |path: &'static str| {
            fs::read_to_string(path).map_err(|source| LabError::File {
                action: "read",
                path: path.into(),
                source,
            })
        };
        let fabric = Namespace::named(lab.layout.fabric_namespace());
        let devices = fabric.run(|| read("/proc/thread-self/net/dev"))?;
        let ticks = rustix::param::clock_ticks_per_second();
        Ok(Self {
            vmct_bytes: received(&devices, &format!("{}-", circuit(Band::Vmct))),
            busy: Duration::from_millis(busy_ticks(&read("/proc/stat")?) * 1000 / ticks.max(1)),
        })
    }

    /// What happened since an earlier reading.
    pub fn since(&self, earlier: &Meter) -> Self {
        Self {
            vmct_bytes: self.vmct_bytes.saturating_sub(earlier.vmct_bytes),
            busy: self.busy.saturating_sub(earlier.busy),
        }
    }
}

/// Bytes received by all devices of this prefix (proc(5), net/dev).
fn received(devices: &str, prefix: &str) -> u64 {
    let of = |line: &str| {
        let (name, figures) = line.trim().split_once(':')?;
        name.starts_with(prefix)
            .then(|| figures.split_ascii_whitespace().next()?.parse::<u64>().ok())?
    };
    devices.lines().filter_map(of).sum()
}

/// user, nice, system, irq, softirq of all processors (proc(5), stat).
fn busy_ticks(stat: &str) -> u64 {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields = all.into_iter().flat_map(str::split_ascii_whitespace).enumerate();
    let busy = fields.filter(|(at, _)| matches!(at, 0..=2 | 5 | 6));
    busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_circuits_devices_count() {
        let devices = "Inter-| Receive\n face |bytes packets\n    lo: 5 1 0\nvmct-h1: 100 2 0 0\n vmct-h2:20 1 0\n ct-h1: 7 1\n";
        assert_eq!(received(devices, "vmct-"), 120);
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        assert_eq!(busy_ticks("cpu  10 20 30 4000 500 6 7 0 0 0\ncpu0 1 1 1 1\n"), 73);
    }
}
