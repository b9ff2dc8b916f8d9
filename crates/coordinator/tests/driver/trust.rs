//! Who may ask for what over TCP, and whom the coordinator believes to be an agent.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use transhume_api::{Client, ClientError, Decision, MoveOrder};
use transhume_coordinator::{Config, Error, Role, RoleSpec};
use transhume_model::{HostName, HostSpec};
use transhume_trust::stream::accept;
use transhume_trust::testing::issue_expired;
use transhume_trust::{Admits, Authority, Identity, IssuedFiles, Security, Trust, TrustFiles};

use crate::support::{Site, until};

/// A fleet with a coordinator on TCP, whose one host is what a test puts there.
struct Fleet {
    dir: tempfile::TempDir,
    authority: Authority,
    api: SocketAddr,
    agent: SocketAddr,
    coordinator: Option<JoinHandle<Result<(), Error>>>,
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn files(authority: &Authority, part: &str, out: &Path) -> TrustFiles {
    let issued = authority.issue(&part.parse().unwrap(), 30, out).unwrap();
    of_issued(authority, issued)
}

fn of_issued(authority: &Authority, issued: IssuedFiles) -> TrustFiles {
    TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: Some(authority.revoked()),
    }
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), "test").unwrap();
        Self {
            authority,
            api: free_address(),
            agent: free_address(),
            coordinator: None,
            dir,
        }
    }

    fn trust(&self, part: &str) -> Arc<Trust> {
        Trust::read(files(&self.authority, part, self.dir.path())).unwrap()
    }

    /// A certificate that was good an hour ago.
    fn expired(&self, part: &str) -> Arc<Trust> {
        let issued = issue_expired(&self.authority, &part.parse().unwrap(), self.dir.path());
        Trust::read(of_issued(&self.authority, issued.unwrap())).unwrap()
    }

    fn config(&self) -> Config {
        let host = HostSpec {
            name: "h1".parse().unwrap(),
            control: self.agent,
            vmct_mbit_s: None,
            labels: Default::default(),
            fence: Vec::new(),
        };
        let role = |role, user: &str, clusters: &[&str]| RoleSpec {
            role,
            users: vec![user.parse().unwrap()],
            uids: Vec::new(),
            clusters: clusters.iter().map(|name| name.parse().unwrap()).collect(),
        };
        Config {
            api: Some(self.api),
            api_socket: Some(self.dir.path().join("api.sock")),
            trust: Some(files(&self.authority, "coordinator", self.dir.path())),
            insecure: false,
            roles: vec![
                role(Role::Viewer, "bob", &[]),
                role(Role::Mover, "alice", &["web"]),
                role(Role::Admin, "carol", &[]),
            ],
            journal: self.dir.path().join("journal.redb"),
            etcd: None,
            hosts: vec![host],
            ..Site::dark(&[]).config()
        }
    }

    async fn start(&mut self) {
        self.coordinator = Some(tokio::spawn(transhume_coordinator::run(self.config())));
        let carol = self.client("user/carol");
        until("the API answers", async || carol.hosts().await.ok()).await;
    }

    fn client(&self, part: &str) -> Client {
        let address = format!("https://{}", self.api);
        Client::new(&address, Some(self.trust(part))).unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.abort();
        }
    }
}

