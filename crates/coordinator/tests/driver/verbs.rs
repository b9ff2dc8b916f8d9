//! Every verb of an operator, as a table: what it would do is told without anything being changed,
//! it is written down with what came of it, and each refusal names a verb that helps.

use serde_json::{Value, json};
use transhume_api::Verdict;

use crate::fake::Fate;
use crate::lost::{lab, lose};
use crate::support::{Site, order, until};

/// A verb, its route, and its body but for the dry run.
type Row = (&'static str, &'static str, Value);

fn with_dry_run(body: &Value, dry_run: bool) -> Value {
    let mut body = body.clone();
    // The check of a VM's verb is nothing but a dry run.
    if body.get("verb").is_none() {
        body["dry_run"] = dry_run.into();
    }
    body
}

/// Everything that a verb could change.
async fn world(site: &Site) -> Value {
    let mut hosts = site.get("/v1/hosts").await.body;
    for host in hosts["hosts"].as_array_mut().expect("hosts") {
        // Measured, and tried, all the time.
        let host = host.as_object_mut().expect("a host");
        for by_itself in ["clock", "away"] {
            host.remove(by_itself);
        }
    }
    json!([
        hosts,
        site.get("/v1/clusters").await.body,
        site.get("/v1/clusters/lab").await.body
    ])
}

