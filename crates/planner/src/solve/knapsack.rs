//! The best contents of one host at given prices: a bounded knapsack with several resources, exact
//! unless its work runs out.

use super::bound::step;
use super::simplex::{Column, Master};

/// What can be packed.
pub(super) struct Choice {
    /// Caller's name for it.
    pub id: usize,
    /// Whole-number value of one.
    pub value: u64,
    /// Demand of one.
    pub demand: Vec<u64>,
    /// Most of them.
    pub count: u64,
}

/// The result.
pub(super) struct Packed {
    /// Value of the contents found.
    pub value: u64,
    /// `(id, count)`.
    pub contents: Vec<(usize, u64)>,
    /// Nothing can be worth more than this; equal to `value` when the search was complete.
    pub value_max: u64,
    /// Candidates examined.
    pub work: u64,
}

struct Search<'a> {
    choices: &'a [Choice],
    /// For every suffix of the choices and every measure, the most value per unit.
    density: Vec<Vec<f64>>,
    /// For the resources that come in few steps.
    steps: Vec<Steps>,
    /// Weight of one unit of each resource in the measure that combines them.
    worth: Vec<f64>,
    counts: Vec<u64>,
    best: u64,
    best_counts: Vec<u64>,
    work: u64,
    work_max: u64,
    /// Highest bound among what was left out.
    left_out: u64,
}

/// Packs one host. Looks at no more than `work_max` candidates.
pub(super) fn pack(mut choices: Vec<Choice>, capacity: &[u64], work_max: u64) -> Packed {
    let fitting = |c: &Choice| c.value > 0 && c.count > 0 && crate::problem::fits(&c.demand, capacity);
    choices.retain(fitting);
    let worth = worth_of_resources(&choices, capacity);
    let weigh = |c: &Choice| -> f64 {
        let parts = c.demand.iter().zip(&worth);
        parts.map(|(d, w)| *d as f64 * w).sum::<f64>().max(1e-12)
    };
    choices.sort_by(|a, b| {
        let (x, y) = (a.value as f64 / weigh(a), b.value as f64 / weigh(b));
        y.total_cmp(&x)
            .then(weigh(b).total_cmp(&weigh(a)))
            .then(a.id.cmp(&b.id))
    });
    let kinds = capacity.len();
    let mut density = vec![vec![0.0f64; kinds + 1]; choices.len() + 1];
    for (p, c) in choices.iter().enumerate().rev() {
        let own = |d: u64| {
            if d == 0 {
                f64::INFINITY
            } else {
                c.value as f64 / d as f64
            }
        };
        let (here, later) = density.split_at_mut(p + 1);
        for ((most, after), d) in here[p].iter_mut().zip(&later[0]).zip(&c.demand) {
            *most = after.max(own(*d));
        }
        density[p][kinds] = density[p + 1][kinds].max(c.value as f64 / weigh(c));
    }
    let mut search = Search {
        density,
        steps: (0..kinds)
            .filter_map(|r| Steps::of(&choices, capacity, r))
            .collect(),
        worth,
        counts: vec![0; choices.len()],
        best: 0,
        best_counts: vec![0; choices.len()],
        work: 0,
        work_max,
        left_out: 0,
        choices: &choices,
    };
    search.descend(0, 0, &mut capacity.to_vec());
    let contents = choices.iter().zip(&search.best_counts).filter(|(_, n)| **n > 0);
    Packed {
        value: search.best,
        contents: contents.map(|(c, n)| (c.id, *n)).collect(),
        value_max: search.best.max(search.left_out),
        work: search.work,
    }
}

/// What one unit of each resource is worth where contents need not be whole: the dual prices of the
/// knapsack's relaxation, so that the combined measure bounds as well as the relaxation does. Any
/// weights give a valid bound; these give the least.
fn worth_of_resources(choices: &[Choice], capacity: &[u64]) -> Vec<f64> {
    let most = choices.iter().map(|c| c.value).max().unwrap_or(1) as f64;
    let mut relaxation = Master::new(&[], &vec![1.0; capacity.len()]);
    let scale: Vec<f64> = capacity.iter().map(|c| 1.0 / (*c).max(1) as f64).collect();
    for choice in choices {
        let rows = choice.demand.iter().zip(&scale).map(|(d, s)| *d as f64 * s);
        relaxation.add(Column {
            cost: -(choice.value as f64) / most,
            rows: rows.enumerate().filter(|(_, a)| *a > 0.0).collect(),
        });
    }
    relaxation.optimize(|_| true);
    // A resource that is worth nothing still counts a little: weights stay above zero.
    let prices = relaxation.prices().iter().zip(&scale);
    prices.map(|(price, s)| (-price).max(WORTH_MIN) * s).collect()
}

