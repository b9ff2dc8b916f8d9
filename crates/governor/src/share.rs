//! Max-min fair shares of links between batches, each batch with one time to be ready.
//!
//! A stream with `left` bytes that gets `dirty` more a second is ready after `T` at the rate
//! `dirty + left / T`; all streams of a group have the same `T`. The sums of the groups rise
//! together until a link is full; the groups on it are fixed, the others go on.

use crate::limits::LEFT_BYTES_MIN;

/// What one stream wants; bytes and bytes per second.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Demand {
    /// Its links, as places in the list of budgets.
    pub links: Vec<usize>,
    pub left: f64,
    pub dirty: f64,
    /// It gets so much if the links have it.
    pub least: f64,
    /// It gets no more.
    pub most: f64,
}

/// What the streams of a batch want, without those that have no budget.
#[derive(Debug, Clone)]
pub(crate) struct Both {
    /// While its guests run.
    pub copying: Vec<Option<Demand>>,
    /// While they stand still.
    pub switching: Vec<Option<Demand>>,
}

/// Steps of a bisection: the last halves a rate of 400 Gbit/s to less than a byte.
const HALVINGS: u32 = 40;
/// Sums of rates may differ by this share.
const ROUNDING: f64 = 1e-9;
/// As if a stream could be ready in no time.
const HASTE_MAX: f64 = 1e9;

impl Demand {
    /// Its rate at a haste: up to 1 from the least to what it dirties, then ready after
    /// `1 / (haste - 1)` seconds.
    fn rate(&self, haste: f64) -> f64 {
        let kept_up = self.dirty.clamp(self.least, self.most.max(self.least));
        let rate = if haste <= 1.0 {
            self.least + (kept_up - self.least) * haste
        } else {
            kept_up + self.left.max(LEFT_BYTES_MIN) * (haste - 1.0)
        };
        rate.clamp(self.least, self.most.max(self.least))
    }
}

fn sum(group: &[Demand], haste: f64) -> f64 {
    group.iter().map(|demand| demand.rate(haste)).sum()
}

/// The haste at which a group's rates add up to `level`, or the most it takes.
fn haste(group: &[Demand], level: f64) -> f64 {
    let mut high = 1.0;
    while sum(group, high) < level && high < HASTE_MAX {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if sum(group, middle) <= level {
            low = middle
        } else {
            high = middle
        }
    }
    low
}

/// A rate for each stream of each batch. Batches whose guests stand still come first; the others
/// keep their least, and at most half of a link.
pub(crate) fn share_in_turn(budgets: &[f64], batches: &[Both], stopped: &[bool]) -> Vec<Vec<Option<f64>>> {
    let wanted = |place: usize| match stopped[place] {
        true => &batches[place].switching,
        false => &batches[place].copying,
    };
    let mut rates: Vec<Vec<Option<f64>>> = (0..batches.len())
        .map(|place| vec![None; wanted(place).len()])
        .collect();
    let mut left = budgets.to_vec();
    for turn in [true, false] {
        let available = match turn {
            true => beside(budgets, batches, |place| stopped[place]),
            false => left.clone(),
        };
        let places: Vec<usize> = (0..batches.len())
            .filter(|place| stopped[*place] == turn)
            .collect();
        let groups: Vec<Vec<Demand>> = places
            .iter()
            .map(|place| wanted(*place).iter().flatten().cloned().collect())
            .collect();
        for (place, shares) in places.iter().zip(share(&available, &groups)) {
            let limited = wanted(*place)
                .iter()
                .enumerate()
                .filter_map(|(at, demand)| Some((at, demand.as_ref()?)));
            for ((at, demand), rate) in limited.zip(shares) {
                demand
                    .links
                    .iter()
                    .for_each(|link| left[*link] = (left[*link] - rate).max(0.0));
                rates[*place][at] = Some(rate);
            }
        }
    }
    rates
}

/// What one batch would have, its guests standing still and no other's.
pub(crate) fn share_alone(budgets: &[f64], batches: &[Both], place: usize) -> Vec<Option<f64>> {
    let available = beside(budgets, batches, |other| other == place);
    let wanted = &batches[place].switching;
    let group = wanted.iter().flatten().cloned().collect();
    let mut rates = share(&available, &[group]).into_iter().flatten();
    wanted
        .iter()
        .map(|demand| demand.as_ref().and_then(|_| rates.next()))
        .collect()
}

