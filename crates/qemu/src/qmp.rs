//! A QMP client: one connection, one QEMU.
//!
//! ```text
//!  execute ──▶ writer (one line per command, numbered)
//!     ▲
//!     └──────── reader task ──┬── answers, by number
//!                             └── events, to every subscriber
//! ```
//!
//! A QEMU monitor serves one client at a time; a new agent connects after the old one is gone.
//! Deliberately absent: out-of-band commands, a typed schema of all of QMP.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio::time::timeout;
use transhume_model::VmName;

use crate::limits::{QMP_CALL_LIMIT, QMP_CALLS_MAX, QMP_EVENTS_MAX, QMP_GREETING_LIMIT, QMP_LINE_BYTES_MAX};

/// Why a QMP command failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// No connection could be made.
    #[error("VM {vm}: cannot connect to QMP at {path}")]
    Connect {
        /// The VM.
        vm: VmName,
        /// The socket.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU refused the command.
    #[error("VM {vm}: QEMU refused `{command}` ({class}): {text}")]
    Refused {
        /// The VM.
        vm: VmName,
        /// The command.
        command: String,
        /// QEMU's error class.
        class: String,
        /// QEMU's own words.
        text: String,
    },
    /// No answer in time.
    #[error("VM {vm}: no answer to `{command}` within {limit:?}")]
    Timeout {
        /// The VM.
        vm: VmName,
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection ended; QEMU most likely did too.
    #[error("VM {vm}: QMP connection closed during `{command}`")]
    Closed {
        /// The VM.
        vm: VmName,
        /// The command.
        command: String,
    },
    /// Too many commands wait for an answer.
    #[error("VM {vm}: {QMP_CALLS_MAX} commands wait already, `{command}` was not sent")]
    Busy {
        /// The VM.
        vm: VmName,
        /// The command.
        command: String,
    },
    /// The answer has not the shape this crate knows.
    #[error("VM {vm}: cannot understand the answer to `{command}`")]
    Answer {
        /// The VM.
        vm: VmName,
        /// The command.
        command: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Something QEMU said by itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QmpEvent {
    /// Its name, like `STOP` or `MIGRATION`.
    #[serde(rename = "event")]
    pub name: String,
    /// Its data; null where it has none.
    #[serde(default)]
    pub data: Value,
    /// When, by QEMU's clock.
    #[serde(default)]
    pub timestamp: QmpTime,
}

/// Time of an event: since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct QmpTime {
    seconds: i64,
    microseconds: i64,
}

impl QmpTime {
    /// Microseconds since 1970; 0 where QEMU had no clock.
    pub fn micros(self) -> u64 {
        let seconds = self.seconds.saturating_mul(1_000_000);
        u64::try_from(seconds.saturating_add(self.microseconds)).unwrap_or(0)
    }
}

type Answer = Result<Value, (String, String)>;

#[derive(Debug)]
struct Calls {
    open: bool,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

#[derive(Debug)]
struct Shared {
    vm: VmName,
    next: AtomicU64,
    calls: Mutex<Calls>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    events: broadcast::Sender<QmpEvent>,
}

/// A connection to QEMU's monitor. Clones share it.
#[derive(Debug, Clone)]
pub struct Qmp {
    shared: Arc<Shared>,
    _reader: Arc<ReaderTask>,
}

/// Ends the reader with the last clone, which closes the connection: the monitor is free for the
/// next client.
#[derive(Debug)]
struct ReaderTask(tokio::task::JoinHandle<()>);

impl Drop for ReaderTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Qmp {
    /// Connects, takes the greeting and leaves capabilities negotiation.
    pub async fn connect(vm: &VmName, path: &Path) -> Result<Self, QmpError> {
        let failed = |source| QmpError::Connect {
            vm: vm.clone(),
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let (read, writer) = stream.into_split();
        let mut reader = BufReader::new(read);
        let greeting = timeout(QMP_GREETING_LIMIT, read_line(&mut reader))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        let greeted = greeting.and_then(|line| serde_json::from_slice::<Value>(&line).ok());
        if greeted.is_none_or(|value| value.get("QMP").is_none()) {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "no QMP greeting",
            )));
        }
        let shared = Arc::new(Shared {
            vm: vm.clone(),
            next: AtomicU64::new(0),
            calls: Mutex::new(Calls {
                open: true,
                waiting: HashMap::new(),
            }),
            writer: tokio::sync::Mutex::new(writer),
            events: broadcast::channel(QMP_EVENTS_MAX).0,
        });
        let task = tokio::spawn(read_all(reader, Arc::clone(&shared)));
        let qmp = Self {
            shared,
            _reader: Arc::new(ReaderTask(task)),
        };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// The VM this connection belongs to.
    pub fn vm(&self) -> &VmName {
        &self.shared.vm
    }

    /// Runs a command within [`QMP_CALL_LIMIT`]. `arguments` is an object.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, QMP_CALL_LIMIT).await
    }

    /// Runs a command within the given limit.
    pub async fn execute_within(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        self.call(command, arguments, None, limit).await
    }

    /// Runs a command and hands QEMU a descriptor with it (`getfd`, `add-fd`).
    pub async fn execute_with_fd(
        &self,
        command: &str,
        arguments: Value,
        fd: BorrowedFd<'_>,
    ) -> Result<Value, QmpError> {
        self.call(command, arguments, Some(fd), QMP_CALL_LIMIT).await
    }

    /// Runs a command and reads its answer as `T`.
    pub async fn query<T: serde::de::DeserializeOwned>(&self, command: &str) -> Result<T, QmpError> {
        let answer = self.execute(command, json!({})).await?;
        serde_json::from_value(answer).map_err(|source| QmpError::Answer {
            vm: self.shared.vm.clone(),
            command: command.to_owned(),
            source,
        })
    }

    /// Everything QEMU says by itself from now on.
    pub fn events(&self) -> broadcast::Receiver<QmpEvent> {
        self.shared.events.subscribe()
    }

    async fn call(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let (vm, command_name) = (self.shared.vm.clone(), command.to_owned());
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let answer = self.register(id, command)?;
        let _forget = Forget {
            shared: &self.shared,
            id,
        };
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let exchange = async {
            self.send(line.as_bytes(), fd).await.ok()?;
            answer.await.ok()
        };
        match timeout(limit, exchange).await {
            Ok(Some(Ok(value))) => Ok(value),
            Ok(Some(Err((class, text)))) => Err(QmpError::Refused {
                vm,
                command: command_name,
                class,
                text,
            }),
            Ok(None) => Err(QmpError::Closed {
                vm,
                command: command_name,
            }),
            Err(_) => Err(QmpError::Timeout {
                vm,
                command: command_name,
                limit,
            }),
        }
    }

    fn register(&self, id: u64, command: &str) -> Result<oneshot::Receiver<Answer>, QmpError> {
        let (vm, command) = (self.shared.vm.clone(), command.to_owned());
        let mut calls = self.shared.calls();
        if !calls.open {
            return Err(QmpError::Closed { vm, command });
        }
        if calls.waiting.len() >= QMP_CALLS_MAX {
            return Err(QmpError::Busy { vm, command });
        }
        let (sender, receiver) = oneshot::channel();
        calls.waiting.insert(id, sender);
        Ok(receiver)
    }

    async fn send(&self, line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut writer = self.shared.writer.lock().await;
        let sent = match fd {
            None => 0,
            Some(fd) => {
                let stream: &UnixStream = writer.as_ref();
                stream
                    .async_io(Interest::WRITABLE, || send_with_fd(stream.as_fd(), line, fd))
                    .await?
            }
        };
        writer.write_all(&line[sent..]).await
    }
}

fn send_with_fd(socket: BorrowedFd<'_>, line: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    assert!(
        ancillary.push(SendAncillaryMessage::ScmRights(&fds)),
        "space is made for one"
    );
    let sent = sendmsg(
        socket,
        &[io::IoSlice::new(line)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(sent)
}

/// A call that is no longer waited for leaves no entry behind, also when its future is dropped.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.calls().waiting.remove(&self.id);
    }
}

