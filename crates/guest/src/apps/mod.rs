//! The checker of the cluster that runs in the guests: a client that carries out one operation
//! after the other, by the clock, and keeps an account. See docs/design/apps.md.
//!
//! ```text
//!  not serving ── a write, a read and a look succeed ──▶ serving: turn ▸ operation ▸ account, for ever
//! ```

mod account;
mod connection;
mod etcd;
mod laps;
mod postgres;
mod redis;
mod written;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use transhume_guest::app::{App, AppStats, ClusterStats, OPERATION_MS_MAX, OPERATIONS_PER_S};
use transhume_guest::latency::Turns;
use transhume_guest::settings::Settings;

use crate::mesh::now;
use account::Account;

/// Between two attempts to find the cluster serving.
const RETRY: Duration = Duration::from_millis(500);
/// Between two looks at what else happens to the cluster.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Operations of which all kinds are among them.
const KINDS_MAX: u32 = 2;

/// Why an operation does not count as done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// It did not end, or with an error.
    Failed(String),
    /// It ended with a value that cannot be.
    Wrong(String),
}

impl Trouble {
    fn text(self) -> String {
        match self {
            Trouble::Failed(text) | Trouble::Wrong(text) => text,
        }
    }
}

/// What carries out the operations.
trait Client: Send {
    /// Waits until the next operation is due.
    fn turn(&mut self, turns: &mut Turns) -> Result<(), Trouble> {
        turns.wait();
        Ok(())
    }

    /// The next operation.
    fn operate(&mut self, deadline: Instant) -> Result<(), Trouble>;

    /// Looks what else happened to the cluster.
    fn watch(&mut self, _deadline: Instant) -> Result<(), Trouble> {
        Ok(())
    }

    /// All that was seen of it so far.
    fn cluster(&self) -> ClusterStats {
        ClusterStats::default()
    }
}

/// Under way as long as the guest runs.
pub struct Checker(Arc<Mutex<Account>>);

impl Checker {
    /// Starts it; `None` where this VM has none.
    pub fn start(settings: &Settings) -> std::io::Result<Option<Self>> {
        let Some(app) = settings.app.filter(|app| app.checks(settings.index)) else {
            return Ok(None);
        };
        let client: Box<dyn Client> = match app {
            App::Etcd => Box::new(etcd::Client::new(settings)),
            App::Redis => Box::new(redis::Client::new(settings)),
            App::Postgres => Box::new(postgres::Client::new(settings)),
            App::Mpi => Box::new(laps::Client::new()?),
        };
        let account = Arc::new(Mutex::new(Account::new(now())));
        let shared = Arc::clone(&account);
        let per_s = OPERATIONS_PER_S / settings.peers.len().max(1) as u32;
        thread::spawn(move || check(client, &shared, per_s));
        Ok(Some(Checker(account)))
    }

    /// The account since the last look.
    pub fn look(&self) -> AppStats {
        self.0.lock().expect("no holder panics").look(now())
    }
}

fn check(mut client: Box<dyn Client>, account: &Mutex<Account>, per_s: u32) {
    let account = || account.lock().expect("no holder panics");
    let mut turns = Turns::new(per_s);
    while let Err(trouble) = serves(client.as_mut(), &mut turns) {
        account().not_serving(trouble.text());
        thread::sleep(RETRY);
    }
    account().serving(now(), client.cluster());
    let mut watched = now();
    loop {
        let due = client.turn(&mut turns);
        account().begin(now());
        let ended = due.and_then(|()| client.operate(deadline()));
        account().end(now(), ended);
        if now().saturating_sub(watched) >= WATCH_INTERVAL {
            watched = now();
            // A server that does not answer fails the operations, too: they are what counts.
            let _unseen = client.watch(deadline());
        }
        account().cluster(client.cluster());
    }
}

fn serves(client: &mut dyn Client, turns: &mut Turns) -> Result<(), Trouble> {
    for _ in 0..KINDS_MAX {
        client.turn(turns)?;
        client.operate(deadline())?;
    }
    client.watch(deadline())
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(OPERATION_MS_MAX)
}

/// The port of the member so many places behind this VM, in a circle.
fn member(settings: &Settings, places: usize, port: u16) -> SocketAddrV4 {
    let at = (usize::from(settings.index) + places) % settings.peers.len();
    SocketAddrV4::new(settings.peers[at], port)
}

/// The replica of the first VM that this one reads from: each another one, as far as they go.
fn replica(settings: &Settings) -> Ipv4Addr {
    let replicas = &settings.peers[1.min(settings.peers.len() - 1)..];
    replicas[usize::from(settings.index) % replicas.len()]
}
