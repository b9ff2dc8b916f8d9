//! Links between hosts.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use transhume_api::{LinkView, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, ask};
use crate::requests::Request;

/// All routes about them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(check_link))
}

/// Measures for two seconds what the link from one host to another and both agents can do. Refused
/// while a move has a part on either: it fills VMCT.
#[utoipa::path(post, path = "/v1/hosts/{name}/links/{target}/check", params(Link),
    responses((status = 200, body = LinkView), (status = "4XX", body = Problem)))]
async fn check_link(State(api): State<Api>, Path(Link { name, target }): Path<Link>) -> Answer<LinkView> {
    let request = |reply| Request::CheckLink {
        from: name,
        to: target,
        reply,
    };
    ask(&api, request).await.map(Json)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Link {
    /// Whose agent sends.
    name: String,
    /// Whose agent receives.
    target: String,
}
