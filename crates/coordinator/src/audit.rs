//! Who asked for what, and how it was answered: for each request that may change something a line
//! of JSON, appended to a file.
//!
//! ```text
//!  connection ─ peer ─┐
//!  request ── body ───┼──▶ the routes ──▶ answer ──▶ a line of audit.jsonl ─ full ─▶ audit.jsonl.1
//! ```
//!
//! The line is written with the answer. One that cannot be written is told in the log, and the
//! answer stands, for what it answers has been done. Deliberately absent: requests that only read,
//! and what follows from a decision later, which is in the journal and in the log.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tracing::error;
use transhume_model::WallMicros;
use transhume_trust::Identity;

use crate::error::Refused;

/// Its owner alone reads it: it names clusters, hosts and users.
const MODE: u32 = 0o600;
/// A file that is larger is put aside under a number, and so many numbers are kept.
const FILE_BYTES_MAX: u64 = 64 << 20;
const FILES_MAX: usize = 8;
/// A path is cut after so many characters; no route's is as long.
const PATH_CHARS_MAX: usize = 1024;
/// What was asked and answered is in the line up to this length; above, only how long it was.
const SHOWN_BYTES_MAX: usize = 16 << 10;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// A process on this machine, as the kernel says.
    Process { uid: u32, pid: Option<i32> },
    /// Whoever speaks from there: `insecure`, nobody proves who that is.
    Address(SocketAddr),
    /// Whom the fleet's authority names.
    Certificate {
        #[serde(serialize_with = "as_text")]
        identity: Identity,
        from: SocketAddr,
    },
}

fn as_text<S: serde::Serializer>(identity: &Identity, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(identity)
}

/// One request.
#[derive(Debug, Serialize)]
struct Line {
    at: WallMicros,
    who: Option<Peer>,
    method: String,
    path: String,
    asked: Value,
    /// Absent where whoever asked did not wait for the answer: what was asked may have been done.
    status: Option<u16>,
    answered: Value,
    /// From its head to its answer.
    ms: u64,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    file: File,
    bytes: u64,
}

impl Written {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .open(path)?;
        // Also one that was there before.
        file.set_permissions(Permissions::from_mode(MODE))?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

impl Audit {
    /// Appends to what is there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            written: Mutex::new(Written::open(path)?),
        })
    }

    fn append(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut written = self.written.lock().expect("no holder of this lock panics");
        if written.bytes > 0 && written.bytes + text.len() as u64 > FILE_BYTES_MAX {
            // Where that cannot be done, this file grows on and it is tried with the next line.
            match self.put_aside() {
                Ok(new) => *written = new,
                Err(why) => error!(file = %self.path.display(), "the full audit file stays: {why}"),
            }
        }
        if let Err(why) = written.file.write_all(&text) {
            // No half a line stays for the next one to be appended to.
            let _ = written.file.set_len(written.bytes);
            return Err(why);
        }
        written.bytes += text.len() as u64;
        Ok(())
    }

    /// The numbered files move up by one, the last of them goes, and a new one begins.
    fn put_aside(&self) -> io::Result<Written> {
        let numbered = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            name
        };
        // Opened before anything is renamed: where that fails, nothing moves up.
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let written = Written::open(fresh.as_ref())?;
        for number in (1..FILES_MAX).rev() {
            rename(numbered(number).as_ref(), numbered(number + 1).as_ref())?;
        }
        rename(&self.path, numbered(1).as_ref())?;
        std::fs::rename(fresh, &self.path)?;
        Ok(written)
    }
}

/// Fine where there is no such file: somebody else may have put it aside.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// A request that is not answered yet. Dropped it is written down all the same: whoever asked went
/// away, or it took too long.
struct UnderWay {
    audit: Arc<Audit>,
    begun: Instant,
    line: Line,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.line.ms = self.begun.elapsed().as_millis() as u64;
        if let Err(why) = self.audit.append(&self.line) {
            let file = self.audit.path.display();
            error!(%file, line = ?self.line, "the audit line cannot be written: {why}");
        }
    }
}