impl Shared {
    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line without its end; `None` at the end of the stream.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader
        .take(QMP_LINE_BYTES_MAX as u64)
        .read_until(b'\n', &mut line)
        .await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a QMP line is cut off or too long",
        )),
    }
}

async fn read_all(mut reader: BufReader<OwnedReadHalf>, shared: Arc<Shared>) {
    loop {
        match read_line(&mut reader).await {
            Ok(Some(line)) => match Said::read(&line) {
                Ok(said) => take(said, &shared),
                Err(error) => {
                    tracing::warn!(vm = %shared.vm, %error, "QMP said something that is not JSON");
                    break;
                }
            },
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(vm = %shared.vm, %error, "QMP connection broke");
                break;
            }
        }
    }
    // Dropping the senders tells every waiting call.
    let mut calls = shared.calls();
    calls.open = false;
    calls.waiting.clear();
}

/// What QEMU says in one line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// By itself.
    Event(QmpEvent),
    /// To a command; `None` where it does not say to which.
    Answer(Option<u64>, Answer),
    /// An event without a name.
    Nothing,
}

impl Said {
    /// An error where the line is not JSON.
    pub(crate) fn read(line: &[u8]) -> serde_json::Result<Self> {
        let mut message: Value = serde_json::from_slice(line)?;
        if message.get("event").is_some() {
            let event = serde_json::from_value(message);
            return Ok(event.map_or(Said::Nothing, Said::Event));
        }
        let id = message.get("id").and_then(Value::as_u64);
        let answer = match message.get_mut("error") {
            Some(error) => {
                let part = |key| error.get(key).and_then(Value::as_str);
                let part = |key| part(key).unwrap_or("unnamed").to_owned();
                Err((part("class"), part("desc")))
            }
            None => Ok(message.get_mut("return").map(Value::take).unwrap_or_default()),
        };
        Ok(Said::Answer(id, answer))
    }
}

