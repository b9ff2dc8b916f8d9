//! A real coordinator on a Unix socket, fake agents on loopback, and a real HTTP client between the
//! test and it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use transhume_api::{Accepted, HostList, Problem};
use transhume_coordinator::journal::MemoryJournal;
use transhume_coordinator::{Config, Error};
use transhume_model::{Capacity, HostSpec, MachineType, Mebibytes, MigrationId, Vcpus};
use transhume_protocol::migration::Limits;
use transhume_protocol::report::{Ending, MigrationReport};

use super::fake::Agent;

/// What is waited for comes long before this, or never.
const PATIENCE: Duration = Duration::from_secs(60);
/// Speed of every migration link.
pub const VMCT_MBIT_S: u32 = 1_000;
const POLL: Duration = Duration::from_millis(20);

pub fn machine() -> MachineType {
    MachineType("pc-q35-10.0".to_owned())
}

/// Room for that many VMs of [`cluster`].
pub fn room(vms: u64) -> Capacity {
    Capacity {
        vcpus: Vcpus(vms),
        memory: Mebibytes(vms * 128),
    }
}

/// A cluster as one would POST it: pairs of VM and host. `vmN` has an address that ends in N.
pub fn cluster(name: &str, vms: &[(&str, &str)]) -> Value {
    let vm = |(vm, host): &(&str, &str)| {
        let number: u8 = vm.trim_start_matches("vm").parse().expect("a VM is named vmN");
        json!({
            "host": host,
            "spec": {
                "name": vm, "cluster": name, "vcpus": 1, "memory": 128,
                "nics": [{ "mac": format!("52:54:00:00:00:{number:02x}"), "mtu": 1500 }],
                "boot": { "kernel": "/k", "initrd": "/i", "cmdline": "" },
            },
        })
    };
    json!({ "name": name, "vms": vms.iter().map(vm).collect::<Vec<_>>() })
}

/// An order to move.
pub fn order(from: &[&str], to: &[&str]) -> Value {
    json!({ "from": from, "to": to })
}

/// What a request came to.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The document of a success.
    #[track_caller]
    pub fn is<T: DeserializeOwned>(self) -> T {
        assert!(self.status < 300, "{} {}", self.status, self.body);
        serde_json::from_value(self.body).expect("the document of this call")
    }

    /// The code of a refusal.
    pub fn code(&self) -> String {
        self.body["code"].as_str().expect("a problem").to_owned()
    }

    /// A refusal with this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Problem {
        let problem: Problem = serde_json::from_value(self.body.clone()).expect("a problem");
        assert_eq!(
            (self.status, problem.code.as_str()),
            (status, code),
            "{}",
            self.body
        );
        assert!(!problem.hint.is_empty(), "{} has a hint", self.body);
        problem
    }
}

/// A coordinator with its hosts.
pub struct Site {
    pub agents: BTreeMap<&'static str, Agent>,
    /// Of moves, from the next start of the coordinator on.
    pub limits: Limits,
    /// Labels of hosts, from the next start of the coordinator on.
    pub labels: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Fence agents of hosts, likewise.
    pub fence: BTreeMap<&'static str, Vec<String>>,
    /// The longest record that the journal takes, from the next start on; it then forgets with the
    /// coordinator.
    pub record_bytes_max: Option<usize>,
    directory: TempDir,
    coordinator: Option<JoinHandle<Result<(), Error>>>,
    http: reqwest::Client,
}

