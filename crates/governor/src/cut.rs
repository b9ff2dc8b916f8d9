//! Batches for what is to come: as many VMs at once as the links carry and the blackouts allow, the
//! quietest first.

use std::collections::BTreeMap;

use transhume_model::{HostName, Millis, VmName};

use crate::limits::{BATCH_FIRST, BATCH_GROWTH, BLACKOUT_SHARE_SMALL, DIRTY_SHARE_MAX, LEAST_BYTES_PER_S};
use crate::network::{Link, Network};

/// A VM whose turn has not come.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The VM.
    pub vm: VmName,
    /// Host it leaves.
    pub source: HostName,
    /// Host it goes to.
    pub target: HostName,
    /// What it dirties of its memory, bytes a second; `None` where nobody has looked.
    pub dirty_per_s: Option<f64>,
}

/// How many VMs go at once, by what earlier batches of the move cost: it grows to twice a batch
/// whose blackouts were far below what is allowed, and falls with what they are above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    now: usize,
    max: usize,
}

impl BatchSize {
    /// Of a move that begins; `max` VMs at once at most.
    pub fn first(max: usize) -> Self {
        let max = max.max(1);
        BatchSize {
            now: BATCH_FIRST.min(max),
            max,
        }
    }

    /// VMs at once.
    pub fn get(self) -> usize {
        self.now
    }

    /// A batch of so many VMs is committed, the worst blackout among them was this, and this is
    /// allowed.
    pub fn learn(&mut self, vms: usize, worst: Millis, allowed: Millis) {
        let (worst, allowed) = (worst.0 as f64, allowed.0 as f64);
        if worst > allowed {
            self.now = ((vms as f64 * allowed / worst) as usize).clamp(1, self.now);
        } else if worst <= allowed * BLACKOUT_SHARE_SMALL {
            self.now = self.now.max((vms * BATCH_GROWTH).min(self.max));
        }
    }
}

/// Cuts what is to come into batches of at most `vms_max`. In each, what its VMs dirty takes at
/// most [`DIRTY_SHARE_MAX`] of any link, counted as `ratio` of it on the wire; one VM always goes.
/// VMs that dirty least go first, those of which nothing is known as if they were like the others.
pub fn cut(network: &Network, to_come: &[Candidate], ratio: f64, vms_max: usize) -> Vec<Vec<VmName>> {
    let vms_max = even(to_come.len(), vms_max);
    let mut waiting = in_order(to_come);
    let mut batches = Vec::new();
    while !waiting.is_empty() {
        let mut batch = Vec::new();
        let mut taken: BTreeMap<Link, f64> = BTreeMap::new();
        waiting.retain(|(candidate, dirty_per_s)| {
            let path = network.path(&candidate.source, &candidate.target);
            let on_wire = (dirty_per_s * ratio).max(LEAST_BYTES_PER_S);
            let carries = |link: &Link| {
                let Some(rates) = network.rates(link) else {
                    return true;
                };
                let of_others = taken.get(link).copied().unwrap_or_default();
                of_others + on_wire <= rates.ceiling.bytes_per_s() as f64 * DIRTY_SHARE_MAX
            };
            if batch.len() == vms_max || !(batch.is_empty() || path.iter().all(carries)) {
                return true;
            }
            batch.push(candidate.vm.clone());
            for link in path {
                *taken.entry(link).or_default() += on_wire;
            }
            false
        });
        batches.push(batch);
    }
    batches
}

/// The least size that needs no more batches: five VMs with four at once go as three and two.
fn even(vms: usize, vms_max: usize) -> usize {
    let vms_max = vms_max.max(1);
    vms.div_ceil(vms.div_ceil(vms_max).max(1)).max(1)
}

fn in_order(to_come: &[Candidate]) -> Vec<(&Candidate, f64)> {
    let known = to_come.iter().filter_map(|candidate| candidate.dirty_per_s);
    let (sum, count) = known.fold((0.0, 0.0), |(sum, count), rate| (sum + rate, count + 1.0));
    let average = if count > 0.0 { sum / count } else { 0.0 };
    let rate = |candidate: &Candidate| candidate.dirty_per_s.unwrap_or(average);
    let mut all: Vec<_> = to_come
        .iter()
        .map(|candidate| (candidate, rate(candidate)))
        .collect();
    all.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    all
}

