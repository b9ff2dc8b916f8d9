//! A user at the command line, with a lab of his own. One test at a time: there is one lab on a
//! machine.

#![allow(dead_code, reason = "each file of tests uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use transhume_lab::{Lab, LabName};

/// The longest any single command may take; a measurement raises several labs.
const COMMAND_MAX: Duration = Duration::from_secs(120);
const MEASUREMENT_MAX: Duration = Duration::from_secs(420);
const POLL: Duration = Duration::from_millis(20);
/// The lines of stderr a failed command is shown with.
const LINES_SHOWN: usize = 12;

/// What a command left.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("one JSON document expected: {error}: {self:?}"))
    }

    /// Refused with this exit code, a message that names each of `named`, and a hint.
    #[track_caller]
    pub fn refused(&self, code: i32, named: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for name in named {
            assert!(self.stderr.contains(name), "{name} is not named: {self:?}");
        }
        assert!(self.stderr.contains("hint: "), "there is no hint: {self:?}");
        self
    }

    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.in_short());
        self
    }

    /// Why it went wrong, few enough words for a log that cuts: a report's trouble, and the last
    /// lines of stderr.
    fn in_short(&self) -> String {
        let report = serde_json::from_str::<Value>(&self.stdout).unwrap_or_default();
        let lines: Vec<_> = self.stderr.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        format!("trouble: {}\n{}", report["trouble"], last.join("\n"))
    }
}

/// A command under way.
pub struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStderr>,
    seen: String,
    arguments: String,
}

pub fn start(arguments: &[&str]) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_transhume"))
        .args(arguments)
        .env_remove("TRANSHUME_API")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    let lines = BufReader::new(child.stderr.take().expect("stderr is piped"));
    Running {
        child,
        lines,
        seen: String::new(),
        arguments: arguments.join(" "),
    }
}

impl Running {
    /// Reads its progress until a line holds `text`.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            let length = self.lines.read_line(&mut line).expect("stderr is text");
            assert!(length > 0, "ended without saying {text:?}: {}", self.seen);
            self.seen += &line;
            if line.contains(text) {
                return;
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it; what it was to do is seen elsewhere.
    pub fn give_up(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn finish(self) -> Done {
        self.finish_within(COMMAND_MAX)
    }

    fn finish_within(mut self, limit: Duration) -> Done {
        // Both pipes are emptied by threads, so that the wait can have a limit.
        let mut output = self.child.stdout.take().expect("stdout is piped");
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).map(|_| text)
        });
        let mut lines = self.lines;
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            lines.read_to_string(&mut text).map(|_| text)
        });
        let status = wait(&mut self.child, &self.arguments, limit);
        Done {
            code: status.code(),
            stdout: stdout.join().unwrap().unwrap(),
            stderr: self.seen + &stderr.join().unwrap().unwrap(),
        }
    }
}

fn wait(child: &mut Child, arguments: &str, limit: Duration) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > limit {
            child.kill().unwrap();
            panic!("`transhume {arguments}` did not end in {limit:?}");
        }
        std::thread::sleep(POLL);
    }
}

pub fn transhume(arguments: &[&str]) -> Done {
    start(arguments).finish()
}

/// `transhume A B C` from one line; no argument has a space.
pub fn begins(line: &str) -> Running {
    start(&line.split_whitespace().collect::<Vec<_>>())
}

/// The same to its end.
pub fn says(line: &str) -> Done {
    begins(line).finish()
}

/// A measurement, which raises labs of its own and moves in them.
#[track_caller]
pub fn measures(line: &str) {
    begins(line).finish_within(MEASUREMENT_MAX).succeeded();
}

/// A raised lab; gone when dropped, also when the test panics.
pub struct UserLab(());

pub fn lab(options: &str) -> UserLab {
    let arguments: Vec<_> = ["lab", "up"]
        .into_iter()
        .chain(options.split_whitespace())
        .collect();
    raise(&arguments)
}

