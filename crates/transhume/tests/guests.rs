//! Guests as they are: paused, fallen, deaf or off, each moves as it is and keeps nobody waiting.
//! Guests that fall in the middle of a move end it cleanly.

mod user;

use serde_json::Value;
use transhume_lab::faults::{self, Room};
use user::{Done, Running, UserLab, begins, lab, moved, says, start};

const THERE: &str = "migrate lab --from h1,h2 --to h3,h4";
const BACK: &str = "migrate lab --from h3,h4 --to h1,h2";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[track_caller]
fn row<'a>(report: &'a Value, vm: &str) -> &'a Value {
    let rows = report["vms"].as_array().expect("a list of VMs");
    rows.iter().find(|row| row["id"] == vm).expect("it is there")
}

/// Has a guest end itself. Its answer may be lost with it, and is then asked for in vain: whoever
/// calls sees the end itself. A guest that was booted since is asked again and lets it be.
fn end(vm: &str, boot: &str, line: &str) -> Running {
    let line = format!("grep -q {boot} {BOOT_ID} || exit 0; ({line}) >/dev/null 2>&1 &");
    start(&["lab", "exec", vm, "--", "sh", "-c", &line])
}

/// Which boot of the guest runs.
fn boot_of(vm: &str) -> String {
    let said = says(&format!("lab exec {vm} -- cat {BOOT_ID}"));
    said.succeeded().stdout.trim().to_owned()
}

/// Its last words are on its console once it has panicked.
fn panic(lab: &UserLab, vm: &str) {
    let asked = end(vm, &boot_of(vm), "sleep 0.2; echo c > /proc/sysrq-trigger");
    let host = lab.state_of(vm).0.parse().expect("a host's name");
    let console = lab
        .open()
        .layout
        .host_dir(&host)
        .join(format!("vms/{vm}/console.log"));
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&console).is_ok_and(|text| text.contains("Kernel panic")) {
        assert!(begun.elapsed().as_secs() < 30, "it does not panic");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    asked.give_up();
}

#[test]
fn guests_move_as_they_are_and_the_healthy_ones_lose_nothing() {
    let lab = lab("--hosts 4 --vms 4 --rate 300");
    stopped_ones(&lab);
    deaf_ones(&lab);
    powered_off_ones(&lab);
}

/// Paused by its user, and stopped by QEMU on a disk error: there, and on the way back.
fn stopped_ones(lab: &UserLab) {
    lab.qmp("vm1", "stop");
    faults::serve_disk(&mut lab.open(), "vm2", Room::None).unwrap();
    lab.becomes("vm2", "disk-error");
    let as_they_are = |when: &str| {
        assert_eq!(lab.qmp("vm1", "query-status")["status"], "paused", "{when}");
        assert_eq!(lab.qmp("vm2", "query-status")["status"], "io-error", "{when}");
        assert_eq!(lab.state_of("vm1").1, "paused", "{when}");
        assert_eq!(lab.state_of("vm2").1, "disk-error", "{when}");
    };
    let mut moving = begins(THERE);
    moving.until("step 3:");
    says("cancel 1").succeeded();
    let cancelled = moving.finish();
    assert_eq!(cancelled.code, Some(4), "{cancelled:?}");
    as_they_are("after the way back");
    let report = moved(THERE);
    assert_eq!(row(&report, "vm1")["guest"], "paused");
    assert_eq!(row(&report, "vm2")["guest"], "disk-error");
    assert!(
        row(&report, "vm1")["frames"]["untaken"].as_u64() > Some(0),
        "{report}"
    );
    assert!(
        row(&report, "vm1")["blackout_ms"].is_null(),
        "it stood still all the time"
    );
    as_they_are("where it came to");
    moved(&format!("{BACK} --offline"));
    as_they_are("after an offline move");
    lab.assert_clean_without("vm1,vm2", "beside stopped guests");
    faults::serve_disk(&mut lab.open(), "vm2", Room::Enough).unwrap();
    for vm in ["vm1", "vm2"] {
        lab.qmp(vm, "cont");
        lab.becomes(vm, "running");
        lab.answers(vm);
    }
}

/// A NIC that is down, and a guest that panicked, which QEMU takes for running.
fn deaf_ones(lab: &UserLab) {
    says("lab exec vm1 -- ip link set eth0 down").succeeded();
    panic(lab, "vm2");
    for line in [THERE, BACK] {
        let report = moved(line);
        assert_eq!(report["frames"]["lost"], 0, "{report}");
    }
    lab.assert_clean_without("vm1,vm2", "beside deaf guests");
    says("lab exec vm1 -- ip link set eth0 up").succeeded();
}

/// The place of one that is off moves, and it boots there; one that is asked powers itself off.
fn powered_off_ones(lab: &UserLab) {
    says("vm stop --force --yes lab vm2").succeeded();
    let off = moved(THERE);
    let (host, state) = lab.state_of("vm2");
    assert_eq!(state, "off");
    assert!(["h3", "h4"].contains(&host.as_str()), "{host}");
    assert_eq!(row(&off, "vm2")["pages"]["wire"], 0, "nothing is copied");
    says("vm start lab vm2").succeeded();
    lab.answers("vm2");
    assert_eq!(lab.state_of("vm2"), (host, "running".to_owned()));
    says("vm forget lab vm3").refused(3, &["vm3", "not powered off"]);
    says("vm stop lab vm3").succeeded();
    assert_eq!(lab.state_of("vm3").1, "off");
    says("vm forget lab vm3").succeeded();
    let view = says("cluster show lab --json").succeeded().json();
    assert_eq!(view["vms"].as_array().map(Vec::len), Some(3), "{view}");
    lab.assert_one_of_each(3);
}

/// Rolled back or committed, all on one side, the others running.
fn ended(lab: &UserLab, done: &Done, when: &str) {
    let sides = match done.code {
        Some(0) => ["h3", "h4"],
        Some(4) => ["h1", "h2"],
        _ => panic!("{when}: {done:?}"),
    };
    for vm in ["vm1", "vm2", "vm3", "vm4"] {
        let (host, state) = lab.state_of(vm);
        assert!(
            sides.contains(&host.as_str()),
            "{when}: {vm} is on {host}: {done:?}"
        );
        assert!(
            vm == "vm1" || state == "running",
            "{when}: {vm} is {state}: {done:?}"
        );
    }
    lab.assert_clean_without("vm1", when);
}

/// A guest's own end comes before, in or after the switchover, as it happens; whichever, the move
/// ends.
#[test]
fn a_guest_that_ends_in_the_middle_of_its_move_ends_it_cleanly() {
    let lab = lab("--hosts 4 --vms 4 --rate 300");
    for (step, way) in [
        ("step 2:", "poweroff"),
        ("step 5:", "reboot"),
        ("step 4:", "poweroff"),
    ] {
        let boot = boot_of("vm1");
        let mut moving = begins(THERE);
        moving.until(step);
        // With its NIC up, Linux may spin in the middle of its end (boot.rs of the guest).
        let asked = end(
            "vm1",
            &boot,
            &format!("sleep 0.1; ip link set eth0 down; {way} -f"),
        );
        let done = moving.finish();
        if way == "poweroff" {
            lab.becomes("vm1", "off");
            asked.give_up();
            ended(&lab, &done, step);
            says("vm start lab vm1").succeeded();
        } else {
            asked.finish().succeeded();
            lab.becomes("vm1", "running");
            ended(&lab, &done, step);
        }
        lab.answers("vm1");
        assert_ne!(boot_of("vm1"), boot, "{step}: it did not {way}");
        if done.code == Some(0) {
            moved(BACK);
        }
    }
}
