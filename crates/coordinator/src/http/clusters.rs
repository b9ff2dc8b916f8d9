//! Clusters and their VMs.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use transhume_api::{
    ClusterList, ClusterView, Decision, Problem, Verdict, VmCheck, VmRestart, VmStart, VmStop,
};
use transhume_model::{ClusterSpec, PlacementRules};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Cluster, ask, body};
use crate::error::Refused;
use crate::requests::{Request, VmRequest, VmWish};

/// All routes about them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(clusters, create_cluster))
        .routes(routes!(cluster, delete_cluster))
        .routes(routes!(rules, set_rules))
        .routes(routes!(forget_cluster))
        .routes(routes!(start_vm))
        .routes(routes!(restart_vm))
        .routes(routes!(open_plug))
        .routes(routes!(check_vm))
        .routes(routes!(stop_vm))
        .routes(routes!(forget_vm))
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

/// What one of the verbs of a VM would do, and what may be lost by it; nothing is changed.
#[utoipa::path(post, path = "/v1/clusters/{name}/vms/{vm}/check", params(Vm), request_body = VmCheck,
    responses((status = 200, body = Verdict), (status = "4XX", body = Problem)))]
async fn check_vm(
    State(api): State<Api>,
    Path(Vm { name: cluster, vm }): Path<Vm>,
    check: Result<Json<VmCheck>, JsonRejection>,
) -> Answer<Verdict> {
    let wish = match body(check)? {
        VmCheck::Start { host } => VmWish::Start { host },
        VmCheck::Restart { on } => VmWish::Restart { on },
        VmCheck::Stop { force } => VmWish::Stop { force },
        VmCheck::Forget => VmWish::Forget,
    };
    let request = VmRequest { cluster, vm, wish };
    ask(&api, |reply| Request::CheckVm(request, reply))
        .await
        .map(Json)
}

async fn ask_about(api: &Api, vm: Vm, wish: VmWish) -> Answer<ClusterView> {
    let Vm { name: cluster, vm } = vm;
    let request = VmRequest { cluster, vm, wish };
    ask(api, |reply| Request::Vm(request, reply)).await.map(Json)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct Vm {
    /// The cluster.
    name: String,
    /// The VM.
    vm: String,
}
