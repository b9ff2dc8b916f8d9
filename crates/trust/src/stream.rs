//! Connections of tokio's, in the clear or behind TLS, for what is said in messages: orders,
//! reports, the API. Pages and frames have sealed records of their own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::limits::LOOK_AGAIN;
use crate::tls::server_name;
use crate::{Admits, Credentials, Identity, Security, Trust};

/// Whatever is between the bytes and the wire.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection.
pub type AnyStream = Box<dyn Stream>;

/// What is not admitted is told so, and told to the caller in words.
fn refused(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, crate::explain(&error))
}

/// The end that was dialled. Who is at the other one; `None` where nobody proves that.
pub async fn accept(
    stream: TcpStream,
    security: &Security,
    admits: Admits,
) -> io::Result<(AnyStream, Option<Identity>)> {
    stream.set_nodelay(true)?;
    let Security::Mutual(trust) = security else {
        return Ok((Box::new(stream), None));
    };
    let config = trust.current().server(admits).map_err(io::Error::other)?;
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(refused)?;
    let certificates = stream.get_ref().1.peer_certificates();
    let (peer, shown) = (Credentials::peer(certificates), shown(certificates));
    Ok((Box::new(Watched::new(stream, trust, shown)), peer))
}

/// The end that dials. The other one may still refuse us: the first read says so.
pub async fn connect(stream: TcpStream, security: &Security, expects: Identity) -> io::Result<AnyStream> {
    stream.set_nodelay(true)?;
    let Security::Mutual(trust) = security else {
        return Ok(Box::new(stream));
    };
    let config = trust.current().client(expects).map_err(io::Error::other)?;
    let connected = TlsConnector::from(config).connect(server_name(), stream).await;
    let stream = connected.map_err(refused)?;
    let shown = shown(stream.get_ref().1.peer_certificates());
    Ok(Box::new(Watched::new(stream, trust, shown)))
}

/// The library says of an end without close_notify where its manual speaks of that; who reads a log
/// wants to know what happened.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(
            error.kind(),
            "the connection was cut: its other end has ended, or what is between",
        ),
        _ => error,
    }
}

fn shown(certificates: Option<&[CertificateDer<'_>]>) -> Option<CertificateDer<'static>> {
    Some(certificates?.first()?.clone().into_owned())
}

/// A connection that ends when its peer's certificate is revoked: whoever reads is told so.
struct Watched<S> {
    stream: S,
    trust: Arc<Trust>,
    shown: Option<CertificateDer<'static>>,
    look: Interval,
}

impl<S> Watched<S> {
    fn new(stream: S, trust: &Arc<Trust>, shown: Option<CertificateDer<'static>>) -> Self {
        let mut look = interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream,
            trust: trust.clone(),
            shown,
            look,
        }
    }

    /// Looks when it is time to.
    fn is_revoked(&mut self, context: &mut Context<'_>) -> bool {
        // Ready again and again would keep the reader from waiting.
        while self.look.poll_tick(context).is_ready() {
            let current = self.trust.current();
            if self
                .shown
                .as_ref()
                .is_some_and(|shown| current.has_revoked(shown))
            {
                return true;
            }
        }
        false
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_revoked(context) {
            let why = "its certificate was revoked meanwhile";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, why)));
        }
        Pin::new(&mut self.stream)
            .poll_read(context, into)
            .map_err(in_words)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_cut_is_called_that() {
        let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "see https://example.org/manual");
        let told = in_words(cut);
        assert_eq!(told.kind(), io::ErrorKind::UnexpectedEof);
        assert!(told.to_string().starts_with("the connection was cut"), "{told}");
        let other = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(in_words(other).kind(), io::ErrorKind::ConnectionReset);
    }
}