pub fn raise(arguments: &[&str]) -> UserLab {
    raise_within(arguments, COMMAND_MAX)
}

/// One that takes longer.
pub fn raise_within(arguments: &[&str], limit: Duration) -> UserLab {
    // Of this process, so that the next test removes what a killed one left.
    let owner = std::process::id().to_string();
    let done = start(&[arguments, &["--owner", &owner]].concat()).finish_within(limit);
    // A refused `up` changed nothing, and the lab that is there is somebody's; any other failure
    // may leave a part.
    let guard = (done.code != Some(3)).then_some(UserLab(()));
    done.succeeded();
    let guard = guard.expect("a lab that is up is not refused");
    if !arguments.contains(&"none") {
        guard.wait_for_traffic();
    }
    guard
}

impl Drop for UserLab {
    fn drop(&mut self) {
        let down = says("lab down");
        if !std::thread::panicking() {
            down.succeeded();
        }
    }
}

impl UserLab {
    pub fn open(&self) -> Lab {
        Lab::open(&LabName::default()).expect("the lab is up")
    }

    /// The guests' own account.
    pub fn workload(&self) -> Value {
        says("lab workload --verify-disks --json").succeeded().json()
    }

    /// Waits until every VM has heard from others and written to its disk.
    #[track_caller]
    fn wait_for_traffic(&self) {
        let begun = Instant::now();
        let silent = |figures: &Value| {
            let vms = figures["vms"].as_array().expect("a list of VMs");
            vms.iter().any(|vm| vm["received"] == 0 || vm["disk_writes"] == 0)
        };
        let mut figures = self.workload();
        while silent(&figures) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no traffic: {figures}");
            std::thread::sleep(Duration::from_millis(500));
            figures = self.workload();
        }
    }

    /// Nothing was lost, doubled, reordered, broken or damaged by the guests' own account.
    #[track_caller]
    pub fn assert_clean(&self, when: &str) {
        assert_clean(&self.workload(), when);
    }

    /// The same between the others.
    #[track_caller]
    pub fn assert_clean_without(&self, out: &str, when: &str) {
        let line = format!("lab workload --verify-disks --json --without {out}");
        assert_clean(&says(&line).succeeded().json(), when);
    }

    /// What a VM's QEMU answers its user.
    #[track_caller]
    pub fn qmp(&self, vm: &str, command: &str) -> Value {
        let host = self.state_of(vm).0.parse().expect("a host's name");
        let socket = self
            .open()
            .layout
            .host_dir(&host)
            .join("vms")
            .join(vm)
            .join("user.qmp");
        let mut stream = UnixStream::connect(socket).expect("its QEMU is there");
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut answers = || loop {
            let line = lines.next().expect("QEMU stays").expect("it answers in text");
            let answer: Value = serde_json::from_str(&line).expect("QMP is JSON");
            if answer.get("event").is_none() {
                return answer;
            }
        };
        answers();
        for command in ["qmp_capabilities", command] {
            writeln!(stream, "{{\"execute\": \"{command}\"}}").unwrap();
            let answer = answers();
            if command != "qmp_capabilities" {
                return answer["return"].clone();
            }
        }
        unreachable!("the second is the command")
    }

    /// Where a VM is and what it does, by the coordinator.
    #[track_caller]
    pub fn state_of(&self, vm: &str) -> (String, String) {
        let view = says("cluster show lab --json").succeeded().json();
        let vms = view["vms"].as_array().expect("a list of VMs");
        let found = vms.iter().find(|row| row["id"] == vm).expect("it is there");
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("host"), text("state"))
    }

    /// Waits until a VM is what it is to be.
    #[track_caller]
    pub fn becomes(&self, vm: &str, state: &str) {
        let begun = Instant::now();
        while self.state_of(vm).1 != state {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "VM {vm} is not {state}: {:?}",
                self.state_of(vm)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a VM's guest answers.
    #[track_caller]
    pub fn answers(&self, vm: &str) {
        let done = says(&format!("lab exec {vm} -- true"));
        done.succeeded();
    }

    /// Waits until every agent is connected.
    #[track_caller]
    pub fn all_answer(&self) {
        let begun = Instant::now();
        while says("hosts --json")
            .succeeded()
            .stdout
            .contains("\"connected\": false")
        {
            assert!(begun.elapsed() < Duration::from_secs(30), "an agent stays away");
            std::thread::sleep(POLL);
        }
    }

    /// Where each VM runs, by the coordinator.
    pub fn hosts_of_vms(&self) -> Vec<String> {
        let view = says("cluster show lab --json").succeeded().json();
        let vms = view["vms"].as_array().expect("a list of VMs");
        vms.iter()
            .map(|vm| {
                assert_eq!(vm["state"], "running", "{vm}");
                vm["host"].as_str().expect("a name").to_owned()
            })
            .collect()
    }

    /// Every VM runs in exactly one place: one QEMU whose guest is not paused, and no other.
    #[track_caller]
    pub fn assert_one_of_each(&self, vms: usize) {
        let begun = Instant::now();
        loop {
            let names = self.qemus();
            let mut distinct = names.clone();
            distinct.sort();
            distinct.dedup();
            if names.len() == vms && distinct.len() == vms {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "QEMUs that are there: {names:?}"
            );
            std::thread::sleep(POLL);
        }
    }

    /// The VMs of this lab's QEMU processes.
    fn qemus(&self) -> Vec<String> {
        self.processes().into_iter().map(|(_, vm)| vm).collect()
    }

    /// This lab's QEMU processes.
    pub fn qemu_pids(&self) -> Vec<u32> {
        self.processes().into_iter().map(|(pid, _)| pid).collect()
    }

    fn processes(&self) -> Vec<(u32, String)> {
        let state = self.open().layout.dir();
        // A lab beside this one, in mounts of its own, has the same paths.
        let mounts = |pid: &Path| std::fs::read_link(pid.join("ns/mnt")).ok();
        let own = mounts("/proc/self".as_ref());
        let of = |pid: std::path::PathBuf| -> Option<(u32, String)> {
            if mounts(&pid) != own {
                return None;
            }
            let line = std::fs::read(pid.join("cmdline")).ok()?;
            let words: Vec<_> = line
                .split(|byte| *byte == 0)
                .map(String::from_utf8_lossy)
                .collect();
            let ours = words.iter().any(|word| word.contains(&*state.to_string_lossy()));
            let name = words.iter().position(|word| word == "-name")?;
            let number = pid.file_name()?.to_str()?.parse().ok()?;
            (ours && words[0].contains("qemu-system"))
                .then(|| (number, words[name + 1].split(',').next().unwrap_or("").to_owned()))
        };
        let processes = std::fs::read_dir("/proc").expect("/proc is there");
        processes.flatten().filter_map(|entry| of(entry.path())).collect()
    }
}

/// A move that committed and lost nothing by the buffers' account; the report.
#[track_caller]
pub fn moved(line: &str) -> Value {
    let report = says(&format!("{line} --json")).succeeded().json();
    assert_eq!(report["outcome"], "committed", "{report}");
    assert_no_frame_lost(&report);
    report
}

#[track_caller]
pub fn assert_no_frame_lost(report: &Value) {
    for vm in report["vms"].as_array().expect("a list of VMs") {
        let frames = &vm["frames"];
        if frames.is_null() {
            continue;
        }
        for count in ["lost", "duplicated", "reordered"] {
            assert_eq!(frames[count], 0, "{count} of {vm}");
        }
        assert_eq!(frames["captured"], frames["delivered"], "{vm}");
    }
}

#[track_caller]
fn assert_clean(figures: &Value, when: &str) {
    for vm in figures["vms"].as_array().expect("a list of VMs") {
        for count in ["lost", "duplicated", "reordered", "tcp_broken", "disk_errors"] {
            let pairs = &figures["pairs"];
            assert_eq!(vm[count], 0, "{when}: {count} of {vm}\npairs: {pairs}");
        }
    }
}
