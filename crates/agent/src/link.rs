//! The coordinator's connection: orders in, reports out.
//!
//! ```text
//!  accept ─▶ handshake, beside all others, 5 s ─▶ the coordinator? ─▶ its hello ─▶ the fleet's, and
//!  no older term? ─▶ takes the older one's place
//! ```
//!
//! The newest connection wins, once it is known to be a coordinator's that is obeyed: nobody else
//! ends the one that stands, or is told anything. Epochs are checked where an order meets its VM.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Duration, timeout};
use tracing::{info, warn};
use transhume_model::Epoch;
use transhume_protocol::message::{Hello, Order, Outcome, Refusal, Report};
use transhume_protocol::wire;
use transhume_trust::stream::{AnyStream, accept};
use transhume_trust::{Admits, Identity, Security, Strangers};

use crate::limits::{HELLO_MAX, LINK_SILENCE_MS_MAX, REPORTS_WAITING_MAX, STRANGERS_MAX};

/// Where reports go: the newest connection, or nowhere. A report that finds no link is dropped; the
/// coordinator gives its orders again when it is back, and they are answered again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports {
    link: Arc<Mutex<Option<mpsc::Sender<Report>>>>,
}

impl Reports {
    /// Sends without waiting; a link that does not keep up is cut.
    pub(crate) fn send(&self, report: Report) {
        let mut link = self.link.lock().expect("no holder of this lock panics");
        if let Some(sender) = link.as_ref()
            && sender.try_send(report).is_err()
        {
            warn!("the coordinator's connection does not keep up or is gone; its reports are dropped");
            *link = None;
        }
    }

    /// The newest connection's end from here on.
    pub(crate) fn replace(&self) -> mpsc::Receiver<Report> {
        let (sender, receiver) = mpsc::channel(REPORTS_WAITING_MAX);
        *self.link.lock().expect("no holder of this lock panics") = Some(sender);
        receiver
    }
}

/// What becomes of orders, and what a new connection is told first.
pub(crate) trait OrderHandler: Clone + Send + Sync + 'static {
    /// Whether a coordinator is obeyed here.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;
    /// Message B, sent first on each connection.
    fn greeting(&self) -> impl Future<Output = Report> + Send;
    /// Takes an order; its reports go through [`Reports`].
    fn take(&self, order: Order) -> impl Future<Output = ()> + Send;
}

