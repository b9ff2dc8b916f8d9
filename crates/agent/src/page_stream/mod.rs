//! The way of memory from QEMU to QEMU, through both agents (design §3, step 2; §1.3).
//!
//! ```text
//!  source QEMU ── unix ──▶ encode ──── TCP, VMCT, TLS ────▶ decode ── unix ──▶ target QEMU
//!              ◀── filter ──        ◀──── back ────                ◀────────
//! ```
//!
//! One task at each end, on threads of their own. What comes out at the target is byte for byte
//! what the source's QEMU wrote; how it travels is `transhume_pages`' matter. The source agent
//! withholds the switchover-ack on the return path. Deliberately absent: resumption; a broken
//! stream aborts the batch.

mod connection;
pub(crate) mod greet;
mod incoming;
mod outgoing;
mod share;
mod source;
mod target;
mod tls;
mod trial;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use transhume_model::{Endpoint, Epoch, HostName, VmName, VmSpec};
use transhume_pages::stream::StreamDigest;
use transhume_pages::{
    Account, Classes, ContentKey, DecodeError, Decoder, EncodeError, Encoder, EncoderConfig,
};
use transhume_trust::draw_secret;

pub use self::greet::Secured;
pub use self::share::PageShare;
pub(crate) use self::trial::{hear, try_link};
use crate::limits::{
    LAG_BYTES_MAX, PAGE_AHEAD_BYTES_MAX, PAGE_STREAM_CONNECT, PAGE_VERSION_SLOTS, PAGE_WINDOW_BYTES_MAX,
    QEMU_SOCKET_BYTES,
};
use crate::pace::Pace;

/// Where the stream of the source's QEMU comes in, in the VM's directory.
pub const SOURCE_SOCKET: &str = "pages-out.sock";

