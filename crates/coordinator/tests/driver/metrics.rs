//! What Prometheus reads: gauges as things are, counts since this coordinator started.

use serde_json::Value;
use transhume_protocol::message::RefusalKind;
use transhume_protocol::report::Ending;

use crate::fake::Fate;
use crate::paper::FRAMES;
use crate::support::{Site, order, until};

/// The value of a sample, named as its line begins.
async fn sample(site: &Site, name: &str) -> Option<f64> {
    let text = site.get("/metrics").await.is::<String>();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map(|value| value.trim().parse().expect("a number"))
}

#[track_caller]
fn assert_is(found: Option<f64>, expected: f64, what: &str) {
    assert_eq!(found, Some(expected), "{what}");
}

async fn lab() -> Site {
    Site::new(&[("h1", 4), ("h3", 4)])
        .await
        .with_lab(&[("vm1", "h1"), ("vm2", "h1")])
        .await
}

#[tokio::test]
async fn a_scrape_is_text_that_names_its_format() {
    let site = lab().await;
    let answer = site.open("/metrics").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = answer.text().await.unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("name and value");
        assert!(
            name.starts_with("transhume_") && value.parse::<f64>().is_ok(),
            "{line}"
        );
    }
    site.post("/metrics", &Value::Null)
        .await
        .refused(405, "no-such-method");
}

#[tokio::test]
async fn a_move_is_seen_under_way_and_counted_when_it_is_over() {
    let site = lab().await;
    for (name, expected) in [
        (r#"transhume_host_connected{host="h1"}"#, 1.0),
        (r#"transhume_host_vms{host="h1",life="running"}"#, 2.0),
        (r#"transhume_host_vms{host="h3",life="running"}"#, 0.0),
        (r#"transhume_host_vcpus{host="h3"}"#, 4.0),
        (r#"transhume_clusters{stage="live"}"#, 1.0),
        ("transhume_moves_running", 0.0),
        (r#"transhume_moves_total{outcome="committed"}"#, 0.0),
    ] {
        assert_is(sample(&site, name).await, expected, name);
    }
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    site.ordered("h1", "PreCopy").await;
    assert_is(sample(&site, "transhume_moves_running").await, 1.0, "under way");
    let in_step = r#"transhume_moves_in_step{step="start-pre-copy"}"#;
    assert_is(sample(&site, in_step).await, 1.0, in_step);
    let waiting = r#"transhume_orders_waiting{why="in-flight"}"#;
    assert!(sample(&site, waiting).await > Some(0.0), "it waits for PreCopy");
    site.agents["h1"].behaves();
    let cancel = format!("/v1/migrations/{migration}/cancel");
    site.post(&cancel, &Value::Null).await.is::<Value>();
    assert_eq!(site.ended(migration).await.outcome, Ending::RolledBack);
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::Committed, "{:?}", report.trouble);
    for (name, expected) in [
        (r#"transhume_moves_total{outcome="committed"}"#, 1.0),
        (r#"transhume_moves_total{outcome="rolled-back"}"#, 1.0),
        (r#"transhume_batches_total{decision="committed"}"#, 1.0),
        (r#"transhume_batches_total{decision="rolled-back"}"#, 1.0),
        ("transhume_moves_begun_total", 2.0),
        ("transhume_moves_running", 0.0),
        ("transhume_switchovers_total", 2.0),
        ("transhume_blackout_seconds_count", 2.0),
        ("transhume_move_duration_seconds_count", 2.0),
        ("transhume_frames_captured_total", 2.0 * FRAMES as f64),
        ("transhume_frames_delivered_total", 2.0 * FRAMES as f64),
        ("transhume_frames_lost_total", 0.0),
        (r#"transhume_host_vms{host="h3",life="running"}"#, 2.0),
    ] {
        assert_is(sample(&site, name).await, expected, name);
    }
    let entries = sample(&site, "transhume_journal_entries_total").await;
    assert!(entries > Some(5.0), "{entries:?}");
}

#[tokio::test]
async fn refusals_and_lost_links_are_counted_and_a_restart_begins_at_0() {
    let mut site = lab().await;
    let refused = r#"transhume_orders_refused_total{kind="no-capacity"}"#;
    site.agents["h3"].meets("Reserve", Fate::Refuse(RefusalKind::NoCapacity));
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::Refused);
    assert!(sample(&site, refused).await > Some(0.0));
    let moves = r#"transhume_moves_total{outcome="refused"}"#;
    assert_is(sample(&site, moves).await, 1.0, moves);

    site.agents.get_mut("h3").unwrap().stop().await;
    let lost = r#"transhume_links_lost_total{host="h3"}"#;
    until("the loss is counted", async || {
        (sample(&site, lost).await >= Some(1.0)).then_some(())
    })
    .await;
    let connected = r#"transhume_host_connected{host="h3"}"#;
    assert_is(sample(&site, connected).await, 0.0, connected);

    site.end().await;
    site.start().await;
    assert_is(sample(&site, refused).await, 0.0, refused);
    assert_is(sample(&site, moves).await, 0.0, moves);
}
