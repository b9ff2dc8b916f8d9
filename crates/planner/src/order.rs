//! In which order the VMs move: batches whose targets hold both copies, talkers near each other, rings freed through a spare host.
//!
//! Amounts hold at every moment; groups hold before the first and after the last batch, not in between.

use crate::problem::Problem;

/// A move by indices of VM and hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    pub vm: usize,
    pub source: usize,
    pub target: usize,
    /// The VM goes on to its own target later.
    pub spare: bool,
}

/// What the order needs to know, by VM rather than by item.
pub(crate) struct Moves<'a> {
    pub problem: &'a Problem,
    /// Demand of each VM by resource.
    pub demand: Vec<Vec<u64>>,
    /// Where each VM is, and where it is to be.
    pub source: Vec<usize>,
    pub target: Vec<usize>,
    /// Item of each VM.
    pub item_of: Vec<usize>,
    /// Traffic between VMs.
    pub peers: Vec<Vec<(usize, u128)>>,
}

/// Batches of at most k, or what could not be ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub batches: Vec<Vec<Hop>>,
    /// Moves that wait for each other with no spare host to free them.
    pub ring: Vec<Hop>,
}

/// Orders all moves.
pub(crate) fn order(moves: &Moves<'_>, k: usize) -> Order {
    let mut free = moves.free_now();
    let mut waiting = moves.by_traffic();
    let mut hopped = vec![false; moves.demand.len()];
    let mut batches = Vec::new();
    while !waiting.is_empty() {
        let mut batch = moves.take_batch(&mut waiting, &mut free, k);
        if batch.is_empty() {
            match moves.free_a_ring(&mut waiting, &mut free, &mut hopped) {
                Some(hop) => batch.push(hop),
                None => {
                    return Order {
                        batches,
                        ring: waiting,
                    };
                }
            }
        }
        for hop in &batch {
            add(&mut free[hop.source], &moves.demand[hop.vm]);
        }
        batches.push(batch);
    }
    Order {
        batches,
        ring: Vec::new(),
    }
}

/// Amounts left; below zero on a host that is overfull before anything moved.
type Left = Vec<i128>;

fn add(free: &mut Left, demand: &[u64]) {
    free.iter_mut()
        .zip(demand)
        .for_each(|(f, d)| *f += i128::from(*d));
}

fn subtract(free: &mut Left, demand: &[u64]) {
    free.iter_mut()
        .zip(demand)
        .for_each(|(f, d)| *f -= i128::from(*d));
}

fn fits(demand: &[u64], free: &Left) -> bool {
    demand
        .iter()
        .zip(free)
        .all(|(d, f)| *d == 0 || i128::from(*d) <= *f)
}

impl Moves<'_> {
    /// What every host has beside all VMs that run there now.
    fn free_now(&self) -> Vec<Left> {
        let hosts = self.problem.hosts.iter();
        let mut free: Vec<Left> = hosts
            .map(|has| has.iter().map(|a| i128::from(*a)).collect())
            .collect();
        for (vm, source) in self.source.iter().enumerate() {
            subtract(&mut free[*source], &self.demand[vm]);
        }
        free
    }

    /// The moves, each beside those it talks to most: the busiest VM first, then always the one that talks most with those before it.
    fn by_traffic(&self) -> Vec<Hop> {
        let movers: Vec<usize> = (0..self.source.len())
            .filter(|v| self.source[*v] != self.target[*v])
            .collect();
        let total = |vm: usize| self.peers[vm].iter().map(|(_, t)| t).sum::<u128>();
        let mut pull = vec![0u128; self.source.len()];
        let mut done = vec![true; self.source.len()];
        movers.iter().for_each(|v| done[*v] = false);
        // (pull, total, first listed first)
        let mut queue: std::collections::BinaryHeap<(u128, u128, std::cmp::Reverse<usize>)> = movers
            .iter()
            .map(|v| (0, total(*v), std::cmp::Reverse(*v)))
            .collect();
        let mut order = Vec::new();
        while let Some((pulled, _, std::cmp::Reverse(vm))) = queue.pop() {
            if done[vm] || pulled != pull[vm] {
                continue;
            }
            done[vm] = true;
            order.push(Hop {
                vm,
                source: self.source[vm],
                target: self.target[vm],
                spare: false,
            });
            for (peer, amount) in &self.peers[vm] {
                if !done[*peer] {
                    pull[*peer] += amount;
                    queue.push((pull[*peer], total(*peer), std::cmp::Reverse(*peer)));
                }
            }
        }
        order
    }

    fn take_batch(&self, waiting: &mut Vec<Hop>, free: &mut [Left], k: usize) -> Vec<Hop> {
        let mut batch: Vec<Hop> = Vec::new();
        waiting.retain(|hop| {
            let takes = batch.len() < k
                && fits(&self.demand[hop.vm], &free[hop.target])
                && !batch.iter().any(|other| other.vm == hop.vm);
            if takes {
                subtract(&mut free[hop.target], &self.demand[hop.vm]);
                batch.push(*hop);
            }
            !takes
        });
        batch
    }

    /// Sends one VM, the smallest that some other waits for, to a host that may have it for a while.
    fn free_a_ring(&self, waiting: &mut [Hop], free: &mut [Left], hopped: &mut [bool]) -> Option<Hop> {
        let mut candidates: Vec<usize> = (0..waiting.len())
            .filter(|i| {
                !hopped[waiting[*i].vm] && waiting.iter().any(|other| other.target == waiting[*i].source)
            })
            .collect();
        candidates.sort_by_key(|i| (self.problem.items[self.item_of[waiting[*i].vm]].memory, *i));
        for at in candidates {
            let hop = waiting[at];
            let item = &self.problem.items[self.item_of[hop.vm]];
            let spare = (0..free.len()).find(|h| {
                *h != hop.source
                    && self.problem.allow[item.allow][*h]
                    && fits(&self.demand[hop.vm], &free[*h])
            });
            if let Some(spare) = spare {
                hopped[hop.vm] = true;
                subtract(&mut free[spare], &self.demand[hop.vm]);
                waiting[at].source = spare;
                return Some(Hop {
                    target: spare,
                    spare: true,
                    ..hop
                });
            }
        }
        None
    }
}
