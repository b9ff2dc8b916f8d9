//! Moves from plan to report: commit, batches, roll-back, cancel; each ends with every VM running
//! in exactly one place.

use serde_json::{Value, json};
use transhume_api::{Accepted, ClusterView, MigrationList, PlanView};
use transhume_model::Capacity;
use transhume_protocol::message::{BandsState, RefusalKind};
use transhume_protocol::report::{Ending, Frames};
use transhume_protocol::step::Step;

use crate::fake::Fate;
use crate::paper::FRAMES;
use crate::support::{Site, order, room, until};

const BEFORE: [(&str, &str); 3] = [("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2")];
const AFTER: [(&str, &str); 3] = [("vm1", "h3"), ("vm2", "h3"), ("vm3", "h3")];

async fn lab() -> Site {
    Site::new(&[("h1", 4), ("h2", 4), ("h3", 3), ("h4", 2)])
        .await
        .with_lab(&BEFORE)
        .await
}

#[tokio::test]
async fn a_plan_names_the_fewest_hosts_and_changes_nothing() {
    let site = lab().await;
    let plan: PlanView = site
        .post(
            "/v1/clusters/lab/plan",
            &json!({ "from": ["h1", "h2"], "to": ["h3", "h4"], "batch": 2 }),
        )
        .await
        .is();
    assert_eq!((plan.batch, plan.hosts_used, plan.hosts_min), (2, 1, 1));
    assert_eq!(
        plan.moves.iter().map(|one| one.batch).collect::<Vec<_>>(),
        [1, 1, 2]
    );
    assert!(
        plan.moves.iter().all(|one| one.target.as_str() == "h3"),
        "{plan:?}"
    );
    site.assert_runs(&BEFORE);
    assert!(
        site.get("/v1/migrations")
            .await
            .is::<MigrationList>()
            .migrations
            .is_empty()
    );
}

#[tokio::test]
async fn a_cluster_moves_to_commit_and_the_report_proves_it() {
    let site = lab().await;
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    let events = site.events(migration, 0).await;
    let report = site.report(migration).await;
    assert_eq!(report.outcome, Ending::Committed, "{:?}", report.trouble);
    site.assert_runs(&AFTER);
    let all = 3 * FRAMES;
    let expected = Frames {
        captured: all,
        delivered: all,
        ..Frames::default()
    };
    assert_eq!(report.frames, expected);
    assert!(
        report
            .vms
            .iter()
            .all(|vm| vm.host == vm.target && vm.frames.is_some()),
        "{report:?}"
    );

    assert_eq!(events.first().unwrap()["what"]["event"], "begun");
    assert_eq!(events.last().unwrap()["what"]["event"], "ended");
    let numbers: Vec<u64> = events
        .iter()
        .map(|event| event["number"].as_u64().unwrap())
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let rest = site.events(migration, numbers[3]).await;
    assert_eq!(rest, events[4..], "what comes after a number");

    let seen = async || {
        let view: ClusterView = site.get("/v1/clusters/lab").await.is();
        let there = |vm: &&transhume_api::VmView| vm.host.as_str() == "h3";
        (view.vms.iter().filter(there).count() == 3 && view.migration.is_none()).then_some(())
    };
    until("the cluster is seen on h3", seen).await;
}

#[tokio::test]
async fn batches_go_one_after_the_other() {
    let site = lab().await;
    let mut order = order(&["h1", "h2"], &["h3"]);
    order["batch"] = json!(1);
    let migration = site.migrate(&order).await;
    let events = site.events(migration, 0).await;
    let committed = events
        .iter()
        .filter(|event| event["what"]["event"] == "committed");
    let batches: Vec<&Value> = committed.map(|event| &event["what"]["batch"]).collect();
    assert_eq!(batches, [&json!(1), &json!(2), &json!(3)]);
    site.assert_runs(&AFTER);
}

