use std::path::Path;
use std::time::Duration;

use transhume_model::{Endpoint, Epoch, NicIndex, Secret};
use transhume_trust::testing::issue_expired;
use transhume_trust::{Authority, Identity, IssuedFiles, Trust, TrustFiles};

use super::*;
use crate::config::NicIdentity;
use crate::frame::Signature;
use crate::tunnel::{Answer, Connected, connect};

fn nic(vm: &str) -> NicIdentity {
    NicIdentity {
        vm: vm.parse().unwrap(),
        nic: NicIndex(0),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        epoch: Epoch(4),
    }
}

fn secret(number: u8) -> Secret {
    Secret::new([number; Secret::BYTES])
}

/// The buffer of VM vm1 on host h2, as far as it greets.
struct House {
    door: Door,
    wake: Arc<OwnedFd>,
    end: Endpoint,
}

impl House {
    fn new(security: Security) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let end = Endpoint {
            host: "h2".parse().unwrap(),
            address: listener.local_addr().unwrap(),
            secret: secret(7),
        };
        let config = TargetConfig {
            identity: nic("vm1"),
            mtu: 1500,
            spool: "none".into(),
            buffer_bytes_max: 0,
            plug_bytes_max: 0,
            traced: false,
            listen: end.address.ip(),
            port: end.address.port(),
            host: end.host.clone(),
            secret: end.secret.clone(),
            security,
        };
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let door = Door::open(listener, &config, wake.clone()).unwrap();
        Self { door, wake, end }
    }

    /// Connects as `of`; who is greeted is answered as the worker does.
    fn connect(&self, to: &Endpoint, of: &str, security: &Security) -> io::Result<Connected> {
        let (to, of, security) = (to.clone(), nic(of), security.clone());
        let until = Instant::now() + HANDSHAKE_MAX;
        let caller = std::thread::spawn(move || connect(&to, &of, 12, &security, until));
        let mut greeted = None;
        while !caller.is_finished() {
            let mut waited = [PollFd::new(&self.wake, PollFlags::IN)];
            let short = Timespec::try_from(Duration::from_millis(10)).unwrap();
            let _ = rustix::event::poll(&mut waited, Some(&short));
            if let Some(mut known) = self.door.newest() {
                assert_eq!(known.vnet_header_bytes, 12);
                for answer in [Answer::Welcome(42), Answer::Signed(Signature(9))] {
                    known.channel.say(&answer.bytes()).unwrap();
                }
                greeted = Some(known);
            }
        }
        let connected = caller.join().unwrap();
        assert_eq!(connected.is_ok(), greeted.is_some());
        connected
    }
}

#[test]
fn only_the_same_nic_that_knows_the_secret_is_welcome() {
    let (house, clear) = (House::new(Security::Insecure), Security::Insecure);
    let connected = house.connect(&house.end, "vm1", &clear).unwrap();
    assert_eq!((connected.have, connected.signature), (42, Signature(9)));
    assert!(house.connect(&house.end, "vm2", &clear).is_err());
    let guessed = Endpoint {
        secret: secret(8),
        ..house.end.clone()
    };
    assert!(house.connect(&guessed, "vm1", &clear).is_err());
}

#[test]
fn strangers_who_say_nothing_keep_nobody_out() {
    let house = House::new(Security::Insecure);
    let silent: Vec<_> = (0..2 * STRANGERS_MAX)
        .map(|_| TcpStream::connect(house.end.address).unwrap())
        .collect();
    assert!(house.connect(&house.end, "vm1", &Security::Insecure).is_ok());
    drop(silent);
}

fn security(authority: &Authority, of: &str, out: &Path) -> Security {
    let identity: Identity = of.parse().unwrap();
    of_issued(authority, authority.issue(&identity, 30, out).unwrap())
}

fn of_issued(authority: &Authority, issued: IssuedFiles) -> Security {
    let files = TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: None,
    };
    Security::Mutual(Trust::read(files).unwrap())
}

#[test]
fn both_ends_must_be_agents_of_the_fleet_and_the_target_the_one_that_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::create(&dir.path().join("ours"), "ours").unwrap();
    let theirs = Authority::create(&dir.path().join("theirs"), "theirs").unwrap();
    let of = |authority: &Authority, who: &str| security(authority, who, dir.path());
    let house = House::new(of(&ours, "agent/h2"));
    let mut connected = house.connect(&house.end, "vm1", &of(&ours, "agent/h1")).unwrap();
    assert_eq!(connected.channel.write(b"record").unwrap(), 6);
    for (whose, who) in [
        (&theirs, "agent/h1"),
        (&ours, "coordinator"),
        (&ours, "user/alice"),
    ] {
        assert!(
            house.connect(&house.end, "vm1", &of(whose, who)).is_err(),
            "{who}"
        );
    }
    assert!(
        house.connect(&house.end, "vm1", &Security::Insecure).is_err(),
        "in the clear"
    );
    let issued = issue_expired(&ours, &"agent/h1".parse().unwrap(), dir.path()).unwrap();
    let late = of_issued(&ours, issued);
    assert!(house.connect(&house.end, "vm1", &late).is_err(), "expired");
    let other = Endpoint {
        host: "h3".parse().unwrap(),
        ..house.end.clone()
    };
    let error = house.connect(&other, "vm1", &of(&ours, "agent/h1")).unwrap_err();
    assert!(error.to_string().contains("agent/h2"), "{error}");
}
