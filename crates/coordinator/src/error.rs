//! Answers that are not a success: a stable code, the thing's name, a hint (G3). Each refusal is one constructor here.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::Problem;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) problem: Problem,
}

impl Refused {
    fn new(status: StatusCode, code: &str, message: String, hint: impl Into<String>) -> Self {
        Self {
            status,
            problem: Problem {
                code: code.to_owned(),
                message,
                hint: hint.into(),
            },
        }
    }

    /// The request itself is wrong.
    pub(crate) fn bad(code: &str, message: String, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message, hint)
    }

    /// It names something that is not there.
    pub(crate) fn unknown(what: &str, name: &str, known: &[String]) -> Self {
        let code = format!("unknown-{}", what.to_lowercase());
        let hint = match known {
            [] => format!("there is no {what} yet"),
            known => format!("known: {}", known.join(", ")),
        };
        Self::new(
            StatusCode::NOT_FOUND,
            &code,
            format!("there is no {what} named `{name}`"),
            hint,
        )
    }

    /// It cannot be done as things are.
    pub(crate) fn conflict(code: &str, message: String, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message, hint)
    }

    /// A host is away.
    pub(crate) fn unreachable(host: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "agent-unreachable",
            format!("the agent of host {host} does not answer"),
            "start it, or look at its log and the network between; `transhume hosts` tells who answers",
        )
    }

    /// The coordinator is going down.
    pub(crate) fn ending() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "coordinator-ending",
            "the coordinator is ending".to_owned(),
            "start it again: it goes on from its journal",
        )
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.problem)).into_response()
    }
}