/// The most value by one resource alone, exactly: what 65 processors can hold where contents come
/// in fours is what 64 can.
struct Steps {
    resource: usize,
    /// All demands are multiples of it.
    step: u64,
    /// Steps of a whole host, and one.
    width: usize,
    /// For every suffix of the choices, by free steps.
    most: Vec<u64>,
}

/// Cells of all suffixes for one resource; with more the resource has no table.
const STEP_CELLS_MAX: u64 = 65_536;

impl Steps {
    fn of(choices: &[Choice], capacity: &[u64], resource: usize) -> Option<Self> {
        let step = step(choices.iter().map(|c| c.demand[resource]));
        let cells = (capacity[resource].checked_div(step)? + 1).checked_mul(choices.len() as u64 + 1)?;
        if cells > STEP_CELLS_MAX {
            return None;
        }
        let width = (capacity[resource] / step) as usize + 1;
        let mut most = vec![0u64; cells as usize];
        for (position, choice) in choices.iter().enumerate().rev() {
            let demand = (choice.demand[resource] / step) as usize;
            let (before, after) = most.split_at_mut((position + 1) * width);
            let here = &mut before[position * width..];
            here.copy_from_slice(&after[..width]);
            if demand == 0 {
                let all = choice.value.saturating_mul(choice.count);
                here.iter_mut()
                    .for_each(|value| *value = value.saturating_add(all));
            }
            for free in demand.max(1)..width {
                if demand > 0 {
                    here[free] = here[free].max(here[free - demand].saturating_add(choice.value));
                }
            }
        }
        Some(Self {
            resource,
            step,
            width,
            most,
        })
    }

    /// The most that the choices from `position` on can add.
    fn most(&self, position: usize, free: &[u64]) -> u64 {
        self.most[position * self.width + (free[self.resource] / self.step) as usize]
    }
}

/// Least worth of a whole host's amount of a resource, where the best contents are worth about one.
const WORTH_MIN: f64 = 1e-6;

impl Search<'_> {
    /// Most that the choices from `position` on can add to what is free.
    fn bound(&self, position: usize, free: &[u64]) -> u64 {
        let steps = self.steps.iter();
        let stepped = steps
            .map(|steps| steps.most(position, free))
            .min()
            .unwrap_or(u64::MAX);
        let density = &self.density[position];
        let mut least = f64::INFINITY;
        let mut combined = 0.0;
        for (r, f) in free.iter().enumerate() {
            if density[r].is_finite() {
                least = least.min(density[r] * *f as f64);
            }
            combined += *f as f64 * self.worth[r];
        }
        least = least.min(density[free.len()] * combined);
        // A hair more, against rounding.
        stepped.min((least * (1.0 + 1e-12) + 1e-6).floor() as u64)
    }

    fn descend(&mut self, position: usize, value: u64, free: &mut Vec<u64>) {
        if value > self.best {
            self.best = value;
            self.best_counts.clone_from(&self.counts);
        }
        let Some(choice) = self.choices.get(position) else {
            return;
        };
        self.work += 1;
        let bound = value.saturating_add(self.bound(position, free));
        if bound <= self.best {
            return;
        }
        if self.work >= self.work_max {
            self.left_out = self.left_out.max(bound);
            return;
        }
        let rooms = choice
            .demand
            .iter()
            .zip(free.iter())
            .filter(|(d, _)| **d > 0)
            .map(|(d, f)| f / d);
        let most = rooms.min().unwrap_or(u64::MAX).min(choice.count);
        for n in (0..=most).rev() {
            free.iter_mut().zip(&choice.demand).for_each(|(f, d)| *f -= d * n);
            self.counts[position] = n;
            self.descend(position + 1, value + choice.value * n, free);
            free.iter_mut()
                .zip(&self.choices[position].demand)
                .for_each(|(f, d)| *f += d * n);
        }
        self.counts[position] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(id: usize, value: u64, demand: &[u64], count: u64) -> Choice {
        Choice {
            id,
            value,
            demand: demand.to_vec(),
            count,
        }
    }

    #[test]
    fn the_best_contents_are_not_the_densest_first() {
        let choices = vec![
            choice(0, 60, &[6], 1),
            choice(1, 50, &[5], 2),
            choice(2, 1, &[1], 9),
        ];
        let packed = pack(choices, &[10], 1000);
        assert_eq!((packed.value, packed.value_max), (100, 100));
        assert_eq!(packed.contents, [(1, 2)]);
    }

    #[test]
    fn a_search_cut_short_still_bounds() {
        let choices = (0..20).map(|i| choice(i, 100 + i as u64, &[10 + i as u64, 29 - i as u64], 3));
        let exact = pack(choices.clone().collect(), &[97, 103], u64::MAX);
        let cut = pack(choices.collect(), &[97, 103], 30);
        assert!(cut.value <= exact.value && exact.value <= cut.value_max);
    }
}
