//! Page streams between agents are encrypted, and both ends must be of the same fleet.
#![allow(missing_docs)]

mod fleet;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet::{expired, security, spec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use transhume_agent::pace::Pace;
use transhume_agent::page_stream::{PageShare, PageStreamError, Pages, Secured, start_source, start_target};
use transhume_model::{Bytes, Endpoint, Epoch, Secret};
use transhume_pages::Classes;
use transhume_trust::Security;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("transhume-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pages(host: &str, security: Security) -> Pages {
    Pages {
        share: PageShare::new(Bytes(0)),
        classes: Classes::default(),
        host: host.parse().unwrap(),
        secured: Secured::by(security),
    }
}

/// A QEMU that is never written to.
fn nobody() -> std::os::unix::net::UnixStream {
    std::os::unix::net::UnixStream::pair().unwrap().0
}

/// Whether a source of this security gets through to a target of that, at this end of it.
async fn reaches(
    dir: &Path,
    source: Security,
    target: Security,
    changed: impl FnOnce(Endpoint) -> Endpoint,
) -> bool {
    let (source, target) = (pages("h1", source), pages("h2", target));
    let listening = start_target(HERE, &spec(), Epoch(1), nobody(), &target)
        .await
        .unwrap();
    let pace = Arc::new(Pace::default());
    let (spec, at) = (spec(), changed(listening.at));
    let started = start_source(dir, &spec, Epoch(1), &at, pace, &source);
    match tokio::time::timeout(std::time::Duration::from_secs(10), started).await {
        Ok(Ok(_)) => true,
        Ok(Err(PageStreamError::Connect { .. })) | Err(_) => false,
        Ok(Err(other)) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_agent_that_is_meant_reaches_the_one_that_is_meant() {
    let dir = TempDir::new("tls");
    let of = |fleet: &str, part: &str| security(&dir.0, fleet, part);
    let (h1, h2) = (|| of("ours", "agent/h1"), || of("ours", "agent/h2"));
    let as_is = |end| end;
    assert!(reaches(&dir.0, h1(), h2(), as_is).await);
    for (fleet, part) in [
        ("theirs", "agent/h1"),
        ("ours", "coordinator"),
        ("ours", "user/alice"),
    ] {
        assert!(
            !reaches(&dir.0, of(fleet, part), h2(), as_is).await,
            "{fleet} {part}"
        );
    }
    assert!(
        !reaches(&dir.0, Security::Insecure, h2(), as_is).await,
        "nothing in the clear"
    );
    assert!(
        !reaches(&dir.0, h1(), Security::Insecure, as_is).await,
        "nor the other way"
    );
    let h3 = of("ours", "agent/h3");
    assert!(
        !reaches(&dir.0, h1(), h3, as_is).await,
        "another host than the order names"
    );
    let late = |part: &str| expired(&dir.0, "ours", part);
    assert!(
        !reaches(&dir.0, late("agent/h1"), h2(), as_is).await,
        "a source whose time is over"
    );
    assert!(
        !reaches(&dir.0, h1(), late("agent/h2"), as_is).await,
        "a target whose time is over"
    );
    let guessed = |end| Endpoint {
        secret: Secret::new([0; Secret::BYTES]),
        ..end
    };
    assert!(
        !reaches(&dir.0, h1(), h2(), guessed).await,
        "an agent of the fleet whom no order sent"
    );
}

/// A hello of one byte a second, from as many as like, keeps the source out no moment.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_the_door_keep_nobody_out() {
    let dir = TempDir::new("strangers");
    let of = |part: &str| security(&dir.0, "ours", part);
    let target = pages("h2", of("agent/h2"));
    let listening = start_target(HERE, &spec(), Epoch(1), nobody(), &target)
        .await
        .unwrap();
    let mut strangers = Vec::new();
    for _ in 0..40 {
        let mut stranger = TcpStream::connect(listening.at.address).await.unwrap();
        stranger.write_all(&[22]).await.unwrap();
        strangers.push(stranger);
    }
    let begun = std::time::Instant::now();
    let source = pages("h1", of("agent/h1"));
    let pace = Arc::new(Pace::default());
    start_source(&dir.0, &spec(), Epoch(1), &listening.at, pace, &source)
        .await
        .unwrap();
    assert!(begun.elapsed() < transhume_trust::limits::HANDSHAKE_MAX);
}

/// A migration stream that nobody understands, in both ways that it can travel; sealed and in the
/// clear; what QEMU says comes back, and both ends hear that it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_whole_and_its_answer_comes_back() {
    let dir = TempDir::new("whole");
    let of = |part: &str| security(&dir.0, "ours", part);
    // Begins like one of QEMU's, then is anything.
    let mut stream = b"QEVM\0\0\0\x03".to_vec();
    let mut state = 1u64;
    stream.extend(
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(9_000_001),
    );
    // RP_MSG_SHUT (QEMU, migration/migration.h).
    let shut = [0, 1, 0, 4, 0, 0, 0, 0];
    for (from, to) in [
        (Security::Insecure, Security::Insecure),
        (of("agent/h1"), of("agent/h2")),
    ] {
        let (from, to) = (pages("h1", from), pages("h2", to));
        let (qemu, mut receives) = UnixStream::pair().unwrap();
        let qemu = qemu.into_std().unwrap();
        let listening = start_target(HERE, &spec(), Epoch(1), qemu, &to).await.unwrap();
        let pace = Arc::new(Pace::default());
        let (source, ended) = start_source(&dir.0, &spec(), Epoch(1), &listening.at, pace, &from)
            .await
            .unwrap();
        let mut sends = UnixStream::connect(dir.0.join("pages-out.sock")).await.unwrap();
        let (mut got, mut back) = (Vec::new(), Vec::new());
        let sending = async {
            sends.write_all(&stream).await.unwrap();
            sends.shutdown().await.unwrap();
            sends.read_to_end(&mut back).await.unwrap();
        };
        let receiving = async {
            receives.read_to_end(&mut got).await.unwrap();
            receives.write_all(&shut).await.unwrap();
            receives.shutdown().await.unwrap();
        };
        tokio::join!(sending, receiving);
        assert!(got == stream, "{} bytes", got.len());
        assert_eq!(back, shut);
        assert_eq!(listening.whole.await.unwrap().bytes, stream.len() as u64);
        ended.await.unwrap().unwrap();
        listening.ended.await.unwrap().unwrap();
        let account = source.account();
        assert!(account.plain_bytes() > 8_000_000, "{account:?}");
    }
}
