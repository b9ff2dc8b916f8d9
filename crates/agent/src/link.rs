//! The coordinator's connection: orders in, reports out.
//!
//! The newest connection wins; an older one ends when a new one is accepted. Fencing is not the
//! link's business: epochs are checked where an order meets its VM.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};
use tracing::{info, warn};
use transhume_protocol::message::{Order, Report};
use transhume_protocol::wire;

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
    /// Message B, sent first on each connection.
    fn greeting(&self) -> impl Future<Output = Report> + Send;
    /// Takes an order; its reports go through [`Reports`].
    fn take(&self, order: Order) -> impl Future<Output = ()> + Send;
}

/// Accepts coordinators for as long as the agent lives.
pub(crate) async fn serve<D: OrderHandler>(listener: TcpListener, reports: Reports, handler: D) {
    let mut current: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                info!(%peer, "coordinator connected");
                if let Some(older) = current.take() {
                    older.abort();
                }
                let (reports, handler) = (reports.clone(), handler.clone());
                current = Some(tokio::spawn(async move {
                    let why = converse(stream, &reports, &handler).await;
                    info!(%peer, "coordinator disconnected: {why}");
                }));
            }
            Err(error) => {
                warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<D: OrderHandler>(stream: TcpStream, reports: &Reports, handler: &D) -> String {
    if let Err(error) = stream.set_nodelay(true) {
        return error.to_string();
    }
    let (read, write) = stream.into_split();
    let outgoing = reports.replace();
    reports.send(handler.greeting().await);
    tokio::select! {
        why = receive(read, handler) => why,
        why = transmit(write, outgoing) => why,
    }
}

async fn receive<D: OrderHandler>(read: OwnedReadHalf, handler: &D) -> String {
    let mut read = BufReader::new(read);
    loop {
        let next = timeout(Duration::from_millis(LINK_SILENCE_MS_MAX), read_order(&mut read)).await;
        match next {
            Err(_) => return format!("silent for {LINK_SILENCE_MS_MAX} ms"),
            Ok(Err(error)) => return error.to_string(),
            Ok(Ok(order)) => handler.take(order).await,
        }
    }
}

async fn read_order(
    read: &mut BufReader<OwnedReadHalf>,
) -> Result<Order, Box<dyn std::error::Error + Send + Sync>> {
    let mut prefix = [0; wire::LENGTH_BYTES];
    read.read_exact(&mut prefix).await?;
    let mut body = vec![0; wire::length(prefix)?];
    read.read_exact(&mut body).await?;
    Ok(wire::decode(&body)?)
}

async fn transmit(write: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Report>) -> String {
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
