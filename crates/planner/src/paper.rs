//! The paper's own algorithm (§3.2 steps 2 and 3): two lists sorted in descending order,
//! verification, recursive selection.
//!
//! ```text
//! hosts, most free first:     h1 h2 h3 h4 …        requests, largest first:  r1 r2 r3 …
//! for n = least possible, +1, … N(S2):   map r1 onto one of h1..hn, then r2, …; undo and try the next host when stuck
//! ```
//!
//! "Nodes with the highest amount of resources will be used first": only the first n of the sorted
//! list are tried, so the result is the least N(S2) where every host of the list holds at least as
//! much of everything as the next ([`Outcome::Mapped::proved`]); with several resources it need not
//! be. The recursion's work is bounded. Deliberately absent: any constraint beyond amounts.

/// Selections the recursion may try for one length n of the host list.
const SELECTIONS_PER_LENGTH_MAX: u64 = 200_000;

/// Selections the recursion may try in all.
const SELECTIONS_MAX: u64 = 20_000_000;

/// Amounts of each resource, all in the same order.
pub(crate) type Amounts = Vec<u64>;

/// What has to be mapped onto what; indices stand for names.
pub(crate) struct Lists {
    /// Free resources of each host, incremented by the cluster's own VMs there (§3.2 step 1).
    pub hosts: Vec<Amounts>,
    /// Needed resources of each VM.
    pub requests: Vec<Amounts>,
    /// For each VM the host it runs on, when that host is in the list.
    pub home: Vec<Option<usize>>,
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every request has a host.
    Mapped {
        /// Host of each request.
        host_of: Vec<usize>,
        /// No smaller number of hosts is possible.
        proved: bool,
        /// At least so many hosts are needed, whatever the algorithm.
        hosts_min: usize,
    },
    /// Not mapped.
    Unmapped {
        /// The request at which the recursion got stuck farthest down the list.
        stuck_at: usize,
        /// What every host had left there.
        left: Vec<Amounts>,
        /// Every selection was tried, so there is no solution; otherwise the bound on work was
        /// reached.
        exhausted: bool,
    },
}

/// Runs steps 2 and 3. `lists` must have at least one host and one request.
pub(crate) fn map(lists: &Lists) -> Outcome {
    let host_order = sorted_descending(&lists.hosts);
    let request_order = sorted_descending(&lists.requests);
    let hosts_min = hosts_at_least(&lists.hosts, &lists.requests);
    let chain = is_chain(&host_order, &lists.hosts);
    let mut search = Search::new(lists, &host_order, &request_order);
    let mut smaller_excluded = true;
    for length in hosts_min..=host_order.len() {
        match search.run(length) {
            End::Found => {
                return Outcome::Mapped {
                    host_of: search.host_of,
                    proved: length == hosts_min || (chain && smaller_excluded),
                    hosts_min: if chain && smaller_excluded {
                        length
                    } else {
                        hosts_min
                    },
                };
            }
            End::Exhausted => {}
            End::OutOfWork => smaller_excluded = false,
        }
        // The last length is always tried: it alone decides whether there is a solution at all.
        if search.selections_total > SELECTIONS_MAX {
            search.selections_total = 0;
            return search.last_resort(host_order.len(), hosts_min);
        }
    }
    search.unmapped(smaller_excluded)
}

/// Indices, largest first; several resources are weighed by their share of the total, ties by
/// index.
pub(crate) fn sorted_descending(items: &[Amounts]) -> Vec<usize> {
    let kinds = items.first().map_or(0, Vec::len);
    let totals: Vec<f64> = (0..kinds)
        .map(|r| items.iter().map(|a| a[r] as f64).sum::<f64>().max(1.0))
        .collect();
    let weight = |i: usize| -> f64 { items[i].iter().zip(&totals).map(|(a, t)| *a as f64 / t).sum() };
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| weight(*b).total_cmp(&weight(*a)).then(a.cmp(b)));
    order
}

