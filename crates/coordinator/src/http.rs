//! The HTTP API: routes, their OpenAPI document, the stream of events. Everything is decided in the
//! core.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{self, DefaultBodyLimit, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use transhume_api::{
    Accepted, ClusterList, ClusterView, Decision, DrainList, DrainOrder, DrainPlanView, DrainView,
    ForecastRecord, HostFence, HostList, HostView, MigrationList, MoveOrder, MoveResolution, PlanView,
    Problem, TOO_SLOW, Verdict, VmRestart, VmStart, VmStop,
};
use transhume_model::{ClusterSpec, MigrationId, PlacementRules};
use transhume_protocol::event::Event;
use transhume_protocol::report::MigrationReport;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::Refused;
use crate::requests::{HostWish, Reply, Request, VmRequest, VmWish};

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
    followers: Arc<Semaphore>,
}

type Answer<T> = Result<Json<T>, Refused>;

#[derive(OpenApi)]
#[openapi(info(
    title = "Transhume",
    description = "Moves a whole virtual cluster, live, and loses nothing."
))]
struct Document;

/// All routes, and the document that describes them.
pub(crate) fn router(core: mpsc::Sender<Request>) -> Router {
    let (router, document) = documented();
    let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
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
        .layer(from_fn(in_time))
        .with_state(Api { core, followers })
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
        .routes(routes!(hosts))
        .routes(routes!(host))
        .routes(routes!(fence_host))
        .routes(routes!(cordon_host))
        .routes(routes!(uncordon_host))
        .routes(routes!(forget_host))
        .routes(routes!(clusters, create_cluster))
        .routes(routes!(cluster, delete_cluster))
        .routes(routes!(rules, set_rules))
        .routes(routes!(forget_cluster))
        .routes(routes!(start_vm))
        .routes(routes!(restart_vm))
        .routes(routes!(open_plug))
        .routes(routes!(stop_vm))
        .routes(routes!(forget_vm))
        .routes(routes!(plan))
        .routes(routes!(move_cluster))
        .routes(routes!(migrations))
        .routes(routes!(report))
        .routes(routes!(forecasts))
        .routes(routes!(events))
        .routes(routes!(cancel))
        .routes(routes!(resolve))
        .routes(routes!(drains, drain))
        .routes(routes!(plan_drain))
        .routes(routes!(show_drain))
        .routes(routes!(cancel_drain))
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

/// For Prometheus, in its text format; the core only hands over the figures.
async fn metrics(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    let samples = ask(&api, Request::Metrics).await?;
    Ok(([(CONTENT_TYPE, transhume_metrics::CONTENT_TYPE)], samples.text()))
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

/// Drains that are under way or kept.
#[utoipa::path(get, path = "/v1/drains", responses((status = 200, body = DrainList)))]
async fn drains(State(api): State<Api>) -> Answer<DrainList> {
    ask(&api, Request::Drains).await.map(Json)
}

/// Begins to move every VM off these hosts, or finds the drain of them that is under way.
#[utoipa::path(post, path = "/v1/drains", request_body = DrainOrder,
    responses((status = 202, body = DrainView), (status = "4XX", body = Problem)))]
async fn drain(
    State(api): State<Api>,
    order: Result<Json<DrainOrder>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainView>), Refused> {
    let order = body(order)?;
    let view = ask(&api, |reply| Request::Drain(order, reply)).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// Which VM would go where; nothing is changed.
#[utoipa::path(post, path = "/v1/drain-plan", request_body = DrainOrder,
    responses((status = 200, body = DrainPlanView), (status = "4XX", body = Problem)))]
async fn plan_drain(
    State(api): State<Api>,
    order: Result<Json<DrainOrder>, JsonRejection>,
) -> Answer<DrainPlanView> {
    let order = body(order)?;
    ask(&api, |reply| Request::PlanDrain(order, reply))
        .await
        .map(Json)
}

/// One drain.
#[utoipa::path(get, path = "/v1/drains/{id}", params(Drain),
    responses((status = 200, body = DrainView), (status = 404, body = Problem)))]
