//! Whether this coordinator leads. One that follows decides nothing: whoever asks it is sent to the
//! one that leads (`docs/design/journal-etcd.md`).

use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use transhume_api::{NO_LEADER, NOT_LEADER};

use crate::error::Refused;

/// What a coordinator is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It decides.
    Leads,
    /// Another one does.
    Follows {
        /// Address of its API.
        leader: String,
    },
    /// Nobody does, as far as is known.
    Waits {
        /// For what, as people read it.
        what: String,
    },
}

/// What a follower answers by itself: neither has anything to do with who leads.
const OWN: [&str; 2] = ["/healthz", "/v1/openapi.json"];

/// Where Prometheus reads.
const METRICS: &str = "/metrics";

/// Passes on what is for the leader only where that is this one.
pub(crate) async fn led(
    State(standing): State<watch::Receiver<Standing>>,
    request: Request,
    next: Next,
) -> Response {
    if OWN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let now = standing.borrow().clone();
    match now {
        Standing::Leads => next.run(request).await,
        // A scrape that went on to the leader would count it twice.
        Standing::Follows { leader } if request.uri().path() == METRICS => Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            NOT_LEADER,
            format!("this coordinator follows; all figures are those of {leader}"),
            "scrape every coordinator: the one that leads answers",
        )
        .into_response(),
        Standing::Follows { leader } => elsewhere(&leader, &request),
        Standing::Waits { what } => Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            NO_LEADER,
            format!("no coordinator leads at the moment: {what}"),
            "ask again in a few seconds",
        )
        .into_response(),
    }
}

/// The same method and body, there.
fn elsewhere(leader: &str, request: &Request) -> Response {
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let mut response = Refused::new(
        StatusCode::TEMPORARY_REDIRECT,
        NOT_LEADER,
        format!("this coordinator follows; the one that leads is at {leader}"),
        format!("--api {leader}, or all coordinators' addresses with commas between"),
    )
    .into_response();
    if let Ok(place) = HeaderValue::try_from(format!("{leader}{path}")) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}
