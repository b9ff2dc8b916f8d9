//! The HTTP API: routes, their OpenAPI document, the stream of events. Everything is decided in the core.

use std::convert::Infallible;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{KeepAlive, Sse};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use transhume_model::ClusterSpec;
use transhume_protocol::report::MigrationReport;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::{Accepted, ClusterList, ClusterView, HostList, MigrationList, MoveOrder, PlanView, Problem};
use crate::core::Reply;
use crate::error::Refused;
use crate::requests::Request;

/// A request body longer than this is refused; a cluster of a thousand VMs is below.
const BODY_BYTES_MAX: usize = 4 << 20;

type Core = mpsc::Sender<Request>;
type Answer<T> = Result<Json<T>, Refused>;

#[derive(OpenApi)]
#[openapi(info(
    title = "Transhume",
    description = "Moves a whole virtual cluster, live, and loses nothing."
))]
struct Document;

/// All routes, and the document that describes them.
pub(crate) fn router(core: Core) -> Router {
    let (router, document) = documented();
    let text = document.to_pretty_json().expect("the document has string keys");
    router
        .route("/healthz", axum::routing::get(|| async { "ok\n" }))
        .route(
            "/v1/openapi.json",
            axum::routing::get(move || async move { ([("content-type", "application/json")], text) }),
        )
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(core)
}

fn documented() -> (Router<Core>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(hosts))
        .routes(routes!(clusters, create_cluster))
        .routes(routes!(cluster, delete_cluster))
        .routes(routes!(plan))
        .routes(routes!(move_cluster))
        .routes(routes!(migrations))
        .routes(routes!(report))
        .routes(routes!(events))
        .routes(routes!(cancel))
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
async fn ask<T>(core: &Core, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refused> {
    let (reply, answer) = oneshot::channel();
    core.send(request(reply)).await.map_err(|_| Refused::ending())?;
    answer.await.map_err(|_| Refused::ending())?
}

fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Refused> {
    body.map(|Json(value)| value).map_err(|rejection| {
        Refused::bad(
            "bad-body",
            rejection.body_text(),
            "see /v1/openapi.json for what is expected",
        )
    })
}

#[utoipa::path(get, path = "/v1/hosts", responses((status = 200, body = HostList)))]
async fn hosts(State(core): State<Core>) -> Answer<HostList> {
    ask(&core, Request::Hosts).await.map(Json)
}

#[utoipa::path(get, path = "/v1/clusters", responses((status = 200, body = ClusterList)))]
async fn clusters(State(core): State<Core>) -> Answer<ClusterList> {
    ask(&core, Request::Clusters).await.map(Json)
}

/// Starts a cluster; answers when every VM runs.
#[utoipa::path(post, path = "/v1/clusters", request_body = Object,
    responses((status = 201, body = ClusterView), (status = "4XX", body = Problem)))]
async fn create_cluster(
    State(core): State<Core>,
    cluster: Result<Json<ClusterSpec>, JsonRejection>,
) -> Result<(StatusCode, Json<ClusterView>), Refused> {
    let cluster = body(cluster)?;
    let view = ask(&core, |reply| Request::CreateCluster(cluster, reply)).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

#[utoipa::path(get, path = "/v1/clusters/{name}", responses((status = 200, body = ClusterView), (status = 404, body = Problem)))]
async fn cluster(State(core): State<Core>, Path(name): Path<String>) -> Answer<ClusterView> {
    ask(&core, |reply| Request::ShowCluster(name, reply))
        .await
        .map(Json)
}

/// Powers a cluster off and forgets it.
#[utoipa::path(delete, path = "/v1/clusters/{name}", responses((status = 200, body = ClusterView), (status = "4XX", body = Problem)))]
async fn delete_cluster(State(core): State<Core>, Path(name): Path<String>) -> Answer<ClusterView> {
    ask(&core, |reply| Request::DeleteCluster(name, reply))
        .await
        .map(Json)
}

/// Which VM would go where, in which batch; nothing is changed.
#[utoipa::path(post, path = "/v1/clusters/{name}/plan", request_body = MoveOrder,
    responses((status = 200, body = PlanView), (status = "4XX", body = Problem)))]
async fn plan(
    State(core): State<Core>,
    Path(name): Path<String>,
    order: Result<Json<MoveOrder>, JsonRejection>,
) -> Answer<PlanView> {
    let order = body(order)?;
    ask(&core, |reply| Request::Plan(name, order, reply))
        .await
        .map(Json)
}

/// Begins a move; it goes on whoever listens.
#[utoipa::path(post, path = "/v1/clusters/{name}/migrations", request_body = MoveOrder,
    responses((status = 202, body = Accepted), (status = "4XX", body = Problem)))]
async fn move_cluster(
    State(core): State<Core>,
    Path(name): Path<String>,
    order: Result<Json<MoveOrder>, JsonRejection>,
) -> Result<(StatusCode, Json<Accepted>), Refused> {
    let order = body(order)?;
    let accepted = ask(&core, |reply| Request::Move(name, order, reply)).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

#[utoipa::path(get, path = "/v1/migrations", responses((status = 200, body = MigrationList)))]
async fn migrations(State(core): State<Core>) -> Answer<MigrationList> {
    ask(&core, Request::Migrations).await.map(Json)
}

/// The report; of a move under way, as of now.
#[utoipa::path(get, path = "/v1/migrations/{id}", responses((status = 200, body = Object), (status = 404, body = Problem)))]
async fn report(State(core): State<Core>, Path(id): Path<String>) -> Answer<MigrationReport> {
    ask(&core, |reply| Request::Report(id, reply)).await.map(Json)
}

#[derive(Deserialize, utoipa::IntoParams)]
struct After {
    /// Events with a number above this one.
    #[serde(default)]
    after: usize,
}

/// What happens, as server-sent events: from the beginning or after a number, then live until the move is over.
#[utoipa::path(get, path = "/v1/migrations/{id}/events", params(After),
    responses((status = 200, content_type = "text/event-stream", body = Object), (status = 404, body = Problem)))]
async fn events(
    State(core): State<Core>,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<Sse<impl Stream<Item = Result<axum::response::sse::Event, Infallible>>>, Refused> {
    let history = ask(&core, |reply| Request::Follow(id, reply)).await?;
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut given = after;
        while let Some(events) = history.after(given).await {
            given += events.len();
            for event in events {
                let number = event.number.to_string();
                let line = axum::response::sse::Event::default().id(number).json_data(&event);
                // A listener that went away ends this task.
                if sender.send(Ok(line.expect("events are JSON"))).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(Sse::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()))
}

/// Before commit the batch rolls back; after it, no further batch begins.
#[utoipa::path(post, path = "/v1/migrations/{id}/cancel", responses((status = 200, body = Accepted), (status = "4XX", body = Problem)))]
async fn cancel(State(core): State<Core>, Path(id): Path<String>) -> Answer<Accepted> {
    ask(&core, |reply| Request::Cancel(id, reply)).await.map(Json)
}