async fn show_drain(State(api): State<Api>, Path(Drain { id }): Path<Drain>) -> Answer<DrainView> {
    ask(&api, |reply| Request::ShowDrain(id, reply)).await.map(Json)
}

/// Begins nothing more; a move under way goes on.
#[utoipa::path(post, path = "/v1/drains/{id}/cancel", params(Drain),
    responses((status = 200, body = DrainView), (status = "4XX", body = Problem)))]
async fn cancel_drain(State(api): State<Api>, Path(Drain { id }): Path<Drain>) -> Answer<DrainView> {
    ask(&api, |reply| Request::CancelDrain(id, reply)).await.map(Json)
}

/// All clusters.
#[utoipa::path(get, path = "/v1/clusters", responses((status = 200, body = ClusterList)))]
async fn clusters(State(api): State<Api>) -> Answer<ClusterList> {
    ask(&api, Request::Clusters).await.map(Json)
}

/// Starts a cluster; answers when every VM runs.
#[utoipa::path(post, path = "/v1/clusters", request_body = ClusterSpec,
    responses((status = 201, body = ClusterView), (status = "4XX", body = Problem)))]
async fn create_cluster(
    State(api): State<Api>,
    cluster: Result<Json<ClusterSpec>, JsonRejection>,
) -> Result<(StatusCode, Json<ClusterView>), Refused> {
    let cluster = body(cluster)?;
    let view = ask(&api, |reply| Request::CreateCluster(cluster, reply)).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// One cluster's VMs: where they are and what they do.
#[utoipa::path(get, path = "/v1/clusters/{name}", params(Cluster), responses((status = 200, body = ClusterView), (status = 404, body = Problem)))]
async fn cluster(State(api): State<Api>, Path(Cluster { name }): Path<Cluster>) -> Answer<ClusterView> {
    ask(&api, |reply| Request::ShowCluster(name, reply))
        .await
        .map(Json)
}

/// Powers a cluster off and forgets it.
#[utoipa::path(delete, path = "/v1/clusters/{name}", params(Cluster), responses((status = 200, body = ClusterView), (status = "4XX", body = Problem)))]
async fn delete_cluster(
    State(api): State<Api>,
    Path(Cluster { name }): Path<Cluster>,
) -> Answer<ClusterView> {
    ask(&api, |reply| Request::DeleteCluster(name, reply))
        .await
        .map(Json)
}

/// Forgets a cluster whose hosts never come back: no VM of it may run anywhere.
#[utoipa::path(post, path = "/v1/clusters/{name}/forget", params(Cluster), request_body = Decision,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn forget_cluster(
    State(api): State<Api>,
    Path(Cluster { name }): Path<Cluster>,
    decision: Result<Json<Decision>, JsonRejection>,
) -> Answer<Verdict> {
    let Decision { dry_run } = body(decision)?;
    let request = |reply| Request::ForgetCluster {
        cluster: name,
        dry_run,
        reply,
    };
    ask(&api, request).await.map(Json)
}

/// What a cluster's VMs ask of their hosts.
#[utoipa::path(get, path = "/v1/clusters/{name}/rules", params(Cluster),
    responses((status = 200, body = PlacementRules), (status = 404, body = Problem)))]
async fn rules(State(api): State<Api>, Path(Cluster { name }): Path<Cluster>) -> Answer<PlacementRules> {
    ask(&api, |reply| Request::Rules(name, reply)).await.map(Json)
}

/// Puts these in place of what a cluster's VMs asked of their hosts. They bind from the next plan
/// on; nobody is moved because of them.
#[utoipa::path(put, path = "/v1/clusters/{name}/rules", params(Cluster), request_body = PlacementRules,
    responses((status = 200, body = PlacementRules), (status = "4XX", body = Problem)))]
async fn set_rules(
    State(api): State<Api>,
    Path(Cluster { name }): Path<Cluster>,
    rules: Result<Json<PlacementRules>, JsonRejection>,
) -> Answer<PlacementRules> {
    let rules = body(rules)?;
    ask(&api, |reply| Request::SetRules(name, rules, reply))
        .await
        .map(Json)
}

