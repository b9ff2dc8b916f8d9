//! How a shared circuit is divided: at a host by its agent, in the fabric as a switch does it that
//! knows DSCP. Pure.

use std::net::Ipv4Addr;

use serde::Serialize;
use transhume_bands::{HANDLE, class_of, priority};
use transhume_model::{Band, BitRate};

use crate::layout::{self, Circuit};

/// What page streams carry: class selector 1, which switches take for bulk.
const DSCP: u8 = 8;
/// `tos` holds the DSCP in its upper six bits (RFC 2474).
const DSCP_MASK: u8 = 0xfc;
/// Between the root and the bands.
const WHOLE: u16 = 1;
/// The agent takes rates in whole kbit/s.
const KBIT: u64 = 1000;

/// What a band always gets, in hundredths; all of it is given out.
pub fn share(band: Band) -> u8 {
    match band {
        Band::Ct | Band::Vmct => 40,
        Band::Nast => 20,
    }
}

/// `[bands]` of an agent's configuration.
#[derive(Debug, Serialize)]
pub struct AgentBands {
    form: &'static str,
    interface: String,
    rate: Option<BitRate>,
    ct: Share,
    vmct: Vmct,
    nast: Nast,
}

#[derive(Debug, Serialize)]
struct Share {
    share: u8,
}

#[derive(Debug, Serialize)]
struct Vmct {
    share: u8,
    dscp: u8,
}

#[derive(Debug, Serialize)]
struct Nast {
    share: u8,
    own: Ipv4Addr,
    servers: [Ipv4Addr; 1],
}

/// What the agent of a host is told of its link.
pub fn of_agent(host: u16, bits_per_s: u64) -> AgentBands {
    AgentBands {
        form: "shared",
        interface: Circuit::Whole.host_device(),
        rate: BitRate::from_bits_per_s(bits_per_s / KBIT * KBIT),
        ct: Share {
            share: share(Band::Ct),
        },
        vmct: Vmct {
            share: share(Band::Vmct),
            dscp: DSCP,
        },
        nast: Nast {
            share: share(Band::Nast),
            own: layout::host_address(Band::Nast, host),
            servers: [layout::storage_address()],
        },
    }
}

/// What a class may send at once, and what may wait in it.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// For a class of this many bits per second.
    pub burst_bytes: fn(u64) -> u64,
    /// Bytes.
    pub queue_bytes: u64,
}

/// Lines for tc(8) that divide the fabric's end of a link: the whole of it, since this end is the
/// link.
pub fn of_port(device: &str, bits_per_s: u64, room: Room) -> Vec<String> {
    let class = |parent: &str, minor: u16, rate: u64, priority: u32| {
        let (burst, ceil_burst) = ((room.burst_bytes)(rate), (room.burst_bytes)(bits_per_s));
        format!(
            "class add dev {device} parent {parent} classid {HANDLE:x}:{minor:x} htb rate {rate}bit \
             ceil {bits_per_s}bit burst {burst} cburst {ceil_burst} prio {priority}"
        )
    };
    let mut lines = vec![
        format!(
            "qdisc add dev {device} root handle {HANDLE:x}: htb default {:x}",
            class_of(Band::Ct)
        ),
        class(&format!("{HANDLE:x}:"), WHOLE, bits_per_s, 0),
    ];
    for band in Band::ALL {
        let minor = class_of(band);
        let rate = bits_per_s / 100 * u64::from(share(band));
        lines.push(class(
            &format!("{HANDLE:x}:{WHOLE:x}"),
            minor,
            rate,
            priority(band),
        ));
        lines.push(format!(
            "qdisc add dev {device} parent {HANDLE:x}:{minor:x} bfifo limit {}",
            room.queue_bytes
        ));
    }
    for (preference, (band, fits)) in (1..).zip(told()) {
        lines.push(format!(
            "filter add dev {device} parent {HANDLE:x}: protocol ip pref {preference} u32 {fits} \
             classid {HANDLE:x}:{:x}",
            class_of(band)
        ));
    }
    lines
}

/// What the switch tells a band by. A DSCP is believed where a host's own address stands beside it:
/// a guest's frame in another class than its VM's marker could be overtaken by it.
fn told() -> [(Band, String); 3] {
    let hosts = |band| layout::network(band);
    let storage = layout::storage_address();
    [
        (
            Band::Vmct,
            format!(
                "match ip tos {:#x} {DSCP_MASK:#x} match ip src {}",
                DSCP << 2,
                hosts(Band::Vmct)
            ),
        ),
        (
            Band::Nast,
            format!("match ip src {storage}/32 match ip dst {}", hosts(Band::Nast)),
        ),
        (
            Band::Nast,
            format!("match ip dst {storage}/32 match ip src {}", hosts(Band::Nast)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_bands::Bands;

    #[test]
    fn the_agent_understands_what_it_is_told() {
        let text = toml::to_string(&of_agent(2, 200_000_500)).unwrap();
        let bands: Bands = toml::from_str(&text).unwrap();
        bands.check().unwrap();
        let Bands::Shared(shared) = &bands else {
            panic!("{text}")
        };
        assert_eq!(shared.interface, "all0");
        assert_eq!(shared.rate.unwrap().to_string(), "200mbit");
        assert_eq!(shared.nast.own.to_string(), "10.77.3.3");
        assert_eq!(shared.nast.servers[0].to_string(), "10.77.3.250");
        assert_eq!(bands.vmct_mark().unwrap().octet, Some(DSCP << 2));
        let all: u8 = Band::ALL.map(|band| shared.share(band).0.get()).iter().sum();
        assert_eq!(all, 100);
    }

    #[test]
    fn a_port_has_the_hosts_classes_with_the_whole_link() {
        let room = Room {
            burst_bytes: |rate| rate / 8 / 100,
            queue_bytes: 1000,
        };
        let lines = of_port("all-h1", 200_000_000, room);
        for wanted in [
            "root handle 7e57: htb default 10",
            "parent 7e57: classid 7e57:1 htb rate 200000000bit ceil 200000000bit burst 250000 cburst 250000",
            "parent 7e57:1 classid 7e57:10 htb rate 80000000bit ceil 200000000bit burst 100000 cburst 250000 prio 0",
            "parent 7e57:1 classid 7e57:20 htb rate 80000000bit ceil 200000000bit burst 100000 cburst 250000 prio 2",
            "parent 7e57:1 classid 7e57:30 htb rate 40000000bit ceil 200000000bit burst 50000 cburst 250000 prio 1",
            "parent 7e57:20 bfifo limit 1000",
            "pref 1 u32 match ip tos 0x20 0xfc match ip src 10.77.2.0/24 classid 7e57:20",
            "pref 2 u32 match ip src 10.77.3.250/32 match ip dst 10.77.3.0/24 classid 7e57:30",
            "pref 3 u32 match ip dst 10.77.3.250/32 match ip src 10.77.3.0/24 classid 7e57:30",
        ] {
            let found = lines.iter().any(|line| line.contains(wanted));
            assert!(found, "{wanted} is missing: {lines:#?}");
        }
        assert!(lines.iter().all(|line| line.contains("dev all-h1 ")));
    }
}
