//! A client of etcd through its gateway from JSON over HTTP to its own interface.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use transhume_guest::app::ClusterStats;
use transhume_guest::settings::Settings;

use super::connection::{Connection, Server};
use super::written::Written;
use super::{Trouble, member};

const PORT: u16 = 2379;
const HEADERS_MAX: usize = 64;

/// Writes through one member, reads through another.
pub struct Client {
    key: String,
    writes_to: Server,
    reads_from: Server,
    written: Written,
    reads: bool,
    terms: Terms,
}

/// The terms that answers named.
#[derive(Default)]
struct Terms {
    first: Option<u64>,
    last: u64,
}

impl Terms {
    fn saw(&mut self, term: u64) {
        self.first.get_or_insert(term);
        self.last = self.last.max(term);
    }

    fn begun(&self) -> u64 {
        self.first.map_or(0, |first| self.last.saturating_sub(first))
    }
}

#[derive(Deserialize)]
struct Answer {
    header: Header,
    #[serde(default)]
    kvs: Vec<Pair>,
}

/// Numbers of 64 bits are strings there, and left out where they are 0.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    raft_term: String,
}

#[derive(Deserialize)]
struct Pair {
    #[serde(default)]
    value: String,
}

impl Client {
    pub fn new(settings: &Settings) -> Self {
        let server = |places| Server::new(member(settings, places, PORT), |_| Ok(()));
        Client {
            key: STANDARD.encode(format!("check-{}", settings.index)),
            writes_to: server(1),
            reads_from: server(2),
            written: Written::default(),
            reads: false,
            terms: Terms::default(),
        }
    }
}

impl super::Client for Client {
    fn operate(&mut self, deadline: Instant) -> Result<(), Trouble> {
        let reads = self.reads;
        self.reads = !reads;
        if reads {
            let question = json!({ "key": self.key });
            let answer: Answer = self
                .reads_from
                .ask(deadline, |member| post(member, "/v3/kv/range", &question))?;
            self.terms.saw(answer.header.raft_term.parse().unwrap_or(0));
            let value = answer.kvs.first().map(|pair| number(&pair.value)).transpose()?;
            return self.written.read(value);
        }
        let (key, member, terms) = (&self.key, &mut self.writes_to, &mut self.terms);
        self.written.write(|number| {
            let question = json!({ "key": key, "value": STANDARD.encode(number.to_string()) });
            let answer: Answer = member.ask(deadline, |member| post(member, "/v3/kv/put", &question))?;
            terms.saw(answer.header.raft_term.parse().unwrap_or(0));
            Ok(())
        })
    }

    fn cluster(&self) -> ClusterStats {
        ClusterStats {
            elections: self.terms.begun(),
            ..ClusterStats::default()
        }
    }
}

fn number(value: &str) -> Result<u64, Trouble> {
    let decoded = STANDARD.decode(value).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Trouble::Wrong(format!("the value `{value}` is no number")))
}

/// One question and its answer (RFC 9112).
fn post<T: DeserializeOwned>(member: &mut Connection, path: &str, question: &Value) -> Result<T, Trouble> {
    let body = question.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    member.write(request.as_bytes())?;
    let status = member.line()?;
    let mut length = 0;
    let mut chunked = false;
    let mut ended = false;
    for _ in 0..HEADERS_MAX {
        let line = member.line()?.to_ascii_lowercase();
        if line.is_empty() {
            ended = true;
            break;
        }
        match line.split_once(':').map(|(name, value)| (name, value.trim())) {
            Some(("content-length", value)) => length = value.parse().unwrap_or(usize::MAX),
            Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
            _ => {}
        }
    }
    if !ended {
        return Err(Trouble::Failed(format!("more than {HEADERS_MAX} headers")));
    }
    let answer = if chunked {
        chunks(member)?
    } else {
        member.bytes(length)?
    };
    if status.split(' ').nth(1) != Some("200") {
        return Err(Trouble::Failed(format!(
            "{status}: {}",
            String::from_utf8_lossy(&answer)
        )));
    }
    serde_json::from_slice(&answer).map_err(|error| Trouble::Failed(error.to_string()))
}

fn chunks(member: &mut Connection) -> Result<Vec<u8>, Trouble> {
    let mut answer = Vec::new();
    loop {
        let size = member.line()?;
        let size = usize::from_str_radix(&size, 16)
            .map_err(|_| Trouble::Failed(format!("`{size}` is no size of a chunk")))?;
        answer.extend(member.bytes(size)?);
        member.line()?;
        if size == 0 {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::tests::{serving, soon};
    use super::*;

    fn answered(answer: &str) -> Result<Answer, Trouble> {
        let mut server = Server::new(serving(vec![answer.as_bytes().to_vec()]), |_| Ok(()));
        server.ask(soon(), |member| post(member, "/v3/kv/range", &json!({})))
    }

    #[test]
    fn answers_are_read_whole_and_in_chunks() {
        let body = r#"{"header":{"raft_term":"7"},"kvs":[{"value":"NDI="}]}"#;
        let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (first, second) = body.split_at(10);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            second.len()
        );
        for answer in [whole, chunked] {
            let answer = answered(&answer).unwrap();
            assert_eq!(answer.header.raft_term, "7");
            assert_eq!(number(&answer.kvs[0].value), Ok(42));
        }
        assert!(number("eA==").is_err());
    }

    #[test]
    fn a_refusal_says_what_etcd_said() {
        let refused = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\nno leader";
        let Err(Trouble::Failed(text)) = answered(refused) else {
            panic!("503 is no answer")
        };
        assert!(text.contains("503") && text.contains("no leader"), "{text}");
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(HEADERS_MAX));
        assert!(answered(&endless).is_err());
    }

    #[test]
    fn terms_that_began_are_elections() {
        let mut terms = Terms::default();
        assert_eq!(terms.begun(), 0);
        for (term, begun) in [(3, 0), (5, 2), (4, 2), (6, 3)] {
            terms.saw(term);
            assert_eq!(terms.begun(), begun, "a member that lags says an older term");
        }
    }
}
