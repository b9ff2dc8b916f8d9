//! Plans, moves, their reports, and the stream of their events.

use std::convert::Infallible;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use transhume_api::{
    Accepted, ForecastRecord, MigrationList, MoveOrder, MoveResolution, PlanView, Problem, Verdict,
};
use transhume_model::MigrationId;
use transhume_protocol::event::Event;
use transhume_protocol::report::MigrationReport;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Cluster, ask, body};
use crate::error::Refused;
use crate::requests::{Request, ResolveWish};

/// All routes about them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(plan))
        .routes(routes!(move_cluster))
        .routes(routes!(migrations))
        .routes(routes!(report))
        .routes(routes!(forecasts))
        .routes(routes!(events))
        .routes(routes!(cancel))
        .routes(routes!(resolve))
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
    let MoveResolution {
        vm,
        run_on,
        although_it_may_have_run,
        dry_run,
    } = body(resolution)?;
    let wish = ResolveWish {
        vm,
        run_on,
        although_it_may_have_run,
    };
    let request = |reply| Request::Resolve {
        migration,
        wish,
        dry_run,
        reply,
    };
    ask(&api, request).await.map(Json)
}
