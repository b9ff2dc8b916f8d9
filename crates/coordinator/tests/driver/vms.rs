//! Guests as they are: VMs that are powered off, missing, stranded or lost are moved, started,
//! stopped and forgotten, or refused by name.

use serde_json::{Value, json};
use transhume_api::{ClusterView, HostList, PlanView, VmLife};
use transhume_protocol::message::{Command, RefusalKind};
use transhume_protocol::report::Ending;

use crate::fake::Fate;
use crate::support::{Site, order, until};

const VMS: [(&str, &str); 2] = [("vm1", "h1"), ("vm2", "h1")];

async fn lab() -> Site {
    Site::new(&[("h1", 4), ("h2", 4), ("h3", 4)])
        .await
        .with_lab(&VMS)
        .await
}

fn path(vm: &str, what: &str) -> String {
    format!("/v1/clusters/lab/vms/{vm}{what}")
}

async fn state(site: &Site, vm: &str) -> (VmLife, String) {
    let view: ClusterView = site.get("/v1/clusters/lab").await.is();
    let mut vms = view.vms.into_iter();
    let found = vms
        .find(|one| one.id.as_str() == vm)
        .expect("it is in the cluster");
    (found.state, found.host.to_string())
}

/// What an agent has not said by itself is seen with its next heartbeat.
async fn seen(site: &Site, vm: &str, life: VmLife) {
    until(life.name(), async || {
        (state(site, vm).await.0 == life).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_vm_that_is_powered_off_moves_with_its_cluster_and_nothing_is_copied() {
    let site = lab().await;
    site.agents["h1"].powers_off("vm2");
    let there = order(&["h1"], &["h3"]);
    let plan: PlanView = site.post("/v1/clusters/lab/plan", &there).await.is();
    let planned: Vec<&str> = plan.moves.iter().map(|one| one.vm.as_str()).collect();
    assert_eq!(planned, ["vm1", "vm2"], "its place is needed there");
    let forecast: Vec<&str> = plan.forecast.vms.iter().map(|one| one.vm.as_str()).collect();
    assert_eq!(forecast, ["vm1"], "nothing is copied of it");

    let migration = site.migrate(&there).await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::Committed, "{:?}", report.trouble);
    let reserved = site.agents["h3"].orders_named("Reserve");
    let off = reserved.iter().filter_map(|order| match &order.command {
        Command::Reserve {
            spec, powered_off, ..
        } => Some((spec.name.as_str(), *powered_off)),
        _ => None,
    });
    assert_eq!(off.collect::<Vec<_>>(), [("vm1", false), ("vm2", true)]);
    let copied = site.agents["h1"].orders_named("PreCopy");
    assert!(
        copied
            .iter()
            .all(|order| order.command.vm().unwrap().as_str() == "vm1")
    );
    seen(&site, "vm2", VmLife::Off).await;
    assert_eq!(state(&site, "vm2").await.1, "h3");

    let started: ClusterView = site.post(&path("vm2", "/start"), &json!({})).await.is();
    assert!(
        started.vms.iter().all(|vm| vm.state == VmLife::Running),
        "{started:?}"
    );
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h3")]);
}

#[tokio::test]
async fn a_vm_is_stopped_started_and_forgotten() {
    let site = lab().await;
    let problem = site.delete(&path("vm1", "")).await.refused(409, "vm-not-off");
    assert!(problem.hint.contains("transhume vm stop lab vm1"), "{problem:?}");
    let problem = site
        .post(&path("vm1", "/start"), &json!({}))
        .await
        .refused(409, "vm-not-off");
    assert!(problem.message.contains("running"), "{problem:?}");

    site.post(&path("vm1", "/stop"), &json!({}))
        .await
        .is::<ClusterView>();
    assert_eq!(
        state(&site, "vm1").await.0,
        VmLife::Off,
        "at once, before any heartbeat"
    );
    let problem = site
        .post(&path("vm1", "/stop"), &json!({ "force": true }))
        .await
        .refused(409, "vm-not-running");
    assert!(problem.hint.contains("transhume vm start lab vm1"), "{problem:?}");
    site.post(&path("vm1", "/start"), &json!({}))
        .await
        .is::<ClusterView>();
    site.assert_runs(&VMS);

    let stop = json!({ "force": true });
    site.post(&path("vm1", "/stop"), &stop).await.is::<ClusterView>();
    let stops = site.agents["h1"].orders_named("StopVm");
    let forced = stops
        .iter()
        .map(|order| matches!(order.command, Command::StopVm { force: true, .. }));
    assert_eq!(forced.collect::<Vec<_>>(), [false, true]);
    let left: ClusterView = site.delete(&path("vm1", "")).await.is();
    assert_eq!(left.vms.len(), 1, "{left:?}");
    site.assert_runs(&[("vm2", "h1")]);
    let problem = site
        .post(&path("vm1", "/start"), &json!({}))
        .await
        .refused(404, "unknown-vm");
    assert!(problem.hint.contains("vm2"), "{problem:?}");

    site.post(&path("vm2", "/stop"), &stop).await.is::<ClusterView>();
    let left: ClusterView = site.delete(&path("vm2", "")).await.is();
    assert!(left.vms.is_empty(), "{left:?}");
    site.get("/v1/clusters/lab").await.refused(404, "unknown-cluster");
}

#[tokio::test]
async fn what_was_done_to_a_vm_outlives_the_coordinator() {
    let mut site = lab().await;
    let stop = json!({ "force": true });
    site.post(&path("vm1", "/stop"), &stop).await.is::<ClusterView>();
    site.post(&path("vm2", "/stop"), &stop).await.is::<ClusterView>();
    site.delete(&path("vm2", "")).await.is::<ClusterView>();
    site.end().await;
    site.start().await;
    site.all_connected().await;
    let view: ClusterView = site.get("/v1/clusters/lab").await.is();
    assert_eq!(view.vms.len(), 1, "{view:?}");
    assert_eq!(view.vms[0].state, VmLife::Off);
}

#[tokio::test]
async fn nothing_is_done_to_a_vm_while_its_cluster_moves_nor_the_other_way_round() {
    let site = lab().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let there = order(&["h1"], &["h3"]);
    let migration = site.migrate(&there).await;
    for (vm, what) in [("vm1", "/start"), ("vm2", "/stop")] {
        site.post(&path(vm, what), &json!({}))
            .await
            .refused(409, "move-under-way");
    }
    site.delete(&path("vm1", "")).await.refused(409, "move-under-way");
    let cancel = format!("/v1/migrations/{migration}/cancel");
    site.post(&cancel, &Value::Null).await.is::<Value>();
    site.ended(migration).await;
    site.agents["h1"].behaves();

    site.agents["h1"].meets("StopVm", Fate::Nothing);
    let stop = json!({});
    let vm1 = path("vm1", "/stop");
    let stopping = site.post(&vm1, &stop);
    tokio::select! {
        answer = stopping => panic!("it cannot be done yet: {answer:?}"),
        () = site.ordered("h1", "StopVm") => {}
    }
    for path in ["plan", "migrations"] {
        let answer = site.post(&format!("/v1/clusters/lab/{path}"), &there).await;
        let problem = answer.refused(409, "vm-busy");
        assert!(problem.message.contains("vm1"), "{problem:?}");
    }
    site.delete("/v1/clusters/lab").await.refused(409, "vm-busy");
    site.post(&path("vm2", "/stop"), &stop)
        .await
        .refused(409, "vm-busy");
}

#[tokio::test]
async fn a_vm_whose_record_is_lost_is_started_again_or_forgotten() {
    let site = lab().await;
    site.agents["h1"].loses_all();
    seen(&site, "vm1", VmLife::Missing).await;
    seen(&site, "vm2", VmLife::Missing).await;
    let problem = site
        .post("/v1/clusters/lab/migrations", &order(&["h1"], &["h3"]))
        .await
        .refused(409, "vm-missing");
    for way_out in ["transhume vm start lab vm1", "transhume vm forget lab vm1"] {
        assert!(problem.hint.contains(way_out), "{problem:?}");
    }
    site.post(&path("vm1", "/stop"), &json!({}))
        .await
        .refused(409, "vm-not-running");
    site.post(&path("vm1", "/start"), &json!({ "host": "h7" }))
        .await
        .refused(404, "unknown-host");
    let elsewhere = json!({ "host": "h2" });
    site.post(&path("vm1", "/start"), &elsewhere)
        .await
        .is::<ClusterView>();
    assert_eq!(state(&site, "vm1").await, (VmLife::Running, "h2".to_owned()));
    site.delete(&path("vm2", "")).await.is::<ClusterView>();
    site.assert_runs(&[("vm1", "h2")]);
}

#[tokio::test]
async fn a_vm_is_started_elsewhere_only_when_nobody_holds_it() {
    let mut site = lab().await;
    let elsewhere = json!({ "host": "h2" });
    site.agents["h1"].powers_off("vm1");
    seen(&site, "vm1", VmLife::Off).await;
    let problem = site
        .post(&path("vm1", "/start"), &elsewhere)
        .await
        .refused(409, "vm-elsewhere");
    assert!(problem.message.contains("h1"), "{problem:?}");
    site.agents.get_mut("h1").unwrap().stop().await;
    seen(&site, "vm1", VmLife::Unknown).await;
    for what in ["/start", "/stop"] {
        let problem = site
            .post(&path("vm1", what), &json!({}))
            .await
            .refused(409, "agent-unreachable");
        assert!(problem.message.contains("h1"), "{problem:?}");
    }
    site.delete(&path("vm1", ""))
        .await
        .refused(409, "agent-unreachable");
    assert!(!site.agents["h2"].was_ordered("StartVm"));
}

#[tokio::test]
async fn what_is_stranded_blocks_its_vm_by_name_and_is_shown() {
    let site = lab().await;
    site.agents["h1"].loses_all();
    // On a host that has no part in anything that is asked for.
    let vm1 = "vm1".parse().unwrap();
    let what = "QEMU with pid 71 and no record";
    site.agents["h2"].desk().strands(&vm1, what, "end process 71");
    seen(&site, "vm1", VmLife::Stranded).await;
    seen(&site, "vm2", VmLife::Missing).await;
    let refused = [
        site.post(&path("vm1", "/start"), &json!({})).await,
        site.post(&path("vm1", "/start"), &json!({ "host": "h3" })).await,
        site.delete(&path("vm1", "")).await,
        site.post("/v1/clusters/lab/plan", &order(&["h1"], &["h3"])).await,
        site.post("/v1/clusters/lab/migrations", &order(&["h1"], &["h3"]))
            .await,
    ];
    for answer in refused {
        let problem = answer.refused(409, "vm-stranded");
        assert!(
            problem.message.contains("vm1") && problem.message.contains("h2"),
            "{problem:?}"
        );
        assert_eq!(
            problem.hint,
            "end process 71; `transhume host show h2` shows what is left there"
        );
    }
    let hosts: HostList = site.get("/v1/hosts").await.is();
    assert_eq!(hosts.hosts[1].stranded[0].what, what);
    assert!(["h1", "h2", "h3"].iter().all(|host| {
        let started = site.agents[*host].orders_named("StartVm");
        started.len() == if *host == "h1" { 2 } else { 0 }
    }));
}

#[tokio::test]
async fn an_agent_that_refuses_fails_or_dies_leaves_the_vm_as_it_is() {
    let site = lab().await;
    let agent = &site.agents["h1"];
    agent.meets("StopVm", Fate::Refuse(RefusalKind::WrongState));
    let problem = site
        .post(&path("vm1", "/stop"), &json!({}))
        .await
        .refused(409, "refused-by-agent");
    assert_eq!(problem.message, "StopVm is to be refused");
    site.agents["h1"].meets("StopVm", Fate::Fail);
    site.post(&path("vm1", "/stop"), &json!({}))
        .await
        .refused(409, "failed-at-agent");
    assert_eq!(state(&site, "vm1").await.0, VmLife::Running);

    site.agents["h1"].meets("StopVm", Fate::Nothing);
    let (vm1, stop) = (path("vm1", "/stop"), json!({}));
    let stopping = site.post(&vm1, &stop);
    tokio::pin!(stopping);
    let mut before = site.agents["h1"].orders_named("StopVm").len();
    tokio::select! {
        answer = &mut stopping => panic!("it cannot be done yet: {answer:?}"),
        () = until("the third order", async || {
            (site.agents["h1"].orders_named("StopVm").len() > before).then_some(())
        }) => before += 1,
    }
    assert_eq!(before, 3);
    site.agents["h1"].meets("*", Fate::Hangup);
    let problem = stopping.await.refused(409, "agent-unreachable");
    assert!(problem.hint.contains("transhume cluster show lab"), "{problem:?}");
    site.agents["h1"].behaves();
    site.all_connected().await;
    site.post(&path("vm1", "/stop"), &json!({}))
        .await
        .is::<ClusterView>();
}

#[tokio::test]
async fn a_lost_vm_is_named_in_the_report_and_started_again_where_it_was_to_run() {
    let site = lab().await;
    site.agents["h3"].meets("Activate", Fate::Lose);
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let lost = async || {
        let report = site.report(migration).await;
        report.vms.iter().all(|vm| vm.lost.is_some()).then_some(())
    };
    until("both are lost", lost).await;
    let nowhere = json!({ "run_on": "nowhere" });
    let answer = site
        .post(&format!("/v1/migrations/{migration}/resolve"), &nowhere)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::CommittedWithLoss);
    for vm in &report.vms {
        let loss = vm.lost.as_ref().expect("both are lost");
        assert!(loss.reason.contains("its QEMU ended"), "{loss:?}");
        assert_eq!(
            loss.hint,
            format!("`transhume vm start lab {}` boots it again from its disk", vm.id)
        );
    }
    site.agents["h3"].behaves();
    seen(&site, "vm1", VmLife::Off).await;
    for vm in ["vm1", "vm2"] {
        site.post(&path(vm, "/start"), &json!({}))
            .await
            .is::<ClusterView>();
    }
    site.assert_runs(&[("vm1", "h3"), ("vm2", "h3")]);
}
