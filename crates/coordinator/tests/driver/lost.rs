//! Hosts that are lost for good, and what an operator decides about them.

use serde_json::{Value, json};
use transhume_api::{HostView, Verdict};
use transhume_model::Millis;
use transhume_protocol::report::Ending;

use crate::fake::Fate;
use crate::support::{Site, order, until};

const VMS: [(&str, &str); 2] = [("vm1", "h1"), ("vm2", "h2")];
const FENCE: &str = "/v1/hosts/h1/fence";

/// A lost host is waited for as long as a test may take.
pub async fn lab() -> Site {
    let mut site = Site::dark(&[("h1", 4), ("h2", 4), ("h3", 4), ("h4", 4)]);
    site.limits.host_lost_ms_max = Millis(400);
    site.agents.values_mut().for_each(crate::fake::Agent::start);
    site.start().await;
    site.all_connected().await;
    site.with_lab(&VMS).await
}

fn word(force: bool, dry_run: bool) -> Value {
    json!({ "powered_off": true, "force": force, "dry_run": dry_run })
}

async fn host(site: &Site, name: &str) -> HostView {
    site.get(&format!("/v1/hosts/{name}")).await.is()
}

/// h1 loses power and stays away.
async fn lose_h1(site: &mut Site) {
    lose(site, "h1").await;
}

