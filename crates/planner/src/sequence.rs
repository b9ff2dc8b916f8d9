//! The moves one by one, where whoever fits first gets stuck: an exact search for an order, or the
//! proof that there is none.
//!
//! ```text
//! hosts that no VM can pass between are searched apart:    state = the host of every VM there
//! best first over states: memory carried + LEFT_WEIGHT · memory still to carry,
//!                         from the start and from where the greedy search got stuck
//! goal reached: an order      nothing left to examine: there is none      a limit reached: not known
//! ```
//!
//! Any VM may go by way of any host that it is allowed on, those that stay in the end too. A batch
//! can do nothing that one move after another cannot, so k does not matter here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

use crate::order::{Hop, Left, Moves, Progress, add, fits, subtract};
use crate::problem::{join, root};

/// States examined in one search.
const STATES_MAX: usize = 50_000;
/// Positions kept in all states of one search: fewer states where there are many VMs.
const POSITIONS_MAX: usize = 4_000_000;
/// Hosts tried for a VM in one search.
const LOOKS_MAX: usize = 10_000_000;
/// Weight of what is still to be carried. With 1 the first order found would carry least, but all
/// that carry less are examined before.
const LEFT_WEIGHT: u128 = 2;

/// All moves one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub hops: Vec<Hop>,
    /// Moves that wait for each other and are not in `hops`.
    pub cycle: Vec<Hop>,
    /// States after which a search was given up; `None`: the cycle is proved.
    pub states: Option<usize>,
}

/// Seeks an order of all moves.
pub(crate) fn find(moves: &Moves<'_>) -> Sequence {
    let part_of = parts(moves);
    let part = |hop: &Hop| part_of[hop.source];
    let mut progress = Progress::start(moves);
    let (mut direct, mut freed) = (Vec::new(), Vec::new());
    progress.run(usize::MAX, false, &mut direct);
    let stuck: BTreeSet<usize> = progress.waiting.iter().map(part).collect();
    progress.run(usize::MAX, true, &mut freed);
    let of = |batches: &[Vec<Hop>], wanted: usize| -> Vec<Hop> {
        let hops = batches.iter().flatten();
        hops.filter(|hop| part(hop) == wanted).copied().collect()
    };
    let mut hops: Vec<Hop> = direct.iter().flatten().copied().collect();
    hops.retain(|hop| !stuck.contains(&part(hop)));
    let (mut cycles, mut given_up, mut states) = (Vec::new(), Vec::new(), None);
    for wanted in stuck {
        let start = of(&direct, wanted);
        let greedy = [start.clone(), of(&freed, wanted)].concat();
        let waiting: Vec<Hop> = progress
            .waiting
            .iter()
            .filter(|hop| part(hop) == wanted)
            .copied()
            .collect();
        let known = waiting.is_empty().then_some(greedy.as_slice());
        match Search::new(moves, &part_of, wanted).run(&start, known) {
            Found::Order(found) => hops.extend(found),
            Found::None | Found::GivenUp(_) if known.is_some() => hops.extend(greedy),
            Found::None => {
                hops.extend(greedy);
                cycles.extend(waiting);
            }
            Found::GivenUp(after) => {
                hops.extend(greedy);
                given_up.extend(waiting);
                states = states.max(Some(after));
            }
        }
    }
    // One proved cycle is enough, whatever else is not known.
    match cycles.is_empty() {
        true => Sequence {
            hops,
            cycle: given_up,
            states,
        },
        false => Sequence {
            hops,
            cycle: cycles,
            states: None,
        },
    }
}

/// For each host the part it belongs to: no VM can go from one part to another.
fn parts(moves: &Moves<'_>) -> Vec<usize> {
    let mut leader: Vec<usize> = (0..moves.problem.hosts.len()).collect();
    let mut join = |a: usize, b: usize| join(&mut leader, a, b);
    let sets = moves.problem.allow.iter();
    let firsts: Vec<Option<usize>> = sets
        .map(|set| {
            let mut hosts = (0..set.len()).filter(|h| set[*h]);
            let first = hosts.next()?;
            hosts.for_each(|other| join(first, other));
            Some(first)
        })
        .collect();
    for (vm, source) in moves.source.iter().enumerate() {
        let set = moves.problem.items[moves.item_of[vm]].allow;
        firsts[set].into_iter().for_each(|first| join(first, *source));
    }
    (0..leader.len()).map(|h| root(&mut leader, h)).collect()
}

/// How a search ended.
enum Found {
    /// An order, better than the one known before.
    Order(Vec<Hop>),
    /// There is none.
    None,
    /// There may be one; so many states were examined.
    GivenUp(usize),
}

/// Where every VM of the part is, by its hosts.
type At = Rc<[u32]>;

struct Node {
    at: At,
    carried: u128,
    /// The node before, and the VM that moved; `None` for where the search began.
    before: Option<(usize, usize)>,
}

struct Search<'m, 'a> {
    moves: &'m Moves<'a>,
    /// The part's hosts, and its VMs that have anywhere to go.
    hosts: Vec<usize>,
    vms: Vec<usize>,
    /// What the hosts have beside VMs that cannot go.
    free: Vec<Left>,
    goal: Vec<u32>,
    /// Cost of moving each VM: a little more than its memory, so that fewer moves are better
    /// where nothing else is.
    cost: Vec<u128>,
    nodes: Vec<Node>,
    seen: BTreeSet<At>,
    open: BinaryHeap<Reverse<(u128, u128, usize)>>,
}

