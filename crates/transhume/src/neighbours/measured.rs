//! What was measured: one row a move. Pure.

use serde::Serialize;
use transhume_lab::Circuits;

use crate::args::Part;
use crate::measurement::Account;

impl Part {
    pub const ALL: [Part; 5] = [Part::Rest, Part::Latency, Part::Bulk, Part::Alone, Part::Two];

    /// As it stands in the CSV and the tables.
    pub fn name(self) -> &'static str {
        match self {
            Part::Rest => "rest",
            Part::Latency => "latency",
            Part::Bulk => "bulk",
            Part::Alone => "alone",
            Part::Two => "two",
        }
    }
}

/// One move, or one look at a lab at rest. What a part does not measure is absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub circuits: Circuits,
    pub part: Part,
    /// From 1; the same number in two forms is a pair.
    pub repetition: usize,
    /// From the start of copying to the commit.
    pub seconds: f64,
    /// Between guests that stay.
    pub ct_p99_ms: Option<f64>,
    /// Between the hosts themselves.
    pub ct_hosts_p99_ms: Option<f64>,
    /// Reads of a guest that stays.
    pub nast_p99_ms: Option<f64>,
    /// Questions of the guest.
    pub asked: u64,
    /// Answers and reads that did not come, of all probes.
    pub missing: u64,
    pub vmct_mbit_s: Option<f64>,
    pub vmct_allowed_mbit_s: Option<f64>,
    pub bulk_mbit_s: Option<f64>,
    pub bulk_guarantee_mbit_s: Option<f64>,
    /// Of VMCT on the link that was left.
    pub busiest_second_mbit_s: Option<f64>,
    /// How long two moves were copied at once.
    pub met_seconds: Option<f64>,
    /// The least that either had of both, in any second.
    pub least_share: Option<f64>,
    pub frames: Account,
    pub guests: Account,
}

impl Row {
    pub fn new(circuits: Circuits, part: Part, repetition: usize) -> Self {
        Row {
            circuits,
            part,
            repetition,
            seconds: 0.0,
            ct_p99_ms: None,
            ct_hosts_p99_ms: None,
            nast_p99_ms: None,
            asked: 0,
            missing: 0,
            vmct_mbit_s: None,
            vmct_allowed_mbit_s: None,
            bulk_mbit_s: None,
            bulk_guarantee_mbit_s: None,
            busiest_second_mbit_s: None,
            met_seconds: None,
            least_share: None,
            frames: Account::default(),
            guests: Account::default(),
        }
    }

    /// Of what VMCT may have.
    pub fn vmct_use(&self) -> Option<f64> {
        Some(self.vmct_mbit_s? / self.vmct_allowed_mbit_s?)
    }

    /// Of what is CT's in any case.
    pub fn bulk_use(&self) -> Option<f64> {
        Some(self.bulk_mbit_s? / self.bulk_guarantee_mbit_s?)
    }

    /// Of what VMCT may have.
    pub fn busiest_use(&self) -> Option<f64> {
        Some(self.busiest_second_mbit_s? / self.vmct_allowed_mbit_s?)
    }
}
