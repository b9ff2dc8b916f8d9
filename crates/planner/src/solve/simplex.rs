//! A small revised simplex for the column-generation LP: cover rows (≥), availability rows (≤),
//! columns added as they are found.
//!
//! Floating point throughout: it only guides. What is claimed from its prices is recomputed in
//! whole numbers ([`super::pattern`]).

/// Reduced costs above this count as zero.
const EPSILON: f64 = 1e-9;
/// Smallest pivot element.
const PIVOT_MIN: f64 = 1e-7;
/// Cost of covering one unit by nothing: more than any host could save.
const UNCOVERED: f64 = 1e4;

/// A column and what it costs.
pub(super) struct Column {
    pub cost: f64,
    pub rows: Vec<(usize, f64)>,
}

/// The restricted master programme.
pub(super) struct Master {
    covers: usize,
    m: usize,
    columns: Vec<Column>,
    basis: Vec<usize>,
    in_basis: Vec<bool>,
    inverse: Vec<f64>,
    value: Vec<f64>,
    prices: Vec<f64>,
    internal: usize,
}

impl Master {
    /// `cover[i]` must be reached, `available[t]` not exceeded.
    pub fn new(cover: &[f64], available: &[f64]) -> Self {
        let (covers, m) = (cover.len(), cover.len() + available.len());
        let mut columns = Vec::new();
        for i in 0..m {
            let cost = if i < covers { UNCOVERED } else { 0.0 };
            columns.push(Column {
                cost,
                rows: vec![(i, 1.0)],
            });
        }
        for i in 0..covers {
            columns.push(Column {
                cost: 0.0,
                rows: vec![(i, -1.0)],
            });
        }
        let mut inverse = vec![0.0; m * m];
        (0..m).for_each(|i| inverse[i * m + i] = 1.0);
        let mut in_basis = vec![false; columns.len()];
        in_basis[..m].fill(true);
        // A tiny different amount on every row keeps degenerate pivots from circling.
        let rhs = cover.iter().chain(available).enumerate();
        let value = rhs
            .map(|(i, b)| b + 1e-7 * (1.0 + (i * 7919 % 1009) as f64 / 1009.0))
            .collect();
        Self {
            covers,
            m,
            internal: columns.len(),
            prices: columns[..m].iter().map(|c| c.cost).collect(),
            columns,
            basis: (0..m).collect(),
            in_basis,
            inverse,
            value,
        }
    }

    /// Adds a column; `optimize` looks at it next time.
    pub fn add(&mut self, column: Column) {
        self.columns.push(column);
        self.in_basis.push(false);
    }

    /// Pivots to the optimum over the columns there are, or until `spend` says no. Returns whether
    /// it got there.
    pub fn optimize(&mut self, mut spend: impl FnMut(u64) -> bool) -> bool {
        loop {
            if !spend((self.m * self.m / 16 + self.columns.len()) as u64 / 4 + 1) {
                return false;
            }
            let Some((entering, reduced)) = self.entering() else {
                return true;
            };
            if !self.pivot(entering, reduced) {
                // Numerically stuck: what there is still is a basis with valid prices.
                return true;
            }
        }
    }

    fn entering(&self) -> Option<(usize, f64)> {
        let mut best = None;
        let mut least = -EPSILON;
        for (j, column) in self.columns.iter().enumerate() {
            // Nothing that covers by paying enters again.
            if self.in_basis[j] || j < self.covers {
                continue;
            }
            let reduced = column.cost - column.rows.iter().map(|(i, a)| self.prices[*i] * a).sum::<f64>();
            if reduced < least {
                least = reduced;
                best = Some((j, reduced));
            }
        }
        best
    }

    fn pivot(&mut self, entering: usize, reduced: f64) -> bool {
        let m = self.m;
        let column = &self.columns[entering].rows;
        let direction: Vec<f64> = (0..m)
            .map(|row| column.iter().map(|(i, a)| self.inverse[row * m + i] * a).sum())
            .collect();
        let mut leaving: Option<(usize, f64)> = None;
        for (row, d) in direction.iter().enumerate() {
            if *d > PIVOT_MIN {
                let ratio = (self.value[row].max(0.0)) / d;
                if leaving.is_none_or(|(at, least)| ratio < least || (ratio == least && *d > direction[at])) {
                    leaving = Some((row, ratio));
                }
            }
        }
        let Some((row, ratio)) = leaving else {
            return false;
        };
        let scale = 1.0 / direction[row];
        for k in 0..m {
            self.inverse[row * m + k] *= scale;
        }
        let (before, rest) = self.inverse.split_at_mut(row * m);
        let (pivot_row, after) = rest.split_at_mut(m);
        let others = before.chunks_exact_mut(m).enumerate();
        let later = after
            .chunks_exact_mut(m)
            .enumerate()
            .map(|(i, r)| (i + row + 1, r));
        for (i, line) in others.chain(later) {
            let factor = direction[i];
            if factor != 0.0 {
                line.iter_mut()
                    .zip(pivot_row.iter())
                    .for_each(|(x, p)| *x -= factor * p);
                self.value[i] -= factor * ratio;
            }
        }
        self.value[row] = ratio;
        self.prices
            .iter_mut()
            .zip(pivot_row.iter())
            .for_each(|(y, p)| *y += reduced * p);
        self.in_basis[self.basis[row]] = false;
        self.in_basis[entering] = true;
        self.basis[row] = entering;
        true
    }

    /// Price of each row.
    pub fn prices(&self) -> &[f64] {
        &self.prices
    }

    /// Cost of the current solution.
    pub fn objective(&self) -> f64 {
        self.basis
            .iter()
            .zip(&self.value)
            .map(|(j, v)| self.columns[*j].cost * v)
            .sum()
    }

    /// Added columns (numbered from 0 as added) with their amounts.
    pub fn solution(&self) -> impl Iterator<Item = (usize, f64)> {
        let pairs = self.basis.iter().zip(&self.value);
        pairs
            .filter(|(j, _)| **j >= self.internal)
            .map(|(j, v)| (j - self.internal, *v))
    }
}