/// Why a page stream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum PageStreamError {
    /// An address or a socket that cannot be had.
    #[error("cannot listen for the page stream of {vm} on {at}")]
    Listen {
        /// The VM.
        vm: VmName,
        /// Where.
        at: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The target's agent does not answer, or turns us away.
    #[error("cannot reach the target agent at {at} for the page stream of {vm}")]
    Connect {
        /// The VM.
        vm: VmName,
        /// Where.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// At the source.
    #[error("cannot set up the encoder of the page stream of {vm}")]
    Encoder {
        /// The VM.
        vm: VmName,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// At the target.
    #[error("cannot set up the decoder of the page stream of {vm}")]
    Decoder {
        /// The VM.
        vm: VmName,
        /// Why.
        #[source]
        source: DecodeError,
    },
}

/// What all page streams of this agent have in common.
#[derive(Debug)]
pub struct Pages {
    /// Stores and knowledge of all clusters.
    pub share: PageShare,
    /// Classes that a source may use.
    pub classes: Classes,
    /// This host, as its certificate names it.
    pub host: HostName,
    /// How streams are secured.
    pub secured: Secured,
}

/// A running page stream; dropping it cuts the stream.
#[derive(Debug)]
pub struct PageStream {
    task: JoinHandle<()>,
    snapshot: SharedSnapshot,
    guest_stopped: Arc<Notify>,
}

/// What a source's stages report of themselves.
#[derive(Debug, Clone, Copy, Default)]
struct StreamSnapshot {
    account: Account,
    behind_bytes: u64,
}

type SharedSnapshot = Arc<Mutex<StreamSnapshot>>;

impl Drop for PageStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PageStream {
    /// What went to the other agent so far; nothing at a target.
    pub fn account(&self) -> Account {
        share::locked(&self.snapshot).account
    }

    /// At a target: the guest has stopped, so what other streams still carry is asked for at once.
    pub fn stop_waiting_for_siblings(&self) {
        self.guest_stopped.notify_one();
    }

    /// Whether the target's agent lags little: what is under way does not lengthen the blackout.
    pub fn lag_within_limit(&self) -> bool {
        share::locked(&self.snapshot).behind_bytes <= LAG_BYTES_MAX
    }
}

/// How a stream ended. `Ok`: both directions were closed by the QEMUs.
pub type Ended = io::Result<()>;

/// The source's half: listens for QEMU on [`SOURCE_SOCKET`] in `dir` and sends the stream to the
/// target's agent.
pub async fn start_source(
    dir: &Path,
    vm: &VmSpec,
    epoch: Epoch,
    target: &Endpoint,
    pace: Arc<Pace>,
    pages: &Pages,
) -> Result<(PageStream, oneshot::Receiver<Ended>), PageStreamError> {
    let path = dir.join(SOURCE_SOCKET);
    let name = vm.name.clone();
    let listener = bind(&path).map_err(|source| PageStreamError::Listen {
        vm: name.clone(),
        at: path.display().to_string(),
        source,
    })?;
    let config = EncoderConfig {
        classes: pages.classes,
        version_slots: PAGE_VERSION_SLOTS,
        window_bytes_max: PAGE_WINDOW_BYTES_MAX + PAGE_AHEAD_BYTES_MAX as u64,
        ..EncoderConfig::new(ContentKey::of(&vm.cluster, &[]))
    };
    let encoder = Encoder::new(config).map_err(|source| PageStreamError::Encoder {
        vm: name.clone(),
        source,
    })?;
    let connection = timeout(
        PAGE_STREAM_CONNECT,
        greet::greet(target, &name, epoch, &pages.secured),
    )
    .await
    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    .map_err(|source| PageStreamError::Connect {
        vm: name.clone(),
        at: target.address,
        source: io::Error::new(source.kind(), transhume_trust::explain(&source)),
    })?;
    let snapshot = SharedSnapshot::default();
    let stages = source::Source {
        vm: name,
        encoder,
        target: target.address.ip(),
        rates: pages.share.rates(),
        knowledge: pages.share.knowledge(&vm.cluster, target.address.ip()),
        pace,
        window_bytes_max: PAGE_WINDOW_BYTES_MAX,
        snapshot: snapshot.clone(),
    };
    let (done, ended) = oneshot::channel();
    let task = page_threads().spawn(async move {
        let passed = async {
            let listener = UnixListener::from_std(listener.into_std()?)?;
            let local = timeout(PAGE_STREAM_CONNECT, listener.accept())
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
                .0;
            source::run(stages, local, connection.here()?).await
        };
        // The receiver is gone when the VM's task no longer cares.
        let _ = done.send(passed.await);
    });
    let guest_stopped = Arc::default();
    Ok((
        PageStream {
            task,
            snapshot,
            guest_stopped,
        },
        ended,
    ))
}

/// The target's half, as it stands before the source has connected.
pub struct Listening {
    /// The stream itself.
    pub stream: PageStream,
    /// Where the source is to connect to, and with what.
    pub at: Endpoint,
    /// Told when QEMU has the whole stream and it was the source's, byte for byte.
    pub whole: oneshot::Receiver<StreamDigest>,
    /// Told when both sides have closed, or why not.
    pub ended: oneshot::Receiver<Ended>,
}

/// The target's half: waits for the source agent and writes to QEMU's end of a socket what comes.
pub async fn start_target(
    listen: IpAddr,
    vm: &VmSpec,
    epoch: Epoch,
    qemu: std::os::unix::net::UnixStream,
    pages: &Pages,
) -> Result<Listening, PageStreamError> {
    let name = vm.name.clone();
    let failed = |source| PageStreamError::Listen {
        vm: name.clone(),
        at: listen.to_string(),
        source,
    };
    let listener = TcpListener::bind((listen, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let decoder =
        Decoder::new(ContentKey::of(&vm.cluster, &[])).map_err(|source| PageStreamError::Decoder {
            vm: name.clone(),
            source,
        })?;
    let (told, whole) = oneshot::channel();
    let guest_stopped = Arc::<Notify>::default();
    let stages = target::Target {
        guest_stopped: guest_stopped.clone(),
        decoder,
        store: pages.share.store(&vm.cluster),
        whole: Some(told),
    };
    let (done, ended) = oneshot::channel();
    let at = Endpoint {
        host: pages.host.clone(),
        address,
        secret: draw_secret(),
    };
    let expected = greet::Hello {
        epoch,
        secret: at.secret.clone(),
        vm: name.to_string(),
    };
    let secured = pages.secured.clone();
    let task = page_threads().spawn(async move {
        let passed = async {
            let listener = TcpListener::from_std(listener.into_std()?)?;
            let connection = greet::welcome(&listener, &expected, &secured).await?;
            qemu.set_nonblocking(true)?;
            let local = UnixStream::from_std(qemu)?;
            widen(&local);
            target::run(stages, local, connection.here()?).await
        };
        // As above: nobody listens once the VM's task has moved on.
        let _ = done.send(passed.await);
    });
    let snapshot = SharedSnapshot::default();
    Ok(Listening {
        stream: PageStream {
            task,
            snapshot,
            guest_stopped,
        },
        at,
        whole,
        ended,
    })
}

/// QEMU reads and we write in turns where the socket is small: the writer wakes when three quarters
/// are read, and QEMU waits for it. Where more than the system's usual is not permitted, it stays
/// slow.
fn widen(socket: &UnixStream) {
    if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size_force(socket, QEMU_SOCKET_BYTES) {
        tracing::debug!(%error, "QEMU's socket keeps its usual size");
    }
}

/// What the peer, or what came from it, is refused for.
fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// None where the socket is not ready.
fn ready<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Threads of their own: encoding takes milliseconds at a time, and a switchover must not wait
/// behind it.
fn page_threads() -> &'static Handle {
    static THREADS: OnceLock<Runtime> = OnceLock::new();
    THREADS
        .get_or_init(|| {
            Builder::new_multi_thread()
                .thread_name("pages")
                .enable_all()
                .build()
                .expect("threads can be started")
        })
        .handle()
}
