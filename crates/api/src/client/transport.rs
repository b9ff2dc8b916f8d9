//! HTTP to one coordinator, over a Unix socket, TCP, or TLS: a connection per request.

use std::io;
use std::path::PathBuf;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use transhume_trust::stream::{AnyStream, connect};
use transhume_trust::{Identity, Security};

/// Whatever comes between a question and its answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    /// Nobody is there: nothing was asked.
    #[error(transparent)]
    Absent(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{}", said(.0))]
    Http(#[from] hyper::Error),
}

/// Who is refused by TLS hears so with the first answer.
fn said(error: &hyper::Error) -> String {
    use std::error::Error as _;
    let of_tls = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .filter(|source| source.get_ref().is_some());
    match of_tls {
        Some(source) => transhume_trust::explain(source),
        None => error.to_string(),
    }
}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Absent(error) | TransportError::Io(error) => error,
            TransportError::Http(_) => io::Error::other(error),
        }
    }
}

/// Names of VMs may have any letters; those that a URI may not have are written as their bytes.
fn encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/?=&:@!$'()*+,;".contains(&byte);
    let bytes = path.bytes();
    bytes.fold(String::with_capacity(path.len()), |mut text, byte| {
        match plain(byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

/// Where the coordinator is.
#[derive(Debug, Clone)]
pub(super) enum Transport {
    Unix(PathBuf),
    /// Host and port as they were written.
    Tcp(String, Security),
}

/// An answer whose body is still to come. Dropping it ends the connection.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response<Incoming>,
    connection: AbortHandle,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Where else it is to be asked.
    pub(super) fn place(&self) -> Option<&str> {
        self.response.headers().get(LOCATION)?.to_str().ok()
    }

    /// All of it.
    pub(super) async fn bytes(&mut self) -> Result<Bytes, TransportError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    /// The next part of it; `None` at its end. May be dropped before it is done.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

impl Transport {
    async fn connect(&self) -> io::Result<AnyStream> {
        match self {
            Transport::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Transport::Tcp(at, security) => {
                let stream = TcpStream::connect(at).await?;
                connect(stream, security, Identity::Coordinator).await
            }
        }
    }

    /// Asks; the head of the answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, TransportError> {
        let stream = self.connect().await.map_err(TransportError::Absent)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its end is seen where the answer is read.
        let connection = tokio::spawn(async { drop(connection.await) }).abort_handle();
        let host = match self {
            Transport::Unix(_) => "coordinator",
            Transport::Tcp(at, _) => at,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(encoded(path))
            .header(HOST, host)
            .header(ACCEPT, "application/json, text/event-stream");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request
            .body(body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let response = sender.send_request(request).await?;
        Ok(Answer { response, connection })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_a_uri_may_not_have_are_written_as_their_bytes() {
        assert_eq!(encoded("/v1/clusters/lab?after=7"), "/v1/clusters/lab?after=7");
        assert_eq!(encoded("/vms/Büro 1%"), "/vms/B%C3%BCro%201%25");
    }
}
