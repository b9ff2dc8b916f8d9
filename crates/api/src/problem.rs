//! What every answer that is not a success holds.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The code of a coordinator that is going down: what was asked may be asked again of the next one.
pub const COORDINATOR_ENDING: &str = "coordinator-ending";

/// The code of a coordinator that follows another one, whose address comes with it.
pub const NOT_LEADER: &str = "not-leader";

/// The code of a coordinator that follows while nobody leads; soon one will.
pub const NO_LEADER: &str = "no-leader";

/// The code of a request that was not done in the time that the coordinator has for one.
pub const TOO_SLOW: &str = "too-slow";

/// The code of a move whose links do not have what it needs.
pub const NO_BANDWIDTH: &str = "no-bandwidth";

/// Any answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// For programs; stable.
    pub code: String,
    /// For people: names the thing.
    pub message: String,
    /// What would help.
    pub hint: String,
}
