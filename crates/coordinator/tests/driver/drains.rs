//! Drains: every VM of every cluster leaves some hosts, by one plan, whatever comes between.

use serde_json::{Value, json};
use transhume_api::{DrainPlanView, DrainStage, DrainView};
use transhume_model::PlacementRules;
use transhume_protocol::message::RefusalKind;
use transhume_protocol::report::Ending;

use crate::fake::Fate;
use crate::support::{Site, cluster, order, until};

const HOSTS: [(&str, u64); 4] = [("h1", 4), ("h2", 4), ("h3", 4), ("h4", 4)];

/// Two clusters: `lab` on h1 and h2, `web` on h1.
async fn site() -> Site {
    let site = Site::new(&HOSTS)
        .await
        .with_lab(&[("vm1", "h1"), ("vm2", "h2")])
        .await;
    let web = cluster("web", &[("vm3", "h1"), ("vm4", "h1")]);
    assert_eq!(site.post("/v1/clusters", &web).await.status, 201);
    site
}

async fn begin(site: &Site, hosts: &[&str], to: &[&str]) -> DrainView {
    let answer = site.post("/v1/drains", &json!({ "from": hosts, "to": to })).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.is()
}

async fn view(site: &Site, drain: u64) -> DrainView {
    site.get(&format!("/v1/drains/{drain}")).await.is()
}

async fn over(site: &Site, drain: u64) -> DrainView {
    let ended = async || {
        let view = view(site, drain).await;
        (view.stage != DrainStage::Running).then_some(view)
    };
    until("the drain is over", ended).await
}

#[tokio::test]
async fn every_cluster_leaves_and_the_host_stays_cordoned() {
    let site = site().await;
    let begun = begin(&site, &["h1"], &["h3"]).await;
    assert_eq!((begun.stage, begun.left.len()), (DrainStage::Running, 3));
    let ended = over(&site, 1).await;
    assert_eq!(ended.stage, DrainStage::Done, "{ended:?}");
    assert_eq!(ended.moves.len(), 2, "a move for each cluster");
    assert!(ended.left.is_empty() && ended.stays.is_empty(), "{ended:?}");
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h2"), ("vm3", "h3"), ("vm4", "h3")]);
    site.post("/v1/clusters/lab/plan", &order(&["h2"], &["h1"]))
        .await
        .refused(409, "host-cordoned");
    let again = begin(&site, &["h1"], &[]).await;
    let again = over(&site, again.drain.0).await;
    assert_eq!((again.stage, again.moves.len()), (DrainStage::Done, 0));
}

#[tokio::test]
async fn all_clusters_share_one_plan() {
    let site = site().await;
    // Cluster by cluster lab's VM would go to h3, the first; together they need only h2 and one
    // more.
    let plan: DrainPlanView = site
        .post("/v1/drain-plan", &json!({ "from": ["h1"], "to": ["h3", "h4"] }))
        .await
        .is();
    assert_eq!((plan.targets_used, plan.targets_min, plan.moves.len()), (1, 1, 3));
    assert!(plan.stays.is_empty(), "{plan:?}");
    site.assert_runs(&[("vm1", "h1"), ("vm2", "h2"), ("vm3", "h1"), ("vm4", "h1")]);
    let hosts = site.hosts().await.hosts;
    assert!(hosts.iter().all(|host| !host.cordoned), "it was only asked");
}

#[tokio::test]
async fn without_targets_every_host_that_may_take_vms_is_one() {
    let site = site().await;
    site.post("/v1/hosts/h2/cordon", &json!({})).await.is::<Value>();
    site.post("/v1/hosts/h3/cordon", &json!({})).await.is::<Value>();
    begin(&site, &["h1"], &[]).await;
    assert_eq!(over(&site, 1).await.stage, DrainStage::Done);
    site.assert_runs(&[("vm1", "h4"), ("vm2", "h2"), ("vm3", "h4"), ("vm4", "h4")]);
    site.post("/v1/hosts/h4/cordon", &json!({})).await.is::<Value>();
    begin(&site, &["h4"], &[]).await;
    let stuck = over(&site, 2).await;
    assert_eq!((stuck.stage, stuck.left.len()), (DrainStage::Partly, 3));
    assert!(
        stuck.stays.iter().all(|stay| stay.why.contains("cordoned")),
        "{stuck:?}"
    );
}