fn code(error: ClientError) -> String {
    match error {
        ClientError::Problem(problem) => {
            assert!(
                problem.code != "role-needed" || problem.message.contains("needs the role"),
                "{problem:?}"
            );
            problem.code
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_asks_over_tcp_may_do_what_its_role_says_and_nothing_else() {
    let mut fleet = Fleet::new();
    fleet.start().await;
    let (web, db) = ("web".parse().unwrap(), "db".parse().unwrap());
    let host: HostName = "h1".parse().unwrap();
    let order = MoveOrder {
        from: vec![host.to_string()],
        ..MoveOrder::default()
    };
    // Who may goes on to hear that there is no such cluster.
    for (part, plan_web, plan_db, cordon) in [
        ("user/bob", "role-needed", "role-needed", "role-needed"),
        ("user/alice", "unknown-cluster", "role-needed", "role-needed"),
        ("user/carol", "unknown-cluster", "unknown-cluster", "done"),
        ("coordinator", "unknown-cluster", "unknown-cluster", "done"),
    ] {
        let client = fleet.client(part);
        client.hosts().await.unwrap();
        assert_eq!(
            code(client.plan(&web, &order).await.unwrap_err()),
            plan_web,
            "{part}"
        );
        assert_eq!(
            code(client.plan(&db, &order).await.unwrap_err()),
            plan_db,
            "{part}"
        );
        let cordoned = client
            .decide_host(&host, "cordon", Decision { dry_run: true })
            .await;
        let cordoned = cordoned.map_or_else(code, |_| "done".to_owned());
        assert_eq!(cordoned, cordon, "{part}");
    }
    for part in ["user/mallory", "agent/h1"] {
        let refused = fleet.client(part).hosts().await.unwrap_err();
        assert_eq!(code(refused), "role-needed", "{part}");
    }
    let audit = std::fs::read_to_string(fleet.dir.path().join("audit.jsonl")).unwrap();
    assert!(
        audit.contains(r#""identity":"transhume://user/alice""#) && audit.contains(r#""status":403"#),
        "{audit}"
    );
}

#[tokio::test]
async fn who_is_not_of_the_fleet_is_not_heard_over_tcp() {
    let (mut ours, theirs) = (Fleet::new(), Fleet::new());
    ours.start().await;
    let address = format!("https://{}", ours.api);
    let foreign = Client::new(&address, Some(theirs.trust("user/carol"))).unwrap();
    assert!(foreign.hosts().await.unwrap_err().is_away());
    let late = Client::new(&address, Some(ours.expired("user/carol"))).unwrap();
    assert!(late.hosts().await.unwrap_err().is_away());
    let plain = Client::new(&format!("http://{}", ours.api), None).unwrap();
    assert!(plain.hosts().await.is_err());
    assert!(matches!(
        Client::new(&address, None),
        Err(ClientError::NoCertificate { .. })
    ));
    // As many as like, each with a hello that never ends.
    let mut slow = Vec::new();
    for _ in 0..300 {
        slow.push(TcpStream::connect(ours.api).await.unwrap());
    }
    ours.client("user/bob").hosts().await.unwrap();
}

/// What the coordinator says of its host while that answers there.
async fn away(fleet: &Fleet, security: Security, says: &str) {
    let listener = TcpListener::bind(fleet.agent).await.unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Held until the other side has had enough.
            let admits = Admits::Exactly(Identity::Coordinator);
            if let Ok((mut stream, _)) = accept(stream, &security, admits).await {
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 64]).await;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"what do you want?").await;
            }
        }
    });
    let client = fleet.client("user/bob");
    let told = async || {
        let hosts = client.hosts().await.ok()?.hosts;
        hosts[0].away.clone().filter(|why| why.contains(says))
    };
    until("it is seen for what it is", told).await;
    serving.abort();
    let _ = serving.await;
}

#[tokio::test]
async fn an_agent_is_believed_only_with_the_certificate_of_the_host_that_was_dialled() {
    let (mut ours, theirs) = (Fleet::new(), Fleet::new());
    ours.start().await;
    let other = Security::Mutual(ours.trust("agent/h2"));
    away(
        &ours,
        other,
        "it is transhume://agent/h2, and transhume://agent/h1 is wanted",
    )
    .await;
    let foreign = Security::Mutual(theirs.trust("agent/h1"));
    away(&ours, foreign, "another authority").await;
    let late = Security::Mutual(ours.expired("agent/h1"));
    away(&ours, late, "renew it").await;
    away(&ours, Security::Insecure, "does not speak TLS").await;
}

#[tokio::test]
async fn without_certificates_nothing_starts_unless_that_is_wanted() {
    let fleet = Fleet::new();
    for (config, says) in [
        (
            Config {
                trust: None,
                ..fleet.config()
            },
            "no [trust]",
        ),
        (
            Config {
                insecure: true,
                ..fleet.config()
            },
            "`insecure = true`",
        ),
        (
            Config {
                trust: Some(files(&fleet.authority, "agent/h1", fleet.dir.path())),
                ..fleet.config()
            },
            "transhume://agent/h1's, this is transhume://coordinator",
        ),
    ] {
        let error = transhume_coordinator::run(config).await.unwrap_err();
        let Error::Security(why) = &error else {
            panic!("{error:?}")
        };
        assert!(why.to_string().contains(says), "{why}");
        assert!(error.hint().is_some());
    }
}
