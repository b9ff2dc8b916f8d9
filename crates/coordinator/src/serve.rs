//! Connections to the API. axum's own server sets no limit to their number, nor to the time a
//! client takes to say what it wants.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, warn};
use transhume_trust::stream::AnyStream;
use transhume_trust::{Admits, Security, Strangers};

use crate::audit::Peer;

/// Connections at the same time, of all addresses together; further ones wait.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// The head of a request is there by then, or the connection ends; so does one that asks nothing.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted, for want of descriptors as a rule.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves a Unix socket until it is dropped, and its connections with it.
pub(crate) async fn serve_socket(listener: UnixListener, router: Router, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        match accept(&listener).await {
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

async fn accept(listener: &UnixListener) -> io::Result<(UnixStream, Peer)> {
    let (stream, _) = listener.accept().await?;
    let process = stream.peer_cred()?;
    let peer = Peer::Process {
        uid: process.uid(),
        pid: process.pid(),
    };
    Ok((stream, peer))
}

/// The same of an address. Who connects is heard out beside all others; it takes a place once it is
/// known.
pub(crate) async fn serve_address(
    listener: TcpListener,
    security: Security,
    router: Router,
    places: Arc<Semaphore>,
) {
    let (mut connections, mut strangers) = (JoinSet::new(), Strangers::default());
    let mut place = None;
    loop {
        tokio::select! {
            // Those that are heard out and wait for a place are few: then nobody else is accepted.
            accepted = listener.accept(), if place.is_some() => match accepted {
                Ok((stream, from)) => strangers.hear(hear(stream, from, security.clone())),
                Err(error) => {
                    warn!("the API cannot accept a connection: {error}");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
            free = places.clone().acquire_owned(), if place.is_none() => {
                place = Some(free.expect("nobody closes the semaphore"));
            }
            heard = strangers.next(), if place.is_some() => match (heard, place.take()) {
                (Ok((stream, peer)), Some(place)) => {
                    let router = router.clone().layer(Extension(peer));
                    connections.spawn(converse(stream, router, place));
                }
                (Ok(_), None) => {}
                (Err(error), unused) => {
                    debug!("the API turned away a connection: {error}");
                    place = unused;
                }
            },
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn hear(stream: TcpStream, from: SocketAddr, security: Security) -> io::Result<(AnyStream, Peer)> {
    let (stream, identity) = transhume_trust::stream::accept(stream, &security, Admits::Anyone).await?;
    let peer = match identity {
        Some(identity) => Peer::Certificate { identity, from },
        None => Peer::Address(from),
    };
    Ok((stream, peer))
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
