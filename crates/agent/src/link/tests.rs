//! Who gets to give orders: B1 of the findings, tried on an insecure agent and on one that is not.

use std::path::Path;

use tokio::net::TcpStream;
use transhume_model::{Epoch, OrderId, WallMicros};
use transhume_protocol::message::{Command, FLEET_BYTES, FleetId, Leader, Outcome, PROTOCOL_VERSION};
use transhume_trust::stream::connect;
use transhume_trust::{Authority, Trust, TrustFiles};

use super::*;

/// Says who it is to whoever is admitted, and answers each order.
#[derive(Clone)]
struct Handler(Reports);

fn report(order: Option<OrderId>) -> Report {
    Report {
        order,
        epoch: Epoch(0),
        vm: None,
        at: WallMicros(1),
        outcome: Outcome::Paced,
    }
}

impl OrderHandler for Handler {
    fn admit(&self, _: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    async fn greeting(&self) -> Report {
        report(None)
    }

    async fn take(&self, order: Order) {
        self.0.send(report(Some(order.id)));
    }
}

struct Fleet {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), "test").unwrap();
        Self { dir, authority }
    }

    fn of(&self, part: &str) -> Security {
        security(&self.authority, part, self.dir.path())
    }
}

fn security(authority: &Authority, part: &str, out: &Path) -> Security {
    let issued = authority.issue(&part.parse().unwrap(), 30, out).unwrap();
    let files = TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: None,
    };
    Security::Mutual(Trust::read(files).unwrap())
}

/// An agent of host h1; where it listens.
async fn agent(security: Security) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reports = Reports::default();
    tokio::spawn(serve(listener, security, reports.clone(), Handler(reports)));
    address
}

/// Connects and says that it leads the fleet.
async fn dial(to: SocketAddr, security: &Security) -> io::Result<AnyStream> {
    let stream = TcpStream::connect(to).await?;
    let mut stream = connect(stream, security, "agent/h1".parse().unwrap()).await?;
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        leader: Leader {
            fleet: FleetId::of([1; FLEET_BYTES]),
            term: 1,
        },
    };
    stream.write_all(&wire::encode(&hello).unwrap()).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn hear(stream: &mut AnyStream) -> io::Result<Report> {
    let mut prefix = [0; wire::LENGTH_BYTES];
    stream.read_exact(&mut prefix).await?;
    // In the clear an alert of TLS may be all that comes.
    let mut body = vec![0; wire::length(prefix).map_err(io::Error::other)?];
    stream.read_exact(&mut body).await?;
    wire::decode(&body).map_err(io::Error::other)
}

/// Whether an order is answered.
async fn obeys(stream: &mut AnyStream, number: u64) -> bool {
    let order = Order {
        id: OrderId(number),
        epoch: Epoch(0),
        command: Command::inspect(),
    };
    if stream.write_all(&wire::encode(&order).unwrap()).await.is_err() || stream.flush().await.is_err() {
        return false;
    }
    matches!(hear(stream).await, Ok(report) if report.order == Some(order.id))
}

/// What was so on every agent before: whoever connects last is the coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_agent_believes_whoever_connects_last() {
    let address = agent(Security::Insecure).await;
    let mut coordinator = dial(address, &Security::Insecure).await.unwrap();
    hear(&mut coordinator).await.unwrap();
    assert!(obeys(&mut coordinator, 1).await);
    let mut stranger = dial(address, &Security::Insecure).await.unwrap();
    assert!(
        hear(&mut stranger).await.is_ok(),
        "a stranger is told of the host"
    );
    assert!(obeys(&mut stranger, 2).await, "and obeyed");
    assert!(!obeys(&mut coordinator, 3).await, "the coordinator is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing_and_the_coordinator_keeps_its_link() {
    let (ours, theirs) = (Fleet::new(), Fleet::new());
    let address = agent(ours.of("agent/h1")).await;
    let mut coordinator = dial(address, &ours.of("coordinator")).await.unwrap();
    hear(&mut coordinator).await.unwrap();
    for (security, who) in [
        (Security::Insecure, "in the clear"),
        (theirs.of("coordinator"), "of another fleet"),
        (ours.of("agent/h2"), "another agent"),
        (ours.of("agent/h1"), "itself"),
        (ours.of("user/root"), "a user"),
    ] {
        let told = match dial(address, &security).await {
            Ok(mut stranger) => hear(&mut stranger).await.is_ok(),
            Err(_) => false,
        };
        assert!(!told, "{who} is told of the host");
    }
    // As many as like, each with a hello that never ends.
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(&[22, 3, 1]).await.unwrap();
        slow.push(stranger);
    }
    assert!(obeys(&mut coordinator, 1).await, "its link stands");
    // A port scan.
    for _ in 0..100 {
        drop(TcpStream::connect(address).await.unwrap());
    }
    assert!(obeys(&mut coordinator, 2).await);
    let mut newer = dial(address, &ours.of("coordinator")).await.unwrap();
    hear(&mut newer).await.unwrap();
    assert!(obeys(&mut newer, 3).await, "another coordinator takes its place");
    assert!(!obeys(&mut coordinator, 4).await);
}
