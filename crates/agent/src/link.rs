//! The coordinator's connection: orders in, reports out.
//!
//! ```text
//!  accept ─▶ handshake ─▶ the coordinator? ─▶ its hello ─▶ the fleet's, and no older term? ─▶ takes
//!              └────────────── 5 s in all, 16 at once ──────────────┘       the older one's place
//! ```
//!
//! The newest connection wins, once it is known to be a coordinator's that is obeyed: nobody else
//! ends the one that stands, or is told anything. Epochs are checked where an order meets its VM.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, timeout};
use tracing::{info, warn};
use transhume_model::Epoch;
use transhume_protocol::message::{AnyOrder, Hello, Leader, Order, Outcome, Refusal, Report};
use transhume_protocol::wire;
use transhume_trust::stream::{AnyStream, accept};
use transhume_trust::{Admits, Identity, Security, Strangers};

use crate::limits::{LINK_SILENCE_MS_MAX, REPORTS_WAITING_MAX};

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
    /// Message B, sent first on each connection, which speaks that version of the messages.
    fn greeting(&self, protocol: u16) -> impl Future<Output = Report> + Send;
    /// Takes an order; its reports go through [`Reports`].
    fn take(&self, order: Order) -> impl Future<Output = ()> + Send;
    /// Answers an order that this release does not understand.
    fn refuse(&self, order: AnyOrder, why: &wire::WireError);
}

/// Accepts coordinators for as long as the agent lives.
pub(crate) async fn serve<D: OrderHandler>(
    listener: TcpListener,
    security: Security,
    reports: Reports,
    handler: D,
) {
    let mut strangers = Strangers::default();
    let mut obeyed: Option<(Leader, oneshot::Sender<()>)> = None;
    loop {
        let admitted = tokio::select! {
            accepted = listener.accept() => {
                match accepted {
                    Ok((stream, peer)) => {
                        strangers.hear(admit(stream, peer, security.clone(), handler.clone()));
                    }
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
            Ok(Admitted {
                read,
                write,
                leader,
                protocol,
                peer,
            }) => {
                // One that was admitted first may be heard out last.
                let stands = obeyed.as_ref().filter(|(_, stay)| !stay.is_closed());
                if stands.is_some_and(|(newer, _)| newer.fleet == leader.fleet && newer.term > leader.term) {
                    warn!(%peer, term = leader.term, "turned away a coordinator: a newer one was admitted meanwhile");
                    continue;
                }
                info!(fleet = %leader.fleet, term = leader.term, protocol, "coordinator connected");
                let (stay, newer) = oneshot::channel::<()>();
                // Dropped, it ends the connection that was obeyed until now.
                drop(obeyed.replace((leader, stay)));
                let (outgoing, reports, handler) = (reports.replace(), reports.clone(), handler.clone());
                tokio::spawn(async move {
                    let why = tokio::select! {
                        biased;
                        _ = newer => "replaced by a newer connection".to_owned(),
                        why = converse(read, write, protocol, outgoing, &reports, &handler) => why,
                    };
                    info!(%peer, "coordinator disconnected: {why}");
                });
            }
            Err(why) => warn!("turned away a connection: {why}"),
        }
    }
}

/// A coordinator that is obeyed.
struct Admitted {
    read: BufReader<ReadHalf<AnyStream>>,
    write: WriteHalf<AnyStream>,
    leader: Leader,
    /// Version of the messages that both speak.
    protocol: u16,
    peer: SocketAddr,
}

/// Nothing is said before it is known to be a coordinator, and nothing changes for whoever is
/// obeyed before it has said which fleet it leads.
async fn admit<D: OrderHandler>(
    stream: TcpStream,
    peer: SocketAddr,
    security: Security,
    handler: D,
) -> io::Result<Admitted> {
    let of_peer = |error: io::Error| io::Error::new(error.kind(), format!("{peer}: {error}"));
    let admits = Admits::Exactly(Identity::Coordinator);
    let (stream, _) = accept(stream, &security, admits).await.map_err(of_peer)?;
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    let hello = read_message(&mut read).await.map_err(of_peer)?;
    let hello: Hello = wire::decode(&hello).map_err(io::Error::other).map_err(of_peer)?;
    if let Err(refusal) = tokio::task::block_in_place(|| handler.admit(&hello)) {
        let why = refusal.to_string();
        let report = Report {
            order: None,
            epoch: Epoch::default(),
            vm: None,
            at: crate::clock::wall(),
            outcome: Outcome::Refused(refusal),
        };
        let bytes = wire::encode(&report).map_err(io::Error::other)?;
        write.write_all(&bytes).await.map_err(of_peer)?;
        write.flush().await.map_err(of_peer)?;
        return Err(of_peer(io::Error::new(io::ErrorKind::PermissionDenied, why)));
    }
    let protocol = hello.spoken().map_err(io::Error::other).map_err(of_peer)?;
    Ok(Admitted {
        read,
        write,
        leader: hello.leader,
        protocol,
        peer,
    })
}

async fn converse<D: OrderHandler>(
    read: BufReader<ReadHalf<AnyStream>>,
    write: WriteHalf<AnyStream>,
    protocol: u16,
    outgoing: mpsc::Receiver<Report>,
    reports: &Reports,
    handler: &D,
) -> String {
    reports.send(handler.greeting(protocol).await);
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
            Ok(Ok(body)) => match wire::decode(&body) {
                Ok(order) => handler.take(order).await,
                // A newer coordinator's mistake costs this order, and not the link and all others.
                Err(why) => match wire::decode::<AnyOrder>(&body) {
                    Ok(order) => handler.refuse(order, &why),
                    Err(_) => return why.to_string(),
                },
            },
        }
    }
}

async fn read_message(read: &mut BufReader<ReadHalf<AnyStream>>) -> io::Result<Vec<u8>> {
    let mut prefix = [0; wire::LENGTH_BYTES];
    read.read_exact(&mut prefix).await?;
    let mut body = vec![0; wire::length(prefix).map_err(io::Error::other)?];
    read.read_exact(&mut body).await?;
    Ok(body)
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