/// Accepts coordinators for as long as the agent lives.
pub(crate) async fn serve<D: OrderHandler>(
    listener: TcpListener,
    security: Security,
    reports: Reports,
    handler: D,
) {
    let obeyed = Obeyed::default();
    let mut strangers = Strangers::default();
    let unheard = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let admitted = tokio::select! {
            accepted = listener.accept() => {
                match accepted {
                    Ok((stream, peer)) => strangers.hear(admit(stream, peer, security.clone())),
                    Err(error) => {
                        warn!("cannot accept a connection: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                continue;
            }
            admitted = strangers.next() => admitted,
        };
        match admitted {
            Ok((stream, peer)) => {
                let Ok(place) = unheard.clone().try_acquire_owned() else {
                    warn!(%peer, "too many connections that have not said who they are");
                    continue;
                };
                let (reports, handler, obeyed) = (reports.clone(), handler.clone(), obeyed.clone());
                tokio::spawn(async move {
                    let why = greet(stream, &reports, &handler, &obeyed, place).await;
                    info!(%peer, "coordinator disconnected: {why}");
                });
            }
            Err(why) => warn!("turned away what is no coordinator: {why}"),
        }
    }
}

/// The connection that is obeyed; a newer one ends it.
#[derive(Debug, Clone, Default)]
struct Obeyed {
    newer: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

impl Obeyed {
    /// This one is, from here on; told when it is no more.
    fn replace(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        *self.newer.lock().expect("no holder of this lock panics") = Some(sender);
        receiver
    }
}

/// Nothing is said, and nothing is changed, before it is known to be a coordinator.
async fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    security: Security,
) -> io::Result<(AnyStream, SocketAddr)> {
    let admits = Admits::Exactly(Identity::Coordinator);
    let accepted = accept(stream, &security, admits).await;
    let (stream, _) = accepted.map_err(|error| io::Error::new(error.kind(), format!("{peer}: {error}")))?;
    Ok((stream, peer))
}

/// Nothing changes for whoever is obeyed before the other side has said which fleet it leads.
async fn greet<D: OrderHandler>(
    stream: AnyStream,
    reports: &Reports,
    handler: &D,
    obeyed: &Obeyed,
    place: OwnedSemaphorePermit,
) -> String {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    let hello: Hello = match timeout(HELLO_MAX, read_message(&mut read)).await {
        Err(_) => return format!("it did not say who it is within {HELLO_MAX:?}"),
        Ok(Err(error)) => return error.to_string(),
        Ok(Ok(hello)) => hello,
    };
    let admitted = tokio::task::block_in_place(|| handler.admit(&hello));
    if let Err(refusal) = admitted {
        let why = refusal.to_string();
        let report = Report {
            order: None,
            epoch: Epoch::default(),
            vm: None,
            at: crate::clock::wall(),
            outcome: Outcome::Refused(refusal),
        };
        if let Ok(bytes) = wire::encode(&report) {
            // Whoever is refused may have gone.
            let _ = timeout(HELLO_MAX, async {
                write.write_all(&bytes).await?;
                write.flush().await
            })
            .await;
        }
        return why;
    }
    drop(place);
    info!(fleet = %hello.leader.fleet, term = hello.leader.term, "coordinator connected");
    let newer = obeyed.replace();
    tokio::select! {
        why = converse(read, write, reports, handler) => why,
        _ = newer => "replaced by a newer connection".to_owned(),
    }
}

async fn converse<D: OrderHandler>(
    read: BufReader<ReadHalf<AnyStream>>,
    write: WriteHalf<AnyStream>,
    reports: &Reports,
    handler: &D,
) -> String {
    let outgoing = reports.replace();
    reports.send(handler.greeting().await);
    tokio::select! {
        why = receive(read, handler) => why,
        why = transmit(write, outgoing) => why,
    }
}

async fn receive<D: OrderHandler>(mut read: BufReader<ReadHalf<AnyStream>>, handler: &D) -> String {
    loop {
        let next = timeout(
            Duration::from_millis(LINK_SILENCE_MS_MAX),
            read_message(&mut read),
        )
        .await;
        match next {
            Err(_) => return format!("silent for {LINK_SILENCE_MS_MAX} ms"),
            Ok(Err(error)) => return error.to_string(),
            Ok(Ok(order)) => handler.take(order).await,
        }
    }
}

async fn read_message<M: DeserializeOwned>(
    read: &mut BufReader<ReadHalf<AnyStream>>,
) -> Result<M, Box<dyn std::error::Error + Send + Sync>> {
    let mut prefix = [0; wire::LENGTH_BYTES];
    read.read_exact(&mut prefix).await?;
    let mut body = vec![0; wire::length(prefix)?];
    read.read_exact(&mut body).await?;
    Ok(wire::decode(&body)?)
}

async fn transmit(write: WriteHalf<AnyStream>, mut outgoing: mpsc::Receiver<Report>) -> String {
    let mut write = BufWriter::new(write);
    while let Some(report) = outgoing.recv().await {
        let sent = async {
            let bytes = wire::encode(&report).map_err(std::io::Error::other)?;
            write.write_all(&bytes).await?;
            if outgoing.is_empty() {
                write.flush().await
            } else {
                Ok(())
            }
        };
        if let Err(error) = sent.await {
            return error.to_string();
        }
    }
    "replaced by a newer connection".to_owned()
}

#[cfg(test)]
mod tests;
