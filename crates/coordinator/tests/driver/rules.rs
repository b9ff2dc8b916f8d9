//! What a cluster's VMs ask of their hosts binds its moves: groups, pins, labels; and what becomes
//! of VMs that find no place.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use transhume_api::{PlanView, VmLife};
use transhume_model::{GroupKind, PlacementRules};
use transhume_protocol::report::Ending;

use crate::support::{Site, cluster, order};

const VMS: [(&str, &str); 3] = [("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2")];
const RULES: &str = "/v1/clusters/lab/rules";

async fn lab() -> Site {
    Site::new(&[("h1", 4), ("h2", 4), ("h3", 4), ("h4", 4)])
        .await
        .with_lab(&VMS)
        .await
}

fn apart(name: &str, vms: &[&str]) -> Value {
    json!({ "name": name, "kind": "anti-affinity", "vms": vms })
}

async fn plan(site: &Site, order: &Value) -> PlanView {
    site.post("/v1/clusters/lab/plan", order).await.is()
}

fn targets(plan: &PlanView) -> BTreeMap<&str, &str> {
    let moves = plan.moves.iter();
    moves.map(|one| (one.vm.as_str(), one.target.as_str())).collect()
}

#[tokio::test]
async fn vms_that_must_be_apart_are_moved_apart() {
    let site = lab().await;
    let order = order(&["h1", "h2"], &["h3", "h4"]);
    assert_eq!(plan(&site, &order).await.hosts_used, 1, "without rules");
    let rules = json!({ "groups": [apart("replicas", &["vm1", "vm3"])] });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    let made = plan(&site, &order).await;
    let on = targets(&made);
    assert_ne!(on["vm1"], on["vm3"], "{made:?}");
    assert_eq!((made.hosts_used, made.hosts_min), (2, 2));
    assert!(!made.explanation.is_empty());
    site.post(
        "/v1/clusters/lab/plan",
        &json!({ "from": ["h1", "h2"], "to": ["h3"] }),
    )
    .await
    .refused(409, "no-solution");
    let migration = site.migrate(&order).await;
    assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
    let expected: Vec<(&str, &str)> = VMS.iter().map(|(vm, _)| (*vm, on[vm])).collect();
    site.assert_runs(&expected);
}

#[tokio::test]
async fn a_vm_that_stays_counts_for_the_groups_it_is_in() {
    let site = lab().await;
    let rules = json!({ "groups": [apart("replicas", &["vm1", "vm3"])] });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    // vm3 stays on h2, where vm1 must not go.
    let made = plan(&site, &order(&["h1"], &["h2", "h4"])).await;
    assert_eq!(targets(&made)["vm1"], "h4", "{made:?}");
}

#[tokio::test]
async fn pins_and_labels_say_which_hosts_will_do() {
    let mut site = lab().await;
    site.end().await;
    for (host, zone) in [("h3", "a"), ("h4", "b")] {
        let labels = [("zone".to_owned(), zone.to_owned())];
        site.labels.insert(host, labels.into());
    }
    site.start().await;
    site.all_connected().await;
    let rules = json!({ "vms": { "vm1": { "selector": { "zone": "b" } }, "vm2": { "pin": ["h3"] } } });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    let made = plan(&site, &order(&["h1"], &["h3", "h4"])).await;
    assert_eq!(targets(&made), [("vm1", "h4"), ("vm2", "h3")].into());
}

#[tokio::test]
async fn rules_outlive_the_coordinator_and_moves() {
    let mut site = lab().await;
    let rules = json!({ "groups": [apart("replicas", &["vm1", "vm2"])] });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    let migration = site.migrate(&order(&["h1"], &["h3", "h4"])).await;
    site.ended(migration).await;
    site.end().await;
    site.start().await;
    let kept: PlacementRules = site.get(RULES).await.is();
    assert_eq!(kept.groups[0].kind, GroupKind::AntiAffinity);
    site.put(RULES, &json!({})).await.is::<PlacementRules>();
    assert!(site.get(RULES).await.is::<PlacementRules>().is_empty());
}

