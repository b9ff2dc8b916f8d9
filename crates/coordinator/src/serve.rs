//! Connections to the API. axum's own server sets no limit to their number, nor to the time a
//! client takes to say what it wants.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::audit::Peer;

/// Connections at the same time, of all addresses together; further ones wait.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// The head of a request is there by then, or the connection ends; so does one that asks nothing.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted, for want of descriptors as a rule.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(crate) trait Listen: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listen for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, address) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, Peer::Address(address)))
    }
}

impl Listen for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, _) = UnixListener::accept(self).await?;
        let process = stream.peer_cred()?;
        let peer = Peer::Process {
            uid: process.uid(),
            pid: process.pid(),
        };
        Ok((stream, peer))
    }
}

/// Serves until it is dropped, and its connections with it.
pub(crate) async fn serve<L: Listen>(listener: L, router: Router, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone().layer(Extension(peer));
                connections.spawn(converse(stream, router, place));
            }
            Err(error) => {
                warn!("the API cannot accept a connection: {error}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    _place: OwnedSemaphorePermit,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!("a connection to the API ended: {error}");
    }
}