#[cfg(test)]
mod tests {
    use transhume_model::{BandRates, BitRate};

    use super::*;

    const MB: f64 = 1e6;

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    /// Links of 80 Mbit/s, 10 MB/s.
    fn network() -> Network {
        let rate = BitRate::from_bits_per_s(80_000_000).unwrap();
        let rates = BandRates {
            guaranteed: rate,
            ceiling: rate,
        };
        Network {
            hosts: ["a", "b", "t"].map(|name| (host(name), rates)).into(),
            uplinks: Vec::new(),
        }
    }

    fn candidate(name: &str, source: &str, dirty_mb_s: Option<f64>) -> Candidate {
        Candidate {
            vm: name.parse().unwrap(),
            source: host(source),
            target: host("t"),
            dirty_per_s: dirty_mb_s.map(|mb| mb * MB),
        }
    }

    fn names(batches: &[Vec<VmName>]) -> Vec<String> {
        let line = |batch: &Vec<VmName>| batch.iter().map(VmName::as_str).collect::<Vec<_>>().join(" ");
        batches.iter().map(line).collect()
    }

    #[test]
    fn the_quietest_go_first_and_what_is_dirtied_leaves_half_of_the_link() {
        let to_come = [
            candidate("loud", "a", Some(9.0)),
            candidate("v1", "a", Some(2.0)),
            candidate("v2", "b", Some(2.5)),
            candidate("v3", "b", Some(1.0)),
        ];
        // 1 + 2 of the 5 that may be dirtied on the way into t; 2.5 more are too many.
        let batches = cut(&network(), &to_come, 1.0, 4);
        assert_eq!(
            names(&batches),
            ["v3 v1", "v2", "loud"],
            "who fits nowhere goes alone"
        );
        let batches = cut(&network(), &to_come, 0.5, 4);
        assert_eq!(
            names(&batches),
            ["v3 v1 v2", "loud"],
            "half of it is compressed away"
        );
    }

    #[test]
    fn a_full_link_holds_nobody_on_another_one_up() {
        let mut network = network();
        network.hosts.remove(&host("t"));
        let to_come = [
            candidate("a1", "a", Some(3.0)),
            candidate("a2", "a", Some(3.0)),
            candidate("b1", "b", Some(4.0)),
        ];
        assert_eq!(names(&cut(&network, &to_come, 1.0, 3)), ["a1 b1", "a2"]);
    }

    #[test]
    fn batches_are_even_and_hold_everybody_once() {
        let all: Vec<_> = (1..=9).map(|n| candidate(&format!("v{n}"), "a", None)).collect();
        let nothing_known = Network::default();
        assert_eq!(
            names(&cut(&nothing_known, &all[..5], 1.0, 4)),
            ["v1 v2 v3", "v4 v5"]
        );
        for k in 0..12 {
            let batches = cut(&nothing_known, &all, 1.0, k);
            assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 9);
            assert!(batches.iter().all(|batch| (1..=k.max(1)).contains(&batch.len())));
        }
        assert_eq!(cut(&nothing_known, &[], 1.0, 4), Vec::<Vec<VmName>>::new());
    }

    #[test]
    fn k_follows_the_blackouts() {
        let mut size = BatchSize::first(40);
        assert_eq!(size.get(), 4);
        size.learn(4, Millis(40), Millis(300));
        assert_eq!(size.get(), 8);
        size.learn(2, Millis(10), Millis(300));
        assert_eq!(size.get(), 8, "a small batch says nothing of a large one");
        size.learn(8, Millis(200), Millis(300));
        assert_eq!(size.get(), 8, "near to what is allowed");
        size.learn(8, Millis(600), Millis(300));
        assert_eq!(size.get(), 4);
        size.learn(1, Millis(900), Millis(300));
        assert_eq!(size.get(), 1, "one always goes");
        assert_eq!(BatchSize::first(2).get(), 2);
    }
}