pub async fn lose(site: &mut Site, name: &str) {
    let agent = site.agents.get_mut(name).unwrap();
    agent.stop().await;
    agent.loses_all();
    until("it is gone", async || {
        (!host(site, name).await.connected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_host_that_answers_is_fenced_by_force_only_and_a_dry_run_changes_nothing() {
    let site = lab().await;
    let problem = site
        .post(FENCE, &word(false, false))
        .await
        .refused(409, "host-answers");
    assert!(
        problem.message.contains("h1") && problem.hint.contains("--force"),
        "{problem:?}"
    );
    let told: Verdict = site.post(FENCE, &word(true, true)).await.is();
    assert!(!told.done && told.may_be_lost[0].contains("vm1"), "{told:?}");
    assert_eq!(host(&site, "h1").await.fenced_at, None);
    let done: Verdict = site.post(FENCE, &word(true, false)).await.is();
    assert!(done.done);
    let lifted = async || host(&site, "h1").await.fenced_at.is_none().then_some(());
    until("it answers, so it is not off", lifted).await;
    let problem = site.post("/v1/hosts/h9/fence", &word(false, false)).await;
    problem.refused(404, "unknown-host");
    site.assert_runs(&VMS);
}

/// The success of a command stands for the operator's word, and nothing else does.
#[tokio::test]
async fn a_host_is_fenced_by_its_fence_agent() {
    let mut site = lab().await;
    for (name, command) in [
        ("h1", vec!["true"]),
        ("h2", vec!["sh", "-c", "echo no route >&2; exit 1"]),
    ] {
        let command = command.into_iter().map(str::to_owned).collect();
        site.fence.insert(name, command);
    }
    site.end().await;
    site.start().await;
    site.all_connected().await;
    let answers = site.post(FENCE, &json!({})).await.refused(409, "host-answers");
    assert!(answers.hint.contains("--force"), "{answers:?}");
    lose(&mut site, "h1").await;
    lose(&mut site, "h2").await;
    lose(&mut site, "h3").await;

    let planned: Verdict = site.post(FENCE, &json!({ "dry_run": true })).await.is();
    assert!(!planned.done && planned.what.contains("`true`"), "{planned:?}");
    assert_eq!(host(&site, "h1").await.fenced_at, None);
    let done: Verdict = site.post(FENCE, &json!({})).await.is();
    assert!(
        done.done && host(&site, "h1").await.fenced_at.is_some(),
        "{done:?}"
    );

    let failed = site.post("/v1/hosts/h2/fence", &json!({})).await;
    let failed = failed.refused(409, "fence-failed");
    assert!(
        failed.message.contains("h2") && failed.message.ends_with("no route"),
        "{failed:?}"
    );
    assert_eq!(host(&site, "h2").await.fenced_at, None);

    let none = site.post("/v1/hosts/h3/fence", &json!({})).await;
    let none = none.refused(409, "no-fence-agent");
    assert!(none.hint.contains("host fence h3 --powered-off"), "{none:?}");
}

#[tokio::test]
async fn nothing_is_put_on_a_cordoned_host() {
    let site = lab().await;
    let done: Verdict = site
        .post("/v1/hosts/h3/cordon", &json!({ "dry_run": false }))
        .await
        .is();
    assert!(done.done);
    let to_h3 = order(&["h1", "h2"], &["h3"]);
    let problem = site.post("/v1/clusters/lab/migrations", &to_h3).await;
    let problem = problem.refused(409, "host-cordoned");
    assert!(problem.hint.contains("uncordon h3"), "{problem:?}");
    site.assert_runs(&VMS);
    let done: Verdict = site
        .post("/v1/hosts/h3/uncordon", &json!({ "dry_run": false }))
        .await
        .is();
    assert!(done.done);
    let migration = site.migrate(&to_h3).await;
    assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
}

#[tokio::test]
async fn a_missing_vm_is_not_started_on_a_cordoned_host() {
    let site = lab().await;
    site.post("/v1/hosts/h3/cordon", &json!({ "dry_run": false }))
        .await
        .is::<Verdict>();
    site.agents["h1"].loses_all();
    let start = "/v1/clusters/lab/vms/vm1/start";
    // Until its agent has said that it is missing, it is refused for another reason.
    until("it is refused for the cordon", async || {
        let answer = site.post(start, &json!({ "host": "h3" })).await;
        (answer.code() == "host-cordoned").then_some(())
    })
    .await;
    site.post(start, &json!({ "host": "h4" })).await.is::<Value>();
}

/// Its VM died with it: the move ends by itself, and once somebody says that the host is off, the
/// VM is booted elsewhere. A host that is back is clean before it is used.
#[tokio::test]
async fn a_source_lost_in_pre_copy_ends_the_move_and_its_vm_boots_elsewhere() {
    let mut site = lab().await;
    for source in ["h1", "h2"] {
        site.agents[source].meets("PreCopy", Fate::Nothing);
    }
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    site.ordered("h1", "PreCopy").await;
    lose_h1(&mut site).await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::RolledBack);
    let lost: Vec<&str> = report
        .vms
        .iter()
        .filter(|vm| vm.lost.is_some())
        .map(|vm| vm.id.as_str())
        .collect();
    assert_eq!(lost, ["vm1"]);
    assert!(!site.agents["h3"].was_ordered("Activate"));

    let restart = "/v1/clusters/lab/vms/vm1/restart";
    let on_h4 = json!({ "on": "h4" });
    let problem = site.post(restart, &on_h4).await.refused(409, "host-not-fenced");
    assert!(
        problem.hint.contains("host fence h1 --powered-off"),
        "{problem:?}"
    );
    let done: Verdict = site.post(FENCE, &word(false, false)).await.is();
    assert!(done.done);
    site.post(restart, &on_h4).await.is::<Value>();
    let runs = async || {
        let running = site.agents["h4"].running();
        running.iter().any(|vm| vm.as_str() == "vm1").then_some(())
    };
    until("vm1 runs on h4", runs).await;

    site.agents.get_mut("h1").unwrap().restart();
    let clean = async || {
        let host = host(&site, "h1").await;
        (host.connected && host.leftovers.is_empty() && host.fenced_at.is_none()).then_some(())
    };
    until("h1 is clean and in use again", clean).await;
    site.assert_runs(&[("vm1", "h4"), ("vm2", "h2")]);
}

#[tokio::test]
async fn a_cluster_whose_hosts_never_come_back_can_be_forgotten() {
    const FORGET: &str = "/v1/clusters/lab/forget";
    let decision = |dry_run: bool| json!({ "dry_run": dry_run });
    let mut site = lab().await;
    let problem = site.post(FORGET, &decision(false)).await.refused(409, "vm-there");
    assert!(
        problem.message.contains("h1") && problem.hint.contains("vm stop"),
        "{problem:?}"
    );
    site.post("/v1/clusters/lab/vms/vm2/stop", &json!({ "force": true }))
        .await;
    site.delete("/v1/clusters/lab/vms/vm2").await;
    lose_h1(&mut site).await;
    site.post(FORGET, &decision(false))
        .await
        .refused(409, "host-not-fenced");
    site.post(FENCE, &word(false, false)).await.is::<Verdict>();
    let told: Verdict = site.post(FORGET, &decision(true)).await.is();
    assert!(!told.done && told.may_be_lost[0].contains("vm1"), "{told:?}");
    assert_eq!(
        site.get("/v1/clusters/lab").await.status,
        200,
        "it was only asked"
    );
    site.post(FORGET, &decision(false)).await.is::<Verdict>();
    site.get("/v1/clusters/lab").await.refused(404, "unknown-cluster");
    assert_eq!(host(&site, "h1").await.leftovers.len(), 1);
    site.agents.get_mut("h1").unwrap().restart();
    let clean = async || {
        let host = host(&site, "h1").await;
        (host.connected && host.leftovers.is_empty() && host.fenced_at.is_none()).then_some(())
    };
    until("h1 is back and clean", clean).await;
    site.post("/v1/clusters/lab/forget", &decision(false))
        .await
        .refused(404, "unknown-cluster");
}
