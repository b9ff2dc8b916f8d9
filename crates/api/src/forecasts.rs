//! How good forecasts have been.

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, MigrationId};
use transhume_protocol::forecast::Comparison;
use utoipa::ToSchema;

/// `GET /v1/forecasts`: how good forecasts have been.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct ForecastRecord {
    /// Committed moves that had a forecast, oldest first.
    pub migrations: Vec<ForecastLine>,
    /// Bytes of each VM.
    pub bytes: Score,
    /// Time of each VM's move.
    pub duration_ms: Score,
    /// Blackout of each VM.
    pub blackout_ms: Score,
    /// Gap of each VM of which one was expected.
    #[serde(default)]
    pub gap_ms: Score,
}

/// Forecast and actual figures of a move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForecastLine {
    /// Its number.
    pub migration: MigrationId,
    /// The cluster.
    pub cluster: ClusterName,
    /// Number of VMs.
    pub vms: usize,
    /// The whole move.
    pub figures: Comparison,
}

/// How often actual figures were inside the forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Score {
    /// So often.
    pub inside: usize,
    /// Of so many VMs.
    pub of: usize,
}
