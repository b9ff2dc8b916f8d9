//! The tree of queues that a shared circuit gets: tc-htb(8), tc-u32(8).

use std::net::IpAddr;

use transhume_model::{Band, BitRate};

use crate::config::{Server, Shared};
use crate::limits::{BURST_BYTES_MIN, BURST_MS, LINK_USED_PERCENT};

/// Major number of our root queue; the mark by which it is found.
pub const HANDLE: u16 = 0x7e57;
const ROOT_CLASS: u16 = 1;
/// Nanoseconds of a tick of the packet scheduler (`PSCHED_SHIFT` in include/net/pkt_sched.h).
const TICK_NS: u64 = 64;
/// Of the first filter; one more for each.
const PREFERENCE_FIRST: u16 = 1;

/// A class of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Minor number.
    pub minor: u16,
    /// Minor number of the class above; 0 for the root.
    pub parent: u16,
    /// Always.
    pub bytes_per_s: u64,
    /// At most.
    pub ceil_bytes_per_s: u64,
    /// At once at its rate, ticks: the kernel's own unit, so that what it says can be compared.
    pub burst_ticks: u32,
    /// At once at its ceiling, ticks.
    pub ceil_burst_ticks: u32,
    /// Who borrows first: the lowest.
    pub priority: u32,
}

/// Packets with these bytes belong to a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones are asked first.
    pub preference: u16,
    /// Minor number of the class.
    pub class: u16,
    /// All of them must fit.
    pub keys: Vec<Key>,
}

/// Four bytes of a packet, counted from the network header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Where they stand.
    pub offset: u8,
    /// What they are, in network order.
    pub value: u32,
    /// Which bits matter.
    pub mask: u32,
}

/// What a shared circuit is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// From the root down.
    pub classes: Vec<Class>,
    /// By preference.
    pub filters: Vec<Filter>,
    /// Where the rest goes.
    pub default: u16,
}

/// Minor number of a band's class.
pub fn class_of(band: Band) -> u16 {
    match band {
        Band::Ct => 0x10,
        Band::Vmct => 0x20,
        Band::Nast => 0x30,
    }
}

/// `SO_PRIORITY` of a socket of this band on a shared circuit: the class itself, which HTB looks at
/// before any filter (`htb_classify` in net/sched/sch_htb.c).
pub fn socket_priority(band: Band) -> u32 {
    u32::from(HANDLE) << 16 | u32::from(class_of(band))
}

/// CT first, VMCT last: a migration is the one that can wait.
pub fn priority(band: Band) -> u32 {
    match band {
        Band::Ct => 0,
        Band::Nast => 1,
        Band::Vmct => 2,
    }
}

impl Class {
    /// Whether frames wait in it, and not in classes below.
    pub fn is_leaf(&self) -> bool {
        self.minor != ROOT_CLASS
    }
}

impl Tree {
    /// Of a link of this speed.
    pub fn of(shared: &Shared, link: BitRate) -> Self {
        let whole = link.percent(LINK_USED_PERCENT);
        let class = |minor, parent, rate: BitRate, ceil: BitRate, priority| Class {
            minor,
            parent,
            bytes_per_s: rate.bytes_per_s(),
            ceil_bytes_per_s: ceil.bytes_per_s(),
            burst_ticks: burst_ticks(rate),
            ceil_burst_ticks: burst_ticks(ceil),
            priority,
        };
        let mut classes = vec![class(ROOT_CLASS, 0, whole, whole, 0)];
        classes.extend(Band::ALL.map(|band| {
            let (share, ceil) = shared.share(band);
            let (rate, ceil) = (whole.percent(share.get()), whole.percent(ceil.get()));
            class(class_of(band), ROOT_CLASS, rate, ceil, priority(band))
        }));
        let nast = &shared.nast;
        let filters = nast.servers.iter().zip(PREFERENCE_FIRST..);
        Tree {
            classes,
            filters: filters
                .map(|(server, preference)| Filter {
                    preference,
                    class: class_of(Band::Nast),
                    keys: keys(nast.own, server),
                })
                .collect(),
            default: class_of(Band::Ct),
        }
    }
}

fn burst_ticks(rate: BitRate) -> u32 {
    let bytes_per_s = rate.bytes_per_s().max(1);
    let bytes = (bytes_per_s * BURST_MS / 1000).max(BURST_BYTES_MIN);
    let ticks = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s * TICK_NS);
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// From this host to that server: RFC 791, RFC 8200. Packets with IP options or extension headers
/// do not fit where a port is asked for, since their ports stand elsewhere; TCP sends none.
fn keys(own: IpAddr, server: &Server) -> Vec<Key> {
    match (own, server.address) {
        (IpAddr::V4(own), IpAddr::V4(to)) => v4(own.to_bits(), to.to_bits(), server),
        (IpAddr::V6(own), IpAddr::V6(to)) => v6(own.to_bits(), to.to_bits(), server),
        // Refused by the configuration's check.
        _ => Vec::new(),
    }
}

fn v4(own: u32, to: u32, server: &Server) -> Vec<Key> {
    let whole = |offset, value| Key {
        offset,
        value,
        mask: u32::MAX,
    };
    // Version, and a header of five words where the ports' place matters.
    let (head, head_mask) = match server.port {
        Some(_) => (0x4500_0000, 0xff00_0000),
        None => (0x4000_0000, 0xf000_0000),
    };
    let mut keys = vec![
        Key {
            offset: 0,
            value: head,
            mask: head_mask,
        },
        whole(12, own),
    ];
    let mask = u32::MAX.checked_shl(32 - u32::from(server.prefix)).unwrap_or(0);
    if mask != 0 {
        keys.push(Key {
            offset: 16,
            value: to,
            mask,
        });
    }
    keys.extend(server.port.map(|port| port_at(20, port)));
    keys
}

