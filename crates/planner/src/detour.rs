//! Shortens detours: a VM that would only pass through a spare host may as well end there, with as
//! few targets and less memory carried.

use std::cell::OnceCell;

use crate::order::{Hop, Moves, Order, order};
use crate::problem::Problem;
use crate::solve::{Cost, cost_if_moved};

/// Placements tried; each is ordered anew.
const TRIALS_MAX: usize = 16;
/// More moves than this are left as they are: ordering them again and again takes too long.
const MOVES_MAX: usize = 2_000;

/// A placement with its moves.
pub(crate) struct Shortened<'a> {
    pub moves: Moves<'a>,
    pub cost: Cost,
}

/// Leaves VMs on the spare hosts they go by way of, where that uses no more targets, moves no more
/// memory and saves moves. Traffic between hosts counts less than memory carried.
pub(crate) fn shorten<'a>(
    problem: &'a Problem,
    mut host_of: Vec<usize>,
    mut cost: Cost,
    k: Option<usize>,
    mut moves: Moves<'a>,
) -> Shortened<'a> {
    if moves.count() > MOVES_MAX {
        return Shortened { moves, cost };
    }
    let ordered = |moves: &Moves<'_>| -> (Order, (u128, usize)) {
        let order = order(moves, k.unwrap_or(usize::MAX));
        let carried = moves.carried(order.hops());
        (order, carried)
    };
    let (mut now, mut carried) = ordered(&moves);
    let mut trials = 0;
    // Again from the first after each success: the order is another one then.
    'again: while now.cycle.is_empty() {
        let passing: Vec<Hop> = now.hops().filter(|hop| hop.spare).copied().collect();
        for hop in passing {
            let item = moves.item_of[hop.vm];
            let alone = problem.items[item].vms.len() == 1;
            let next = alone
                .then(|| cost_if_moved(problem, &host_of, item, hop.target))
                .flatten();
            let Some(next) = next.filter(|next| (next.hosts, next.memory) <= (cost.hosts, cost.memory))
            else {
                continue;
            };
            if trials == TRIALS_MAX {
                break 'again;
            }
            trials += 1;
            let before = moves.send(hop.vm, hop.target, OnceCell::new());
            let (ordering, carries) = ordered(&moves);
            if ordering.cycle.is_empty() && carries < carried {
                (now, carried, cost) = (ordering, carries, next);
                host_of[item] = hop.target;
                continue 'again;
            }
            moves.send(hop.vm, before.0, before.1);
        }
        break;
    }
    Shortened { moves, cost }
}