/// Boots a VM that is powered off or missing; answers when it runs.
#[utoipa::path(post, path = "/v1/clusters/{name}/vms/{vm}/start", params(Vm), request_body = VmStart,
    responses((status = 200, body = ClusterView), (status = "4XX", body = Problem)))]
async fn start_vm(
    State(api): State<Api>,
    Path(vm): Path<Vm>,
    start: Result<Json<VmStart>, JsonRejection>,
) -> Answer<ClusterView> {
    let VmStart { host } = body(start)?;
    ask_about(&api, vm, VmWish::Start { host }).await
}

/// Boots a VM from its disks on another host, its own being fenced; answers when it runs.
#[utoipa::path(post, path = "/v1/clusters/{name}/vms/{vm}/restart", params(Vm), request_body = VmRestart,
    responses((status = 200, body = ClusterView), (status = "4XX", body = Problem)))]
async fn restart_vm(
    State(api): State<Api>,
    Path(vm): Path<Vm>,
    restart: Result<Json<VmRestart>, JsonRejection>,
) -> Answer<ClusterView> {
    let VmRestart { on } = body(restart)?;
    ask_about(&api, vm, VmWish::Restart { on }).await
}

/// Opens the plug of a committed VM whose source is lost, without waiting for it any longer.
#[utoipa::path(post, path = "/v1/clusters/{name}/vms/{vm}/open-plug", params(Vm), request_body = Decision,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn open_plug(
    State(api): State<Api>,
    Path(Vm { name: cluster, vm }): Path<Vm>,
    decision: Result<Json<Decision>, JsonRejection>,
) -> Answer<Verdict> {
    let Decision { dry_run } = body(decision)?;
    let request = |reply| Request::OpenPlug {
        cluster,
        vm,
        dry_run,
        reply,
    };
    ask(&api, request).await.map(Json)
}

/// Powers a VM off; its place stays, and it can be started again.
#[utoipa::path(post, path = "/v1/clusters/{name}/vms/{vm}/stop", params(Vm), request_body = VmStop,
    responses((status = 200, body = ClusterView), (status = "4XX", body = Problem)))]
async fn stop_vm(
    State(api): State<Api>,
    Path(vm): Path<Vm>,
    stop: Result<Json<VmStop>, JsonRejection>,
) -> Answer<ClusterView> {
    let VmStop { force } = body(stop)?;
    ask_about(&api, vm, VmWish::Stop { force }).await
}

/// Takes a VM that is powered off or missing out of its cluster; the last one takes the cluster
/// along.
#[utoipa::path(delete, path = "/v1/clusters/{name}/vms/{vm}", params(Vm),
    responses((status = 200, body = ClusterView), (status = "4XX", body = Problem)))]
async fn forget_vm(State(api): State<Api>, Path(vm): Path<Vm>) -> Answer<ClusterView> {
    ask_about(&api, vm, VmWish::Forget).await
}

async fn ask_about(api: &Api, vm: Vm, wish: VmWish) -> Answer<ClusterView> {
    let Vm { name: cluster, vm } = vm;
    let request = VmRequest { cluster, vm, wish };
    ask(api, |reply| Request::Vm(request, reply)).await.map(Json)
}

/// Which VM would go where, in which batch; nothing is changed.
#[utoipa::path(post, path = "/v1/clusters/{name}/plan", params(Cluster), request_body = MoveOrder,
    responses((status = 200, body = PlanView), (status = "4XX", body = Problem)))]
async fn plan(
    State(api): State<Api>,
    Path(Cluster { name }): Path<Cluster>,
    order: Result<Json<MoveOrder>, JsonRejection>,
) -> Answer<PlanView> {
    let order = body(order)?;
    ask(&api, |reply| Request::Plan(name, order, reply))
        .await
        .map(Json)
}

/// Begins a move; it goes on whoever listens.
#[utoipa::path(post, path = "/v1/clusters/{name}/migrations", params(Cluster), request_body = MoveOrder,
    responses((status = 202, body = Accepted), (status = "4XX", body = Problem)))]
