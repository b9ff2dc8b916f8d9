//! Who gets to give orders: B1 of the findings, tried on an insecure agent and on one that is not.

use tokio::net::TcpStream;
use transhume_model::{Epoch, OrderId, WallMicros};
use transhume_protocol::message::{
    Command, FLEET_BYTES, FleetId, Leader, Outcome, PROTOCOL_VERSION, RefusalKind,
};
use transhume_trust::stream::connect;
use transhume_trust::testing::issue_expired;
use transhume_trust::{Authority, IssuedFiles, Trust, TrustFiles};

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

    async fn greeting(&self, protocol: u16) -> Report {
        Report {
            epoch: Epoch(u64::from(protocol)),
            ..report(None)
        }
    }

    fn refuse(&self, order: AnyOrder, why: &wire::WireError) {
        let report = order.refused(&"h1".parse().unwrap(), WallMicros(1), why);
        self.0.send(report);
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
        let issued = self.authority.issue(&part.parse().unwrap(), 30, self.dir.path());
        self.security(issued.unwrap())
    }

    fn expired(&self, part: &str) -> Security {
        let issued = issue_expired(&self.authority, &part.parse().unwrap(), self.dir.path());
        self.security(issued.unwrap())
    }

    fn security(&self, issued: IssuedFiles) -> Security {
        let files = TrustFiles {
            authority: self.authority.certificate(),
            certificate: issued.certificate,
            key: issued.key,
            revoked: Some(self.authority.revoked()),
        };
        Security::Mutual(Trust::read(files).unwrap())
    }
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
    dial_with(to, security, Hello::of(leader())).await
}

fn leader() -> Leader {
    Leader {
        fleet: FleetId::of([1; FLEET_BYTES]),
        term: 1,
        life: 1,
    }
}

async fn dial_with(to: SocketAddr, security: &Security, hello: Hello) -> io::Result<AnyStream> {
    let stream = TcpStream::connect(to).await?;
    let mut stream = connect(stream, security, "agent/h1".parse().unwrap()).await?;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_of_the_release_before_is_spoken_to_in_its_version() {
    let address = agent(Security::Insecure).await;
    for (newest, spoken) in [(None, 5), (Some(PROTOCOL_VERSION), PROTOCOL_VERSION)] {
        let hello = Hello {
            protocol: 5,
            newest,
            leader: leader(),
        };
        let mut coordinator = dial_with(address, &Security::Insecure, hello).await.unwrap();
        let greeting = hear(&mut coordinator).await.unwrap();
        assert_eq!(greeting.epoch, Epoch(u64::from(spoken)), "{newest:?}");
        assert!(obeys(&mut coordinator, 1).await);
    }
}

/// Before, one order of a newer release broke the link, and with it every move of the host.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_from_the_future_is_refused_and_the_link_stands() {
    let address = agent(Security::Insecure).await;
    let mut coordinator = dial(address, &Security::Insecure).await.unwrap();
    hear(&mut coordinator).await.unwrap();
    let order = r#"{"id":9,"epoch":3,"command":{"command":"fold","vm":"vm1","corners":4}}"#;
    let mut bytes = (order.len() as u32).to_be_bytes().to_vec();
    bytes.extend(order.as_bytes());
    coordinator.write_all(&bytes).await.unwrap();
    coordinator.flush().await.unwrap();
    let answer = hear(&mut coordinator).await.unwrap();
    assert_eq!((answer.order, answer.epoch), (Some(OrderId(9)), Epoch(3)));
    assert_eq!(answer.vm.unwrap().as_str(), "vm1");
    let Outcome::Refused(refusal) = answer.outcome else {
        panic!("{:?}", answer.outcome)
    };
    assert_eq!(refusal.kind, RefusalKind::UnknownOrder);
    assert!(refusal.reason.contains("`fold`"), "{refusal:?}");
    assert!(obeys(&mut coordinator, 10).await, "the link stands");
    coordinator.write_all(b"\0\0\0\x02{}").await.unwrap();
    coordinator.flush().await.unwrap();
    assert!(
        !obeys(&mut coordinator, 11).await,
        "what is no order at all ends it"
    );
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
        (ours.expired("coordinator"), "a coordinator whose time is over"),
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

/// What somebody heard a coordinator say is worth nothing when it is said again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_hello_gets_nothing() {
    let ours = Fleet::new();
    let address = agent(ours.of("agent/h1")).await;
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listens_at = between.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (mut from, _) = between.accept().await.unwrap();
        let mut to = TcpStream::connect(address).await.unwrap();
        let (mut from_read, mut from_write) = from.split();
        let (mut to_read, mut to_write) = to.split();
        let mut heard = Vec::new();
        let listening = async {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = from_read.read(&mut bytes).await {
                heard.extend_from_slice(&bytes[..length]);
                to_write.write_all(&bytes[..length]).await.unwrap();
            }
        };
        tokio::select! {
            () = listening => {}
            _ = tokio::io::copy(&mut to_read, &mut from_write) => {}
        }
        heard
    });
    let mut coordinator = dial(listens_at, &ours.of("coordinator")).await.unwrap();
    hear(&mut coordinator).await.unwrap();
    assert!(obeys(&mut coordinator, 1).await);
    drop(coordinator);
    let heard = heard.await.unwrap();
    let mut coordinator = dial(address, &ours.of("coordinator")).await.unwrap();
    hear(&mut coordinator).await.unwrap();
    let mut stranger = TcpStream::connect(address).await.unwrap();
    let _ = stranger.write_all(&heard).await;
    // A new key of the agent's for each connection: it says no more than that it is TLS.
    let mut told = Vec::new();
    let ended = timeout(Duration::from_secs(10), stranger.read_to_end(&mut told));
    assert!(ended.await.is_ok(), "it is turned away");
    assert!(obeys(&mut coordinator, 2).await, "the coordinator's link stands");
}

