//! Clusters are created all or none, shown, and deleted.

use serde_json::json;
use transhume_api::{ClusterList, ClusterStage, ClusterView, VmLife};
use transhume_protocol::message::RefusalKind;

use crate::fake::Fate;
use crate::support::{Site, cluster, until};

const VMS: [(&str, &str); 3] = [("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2")];

#[tokio::test]
async fn a_cluster_is_created_shown_and_deleted() {
    let site = Site::new(&[("h1", 4), ("h2", 4)]).await;
    let made: ClusterView = site.post("/v1/clusters", &cluster("lab", &VMS)).await.is();
    assert_eq!((made.stage, made.vms.len()), (ClusterStage::Live, 3));
    site.assert_runs(&VMS);
    let shown = async || {
        let view: ClusterView = site.get("/v1/clusters/lab").await.is();
        view.vms
            .iter()
            .all(|vm| vm.state == VmLife::Running)
            .then_some(view)
    };
    let shown = until("all VMs are seen to run", shown).await;
    assert_eq!(shown.vms[2].host.as_str(), "h2");
    let list: ClusterList = site.get("/v1/clusters").await.is();
    assert_eq!((list.clusters[0].vms, list.clusters[0].hosts.len()), (3, 2));
    site.delete("/v1/clusters/lab").await.is::<ClusterView>();
    site.assert_runs(&[]);
    site.get("/v1/clusters/lab").await.refused(404, "unknown-cluster");
}

#[tokio::test]
async fn one_vm_that_is_refused_ends_the_whole_cluster() {
    let site = Site::new(&[("h1", 4), ("h2", 4)]).await;
    site.agents["h2"].meets("StartVm", Fate::Refuse(RefusalKind::BootFile));
    let problem = site
        .post("/v1/clusters", &cluster("lab", &VMS))
        .await
        .refused(409, "refused-by-agent");
    assert_eq!(problem.message, "StartVm is to be refused");
    site.assert_runs(&[]);
    assert!(
        site.get("/v1/clusters")
            .await
            .is::<ClusterList>()
            .clusters
            .is_empty()
    );
}

#[tokio::test]
async fn a_host_that_is_lost_while_a_cluster_ends_is_waited_for() {
    let mut site = Site::new(&[("h1", 4), ("h2", 4)]).await.with_lab(&VMS).await;
    site.agents.get_mut("h2").unwrap().stop().await;
    until("h2 is seen to be away", async || {
        site.hosts()
            .await
            .hosts
            .iter()
            .any(|host| !host.connected)
            .then_some(())
    })
    .await;
    let problem = site
        .delete("/v1/clusters/lab")
        .await
        .refused(409, "agent-unreachable");
    assert!(
        problem.message.contains("VM vm3 on host h2"),
        "{}",
        problem.message
    );
    site.get("/v1/clusters/lab").await.is::<ClusterView>();
    site.delete("/v1/clusters/lab")
        .await
        .refused(409, "cluster-ending");
    site.agents.get_mut("h2").unwrap().restart();
    let gone = async || (site.get("/v1/clusters/lab").await.status == 404).then_some(());
    until("the cluster is forgotten", gone).await;
    site.assert_runs(&[]);
}

#[tokio::test]
async fn a_cluster_that_cannot_be_is_refused_before_anything_starts() {
    let site = Site::new(&[("h1", 4), ("h2", 4)]).await.with_lab(&VMS).await;
    let cases = [
        (cluster("lab", &[("vm9", "h1")]), 409, "cluster-exists"),
        (cluster("other", &[]), 422, "empty-cluster"),
        (cluster("other", &[("vm9", "h1"), ("vm9", "h2")]), 422, "vm-twice"),
        (cluster("other", &[("vm1", "h1")]), 422, "vm-twice"),
        (cluster("other", &[("vm9", "h11")]), 404, "unknown-host"),
    ];
    for (spec, status, code) in cases {
        site.post("/v1/clusters", &spec).await.refused(status, code);
    }
    let nic = |mac: &str, mtu: u16| json!([{ "mac": mac, "mtu": mtu }]);
    for (field, value, code) in [
        ("cluster", json!("else"), "other-cluster"),
        ("vcpus", json!(0), "no-resources"),
        ("memory", json!(0), "no-resources"),
        ("nics", json!([]), "no-nic"),
        ("nics", nic("52:54:00:00:00:09", 67), "mtu-range"),
        ("nics", nic("52:54:00:00:00:01", 1500), "address-in-use"),
    ] {
        let mut spec = cluster("other", &[("vm9", "h1")]);
        spec["vms"][0]["spec"][field] = value;
        let problem = site.post("/v1/clusters", &spec).await.refused(422, code);
        assert!(problem.message.contains("vm9"), "{problem:?}");
    }
    site.assert_runs(&VMS);
}
