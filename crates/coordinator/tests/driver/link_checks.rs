//! The link between two hosts is measured, or it is said why not.

use serde_json::{Value, json};

use crate::fake::Fate;
use crate::support::{Site, order};

const LINK: &str = "/v1/hosts/h1/links/h2/check";

async fn site() -> Site {
    Site::new(&[("h1", 4), ("h2", 4), ("h3", 4), ("h4", 4)]).await
}

#[tokio::test]
async fn a_link_is_measured_by_both_agents() {
    let site = site().await;
    let answer = site.post(LINK, &json!(null)).await;
    let view: Value = answer.is();
    assert_eq!((&view["from"], &view["to"]), (&json!("h1"), &json!("h2")));
    assert_eq!(view["limit"], "link", "{view}");
    assert!(view["figures"]["bytes"].as_u64().unwrap() > 0, "{view}");
    // Again, and the other way.
    site.post(LINK, &json!(null)).await.is::<Value>();
    site.post("/v1/hosts/h2/links/h1/check", &json!(null))
        .await
        .is::<Value>();
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused_by_name() {
    let mut site = site().await.with_lab(&[("vm1", "h1")]).await;
    let refused = async |path: &str, status, code: &str, says: &str| {
        let problem = site.post(path, &json!(null)).await.refused(status, code);
        assert!(problem.message.contains(says), "{problem:?}");
    };
    refused("/v1/hosts/h1/links/h11/check", 404, "unknown-host", "h11").await;
    refused("/v1/hosts/h1/links/h1/check", 422, "same-host", "itself").await;
    // Whoever has a part in a move needs its link.
    site.agents["h2"].meets("Reserve", Fate::Nothing);
    site.post("/v1/clusters/lab/migrations", &order(&["h1"], &["h2"]))
        .await;
    refused(LINK, 409, "host-in-move", "migration 1").await;
    refused("/v1/hosts/h3/links/h2/check", 409, "host-in-move", "h2").await;

    site.agents.get_mut("h3").unwrap().stop().await;
    let problem = site
        .post("/v1/hosts/h3/links/h4/check", &json!(null))
        .await
        .refused(409, "agent-unreachable");
    assert!(problem.message.contains("h3"), "{problem:?}");
}

#[tokio::test]
async fn an_end_that_fails_or_goes_away_ends_it() {
    let site = site().await;
    for (host, order) in [("h2", "HearLink"), ("h1", "TryLink")] {
        site.agents[host].meets(order, Fate::Fail);
        let problem = site
            .post(LINK, &json!(null))
            .await
            .refused(409, "link-not-checked");
        assert!(problem.message.contains("is to fail"), "{problem:?}");
        site.agents[host].meets(order, Fate::Hangup);
        let problem = site
            .post(LINK, &json!(null))
            .await
            .refused(409, "agent-unreachable");
        assert!(problem.message.contains(host), "{problem:?}");
        site.agents[host].behaves();
        site.all_connected().await;
    }
    site.post(LINK, &json!(null)).await.is::<Value>();
}