/// One limit for all that is said before somebody is known: TLS at a byte a second, TLS in time and
/// the hello never.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_with_either_half_of_its_hello_is_turned_away_in_time() {
    let ours = Fleet::new();
    let own = ours.of("coordinator");
    let address = agent(ours.of("agent/h1")).await;
    let mut coordinator = dial(address, &own).await.unwrap();
    hear(&mut coordinator).await.unwrap();
    let begun = tokio::time::Instant::now();
    let slow = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The head of a record of 512 bytes, and what may be in it.
        for byte in [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3].into_iter().chain([7; 20]) {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let silent = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = connect(stream, &own, "agent/h1".parse().unwrap()).await.unwrap();
        // The length of a hello, and half of it.
        stream.write_all(&[0, 0, 0, 90, b'{']).await.unwrap();
        stream.flush().await.unwrap();
        assert!(stream.read_u8().await.is_err(), "it is told nothing");
    };
    tokio::join!(slow, silent);
    let limit = transhume_trust::limits::HANDSHAKE_MAX;
    assert!(begun.elapsed() < 3 * limit, "{:?}", begun.elapsed());
    assert!(obeys(&mut coordinator, 1).await, "the coordinator's link stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_ends_the_link_that_stands() {
    let ours = Fleet::new();
    let address = agent(ours.of("agent/h1")).await;
    let mut coordinator = dial(address, &ours.of("coordinator")).await.unwrap();
    hear(&mut coordinator).await.unwrap();
    tokio::time::sleep(3 * transhume_trust::limits::LOOK_AGAIN / 2).await;
    assert!(obeys(&mut coordinator, 1).await, "nobody is revoked");
    ours.authority.revoke("coordinator").unwrap();
    let ended = timeout(5 * transhume_trust::limits::LOOK_AGAIN, hear(&mut coordinator)).await;
    assert!(matches!(ended, Ok(Err(_))), "{ended:?}");
    assert!(!obeys(&mut coordinator, 2).await);
    let mut newer = dial(address, &ours.of("coordinator")).await.unwrap();
    hear(&mut newer).await.unwrap();
    assert!(obeys(&mut newer, 3).await, "another certificate is another's");
}