/// Twelve VMs of which nothing is known go by four at first; what the first four cost lets the
/// other eight go at once.
#[tokio::test]
async fn batches_that_are_left_to_the_coordinator_follow_what_they_cost() {
    let names: Vec<String> = (1..=12).map(|number| format!("vm{number}")).collect();
    let vms: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "h1")).collect();
    let site = Site::new(&[("h1", 12), ("h2", 12)]).await.with_lab(&vms).await;
    let mut order = order(&["h1"], &["h2"]);
    order["adaptive"] = json!(true);
    order["blackout_ms_max"] = json!(60_000);
    let plan: PlanView = site.post("/v1/clusters/lab/plan", &order).await.is();
    assert_eq!((plan.batch, plan.moves.last().unwrap().batch), (4, 3));
    let migration = site.migrate(&order).await;
    let events = site.events(migration, 0).await;
    let of = |name: &str| {
        events
            .iter()
            .filter(|event| event["what"]["event"] == name)
            .collect::<Vec<_>>()
    };
    let cut = of("rearranged");
    assert_eq!(cut.len(), 1);
    assert_eq!(
        (&cut[0]["what"]["batches"], &cut[0]["what"]["batch_max"]),
        (&json!(2), &json!(8))
    );
    assert_eq!(of("committed").len(), 2);
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::Committed);
    let first = report.vms.iter().filter(|vm| vm.batch == 1).count();
    assert_eq!((first, report.batch), (4, 8));
}

#[tokio::test]
async fn at_most_so_many_go_at_once_where_it_is_said() {
    let vms = ["vm1", "vm2", "vm3", "vm4", "vm5", "vm6"].map(|name| (name, "h1"));
    let site = Site::new(&[("h1", 12), ("h2", 12)]).await.with_lab(&vms).await;
    let mut order = order(&["h1"], &["h2"]);
    order["adaptive"] = json!(true);
    order["batch"] = json!(0);
    site.post("/v1/clusters/lab/plan", &order)
        .await
        .refused(422, "bad-batch");
    order["batch"] = json!(2);
    let migration = site.migrate(&order).await;
    let report = site.ended(migration).await;
    assert_eq!((report.outcome, report.batch), (Ending::Committed, 2));
}

#[tokio::test]
async fn offline_the_cluster_moves_too() {
    let site = lab().await;
    let mut order = order(&["h1", "h2"], &["h3"]);
    order["offline"] = json!(true);
    let migration = site.migrate(&order).await;
    assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
    site.assert_runs(&AFTER);
}

#[tokio::test]
async fn who_can_stay_stays_when_the_sets_overlap() {
    let site = lab().await;
    let plan: PlanView = site
        .post("/v1/clusters/lab/plan", &order(&["h1", "h2"], &["h2", "h4"]))
        .await
        .is();
    assert_eq!(
        plan.stay.iter().map(|vm| vm.as_str()).collect::<Vec<_>>(),
        ["vm3"]
    );
    assert!(
        plan.moves.iter().all(|one| one.target.as_str() == "h2"),
        "{plan:?}"
    );
}

#[tokio::test]
async fn a_refused_reservation_leaves_every_vm_alone() {
    let site = lab().await;
    site.agents["h3"].meets("Reserve", Fate::Refuse(RefusalKind::NoCapacity));
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::Refused);
    let trouble = report.trouble.expect("a reason");
    assert_eq!(
        (trouble.step, trouble.host.unwrap().as_str()),
        (Step::SelectBatch, "h3")
    );
    assert_eq!(trouble.reason, "Reserve is to be refused");
    assert!(!site.agents["h1"].was_ordered("PreCopy"), "no source was touched");
    site.assert_runs(&BEFORE);
}

#[tokio::test]
async fn whatever_breaks_before_commit_the_batch_goes_home() {
    for (host, command) in [
        ("h3", "Prepare"),
        ("h1", "PreCopy"),
        ("h2", "Capture"),
        ("h1", "StopAndCopy"),
        ("h3", "AwaitLoaded"),
    ] {
        let site = lab().await;
        site.agents[host].meets(command, Fate::Fail);
        let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
        let report = site.ended(migration).await;
        assert_eq!(report.outcome, Ending::RolledBack, "{command}");
        let reason = report.trouble.expect("a reason").reason;
        assert!(reason.contains(&format!("{command} is to fail")), "{reason}");
        site.assert_runs(&BEFORE);
    }
}

#[tokio::test]
async fn an_agent_lost_in_pre_copy_rolls_the_batch_back_when_it_returns() {
    let mut site = lab().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    site.ordered("h1", "PreCopy").await;
    site.agents.get_mut("h3").unwrap().stop().await;
    site.ordered("h1", "AbortSource").await;
    site.agents.get_mut("h3").unwrap().restart();
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::RolledBack);
    assert_eq!(report.trouble.expect("a reason").host.unwrap().as_str(), "h3");
    site.assert_runs(&BEFORE);
}

