//! What was expected of a move before anything moved, and, once it is over, how good that was.
//!
//! The coordinator makes a forecast with the move and the journal keeps it with its request; the
//! report compares it with what was measured. Nothing is decided by it here. Deliberately absent:
//! how a forecast is made (the planner).

use serde::{Deserialize, Serialize};
use transhume_model::{Interval, VmName};
use utoipa::ToSchema;

/// What is expected of a VM, or of a whole move.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Expected {
    /// Bytes between the agents, over VMCT.
    pub bytes: Interval,
    /// From the begin of the batch, or of the move, to its end, milliseconds.
    pub duration_ms: Interval,
    /// Blackout, milliseconds; of a move: its longest.
    pub blackout_ms: Interval,
    /// Gap, milliseconds; of a move: its longest. `None` while earlier moves have taught nothing of
    /// it: how often a guest sends decides it as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<Interval>,
}

/// Forecast of one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmForecast {
    /// The VM.
    pub vm: VmName,
    /// Its share of VMCT, Mbit/s.
    pub rate_mbit_s: f64,
    /// Its dirty rate as measured, with the error of the sample, MiB/s; `None` where it is assumed.
    pub dirty_mib_s: Option<Interval>,
    /// What is expected.
    pub expected: Expected,
    /// What the model alone says; `None` where earlier moves have taught nothing, and `expected` is
    /// the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled: Option<Expected>,
    /// What was not measured and is assumed.
    pub assumed: Vec<String>,
}

/// Forecast of a whole move.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct MoveForecast {
    /// Each VM, in the order in which they go.
    pub vms: Vec<VmForecast>,
    /// All of it.
    pub expected: Expected,
    /// VMs of earlier moves that narrowed these ranges; 0 where the model stands alone.
    #[serde(default)]
    pub learnt_from: usize,
}

impl MoveForecast {
    /// The forecast of a VM.
    pub fn of(&self, vm: &VmName) -> Option<&VmForecast> {
        self.vms.iter().find(|forecast| forecast.vm == *vm)
    }
}

/// A forecast figure and the actual one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForecastVsActual {
    /// As expected.
    pub forecast: Interval,
    /// As measured; `None` as long as, or because, the VM did not arrive.
    #[serde(alias = "truth")]
    pub actual: Option<f64>,
    /// Whether the actual figure lies in the forecast.
    pub inside: Option<bool>,
}

impl ForecastVsActual {
    /// Compares the two, where there is an actual figure.
    pub fn of(forecast: Interval, actual: Option<f64>) -> Self {
        Self {
            forecast,
            actual,
            inside: actual.map(|actual| forecast.holds(actual)),
        }
    }
}

/// What came of a VM, or of a whole move.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Actual {
    /// Bytes between the agents.
    pub bytes: Option<f64>,
    /// Milliseconds from begin to end.
    pub duration_ms: Option<f64>,
    /// Milliseconds of blackout.
    pub blackout_ms: Option<f64>,
    /// Milliseconds of gap.
    pub gap_ms: Option<f64>,
}

/// Forecast and actual figures, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Bytes between the agents, over VMCT.
    pub bytes: ForecastVsActual,
    /// From the begin of the batch, or of the move, to its end, milliseconds.
    pub duration_ms: ForecastVsActual,
    /// Blackout, milliseconds; of a move: its longest.
    pub blackout_ms: ForecastVsActual,
    /// Gap, milliseconds; of a move: its longest. `None` where none was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<ForecastVsActual>,
}

impl Comparison {
    /// Compares the two.
    pub fn of(expected: &Expected, actual: Actual) -> Self {
        Self {
            bytes: ForecastVsActual::of(expected.bytes, actual.bytes),
            duration_ms: ForecastVsActual::of(expected.duration_ms, actual.duration_ms),
            blackout_ms: ForecastVsActual::of(expected.blackout_ms, actual.blackout_ms),
            gap_ms: expected
                .gap_ms
                .map(|expected| ForecastVsActual::of(expected, actual.gap_ms)),
        }
    }
}

/// One VM's part of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmComparison {
    /// Its share of VMCT, Mbit/s.
    pub rate_mbit_s: f64,
    /// Its dirty rate as measured before the move, MiB/s; `None` where it was assumed.
    pub dirty_mib_s: Option<Interval>,
    /// What was not measured and was assumed.
    pub assumed: Vec<String>,
    /// What the model alone had said, where earlier moves had taught more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled: Option<Expected>,
    /// Forecast and actual figures.
    pub figures: Comparison,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_actual_figure_nothing_is_judged() {
        let forecast = Interval { low: 1.0, high: 2.0 };
        assert_eq!(ForecastVsActual::of(forecast, None).inside, None);
        assert_eq!(ForecastVsActual::of(forecast, Some(2.0)).inside, Some(true));
        assert_eq!(ForecastVsActual::of(forecast, Some(2.1)).inside, Some(false));
    }
}
