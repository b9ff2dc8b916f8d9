//! What becomes of a guest that begins to write while it is copied, faster than its link carries
//! (§2.2.2, `docs/design/governor.md`): each policy, on a real guest. And a move that waits for its
//! links.

mod user;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use user::{Done, Running, UserLab, assert_no_frame_lost, begins, raise, says};

/// 12 MiB again and again, while `/writes` is there: about six times as fast as the link carries
/// them, so that a machine may be slow, and a thirtieth of it is still what the link carries.
const PROGRAM: &str = "cd /; dd if=/dev/urandom of=seed bs=64k count=192 2>/dev/null; \
    lay() { tr a-z n-za-m <seed 1<>file; }; lay; echo laid; \
    while :; do if test -e writes; then lay; else sleep 0.1; fi; done";
const THERE: &str = "migrate lab --from h1 --to h2";
const BACK: &str = "migrate lab --from h2 --to h1";
/// The control group of a slowed guest is there at the next round of the governor; a loaded
/// machine is slower.
const GROUP_WAIT_MAX: Duration = Duration::from_secs(10);
/// Directories of control groups that are looked through: systemd nests four or five.
const GROUP_DEPTH_MAX: usize = 8;

/// Two guests on h1 whose pages no host keeps, so that each move copies all of them.
fn up(more: &[&str]) -> UserLab {
    let arguments = ["lab", "up", "--hosts", "2", "--vms", "2", "--memory-mib", "160"];
    let quiet = ["--rate", "50", "--link", "150mbit", "--pages-off", "known,delta"];
    let lab = raise(&[arguments.as_slice(), &quiet, more].concat());
    for vm in ["vm1", "vm2"] {
        let begun = Instant::now();
        while !says(&format!("lab logs {vm}"))
            .succeeded()
            .stdout
            .contains("laid")
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "{vm} lays no file");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    lab
}

/// A move whose first guest begins to write once it is copied.
fn overtaken(line: &str, policy: &str) -> Running {
    let mut moving = begins(&format!("{line} {policy}"));
    moving.until("step 4:");
    says("lab exec vm1 -- touch /writes").succeeded();
    moving.until("VM vm1 does not get ready: it dirties");
    moving
}

fn written_enough() {
    says("lab exec vm1 -- rm -f /writes").succeeded();
}

/// The report of the last move.
fn report() -> Value {
    says("report --json").succeeded().json()
}

fn committed(done: &Done) -> Value {
    done.succeeded();
    let report = report();
    assert_eq!(report["outcome"], "committed", "{report}");
    assert_no_frame_lost(&report);
    report
}

/// The VMs, each with the batch in which it went.
fn batches(report: &Value) -> Vec<(&str, Option<u64>)> {
    let rows = report["vms"].as_array().expect("a list of VMs");
    let batches = rows
        .iter()
        .map(|row| (row["id"].as_str().unwrap_or_default(), row["batch"].as_u64()));
    let mut batches: Vec<_> = batches.collect();
    batches.sort_unstable();
    batches
}

/// Where it was, and running.
fn back_at_its_source(lab: &UserLab, done: &Done, why: &str) {
    assert_eq!(done.code, Some(4), "{done:?}");
    let report = report();
    assert_eq!(report["outcome"], "rolled-back", "{report}");
    assert!(done.stderr.contains(why), "{why}: {done:?}");
    assert_eq!(lab.hosts_of_vms(), ["h1", "h1"]);
    written_enough();
    lab.assert_clean(why);
}

/// The control groups that hold slowed guests.
fn slowed(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let inside = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.flat_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.strip_prefix("transhume-").map(str::parse::<u32>) {
            Some(Ok(_)) => vec![entry.path()],
            _ if depth < GROUP_DEPTH_MAX => slowed(&entry.path(), depth + 1),
            _ => Vec::new(),
        }
    })
    .collect()
}

#[test]
fn a_guest_that_does_not_get_ready_is_treated_as_the_user_wished() {
    let lab = up(&["--run", PROGRAM]);
    let stopped = overtaken(THERE, "--converge stop").finish();
    back_at_its_source(&lab, &stopped, "its batch rolls back");
    let waiting = overtaken(THERE, "--converge wait");
    says("cancel 2").succeeded();
    back_at_its_source(&lab, &waiting.finish(), "cancelled");
    // What is to be copied takes the link 2.7 s.
    let limited = begins(&format!("{THERE} --converge wait --max-time 2s")).finish();
    back_at_its_source(&lab, &limited, "the move was not over within 2 s");

    let all = || slowed(Path::new("/sys/fs/cgroup"), 0);
    // A test that was killed may have left some.
    let before = all();
    let groups = || -> Vec<PathBuf> {
        all()
            .into_iter()
            .filter(|group| !before.contains(group))
            .collect()
    };
    // So little that the link carries it on a fast machine too.
    let moving = overtaken(THERE, "--converge throttle=3");
    let begun = Instant::now();
    while groups().is_empty() {
        assert!(begun.elapsed() < GROUP_WAIT_MAX, "its guest is not slowed down");
        std::thread::sleep(Duration::from_millis(100));
    }
    let report = committed(&moving.finish());
    assert_eq!(batches(&report), [("vm1", Some(1)), ("vm2", Some(1))]);
    assert_eq!(groups(), [] as [PathBuf; 0], "it has its processor back");
    written_enough();
    lab.assert_clean("after a guest was slowed down");

    let mut moving = overtaken(BACK, "--converge shrink");
    moving.until("without VM vm1, which goes last, in batch 2");
    moving.until("batch 1 is committed");
    written_enough();
    let report = committed(&moving.finish());
    assert_eq!(batches(&report), [("vm1", Some(2)), ("vm2", Some(1))]);
    assert_eq!(lab.hosts_of_vms(), ["h1", "h1"]);
    lab.assert_clean("after a batch was shrunk");
    lab.assert_one_of_each(2);
}

/// Each of two clusters writes more than half of what VMCT is guaranteed of the link, which is
/// 47 of its 118 Mbit/s, and less than all of it: a dirty rate is measured by a sample.
#[test]
fn a_move_waits_for_its_links_where_its_user_says_so() {
    let lab = raise(
        &[
            ["lab", "up", "--hosts", "2", "--vms", "3", "--staying", "2"].as_slice(),
            &["--circuits", "shared", "--link", "118mbit", "--rate", "50"],
            &["--memory-mib", "128", "--run", "/init load random 8 4"],
        ]
        .concat(),
    );
    // Guests that write so much stand still for long.
    let line = |cluster: &str| format!("migrate {cluster} --from h1 --to h2 --max-blackout 5s");
    let mut first = begins(&line("lab"));
    first.until("step 4:");
    says(&line("stay")).refused(3, &["h1", "are free", "are missing", "--wait"]);
    let mut second = begins(&(line("stay") + " --wait"));
    second.until("it cannot begin yet:");
    for moved in [first, second] {
        let done = moved.finish();
        let clean = "lost 0, duplicated 0, reordered 0";
        assert!(done.succeeded().stdout.contains(clean), "{done:?}");
    }
    lab.assert_clean("after both");
}