/// Passes a request on, and writes down what became of it.
pub(crate) async fn recorded(
    State((audit, body_bytes_max)): State<(Arc<Audit>, usize)>,
    request: Request,
    next: Next,
) -> Response {
    // What has no route changes nothing, and would only wash out what did.
    let is_routed = request.extensions().get::<MatchedPath>().is_some();
    if !is_routed || matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query();
    let mut under_way = UnderWay {
        audit,
        begun: Instant::now(),
        line: Line {
            at: crate::wall(),
            who: head.extensions.get::<Peer>().cloned(),
            method: head.method.to_string(),
            path: path
                .map_or("", |path| path.as_str())
                .chars()
                .take(PATH_CHARS_MAX)
                .collect(),
            asked: Value::Null,
            status: None,
            answered: Value::Null,
            ms: 0,
        },
    };
    let response = match to_bytes(body, body_bytes_max).await {
        Ok(asked) => {
            under_way.line.asked = shown(&asked);
            next.run(Request::from_parts(head, Body::from(asked))).await
        }
        Err(_) => {
            let message = format!("the body is above the limit of {body_bytes_max} bytes, or broke off");
            let hint = "see /v1/openapi.json for what is expected";
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "bad-body", message, hint).into_response()
        }
    };
    let (head, body) = response.into_parts();
    // The routes make their answers in memory.
    let answered = to_bytes(body, usize::MAX).await.unwrap_or_default();
    under_way.line.status = Some(head.status.as_u16());
    under_way.line.answered = shown(&answered);
    Response::from_parts(head, Body::from(answered))
}

/// JSON as it is, anything else and anything long by its length.
fn shown(bytes: &Bytes) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    let json = || serde_json::from_slice(bytes).ok();
    let short = (bytes.len() <= SHOWN_BYTES_MAX).then(json).flatten();
    short.unwrap_or_else(|| serde_json::json!({ "bytes": bytes.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> Line {
        Line {
            at: WallMicros(1),
            who: Some(Peer::Process {
                uid: 1000,
                pid: Some(7),
            }),
            method: "POST".to_owned(),
            path: path.to_owned(),
            asked: shown(&Bytes::from_static(b"{\"force\":true}")),
            status: Some(409),
            answered: shown(&Bytes::from_static(b"no JSON")),
            ms: 3,
        }
    }

    #[test]
    fn a_line_says_who_asked_for_what_and_how_it_was_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        Audit::open(&path)
            .unwrap()
            .append(&line("/v1/hosts/h1/fence"))
            .unwrap();
        // Another coordinator's life.
        Audit::open(&path)
            .unwrap()
            .append(&line("/v1/hosts/h2/fence"))
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next(),
            Some(
                r#"{"at":1,"who":{"process":{"uid":1000,"pid":7}},"method":"POST","path":"/v1/hosts/h1/fence","asked":{"force":true},"status":409,"answered":{"bytes":7},"ms":3}"#
            )
        );
        assert!(text.lines().nth(1).unwrap().contains("h2"), "{text}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn a_full_file_is_put_aside_and_none_of_its_lines_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(&path).unwrap();
        audit.append(&line("/v1/first")).unwrap();
        audit.written.lock().unwrap().bytes = FILE_BYTES_MAX;
        audit.append(&line("/v1/second")).unwrap();
        let aside = std::fs::read_to_string(dir.path().join("audit.jsonl.1")).unwrap();
        assert!(aside.contains("/v1/first") && aside.ends_with("}\n"), "{aside}");
        let now = std::fs::read_to_string(&path).unwrap();
        assert!(now.contains("/v1/second") && !now.contains("/v1/first"), "{now}");
        // Somebody took it away meanwhile; then as many as are kept, and one more.
        std::fs::remove_file(&path).unwrap();
        for _ in 0..=FILES_MAX {
            audit.written.lock().unwrap().bytes = FILE_BYTES_MAX;
            audit.append(&line("/v1/later")).unwrap();
        }
        assert!(std::fs::read_to_string(&path).unwrap().contains("/v1/later"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), FILES_MAX + 1);
    }

    #[test]
    fn where_no_new_file_can_be_opened_nothing_that_is_kept_moves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(&path).unwrap();
        audit.append(&line("/v1/first")).unwrap();
        std::fs::create_dir(dir.path().join("audit.jsonl.new")).unwrap();
        for _ in 0..=FILES_MAX {
            audit.written.lock().unwrap().bytes = FILE_BYTES_MAX;
            audit.append(&line("/v1/later")).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("/v1/first") && text.contains("/v1/later"), "{text}");
        assert!(!dir.path().join("audit.jsonl.1").exists());
    }
}
