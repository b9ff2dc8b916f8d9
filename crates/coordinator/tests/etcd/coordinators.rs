//! Whole coordinators that share a journal: one leads, the others send on whoever asks them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use transhume_coordinator::{Config, Error};
use transhume_protocol::migration::Limits;

use crate::rig::Etcd;

/// It is waited for in each round, and a leader that is meant to stay must not lose it.
const LEASE_S: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

struct Coordinator {
    number: usize,
    socket: PathBuf,
    task: JoinHandle<Result<(), Error>>,
}

fn start(etcd: &Etcd, number: usize) -> Coordinator {
    let socket = etcd.local(number).with_extension("sock");
    let mut spec = etcd.spec();
    spec.lease_s = LEASE_S;
    spec.advertise = Some(format!("http://coordinator{number}:7400"));
    let config = Config {
        api: None,
        api_socket: Some(socket.clone()),
        journal: etcd.local(number),
        etcd: Some(spec),
        audit: Some(etcd.local(number).with_extension("audit")),
        trust: None,
        insecure: true,
        roles: Vec::new(),
        hosts: Vec::new(),
        uplinks: Vec::new(),
        limits: Limits::default(),
        crash_at: None,
    };
    Coordinator {
        number,
        socket,
        task: tokio::spawn(transhume_coordinator::run(config)),
    }
}

impl Coordinator {
    /// Status, place to go, body.
    async fn ask(&self, path: &str) -> Option<(u16, Option<String>, Value)> {
        let client = reqwest::Client::builder()
            .unix_socket(self.socket.clone())
            .redirect(Policy::none());
        let asked = client
            .build()
            .unwrap()
            .get(format!("http://c{path}"))
            .send()
            .await;
        let answer = asked.ok()?;
        let place = answer.headers().get("location");
        let place = place.map(|place| place.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        Some((status, place, answer.json().await.unwrap_or_default()))
    }

    async fn leads(&self) -> bool {
        self.ask("/v1/clusters")
            .await
            .is_some_and(|(status, _, _)| status == 200)
    }
}

/// The place in the list of whoever leads, and how long it took to be so.
async fn leader(all: &[Coordinator]) -> (usize, Duration) {
    let begun = Instant::now();
    loop {
        for (index, coordinator) in all.iter().enumerate() {
            if coordinator.leads().await {
                return (index, begun.elapsed());
            }
        }
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
        sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sends_on_to_the_leader_and_takes_its_place() {
    let etcd = Etcd::start(3);
    let mut all: Vec<Coordinator> = (1..=3).map(|number| start(&etcd, number)).collect();
    let (mut leads, _) = leader(&all).await;
    for round in 0..3 {
        sleep(Duration::from_millis(600)).await;
        let own = all[leads].number;
        for follower in all.iter().filter(|other| other.number != own) {
            let (status, place, problem) = follower.ask("/v1/migrations/7/events?after=3").await.unwrap();
            assert_eq!(status, 307, "{problem}");
            let expected = format!("http://coordinator{own}:7400/v1/migrations/7/events?after=3");
            assert_eq!(place.as_deref(), Some(expected.as_str()));
            assert_eq!(problem["code"], "not-leader", "{problem}");
            let (status, _, _) = follower.ask("/healthz").await.unwrap();
            assert_eq!(status, 200);
        }
        let gone = all.remove(leads);
        gone.task.abort();
        assert!(gone.task.await.is_err_and(|error| error.is_cancelled()));
        let (next, took) = leader(&all).await;
        eprintln!("round {round}: another leads after {took:?}");
        // Started again, it follows.
        all.push(start(&etcd, gone.number));
        leads = next;
    }
}
