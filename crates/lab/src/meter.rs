//! What a move costs, whoever makes it: bytes of each band in the fabric, and processor time of the
//! machine.

use std::fs;
use std::io;
use std::time::Duration;

use transhume_bands::class_of;
use transhume_model::Band;
use transhume_netcfg::Netlink;

use crate::layout::{Circuit, Circuits};
use crate::state::Lab;
use crate::{LabError, Namespace};

/// One reading; the difference of two is what lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// In the order of [`Band::ALL`]; `None` where nothing tells them apart.
    bytes: Option<[u64; Band::ALL.len()]>,
    /// Of all processes and the kernel.
    pub busy: Duration,
}

impl Meter {
    /// Reads the lab's links and the machine's processors.
    pub fn read(lab: &Lab) -> Result<Self, LabError> {
        let ticks = rustix::param::clock_ticks_per_second();
        Ok(Self {
            bytes: match lab.state.circuits {
                Circuits::Separate => Some(bytes_of_links(lab)?),
                Circuits::Shared => Some(bytes_of_classes(lab)?),
                Circuits::Undivided => None,
            },
            busy: Duration::from_millis(busy_ticks(&read("/proc/stat")?) * 1000 / ticks.max(1)),
        })
    }

    /// Bytes of a band with all headers, both directions: what its links took in; where it shares
    /// them, what its class gave out, which counts a broadcast at each port.
    pub fn bytes(&self, band: Band) -> Result<u64, LabError> {
        let mut places = Band::ALL.iter().zip(self.bytes.into_iter().flatten());
        let found = places.find(|(other, _)| **other == band);
        found.map(|(_, bytes)| bytes).ok_or(LabError::NotTold { band })
    }

    /// What happened since an earlier reading.
    pub fn since(&self, earlier: &Meter) -> Self {
        let difference = |(now, before): ([u64; 3], [u64; 3])| {
            std::array::from_fn(|place| now[place].saturating_sub(before[place]))
        };
        Self {
            bytes: self.bytes.zip(earlier.bytes).map(difference),
            busy: self.busy.saturating_sub(earlier.busy),
        }
    }
}

fn read(path: &'static str) -> Result<String, LabError> {
    fs::read_to_string(path).map_err(|source| LabError::File {
        action: "read",
        path: path.into(),
        source,
    })
}

fn bytes_of_links(lab: &Lab) -> Result<[u64; 3], LabError> {
    let fabric = Namespace::named(lab.layout.fabric_namespace());
    let devices = fabric.run(|| read("/proc/thread-self/net/dev"))?;
    Ok(Band::ALL.map(|band| received(&devices, &Circuit::Of(band).fabric_device(""))))
}

/// Of all ports: towards hosts, storage and coordinator.
fn bytes_of_classes(lab: &Lab) -> Result<[u64; 3], LabError> {
    let name = lab.layout.fabric_namespace();
    Namespace::named(&name).run(|| {
        let counted = || -> io::Result<[u64; 3]> {
            let mut netlink = Netlink::open()?;
            let mut sums = [0; 3];
            for link in netlink.all_links()? {
                for count in netlink.class_counts(link.index)? {
                    for (sum, band) in sums.iter_mut().zip(Band::ALL) {
                        *sum += if count.minor == class_of(band) {
                            count.bytes
                        } else {
                            0
                        };
                    }
                }
            }
            Ok(sums)
        };
        counted().map_err(|source| LabError::Namespace {
            name: name.clone(),
            action: "count the bands of",
            source,
        })
    })
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
