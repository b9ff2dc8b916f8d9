//! Links and what VMCT has of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use transhume_model::{BandRates, BitRate, HostName};

/// One direction of a link that page streams share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// What a host sends.
    Up(HostName),
    /// What comes into a host.
    Down(HostName),
    /// From the hosts behind an uplink to the others.
    Out(String),
    /// From the others to the hosts behind it.
    In(String),
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Link::Up(host) => write!(f, "the migration link of host {host}, outwards"),
            Link::Down(host) => write!(f, "the migration link of host {host}, inwards"),
            Link::Out(uplink) => write!(f, "uplink {uplink}, outwards"),
            Link::In(uplink) => write!(f, "uplink {uplink}, inwards"),
        }
    }
}

/// A link that several hosts share towards all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Behind it.
    pub hosts: BTreeSet<HostName>,
    /// What page streams may take of it in each direction.
    pub rate: BitRate,
}

/// What is known of the links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// What VMCT has of each host's link, in each direction. A host that is missing has no budget.
    pub hosts: BTreeMap<HostName, BandRates>,
    /// As configured.
    pub uplinks: Vec<Uplink>,
}

impl Network {
    /// The links with a budget between two hosts.
    pub fn path(&self, source: &HostName, target: &HostName) -> Vec<Link> {
        let known = |host: &HostName| self.hosts.contains_key(host);
        let up = known(source).then(|| Link::Up(source.clone()));
        let down = known(target).then(|| Link::Down(target.clone()));
        let uplinks = self.uplinks.iter().filter_map(|uplink| {
            let behind = (uplink.hosts.contains(source), uplink.hosts.contains(target));
            match behind {
                (true, false) => Some(Link::Out(uplink.name.clone())),
                (false, true) => Some(Link::In(uplink.name.clone())),
                (true, true) | (false, false) => None,
            }
        });
        up.into_iter().chain(down).chain(uplinks).collect()
    }

    /// What page streams have of a link; `None` where it has no budget.
    pub fn rates(&self, link: &Link) -> Option<BandRates> {
        match link {
            Link::Up(host) | Link::Down(host) => self.hosts.get(host).copied(),
            Link::Out(name) | Link::In(name) => {
                let uplink = self.uplinks.iter().find(|uplink| uplink.name == *name)?;
                Some(BandRates {
                    guaranteed: uplink.rate,
                    ceiling: uplink.rate,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_links_that_have_a_budget() {
        let host = |name: &str| name.parse::<HostName>().unwrap();
        let rate = BitRate::from_bits_per_s(1_000_000).unwrap();
        let rates = BandRates {
            guaranteed: rate,
            ceiling: rate,
        };
        let network = Network {
            hosts: [(host("a1"), rates), (host("b1"), rates)].into(),
            uplinks: vec![Uplink {
                name: "rack-a".to_owned(),
                hosts: [host("a1"), host("a2")].into(),
                rate,
            }],
        };
        let path = |from: &str, to: &str| network.path(&host(from), &host(to));
        let out = Link::Out("rack-a".to_owned());
        assert_eq!(
            path("a1", "b1"),
            [Link::Up(host("a1")), Link::Down(host("b1")), out]
        );
        assert_eq!(
            path("a1", "a2"),
            [Link::Up(host("a1"))],
            "stays behind the uplink"
        );
        assert_eq!(path("b2", "a2"), [Link::In("rack-a".to_owned())]);
        assert_eq!(path("b2", "b3"), []);
        assert_eq!(network.rates(&Link::Down(host("a2"))), None);
    }
}
