//! Hosts.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use serde::Deserialize;
use tokio::time::sleep;
use tracing::info;
use transhume_api::{Decision, HostFence, HostList, HostView, Problem, Verdict};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, ask, body};
use crate::error::Refused;
use crate::fencing::NotFenced;
use crate::requests::{HostWish, Request};

/// Longest wait for the connection of a host that was switched off to be lost: the silence that a
/// link bears, and some.
const LOST_MAX: Duration = Duration::from_secs(30);
const LOST_LOOK: Duration = Duration::from_millis(100);

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

/// Takes the operator's word that a host is off, or has its fence agent switch it off: only then
/// may a VM that could still run there be run elsewhere.
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
    let wish = |force| HostWish::Fence { force };
    if powered_off {
        return ask_about_host(&api, name, wish(force), dry_run).await;
    }
    let Json(mut planned) = ask_about_host(&api, name.clone(), wish(force), true).await?;
    let host = name.parse().expect("the core knows a host of this name");
    let program = api.fence_agents.program(&host).map_err(not_fenced)?.to_owned();
    if dry_run {
        planned.what = format!(
            "`{program}` is run to switch host {host} off; then {}",
            planned.what
        );
        return Ok(Json(planned));
    }
    info!(target: "audit", %host, program, "its fence agent is run");
    // Goes on whether or not whoever asked waits for it: a fence agent that is killed half-way
    // leaves its host in a state that nobody knows.
    let fencing = tokio::spawn(async move {
        let fenced = api.fence_agents.fence(&host).await;
        info!(target: "audit", %host, ?fenced, "its fence agent was run");
        fenced.map_err(not_fenced)?;
        until_lost(&api, &name).await?;
        ask_about_host(&api, name, wish(true), false).await
    });
    fencing.await.map_err(|_| Refused::ending())?
}

/// A host that was switched off answers no more; what it said before is still believed until its
/// connection is.
async fn until_lost(api: &Api, name: &str) -> Result<(), Refused> {
    let begun = Instant::now();
    loop {
        let host = ask(api, |reply| Request::ShowHost(name.to_owned(), reply)).await?;
        if !host.connected {
            return Ok(());
        }
        if begun.elapsed() > LOST_MAX {
            return Err(Refused::conflict(
                "host-answers",
                format!(
                    "the fence agent of host {name} says that it is off, and its agent still answers after {} s",
                    LOST_MAX.as_secs()
                ),
                "look whether the command switches the right host off; nothing was changed",
            ));
        }
        sleep(LOST_LOOK).await;
    }
}

fn not_fenced(why: NotFenced) -> Refused {
    let (message, host) = (why.to_string(), why.host());
    match why {
        NotFenced::NoCommand(_) => Refused::conflict(
            "no-fence-agent",
            message,
            format!(
                "make sure that it is off, then say so: `transhume host fence {host} --powered-off`; or name a command that switches it off as `fence` of the host in the coordinator's configuration"
            ),
        ),
        NotFenced::UnderWay(_) => Refused::conflict(
            "fence-under-way",
            message,
            format!("see how it ends: `transhume host show {host}`"),
        ),
        NotFenced::NotRun { .. } | NotFenced::Failed { .. } | NotFenced::TooSlow { .. } => Refused::conflict(
            "fence-failed",
            message,
            format!(
                "the host may be on or off; once you know that it is off, say so: `transhume host fence {host} --powered-off`"
            ),
        ),
    }
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
