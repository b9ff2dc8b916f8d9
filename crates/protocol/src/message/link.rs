//! What a link check measured (`docs/design/link-check.md`).

use serde::{Deserialize, Serialize};
use transhume_model::Bytes;
use utoipa::ToSchema;

/// From a source's agent to a target's, as a page stream goes, without a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkFigures {
    /// What the target's agent received.
    pub bytes: Bytes,
    /// From the first of them sent until the target had all, microseconds.
    pub sent_us: u64,
    /// Half of the round trips took at most so long, microseconds.
    pub round_trip_us: u64,
    /// The longest of them.
    pub round_trip_us_max: u64,
    /// Processor time of the source agent's thread meanwhile, microseconds.
    pub source_cpu_us: u64,
    /// Of the target agent's.
    pub target_cpu_us: u64,
    /// Time in which the target's agent did not read what had come (`tcpi_rwnd_limited`),
    /// microseconds.
    pub target_limited_us: u64,
    /// Whether it was encrypted.
    pub encrypted: bool,
}

impl LinkFigures {
    /// Of what arrived.
    pub fn bits_per_s(&self) -> f64 {
        self.bytes.0 as f64 * 8e6 / self.sent_us.max(1) as f64
    }
}
