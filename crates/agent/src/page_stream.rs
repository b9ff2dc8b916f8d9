//! The way of memory from QEMU to QEMU, through both agents (design §3, step 2).
//!
//! ```text
//!  source QEMU ── unix ──▶ source agent ──── TCP, VMCT ────▶ target agent ── unix ──▶ target QEMU
//!              ◀── filter ──    (pace)   ◀──── return path ────            ◀────────
//! ```
//!
//! The bytes pass unchanged. The source agent withholds the switchover-ack on the return path. Compression,
//! deduplication and encryption will sit here; none is there yet.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use transhume_model::{Bytes, Epoch, VmName};
use transhume_qemu::{HoldPace, ReturnPathFilter};

use crate::limits::{PAGE_CHUNK_BYTES, PAGE_STREAM_CONNECT};
use crate::pace::Pace;

/// First bytes of a page stream between agents: "THPS", version 1.
const MAGIC: [u8; 6] = *b"THPS\x00\x01";
const WELCOME: u8 = 0;
/// Where the source's QEMU connects to, in the VM's directory.
pub(crate) const SOURCE_SOCKET: &str = "pages-out.sock";
const NAME_BYTES_MAX: usize = 255;

/// Why a page stream cannot be set up or broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageStreamError {
    #[error("cannot listen for the page stream of {vm} on {at}")]
    Listen {
        vm: VmName,
        at: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot reach the target agent at {at} for the page stream of {vm}")]
    Connect {
        vm: VmName,
        at: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A running page stream; dropping it cuts the stream.
#[derive(Debug)]
pub(crate) struct PageStream {
    task: JoinHandle<()>,
    wire: Arc<AtomicU64>,
}

impl Drop for PageStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PageStream {
    /// Bytes that went to the other agent so far.
    pub(crate) fn wire(&self) -> Bytes {
        Bytes(self.wire.load(Ordering::Relaxed))
    }
}

/// How a stream ended. `Ok`: both directions were closed by the QEMUs.
pub(crate) type Ended = io::Result<()>;

/// The source's half: listens for QEMU on the returned socket path and passes the stream on.
pub(crate) async fn start_source(
    dir: &Path,
    vm: &VmName,
    epoch: Epoch,
    target: SocketAddr,
    pace: Arc<Pace>,
) -> Result<(PageStream, PathBuf, oneshot::Receiver<Ended>), PageStreamError> {
    let path = dir.join(SOURCE_SOCKET);
    let listener = bind(&path).map_err(|source| PageStreamError::Listen {
        vm: vm.clone(),
        at: path.display().to_string(),
        source,
    })?;
    let remote = timeout(PAGE_STREAM_CONNECT, greet(target, vm, epoch))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| PageStreamError::Connect {
            vm: vm.clone(),
            at: target,
            source,
        })?;
    let wire = Arc::new(AtomicU64::new(0));
    let (done, ended) = oneshot::channel();
    let counter = wire.clone();
    let task = tokio::spawn(async move {
        let passed = async {
            let local = timeout(PAGE_STREAM_CONNECT, listener.accept())
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
                .0;
            pass(local, remote, &pace, &counter, Some(ReturnPathFilter::new())).await
        };
        // The receiver is gone when the VM's task no longer cares.
        let _ = done.send(passed.await);
    });
    Ok((PageStream { task, wire }, path, ended))
}

/// The target's half: waits for the source agent, then connects it with QEMU's incoming socket.
pub(crate) async fn start_target(
    listen: IpAddr,
    vm: &VmName,
    epoch: Epoch,
    qemu_socket: PathBuf,
) -> Result<(PageStream, SocketAddr, oneshot::Receiver<Ended>), PageStreamError> {
    let failed = |source| PageStreamError::Listen {
        vm: vm.clone(),
        at: listen.to_string(),
        source,
    };
    let listener = TcpListener::bind((listen, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let wire = Arc::new(AtomicU64::new(0));
    let (done, ended) = oneshot::channel();
    let (counter, vm) = (wire.clone(), vm.clone());
    let task = tokio::spawn(async move {
        let passed = async {
            let remote = welcome(&listener, &vm, epoch).await?;
            let local = UnixStream::connect(&qemu_socket).await?;
            pass(local, remote, &Pace::default(), &counter, None).await
        };
        // As above: nobody listens once the VM's task has moved on.
        let _ = done.send(passed.await);
    });
    Ok((PageStream { task, wire }, address, ended))
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

async fn greet(target: SocketAddr, vm: &VmName, epoch: Epoch) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut hello = MAGIC.to_vec();
    hello.extend(epoch.0.to_be_bytes());
    hello.push(vm.as_str().len() as u8);
    hello.extend(vm.as_str().as_bytes());
    stream.write_all(&hello).await?;
    match stream.read_u8().await? {
        WELCOME => Ok(stream),
        _ => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

/// Accepts until the right peer comes: anything else that connects is turned away without a word.
async fn welcome(listener: &TcpListener, vm: &VmName, epoch: Epoch) -> io::Result<TcpStream> {
    loop {
        let (mut stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match timeout(PAGE_STREAM_CONNECT, read_hello(&mut stream)).await {
            Ok(Ok(hello)) if hello == (epoch, vm.as_str().to_owned()) => {
                stream.write_u8(WELCOME).await?;
                return Ok(stream);
            }
            _ => tracing::warn!(%vm, %peer, "turned away a connection that is not this VM's page stream"),
        }
    }
}

async fn read_hello(stream: &mut TcpStream) -> io::Result<(Epoch, String)> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let epoch = Epoch(stream.read_u64().await?);
    let length = usize::from(stream.read_u8().await?);
    let mut name = [0; NAME_BYTES_MAX];
    stream.read_exact(&mut name[..length]).await?;
    let name = std::str::from_utf8(&name[..length]).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((epoch, name.to_owned()))
}

/// Passes bytes both ways until both sides have closed.
async fn pass(
    local: UnixStream,
    remote: TcpStream,
    pace: &Pace,
    wire: &AtomicU64,
    filter: Option<ReturnPathFilter>,
) -> io::Result<()> {
    let (mut local_read, mut local_write) = local.into_split();
    let (mut remote_read, mut remote_write) = remote.into_split();
    match filter {
        Some(mut filter) => {
            let forward = async {
                let mut chunk = vec![0; PAGE_CHUNK_BYTES];
                let mut hold = HoldPace::new();
                loop {
                    local_read.readable().await?;
                    let queued = rustix::io::ioctl_fionread::<&UnixStream>(local_read.as_ref())?;
                    let most = pace.admit(&mut hold, queued as usize).await.min(chunk.len());
                    let length = local_read.read(&mut chunk[..most]).await?;
                    if length == 0 {
                        return remote_write.shutdown().await;
                    }
                    remote_write.write_all(&chunk[..length]).await?;
                    wire.fetch_add(length as u64, Ordering::Relaxed);
                }
            };
            let back = async {
                let mut chunk = [0; 4096];
                let mut passed = Vec::new();
                loop {
                    let length = remote_read.read(&mut chunk).await?;
                    if length == 0 {
                        return local_write.shutdown().await;
                    }
                    passed.clear();
                    filter.push(&chunk[..length], &mut passed);
                    local_write.write_all(&passed).await?;
                }
            };
            tokio::try_join!(forward, back)?;
        }
        None => {
            let forward = async {
                let mut chunk = vec![0; PAGE_CHUNK_BYTES];
                loop {
                    let length = remote_read.read(&mut chunk).await?;
                    if length == 0 {
                        return local_write.shutdown().await;
                    }
                    local_write.write_all(&chunk[..length]).await?;
                    wire.fetch_add(length as u64, Ordering::Relaxed);
                }
            };
            let back = async {
                tokio::io::copy(&mut local_read, &mut remote_write).await?;
                remote_write.shutdown().await
            };
            tokio::try_join!(forward, back)?;
        }
    }
    Ok(())
}