#[tokio::test]
async fn a_host_that_nobody_named_and_that_cannot_be_used_is_passed_over() {
    let site = site().await;
    site.agents["h2"].desk().state.qemu = None;
    site.agents["h3"].desk().state.mtu_max = 1400;
    let known = async || {
        let hosts = site.hosts().await.hosts;
        hosts[1].qemu.is_none().then_some(())
    };
    // Any plan asks for fresh answers.
    site.post("/v1/clusters/lab/plan", &order(&["h1"], &["h2", "h3"]))
        .await
        .refused(409, "no-qemu");
    until("h2's state is known", known).await;
    begin(&site, &["h1"], &[]).await;
    assert_eq!(over(&site, 1).await.stage, DrainStage::Done);
    site.assert_runs(&[("vm1", "h4"), ("vm2", "h2"), ("vm3", "h4"), ("vm4", "h4")]);
    site.post("/v1/drains", &json!({ "from": ["h4"], "to": ["h1"] }))
        .await
        .refused(409, "host-cordoned");
}

/// The one that matters most goes first, whatever cluster it is of; the others of its cluster wait
/// for their turn.
#[tokio::test]
async fn under_a_deadline_what_matters_most_goes_first() {
    let site = site().await;
    for (cluster, vm, weight) in [("web", "vm4", 9), ("lab", "vm1", 5)] {
        let rules = json!({ "vms": { vm: { "weight": weight } } });
        site.put(&format!("/v1/clusters/{cluster}/rules"), &rules)
            .await
            .is::<PlacementRules>();
    }
    let order = json!({ "from": ["h1"], "to": ["h3"], "safe_by_ms": 3_600_000 });
    let plan: DrainPlanView = site.post("/v1/drain-plan", &order).await.is();
    let vms: Vec<&str> = plan.moves.iter().map(|step| step.vm.as_str()).collect();
    assert_eq!(vms, ["vm4", "vm1", "vm3"]);
    assert!(plan.notes[0].contains("15 of a weight of 15"), "{plan:?}");
    let short = json!({ "from": ["h1"], "to": ["h3"], "safe_by_ms": 1 });
    let short: DrainPlanView = site.post("/v1/drain-plan", &short).await.is();
    assert!(
        short
            .notes
            .iter()
            .any(|note| note.contains("VM vm4 is not safe in time")),
        "{short:?}"
    );
    let begun = site.post("/v1/drains", &order).await;
    assert_eq!(begun.status, 202, "{}", begun.body);
    let ended = over(&site, 1).await;
    assert_eq!(ended.stage, DrainStage::Done, "{ended:?}");
    let clusters: Vec<&str> = ended.moves.iter().map(|one| one.cluster.as_str()).collect();
    assert_eq!(clusters, ["web", "lab", "web"]);
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h2"), ("vm3", "h3"), ("vm4", "h3")]);
}

/// Its hosts still answer: what is left goes.
#[tokio::test]
async fn a_deadline_that_passes_stops_nothing() {
    let site = site().await;
    let order = json!({ "from": ["h1"], "to": ["h3"], "safe_by_ms": 1 });
    assert_eq!(site.post("/v1/drains", &order).await.status, 202);
    assert_eq!(over(&site, 1).await.stage, DrainStage::Done);
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h2"), ("vm3", "h3"), ("vm4", "h3")]);
}

#[tokio::test]
async fn what_cannot_move_is_named_and_the_rest_goes() {
    let site = site().await;
    let rules = json!({ "vms": { "vm3": { "pin": ["h1", "h2"] } } });
    site.put("/v1/clusters/web/rules", &rules)
        .await
        .is::<PlacementRules>();
    begin(&site, &["h1"], &["h3"]).await;
    let ended = over(&site, 1).await;
    assert_eq!(ended.stage, DrainStage::Partly);
    let left: Vec<&str> = ended.left.iter().map(|left| left.vm.as_str()).collect();
    assert_eq!(left, ["vm3"]);
    assert!(
        ended.stays.iter().any(|stay| stay.why.contains("vm3")),
        "{ended:?}"
    );
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h2"), ("vm3", "h1"), ("vm4", "h3")]);
}

#[tokio::test]
async fn a_move_that_rolls_back_is_tried_once_more_and_the_others_go() {
    let site = site().await;
    site.agents["h3"].meets("Reserve", Fate::Refuse(RefusalKind::NoCapacity));
    begin(&site, &["h1"], &["h3"]).await;
    let ended = over(&site, 1).await;
    assert_eq!((ended.stage, ended.left.len()), (DrainStage::Partly, 3));
    assert_eq!(ended.moves.len(), 4, "two tries for each cluster");
    assert!(
        ended.moves.iter().all(|one| one.outcome == Some(Ending::Refused)),
        "{ended:?}"
    );
    site.agents["h3"].behaves();
    begin(&site, &["h1"], &["h3"]).await;
    assert_eq!(over(&site, 2).await.stage, DrainStage::Done);
}