impl Site {
    /// Hosts with room for that many VMs each; all agents answer.
    pub async fn new(hosts: &[(&'static str, u64)]) -> Self {
        let mut site = Self::dark(hosts);
        site.agents.values_mut().for_each(Agent::start);
        site.start().await;
        site.all_connected().await;
        site
    }

    /// The same, with neither agents nor coordinator started.
    pub fn dark(hosts: &[(&'static str, u64)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let paper = Arc::default();
        let agents = hosts
            .iter()
            .map(|(name, vms)| (*name, Agent::new(name, room(*vms), &paper)));
        Self {
            agents: agents.collect(),
            limits: Limits::default(),
            labels: BTreeMap::new(),
            fence: BTreeMap::new(),
            record_bytes_max: None,
            http: reqwest::Client::builder().unix_socket(socket).build().unwrap(),
            directory,
            coordinator: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> Config {
        let hosts = self.agents.values().map(|agent| HostSpec {
            name: agent.name.clone(),
            control: agent.address,
            vmct_mbit_s: Some(VMCT_MBIT_S),
            labels: self.labels.get(agent.name.as_str()).cloned().unwrap_or_default(),
            fence: self.fence.get(agent.name.as_str()).cloned().unwrap_or_default(),
        });
        Config {
            api: None,
            api_socket: Some(self.path("api.sock")),
            journal: self.path("journal.redb"),
            etcd: None,
            audit: None,
            trust: None,
            insecure: true,
            roles: Vec::new(),
            hosts: hosts.collect(),
            uplinks: Vec::new(),
            limits: self.limits.clone(),
            crash_at: None,
        }
    }

    /// Starts the coordinator, or starts it again on the same journal.
    pub async fn start(&mut self) {
        let config = self.config();
        let ends = match self.record_bytes_max {
            None => tokio::spawn(transhume_coordinator::run(config)),
            Some(bytes) => {
                let journal = Box::new(MemoryJournal::taking(bytes));
                tokio::spawn(transhume_coordinator::run_with(config, journal))
            }
        };
        self.coordinator = Some(ends);
        until("the API answers", async || {
            self.http.get("http://c/healthz").send().await.ok()
        })
        .await;
    }

    /// Ends the coordinator wherever it is; nothing of it is left but the journal.
    pub async fn end(&mut self) {
        let coordinator = self.coordinator.take().expect("it runs");
        coordinator.abort();
        assert!(
            coordinator.await.is_err_and(|error| error.is_cancelled()),
            "it ran until now"
        );
    }

    pub async fn hosts(&self) -> HostList {
        self.get("/v1/hosts").await.is()
    }

    pub async fn all_connected(&self) {
        let all = async || {
            let hosts = self.hosts().await.hosts;
            hosts.iter().all(|host| host.connected).then_some(())
        };
        until("every agent is connected", all).await;
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(format!("http://c{path}"))).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.http.delete(format!("http://c{path}"))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.http.post(format!("http://c{path}")).json(body))
            .await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.http.put(format!("http://c{path}")).json(body))
            .await
    }

    /// The head of an answer whose body is still to come.
    pub async fn open(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("http://c{path}"));
        timeout(PATIENCE, request.send())
            .await
            .expect("an answer")
            .unwrap()
    }

    /// A body as it stands, said to be JSON.
    pub async fn post_text(&self, path: &str, body: String) -> Answer {
        let request = self.http.post(format!("http://c{path}"));
        self.send(request.header("content-type", "application/json").body(body))
            .await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = timeout(PATIENCE, request.send())
            .await
            .expect("an answer")
            .unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, body }
    }

    /// The whole stream of a move's events that is over, or becomes so meanwhile.
    pub async fn events(&self, migration: MigrationId, after: u64) -> Vec<Value> {
        let answer = self
            .get(&format!("/v1/migrations/{migration}/events?after={after}"))
            .await;
        let text = answer.body.as_str().expect("a stream of events");
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A cluster named `lab` is there: VMs and where they start.
    pub async fn with_lab(self, vms: &[(&str, &str)]) -> Self {
        let answer = self.post("/v1/clusters", &cluster("lab", vms)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        self
    }

    /// Begins a move of `lab`.
    pub async fn migrate(&self, order: &Value) -> MigrationId {
        let answer = self.post("/v1/clusters/lab/migrations", order).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.is::<Accepted>().migration
    }

    pub async fn report(&self, migration: MigrationId) -> MigrationReport {
        self.get(&format!("/v1/migrations/{migration}")).await.is()
    }

    /// The report of a move, once it is over.
    pub async fn ended(&self, migration: MigrationId) -> MigrationReport {
        let over = async || {
            let report = self.report(migration).await;
            (report.outcome != Ending::Running).then_some(report)
        };
        until("the move is over", over).await
    }

    /// Waits until an agent was given an order of this name.
    pub async fn ordered(&self, host: &str, command: &str) {
        let agent = &self.agents[host];
        until(command, async || agent.was_ordered(command).then_some(())).await;
    }

    /// Every VM runs in exactly one place, here: pairs of VM and host. Nothing is left of it
    /// elsewhere.
    #[track_caller]
    pub fn assert_runs(&self, expected: &[(&str, &str)]) {
        let of = |list: fn(&Agent) -> Vec<transhume_model::VmName>| {
            let all = self.agents.iter().flat_map(|(host, agent)| {
                let vms = list(agent).into_iter();
                vms.map(|vm| (vm.to_string(), (*host).to_owned()))
                    .collect::<Vec<_>>()
            });
            let mut all: Vec<_> = all.collect();
            all.sort();
            all
        };
        let expected = expected
            .iter()
            .map(|(vm, host)| ((*vm).to_owned(), (*host).to_owned()));
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        assert_eq!(of(Agent::running), expected, "what runs");
        assert_eq!(of(Agent::holds), expected, "what is held");
    }
}

/// Asks until there is an answer.
pub async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(POLL).await;
        }
    };
    let asked = timeout(PATIENCE, asked).await;
    asked.unwrap_or_else(|_| panic!("it never came to this: {what}"))
}