/// The verification of step 2: for each resource, the fewest hosts whose sum covers all requests;
/// one more than there are when even all do not.
pub(crate) fn hosts_at_least(hosts: &[Amounts], requests: &[Amounts]) -> usize {
    let kinds = requests.first().map_or(0, Vec::len);
    let for_kind = |r: usize| {
        let needed: u128 = requests.iter().map(|a| u128::from(a[r])).sum();
        let mut amounts: Vec<u64> = hosts.iter().map(|a| a[r]).collect();
        amounts.sort_unstable_by(|a, b| b.cmp(a));
        let mut sum = 0u128;
        let mut count = 0;
        while sum < needed {
            match amounts.get(count) {
                Some(amount) => sum += u128::from(*amount),
                None => return hosts.len() + 1,
            }
            count += 1;
        }
        count
    };
    (0..kinds).map(for_kind).max().unwrap_or(0).max(1)
}

/// Whether each host of the order holds at least as much of every resource as the next: then the
/// first n are as good as any n.
fn is_chain(order: &[usize], hosts: &[Amounts]) -> bool {
    order
        .windows(2)
        .all(|pair| holds(&hosts[pair[0]], &hosts[pair[1]]))
}

fn holds(free: &[u64], needed: &[u64]) -> bool {
    free.iter().zip(needed).all(|(f, n)| f >= n)
}

enum End {
    Found,
    Exhausted,
    OutOfWork,
}

struct Search<'a> {
    lists: &'a Lists,
    host_order: &'a [usize],
    request_order: &'a [usize],
    free: Vec<Amounts>,
    host_of: Vec<usize>,
    selections_left: u64,
    selections_total: u64,
    deepest: usize,
    free_at_deepest: Vec<Amounts>,
}

impl<'a> Search<'a> {
    fn new(lists: &'a Lists, host_order: &'a [usize], request_order: &'a [usize]) -> Self {
        Self {
            lists,
            host_order,
            request_order,
            free: lists.hosts.clone(),
            host_of: vec![usize::MAX; lists.requests.len()],
            selections_left: 0,
            selections_total: 0,
            deepest: 0,
            free_at_deepest: lists.hosts.clone(),
        }
    }

    /// Tries to map every request onto the first `length` hosts of the order.
    fn run(&mut self, length: usize) -> End {
        let descent = self.request_order.len() as u64 * 2;
        self.selections_left = SELECTIONS_PER_LENGTH_MAX.max(descent);
        let before = self.selections_left;
        self.free.clone_from(&self.lists.hosts);
        self.deepest = 0;
        let end = self.select(length);
        self.selections_total += before - self.selections_left;
        end
    }

    /// The recursive selection, with its stack held by hand: as deep as there are requests.
    fn select(&mut self, length: usize) -> End {
        // For each level the number of candidates already tried.
        let mut tried = vec![0usize];
        while let Some(depth) = tried.len().checked_sub(1) {
            let Some(&request) = self.request_order.get(depth) else {
                return End::Found;
            };
            if self.selections_left == 0 {
                return End::OutOfWork;
            }
            match self.next_candidate(request, length, tried[depth]) {
                Some((host, next)) => {
                    self.selections_left -= 1;
                    tried[depth] = next;
                    self.take(request, host);
                    tried.push(0);
                }
                None => {
                    self.note_stuck(depth);
                    tried.pop();
                    if let Some(previous) = tried.len().checked_sub(1) {
                        self.give_back(self.request_order[previous]);
                    }
                }
            }
        }
        End::Exhausted
    }

