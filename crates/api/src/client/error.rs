//! Why a call came to nothing.

use crate::{COORDINATOR_ENDING, NO_LEADER, Problem};

/// Why a call to the coordinator came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// That is no address.
    #[error("`{given}` is not the address of a coordinator")]
    Address {
        /// As given.
        given: String,
    },
    /// Over TCP a coordinator wants to know who asks.
    #[error("`{given}` is asked with a certificate, and none is named")]
    NoCertificate {
        /// As given.
        given: String,
    },
    /// Nobody answers, or not to the end.
    #[error("no coordinator answers at {address}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The coordinator says no.
    #[error("{}", .0.message)]
    Problem(Problem),
    /// A failure without the coordinator's own words.
    #[error("what answers at {address} is no coordinator: it says {status}")]
    Status {
        /// Who was asked.
        address: String,
        /// HTTP's status.
        status: u16,
    },
    /// A success that cannot be read.
    #[error("the answer from {address} is not what this release expects")]
    Document {
        /// Who was asked.
        address: String,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// The stream of events has a line longer than any event.
    #[error("the stream of events from {address} has a line of more than {bytes_max} bytes")]
    LongLine {
        /// Who was asked.
        address: String,
        /// The limit.
        bytes_max: usize,
    },
}

impl ClientError {
    /// Whether the coordinator is away, so that the same call may succeed once it is back.
    pub fn is_away(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } => true,
            ClientError::Problem(problem) => problem.code == COORDINATOR_ENDING || problem.code == NO_LEADER,
            ClientError::Address { .. }
            | ClientError::NoCertificate { .. }
            | ClientError::Status { .. }
            | ClientError::Document { .. }
            | ClientError::LongLine { .. } => false,
        }
    }

    /// What would help.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ClientError::Address { .. } => Some(
                "write https://HOST:PORT or unix:PATH; http://HOST:PORT where the coordinator is insecure; commas \
                 between several",
            ),
            ClientError::NoCertificate { .. } => Some(
                "--certificate or TRANSHUME_CERTIFICATE names one; `transhume ca issue user/NAME` makes it",
            ),
            ClientError::Unreachable { .. } => Some(
                "`transhume coordinator --config FILE` starts one, `transhume lab up` raises a lab \
                 with one; --api or TRANSHUME_API names another",
            ),
            ClientError::Problem(problem) => Some(&problem.hint)
                .filter(|hint| !hint.is_empty())
                .map(|hint| hint.as_str()),
            ClientError::Status { .. } => Some("--api names another address"),
            ClientError::Document { .. } | ClientError::LongLine { .. } => {
                Some("use the release that the coordinator has")
            }
        }
    }
}