#[tokio::test]
async fn what_breaks_after_commit_is_tried_again_until_it_is_done() {
    let site = lab().await;
    site.agents["h3"].meets("Activate", Fate::Fail);
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    site.ordered("h3", "Activate").await;
    site.agents["h3"].behaves();
    assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
    site.assert_runs(&AFTER);
}

#[tokio::test]
async fn a_cancelled_move_goes_home_and_a_second_one_is_not_begun_meanwhile() {
    let site = lab().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let order = order(&["h1", "h2"], &["h3"]);
    let migration = site.migrate(&order).await;
    site.ordered("h1", "PreCopy").await;
    let problem = site
        .post("/v1/clusters/lab/migrations", &order)
        .await
        .refused(409, "move-under-way");
    assert!(
        problem.message.contains(&format!("migration {migration}")),
        "{}",
        problem.message
    );
    site.delete("/v1/clusters/lab")
        .await
        .refused(409, "move-under-way");
    let cancel = format!("/v1/migrations/{migration}/cancel");
    assert_eq!(
        site.post(&cancel, &Value::Null).await.is::<Accepted>().migration,
        migration
    );
    assert_eq!(site.ended(migration).await.outcome, Ending::RolledBack);
    site.assert_runs(&BEFORE);
    site.post(&cancel, &Value::Null)
        .await
        .refused(409, "migration-over");
}

#[tokio::test]
async fn who_follows_a_move_learns_that_the_bands_of_its_hosts_were_changed() {
    let site = lab().await;
    let bands = |host: &str, put_back| {
        site.agents[host].desk().state.bands = Some(BandsState {
            put_back,
            ..BandsState::default()
        });
    };
    for host in ["h1", "h4"] {
        bands(host, 0);
    }
    let told = async |host: &str, put_back| {
        let all = site.hosts().await.hosts;
        let view = all.into_iter().find(|view| view.name.as_str() == host);
        (view?.bands?.put_back == put_back).then_some(())
    };
    until("h1's bands are known", async || told("h1", 0).await).await;
    until("h4's bands are known", async || told("h4", 0).await).await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    site.ordered("h1", "PreCopy").await;
    for host in ["h1", "h4"] {
        bands(host, 1);
    }
    until("h4's change is known", async || told("h4", 1).await).await;
    until("h1's change is known", async || told("h1", 1).await).await;
    site.post(&format!("/v1/migrations/{migration}/cancel"), &Value::Null)
        .await
        .is::<Accepted>();
    site.ended(migration).await;
    let events = site.events(migration, 0).await;
    let of_bands: Vec<_> = events
        .iter()
        .map(|event| &event["what"])
        .filter(|what| what["event"] == "bands")
        .collect();
    assert_eq!(
        of_bands,
        [&json!({ "event": "bands", "host": "h1", "change": { "is": "put-back" } })],
        "h4 has no part in it"
    );
}

#[tokio::test]
async fn a_move_that_rolls_back_already_says_what_it_waits_for() {
    let site = lab().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    site.agents["h3"].meets("AbortTarget", Fate::Nothing);
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    site.ordered("h1", "PreCopy").await;
    let cancel = format!("/v1/migrations/{migration}/cancel");
    site.post(&cancel, &Value::Null).await.is::<Accepted>();
    site.ordered("h3", "AbortTarget").await;
    let only_h3 = async || {
        let waiting = site.report(migration).await.waiting;
        waiting
            .iter()
            .all(|wait| wait.host.as_str() == "h3")
            .then_some(waiting)
    };
    let waiting = until("only h3 is waited for", only_h3).await;
    assert!(!waiting.is_empty());
    let problem = site
        .post(&cancel, &Value::Null)
        .await
        .refused(409, "rolling-back");
    assert!(
        problem
            .message
            .contains("host h3, which has not answered `AbortTarget`"),
        "{problem:?}"
    );
    assert!(
        problem.hint.contains(&format!("transhume report {migration}")),
        "{problem:?}"
    );
}

#[tokio::test]
async fn message_b_decides_what_fits_now_not_what_was_heard_before() {
    let site = lab().await;
    // Somebody else took the place; the coordinator has not heard of it yet.
    site.agents["h3"].desk().state.capacity = Capacity {
        vcpus: room(1).vcpus,
        ..room(3)
    };
    let problem = site
        .post("/v1/clusters/lab/plan", &order(&["h1", "h2"], &["h3"]))
        .await
        .refused(409, "no-solution");
    assert!(
        problem.message.contains("vcpus"),
        "says what is short: {}",
        problem.message
    );
}