    /// The first host not tried yet that holds the request: the VM's own host (it may stay), then
    /// the list from the top. A host that looks exactly like one tried before it at this level is
    /// passed over.
    fn next_candidate(&self, request: usize, length: usize, tried: usize) -> Option<(usize, usize)> {
        let needed = &self.lists.requests[request];
        let prefix = &self.host_order[..length];
        let home = self.lists.home[request].filter(|h| prefix.contains(h));
        for position in tried..=length {
            let host = match (position, home) {
                (0, Some(home)) => home,
                (0, None) => continue,
                (p, home) if Some(prefix[p - 1]) == home => continue,
                (p, _) => prefix[p - 1],
            };
            let twin_tried = position > 1
                && Some(prefix[position - 2]) != home
                && self.free[prefix[position - 2]] == self.free[host];
            if !twin_tried && holds(&self.free[host], needed) {
                return Some((host, position + 1));
            }
        }
        None
    }

    fn take(&mut self, request: usize, host: usize) {
        for (free, needed) in self.free[host].iter_mut().zip(&self.lists.requests[request]) {
            *free -= needed;
        }
        self.host_of[request] = host;
    }

    fn give_back(&mut self, request: usize) {
        let host = self.host_of[request];
        for (free, needed) in self.free[host].iter_mut().zip(&self.lists.requests[request]) {
            *free += needed;
        }
    }

    fn note_stuck(&mut self, depth: usize) {
        if depth >= self.deepest {
            self.deepest = depth;
            self.free_at_deepest.clone_from(&self.free);
        }
    }

    /// One descent over the whole list after the bound on work was reached.
    fn last_resort(mut self, length: usize, hosts_min: usize) -> Outcome {
        match self.run(length) {
            End::Found => Outcome::Mapped {
                host_of: self.host_of,
                proved: false,
                hosts_min,
            },
            End::Exhausted => self.unmapped(true),
            End::OutOfWork => self.unmapped(false),
        }
    }

    fn unmapped(self, exhausted: bool) -> Outcome {
        Outcome::Unmapped {
            stuck_at: self.request_order[self.deepest.min(self.request_order.len() - 1)],
            left: self.free_at_deepest,
            exhausted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_resource(hosts: &[u64], requests: &[u64]) -> Lists {
        Lists {
            hosts: hosts.iter().map(|a| vec![*a]).collect(),
            requests: requests.iter().map(|a| vec![*a]).collect(),
            home: vec![None; requests.len()],
        }
    }

    #[test]
    fn both_lists_are_in_descending_order() {
        assert_eq!(sorted_descending(&[vec![1], vec![5], vec![3]]), [1, 2, 0]);
        assert_eq!(
            sorted_descending(&[vec![1, 9], vec![9, 1], vec![9, 9]]),
            [2, 0, 1]
        );
    }

    #[test]
    fn recursion_undoes_a_greedy_choice() {
        // First fit alone puts 5 with 4 and is left with 3, 3, 2 against 1 and 10-7.
        let lists = one_resource(&[10, 7], &[5, 4, 3, 3, 2]);
        let Outcome::Mapped { host_of, proved, .. } = map(&lists) else {
            panic!("5+3+2 and 4+3 fit");
        };
        assert!(proved);
        assert_eq!(host_of.iter().filter(|h| **h == 0).count(), 3);
    }

    #[test]
    fn nothing_is_claimed_when_every_selection_fails() {
        let lists = one_resource(&[5, 5], &[4, 3, 3]);
        assert_eq!(
            map(&lists),
            Outcome::Unmapped {
                stuck_at: 2,
                left: vec![vec![1], vec![2]],
                exhausted: true
            }
        );
    }

    #[test]
    fn the_work_is_bounded() {
        // Multiples of 3 fill a host of 100 to 99 at most, so 999 do not fit ten hosts; only the
        // recursion's limit stops it.
        let mut requests = [[24; 10], [33; 10], [42; 10]].concat();
        requests[0..3].fill(27);
        let end = map(&one_resource(&[100; 10], &requests));
        assert!(
            matches!(end, Outcome::Unmapped { exhausted: false, .. }),
            "{end:?}"
        );
    }
}
