//! In which order the VMs move: batches whose targets hold both copies, talkers near each other,
//! cycles freed through a spare host.
//!
//! Greedy: whoever fits moves, with those whose groups ask for it in the same batch. Where that
//! gets stuck, groups are given up on the way, and [`crate::sequence`] is asked, which also says
//! whether there is an order at all. Amounts hold at every moment; which groups do not is looked up
//! in the order that comes out ([`crate::meanwhile`]).

use std::cell::OnceCell;
use std::collections::BTreeSet;

use crate::problem::Problem;
use crate::sequence::{self, Sequence};

/// A move by indices of VM and hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Index among the VMs that were to be placed.
    pub vm: usize,
    pub source: usize,
    pub target: usize,
    /// The VM goes on to its own target later.
    pub spare: bool,
}

/// What the order needs to know, by VM rather than by item; only VMs that were to be placed.
pub(crate) struct Moves<'a> {
    pub problem: &'a Problem,
    /// Index of each VM among the cluster's.
    pub vms: Vec<usize>,
    /// Demand of each VM by resource.
    pub demand: Vec<Vec<u64>>,
    /// Memory that one move of each VM carries, in parts of a MiB.
    pub memory: Vec<u128>,
    /// Where each VM is, and where it is to be.
    pub source: Vec<usize>,
    pub target: Vec<usize>,
    /// Item of each VM, and VMs of each item.
    pub item_of: Vec<usize>,
    pub vms_of: Vec<Vec<usize>>,
    /// Traffic between them.
    pub peers: Vec<Vec<(usize, u128)>>,
    /// Traffic with VMs that stay, by their host.
    pub peers_staying: Vec<Vec<(usize, u128)>>,
    /// What VMs that stay send to each other from each host, and to their disks.
    pub staying: Vec<Sends>,
    /// The order one by one; the same for every k, so it is sought once.
    pub sequence: OnceCell<Sequence>,
}

/// Mbit/s at one host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sends {
    /// To VMs on other hosts.
    pub ct: f64,
    /// To disks.
    pub nast: f64,
}

/// Batches of at most k, or what could not be ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub batches: Vec<Vec<Hop>>,
    /// Moves that wait for each other, and no order that frees them is known.
    pub cycle: Vec<Hop>,
    /// States after which the search for an order was given up; `None`: it ended, so that a cycle
    /// is proved.
    pub states: Option<usize>,
}

impl Order {
    pub fn of(batches: Vec<Vec<Hop>>) -> Self {
        Self {
            batches,
            cycle: Vec::new(),
            states: None,
        }
    }

    /// All its hops.
    pub fn hops(&self) -> impl Iterator<Item = &Hop> {
        self.batches.iter().flatten()
    }
}

/// Orders all moves.
pub(crate) fn order(moves: &Moves<'_>, k: usize) -> Order {
    if moves.has_groups() {
        let mut keeping = Progress::keeping_groups(moves);
        let mut batches = Vec::new();
        keeping.run(k, true, &mut batches);
        if keeping.waiting.is_empty() {
            return Order::of(batches);
        }
    }
    let mut progress = Progress::start(moves);
    let mut batches = Vec::new();
    progress.run(k, false, &mut batches);
    if progress.waiting.is_empty() {
        return Order::of(batches);
    }
    let sequence = moves.sequence();
    let packed = moves.pack(&sequence.hops, k);
    if !sequence.cycle.is_empty() {
        return Order {
            batches: packed,
            cycle: sequence.cycle.clone(),
            states: sequence.states,
        };
    }
    // The greedy order may need more hops, but what it orders it packs better.
    progress.run(k, true, &mut batches);
    let rank = |batches: &[Vec<Hop>]| (moves.carried(batches.iter().flatten()), batches.len());
    match progress.waiting.is_empty() && rank(&batches) <= rank(&packed) {
        true => Order::of(batches),
        false => Order::of(packed),
    }
}

/// Amounts left; below zero on a host that is overfull before anything moved.
pub(crate) type Left = Vec<i128>;

pub(crate) fn add(free: &mut Left, demand: &[u64]) {
    free.iter_mut()
        .zip(demand)
        .for_each(|(f, d)| *f += i128::from(*d));
}

pub(crate) fn subtract(free: &mut Left, demand: &[u64]) {
    free.iter_mut()
        .zip(demand)
        .for_each(|(f, d)| *f -= i128::from(*d));
}

pub(crate) fn fits(demand: &[u64], free: &Left) -> bool {
    demand
        .iter()
        .zip(free)
        .all(|(d, f)| *d == 0 || i128::from(*d) <= *f)
}