/// What the least rates of all others leave of each link, half of it at least.
fn beside(budgets: &[f64], batches: &[Both], first: impl Fn(usize) -> bool) -> Vec<f64> {
    let mut aside = vec![0.0; budgets.len()];
    let others = batches.iter().enumerate().filter(|(place, _)| !first(*place));
    for demand in others.flat_map(|(_, other)| other.copying.iter().flatten()) {
        demand.links.iter().for_each(|link| aside[*link] += demand.least);
    }
    let both = budgets.iter().zip(aside);
    both.map(|(budget, aside)| budget - aside.min(budget / 2.0))
        .collect()
}

/// A rate for each stream of each group; each stream has a link. No link's sum is above its budget:
/// where the least rates alone are, they are cut in proportion.
pub(crate) fn share(budgets: &[f64], groups: &[Vec<Demand>]) -> Vec<Vec<f64>> {
    let groups = fitting(budgets, groups);
    let mut fixed: Vec<Option<f64>> = groups
        .iter()
        .map(|group| group.is_empty().then_some(0.0))
        .collect();
    while fixed.contains(&None) {
        let all_at = |level: f64| -> Vec<f64> {
            let both = groups.iter().zip(&fixed);
            both.map(|(group, fixed)| fixed.unwrap_or_else(|| haste(group, level)))
                .collect()
        };
        let over = |level: f64| over(budgets, &groups, &all_at(level));
        let most: f64 = groups.iter().flatten().map(|demand| demand.most).sum();
        let (low, high) = highest(most, &|level| over(level).is_empty());
        let (full, reached) = (over(high), all_at(low));
        for (place, group) in groups.iter().enumerate() {
            let mut links = group.iter().flat_map(|demand| &demand.links);
            if fixed[place].is_none() && (full.is_empty() || links.any(|link| full.contains(link))) {
                fixed[place] = Some(reached[place]);
            }
        }
    }
    let rates = |(group, haste): (&Vec<Demand>, &Option<f64>)| {
        let haste = haste.unwrap_or_default();
        group.iter().map(|demand| demand.rate(haste)).collect()
    };
    groups.iter().zip(&fixed).map(rates).collect()
}

/// Demands that the links can have: no stream more than its slowest link, and all least rates
/// together within each budget.
fn fitting(budgets: &[f64], groups: &[Vec<Demand>]) -> Vec<Vec<Demand>> {
    let mut least = vec![0.0; budgets.len()];
    for demand in groups.iter().flatten() {
        demand.links.iter().for_each(|link| least[*link] += demand.least);
    }
    let fit = |demand: &Demand| {
        let links = || demand.links.iter();
        let slowest = links().map(|link| budgets[*link]).fold(f64::INFINITY, f64::min);
        let cut = links().map(|link| budgets[*link] / least[*link].max(budgets[*link]).max(1.0));
        let least = demand.least * cut.fold(1.0, f64::min);
        Demand {
            least,
            most: demand.most.min(slowest).max(least),
            ..demand.clone()
        }
    };
    groups
        .iter()
        .map(|group| group.iter().map(fit).collect())
        .collect()
}

/// The highest level up to `most` that is allowed, and one just above it that is not, or `most`.
fn highest(most: f64, allowed: &dyn Fn(f64) -> bool) -> (f64, f64) {
    if allowed(most) {
        return (most, most);
    }
    let (mut low, mut high) = (0.0, most);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if allowed(middle) {
            low = middle
        } else {
            high = middle
        }
    }
    (low, high)
}

