//! What a journal would not take is refused before it begins.

use serde_json::json;
use transhume_api::{DrainStage, DrainView, MigrationList};
use transhume_protocol::migration::VM_BYTES_MAX;
use transhume_protocol::report::Ending;

use crate::fake::Agent;
use crate::support::{Site, cluster, order, until};

/// Two VMs of `lab` on h1, one on h2. The journal takes the report of one VM, and not of two.
async fn site() -> Site {
    let mut site = Site::dark(&[("h1", 8), ("h2", 8), ("h3", 8)]);
    site.record_bytes_max = Some(2 * VM_BYTES_MAX);
    site.agents.values_mut().for_each(Agent::start);
    site.start().await;
    site.all_connected().await;
    site.with_lab(&[("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2")])
        .await
}

#[tokio::test]
async fn a_move_whose_report_would_not_fit_is_refused_before_it_begins() {
    let site = site().await;
    for path in ["plan", "migrations"] {
        let (path, both) = (format!("/v1/clusters/lab/{path}"), order(&["h1"], &["h3"]));
        let problem = site.post(&path, &both).await.refused(422, "move-too-large");
        assert!(
            problem.message.contains("2 VMs of cluster lab"),
            "{}",
            problem.message
        );
        assert!(problem.hint.contains("several moves"), "{}", problem.hint);
    }
    let none: MigrationList = site.get("/v1/migrations").await.is();
    assert!(none.migrations.is_empty(), "{none:?}");
    site.assert_runs(&[("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2")]);
    let one = site.migrate(&order(&["h2"], &["h3"])).await;
    assert_eq!(site.ended(one).await.outcome, Ending::Committed);
}

#[tokio::test]
async fn a_drain_moves_what_fits_and_says_what_does_not() {
    let site = site().await;
    let web = cluster("web", &[("vm4", "h1")]);
    assert_eq!(site.post("/v1/clusters", &web).await.status, 201);
    let drain = json!({ "from": ["h1"], "to": ["h3"] });
    assert_eq!(site.post("/v1/drains", &drain).await.status, 202);
    let over = async || {
        let view: DrainView = site.get("/v1/drains/1").await.is();
        (view.stage != DrainStage::Running).then_some(view)
    };
    let ended = until("the drain is over", over).await;
    assert_eq!(
        (ended.stage, ended.moves.len()),
        (DrainStage::Partly, 1),
        "{ended:?}"
    );
    let [stay] = ended.stays.as_slice() else {
        panic!("{ended:?}");
    };
    assert_eq!(stay.cluster.as_str(), "lab");
    assert!(stay.why.contains("may take"), "{}", stay.why);
    site.assert_runs(&[("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2"), ("vm4", "h3")]);
}
