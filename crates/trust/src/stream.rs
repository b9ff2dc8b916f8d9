//! Connections of tokio's, in the clear or behind TLS, for what is said in messages: orders,
//! reports, the API. Pages and frames have sealed records of their own.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::tls::server_name;
use crate::{Admits, Credentials, Identity, Security};

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
    let peer = Credentials::peer(stream.get_ref().1.peer_certificates());
    Ok((Box::new(stream), peer))
}

/// The end that dials. The other one may still refuse us: the first read says so.
pub async fn connect(stream: TcpStream, security: &Security, expects: Identity) -> io::Result<AnyStream> {
    stream.set_nodelay(true)?;
    let Security::Mutual(trust) = security else {
        return Ok(Box::new(stream));
    };
    let config = trust.current().client(expects).map_err(io::Error::other)?;
    let connected = TlsConnector::from(config).connect(server_name(), stream).await;
    Ok(Box::new(connected.map_err(refused)?))
}
