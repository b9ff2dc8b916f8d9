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
use crate::{LabError, Namespace, process};

/// How the records of agents begin.
const AGENT: &str = "agent ";

/// One reading; the difference of two is what lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// In the order of [`Band::ALL`]; `None` where nothing tells them apart.
    bytes: Option<[u64; Band::ALL.len()]>,
    /// Of all processes and the kernel.
    pub busy: Duration,
    /// Of the agents alone.
    pub agents: Duration,
}

impl Meter {
    /// Reads the lab's links and the machine's processors.
    pub fn read(lab: &Lab) -> Result<Self, LabError> {
        let ticks = rustix::param::clock_ticks_per_second();
        let agents = lab
            .state
            .processes
            .iter()
            .filter(|part| part.what.starts_with(AGENT));
        let of_agents: u64 = agents.map(|part| process::used_ticks(part.pid)).sum();
        Ok(Self {
            bytes: match lab.state.circuits {
                Circuits::Separate => Some(bytes_of_links(lab)?),
                Circuits::Shared => Some(bytes_of_classes(lab)?),
                Circuits::Undivided => None,
            },
            busy: Duration::from_millis(busy_ticks(&read("/proc/stat")?) * 1000 / ticks.max(1)),
            agents: Duration::from_millis(of_agents * 1000 / ticks.max(1)),
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
            agents: self.agents.saturating_sub(earlier.agents),
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
    Ok(Band::ALL.map(|band| {
        let prefix = Circuit::Of(band).fabric_device("");
        device_bytes(&devices, Direction::Received, |name| name.starts_with(&prefix))
    }))
}

/// Of all ports: towards hosts, storage and coordinator.
fn bytes_of_classes(lab: &Lab) -> Result<[u64; 3], LabError> {
    let name = lab.layout.fabric_namespace();
    Namespace::named(&name).run(|| {
        let counted = || -> io::Result<[u64; 3]> {
            let mut netlink = Netlink::open()?;
            let mut sums = [0; 3];
            for link in netlink.all_links()? {
                let own = class_bytes(&mut netlink, link.index)?;
                sums.iter_mut().zip(own).for_each(|(sum, bytes)| *sum += bytes);
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

/// A figure of proc(5)'s net/dev, by its place in a line.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Direction {
    Received = 0,
    Sent = 8,
}

/// Bytes of all devices that are meant.
pub(crate) fn device_bytes(devices: &str, direction: Direction, meant: impl Fn(&str) -> bool) -> u64 {
    let of = |line: &str| {
        let (name, figures) = line.trim().split_once(':')?;
        let mut figures = figures.split_ascii_whitespace();
        meant(name).then(|| figures.nth(direction as usize)?.parse::<u64>().ok())?
    };
    devices.lines().filter_map(of).sum()
}

/// Bytes that a link's class of each band sent, in the order of [`Band::ALL`].
pub(crate) fn class_bytes(netlink: &mut Netlink, link: u32) -> io::Result<[u64; Band::ALL.len()]> {
    let counts = netlink.class_counts(link)?;
    let sent = |band| {
        let own = counts.iter().filter(|count| count.minor == class_of(band));
        own.map(|count| count.bytes).sum()
    };
    Ok(Band::ALL.map(sent))
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
    fn only_the_devices_that_are_meant_count_in_the_direction_asked_for() {
        let devices = "Inter-| Receive\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 6 1\n\
                       vmct-h1: 100 2 0 0 0 0 0 0 77 3\n vmct-h2:20 1 0 0 0 0 0 0 3 1\n ct-h1: 7 1\n";
        let bytes =
            |direction, prefix: &str| device_bytes(devices, direction, |name| name.starts_with(prefix));
        assert_eq!(bytes(Direction::Received, "vmct-"), 120);
        assert_eq!(bytes(Direction::Sent, "vmct-h1"), 77);
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        assert_eq!(busy_ticks("cpu  10 20 30 4000 500 6 7 0 0 0\ncpu0 1 1 1 1\n"), 73);
    }
}
