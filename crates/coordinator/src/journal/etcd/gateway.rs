//! What etcd is asked and answers, as its JSON gateway writes it. Pure.
//!
//! The gateway is part of every etcd since 3.0 (`/v3/` since 3.4) and on unless it is switched off.
//! gRPC brings a protobuf compiler into the build and TLS 1.2 into every link's rustls; for five
//! calls that is too much.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// A record and what etcd knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Kv {
    #[serde(deserialize_with = "text_of")]
    pub(super) key: String,
    #[serde(default, deserialize_with = "bytes_of")]
    pub(super) value: Vec<u8>,
    /// The write that made the key.
    #[serde(default, deserialize_with = "number_of")]
    pub(super) create_revision: i64,
    /// The last one that wrote it.
    #[serde(default, deserialize_with = "number_of")]
    pub(super) mod_revision: i64,
    /// With which it goes; 0 for none.
    #[serde(default, deserialize_with = "number_of")]
    pub(super) lease: i64,
}

/// What must be so for a transaction to be done.
#[derive(Debug, Clone)]
pub(super) enum Compare {
    /// The key was made by this write; 0: it is not there.
    Created(String, i64),
    /// It was last written by this one; 0: it is not there.
    Modified(String, i64),
    /// It has this value.
    Holds(String, Vec<u8>),
}

/// A part of a transaction.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Put(String, Vec<u8>),
    /// It goes with this lease.
    PutWith(String, Vec<u8>, i64),
    Remove(String),
    /// All keys that begin so.
    RemoveBelow(String),
    /// All keys from the first up to the second, without that.
    RemoveRange(String, String),
    Get(String),
}

/// All of one list, depending on the comparisons.
#[derive(Debug, Clone, Default)]
pub(super) struct Txn {
    pub(super) when: Vec<Compare>,
    pub(super) then: Vec<Op>,
    pub(super) otherwise: Vec<Op>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) succeeded: bool,
    /// The number of the write.
    pub(super) revision: i64,
    /// What its `Get`s found, in their order.
    pub(super) got: Vec<Option<Kv>>,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The first key behind all that begin so. A prefix here ends with a slash.
fn behind(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl Compare {
    fn json(&self) -> Value {
        match self {
            Compare::Created(key, revision) => {
                json!({ "key": encoded(key), "target": "CREATE", "create_revision": revision.to_string() })
            }
            Compare::Modified(key, revision) => {
                json!({ "key": encoded(key), "target": "MOD", "mod_revision": revision.to_string() })
            }
            Compare::Holds(key, value) => {
                json!({ "key": encoded(key), "target": "VALUE", "value": encoded(value) })
            }
        }
    }
}

impl Op {
    fn json(&self) -> Value {
        match self {
            Op::Put(key, value) => {
                json!({ "request_put": { "key": encoded(key), "value": encoded(value) } })
            }
            Op::PutWith(key, value, lease) => json!({ "request_put": {
                "key": encoded(key), "value": encoded(value), "lease": lease.to_string()
            } }),
            Op::Remove(key) => json!({ "request_delete_range": { "key": encoded(key) } }),
            Op::RemoveBelow(prefix) => json!({ "request_delete_range": {
                "key": encoded(prefix), "range_end": encoded(behind(prefix))
            } }),
            Op::RemoveRange(from, to) => json!({ "request_delete_range": {
                "key": encoded(from), "range_end": encoded(to)
            } }),
            Op::Get(key) => json!({ "request_range": { "key": encoded(key) } }),
        }
    }
}

impl Txn {
    /// The body of `/v3/kv/txn`.
    pub(super) fn body(&self) -> Vec<u8> {
        let compare: Vec<Value> = self.when.iter().map(Compare::json).collect();
        let of = |list: &[Op]| list.iter().map(Op::json).collect::<Vec<Value>>();
        let whole = json!({
            "compare": compare, "success": of(&self.then), "failure": of(&self.otherwise)
        });
        whole.to_string().into_bytes()
    }
}

/// The body of `/v3/kv/range`: what is below a prefix, from a key on.
pub(super) fn range(from: &[u8], prefix: &str, limit: usize, keys_only: bool) -> Vec<u8> {
    let whole = json!({
        "key": encoded(from), "range_end": encoded(behind(prefix)), "limit": limit.to_string(),
        "keys_only": keys_only
    });
    whole.to_string().into_bytes()
}

/// The body of `/v3/lease/grant`.
pub(super) fn grant(seconds: u32) -> Vec<u8> {
    json!({ "TTL": seconds.to_string() }).to_string().into_bytes()
}

/// The body of `/v3/lease/keepalive` and `/v3/lease/revoke`.
pub(super) fn lease(id: i64) -> Vec<u8> {
    json!({ "ID": id.to_string() }).to_string().into_bytes()
}

#[derive(Deserialize, Default)]
struct Header {
    #[serde(default, deserialize_with = "number_of")]
    revision: i64,
}

/// What `/v3/kv/range` found.
#[derive(Deserialize)]
pub(super) struct Found {
    #[serde(default)]
    pub(super) kvs: Vec<Kv>,
}

/// What `/v3/lease/grant` and, in a wrapper, `/v3/lease/keepalive` answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Granted {
    #[serde(rename = "ID", deserialize_with = "number_of")]
    pub(super) id: i64,
    /// Seconds; 0 where there is no such lease any more.
    #[serde(rename = "TTL", default, deserialize_with = "number_of")]
    pub(super) ttl: i64,
}