impl Moves<'_> {
    /// The order one by one.
    pub fn sequence(&self) -> &Sequence {
        self.sequence.get_or_init(|| sequence::find(self))
    }

    /// Whether any VMs must, or must not, share a host.
    fn has_groups(&self) -> bool {
        !self.problem.groups.is_empty() || self.problem.items.iter().any(|item| item.vms.len() > 1)
    }

    /// VMs that affinity ties to one.
    fn together(&self, vm: usize) -> impl Iterator<Item = usize> {
        let all = self.vms_of[self.item_of[vm]].iter().copied();
        all.filter(move |other| *other != vm)
    }

    /// VMs that one is kept apart from.
    fn apart(&self, vm: usize) -> impl Iterator<Item = usize> {
        let item = self.item_of[vm];
        let groups = self.problem.items[item].groups.iter();
        let mates = groups.flat_map(|group| &self.problem.groups[*group]);
        let others = mates.filter(move |other| **other != item);
        others.flat_map(|other| self.vms_of[*other].iter().copied())
    }

    /// Gives a VM another target, with the order one by one that goes with it if it is known.
    /// Returns both as they were.
    pub fn send(
        &mut self,
        vm: usize,
        target: usize,
        sequence: OnceCell<Sequence>,
    ) -> (usize, OnceCell<Sequence>) {
        (
            std::mem::replace(&mut self.target[vm], target),
            std::mem::replace(&mut self.sequence, sequence),
        )
    }

    /// VMs that move.
    pub fn count(&self) -> usize {
        let ends = self.source.iter().zip(&self.target);
        ends.filter(|(source, target)| source != target).count()
    }

    /// Hosts the VM may use, by host; its affinity group's limits count.
    pub fn allowed(&self, vm: usize) -> &[bool] {
        &self.problem.allow[self.problem.items[self.item_of[vm]].allow]
    }

    /// Memory that these hops carry, in parts of a MiB, and how many they are.
    pub fn carried<'h>(&self, hops: impl Iterator<Item = &'h Hop>) -> (u128, usize) {
        hops.fold((0, 0), |(memory, count), hop| {
            (memory + self.memory[hop.vm], count + 1)
        })
    }

    /// What every host has beside all VMs that run there now.
    pub fn free_now(&self) -> Vec<Left> {
        let hosts = self.problem.hosts.iter();
        let mut free: Vec<Left> = hosts
            .map(|has| has.iter().map(|a| i128::from(*a)).collect())
            .collect();
        for (vm, source) in self.source.iter().enumerate() {
            subtract(&mut free[*source], &self.demand[vm]);
        }
        free
    }

    /// The moves, each beside those it talks to most: the busiest VM first, then always the one
    /// that talks most with those before it.
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

    /// Batches of what is ordered one by one: each takes the next as long as they fit beside all
    /// that is still there.
    fn pack(&self, hops: &[Hop], k: usize) -> Vec<Vec<Hop>> {
        let mut free = self.free_now();
        let mut batches: Vec<Vec<Hop>> = Vec::new();
        let mut batch_of = vec![0; self.source.len()];
        for hop in hops {
            let joins = batches.last().is_some_and(|batch| {
                batch.len() < k
                    && batch_of[hop.vm] < batches.len()
                    && fits(&self.demand[hop.vm], &free[hop.target])
            });
            if !joins {
                let closed = batches.last().into_iter().flatten();
                closed.for_each(|left| add(&mut free[left.source], &self.demand[left.vm]));
                batches.push(Vec::new());
            }
            batch_of[hop.vm] = batches.len();
            subtract(&mut free[hop.target], &self.demand[hop.vm]);
            batches.last_mut().into_iter().for_each(|batch| batch.push(*hop));
        }
        batches
    }
}

/// A greedy order under way.
pub(crate) struct Progress<'m, 'a> {
    moves: &'m Moves<'a>,
    free: Vec<Left>,
    hopped: Vec<bool>,
    /// Where groups are kept on the way: the host of each VM by now.
    groups: Option<OnTheWay>,
    /// Moves still to come, from where their VMs are by now.
    pub waiting: Vec<Hop>,
}

impl<'m, 'a> Progress<'m, 'a> {
    pub fn start(moves: &'m Moves<'a>) -> Self {
        Self {
            moves,
            free: moves.free_now(),
            hopped: vec![false; moves.source.len()],
            groups: None,
            waiting: moves.by_traffic(),
        }
    }

    pub fn keeping_groups(moves: &'m Moves<'a>) -> Self {
        Self {
            groups: Some(OnTheWay {
                at: moves.source.clone(),
            }),
            ..Self::start(moves)
        }
    }

    /// Adds batches until nothing waits or nothing fits; with `spare` VMs may go by way of other
    /// hosts.
    pub fn run(&mut self, k: usize, spare: bool, batches: &mut Vec<Vec<Hop>>) {
        while !self.waiting.is_empty() {
            let mut batch = self.take_batch(k);
            if batch.is_empty() && spare {
                batch.extend(self.free_a_ring());
            }
            if batch.is_empty() {
                return;
            }
            for hop in &batch {
                add(&mut self.free[hop.source], &self.moves.demand[hop.vm]);
                if let Some(groups) = &mut self.groups {
                    groups.at[hop.vm] = hop.target;
                }
            }
            batches.push(batch);
        }
    }

