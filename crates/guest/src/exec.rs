//! Runs a program for the console channel: its output, bounded, its exit code, and a time limit for
//! it and its children.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use transhume_guest::wire::EXEC_OUTPUT_BYTES_MAX;

use crate::mesh::now;

const POLL: Duration = Duration::from_millis(10);
/// Background children may hold the pipes open; the reply does not wait longer for them.
const OUTPUT_WAIT_MAX: Duration = Duration::from_millis(500);

/// What a program left behind.
pub struct Finished {
    pub code: i32,
    pub timed_out: bool,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub truncated: bool,
}

/// 128 + signal where a signal ended it, as shells say it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

pub fn run(argv: &[String], time_limit: Duration) -> io::Result<Finished> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::other("no program named"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    let stdout = Collector::start(child.stdout.take());
    let stderr = Collector::start(child.stderr.take());
    let deadline = now() + time_limit;
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if now() >= deadline && !timed_out {
            timed_out = true;
            // The group is gone only when its last member is; an error means just that.
            let _gone = kill_process_group(Pid::from_child(&child), Signal::KILL);
        }
        thread::sleep(POLL);
    };
    let output_deadline = now() + OUTPUT_WAIT_MAX;
    while !(stdout.ended() && stderr.ended()) && now() < output_deadline {
        thread::sleep(POLL);
    }
    let (stdout, stdout_cut) = stdout.take();
    let (stderr, stderr_cut) = stderr.take();
    Ok(Finished {
        code: exit_code(status),
        timed_out,
        stdout,
        stderr,
        truncated: stdout_cut || stderr_cut,
    })
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    truncated: bool,
    ended: bool,
}

struct Collector(Arc<Mutex<Collected>>);

impl Collector {
    fn start(source: Option<impl Read + Send + 'static>) -> Self {
        let collected = Arc::new(Mutex::new(Collected::default()));
        let shared = Arc::clone(&collected);
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            if let Some(mut source) = source {
                while let Ok(length @ 1..) = source.read(&mut buffer) {
                    let mut to = shared.lock().expect("no holder panics");
                    let room = EXEC_OUTPUT_BYTES_MAX - to.bytes.len();
                    to.truncated |= length > room;
                    to.bytes.extend_from_slice(&buffer[..length.min(room)]);
                }
            }
            shared.lock().expect("no holder panics").ended = true;
        });
        Collector(collected)
    }

    fn ended(&self) -> bool {
        self.0.lock().expect("no holder panics").ended
    }

    fn take(self) -> (Vec<u8>, bool) {
        let mut collected = self.0.lock().expect("no holder panics");
        (std::mem::take(&mut collected.bytes), collected.truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit_ms: u64) -> Finished {
        run(
            &["sh".into(), "-c".into(), script.into()],
            Duration::from_millis(limit_ms),
        )
        .unwrap()
    }

    #[test]
    fn output_and_exit_code_come_back() {
        let finished = sh("echo out; echo err >&2; exit 3", 5000);
        assert_eq!(
            (finished.code, finished.timed_out, finished.truncated),
            (3, false, false)
        );
        assert_eq!(
            (finished.stdout, finished.stderr),
            (b"out\n".to_vec(), b"err\n".to_vec())
        );
    }

    #[test]
    fn the_time_limit_ends_the_children_too() {
        let begin = now();
        let finished = sh("sleep 30 & sleep 30", 100);
        assert!(finished.timed_out && finished.code == 128 + 9);
        assert!(now() - begin < Duration::from_secs(5));
    }

    #[test]
    fn endless_output_is_cut() {
        let finished = sh("head -c 3000000 /dev/zero", 20_000);
        assert!(finished.truncated);
        assert_eq!(finished.stdout.len(), EXEC_OUTPUT_BYTES_MAX);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&["/no/such".into()], Duration::from_secs(1)).err().unwrap();
        assert!(error.to_string().starts_with("/no/such: "), "{error}");
    }
}
