//! The best contents of one host at given prices: a bounded knapsack with several resources, exact unless its work runs out.

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
    /// Candidates looked at.
    pub work: u64,
}

struct Search<'a> {
    choices: &'a [Choice],
    /// For every suffix of the choices and every measure, the most value per unit.
    density: Vec<Vec<f64>>,
    capacity: &'a [u64],
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
    let weigh = |c: &Choice| -> f64 {
        let parts = c.demand.iter().zip(capacity);
        parts
            .map(|(d, cap)| *d as f64 / (*cap).max(1) as f64)
            .sum::<f64>()
            .max(1e-12)
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
        capacity,
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

impl Search<'_> {
    /// Most that the choices from `position` on can add to what is free.
    fn bound(&self, position: usize, free: &[u64]) -> u64 {
        let density = &self.density[position];
        let mut least = f64::INFINITY;
        let mut combined = 0.0;
        for (r, f) in free.iter().enumerate() {
            if density[r].is_finite() {
                least = least.min(density[r] * *f as f64);
            }
            combined += *f as f64 / self.capacity[r].max(1) as f64;
        }
        least = least.min(density[free.len()] * combined);
        // A hair more, against rounding.
        (least * (1.0 + 1e-12) + 1e-6).floor() as u64
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
        let bound = value + self.bound(position, free);
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
