//! A real etcd for one test: members on loopback ports of their own, gone with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use transhume_coordinator::journal::{EtcdJournal, JournalError};
use transhume_coordinator::{EtcdSpec, Standing};

/// Debian's package `etcd-server`; `scripts/setup.sh` installs it.
const PROGRAM: &str = "/usr/bin/etcd";
/// A member answers by then, also on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// As docs/design/journal-etcd.md wants them. With etcd's defaults, 100 and 1000, an election takes
/// 1 to 2 s, and as long again where two members ask for votes at once: longer than a lease.
const HEARTBEAT_MS: u32 = 50;
const ELECTION_MS: u32 = 500;
/// With room for several elections in a row, and for a machine that stands still for a while: what
/// a test of something else does not want to meet is a lease that ran out.
const LEASE_S: u32 = 8;
/// For tests that wait until it has run out.
pub const SHORT_LEASE_S: u32 = 3;
pub const PREFIX: &str = "/transhume/test";

/// Certificates of members and of whoever asks them.
#[derive(Debug, Clone)]
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// All members.
pub struct Etcd {
    members: Vec<Member>,
    tls: Option<Tls>,
    pub directory: TempDir,
}

struct Member {
    process: Option<Child>,
    arguments: Vec<String>,
    log: PathBuf,
    client: String,
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    listener.local_addr().expect("it is bound").port()
}

impl Etcd {
    pub fn start(members: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(members, directory, None)
    }

