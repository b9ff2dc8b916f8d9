//! The host's side of the console channel (`transhume_guest::wire`).
//!
//! A VM may be on any host and may move between two bytes. A call therefore asks one possible place
//! after the other, always with the same request id, until the guest's whole answer is there or the
//! time is over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use transhume_guest::wire::{Op, Outcome, REPLY_BYTES_MAX, Reply, Request, Stream};
use transhume_model::VmName;

use crate::LabError;
use crate::state::{Lab, VmState};

/// After this long without a byte the next place is asked, and this one later again: short at
/// first, because a guest that boots misses what was said before, then longer, because a request
/// may take its time.
const SILENCE_MIN: Duration = Duration::from_millis(200);
const SILENCE_MAX: Duration = Duration::from_millis(2000);
const RETRY: Duration = Duration::from_millis(100);

/// A way to one guest.
#[derive(Debug, Clone)]
pub struct Channel {
    vm: VmName,
    places: Vec<PathBuf>,
}

/// A guest's whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// Standard output, or the log.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The result.
    pub outcome: Outcome,
}

impl Channel {
    /// The channel of a VM, wherever it is.
    pub fn new(lab: &Lab, vm: &VmState) -> Self {
        let places = lab
            .state
            .hosts
            .iter()
            .map(|host| host.channel_socket(&vm.name))
            .collect();
        Channel {
            vm: vm.name.clone(),
            places,
        }
    }

    /// The channel of a VM whose socket is known.
    pub fn at(vm: VmName, socket: PathBuf) -> Self {
        Channel {
            vm,
            places: vec![socket],
        }
    }

    /// Has the guest carry out `op`; gives up after `limit`.
    pub async fn call(&self, op: Op, limit: Duration) -> Result<Transcript, LabError> {
        let deadline = Instant::now() + limit;
        let request = Request { id: fresh_id(), op };
        let mut line = serde_json::to_vec(&request).expect("a request has only text and numbers");
        // The leading line end closes whatever a cut request left in the guest.
        line.insert(0, b'\n');
        line.push(b'\n');
        let mut chunks = Chunks::default();
        let mut silence = SILENCE_MIN;
        while Instant::now() < deadline {
            for place in self.places.iter().filter(|place| place.exists()) {
                let asked = ask(place, &line, &request.id, &mut chunks, silence);
                if let Ok(Some(end)) = timeout_at(deadline, asked).await {
                    return self.finish(end, chunks);
                }
            }
            silence = (silence * 2).min(SILENCE_MAX);
            sleep(RETRY).await;
        }
        let what = format!("an answer of VM {}", self.vm);
        Err(LabError::Timeout {
            what,
            waited_ms: limit.as_millis() as u64,
        })
    }

    fn finish(&self, end: Result<Outcome, String>, chunks: Chunks) -> Result<Transcript, LabError> {
        let failed = |said| LabError::Guest {
            vm: self.vm.to_string(),
            said,
        };
        let outcome = end.map_err(failed)?;
        let mut transcript = Transcript {
            stdout: Vec::new(),
            stderr: Vec::new(),
            outcome,
        };
        for (stream, data) in chunks.0.into_values() {
            let bytes = STANDARD.decode(data).map_err(|error| failed(error.to_string()))?;
            match stream {
                Stream::Stdout => transcript.stdout.extend(bytes),
                Stream::Stderr => transcript.stderr.extend(bytes),
            }
        }
        Ok(transcript)
    }
}

/// Pieces of output by their place; a repeated reply brings the same ones.
#[derive(Default)]
struct Chunks(BTreeMap<u64, (Stream, String)>);

/// Asks at one place; `None` when it ended the connection or fell silent before the whole answer
/// was there.
async fn ask(
    place: &Path,
    line: &[u8],
    id: &str,
    chunks: &mut Chunks,
    silence: Duration,
) -> Option<Result<Outcome, String>> {
    let mut socket = UnixStream::connect(place).await.ok()?;
    timeout(silence, socket.write_all(line)).await.ok()?.ok()?;
    let mut pending = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = timeout(silence, socket.read(&mut buffer)).await.ok()?;
        let length = read.ok().filter(|&length| length > 0)?;
        pending.extend_from_slice(&buffer[..length]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let reply = serde_json::from_slice::<Reply>(&pending[..end]).ok();
            pending.drain(..=end);
            match reply.filter(|reply| reply.id() == id) {
                Some(Reply::Chunk {
                    seq, stream, data, ..
                }) => _ = chunks.0.insert(seq, (stream, data)),
                Some(Reply::Done {
                    chunks: count, done, ..
                }) if chunks.0.len() as u64 == count => {
                    return Some(Ok(done));
                }
                // A line was cut on its way: the guest still has it.
                Some(Reply::Done { .. }) => socket.write_all(line).await.ok()?,
                Some(Reply::Failed { error, .. }) => return Some(Err(error)),
                // The rest of a cut line, or a late answer to somebody else.
                None => {}
            }
        }
        if pending.len() > REPLY_BYTES_MAX {
            pending.clear();
        }
    }
}

/// Different for every call of every process.
fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{count:x}", std::process::id(), now.as_nanos())
}