impl<'m, 'a> Search<'m, 'a> {
    fn new(moves: &'m Moves<'a>, part_of: &[usize], wanted: usize) -> Self {
        let hosts: Vec<usize> = (0..part_of.len()).filter(|h| part_of[*h] == wanted).collect();
        let place: BTreeMap<usize, u32> = (0u32..).zip(&hosts).map(|(i, h)| (*h, i)).collect();
        let mut free = moves.free_now();
        let can_go = |vm: &usize| {
            let allowed = moves.allowed(*vm);
            hosts.iter().any(|h| allowed[*h] && *h != moves.source[*vm])
        };
        let vms: Vec<usize> = (0..moves.source.len())
            .filter(|vm| part_of[moves.source[*vm]] == wanted)
            .filter(can_go)
            .collect();
        for vm in &vms {
            add(&mut free[moves.source[*vm]], &moves.demand[*vm]);
        }
        Self {
            goal: vms.iter().map(|vm| place[&moves.target[*vm]]).collect(),
            cost: vms.iter().map(|vm| moves.memory[*vm] + 1).collect(),
            free: hosts.iter().map(|h| free[*h].clone()).collect(),
            moves,
            hosts,
            vms,
            nodes: Vec::new(),
            seen: BTreeSet::new(),
            open: BinaryHeap::new(),
        }
    }

    /// Searches from the start and from the end of `begun`, which is a beginning; only for what is
    /// better than the order known.
    fn run(mut self, begun: &[Hop], known: Option<&[Hop]>) -> Found {
        let index: BTreeMap<usize, usize> = self.vms.iter().enumerate().map(|(i, vm)| (*vm, i)).collect();
        let place: BTreeMap<usize, u32> = (0u32..).zip(&self.hosts).map(|(i, h)| (*h, i)).collect();
        let costs = |hops: &[Hop]| hops.iter().map(|hop| self.cost[index[&hop.vm]]).sum::<u128>();
        let (carried, less_than) = (costs(begun), known.map_or(u128::MAX, costs));
        let mut at: Vec<u32> = self.vms.iter().map(|vm| place[&self.moves.source[*vm]]).collect();
        self.reach(at.clone().into(), 0, None, less_than);
        begun
            .iter()
            .for_each(|hop| at[index[&hop.vm]] = place[&hop.target]);
        self.reach(at.into(), carried, None, less_than);
        let states_max = STATES_MAX.min(POSITIONS_MAX / self.vms.len().max(1));
        let mut looks = 0;
        while let Some(Reverse((_, left, node))) = self.open.pop() {
            if left == 0 {
                return Found::Order(self.path(node, begun));
            }
            let free = self.free_at(&self.nodes[node].at);
            for i in 0..self.vms.len() {
                looks += self.hosts.len();
                if self.seen.len() >= states_max || looks > LOOKS_MAX {
                    return Found::GivenUp(self.seen.len());
                }
                self.send(node, i, &free, less_than);
            }
        }
        Found::None
    }

    /// Every host one VM can go to.
    fn send(&mut self, node: usize, i: usize, free: &[Left], less_than: u128) {
        let (moves, vm) = (self.moves, self.vms[i]);
        let (at, carried) = (self.nodes[node].at.clone(), self.nodes[node].carried);
        let allowed = moves.allowed(vm);
        for (host, has) in free.iter().enumerate() {
            if host as u32 != at[i] && allowed[self.hosts[host]] && fits(&moves.demand[vm], has) {
                let mut next = at.to_vec();
                next[i] = host as u32;
                self.reach(next.into(), carried + self.cost[i], Some((node, i)), less_than);
            }
        }
    }

    /// Notes a state that is new and may still be part of a better order.
    fn reach(&mut self, at: At, carried: u128, before: Option<(usize, usize)>, less_than: u128) {
        let away = (0..at.len()).filter(|i| at[*i] != self.goal[*i]);
        let left: u128 = away.map(|i| self.cost[i]).sum();
        if carried + left < less_than && self.seen.insert(at.clone()) {
            self.open
                .push(Reverse((carried + LEFT_WEIGHT * left, left, self.nodes.len())));
            self.nodes.push(Node { at, carried, before });
        }
    }

    fn free_at(&self, at: &At) -> Vec<Left> {
        let mut free = self.free.clone();
        for (i, host) in at.iter().enumerate() {
            subtract(&mut free[*host as usize], &self.moves.demand[self.vms[i]]);
        }
        free
    }

    /// The hops that led to a node.
    fn path(&self, mut node: usize, begun: &[Hop]) -> Vec<Hop> {
        let mut hops = Vec::new();
        while let Some((before, i)) = self.nodes[node].before {
            let host = |node: usize| self.hosts[self.nodes[node].at[i] as usize];
            hops.push(Hop {
                vm: self.vms[i],
                source: host(before),
                target: host(node),
                spare: host(node) != self.moves.target[self.vms[i]],
            });
            node = before;
        }
        // The first node is the start itself, the second where `begun` ends.
        if node > 0 {
            hops.extend(begun.iter().rev());
        }
        hops.reverse();
        hops
    }
}