#[tokio::test]
async fn a_cluster_may_come_with_its_rules() {
    let site = Site::new(&[("h1", 4), ("h2", 4)]).await;
    let mut lab = cluster("lab", &VMS);
    lab["rules"] = json!({ "groups": [apart("replicas", &["vm1", "vm9"])] });
    site.post("/v1/clusters", &lab).await.refused(404, "unknown-vm");
    lab["rules"] = json!({ "groups": [apart("replicas", &["vm1", "vm2"])] });
    assert_eq!(site.post("/v1/clusters", &lab).await.status, 201);
    assert_eq!(site.get(RULES).await.is::<PlacementRules>().groups.len(), 1);
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused_and_the_old_ones_stay() {
    let site = lab().await;
    let good = json!({ "groups": [apart("replicas", &["vm1", "vm2"])] });
    site.put(RULES, &good).await.is::<PlacementRules>();
    let together = json!({ "name": "pair", "kind": "affinity", "vms": ["vm1", "vm2"] });
    let cases = [
        (
            json!({ "groups": [apart("a", &["vm1", "vm7"])] }),
            404,
            "unknown-vm",
            "vm7",
        ),
        (json!({ "vms": { "vm9": {} } }), 404, "unknown-vm", "vm9"),
        (
            json!({ "vms": { "vm1": { "pin": ["h33"] } } }),
            404,
            "unknown-host",
            "h33",
        ),
        (json!({ "groups": [apart("a", &["vm1"])] }), 422, "bad-rules", "a"),
        (
            json!({ "groups": [apart("a", &["vm1", "vm2"]), apart("a", &["vm1", "vm3"])] }),
            422,
            "bad-rules",
            "a",
        ),
        (
            json!({ "groups": [apart("a", &["vm1", "vm2"]), together] }),
            422,
            "bad-rules",
            "vm1",
        ),
        (json!({ "group": [] }), 422, "bad-body", "group"),
    ];
    for (rules, status, code, names) in cases {
        let problem = site.put(RULES, &rules).await.refused(status, code);
        assert!(problem.message.contains(names), "{problem:?}");
    }
    let kept: PlacementRules = site.get(RULES).await.is();
    assert_eq!(kept.groups.len(), 1);
    site.put("/v1/clusters/lba/rules", &good)
        .await
        .refused(404, "unknown-cluster");
}

#[tokio::test]
async fn the_papers_strategy_says_that_it_knows_no_groups() {
    let site = lab().await;
    let rules = json!({ "groups": [apart("replicas", &["vm1", "vm2"])] });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    let mut order = order(&["h1"], &["h3", "h4"]);
    order["strategy"] = json!("paper");
    let problem = site
        .post("/v1/clusters/lab/plan", &order)
        .await
        .refused(422, "bad-rules");
    assert!(problem.message.contains("group replicas"), "{problem:?}");
}

#[tokio::test]
async fn a_vm_that_is_forgotten_leaves_its_groups() {
    let site = lab().await;
    let rules = json!({ "groups": [apart("three", &["vm1", "vm2", "vm3"])] });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    site.post("/v1/clusters/lab/vms/vm2/stop", &json!({})).await;
    site.delete("/v1/clusters/lab/vms/vm2").await;
    let kept: PlacementRules = site.get(RULES).await.is();
    let vms: Vec<&str> = kept.groups[0].vms.iter().map(|vm| vm.as_str()).collect();
    assert_eq!(vms, ["vm1", "vm3"]);
    let view: Value = site.get("/v1/clusters/lab").await.is();
    assert!(
        view["vms"]
            .as_array()
            .unwrap()
            .iter()
            .all(|vm| vm["state"] == json!(VmLife::Running))
    );
}

#[tokio::test]
async fn where_some_find_no_place_the_others_go_if_that_is_wanted() {
    let site = lab().await;
    // Nobody but vm1 may go to h4, and h3 is for nobody.
    let rules = json!({ "vms": { "vm2": { "pin": ["h1"] } } });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    let mut order = order(&["h1"], &["h4"]);
    let problem = site
        .post("/v1/clusters/lab/migrations", &order)
        .await
        .refused(409, "no-solution");
    assert!(
        problem.message.contains("vm2") && !problem.message.contains("vm1"),
        "{problem:?}"
    );
    assert!(problem.hint.contains("--partial"), "{problem:?}");
    site.assert_runs(&VMS);
    order["partial"] = json!(true);
    // One of two moves: two at once are one then, and three are a slip.
    order["batch"] = json!(2);
    let made = plan(&site, &order).await;
    assert_eq!(targets(&made), [("vm1", "h4")].into());
    order["batch"] = json!(3);
    site.post("/v1/clusters/lab/plan", &order)
        .await
        .refused(422, "bad-batch");
    order["batch"] = json!(2);
    assert_eq!(made.unplaced.len(), 1);
    assert!(
        made.unplaced[0].must_leave && made.unplaced[0].why.contains("vm2"),
        "{made:?}"
    );
    let migration = site.migrate(&order).await;
    assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
    site.assert_runs(&[("vm1", "h4"), ("vm2", "h1"), ("vm3", "h2")]);
}

#[tokio::test]
async fn under_a_deadline_what_matters_most_goes_first() {
    let site = lab().await;
    let rules = json!({ "vms": { "vm2": { "weight": 10 } } });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    let mut order = order(&["h1", "h2"], &["h3"]);
    order["safe_by_ms"] = json!(60_000);
    let made = plan(&site, &order).await;
    let batches: BTreeMap<&str, usize> = made
        .moves
        .iter()
        .map(|one| (one.vm.as_str(), one.batch))
        .collect();
    assert_eq!(
        batches,
        [("vm2", 1), ("vm3", 1), ("vm1", 2)].into(),
        "one of each host at a time"
    );
    assert!(made.notes[0].contains("12 of a weight of 12"), "{made:?}");
    order["safe_by_ms"] = json!(1);
    let made = plan(&site, &order).await;
    assert!(
        made.notes
            .iter()
            .any(|note| note.contains("VM vm1 is not safe in time")),
        "{made:?}"
    );
    order["batch"] = json!(2);
    let path = "/v1/clusters/lab/plan";
    site.post(path, &order).await.refused(422, "bad-deadline");
    order["adaptive"] = json!(true);
    site.post(path, &order).await.refused(422, "bad-deadline");
    let mut overlapping = json!({ "from": ["h1"], "to": ["h1", "h2"], "safe_by_ms": 9_000 });
    site.post(path, &overlapping).await.refused(422, "bad-deadline");
    overlapping["safe_by_ms"] = json!(0);
    overlapping["to"] = json!(["h2"]);
    site.post(path, &overlapping).await.refused(422, "bad-deadline");
}

#[tokio::test]
async fn a_target_that_cannot_run_a_vm_is_passed_over_where_another_can() {
    let site = lab().await;
    // Alone, h3 would be chosen.
    site.agents["h3"].desk().state.mtu_max = 1400;
    let made = plan(&site, &order(&["h1", "h2"], &["h3", "h4"])).await;
    assert!(
        made.moves.iter().all(|one| one.target.as_str() == "h4"),
        "{made:?}"
    );
    let rules = json!({ "vms": { "vm1": { "pin": ["h3"] } } });
    site.put(RULES, &rules).await.is::<PlacementRules>();
    site.post("/v1/clusters/lab/plan", &order(&["h1"], &["h3", "h4"]))
        .await
        .refused(409, "mtu");
}

#[tokio::test]
async fn a_plan_is_drawn_where_that_is_wanted() {
    let site = lab().await;
    let mut order = order(&["h1"], &["h4"]);
    assert!(plan(&site, &order).await.picture.is_none());
    order["draw"] = json!(true);
    let picture = plan(&site, &order).await.picture.expect("a picture");
    assert!(
        picture.starts_with("<svg") && picture.contains("vm1"),
        "{picture}"
    );
}
