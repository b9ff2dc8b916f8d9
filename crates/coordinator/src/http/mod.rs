//! The HTTP API: what all routes share, and their OpenAPI document; the routes are in files by what
//! they are about. Everything is decided in the core.

mod clusters;
mod drains;
mod hosts;
mod links;
mod moves;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, RawPathParamsRejection};
use axum::extract::{self, DefaultBodyLimit, MatchedPath, RawPathParams, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use transhume_api::TOO_SLOW;
use transhume_metrics::coordinator as names;
use transhume_trust::Security;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::audit::{self, Audit, Peer};
use crate::error::Refused;
use crate::fencing::FenceAgents;
use crate::requests::{Reply, Request};
use crate::roles::{self, Role, Roles};
use crate::standing::{self, Standing};

/// A request body longer than this is refused; a cluster of a thousand VMs is below.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Longest time from a request's head to its answer's; above every wait of the core.
const REQUEST_MAX: Duration = Duration::from_secs(300);
/// Streams of events at the same time.
const FOLLOWERS_MAX: usize = 64;

/// What every route has.
#[derive(Clone)]
struct Api {
    core: mpsc::Sender<Request>,
    fence_agents: Arc<FenceAgents>,
    followers: Arc<Semaphore>,
    security: Security,
}

type Answer<T> = Result<Json<T>, Refused>;

#[derive(OpenApi)]
#[openapi(info(
    title = "Transhume",
    description = "Moves a whole virtual cluster, live, and loses nothing."
))]
struct Document;

/// All routes, and the document that describes them.
pub(crate) fn router(
    core: mpsc::Sender<Request>,
    fence_agents: FenceAgents,
    roles: Roles,
    audit: Audit,
    security: Security,
    standing: watch::Receiver<Standing>,
) -> Router {
    let (router, document) = documented();
    let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
    let api = Api {
        core,
        fence_agents: Arc::new(fence_agents),
        followers,
        security,
    };
    let text = document.to_pretty_json().expect("the document has string keys");
    router
        .route("/healthz", axum::routing::get(|| async { "ok\n" }))
        .route("/metrics", axum::routing::get(metrics))
        .route(
            "/v1/openapi.json",
            axum::routing::get(move || async move { ([(CONTENT_TYPE, "application/json")], text) }),
        )
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state((api.clone(), Arc::new(roles)), permitted))
        .layer(from_fn_with_state(
            (Arc::new(audit), BODY_BYTES_MAX),
            audit::recorded,
        ))
        .layer(from_fn_with_state(standing, standing::led))
        .layer(from_fn(in_time))
        .with_state(api)
}

async fn in_time(request: extract::Request, next: Next) -> Response {
    match timeout(REQUEST_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refused::new(
            StatusCode::REQUEST_TIMEOUT,
            TOO_SLOW,
            format!("the request was not done within {} s", REQUEST_MAX.as_secs()),
            "what it began goes on; ask for the cluster or the migration to see how far it is",
        )
        .into_response(),
    }
}

/// Asks nothing of anybody.
const OPEN: &str = "/healthz";

/// Passes on what the peer's role permits.
async fn permitted(
    State((api, roles)): State<(Api, Arc<Roles>)>,
    path: Option<MatchedPath>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: extract::Request,
    next: Next,
) -> Response {
    // What has no route is refused as that.
    let Some(path) = path.filter(|path| path.as_str() != OPEN) else {
        return next.run(request).await;
    };
    let wanted = roles::wanted(request.method(), path.as_str());
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return refused(None, None, wanted).into_response();
    };
    let named = |wanted: &str| {
        let parameters = parameters.as_ref().ok()?;
        let found = parameters.iter().find(|(name, _)| *name == wanted)?;
        Some(found.1.to_owned())
    };
    let mut has = roles.of(&peer, None);
    if has < Some(wanted) {
        let cluster = match path.as_str() {
            route if route.starts_with("/v1/clusters/{name}") => named("name"),
            route if route.starts_with("/v1/migrations/{id}") => match named("id") {
                Some(id) => cluster_of(&api, id).await,
                None => None,
            },
            _ => None,
        };
        has = roles.of(&peer, cluster.as_deref());
    }
    match has >= Some(wanted) {
        true => next.run(request).await,
        false => refused(Some(&peer), has, wanted).into_response(),
    }
}

async fn cluster_of(api: &Api, migration: String) -> Option<String> {
    let report = ask(api, |reply| Request::Report(migration, reply)).await.ok()?;
    Some(report.cluster.to_string())
}

fn refused(peer: Option<&Peer>, has: Option<Role>, wanted: Role) -> Refused {
    let who = match peer {
        Some(Peer::Certificate { identity, .. }) => identity.to_string(),
        Some(Peer::Process { uid, .. }) => format!("user id {uid}"),
        Some(Peer::Address(_)) | None => "whoever asks".to_owned(),
    };
    let has = has.map_or("no role", Role::name);
    let wanted = wanted.name();
    Refused::new(
        StatusCode::FORBIDDEN,
        "role-needed",
        format!("{who} has {has} here, and this needs the role `{wanted}`"),
        format!("`[[roles]]` of the coordinator's configuration gives it: role = \"{wanted}\""),
    )
}

async fn no_route(uri: Uri) -> Refused {
    let message = format!("there is nothing at {}", uri.path());
    Refused::new(
        StatusCode::NOT_FOUND,
        "no-such-path",
        message,
        "see /v1/openapi.json for what there is",
    )
}

async fn no_method(method: Method, uri: Uri) -> Refused {
    let message = format!("{} cannot be asked with {method}", uri.path());
    let hint = "see /v1/openapi.json for what there is";
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "no-such-method", message, hint)
}

fn documented() -> (Router<Api>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(hosts::routes())
        .merge(links::routes())
        .merge(clusters::routes())
        .merge(moves::routes())
        .merge(drains::routes())
        .split_for_parts()
}

/// The OpenAPI document, for `docs/openapi.json`.
pub fn openapi() -> String {
    documented()
        .1
        .to_pretty_json()
        .expect("the document has string keys")
}

/// Asks the core and waits for its answer.
async fn ask<T>(api: &Api, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refused> {
    let (reply, answer) = Reply::channel();
    api.core
        .send(request(reply))
        .await
        .map_err(|_| Refused::ending())?;
    answer.await.map_err(|_| Refused::ending())?
}

fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Refused> {
    body.map(|Json(value)| value).map_err(|rejection| {
        let hint = "see /v1/openapi.json for what is expected";
        Refused::new(rejection.status(), "bad-body", rejection.body_text(), hint)
    })
}

/// For Prometheus, in its text format; the core only hands over the figures, but for the one that
/// it does not know.
async fn metrics(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    let mut samples = ask(&api, Request::Metrics).await?;
    if let Security::Mutual(trust) = &api.security {
        let until = trust.current().validity().until;
        samples.set(&names::CERTIFICATE_UNTIL, [], until as f64);
    }
    Ok(([(CONTENT_TYPE, transhume_metrics::CONTENT_TYPE)], samples.text()))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Cluster {
    /// The cluster.
    name: String,
}