/// Links that carry more than their budget.
fn over(budgets: &[f64], groups: &[Vec<Demand>], hastes: &[f64]) -> Vec<usize> {
    let mut loads = vec![0.0; budgets.len()];
    for (group, haste) in groups.iter().zip(hastes) {
        for demand in group {
            let rate = demand.rate(*haste);
            demand.links.iter().for_each(|link| loads[*link] += rate);
        }
    }
    // Sums of many rates are not exact.
    let too_much = |link: &usize| loads[*link] > budgets[*link] * (1.0 + ROUNDING);
    (0..budgets.len()).filter(too_much).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demand(links: &[usize], left: f64, dirty: f64) -> Demand {
        Demand {
            links: links.to_vec(),
            left,
            dirty,
            least: 1.0,
            most: f64::INFINITY,
        }
    }

    fn near(is: f64, expected: f64) -> bool {
        (is - expected).abs() <= expected.abs() * 1e-6 + 1e-6
    }

    const MB: f64 = 1e6;

    #[test]
    fn vms_of_a_batch_get_ready_together() {
        let group = vec![demand(&[0], 90.0 * MB, 0.0), demand(&[0], 10.0 * MB, 0.0)];
        let rates = share(&[50.0 * MB], &[group]);
        assert!(
            near(rates[0][0], 45.0 * MB) && near(rates[0][1], 5.0 * MB),
            "{rates:?}"
        );
    }

    #[test]
    fn what_is_dirtied_meanwhile_is_sent_beside() {
        let group = vec![demand(&[0], 40.0 * MB, 10.0 * MB), demand(&[0], 40.0 * MB, 0.0)];
        let rates = share(&[50.0 * MB], &[group]);
        assert!(
            near(rates[0][0], 30.0 * MB) && near(rates[0][1], 20.0 * MB),
            "{rates:?}"
        );
    }

    #[test]
    fn a_batch_waits_at_its_fullest_link_and_others_take_what_it_leaves() {
        // The first batch cannot use link 1 for more than link 0 lets through.
        let first = vec![demand(&[0, 1], 10.0 * MB, 0.0)];
        let second = vec![demand(&[1], 10.0 * MB, 0.0)];
        let rates = share(&[10.0 * MB, 100.0 * MB], &[first, second]);
        assert!(
            near(rates[0][0], 10.0 * MB) && near(rates[1][0], 90.0 * MB),
            "{rates:?}"
        );
    }

    #[test]
    fn two_batches_share_a_link_evenly_however_many_vms_they_have() {
        let first = vec![demand(&[0], 10.0 * MB, 0.0); 4];
        let second = vec![demand(&[0], 500.0 * MB, 0.0)];
        let rates = share(&[100.0 * MB], &[first, second]);
        assert!(
            near(rates[0].iter().sum(), 50.0 * MB) && near(rates[1][0], 50.0 * MB),
            "{rates:?}"
        );
    }

    #[test]
    fn least_rates_that_do_not_fit_are_cut() {
        let least = Demand {
            least: 8.0,
            ..demand(&[0], 1.0, 0.0)
        };
        let rates = share(
            &[10.0],
            &[vec![least.clone(), least.clone()], vec![least.clone(), least]],
        );
        assert!(rates.iter().flatten().all(|rate| near(*rate, 2.5)), "{rates:?}");
    }

    fn demands() -> impl Strategy<Value = Vec<Vec<Demand>>> {
        let one = (
            prop::collection::btree_set(0usize..5, 1..4),
            0.0..1e9,
            prop_oneof![Just(0.0), 0.0..1e8],
            prop_oneof![Just(f64::INFINITY), 1e5..1e9],
        );
        let one = one.prop_map(|(links, left, dirty, most)| Demand {
            links: links.into_iter().collect(),
            left,
            dirty,
            least: 125_000.0,
            most,
        });
        prop::collection::vec(prop::collection::vec(one, 0..5), 1..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_link_is_above_its_budget_and_each_batch_has_a_reason_not_to_go_faster(
            groups in demands(),
            budgets in prop::collection::vec(1e6..1e9, 5),
        ) {
            let rates = share(&budgets, &groups);
            let mut loads = [0.0; 5];
            for (group, rates) in groups.iter().zip(&rates) {
                for (demand, rate) in group.iter().zip(rates) {
                    prop_assert!(*rate <= demand.most * (1.0 + 1e-6));
                    demand.links.iter().for_each(|link| loads[*link] += rate);
                }
            }
            for (load, budget) in loads.iter().zip(&budgets) {
                prop_assert!(*load <= budget * (1.0 + 1e-6), "{load} of {budget}");
            }
            let sums: Vec<f64> = rates.iter().map(|rates| rates.iter().sum()).collect();
            for (place, group) in groups.iter().enumerate().filter(|(_, group)| !group.is_empty()) {
                let slowest = |demand: &Demand| demand.links.iter().map(|link| budgets[*link]).fold(f64::INFINITY, f64::min);
                let most = |demand: &Demand| demand.most.min(slowest(demand));
                let at_most = group.iter().zip(&rates[place]).all(|(demand, rate)| near(*rate, most(demand)));
                // Max-min: on a full link nobody who may take more has less than the others there.
                let bottleneck = group.iter().flat_map(|demand| &demand.links).any(|link| {
                    let there = groups.iter().enumerate().filter(|(_, other)| other.iter().any(|demand| demand.links.contains(link)));
                    let largest = there.map(|(other, _)| sums[other]).fold(0.0, f64::max);
                    loads[*link] >= budgets[*link] * (1.0 - 1e-6) && sums[place] >= largest * (1.0 - 1e-6)
                });
                let on_full = group.iter().flat_map(|demand| &demand.links).any(|link| loads[*link] >= budgets[*link] * (1.0 - 1e-6));
                // A least rate may lift another batch above the level of the rest.
                let lifted = on_full && sums[place] > 0.0 && groups.iter().any(|other| other.iter().map(|demand| demand.least).sum::<f64>() > sums[place]);
                prop_assert!(at_most || bottleneck || lifted, "batch {place}: {rates:?}");
            }
        }
    }
}