#[tokio::test]
async fn a_coordinator_that_dies_goes_on_with_the_drain() {
    let mut site = site().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    begin(&site, &["h1"], &["h3"]).await;
    site.ordered("h1", "PreCopy").await;
    site.end().await;
    site.agents["h1"].behaves();
    site.start().await;
    site.all_connected().await;
    let ended = over(&site, 1).await;
    assert_eq!(ended.stage, DrainStage::Done, "{ended:?}");
    assert!(ended.moves.iter().all(|one| one.outcome.is_some()), "{ended:?}");
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h2"), ("vm3", "h3"), ("vm4", "h3")]);
}

#[tokio::test]
async fn a_cluster_that_is_being_moved_is_waited_for() {
    let site = site().await;
    site.agents["h2"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h2"], &["h4"])).await;
    site.ordered("h2", "PreCopy").await;
    begin(&site, &["h1"], &["h3"]).await;
    let waits = async || {
        let view = view(&site, 1).await;
        let doing = view.doing.clone().unwrap_or_default();
        (view.left.len() == 1 && doing.contains("waits")).then_some(view)
    };
    let waiting = until("only lab's VM is left, and waited for", waits).await;
    assert_eq!(waiting.left[0].vm.as_str(), "vm1");
    site.post(&format!("/v1/migrations/{migration}/cancel"), &Value::Null)
        .await
        .is::<Value>();
    assert_eq!(over(&site, 1).await.stage, DrainStage::Done);
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h2"), ("vm3", "h3"), ("vm4", "h3")]);
}

#[tokio::test]
async fn a_drain_that_is_cancelled_begins_nothing_more() {
    let site = site().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    begin(&site, &["h1"], &["h3"]).await;
    site.ordered("h1", "PreCopy").await;
    site.post("/v1/drains/1/cancel", &Value::Null)
        .await
        .is::<DrainView>();
    let moves = view(&site, 1).await.moves;
    let path = format!("/v1/migrations/{}/cancel", moves[0].migration);
    site.post(&path, &Value::Null).await.is::<Value>();
    let ended = over(&site, 1).await;
    assert_eq!((ended.stage, ended.left.len()), (DrainStage::Cancelled, 3));
    site.post("/v1/drains/1/cancel", &Value::Null)
        .await
        .refused(409, "drain-over");
}

#[tokio::test]
async fn two_drains_of_one_host_are_one_or_refused() {
    let site = site().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    begin(&site, &["h1"], &["h3"]).await;
    site.ordered("h1", "PreCopy").await;
    assert_eq!(
        begin(&site, &["h1"], &[]).await.drain.0,
        1,
        "the same hosts, the same drain"
    );
    let problem = site
        .post("/v1/drains", &json!({ "from": ["h2", "h1"] }))
        .await
        .refused(409, "drain-under-way");
    assert!(problem.message.contains("h1"), "{problem:?}");
    // A second evacuation does not put anything where the first takes it away.
    let plan: DrainPlanView = site.post("/v1/drain-plan", &json!({ "from": ["h2"] })).await.is();
    assert!(
        plan.moves.iter().all(|step| step.target.as_str() != "h1"),
        "{plan:?}"
    );
}

#[tokio::test]
async fn wrong_names_are_refused() {
    let site = site().await;
    let cases = [
        (json!({ "from": ["h9"] }), 404, "unknown-host"),
        (json!({ "from": [] }), 422, "empty-set"),
        (json!({ "from": ["h1", "h1"] }), 422, "host-twice"),
        (json!({ "from": ["h1"], "to": ["h1", "h2"] }), 422, "same-hosts"),
        (json!({ "from": ["h1"], "to": ["h8"] }), 404, "unknown-host"),
    ];
    for (order, status, code) in cases {
        for path in ["/v1/drains", "/v1/drain-plan"] {
            site.post(path, &order).await.refused(status, code);
        }
    }
    site.get("/v1/drains/7").await.refused(404, "unknown-drain");
    let hosts = site.hosts().await.hosts;
    assert!(hosts.iter().all(|host| !host.cordoned), "nothing was changed");
}

#[tokio::test]
async fn a_vm_that_is_being_stopped_is_waited_for() {
    let mut site = site().await;
    site.agents["h1"].meets("StopVm", Fate::Nothing);
    let stop = json!({});
    tokio::select! {
        answer = site.post("/v1/clusters/web/vms/vm3/stop", &stop) => panic!("{answer:?}"),
        () = site.ordered("h1", "StopVm") => {}
    }
    begin(&site, &["h1"], &["h3"]).await;
    let waits = async || {
        let view = view(&site, 1).await;
        let doing = view.doing.clone().unwrap_or_default();
        (view.left.len() == 2 && doing.contains("waits")).then_some(())
    };
    until("lab's VM is gone, and web is waited for", waits).await;
    // With its agent the job ends, and no move is over by it.
    site.agents.get_mut("h1").unwrap().stop().await;
    let gone = async || (!site.hosts().await.hosts[0].connected).then_some(());
    until("h1 is gone", gone).await;
    let agent = site.agents.get_mut("h1").unwrap();
    agent.behaves();
    agent.restart();
    assert_eq!(over(&site, 1).await.stage, DrainStage::Done);
}

#[tokio::test]
async fn a_coordinator_that_starts_again_waits_for_its_agents() {
    let mut site = site().await;
    site.agents["h2"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h2"], &["h4"])).await;
    site.ordered("h2", "PreCopy").await;
    let rules = json!({ "vms": { "vm3": { "pin": ["h1"] }, "vm4": { "pin": ["h1"] } } });
    site.put("/v1/clusters/web/rules", &rules)
        .await
        .is::<PlacementRules>();
    begin(&site, &["h1"], &["h3"]).await;
    let waits = async || {
        let doing = view(&site, 1).await.doing.unwrap_or_default();
        doing.contains("waits").then_some(())
    };
    until("it waits for lab's move", waits).await;
    site.end().await;
    for agent in site.agents.values_mut() {
        agent.stop().await;
    }
    site.start().await;
    // Nobody is there yet: nothing is known, so nothing is over.
    let asked = async || (view(&site, 1).await.stage == DrainStage::Running).then_some(());
    until("it goes on", asked).await;
    site.agents["h2"].behaves();
    site.agents.values_mut().for_each(crate::fake::Agent::restart);
    site.all_connected().await;
    site.post(&format!("/v1/migrations/{migration}/cancel"), &Value::Null)
        .await;
    let ended = over(&site, 1).await;
    assert_eq!(ended.stage, DrainStage::Partly);
    let left: Vec<&str> = ended.left.iter().map(|left| left.vm.as_str()).collect();
    assert_eq!(left, ["vm3", "vm4"], "lab's VM could go: {ended:?}");
}

#[tokio::test]
async fn k_is_at_most_what_a_cluster_has_there_and_any_strategy_will_do() {
    let site = site().await;
    let order = json!({ "from": ["h1"], "to": ["h3"], "batch": 2, "strategy": "paper" });
    site.post("/v1/drains", &order).await.is::<DrainView>();
    let ended = over(&site, 1).await;
    assert_eq!(ended.stage, DrainStage::Done, "{ended:?}");
}

#[tokio::test]
async fn one_vm_that_can_go_nowhere_does_not_hold_its_cluster_back() {
    let site = site().await;
    // vm3's host lost its record.
    site.agents["h1"].loses("vm3");
    begin(&site, &["h1"], &["h3"]).await;
    let ended = over(&site, 1).await;
    assert_eq!(ended.stage, DrainStage::Partly);
    let left: Vec<&str> = ended.left.iter().map(|left| left.vm.as_str()).collect();
    assert_eq!(left, ["vm3"], "{ended:?}");
    assert!(ended.stays[0].why.contains("does not know it"), "{ended:?}");
}

#[tokio::test]
async fn an_order_that_can_never_be_planned_cordons_nothing() {
    let site = site().await;
    let cases = [
        (json!({ "from": ["h1"], "batch": 0 }), "bad-batch"),
        (json!({ "from": ["h1"], "blackout_ms_max": 0 }), "bad-budget"),
        (json!({ "from": ["h1"], "duration_ms_max": 0 }), "bad-limit"),
        (json!({ "from": ["h1"], "safe_by_ms": 0 }), "bad-deadline"),
        (
            json!({ "from": ["h1"], "safe_by_ms": 60_000, "batch": 2 }),
            "bad-deadline",
        ),
        (
            json!({ "from": ["h1"], "converge": { "policy": "throttle", "percent": 0 } }),
            "bad-share",
        ),
    ];
    for (order, code) in cases {
        site.post("/v1/drains", &order).await.refused(422, code);
    }
    let hosts = site.hosts().await.hosts;
    assert!(hosts.iter().all(|host| !host.cordoned));
}
