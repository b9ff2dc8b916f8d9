//! Drains.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use transhume_api::{DrainList, DrainPlanView, DrainView, MoveOrder, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, ask, body};
use crate::error::Refused;
use crate::requests::Request;

/// All routes about them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(drains, drain))
        .routes(routes!(plan_drain))
        .routes(routes!(show_drain))
        .routes(routes!(cancel_drain))
}

/// Drains that are under way or kept.
#[utoipa::path(get, path = "/v1/drains", responses((status = 200, body = DrainList)))]
async fn drains(State(api): State<Api>) -> Answer<DrainList> {
    ask(&api, Request::Drains).await.map(Json)
}

/// Begins to move every VM off these hosts, or finds the drain of them that is under way.
#[utoipa::path(post, path = "/v1/drains", request_body = MoveOrder,
    responses((status = 202, body = DrainView), (status = "4XX", body = Problem)))]
async fn drain(
    State(api): State<Api>,
    order: Result<Json<MoveOrder>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainView>), Refused> {
    let order = body(order)?;
    let view = ask(&api, |reply| Request::Drain(order, reply)).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// Which VM would go where; nothing is changed.
#[utoipa::path(post, path = "/v1/drain-plan", request_body = MoveOrder,
    responses((status = 200, body = DrainPlanView), (status = "4XX", body = Problem)))]
async fn plan_drain(
    State(api): State<Api>,
    order: Result<Json<MoveOrder>, JsonRejection>,
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

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Drain {
    /// Its number.
    id: String,
}