    pub fn start_in(members: usize, directory: TempDir, tls: Option<Tls>) -> Self {
        assert!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: run scripts/setup.sh"
        );
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let peer = |index: usize| format!("http://127.0.0.1:{}", ports[index].1);
        let initial: Vec<String> = (0..members)
            .map(|index| format!("m{index}={}", peer(index)))
            .collect();
        let member = |index: usize| {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let client = format!("{scheme}://127.0.0.1:{}", ports[index].0);
            let data = directory.path().join(format!("m{index}"));
            let mut arguments: Vec<String> = [
                ("name", format!("m{index}")),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client.clone()),
                ("listen-peer-urls", peer(index)),
                ("initial-advertise-peer-urls", peer(index)),
                ("initial-cluster", initial.join(",")),
                ("heartbeat-interval", HEARTBEAT_MS.to_string()),
                ("election-timeout", ELECTION_MS.to_string()),
                ("logger", "zap".to_owned()),
                ("log-level", "warn".to_owned()),
            ]
            .map(|(name, value)| format!("--{name}={value}"))
            .into();
            if let Some(tls) = &tls {
                let files = [
                    ("cert-file", &tls.certificate),
                    ("key-file", &tls.key),
                    ("trusted-ca-file", &tls.authority),
                ];
                arguments.extend(files.map(|(name, file)| format!("--{name}={}", file.display())));
                arguments.push("--client-cert-auth".to_owned());
            }
            Member {
                process: None,
                arguments,
                log: directory.path().join(format!("m{index}.log")),
                client,
            }
        };
        let mut etcd = Self {
            members: (0..members).map(member).collect(),
            tls: tls.clone(),
            directory,
        };
        (0..members).for_each(|index| etcd.revive(index));
        etcd
    }

    /// Starts a member, also after it was killed.
    pub fn revive(&mut self, index: usize) {
        let member = &mut self.members[index];
        let log = File::options()
            .create(true)
            .append(true)
            .open(&member.log)
            .unwrap();
        let process = Command::new(PROGRAM)
            .args(&member.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        member.process = Some(process.expect("it can be started"));
    }

    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        let process = self.members[index].process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// It answers nothing any more, as one behind a cut link.
    pub fn freeze(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    pub fn spec(&self) -> EtcdSpec {
        EtcdSpec {
            endpoints: self.members.iter().map(|member| member.client.clone()).collect(),
            prefix: PREFIX.to_owned(),
            advertise: None,
            lease_s: LEASE_S,
            authority: self.tls.as_ref().map(|tls| tls.authority.clone()),
            certificate: self.tls.as_ref().map(|tls| tls.certificate.clone()),
            key: self.tls.as_ref().map(|tls| tls.key.clone()),
        }
    }

    /// Where a coordinator of this number keeps its files.
    pub fn local(&self, coordinator: usize) -> PathBuf {
        self.directory.path().join(format!("coordinator{coordinator}"))
    }

    /// Waits until a coordinator of this number leads.
    pub fn lead(&self, coordinator: usize) -> Result<EtcdJournal, JournalError> {
        self.lead_for(LEASE_S, coordinator)
    }

    /// Waits until a coordinator of this number leads, with a lease of so many seconds.
    pub fn lead_for(&self, lease_s: u32, coordinator: usize) -> Result<EtcdJournal, JournalError> {
        let spec = EtcdSpec {
            lease_s,
            ..self.spec()
        };
        let (standing, _) = watch::channel(Standing::Waits { what: String::new() });
        let api = format!("http://coordinator{coordinator}:7400");
        let local = self.local(coordinator);
        let lead = EtcdJournal::lead(&spec, &local, &api, &standing);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let within = async { tokio::time::timeout(START_MAX, lead).await };
        runtime
            .unwrap()
            .block_on(within)
            .expect("somebody leads in the end")
    }

    /// One call of etcd's own, to whichever member answers.
    pub fn call(&self, path: &str, body: &Value) -> Value {
        let begun = Instant::now();
        loop {
            for member in &self.members {
                let asked = Command::new("/usr/bin/python3")
                    .args(["-c", CALL, &format!("{}{path}", member.client), &body.to_string()])
                    .output()
                    .expect("python3 is there");
                if asked.status.success() {
                    return serde_json::from_slice(&asked.stdout).expect("JSON");
                }
            }
            assert!(begun.elapsed() < START_MAX, "no member answers {path}");
            std::thread::sleep(POLL);
        }
    }

    /// Syncs of all members' logs and databases so far.
    pub fn syncs(&self) -> f64 {
        let of = |member: &Member| {
            let asked = Command::new("/usr/bin/python3")
                .args(["-c", READ, &format!("{}/metrics", member.client)])
                .output()
                .expect("python3 is there");
            let text = String::from_utf8(asked.stdout).expect("text");
            let counts = text.lines().filter_map(|line| {
                let (name, count) = line.rsplit_once(' ')?;
                let syncs = [
                    "etcd_disk_wal_fsync_duration_seconds_count",
                    "etcd_disk_backend_commit_duration_seconds_count",
                ];
                syncs.contains(&name).then(|| count.parse::<f64>().ok()).flatten()
            });
            counts.sum::<f64>()
        };
        self.members.iter().map(of).sum()
    }

    /// Everything below the prefix but the leader's clock, as keys and values in base64.
    pub fn dump(&self) -> Vec<(String, String)> {
        let found = self.call("/v3/kv/range", &below(PREFIX));
        let kvs = found["kvs"].as_array().cloned().unwrap_or_default();
        let text = |kv: &Value, name: &str| kv[name].as_str().unwrap_or_default().to_owned();
        let rows = kvs.iter().map(|kv| (text(kv, "key"), text(kv, "value")));
        rows.filter(|(key, _)| *key != encoded(&format!("{PREFIX}/beat")))
            .collect()
    }
}

impl Etcd {
    /// Keys below the prefix that begin so behind it.
    pub fn keys(&self, below: &str) -> Vec<String> {
        use base64::Engine;
        let engine = base64::engine::general_purpose::STANDARD;
        let text = |key: &str| String::from_utf8(engine.decode(key).unwrap()).unwrap();
        let all = self.dump().into_iter().map(|(key, _)| text(&key));
        let rest = all.filter_map(|key| Some(key.strip_prefix(PREFIX)?.strip_prefix('/')?.to_owned()));
        rest.filter(|key| key.starts_with(below)).collect()
    }

    /// Removes everything below the prefix.
    pub fn wipe(&self) {
        self.call("/v3/kv/deleterange", &below(PREFIX));
    }

    /// Writes a key below the prefix, as nobody should.
    pub fn put(&self, below: &str, value: &str) {
        let key = encoded(&format!("{PREFIX}/{below}"));
        self.call("/v3/kv/put", &json!({ "key": key, "value": encoded(value) }));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }
}

const CALL: &str = "import sys, urllib.request as r
q = r.Request(sys.argv[1], sys.argv[2].encode(), {'content-type': 'application/json'})
sys.stdout.buffer.write(r.urlopen(q, timeout=2).read())";

const READ: &str = "import sys, urllib.request as r
sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=10).read())";

pub fn encoded(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn below(prefix: &str) -> Value {
    json!({ "key": encoded(&format!("{prefix}/")), "range_end": encoded(&format!("{prefix}0")) })
}