    fn take_batch(&mut self, k: usize) -> Vec<Hop> {
        if let Some(groups) = &self.groups {
            let taken = groups.take(self.moves, &self.waiting, &mut self.free, k);
            let mut goes = vec![false; self.hopped.len()];
            taken.iter().for_each(|hop| goes[hop.vm] = true);
            self.waiting.retain(|hop| !goes[hop.vm]);
            return taken;
        }
        let mut batch: Vec<Hop> = Vec::new();
        let (moves, free) = (self.moves, &mut self.free);
        self.waiting.retain(|hop| {
            let takes = batch.len() < k && fits(&moves.demand[hop.vm], &free[hop.target]);
            if takes {
                subtract(&mut free[hop.target], &moves.demand[hop.vm]);
                batch.push(*hop);
            }
            !takes
        });
        batch
    }

    /// Sends one VM, the smallest that some other waits for, to a host that may have it for a
    /// while.
    fn free_a_ring(&mut self) -> Option<Hop> {
        let mut wanted = vec![false; self.free.len()];
        self.waiting.iter().for_each(|hop| wanted[hop.target] = true);
        let mut candidates: Vec<(u128, usize)> = (0..self.waiting.len())
            .filter(|i| !self.hopped[self.waiting[*i].vm] && wanted[self.waiting[*i].source])
            .map(|i| (self.moves.memory[self.waiting[i].vm], i))
            .collect();
        candidates.sort_unstable();
        for (_, at) in candidates {
            let hop = self.waiting[at];
            let allowed = self.moves.allowed(hop.vm);
            let keeps = |host: usize| {
                let groups = self.groups.as_ref();
                groups.is_none_or(|groups| groups.may_go_alone(self.moves, hop.vm, host))
            };
            let spare = (0..self.free.len()).find(|h| {
                *h != hop.source
                    && allowed[*h]
                    && fits(&self.moves.demand[hop.vm], &self.free[*h])
                    && keeps(*h)
            });
            if let Some(spare) = spare {
                self.hopped[hop.vm] = true;
                subtract(&mut self.free[spare], &self.moves.demand[hop.vm]);
                self.waiting[at].source = spare;
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

/// Who has to be where while the batches run.
struct OnTheWay {
    /// Host of each VM by now.
    at: Vec<usize>,
}

impl OnTheWay {
    /// Whether a VM that goes to a host by itself leaves its groups whole.
    fn may_go_alone(&self, moves: &Moves<'_>, vm: usize, host: usize) -> bool {
        moves.together(vm).next().is_none() && moves.apart(vm).all(|other| self.at[other] != host)
    }

    /// Whoever fits, with those that have to move at the same time.
    fn take(&self, moves: &Moves<'_>, waiting: &[Hop], free: &mut [Left], k: usize) -> Vec<Hop> {
        let mut hop_of: Vec<Option<Hop>> = vec![None; self.at.len()];
        waiting.iter().for_each(|hop| hop_of[hop.vm] = Some(*hop));
        let mut batch: Vec<Hop> = Vec::new();
        let mut taken = vec![false; self.at.len()];
        for hop in waiting {
            if batch.len() >= k {
                break;
            }
            if taken[hop.vm] {
                continue;
            }
            let Some(with) = self.at_once(moves, *hop, &hop_of, &taken) else {
                continue;
            };
            if batch.len() + with.len() > k {
                continue;
            }
            let mut subtracted = 0;
            for hop in &with {
                if !fits(&moves.demand[hop.vm], &free[hop.target]) {
                    break;
                }
                subtract(&mut free[hop.target], &moves.demand[hop.vm]);
                subtracted += 1;
            }
            if subtracted < with.len() {
                let undone = with[..subtracted].iter();
                undone.for_each(|hop| add(&mut free[hop.target], &moves.demand[hop.vm]));
                continue;
            }
            with.iter().for_each(|hop| taken[hop.vm] = true);
            batch.extend(with);
        }
        batch
    }

    /// A hop with all that have to go in the same batch; `None` where one of them does not go.
    fn at_once(
        &self,
        moves: &Moves<'_>,
        first: Hop,
        hop_of: &[Option<Hop>],
        taken: &[bool],
    ) -> Option<Vec<Hop>> {
        let mut all = vec![first];
        let mut going = BTreeSet::from([first.vm]);
        let mut next = 0;
        while let Some(hop) = all.get(next).copied() {
            next += 1;
            let in_the_place = moves.apart(hop.vm).filter(|other| self.at[*other] == hop.target);
            // Those that were apart before come together in the end.
            let left_alone = moves
                .together(hop.vm)
                .filter(|other| self.at[*other] == hop.source && hop_of[*other].is_some());
            for other in in_the_place.chain(left_alone) {
                if !taken[other] && going.insert(other) {
                    all.push(hop_of[other]?);
                }
            }
            // Another one that is kept apart may be about to arrive there.
            let arrives = |other: usize| {
                let goes = hop_of[other].filter(|_| taken[other] || going.contains(&other));
                goes.is_some_and(|goes| goes.target == hop.target)
            };
            if moves.apart(hop.vm).any(arrives) {
                return None;
            }
        }
        Some(all)
    }
}
