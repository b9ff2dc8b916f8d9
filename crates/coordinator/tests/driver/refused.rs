//! Everything that is wrong with a request to plan or to move (G3): refused with a code, the
//! thing's name and a hint, and nothing was changed.

use serde_json::{Value, json};
use transhume_model::{MachineType, Version};
use transhume_protocol::message::{BandsState, Fault, FaultKind, HostState};

use crate::fake::Fate;
use crate::support::{Site, order};

const VMS: [(&str, &str); 3] = [("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2")];

async fn lab() -> Site {
    Site::new(&[("h1", 4), ("h2", 4), ("h3", 4), ("h4", 4)])
        .await
        .with_lab(&VMS)
        .await
}

#[tokio::test]
async fn wrong_names_and_sets_are_refused_by_plan_and_move_alike() {
    let site = lab().await;
    let k = |k: u64| json!({ "from": ["h1", "h2"], "to": ["h3"], "batch": k });
    let cases = [
        (
            order(&["h1"], &["h33"]),
            404,
            "unknown-host",
            "`h33`",
            "did you mean `h3`? known: h1, h2, h3, h4",
        ),
        (
            order(&["x"], &["h3"]),
            404,
            "unknown-host",
            "`x`",
            "known: h1, h2, h3, h4",
        ),
        (
            order(&["h1", "h2"], &["h2", "h1"]),
            422,
            "same-hosts",
            "h1, h2",
            "--to",
        ),
        (order(&[], &["h3"]), 422, "empty-set", "`from`", "--from"),
        (order(&["h1"], &[]), 422, "empty-set", "`to`", "--to"),
        (json!({ "from": ["h1"] }), 422, "empty-set", "`to`", "--to"),
        (order(&["h1", "h1"], &["h3"]), 422, "host-twice", "h1", "once"),
        (order(&["h1"], &["h3", "h3"]), 422, "host-twice", "h3", "once"),
        (order(&["h4"], &["h3"]), 422, "nothing-to-move", "h4", "h1, h2"),
        (
            json!({ "from": ["h1"], "to": ["h3"], "blackout_ms_max": 0 }),
            422,
            "bad-budget",
            "0 ms",
            "--max-blackout",
        ),
        (k(0), 422, "bad-batch", "k = 0", "all 3 at once"),
        (
            k(4),
            422,
            "bad-batch",
            "k = 4 is more than the 3 VMs",
            "all 3 at once",
        ),
    ];
    for (order, status, code, names, hint) in cases {
        for path in ["plan", "migrations"] {
            let answer = site.post(&format!("/v1/clusters/lab/{path}"), &order).await;
            let problem = answer.refused(status, code);
            assert!(problem.message.contains(names), "{problem:?}");
            assert!(problem.hint.contains(hint), "{problem:?}");
        }
    }
    let problem = site
        .post("/v1/clusters/lba/plan", &k(1))
        .await
        .refused(404, "unknown-cluster");
    assert_eq!(problem.hint, "did you mean `lab`? known: lab");
    let problem = site
        .get("/v1/migrations/7")
        .await
        .refused(404, "unknown-migration");
    assert_eq!(problem.hint, "there is no migration yet");
    site.get("/v1/migrations/x/events")
        .await
        .refused(404, "unknown-migration");
    site.assert_runs(&VMS);
}

#[tokio::test]
async fn all_of_n_is_a_batch() {
    let site = lab().await;
    let order = json!({ "from": ["h1", "h2"], "to": ["h3"], "batch": 3 });
    let plan: Value = site.post("/v1/clusters/lab/plan", &order).await.is();
    assert_eq!(plan["batch"], 3);
}

#[tokio::test]
async fn a_target_that_cannot_run_the_vm_is_found_before_anything_moves() {
    type Change = fn(&mut HostState);
    let cases: [(Change, &str, &str); 6] = [
        (
            |state| (state.qemu, state.qemu_error) = (None, Some("it is not installed".to_owned())),
            "no-qemu",
            "it is not installed",
        ),
        (
            |state| {
                state.qemu.as_mut().unwrap().version = Version {
                    major: 8,
                    minor: 2,
                    micro: 1,
                }
            },
            "older-qemu",
            "8.2.1",
        ),
        (
            |state| state.qemu.as_mut().unwrap().machines = vec![MachineType("pc-q35-8.2".to_owned())],
            "machine-type",
            "pc-q35-10.0",
        ),
        (|state| state.mtu_max = 1400, "mtu", "carries 1400"),
        (
            |state| {
                state.bands = Some(BandsState {
                    trouble: Some(Fault::new(FaultKind::Network, "somebody's queue")),
                    ..BandsState::default()
                });
            },
            "bands-in-trouble",
            "somebody's queue",
        ),
        (|state| state.capacity = Default::default(), "no-solution", "h3"),
    ];
    for (change, code, says) in cases {
        let site = lab().await;
        change(&mut site.agents["h3"].desk().state);
        let answer = site
            .post("/v1/clusters/lab/migrations", &order(&["h1", "h2"], &["h3"]))
            .await;
        let problem = answer.refused(409, code);
        assert!(
            problem.message.contains(says) && problem.message.contains("h3"),
            "{problem:?}"
        );
        site.assert_runs(&VMS);
        assert!(!site.agents["h3"].was_ordered("Reserve"), "{code}");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_named() {
    let mut site = lab().await;
    // It is connected and says nothing: message A goes unanswered.
    site.agents["h3"].meets("Inspect", Fate::Nothing);
    let order = order(&["h1", "h2"], &["h3"]);
    let problem = site
        .post("/v1/clusters/lab/plan", &order)
        .await
        .refused(409, "agent-unreachable");
    assert!(
        problem.message.contains("h3") && problem.message.contains("message A"),
        "{problem:?}"
    );
    // It breaks off at the question.
    site.agents["h3"].meets("Inspect", Fate::Hangup);
    let problem = site
        .post("/v1/clusters/lab/plan", &order)
        .await
        .refused(409, "agent-unreachable");
    assert!(problem.message.contains("h3"), "{problem:?}");
    // It is not there at all.
    site.agents.get_mut("h3").unwrap().stop().await;
    let problem = site
        .post("/v1/clusters/lab/migrations", &order)
        .await
        .refused(409, "agent-unreachable");
    assert!(
        problem.message.contains("h3") && problem.hint.contains("transhume host fence h3 --powered-off"),
        "{problem:?}"
    );
    site.assert_runs(&VMS);
}

#[tokio::test]
async fn a_vm_that_its_host_does_not_know_is_not_moved() {
    let site = Site::new(&[("h1", 4), ("h3", 4)])
        .await
        .with_lab(&[("vm1", "h1")])
        .await;
    site.agents["h1"].loses_all();
    let problem = site
        .post("/v1/clusters/lab/migrations", &order(&["h1"], &["h3"]))
        .await
        .refused(409, "vm-missing");
    assert!(
        problem.message.contains("vm1") && problem.message.contains("h1"),
        "{problem:?}"
    );
}
