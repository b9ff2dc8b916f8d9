//! Hosts.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use serde::Deserialize;
use transhume_api::{Decision, HostFence, HostList, HostView, Problem, Verdict};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, ask, body};
use crate::error::Refused;
use crate::requests::{HostWish, Request};

/// All routes about them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(hosts))
        .routes(routes!(host))
        .routes(routes!(fence_host))
        .routes(routes!(cordon_host))
        .routes(routes!(uncordon_host))
        .routes(routes!(forget_host))
}

/// Hosts, their free resources, and whether their agents answer.
#[utoipa::path(get, path = "/v1/hosts", responses((status = 200, body = HostList)))]
async fn hosts(State(api): State<Api>) -> Answer<HostList> {
    ask(&api, Request::Hosts).await.map(Json)
}

/// One host.
#[utoipa::path(get, path = "/v1/hosts/{name}", params(Host),
    responses((status = 200, body = HostView), (status = 404, body = Problem)))]
async fn host(State(api): State<Api>, Path(Host { name }): Path<Host>) -> Answer<HostView> {
    ask(&api, |reply| Request::ShowHost(name, reply)).await.map(Json)
}

/// Takes the operator's word that a host is off: only then may a VM that could still run there be
/// run elsewhere.
#[utoipa::path(post, path = "/v1/hosts/{name}/fence", params(Host), request_body = HostFence,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn fence_host(
    State(api): State<Api>,
    Path(Host { name }): Path<Host>,
    fence: Result<Json<HostFence>, JsonRejection>,
) -> Answer<Verdict> {
    let HostFence {
        powered_off,
        force,
        dry_run,
    } = body(fence)?;
    if !powered_off {
        return Err(Refused::bad(
            "not-powered-off",
            format!("host {name} is fenced only when it is off"),
            "make sure that it is, then say so with `powered_off`",
        ));
    }
    ask_about_host(&api, name, HostWish::Fence { force }, dry_run).await
}

/// Nothing is put on the host any more.
#[utoipa::path(post, path = "/v1/hosts/{name}/cordon", params(Host), request_body = Decision,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn cordon_host(
    State(api): State<Api>,
    Path(Host { name }): Path<Host>,
    decision: Result<Json<Decision>, JsonRejection>,
) -> Answer<Verdict> {
    let Decision { dry_run } = body(decision)?;
    ask_about_host(&api, name, HostWish::Cordon(true), dry_run).await
}

/// VMs may be put on the host again.
#[utoipa::path(post, path = "/v1/hosts/{name}/uncordon", params(Host), request_body = Decision,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn uncordon_host(
    State(api): State<Api>,
    Path(Host { name }): Path<Host>,
    decision: Result<Json<Decision>, JsonRejection>,
) -> Answer<Verdict> {
    let Decision { dry_run } = body(decision)?;
    ask_about_host(&api, name, HostWish::Cordon(false), dry_run).await
}

/// Forgets what is remembered of a host that never comes back: its fence, and what was to be
/// cleaned away there.
#[utoipa::path(post, path = "/v1/hosts/{name}/forget", params(Host), request_body = Decision,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn forget_host(
    State(api): State<Api>,
    Path(Host { name }): Path<Host>,
    decision: Result<Json<Decision>, JsonRejection>,
) -> Answer<Verdict> {
    let Decision { dry_run } = body(decision)?;
    ask_about_host(&api, name, HostWish::Forget, dry_run).await
}

async fn ask_about_host(api: &Api, host: String, wish: HostWish, dry_run: bool) -> Answer<Verdict> {
    let request = |reply| Request::Host {
        host,
        wish,
        dry_run,
        reply,
    };
    ask(api, request).await.map(Json)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Host {
    /// The host.
    name: String,
}
