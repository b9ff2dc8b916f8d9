//! What is exposed of an agent without a QEMU, and what its address makes of clients that are no
//! Prometheus.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use transhume_agent_core::{Change, Place};
use transhume_metrics::agent::ALL;
use transhume_model::{Band, Bytes, Millis};
use transhume_netcfg::ClassCounts;
use transhume_protocol::message::{ClassPages, PageClasses, PlainBytes};

use super::*;
use crate::agent::tests::{Dir, Tested, record_of};
use crate::limits::{METRICS_CONNECTIONS_MAX, METRICS_CONVERSATION_MAX, METRICS_HEAD_BYTES_MAX};

/// What is waited for comes long before this, or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that is asked over TCP.
struct Asked {
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
    _dir: Dir,
    _tested: Tested,
}

impl Asked {
    async fn new(name: &str) -> Self {
        let dir = Dir::new(name);
        let tested = Tested::new(dir.path());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, tested.agent.clone()));
        Self {
            address,
            server,
            _dir: dir,
            _tested: tested,
        }
    }

    async fn open(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What comes back until the other side closes.
    async fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.open().await;
        // It may be closed before all is written.
        let _ = stream.write_all(request).await;
        rest(&mut stream).await
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // A reset is an end, too.
    let _ = timeout(PATIENCE, read).await.expect("it is closed in time");
    String::from_utf8(bytes).unwrap()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_is_answered_once_and_closed() {
    let asked = Asked::new("metrics-scrape").await;
    let answer = asked.ask(b"GET /metrics HTTP/1.1\r\nhost: h1\r\n\r\n").await;
    assert_eq!(status(&answer), "200", "{answer}");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{head}"
    );
    assert!(text.contains("transhume_agent_vms{role=\"home\"} 0\n"), "{text}");
    assert!(
        text.contains("transhume_agent_buffer_limit_bytes 67108864\n"),
        "{text}"
    );
    let answer = asked.ask(b"HEAD /metrics HTTP/1.1\r\nhost: h1\r\n\r\n").await;
    assert!(
        status(&answer) == "200" && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_there() {
    let asked = Asked::new("metrics-else").await;
    for (request, expected) in [
        ("GET / HTTP/1.1", "404"),
        ("GET /metrics/ HTTP/1.1", "404"),
        ("GET /../metrics HTTP/1.1", "404"),
        ("POST / HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("DELETE /metrics HTTP/1.1", "405"),
        ("GET /metrics HTTP/7.9", "400"),
        ("\u{0}\u{1}\u{2}", "400"),
    ] {
        let answer = asked
            .ask(format!("{request}\r\nhost: h1\r\n\r\n").as_bytes())
            .await;
        let found = status(&answer);
        assert!(
            found == expected || (expected == "400" && found == "none"),
            "{request}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_head_is_refused_and_a_huge_body_not_read() {
    let asked = Asked::new("metrics-huge").await;
    let header = "x".repeat(4 * METRICS_HEAD_BYTES_MAX);
    let long = format!("GET /metrics HTTP/1.1\r\nhost: h1\r\nx: {header}\r\n\r\n");
    let answer = asked.ask(long.as_bytes()).await;
    assert!(["431", "none"].contains(&status(&answer)), "{answer}");
    let many: String = (0..100).map(|nth| format!("x{nth}: y\r\n")).collect();
    let answer = asked
        .ask(format!("GET /metrics HTTP/1.1\r\n{many}\r\n").as_bytes())
        .await;
    assert!(["431", "none"].contains(&status(&answer)), "{answer}");
    let body = "GET /metrics HTTP/1.1\r\nhost: h1\r\ncontent-length: 1000000000\r\n\r\n";
    let answer = asked.ask(body.as_bytes()).await;
    assert_eq!(status(&answer), "200", "its body is not waited for");
}

/// Time is the test's own: the limit comes as soon as nothing else is to do.
#[tokio::test(start_paused = true)]
async fn silent_clients_hold_their_places_for_a_limited_time() {
    let dir = Dir::new("metrics-slow");
    let tested = Tested::new(dir.path());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, tested.agent.clone()));
    let mut silent = Vec::new();
    for nth in 0..METRICS_CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if nth % 2 == 0 {
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nx-slow: ")
                .await
                .unwrap();
        }
        silent.push(stream);
    }
    let begun = tokio::time::Instant::now();
    let mut late = TcpStream::connect(address).await.unwrap();
    late.write_all(b"GET /metrics HTTP/1.1\r\nhost: h1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    late.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(
        begun.elapsed() >= METRICS_CONVERSATION_MAX,
        "all places were taken"
    );
    for mut stream in silent {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    server.abort();
}

#[test]
fn known_figures_give_exactly_these_lines() {
    let lz4 = ClassPages {
        pages: 3,
        bytes: Bytes(700),
    };
    let figures = VmFigures {
        pages: Some(PageProgress {
            remaining: Bytes(4_096),
            wire: Bytes(900),
            rounds: 2,
            blackout: Millis(25),
            classes: PageClasses {
                lz4,
                ..PageClasses::default()
            },
            plain: PlainBytes {
                fast_link: Bytes(300),
                ..PlainBytes::default()
            },
            ..PageProgress::default()
        }),
        rate: None,
        source: Some(Figures {
            kept_bytes: 500,
            waiting_bytes: 100,
            waiting_peak_bytes: 300,
            frames: 7,
            dropped: 0,
            late_dropped: 0,
        }),
        target: None,
    };
    let mut samples = Samples::default();
    show_figures(&mut samples, "vm1", &figures);
    show_band(
        &mut samples,
        &BandCounts {
            interface: "eth0".to_owned(),
            band: Band::Vmct,
            class: ClassCounts {
                minor: 0x20,
                bytes: 1_000,
                packets: 10,
                dropped: 1,
                overlimits: 4,
                waiting_bytes: 60,
            },
        },
    );
    let text = samples.text();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && (!line.contains("class=") || line.contains("lz4")))
        .collect();
    let expected = r#"
transhume_agent_band_backlog_bytes{interface="eth0",band="vmct"} 60
transhume_agent_band_bytes_total{interface="eth0",band="vmct"} 1000
transhume_agent_band_drops_total{interface="eth0",band="vmct"} 1
transhume_agent_band_overlimits_total{interface="eth0",band="vmct"} 4
transhume_agent_band_packets_total{interface="eth0",band="vmct"} 10
transhume_agent_vm_buffer_bytes{vm="vm1",side="source"} 500
transhume_agent_vm_buffer_waiting_bytes{vm="vm1",side="source"} 100
transhume_agent_vm_buffer_waiting_peak_bytes{vm="vm1",side="source"} 300
transhume_agent_vm_dirty_bytes_per_second{vm="vm1"} 0
transhume_agent_vm_frames_captured_total{vm="vm1"} 7
transhume_agent_vm_frames_dropped_total{vm="vm1",side="source"} 0
transhume_agent_vm_memory_bytes{vm="vm1"} 0
transhume_agent_vm_page_bytes_total{vm="vm1",class="lz4"} 700
transhume_agent_vm_pages_total{vm="vm1",class="lz4"} 3
transhume_agent_vm_passes_total{vm="vm1"} 2
transhume_agent_vm_plain_bytes_total{vm="vm1",cause="fast-link"} 300
transhume_agent_vm_plain_bytes_total{vm="vm1",cause="not-understood"} 0
transhume_agent_vm_predicted_blackout_seconds{vm="vm1"} 0.025
transhume_agent_vm_remaining_bytes{vm="vm1"} 4096
transhume_agent_vm_wire_bytes_total{vm="vm1"} 900
"#;
    assert_eq!(lines, expected.trim().lines().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_knows_from_the_start_is_there_and_records_are_counted() {
    let dir = Dir::new("metrics-records");
    let tested = Tested::new(dir.path());
    let text = scrape(&tested.agent).text();
    let told = |name: &&str| text.contains(&format!("# TYPE {name} "));
    let missing: Vec<&str> = ALL
        .iter()
        .map(|about| about.name)
        .filter(|name| !told(name))
        .collect();
    // Neither a move nor bands are here.
    let expected = |name: &&str| name.contains("_vm_") || name.contains("_band");
    assert!(missing.iter().all(expected), "{missing:?}");

    let vm = "vm1".parse().unwrap();
    let store = &tested.agent.context().store;
    let remove = Change::Remove;
    store.apply(&vm, &remove).unwrap();
    std::fs::remove_dir_all(store.vms_dir()).unwrap();
    std::fs::write(store.vms_dir(), "in the way").unwrap();
    let write = Change::Write(record_of("vm1", Place::Booting { off: None }).into());
    assert!(store.apply(&vm, &write).is_err());
    let text = scrape(&tested.agent).text();
    for line in [
        "transhume_agent_record_writes_total 1",
        "transhume_agent_record_write_failures_total 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named_with_what_would_help() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    let elsewhere = "192.0.2.1:7402".parse().unwrap();
    for address in [taken.1, elsewhere] {
        let error = crate::listen_for_metrics(address).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("metrics on {address}")), "{text}");
        assert!(error.hint().unwrap().contains("`metrics`"));
    }
}
