//! Admission: what moves have set aside of the links (RSVP [21] of the paper, §2.2.2).

use std::collections::BTreeMap;

use transhume_model::{BitRate, HostName, MigrationId};

use crate::limits::NEED_BITS_PER_S_MIN;
use crate::network::{Link, Network};

/// What one VM's page stream needs to get ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Host it leaves.
    pub source: HostName,
    /// Host it goes to.
    pub target: HostName,
    /// The least rate at which it gets ready.
    pub rate: BitRate,
}

/// What a move needs of each link, bits per second.
pub type Needs = BTreeMap<Link, u64>;

/// A link does not have what a move needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{link} has {free} bit/s free of {guaranteed}, {needed} are needed")]
pub struct Short {
    /// The link.
    pub link: Link,
    /// What the move needs of it, bits per second.
    pub needed: u64,
    /// What is not reserved.
    pub free: u64,
    /// What VMCT has of it for certain.
    pub guaranteed: BitRate,
    /// Moves that have the rest.
    pub held_by: Vec<MigrationId>,
}

impl Short {
    /// What is missing, bits per second.
    pub fn missing(&self) -> u64 {
        self.needed.saturating_sub(self.free)
    }

    /// Whether it would do if nobody else moved.
    pub fn is_for_now(&self) -> bool {
        self.needed <= self.guaranteed.bits_per_s()
    }
}

/// What the batches of a move need: they go one after the other, so each link has to carry the
/// largest of them.
pub fn needs<'a>(network: &Network, batches: impl IntoIterator<Item = &'a [Flow]>) -> Needs {
    let mut needs = Needs::new();
    for batch in batches {
        for (link, rate) in needs_of_batch(network, batch) {
            let most = needs.entry(link).or_default();
            *most = (*most).max(rate);
        }
    }
    needs
}

fn needs_of_batch(network: &Network, batch: &[Flow]) -> Needs {
    let mut needs = Needs::new();
    for flow in batch {
        let rate = flow.rate.bits_per_s().max(NEED_BITS_PER_S_MIN);
        for link in network.path(&flow.source, &flow.target) {
            let sum = needs.entry(link).or_default();
            *sum = sum.saturating_add(rate);
        }
    }
    needs
}

/// What is set aside, by move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reservations {
    held: BTreeMap<MigrationId, Needs>,
}

impl Reservations {
    /// Whether a move could have what it needs. What it holds already is its own.
    pub fn check(
        &self,
        migration: Option<MigrationId>,
        network: &Network,
        needs: &Needs,
    ) -> Result<(), Short> {
        for (link, &needed) in needs {
            let Some(rates) = network.rates(link) else {
                continue;
            };
            let holders = || {
                let others = self.held.iter().filter(|(id, _)| Some(**id) != migration);
                others.filter(|(_, held)| held.contains_key(link))
            };
            let taken: u64 = holders().map(|(_, held)| held[link]).sum();
            let free = rates.guaranteed.bits_per_s().saturating_sub(taken);
            if needed > free {
                return Err(Short {
                    link: link.clone(),
                    needed,
                    free,
                    guaranteed: rates.guaranteed,
                    held_by: holders().map(|(id, _)| *id).collect(),
                });
            }
        }
        Ok(())
    }

    /// Sets aside what a move needs; one that is known already gets this instead. Whether it may
    /// begin is [`Reservations::check`]'s: what began before a link became slower keeps its own.
    pub fn hold(&mut self, migration: MigrationId, needs: Needs) {
        self.held.insert(migration, needs);
    }

    /// The move is over.
    pub fn free(&mut self, migration: MigrationId) {
        self.held.remove(&migration);
    }

    /// What is set aside of a link in all, bits per second.
    pub fn held_of(&self, link: &Link) -> u64 {
        self.held.values().filter_map(|held| held.get(link)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::BandRates;

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn mbit(rate: u64) -> BitRate {
        BitRate::from_bits_per_s(rate * 1_000_000).unwrap()
    }

    fn network(guaranteed: u64) -> Network {
        let rates = BandRates {
            guaranteed: mbit(guaranteed),
            ceiling: mbit(1000),
        };
        Network {
            hosts: ["h1", "h2", "h3"].map(|name| (host(name), rates)).into(),
            uplinks: Vec::new(),
        }
    }

    fn flow(from: &str, to: &str, rate: u64) -> Flow {
        Flow {
            source: host(from),
            target: host(to),
            rate: mbit(rate),
        }
    }

    #[test]
    fn a_link_carries_the_largest_batch_and_the_sum_within_it() {
        let first = [flow("h1", "h2", 100), flow("h1", "h3", 50)];
        let second = [flow("h1", "h2", 120), flow("h2", "h3", 1)];
        let needs = needs(&network(400), [&first[..], &second[..]]);
        let need = |link: Link| needs[&link] / 1_000_000;
        assert_eq!(need(Link::Up(host("h1"))), 150, "of the first batch");
        assert_eq!(need(Link::Down(host("h2"))), 120, "of the second");
        assert_eq!(need(Link::Up(host("h2"))), 1, "a VM counts for 1 Mbit/s at least");
    }

    #[test]
    fn what_cannot_be_had_is_told_with_who_has_it_and_freed_with_the_move() {
        let network = network(200);
        let mut held = Reservations::default();
        let of = |rate| needs(&network, [&[flow("h1", "h2", rate)][..]]);
        held.hold(MigrationId(1), of(150));
        let short = held.check(None, &network, &of(80)).unwrap_err();
        assert_eq!(short.link, Link::Up(host("h1")));
        assert_eq!((short.missing(), short.free), (30_000_000, 50_000_000));
        assert_eq!(
            (short.held_by.as_slice(), short.is_for_now()),
            (&[MigrationId(1)][..], true)
        );
        assert!(!held.check(None, &network, &of(201)).unwrap_err().is_for_now());
        held.check(None, &network, &of(50)).unwrap();
        held.free(MigrationId(1));
        held.check(None, &network, &of(80)).unwrap();
        assert_eq!(held.held_of(&Link::Up(host("h1"))), 0);
    }

    #[test]
    fn of_a_link_without_a_budget_nothing_is_promised() {
        let network = Network::default();
        let needs = needs(&network, [&[flow("h1", "h2", 100_000)][..]]);
        assert_eq!(needs, Needs::new());
        Reservations::default().check(None, &network, &needs).unwrap();
    }
}
