//! Following a move while its coordinator goes away and comes back. The coordinator is scripted:
//! what a real one says after a restart is the coordinator's own tests' matter.

mod user;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{JoinHandle, spawn};

use serde_json::{Value, json};
use transhume_protocol::report::{Ending, MigrationReport};
use user::start;

/// One answer of the scripted coordinator: the request line it belongs to, and what it says.
struct Scene {
    request: &'static str,
    answer: String,
}

fn document(request: &'static str, body: &Value) -> Scene {
    let body = body.to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
    Scene {
        request,
        answer: format!("{head}content-length: {}\r\n\r\n{body}", body.len()),
    }
}

/// A stream of events, which is cut off after the last one.
fn events(request: &'static str, events: &[(u64, Value)]) -> Scene {
    let event = |(number, what): &(u64, Value)| {
        let event = json!({ "migration": 1, "number": number, "at": 1, "what": what });
        format!("id: {number}\ndata: {event}\n\n")
    };
    let body: String = events.iter().map(event).collect();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";
    Scene {
        request,
        answer: format!("{head}\r\n{body}"),
    }
}

/// Answers each scene's request, in order; a coordinator that is away in between does not listen.
fn coordinator(address: SocketAddr, scenes: Vec<Scene>) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).expect("the address was free");
    spawn(move || {
        for scene in scenes {
            let (stream, _) = listener.accept().expect("a client");
            let mut request = String::new();
            let mut reader = BufReader::new(stream);
            reader.read_line(&mut request).expect("a request");
            assert!(
                request.starts_with(scene.request),
                "{request} instead of {}",
                scene.request
            );
            let length = rest_of_head(&mut reader);
            reader
                .by_ref()
                .take(length)
                .read_to_end(&mut Vec::new())
                .expect("its body");
            let mut stream: TcpStream = reader.into_inner();
            stream.write_all(scene.answer.as_bytes()).expect("it listens");
        }
    })
}

/// Reads up to the body; its length.
fn rest_of_head(reader: &mut impl BufRead) -> u64 {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line of the head");
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.is_empty() {
            return length;
        }
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn report(outcome: Ending) -> Value {
    json!(MigrationReport {
        outcome,
        ..serde_json::from_value(json!({
            "migration": 1, "cluster": "lab", "outcome": "running", "mode": "live",
            "from": ["h1"], "to": ["h2"], "used": ["h2"], "batch": 1, "started_at": 1,
            "duration_ms": 1500.0, "vms": [], "waiting": [], "trouble": null,
            "frames": { "captured": 0, "delivered": 0, "lost": 0, "duplicated": 0, "reordered": 0,
                "late": 0, "broadcast": 0, "own_echo": 0 },
        }))
        .expect("a report")
    })
}

#[test]
fn a_move_is_followed_on_when_its_coordinator_comes_back() {
    let address = free_address();
    let begun = json!({ "event": "begun", "vms": ["vm1"], "batches": 1 });
    let committed = json!({ "event": "committed", "batch": 1 });
    let ended = json!({ "event": "ended", "ending": "committed" });
    let first_life = coordinator(
        address,
        vec![
            document("POST /v1/clusters/lab/migrations ", &json!({ "migration": 1 })),
            events(
                "GET /v1/migrations/1/events?after=0 ",
                &[(7, begun), (9, committed.clone())],
            ),
        ],
    );
    let api = format!("http://{address}");
    let mut moving = start(&["--api", &api, "migrate", "lab", "--from", "h1", "--to", "h2"]);
    first_life.join().expect("its script");
    moving.until("the coordinator does not answer; trying again for 120 s");
    let second_life = coordinator(
        address,
        vec![
            // What the journal tells may come a second time, and is not said again.
            events("GET /v1/migrations/1/events?after=9 ", &[(12, committed)]),
            events("GET /v1/migrations/1/events?after=12 ", &[(13, ended)]),
            document("GET /v1/migrations/1 ", &report(Ending::Committed)),
        ],
    );
    let done = moving.finish();
    second_life.join().expect("its script");
    done.succeeded();
    assert!(done.stderr.contains("the coordinator answers again"), "{done:?}");
    assert_eq!(done.stderr.matches("batch 1 is committed").count(), 1, "{done:?}");
    assert!(done.stdout.contains("migration 1 committed"), "{done:?}");
}

#[test]
fn a_coordinator_that_was_never_there_is_not_waited_for() {
    let address = free_address().to_string();
    let api = format!("http://{address}");
    for command in [
        vec!["follow", "1"],
        vec!["follow"],
        vec!["report"],
        vec!["migrate", "lab", "--from", "h1", "--to", "h2"],
        vec!["vm", "stop", "lab", "vm1"],
    ] {
        let done = start(&[vec!["--api", &api], command].concat()).finish();
        done.refused(
            5,
            &[
                &address,
                "transhume coordinator --config FILE",
                "transhume lab up",
            ],
        );
    }
}

#[test]
fn how_a_move_ended_is_the_exit_code() {
    for (outcome, code) in [
        (Ending::Committed, 0),
        (Ending::CommittedWithLoss, 6),
        (Ending::RolledBack, 4),
        (Ending::PartlyCommitted, 4),
        (Ending::Refused, 3),
    ] {
        let address = free_address();
        let ended = json!({ "event": "ended", "ending": outcome });
        let scripted = coordinator(
            address,
            vec![
                document("GET /v1/migrations/1 ", &report(outcome)),
                events("GET /v1/migrations/1/events?after=0 ", &[(1, ended)]),
                document("GET /v1/migrations/1 ", &report(outcome)),
            ],
        );
        let done = start(&["--api", &format!("http://{address}"), "follow", "1", "--json"]).finish();
        scripted.join().expect("its script");
        assert_eq!(done.code, Some(code), "{done:?}");
        assert_eq!(done.json()["outcome"], json!(outcome));
    }
}
