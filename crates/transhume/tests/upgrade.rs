//! The release before becomes this one, part by part, while the cluster moves
//! (`docs/design/versions.md`).

mod user;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use transhume_lab::{Lab, faults};
use transhume_protocol::message::PROTOCOL_VERSION;
use user::{UserLab, assert_no_frame_lost, begins, lab, moved, says};

const VMS: usize = 4;
const AGENTS: [&str; 4] = ["h1", "h2", "h3", "h4"];
const COORDINATOR: &str = "coordinator";
/// After a part is replaced, until all agents are connected again.
const CONNECTED_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// Steps that are told as they begin; 7 and 9 may be over before a line is read.
const STEPS: [u8; 6] = [2, 3, 4, 5, 6, 8];

/// The program of the release before; `make soak` builds it.
fn before() -> PathBuf {
    let path = std::env::var_os("TRANSHUME_BEFORE").expect("TRANSHUME_BEFORE=$(scripts/before.sh)");
    let path = PathBuf::from(path);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

fn is_there(lab: &UserLab) -> bool {
    let hosts = lab.hosts_of_vms();
    let there = hosts.iter().filter(|host| ["h3", "h4"].contains(&host.as_str()));
    let there = there.count();
    assert!(
        there == 0 || there == VMS,
        "the batch is on both sides: {hosts:?}"
    );
    there > 0
}

/// There or back.
fn order(back: bool) -> &'static str {
    match back {
        false => "migrate lab --from h1,h2 --to h3,h4 --batch 4",
        true => "migrate lab --from h3,h4 --to h1,h2 --batch 4",
    }
}

/// Ended as by a service manager, and started as this release.
fn replace(lab: &mut Lab, part: &str) {
    let name = match part {
        COORDINATOR => COORDINATOR.to_owned(),
        host => format!("agent {host}"),
    };
    faults::end(lab, &name).unwrap();
    lab.state.program = env!("CARGO_BIN_EXE_transhume").into();
    match part {
        COORDINATOR => faults::start_coordinator(lab),
        host => faults::start_agent(lab, host),
    }
    .unwrap();
}

/// Hosts whose agents and coordinator are both of this release; all of them connected.
fn new_links() -> usize {
    let begun = Instant::now();
    loop {
        let hosts = says("hosts --json");
        let hosts = hosts.json()["hosts"].as_array().cloned().unwrap_or_default();
        if hosts.len() == AGENTS.len() && hosts.iter().all(|host| host["connected"] == true) {
            let is_new = |host: &&Value| {
                host["release"] == env!("CARGO_PKG_VERSION") && host["protocol"] == PROTOCOL_VERSION
            };
            return hosts.iter().filter(is_new).count();
        }
        assert!(begun.elapsed() < CONNECTED_MAX, "{hosts:?}");
        std::thread::sleep(POLL);
    }
}

/// Replaces the parts in this order, each in the middle of a move, and moves the cluster whole
/// after each.
fn upgrade(parts: [&str; 5]) {
    let lab = lab(&format!(
        "--hosts 4 --vms 4 --rate 300 --program {}",
        before().display()
    ));
    let mut opened = lab.open();
    assert_eq!(new_links(), 0, "all is of the release before");
    moved(order(is_there(&lab)));
    let (mut agents, mut coordinators) = (0, 0);
    for (index, part) in parts.into_iter().enumerate() {
        let was_there = is_there(&lab);
        let step = STEPS[(index + usize::from(parts[0] == COORDINATOR)) % STEPS.len()];
        let mut moving = begins(order(was_there));
        moving.until(&format!("step {step}:"));
        replace(&mut opened, part);
        let done = moving.finish();
        let report = says("report --json").succeeded().json();
        eprintln!("{part} replaced in step {step}: {}", report["outcome"]);
        match report["outcome"].as_str().unwrap_or_default() {
            "committed" => assert_eq!(is_there(&lab), !was_there, "{done:?}"),
            "rolled-back" => assert_eq!(is_there(&lab), was_there, "{done:?}"),
            _ => panic!("{report}"),
        }
        assert_no_frame_lost(&report);
        match part {
            COORDINATOR => coordinators += 1,
            _ => agents += 1,
        }
        assert_eq!(new_links(), coordinators * agents, "after {part}");
        moved(order(is_there(&lab)));
        lab.assert_one_of_each(VMS);
        lab.assert_clean(part);
    }
    assert_eq!(new_links(), AGENTS.len());
}

#[test]
#[ignore = "soak: ten moves of a real lab, and the release before to be built"]
fn rolling_upgrade_of_the_coordinator_first() {
    upgrade([COORDINATOR, "h1", "h3", "h2", "h4"]);
}

#[test]
#[ignore = "soak: ten moves of a real lab, and the release before to be built"]
fn rolling_upgrade_of_the_agents_first() {
    upgrade(["h4", "h1", "h3", "h2", COORDINATOR]);
}
