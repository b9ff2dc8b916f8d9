//! Page streams between agents are encrypted, and both ends must be of the same fleet.
#![allow(missing_docs)]

mod fleet;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet::{files, spec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use transhume_agent::TlsFiles;
use transhume_agent::pace::Pace;
use transhume_agent::page_stream::{PageShare, PageStreamError, Pages, Tls, start_source, start_target};
use transhume_model::{Bytes, Epoch};
use transhume_pages::Classes;

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

fn pages(tls: Option<&TlsFiles>) -> Pages {
    Pages {
        share: PageShare::new(Bytes(0)),
        classes: Classes::default(),
        tls: tls.map(|files| Tls::read(files).unwrap()),
        mark: None,
    }
}

/// Whether a source with these files gets through to a target with those.
async fn reaches(dir: &Path, source: Option<&TlsFiles>, target: Option<&TlsFiles>) -> bool {
    let (source, target) = (pages(source), pages(target));
    let listening = start_target(HERE, &spec(), Epoch(1), dir.join("none"), &target)
        .await
        .unwrap();
    let pace = Arc::new(Pace::default());
    let spec = spec();
    let started = start_source(dir, &spec, Epoch(1), listening.address, pace, &source);
    match tokio::time::timeout(std::time::Duration::from_secs(1), started).await {
        Ok(Ok(_)) => true,
        Ok(Err(PageStreamError::Connect { .. })) | Err(_) => false,
        Ok(Err(other)) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_agents_of_one_fleet_reach_each_other() {
    let dir = TempDir::new("tls");
    let ours = files(&dir.0, "ours", "127.0.0.1");
    let theirs = files(&dir.0, "theirs", "127.0.0.1");
    assert!(reaches(&dir.0, Some(&ours), Some(&ours)).await);
    assert!(!reaches(&dir.0, Some(&theirs), Some(&ours)).await, "a stranger");
    assert!(!reaches(&dir.0, None, Some(&ours)).await, "nothing in the clear");
    assert!(!reaches(&dir.0, Some(&ours), None).await, "nor the other way");
    let elsewhere = files(&dir.0, "ours", "127.0.0.9");
    assert!(
        !reaches(&dir.0, Some(&elsewhere), Some(&elsewhere)).await,
        "the certificate names another address"
    );
}

/// A migration stream that nobody understands, in both ways that it can travel; sealed and in the
/// clear; what QEMU says comes back, and both ends hear that it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_whole_and_its_answer_comes_back() {
    let dir = TempDir::new("whole");
    let ours = files(&dir.0, "ours", "127.0.0.1");
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
    for tls in [None, Some(&ours)] {
        let (from, to) = (pages(tls), pages(tls));
        let socket = dir.0.join("qemu-in.sock");
        let _ = std::fs::remove_file(&socket);
        let qemu = UnixListener::bind(&socket).unwrap();
        let listening = start_target(HERE, &spec(), Epoch(1), socket, &to).await.unwrap();
        let pace = Arc::new(Pace::default());
        let (source, ended) = start_source(&dir.0, &spec(), Epoch(1), listening.address, pace, &from)
            .await
            .unwrap();
        let mut sends = UnixStream::connect(dir.0.join("pages-out.sock")).await.unwrap();
        let (mut receives, _) = qemu.accept().await.unwrap();
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

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = TempDir::new("pem");
    let mut files = files(&dir.0, "ours", "127.0.0.1");
    let path = dir.0.join("nothing.pem");
    std::fs::write(&path, "nothing").unwrap();
    files.authority = path;
    let error = Tls::read(&files).unwrap_err();
    assert!(error.to_string().contains("nothing.pem"), "{error}");
}
