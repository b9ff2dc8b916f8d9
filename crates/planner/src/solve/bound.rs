//! Lower bounds on the number of targets: sums, Martello and Toth's L2 per resource, and what
//! groups force.
//!
//! Each bound holds for any hosts by counting every host as large as the largest. All in whole
//! numbers.

use crate::paper::hosts_at_least;
use crate::problem::Problem;

/// The best of the bounds that take no search.
pub(crate) fn hosts_min(problem: &Problem) -> usize {
    let demands: Vec<Vec<u64>> = problem.items.iter().map(|i| i.demand.clone()).collect();
    let hosts = usable(problem);
    let sums = hosts_at_least(&hosts, &demands);
    let l2 = (0..problem.resources.len())
        .map(|r| l2(problem, &hosts, r))
        .max()
        .unwrap_or(0);
    let apart = problem.groups.iter().map(Vec::len).max().unwrap_or(0);
    sums.max(l2)
        .max(apart)
        .max(usize::from(!problem.items.is_empty()))
}

/// Hosts without what no VMs can ever fill: where all demands are multiples of a step, so is what a
/// host holds.
fn usable(problem: &Problem) -> Vec<Vec<u64>> {
    let mut hosts = problem.hosts.clone();
    for r in 0..problem.resources.len() {
        let step = step(problem.items.iter().map(|i| i.demand[r]));
        hosts
            .iter_mut()
            .for_each(|host| host[r] -= host[r].checked_rem(step).unwrap_or(0));
    }
    hosts
}

/// The greatest common divisor of demands; 0 when all are.
pub(super) fn step(demands: impl Iterator<Item = u64>) -> u64 {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    demands.fold(0, gcd)
}

/// Martello and Toth (1990): items above half a host need one each; with every threshold t, items
/// above C - t too, and what the rest of the items of at least t exceeds the room beside the middle
/// ones.
fn l2(problem: &Problem, hosts: &[Vec<u64>], r: usize) -> usize {
    let capacity = hosts.iter().map(|h| h[r]).max().unwrap_or(0);
    let mut sizes: Vec<u64> = problem
        .items
        .iter()
        .map(|i| i.demand[r])
        .filter(|d| *d > 0)
        .collect();
    if capacity == 0 || sizes.iter().any(|s| *s > capacity) {
        return 0;
    }
    sizes.sort_unstable();
    let mut prefix = vec![0u128];
    for s in &sizes {
        prefix.push(prefix[prefix.len() - 1] + u128::from(*s));
    }
    let below = |limit: u64| sizes.partition_point(|s| *s <= limit);
    let sum = |from: usize, to: usize| prefix[to.max(from)] - prefix[from];
    let half = below(capacity / 2);
    let mut best = sizes.len() - half;
    let mut thresholds: Vec<u64> = sizes[..half].to_vec();
    thresholds.dedup();
    for t in thresholds {
        let small_from = sizes.partition_point(|s| *s < t);
        let large_from = below(capacity - t).max(half);
        let (large, middle) = (sizes.len() - large_from, large_from - half);
        let room = middle as u128 * u128::from(capacity) - sum(half, large_from);
        let rest = sum(small_from, half).saturating_sub(room);
        best = best.max(large + middle + rest.div_ceil(u128::from(capacity)) as usize);
    }
    best
}

/// Memory that has to move whatever is chosen: of items that may not stay, and, with at most
/// `hosts` targets, of all but what the `hosts` best homes hold.
pub(crate) fn memory_min(problem: &Problem, hosts: usize) -> u128 {
    let mut forced = 0;
    let mut total = 0;
    let mut staying = vec![0u128; problem.hosts.len()];
    for (i, item) in problem.items.iter().enumerate() {
        total += item.memory;
        let homes = item.homes.iter().filter(|(h, _)| problem.admits(i, *h));
        let most = homes.clone().map(|(_, memory)| *memory).max().unwrap_or(0);
        forced += item.memory - most;
        for (host, memory) in homes {
            staying[*host] += memory;
        }
    }
    staying.sort_unstable_by(|a, b| b.cmp(a));
    let kept: u128 = staying.iter().take(hosts).sum();
    forced.max(total.saturating_sub(kept))
}

/// Traffic that has to cross between hosts: of pairs that no host can hold together.
pub(crate) fn traffic_min(problem: &Problem) -> u128 {
    let mut crossing = problem.traffic_staying;
    for (a, item) in problem.items.iter().enumerate() {
        let out_of_reach = item
            .peers_staying
            .iter()
            .filter(|(host, _)| !problem.admits(a, *host));
        crossing += out_of_reach.map(|(_, amount)| amount).sum::<u128>();
        for (b, amount) in item.peers.iter().filter(|(b, _)| *b > a) {
            let other = &problem.items[*b];
            let apart = item.groups.iter().any(|g| other.groups.contains(g));
            let shared = |h: usize| {
                let sums = item.demand.iter().zip(&other.demand).zip(&problem.hosts[h]);
                problem.allow[item.allow][h]
                    && problem.allow[other.allow][h]
                    && sums.into_iter().all(|((x, y), c)| x + y <= *c)
            };
            if apart || !problem.kinds.iter().any(|kind| shared(kind[0])) {
                crossing += amount;
            }
        }
    }
    crossing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Item;

    fn problem(capacity: u64, sizes: &[u64]) -> Problem {
        Problem {
            resources: vec!["r".into()],
            hosts: vec![vec![capacity]; sizes.len()],
            items: sizes
                .iter()
                .map(|s| Item {
                    demand: vec![*s],
                    ..Item::default()
                })
                .collect(),
            ..Problem::default()
        }
    }

    #[test]
    fn l2_sees_what_sums_do_not() {
        let l2 = |problem: &Problem| l2(problem, &problem.hosts, 0);
        // Three of 6 need a host each; the sum, 18, would fill two of 10.
        assert_eq!(l2(&problem(10, &[6, 6, 6])), 3);
        // 4s do not fit beside 7s: two hosts for the 7s, one more for the 4s.
        assert_eq!(l2(&problem(10, &[7, 7, 4, 4])), 3);
        assert_eq!(l2(&problem(10, &[5, 5, 5, 5])), 2);
    }

    #[test]
    fn what_comes_in_steps_cannot_fill_the_odd_rest() {
        // 66 would fill six hosts of 11, of which only 10 can be used.
        assert_eq!(hosts_min(&problem(11, &[2; 33])), 7);
        assert_eq!(hosts_min(&problem(14, &[4; 10])), 4);
    }
}
