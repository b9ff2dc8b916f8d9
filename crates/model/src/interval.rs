//! A range between two figures: what a forecast promises, or how exact a sample is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A range that the actual value is expected in.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    /// Best case.
    pub low: f64,
    /// Worst case.
    pub high: f64,
}

impl Interval {
    /// Both ends changed the same way.
    pub fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            low: change(self.low),
            high: change(self.high),
        }
    }

    /// Sum of the ends: of what happens one after the other.
    pub fn plus(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            high: self.high + other.high,
        }
    }

    /// The greater of the ends: of what happens at the same time and ends with the last.
    pub fn slowest(self, other: Self) -> Self {
        Self {
            low: self.low.max(other.low),
            high: self.high.max(other.high),
        }
    }

    /// Whether a measured value lies in it.
    pub fn holds(&self, actual: f64) -> bool {
        (self.low..=self.high).contains(&actual)
    }
}
