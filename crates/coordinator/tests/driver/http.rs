//! The HTTP side by itself: bodies that are no orders, paths that are not there, limits. Each is a
//! problem with a code, as JSON.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::fake::Fate;
use crate::support::{Answer, Site, cluster, order, until};

/// As documented in docs/api.md.
const BODY_BYTES_MAX: usize = 4 << 20;
const CONNECTIONS_MAX: usize = 256;
const HEAD_MAX: Duration = Duration::from_secs(10);
const FOLLOWERS_MAX: usize = 64;
const SURVEYS_MAX: usize = 64;

const PLAN: &str = "/v1/clusters/lab/plan";

async fn lab() -> Site {
    Site::new(&[("h1", 4), ("h3", 4)])
        .await
        .with_lab(&[("vm1", "h1")])
        .await
}

#[tokio::test]
async fn a_body_that_is_no_order_is_refused_with_what_was_expected() {
    let site = lab().await;
    let cases = [
        ("{", 400, "EOF"),
        ("", 400, "EOF"),
        ("\u{0}", 400, "expected value"),
        ("[]", 422, "expected struct MoveOrder"),
        (r#"{"to":["h3"]}"#, 422, "missing field `from`"),
        (r#"{"from":"h1","to":["h3"]}"#, 422, "invalid type: string \"h1\""),
        (
            r#"{"from":["h1"],"to":["h3"],"bacth":1}"#,
            422,
            "unknown field `bacth`",
        ),
        (r#"{"from":["h1"],"to":["h3"],"batch":-1}"#, 422, "invalid value"),
        (
            r#"{"from":["h1"],"to":["h3"],"batch":1.5}"#,
            422,
            "floating point",
        ),
    ];
    for (body, status, says) in cases {
        let problem = site
            .post_text(PLAN, body.to_owned())
            .await
            .refused(status, "bad-body");
        assert!(problem.message.contains(says), "{body}: {}", problem.message);
    }
    let mut spec = cluster("other", &[("vm9", "h1")]);
    spec["vms"][0]["spec"]["colour"] = json!("green");
    let problem = site.post("/v1/clusters", &spec).await.refused(422, "bad-body");
    assert!(
        problem.message.contains("unknown field `colour`"),
        "{}",
        problem.message
    );
    let spec = cluster("../other", &[("vm9", "h1")]);
    let problem = site.post("/v1/clusters", &spec).await.refused(422, "bad-body");
    assert!(
        problem.message.contains("`../other` is not a cluster name"),
        "{}",
        problem.message
    );
    // Deeper than any order: it is left where it stops being one.
    let deep = "[".repeat(100_000);
    site.post_text(PLAN, deep).await.refused(422, "bad-body");
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused() {
    let site = lab().await;
    let padded = |bytes: usize| {
        let order = r#"{"from":["h1"],"to":["h3"]}"#;
        format!("{order}{}", " ".repeat(bytes - order.len()))
    };
    let plan: Value = site.post_text(PLAN, padded(BODY_BYTES_MAX)).await.is();
    assert_eq!(plan["moves"][0]["target"], "h3");
    let problem = site
        .post_text(PLAN, padded(BODY_BYTES_MAX + 1))
        .await
        .refused(413, "bad-body");
    assert!(problem.message.contains("limit"), "{}", problem.message);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let site = lab().await;
    let problem = site.get("/v2/clusters").await.refused(404, "no-such-path");
    assert!(
        problem.message.contains("/v2/clusters") && problem.hint.contains("openapi.json"),
        "{problem:?}"
    );
    site.delete("/v1/hosts").await.refused(405, "no-such-method");
    site.get("/v1/migrations/1/events?after=x")
        .await
        .refused(400, "bad-query");
    let long = "x".repeat(5_000);
    let problem = site
        .get(&format!("/v1/clusters/{long}"))
        .await
        .refused(404, "unknown-cluster");
    assert!(problem.message.len() < 150, "a name is not repeated without end");
}

#[tokio::test]
async fn the_document_is_served_as_it_is_published() {
    let site = Site::dark(&[]);
    let mut site = site;
    site.start().await;
    let served: Value = site.get("/v1/openapi.json").await.is();
    assert_eq!(
        served,
        serde_json::from_str::<Value>(&transhume_coordinator::openapi()).unwrap()
    );
    assert_eq!(site.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn followers_have_a_limit() {
    let site = lab().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let path = format!("/v1/migrations/{migration}/events");
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS_MAX {
        followers.push(site.open(&path).await);
    }
    let problem = site.get(&path).await.refused(429, "busy");
    assert!(problem.hint.contains("again"), "{problem:?}");
    drop(followers.pop());
    let free = async || Some(site.open(&path).await).filter(|follower| follower.status() == 200);
    until("a place is free again", free).await;
}

#[tokio::test]
async fn plans_that_wait_have_a_limit() {
    let site = lab().await;
    site.agents["h3"].meets("Inspect", Fate::Nothing);
    let order = order(&["h1"], &["h3"]);
    let plans = (0..=SURVEYS_MAX).map(|_| site.post(PLAN, &order));
    let mut codes: Vec<_> = join_all(plans).await.iter().map(Answer::code).collect();
    codes.sort();
    let mut expected = vec!["agent-unreachable".to_owned(); SURVEYS_MAX];
    expected.push("busy".to_owned());
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn connections_that_ask_nothing_do_not_keep_others_out() {
    let site = lab().await;
    let path = site.config().api_socket.unwrap();
    let mut silent = Vec::new();
    for number in 0..CONNECTIONS_MAX {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        if number % 2 == 0 {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nx-slow: ")
                .await
                .unwrap();
        }
        silent.push(stream);
    }
    assert_eq!(site.get("/healthz").await.status, 200);
    for mut stream in silent {
        // The half of a request may be answered with 408; what matters is that the connection ends.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn a_follower_may_wait_longer_than_a_request_may_take_to_come() {
    let site = lab().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let follower = site.open(&format!("/v1/migrations/{migration}/events")).await;
    sleep(HEAD_MAX + Duration::from_secs(2)).await;
    site.post(&format!("/v1/migrations/{migration}/cancel"), &Value::Null)
        .await
        .is::<Value>();
    let told = follower.text().await.unwrap();
    assert!(told.contains("\"event\":\"ended\""), "{told}");
}

/// Who asked for what, and what became of it, is in a file of its own; what only reads is not.
#[tokio::test]
async fn what_may_change_something_is_written_down() {
    let site = lab().await;
    let body = order(&["h1"], &["h9"]);
    site.post(PLAN, &body).await.refused(404, "unknown-host");
    site.get("/v1/hosts").await;
    let own = std::fs::metadata("/proc/self").unwrap();
    let text = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().expect("a line");
    assert_eq!(
        (&last["method"], &last["asked"]),
        (&json!("POST"), &body),
        "{last}"
    );
    assert_eq!(last["path"], PLAN);
    assert_eq!(
        (&last["status"], &last["answered"]["code"]),
        (&json!(404), &json!("unknown-host"))
    );
    assert_eq!(last["who"]["process"]["uid"], json!(own.uid()), "{last}");
    assert_eq!(last["who"]["process"]["pid"], json!(std::process::id()), "{last}");
    assert!(lines.iter().all(|line| line["method"] != "GET"), "{text}");
}

/// Whoever goes away before the answer is in the file as well, and what was begun goes on: a fence
/// agent is not killed half-way, and not run by two.
#[tokio::test]
async fn a_request_that_nobody_waits_for_is_written_down_and_goes_on() {
    let mut site = lab().await;
    let (begun, off) = (site.path("begun"), site.path("off"));
    let script = format!("touch {}; sleep 2; touch {}", begun.display(), off.display());
    let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    site.fence.insert("h1", command);
    site.end().await;
    site.start().await;
    site.all_connected().await;
    let mut stream = UnixStream::connect(site.path("api.sock")).await.unwrap();
    let body = r#"{"force":true}"#;
    let head = format!(
        "POST /v1/hosts/h1/fence HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    until("it is running", async || begun.exists().then_some(())).await;
    let again = site.post("/v1/hosts/h1/fence", &json!({"force": true})).await;
    again.refused(409, "fence-under-way");
    drop(stream);
    let line = until("the line is there", async || {
        let text = std::fs::read_to_string(site.path("audit.jsonl")).ok()?;
        let mut lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line["status"].is_null())
    })
    .await;
    assert_eq!(line["path"], "/v1/hosts/h1/fence", "{line}");
    assert_eq!(
        (&line["asked"], &line["answered"]),
        (&json!({"force": true}), &Value::Null)
    );
    until("the host is off", async || off.exists().then_some(())).await;
}
