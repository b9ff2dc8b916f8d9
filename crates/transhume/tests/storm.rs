//! Ten rounds of a storm with a fixed seed, on real processes: no promise is broken, and nothing
//! stays behind.

mod user;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use user::says;

const ROUNDS: usize = 10;
/// Ten rounds of it hold nearly every kind of fault, at most steps, and one QEMU that is killed.
const SEED: u64 = 2333;
/// A round is bounded, so the storm is; this is only for a storm that hangs itself.
const STORM_MAX: Duration = Duration::from_secs(540);

/// What the storm leaves: removed whatever became of it.
struct Cleared(PathBuf);

impl Drop for Cleared {
    fn drop(&mut self) {
        says("lab down");
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn ten_rounds_break_no_promise() {
    let dir = std::env::temp_dir().join(format!("transhume-storm-{}", std::process::id()));
    let cleared = Cleared(dir.clone());
    std::fs::create_dir_all(&dir).unwrap();
    let (log, keep) = (dir.join("log"), dir.join("kept"));
    let mut storm = Command::new(env!("CARGO_BIN_EXE_transhume"))
        .args(["lab", "storm", "--json"])
        .args(["--rounds", &ROUNDS.to_string(), "--seed", &SEED.to_string()])
        .args(["--owner", &std::process::id().to_string()])
        .arg("--log")
        .arg(&log)
        .arg("--keep")
        .arg(&keep)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    let begun = Instant::now();
    while storm.try_wait().unwrap().is_none() {
        if begun.elapsed() > STORM_MAX {
            storm.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let output = storm.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // The rounds' own lines say what was violated and with which seed.
    let rounds = std::fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(output.status.code(), Some(0), "{text}\n{rounds}");
    let sum: Value = serde_json::from_str(&text).expect("one JSON document");
    assert_eq!(
        (&sum["rounds"], &sum["violated"]),
        (&ROUNDS.into(), &0.into()),
        "{sum}"
    );
    assert!(sum["switchovers"].as_u64() > Some(0), "something moved: {sum}");
    assert!(
        !sum["strikes"].as_object().unwrap().is_empty(),
        "something fell: {sum}"
    );

    // The same rounds again are those of the log: nothing is raised, and the sum is the same.
    let again = user::transhume(&["lab", "storm", "--summary", &log.display().to_string(), "--json"]);
    assert_eq!(again.succeeded().json(), sum);
    assert_eq!(
        says("lab logs coordinator").code,
        Some(3),
        "the storm's lab is gone"
    );
    drop(cleared);
}

#[test]
fn what_cannot_storm_is_refused() {
    says("lab storm --faults kill,flood").refused(3, &["`flood`"]);
    says("lab storm --hosts 3").refused(3, &["3 hosts"]);
    says("lab storm --vms 1").refused(3, &["--vms 1"]);
    says("lab storm --log /proc/version").refused(3, &["/proc/version"]);
}