async fn move_cluster(
    State(api): State<Api>,
    Path(Cluster { name }): Path<Cluster>,
    order: Result<Json<MoveOrder>, JsonRejection>,
) -> Result<(StatusCode, Json<Accepted>), Refused> {
    let order = body(order)?;
    let accepted = ask(&api, |reply| Request::Move(name, order, reply)).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// All moves that are kept, oldest first.
#[utoipa::path(get, path = "/v1/migrations", responses((status = 200, body = MigrationList)))]
async fn migrations(State(api): State<Api>) -> Answer<MigrationList> {
    ask(&api, Request::Migrations).await.map(Json)
}

/// The report; of a move under way, as of now.
#[utoipa::path(get, path = "/v1/migrations/{id}", params(Number), responses((status = 200, body = MigrationReport), (status = 404, body = Problem)))]
async fn report(State(api): State<Api>, Path(Number { id }): Path<Number>) -> Answer<MigrationReport> {
    ask(&api, |reply| Request::Report(id, reply)).await.map(Json)
}

/// How good the forecasts of all moves that are kept have been.
#[utoipa::path(get, path = "/v1/forecasts", responses((status = 200, body = ForecastRecord)))]
async fn forecasts(State(api): State<Api>) -> Answer<ForecastRecord> {
    ask(&api, Request::Forecasts).await.map(Json)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Drain {
    /// Its number.
    id: String,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Cluster {
    /// The cluster.
    name: String,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Host {
    /// The host.
    name: String,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Vm {
    /// The cluster.
    name: String,
    /// The VM.
    vm: String,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Number {
    /// Number of the move. What is no number is no move.
    #[param(value_type = MigrationId)]
    id: String,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct After {
    /// Events with a number above this one, across restarts of the coordinator.
    #[serde(default)]
    after: u64,
}

/// What happens, as server-sent events: from the beginning or after a number, then live until the
/// move is over.
#[utoipa::path(get, path = "/v1/migrations/{id}/events", params(Number, After),
    responses((status = 200, content_type = "text/event-stream", body = Event), (status = "4XX", body = Problem)))]
async fn events(
    State(api): State<Api>,
    Path(Number { id }): Path<Number>,
    after: Result<Query<After>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refused> {
    let Query(After { after }) = after.map_err(|rejection| {
        let hint = "`after` is the number of the last event you have seen";
        Refused::new(rejection.status(), "bad-query", rejection.body_text(), hint)
    })?;
    let place = api.followers.clone().try_acquire_owned();
    let place = place.map_err(|_| Refused::busy())?;
    let history = ask(&api, |reply| Request::Follow(id, reply)).await?;
    let batches = stream::unfold((history, after, place), |(history, seen, place)| async move {
        let events = history.after(seen).await?;
        let seen = events.last().map_or(seen, |event| event.number);
        Some((
            stream::iter(events.into_iter().map(sse_event)),
            (history, seen, place),
        ))
    });
    Ok(Sse::new(batches.flatten()).keep_alive(KeepAlive::default()))
}

fn sse_event(event: Event) -> Result<sse::Event, Infallible> {
    let line = sse::Event::default()
        .id(event.number.to_string())
        .json_data(&event);
    Ok(line.expect("events are JSON"))
}

/// Before commit the batch rolls back; after it, no further batch begins.
#[utoipa::path(post, path = "/v1/migrations/{id}/cancel", params(Number), responses((status = 200, body = Accepted), (status = "4XX", body = Problem)))]
async fn cancel(State(api): State<Api>, Path(Number { id }): Path<Number>) -> Answer<Accepted> {
    ask(&api, |reply| Request::Cancel(id, reply)).await.map(Json)
}

/// Decides where VMs run whose other host is lost.
#[utoipa::path(post, path = "/v1/migrations/{id}/resolve", params(Number), request_body = MoveResolution,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn resolve(
    State(api): State<Api>,
    Path(Number { id: migration }): Path<Number>,
    resolution: Result<Json<MoveResolution>, JsonRejection>,
) -> Answer<Verdict> {
    let MoveResolution { vm, run_on, dry_run } = body(resolution)?;
    let request = |reply| Request::Resolve {
        migration,
        vm,
        run_on,
        dry_run,
        reply,
    };
    ask(&api, request).await.map(Json)
}
