//! Everybody has what it needs and no more, and a cluster moves all the same.

mod user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use transhume_lab::faults;
use user::{UserLab, lab, moved, says};

/// CAP_KILL, SETGID, SETUID, SETPCAP, NET_ADMIN, NET_RAW and SYS_PTRACE (linux/capability.h).
const AGENT: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 19;
/// Traffic between two moves.
const TRAFFIC: Duration = Duration::from_secs(3);
/// Nobody's account.
const COORDINATOR: u32 = 3_899_999_999;
const START_LIMIT: Duration = Duration::from_secs(30);

/// The fields of `/proc/PID/status`.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn set(status: &BTreeMap<String, String>, name: &str) -> u64 {
    u64::from_str_radix(&status[name], 16).unwrap()
}

/// What the kernel says of every QEMU of the lab; user ids are different on each host.
fn assert_powerless(lab: &UserLab, vms: usize) {
    let mut users = Vec::new();
    for pid in lab.qemu_pids() {
        let has = status(pid);
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(set(&has, name), 0, "{name} of {pid}");
        }
        assert_eq!((has["NoNewPrivs"].as_str(), has["Seccomp"].as_str()), ("1", "2"));
        users.push(has["Uid"].split_whitespace().next().unwrap().to_owned());
    }
    assert!(!users.iter().any(|uid| uid == "0"), "{users:?}");
    users.sort();
    users.dedup();
    assert_eq!(users.len(), vms, "each is somebody else: {users:?}");
}

fn assert_agent_is_limited(lab: &UserLab, host: &str) {
    let what = format!("agent {host}");
    let opened = lab.open();
    let mut processes = opened.state.processes.iter().rev();
    let agent = processes.find(|process| process.what == what && process.alive());
    let has = status(agent.expect("it runs").pid as u32);
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(set(&has, name), AGENT, "{name} of {what}");
    }
    assert_eq!(has["NoNewPrivs"], "1");
}

/// There and back, the agents started anew in between: they take over QEMUs of other users.
#[test]
fn vms_that_are_nobody_move_between_agents_that_may_little_and_lose_nothing() {
    let lab = lab("--hosts 2 --vms 2 --rate 500");
    std::thread::sleep(TRAFFIC);
    lab.assert_clean("before any move");
    assert_powerless(&lab, 2);
    for host in ["h1", "h2"] {
        assert_agent_is_limited(&lab, host);
    }
    let mut opened = lab.open();
    for (from, to) in [("h1", "h2"), ("h2", "h1")] {
        moved(&format!("migrate lab --from {from} --to {to}"));
        lab.assert_clean(&format!("after the move to {to}"));
        lab.assert_one_of_each(2);
        assert_powerless(&lab, 2);
        for host in ["h1", "h2"] {
            faults::kill(&opened, &format!("agent {host}")).unwrap();
            faults::start_agent(&mut opened, host).unwrap();
        }
        let begun = Instant::now();
        while says("hosts").succeeded().stdout.contains("away") {
            assert!(begun.elapsed() < START_LIMIT, "an agent is not back");
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(TRAFFIC);
    }
    lab.all_answer();
    lab.assert_clean("after everything");
}

/// Removed with its test.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ends with its test.
struct Coordinator(Child);

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answers(socket: &Path) -> bool {
    let asked = Command::new(env!("CARGO_BIN_EXE_transhume"))
        .args(["--api", &format!("unix:{}", socket.display()), "hosts", "--json"])
        .output();
    asked.is_ok_and(|asked| asked.status.success())
}

/// As its unit starts it: somebody without any capability.
#[test]
fn a_coordinator_needs_no_rights_at_all() {
    let dir = Dir(std::env::temp_dir().join(format!("transhume-rights-{}", std::process::id())));
    std::fs::create_dir(&dir.0).unwrap();
    std::os::unix::fs::chown(&dir.0, Some(COORDINATOR), Some(COORDINATOR)).unwrap();
    let (config, socket) = (dir.0.join("coordinator.toml"), dir.0.join("api.sock"));
    let text = format!(
        "api = \"127.0.0.1:0\"\napi_socket = \"{}\"\njournal = \"{}\"\ninsecure = true\n\
         [[hosts]]\nname = \"h1\"\ncontrol = \"127.0.0.1:9\"\n",
        socket.display(),
        dir.0.join("journal.redb").display()
    );
    std::fs::write(&config, text).unwrap();
    std::os::unix::fs::chown(&config, Some(COORDINATOR), Some(COORDINATOR)).unwrap();
    let child = Command::new("setpriv")
        .args([
            format!("--reuid={COORDINATOR}"),
            format!("--regid={COORDINATOR}"),
            "--clear-groups".to_owned(),
            "--bounding-set=-all".to_owned(),
            "--inh-caps=-all".to_owned(),
            "--no-new-privs".to_owned(),
            env!("CARGO_BIN_EXE_transhume").to_owned(),
            "coordinator".to_owned(),
            "--config".to_owned(),
            config.display().to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let coordinator = Coordinator(child.expect("MISSING: setpriv; install util-linux"));
    let begun = Instant::now();
    while !answers(&socket) {
        assert!(begun.elapsed() < START_LIMIT, "it does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let has = status(coordinator.0.id());
    for name in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(set(&has, name), 0, "{name}");
    }
    assert!(has["Uid"].starts_with(&COORDINATOR.to_string()), "{}", has["Uid"]);
}
