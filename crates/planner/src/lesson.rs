//! What earlier moves teach a forecast: the model says how a figure scales, its record says where
//! in the model's range the actual value lies.
//!
//! Distribution-free, as in conformal prediction (Vovk, Gammerman and Shafer 2005): if the next
//! move is like those before, its actual value lies between the outer ones of their places but for
//! about [`TAIL`] at each end; a margin allows for how few there are and for VMs of one batch being
//! alike. Places are ratios, not differences: bytes and times spread by factors, and a range of
//! them never reaches down to nothing.

use transhume_model::Interval;

/// With fewer figures the model stands alone.
pub const PLACES_MIN: usize = 8;
/// Share of the places left out at each end.
pub const TAIL: f64 = 0.05;
/// Margin at each end, as a share of what lies between the outer places.
pub const MARGIN: f64 = 0.25;
/// What is below this share of the range's low end counts as nothing, which has no ratio.
pub const NOTHING: f64 = 0.001;
/// The least margin, as a share of the model's range.
pub const MARGIN_MIN: f64 = 0.01;

/// Where the actual values of one figure lay in the ranges that the model gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lesson {
    /// 0 at the low end of the range, 1 at its high end, 1/2 at their geometric mean, beyond them
    /// where the model was wrong.
    places: Vec<f64>,
}

impl Lesson {
    /// Takes one actual value into account, beside what the model alone had said.
    pub fn add(&mut self, modelled: Interval, actual: f64) {
        let actual = actual.max(NOTHING * modelled.low);
        let place = (actual / modelled.low).ln() / (modelled.high / modelled.low).ln();
        if place.is_finite() {
            self.places.push(place);
        }
    }

    /// Whether there are enough values to say anything.
    pub fn is_taught(&self) -> bool {
        self.places.len() >= PLACES_MIN
    }

    /// The model's range, narrowed or moved to where actual values have been; as it is while there
    /// are too few of them.
    pub fn applied_to(&self, modelled: Interval) -> Interval {
        if !self.is_taught() || modelled.low <= 0.0 {
            return modelled;
        }
        let mut places = self.places.clone();
        places.sort_by(f64::total_cmp);
        let left_out = (TAIL * places.len() as f64) as usize;
        let (first, last) = (places[left_out], places[places.len() - 1 - left_out]);
        let margin = (MARGIN * (last - first)).max(MARGIN_MIN);
        let or_nothing = |end: f64| if end < NOTHING * modelled.low { 0.0 } else { end };
        let at = |place: f64| modelled.low * (modelled.high / modelled.low).powf(place);
        Interval {
            low: or_nothing(at(first - margin)),
            high: at(last + margin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELLED: Interval = Interval {
        low: 100.0,
        high: 300.0,
    };

    fn taught(actuals: impl IntoIterator<Item = f64>) -> Lesson {
        let mut lesson = Lesson::default();
        actuals
            .into_iter()
            .for_each(|actual| lesson.add(MODELLED, actual));
        lesson
    }

    #[test]
    fn a_few_moves_teach_nothing_yet() {
        let few = taught([150.0; PLACES_MIN - 1]);
        assert_eq!((few.applied_to(MODELLED), few.is_taught()), (MODELLED, false));
        assert!(taught([150.0; PLACES_MIN]).is_taught());
    }

    #[test]
    fn the_range_narrows_to_where_actual_values_were_and_scales_with_the_model() {
        let lesson = taught((0..10).map(|i| 140.0 + f64::from(i)));
        let range = lesson.applied_to(MODELLED);
        assert!(
            (range.low - 137.84).abs() < 0.01 && (range.high - 151.34).abs() < 0.01,
            "{range:?}"
        );
        let twice = lesson.applied_to(MODELLED.map(|end| 2.0 * end));
        assert!((twice.low - 2.0 * range.low).abs() < 1e-9 && (twice.high - 2.0 * range.high).abs() < 1e-9);
    }

    #[test]
    fn where_the_model_was_wrong_the_range_moves() {
        let range = taught([400.0; 20]).applied_to(MODELLED);
        assert!(
            range.low > MODELLED.high && range.holds(400.0) && range.high < 410.0,
            "{range:?}"
        );
        let range = taught([4.0, 1.0].repeat(10)).applied_to(MODELLED);
        assert!(
            range.low > 0.0 && range.low < 1.0,
            "nothing takes no time: {range:?}"
        );
        assert_eq!(
            taught([0.0; 20]).applied_to(MODELLED).low,
            0.0,
            "nothing was seen"
        );
    }

    #[test]
    fn one_odd_move_in_twenty_is_left_out() {
        let mut actuals = vec![200.0; 39];
        actuals.push(90_000.0);
        assert!(taught(actuals).applied_to(MODELLED).high < 210.0);
    }

    #[test]
    fn nine_of_ten_of_the_next_actual_values_lie_inside() {
        // A skewed figure, 24 values to learn from, the next 8 judged; 500 times.
        let mut state = 7u64;
        let mut skewed = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let share = (state >> 11) as f64 / (1u64 << 53) as f64;
            120.0 + 20.0 * -(1.0 - share).ln()
        };
        let mut inside = 0;
        for _ in 0..500 {
            let range = taught((0..24).map(|_| skewed())).applied_to(MODELLED);
            inside += (0..8).filter(|_| range.holds(skewed())).count();
        }
        assert!(inside > 3_600, "{inside} of 4000");
    }

    #[test]
    fn a_range_without_width_has_no_places() {
        let point = Interval { low: 5.0, high: 5.0 };
        let mut lesson = Lesson::default();
        (0..20).for_each(|_| lesson.add(point, 5.0));
        assert_eq!(lesson, Lesson::default());
    }
}