fn take(said: Said, shared: &Shared) {
    match said {
        Said::Event(event) => {
            tracing::debug!(vm = %shared.vm, event = %event.name, data = %event.data, "QMP event");
            // Nobody listening is fine.
            let _ = shared.events.send(event);
        }
        Said::Answer(id, answer) => match id.and_then(|id| shared.calls().waiting.remove(&id)) {
            // A caller that just gave up is fine.
            Some(sender) => drop(sender.send(answer)),
            None => tracing::warn!(vm = %shared.vm, "QMP answered a command nobody waits for"),
        },
        Said::Nothing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Said {
        Said::read(line.as_bytes()).unwrap()
    }

    #[test]
    fn lines_are_events_or_answers() {
        let answer = Said::Answer(Some(7), Ok(json!({"status": "running"})));
        assert_eq!(said(r#"{"return": {"status": "running"}, "id": 7}"#), answer);
        let refused = Err(("GenericError".to_owned(), "no".to_owned()));
        assert_eq!(
            said(r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 1}"#),
            Said::Answer(Some(1), refused)
        );
        let Said::Event(event) = said(r#"{"event": "STOP", "timestamp": {"seconds": 2, "microseconds": 5}}"#)
        else {
            panic!("it is an event")
        };
        assert_eq!(
            (event.name.as_str(), event.timestamp.micros()),
            ("STOP", 2_000_005)
        );
        assert_eq!(said(r#"{"event": 3}"#), Said::Nothing);
        assert!(Said::read(b"{\"return").is_err());
    }

    #[test]
    fn odd_lines_and_times_are_no_panic() {
        let unnamed = Err(("unnamed".to_owned(), "unnamed".to_owned()));
        assert_eq!(said(r#"{"error": null}"#), Said::Answer(None, unnamed));
        assert_eq!(said("[1]"), Said::Answer(None, Ok(Value::Null)));
        for (seconds, microseconds) in [(i64::MAX, i64::MAX), (i64::MIN, i64::MIN), (-1, -1)] {
            let time = QmpTime {
                seconds,
                microseconds,
            };
            assert_eq!(time.micros() > 0, seconds > 0);
        }
    }
}