fn audited(site: &Site) -> Vec<Value> {
    let text = std::fs::read_to_string(site.path("audit.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect()
}

async fn tells(site: &Site, rows: &[Row]) {
    for (verb, path, body) in rows {
        let (before, lines) = (world(site).await, audited(site).len());
        let answer = site.post(path, &with_dry_run(body, true)).await;
        assert_eq!(answer.status, 200, "{verb}: {}", answer.body);
        let told: Verdict = answer.is();
        assert!(!told.done && !told.what.is_empty(), "{verb}: {told:?}");
        assert_eq!(
            world(site).await,
            before,
            "{verb} was only asked what it would do"
        );
        let written = async || (audited(site).len() > lines).then_some(());
        until(verb, written).await;
        let last = audited(site).pop().expect("a line");
        assert_eq!(
            (&last["path"], &last["status"]),
            (&json!(path), &json!(200)),
            "{verb}"
        );
    }
}

#[tokio::test]
async fn each_says_what_it_would_do_and_is_written_down() {
    let mut site = lab().await;
    tells(
        &site,
        &[
            (
                "host fence",
                "/v1/hosts/h3/fence",
                json!({ "powered_off": true, "force": true }),
            ),
            ("host cordon", "/v1/hosts/h3/cordon", json!({})),
            ("host uncordon", "/v1/hosts/h3/uncordon", json!({})),
            (
                "vm stop",
                "/v1/clusters/lab/vms/vm1/check",
                json!({ "verb": "stop", "force": true }),
            ),
        ],
    )
    .await;
    site.post("/v1/clusters/lab/vms/vm2/stop", &json!({ "force": true }))
        .await;
    let off = async || {
        let view = site.get("/v1/clusters/lab").await.body;
        (view["vms"][1]["state"] == "off").then_some(())
    };
    until("vm2 is off", off).await;
    tells(
        &site,
        &[
            (
                "vm start",
                "/v1/clusters/lab/vms/vm2/check",
                json!({ "verb": "start" }),
            ),
            (
                "vm forget",
                "/v1/clusters/lab/vms/vm2/check",
                json!({ "verb": "forget" }),
            ),
        ],
    )
    .await;
    site.delete("/v1/clusters/lab/vms/vm2").await;
    lose(&mut site, "h1").await;
    lose(&mut site, "h4").await;
    let fence = json!({ "powered_off": true });
    tells(&site, &[("host fence", "/v1/hosts/h1/fence", fence.clone())]).await;
    site.post("/v1/hosts/h1/fence", &fence).await.is::<Verdict>();
    tells(
        &site,
        &[
            ("host forget", "/v1/hosts/h4/forget", json!({})),
            (
                "vm restart",
                "/v1/clusters/lab/vms/vm1/check",
                json!({ "verb": "restart", "on": "h3" }),
            ),
            ("cluster forget", "/v1/clusters/lab/forget", json!({})),
        ],
    )
    .await;
}

/// The way back after commit, and the plug: only a move that is under way has them.
#[tokio::test]
async fn a_decision_about_a_move_says_what_it_would_do_and_what_may_be_lost() {
    let site = lab().await;
    site.agents["h3"].meets("Activate", Fate::Lose);
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let path = format!("/v1/migrations/{migration}/resolve");
    let waits = async || {
        let report = site.report(migration).await;
        report.vms[0].lost.is_some().then_some(report)
    };
    let report = until("it waits for somebody", waits).await;
    assert!(
        report.waiting.iter().any(|wait| wait.host.as_str() == "h3"),
        "{report:?}"
    );
    let refused = site.post(&path, &json!({ "run_on": "source" })).await;
    let refused = refused.refused(409, "cannot-resolve");
    assert!(refused.hint.contains("--although-it-may-have-run"), "{refused:?}");
    for (run_on, although) in [("source", true), ("nowhere", false)] {
        let body = json!({ "run_on": run_on, "although_it_may_have_run": although, "dry_run": true });
        let told: Verdict = site.post(&path, &body).await.is();
        assert!(!told.done && told.may_be_lost[0].contains("vm1"), "{told:?}");
    }
    assert!(!site.agents["h1"].was_ordered("Reclaim"), "it was only asked");
    let body = json!({ "run_on": "source", "although_it_may_have_run": true });
    let told: Verdict = site.post(&path, &body).await.is();
    assert!(told.done && told.may_be_lost[0].contains("its disks"), "{told:?}");
    let ended = site.ended(migration).await;
    assert_eq!(ended.vms[0].host.as_str(), "h1");
    assert!(
        ended.vms[0]
            .reclaimed
            .as_ref()
            .is_some_and(|back| back.may_have_run)
    );
    let view = site.get("/v1/clusters/lab").await.body;
    assert_eq!(view["vms"][0]["host"], "h1", "its place is its source's again");
    let clean = async || {
        let host = site.get("/v1/hosts/h3").await.body;
        host["leftovers"]
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(())
    };
    until("nothing is left of it on its target", clean).await;
    site.assert_runs(&[("vm1", "h1"), ("vm2", "h2")]);
    let twice = site.post(&path, &body).await;
    assert_eq!(twice.status, 409, "nothing is decided twice: {}", twice.body);
    // It can be moved again at once.
    let again = site.migrate(&order(&["h1"], &["h4"])).await;
    site.ended(again).await;
    site.assert_runs(&[("vm1", "h4"), ("vm2", "h2")]);
}

#[tokio::test]
async fn every_refusal_names_a_verb_that_helps() {
    let mut site = lab().await;
    let powered_off = || json!({ "powered_off": true });
    let none = || json!({});
    let start = || json!({ "verb": "start" });
    let restart = || json!({ "verb": "restart", "on": "h3" });
    let refused = async |site: &Site, rows: &[Row]| {
        for (verb, path, body) in rows {
            for dry_run in [true, false] {
                let answer = site.post(path, &with_dry_run(body, dry_run)).await;
                assert_eq!(answer.status, 409, "{verb}: {}", answer.body);
                let hint = answer.body["hint"].as_str().unwrap_or_default();
                assert!(hint.contains("`transhume "), "{verb}: {}", answer.body);
            }
        }
    };
    refused(
        &site,
        &[
            ("host fence", "/v1/hosts/h1/fence", powered_off()),
            ("host forget", "/v1/hosts/h1/forget", none()),
            ("vm start", "/v1/clusters/lab/vms/vm1/check", start()),
            ("vm restart", "/v1/clusters/lab/vms/vm1/check", restart()),
            (
                "vm forget",
                "/v1/clusters/lab/vms/vm1/check",
                json!({ "verb": "forget" }),
            ),
            ("vm open-plug", "/v1/clusters/lab/vms/vm1/open-plug", none()),
            ("cluster forget", "/v1/clusters/lab/forget", none()),
        ],
    )
    .await;
    site.post("/v1/hosts/h3/cordon", &none()).await.is::<Verdict>();
    lose(&mut site, "h1").await;
    refused(
        &site,
        &[
            ("vm start", "/v1/clusters/lab/vms/vm1/check", start()),
            (
                "vm stop",
                "/v1/clusters/lab/vms/vm1/check",
                json!({ "verb": "stop" }),
            ),
            ("vm restart", "/v1/clusters/lab/vms/vm1/check", restart()),
            ("host forget", "/v1/hosts/h1/forget", none()),
            ("host fence, no agent", "/v1/hosts/h1/fence", none()),
        ],
    )
    .await;
    site.post("/v1/hosts/h1/fence", &powered_off())
        .await
        .is::<Verdict>();
    refused(
        &site,
        &[(
            "vm restart, cordoned",
            "/v1/clusters/lab/vms/vm1/check",
            restart(),
        )],
    )
    .await;
}
