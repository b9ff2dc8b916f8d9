//! Local search on a complete placement: empty a host, bring items home, bring talkers together.
//! Every step lowers the cost.

use super::load::{Cost, Load, NOWHERE, size, weights};
use super::watch::Watch;

/// Rounds over all items.
const ROUNDS_MAX: usize = 20;
/// Hosts that are tried to be emptied in one round.
const EMPTYINGS_MAX: usize = 200;

/// Improves until nothing helps or the watch ends it.
pub(crate) fn improve(load: &mut Load<'_>, watch: &mut Watch<'_>) {
    for _ in 0..ROUNDS_MAX {
        let before = load.cost;
        empty_hosts(load, watch);
        exchange_hosts(load, watch);
        move_items(load, watch);
        if load.cost == before || watch.is_over() {
            return;
        }
    }
}

/// Tries to spread what a nearly empty host holds over the others in use.
fn empty_hosts(load: &mut Load<'_>, watch: &mut Watch<'_>) {
    let weights = weights(load.problem);
    let mut used: Vec<usize> = (0..load.on.len()).filter(|h| load.is_used(*h)).collect();
    let filled = |h: &usize| {
        let items = load.on[*h].iter();
        items
            .map(|i| size(&load.problem.items[*i].demand, &weights))
            .sum::<f64>()
    };
    used.sort_by(|a, b| filled(a).total_cmp(&filled(b)));
    for host in used.iter().copied().take(EMPTYINGS_MAX) {
        if !watch.spend(used.len() as u64) {
            return;
        }
        try_to_empty(load, host, &used, &weights, watch);
    }
}

fn try_to_empty(load: &mut Load<'_>, host: usize, used: &[usize], weights: &[f64], watch: &mut Watch<'_>) {
    let mut items = load.on[host].clone();
    items.sort_by(|a, b| {
        let of = |i: &usize| size(&load.problem.items[*i].demand, weights);
        of(b).total_cmp(&of(a))
    });
    let mut moved: Vec<usize> = Vec::new();
    for item in items {
        let others = used.iter().copied().filter(|h| *h != host && load.is_used(*h));
        let accepting = others.filter(|h| load.accepts(item, *h));
        let best =
            accepting.min_by(|a, b| size(&load.free[*a], weights).total_cmp(&size(&load.free[*b], weights)));
        match best {
            Some(other) if watch.spend(used.len() as u64 / 4) => {
                load.take(item);
                load.put(item, other);
                moved.push(item);
            }
            Some(_) | None => {
                for item in moved {
                    load.take(item);
                    load.put(item, host);
                }
                return;
            }
        }
    }
}

/// Exchanges the whole contents of two hosts of one kind where that lets more stay.
fn exchange_hosts(load: &mut Load<'_>, watch: &mut Watch<'_>) {
    for host in 0..load.on.len() {
        let Some(home) = best_home(load, host) else {
            continue;
        };
        if home == host || load.problem.host_kind[home] != load.problem.host_kind[host] || !watch.spend(8) {
            continue;
        }
        let before = load.cost;
        swap_contents(load, host, home);
        if load.cost >= before {
            swap_contents(load, host, home);
        }
    }
}

/// The host where most memory of this host's items lives.
fn best_home(load: &Load<'_>, host: usize) -> Option<usize> {
    let mut homes: Vec<(usize, u128)> = Vec::new();
    for item in &load.on[host] {
        for (home, memory) in &load.problem.items[*item].homes {
            match homes.iter_mut().find(|(h, _)| h == home) {
                Some((_, sum)) => *sum += memory,
                None => homes.push((*home, *memory)),
            }
        }
    }
    homes
        .into_iter()
        .max_by_key(|(h, memory)| (*memory, usize::MAX - h))
        .map(|(h, _)| h)
}

fn swap_contents(load: &mut Load<'_>, a: usize, b: usize) {
    let (on_a, on_b) = (load.on[a].clone(), load.on[b].clone());
    for item in on_a.iter().chain(&on_b) {
        load.take(*item);
    }
    on_a.into_iter().for_each(|item| load.put(item, b));
    on_b.into_iter().for_each(|item| load.put(item, a));
}

/// Tries every item where it lives and where its peers are: alone, or against one that is there.
fn move_items(load: &mut Load<'_>, watch: &mut Watch<'_>) {
    for item in 0..load.problem.items.len() {
        let it = &load.problem.items[item];
        let mut hosts: Vec<usize> = it.homes.iter().map(|(h, _)| *h).collect();
        hosts.extend(it.peers.iter().map(|(peer, _)| load.host_of[*peer]));
        hosts.sort_unstable();
        hosts.dedup();
        for host in hosts {
            if host == load.host_of[item] || host == NOWHERE {
                continue;
            }
            if !watch.spend(load.on[host].len() as u64 + 1) {
                return;
            }
            if try_move(load, item, host) || try_swap(load, item, host) {
                break;
            }
        }
    }
}

fn try_move(load: &mut Load<'_>, item: usize, host: usize) -> bool {
    if !load.accepts(item, host) {
        return false;
    }
    let before = load.cost;
    let from = load.take(item);
    load.put(item, host);
    keep_or(load, before, |load| {
        load.take(item);
        load.put(item, from);
    })
}

fn try_swap(load: &mut Load<'_>, item: usize, host: usize) -> bool {
    if !load.problem.allow[load.problem.items[item].allow][host] {
        return false;
    }
    for at in 0..load.on[host].len() {
        let other = load.on[host][at];
        let before = load.cost;
        let from = load.take(item);
        load.take(other);
        let fits = load.accepts(item, host) && {
            load.put(item, host);
            let fits = load.accepts(other, from);
            load.take(item);
            fits
        };
        let (first, second) = if fits { (host, from) } else { (from, host) };
        load.put(item, first);
        load.put(other, second);
        if fits
            && keep_or(load, before, |load| {
                load.take(item);
                load.take(other);
                load.put(item, from);
                load.put(other, host);
            })
        {
            return true;
        }
        // Taking and putting back may have changed the order on the host.
        if let Some(now) = load.on[host].iter().position(|i| *i == other) {
            load.on[host].swap(now, at);
        }
    }
    false
}

fn keep_or(load: &mut Load<'_>, before: Cost, undo: impl FnOnce(&mut Load<'_>)) -> bool {
    if load.cost < before {
        return true;
    }
    undo(load);
    false
}