/// A part of a stream.
#[derive(Deserialize)]
pub(super) struct Streamed {
    pub(super) result: Option<Granted>,
    pub(super) error: Option<Trouble>,
}

/// Any failure, with gRPC's code.
#[derive(Debug, Deserialize)]
pub(super) struct Trouble {
    #[serde(default, alias = "grpc_code")]
    pub(super) code: i64,
    #[serde(default)]
    pub(super) message: String,
}

impl Done {
    /// The answer of `/v3/kv/txn`.
    pub(super) fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            header: Header,
            #[serde(default)]
            succeeded: bool,
            #[serde(default)]
            responses: Vec<Response>,
        }
        #[derive(Deserialize)]
        struct Response {
            response_range: Option<Found>,
        }
        let answer: Answer = serde_json::from_slice(body)?;
        let ranges = answer
            .responses
            .into_iter()
            .filter_map(|response| response.response_range);
        Ok(Self {
            succeeded: answer.succeeded,
            revision: answer.header.revision,
            got: ranges.map(|found| found.kvs.into_iter().next()).collect(),
        })
    }
}

impl Trouble {
    /// Whether another member would say the same.
    pub(super) fn is_final(&self) -> bool {
        const INVALID_ARGUMENT: i64 = 3;
        const NOT_FOUND: i64 = 5;
        const PERMISSION_DENIED: i64 = 7;
        const RESOURCE_EXHAUSTED: i64 = 8;
        const OUT_OF_RANGE: i64 = 11;
        const UNIMPLEMENTED: i64 = 12;
        const DATA_LOSS: i64 = 15;
        const UNAUTHENTICATED: i64 = 16;
        match self.code {
            // The same code for a database that is full and a queue that is.
            RESOURCE_EXHAUSTED => !self.message.contains("too many requests"),
            INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | OUT_OF_RANGE | UNIMPLEMENTED | DATA_LOSS
            | UNAUTHENTICATED => true,
            _ => false,
        }
    }
}

/// 64-bit numbers are strings.
fn number_of<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(i64),
    }
    match Either::deserialize(from)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

fn bytes_of<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn text_of<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::from_utf8(bytes_of(from)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.4.23 answered.
    const REFUSED: &str = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"7",
        "raft_term":"2"},"responses":[{"response_range":{"header":{"revision":"7"},"kvs":[{"key":"L2EvaGVhZA==",
        "create_revision":"3","mod_revision":"7","version":"2","value":"eyJ0ZXJtIjoxfQ==","lease":"7587862094"}],
        "count":"1"}},{"response_range":{"header":{"revision":"7"}}}]}"#;

    #[test]
    fn what_a_transaction_found_is_read() {
        let done = Done::read(REFUSED.as_bytes()).unwrap();
        assert_eq!((done.succeeded, done.revision, done.got.len()), (false, 7, 2));
        let head = done.got[0].as_ref().unwrap();
        assert_eq!(
            (head.key.as_str(), head.value.as_slice()),
            ("/a/head", &b"{\"term\":1}"[..])
        );
        assert_eq!(
            (head.create_revision, head.mod_revision, head.lease),
            (3, 7, 7_587_862_094)
        );
        assert_eq!(done.got[1], None);
        let done =
            Done::read(br#"{"header":{"revision":"8"},"succeeded":true,"responses":[{"response_put":{}}]}"#);
        assert_eq!(
            done.unwrap(),
            Done {
                succeeded: true,
                revision: 8,
                got: Vec::new()
            }
        );
    }

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        let body = String::from_utf8(range(b"/a/entries/", "/a/entries/", 7, true)).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["range_end"], encoded("/a/entries0"));
        assert_eq!((&body["limit"], &body["keys_only"]), (&json!("7"), &json!(true)));
    }

    #[test]
    fn a_lease_that_is_gone_has_no_time_left() {
        let of = |text: &str| serde_json::from_str::<Streamed>(text).unwrap().result.unwrap();
        assert_eq!(
            of(r#"{"result":{"header":{},"ID":"17","TTL":"3"}}"#),
            Granted { id: 17, ttl: 3 }
        );
        assert_eq!(of(r#"{"result":{"header":{},"ID":"17"}}"#).ttl, 0);
    }

    #[test]
    fn a_full_database_is_final_and_a_full_queue_is_not() {
        let of = |code, message: &str| {
            Trouble {
                code,
                message: message.to_owned(),
            }
            .is_final()
        };
        assert!(of(8, "etcdserver: mvcc: database space exceeded"));
        assert!(!of(8, "etcdserver: too many requests"));
        assert!(of(3, "etcdserver: request is too large"));
        assert!(!of(14, "etcdserver: request timed out"));
    }
}