fn v6(own: u128, to: u128, server: &Server) -> Vec<Key> {
    let mut keys = vec![Key {
        offset: 0,
        value: 0x6000_0000,
        mask: 0xf000_0000,
    }];
    let mask = u128::MAX.checked_shl(128 - u32::from(server.prefix)).unwrap_or(0);
    keys.extend(words(8, own, u128::MAX));
    keys.extend(words(24, to, mask));
    keys.extend(server.port.map(|port| port_at(40, port)));
    keys
}

/// Source and destination port share four bytes.
fn port_at(offset: u8, port: u16) -> Key {
    Key {
        offset,
        value: u32::from(port),
        mask: 0xffff,
    }
}

fn words(offset: u8, value: u128, mask: u128) -> impl Iterator<Item = Key> {
    (0..4u8).filter_map(move |word| {
        let shift = 96 - 32 * u32::from(word);
        let (value, mask) = ((value >> shift) as u32, (mask >> shift) as u32);
        (mask != 0).then_some(Key {
            offset: offset + 4 * word,
            value: value & mask,
            mask,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bands;

    fn shared(servers: &str, own: &str) -> Shared {
        let text = format!(
            r#"
            form = "shared"
            interface = "eth0"
            ct = {{ share = 50 }}
            vmct = {{ share = 30, ceil = 90 }}
            nast = {{ share = 20, own = "{own}", servers = {servers} }}
            "#
        );
        match toml::from_str(&text).unwrap() {
            Bands::Shared(shared) => shared,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_shares_are_of_what_is_used_of_the_link() {
        let tree = Tree::of(&shared("[]", "10.0.0.1"), "1gbit".parse().unwrap());
        let rates: Vec<_> = tree
            .classes
            .iter()
            .map(|class| {
                (
                    class.minor,
                    class.parent,
                    class.bytes_per_s * 8,
                    class.ceil_bytes_per_s * 8,
                )
            })
            .collect();
        assert_eq!(
            rates,
            [
                (1, 0, 970_000_000, 970_000_000),
                (0x10, 1, 485_000_000, 970_000_000),
                (0x20, 1, 291_000_000, 873_000_000),
                (0x30, 1, 194_000_000, 970_000_000),
            ]
        );
        assert_eq!(tree.default, class_of(Band::Ct));
        assert_eq!(socket_priority(Band::Vmct), 0x7e57_0020);
    }

    /// Whether a packet fits all keys.
    fn fits(keys: &[Key], packet: &[u8]) -> bool {
        keys.iter().all(|key| {
            let at = usize::from(key.offset);
            packet
                .get(at..at + 4)
                .and_then(|bytes| bytes.first_chunk())
                .is_some_and(|bytes| u32::from_be_bytes(*bytes) & key.mask == key.value)
        })
    }

    fn v4_packet(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
        packet.extend(from);
        packet.extend(to);
        packet.extend(40_000u16.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet
    }

    #[test]
    fn storage_is_told_by_both_ends_and_the_port() {
        let tree = Tree::of(
            &shared(r#"["10.0.0.9:10809", "10.1.0.0/16"]"#, "10.0.0.1"),
            "1gbit".parse().unwrap(),
        );
        let nast = |packet: &[u8]| tree.filters.iter().any(|filter| fits(&filter.keys, packet));
        let own = [10, 0, 0, 1];
        assert!(nast(&v4_packet(own, [10, 0, 0, 9], 10809)));
        assert!(!nast(&v4_packet(own, [10, 0, 0, 9], 22)), "another port");
        assert!(nast(&v4_packet(own, [10, 1, 200, 3], 3260)));
        assert!(!nast(&v4_packet(own, [10, 2, 0, 3], 3260)), "another network");
        let guest = [10, 78, 0, 1];
        assert!(!nast(&v4_packet(guest, [10, 0, 0, 9], 10809)), "a guest's");
        let mut options = v4_packet(own, [10, 0, 0, 9], 10809);
        options[0] = 0x46;
        assert!(!nast(&options), "its ports stand elsewhere");
    }

    #[test]
    fn addresses_of_both_families_and_any_prefix_are_masked() {
        let filters = Tree::of(
            &shared(
                r#"["2001:db8::/33", "[2001:db8::9]:3260", "::/0"]"#,
                "2001:db8::1",
            ),
            "1gbit".parse().unwrap(),
        )
        .filters;
        let own = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap();
        let packet = |to: &str, port: u16| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
            packet.extend(own.octets());
            packet.extend(to.parse::<std::net::Ipv6Addr>().unwrap().octets());
            packet.extend(1u16.to_be_bytes());
            packet.extend(port.to_be_bytes());
            packet
        };
        let which = |packet: Vec<u8>| -> Vec<usize> {
            (0..filters.len())
                .filter(|which| fits(&filters[*which].keys, &packet))
                .collect()
        };
        assert_eq!(which(packet("2001:db8::9", 3260)), [0, 1, 2]);
        assert_eq!(which(packet("2001:db8:8000::9", 3260)), [2]);
        assert_eq!(which(packet("2001:db8::9", 3261)), [0, 2]);
        let any = Tree::of(&shared(r#"["0.0.0.0/0"]"#, "10.0.0.1"), "1gbit".parse().unwrap()).filters;
        assert!(fits(&any[0].keys, &v4_packet([10, 0, 0, 1], [1, 2, 3, 4], 5)));
    }
}
