//! etcd's members: asked in turn until one answers, over connections that are kept.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::super::JournalError;
use super::gateway::{self, Done, Found, Granted, Streamed, Trouble, Txn};
use crate::etcd_spec::EtcdSpec;

/// Longest wait for a member before another is asked. What is asked may be asked twice: a write
/// compares with the last one.
const ATTEMPT_MAX: Duration = Duration::from_millis(700);
/// Pause after every member was asked in vain.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// An answer longer than this is none of etcd's: a page of the longest records is below.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Connections of one member that are kept: a write, a renewal and a beat may be under way.
const IDLE_MAX: usize = 4;

/// Why nothing came of it.
#[derive(Debug)]
pub(super) enum Failed {
    /// No member answered in time. What was asked may have been done.
    Away(String),
    /// One of them refused it, and so would all.
    Refused(String),
}

/// Why one attempt failed.
#[derive(Debug)]
enum Attempt {
    Away(String),
    Refused(String),
}

impl From<io::Error> for Attempt {
    fn from(error: io::Error) -> Self {
        Attempt::Away(error.to_string())
    }
}

impl From<hyper::Error> for Attempt {
    fn from(error: hyper::Error) -> Self {
        Attempt::Away(error.to_string())
    }
}

type Connection = SendRequest<Full<Bytes>>;

struct Member {
    endpoint: String,
    /// Host and port.
    at: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint)
    }
}

/// The members of one etcd.
#[derive(Debug)]
pub(super) struct Members {
    all: Vec<Member>,
    /// Who answered last.
    preferred: AtomicUsize,
}

impl Members {
    /// Nothing is connected yet.
    pub(super) fn new(spec: &EtcdSpec) -> Result<Self, JournalError> {
        let tls = tls(spec)?.map(TlsConnector::from);
        let member = |endpoint: &String| {
            let at = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, at)| at);
            let host = at.rsplit_once(':').map_or(at, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let tls = match &tls {
                None => None,
                Some(tls) => {
                    let name = ServerName::try_from(host).map_err(|error| broken(endpoint, &error))?;
                    Some((tls.clone(), name))
                }
            };
            Ok(Member {
                endpoint: endpoint.clone(),
                at: at.to_owned(),
                tls,
                idle: Mutex::default(),
            })
        };
        Ok(Self {
            all: spec
                .endpoints
                .iter()
                .map(member)
                .collect::<Result<_, JournalError>>()?,
            preferred: AtomicUsize::new(0),
        })
    }

    /// A transaction.
    pub(super) async fn txn(&self, until: impl Fn() -> Instant, txn: &Txn) -> Result<Done, Failed> {
        let body = txn.body();
        let (_, answer) = self.ask(until, "/v3/kv/txn", &body).await?;
        Done::read(&answer).map_err(|error| Failed::Refused(error.to_string()))
    }

    /// What is below a prefix, from a key on.
    pub(super) async fn range(&self, until: impl Fn() -> Instant, body: &[u8]) -> Result<Found, Failed> {
        let (_, answer) = self.ask(until, "/v3/kv/range", body).await?;
        parsed(&answer)
    }

    /// A new lease, and when the request for it left.
    pub(super) async fn grant(
        &self,
        until: impl Fn() -> Instant,
        seconds: u32,
    ) -> Result<(Instant, Granted), Failed> {
        let body = gateway::grant(seconds);
        let (sent, answer) = self.ask(until, "/v3/lease/grant", &body).await?;
        Ok((sent, parsed(&answer)?))
    }

    /// Renews a lease; when the request that did it left.
    pub(super) async fn renew(&self, until: impl Fn() -> Instant, id: i64) -> Result<Instant, Failed> {
        let (sent, answer) = self
            .ask(until, "/v3/lease/keepalive", &gateway::lease(id))
            .await?;
        match parsed(&answer)? {
            Streamed {
                result: Some(granted),
                ..
            } if granted.ttl > 0 => Ok(sent),
            Streamed {
                error: Some(trouble), ..
            } => Err(Failed::Refused(trouble.message)),
            Streamed { .. } => Err(Failed::Refused("it has run out".to_owned())),
        }
    }

    /// Gives a lease back.
    pub(super) async fn revoke(&self, until: impl Fn() -> Instant, id: i64) -> Result<(), Failed> {
        self.ask(until, "/v3/lease/revoke", &gateway::lease(id))
            .await
            .map(drop)
    }

    /// Asks one member after the other until one answers, or `until` has come; that is asked before
    /// each attempt, for it may move. With the answer comes when its question left.
    async fn ask(
        &self,
        until: impl Fn() -> Instant,
        path: &str,
        body: &[u8],
    ) -> Result<(Instant, Bytes), Failed> {
        let (mut asked, mut why) = (0, "there was no time to ask".to_owned());
        loop {
            let sent = Instant::now();
            let left = until().saturating_duration_since(sent);
            if left.is_zero() {
                return Err(Failed::Away(why));
            }
            let at = self.preferred.load(Ordering::Relaxed) % self.all.len();
            let member = &self.all[at];
            match timeout(left.min(ATTEMPT_MAX), member.ask(path, body)).await {
                Ok(Ok(answer)) => return Ok((sent, answer)),
                Ok(Err(Attempt::Refused(error))) => {
                    return Err(Failed::Refused(format!("{}: {error}", member.endpoint)));
                }
                Ok(Err(Attempt::Away(error))) => why = format!("{}: {error}", member.endpoint),
                Err(_) => why = format!("{} did not answer in time", member.endpoint),
            }
            self.preferred.store((at + 1) % self.all.len(), Ordering::Relaxed);
            asked += 1;
            if asked % self.all.len() == 0 {
                sleep(ROUND_PAUSE).await;
            }
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(answer).map_err(|error| Failed::Refused(format!("it answers {error}")))
}

impl Member {
    async fn ask(&self, path: &str, body: &[u8]) -> Result<Bytes, Attempt> {
        let kept = self.idle.lock().expect("no holder panics").pop();
        let mut connection = match kept.filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.at)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|error| Attempt::Refused(error.to_string()))?;
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let limited = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let whole = limited.collect().await;
        let whole = whole
            .map_err(|error| Attempt::Away(error.to_string()))?
            .to_bytes();
        let mut idle = self.idle.lock().expect("no holder panics");
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        drop(idle);
        if status.is_success() {
            return Ok(whole);
        }
        Err(match serde_json::from_slice::<Trouble>(&whole) {
            Ok(trouble) if trouble.is_final() => Attempt::Refused(trouble.message),
            Ok(trouble) => Attempt::Away(trouble.message),
            Err(_) => Attempt::Refused(format!(
                "what answers there is no etcd with its JSON gateway: it says {status}"
            )),
        })
    }

    async fn connect(&self) -> Result<Connection, Attempt> {
        let stream = TcpStream::connect(&self.at).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => talk(TokioIo::new(stream)).await,
            Some((tls, name)) => talk(TokioIo::new(tls.connect(name.clone(), stream).await?)).await,
        }
    }
}

async fn talk<S>(stream: S) -> Result<Connection, Attempt>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    // Its end is seen where the answer is read.
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}

fn broken(place: &str, why: &impl fmt::Display) -> JournalError {
    JournalError::Etcd {
        place: place.to_owned(),
        why: why.to_string(),
    }
}

/// As the files say; none where there is no authority.
fn tls(spec: &EtcdSpec) -> Result<Option<Arc<ClientConfig>>, JournalError> {
    let Some(authority) = &spec.authority else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots
            .add(certificate)
            .map_err(|error| broken(&authority.display().to_string(), &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken("TLS", &error))?
        .with_root_certificates(roots);
    let config = match (&spec.certificate, &spec.key) {
        (Some(certificate), Some(key)) => {
            let place = key.display().to_string();
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| broken(&place, &error))?;
            let own = builder.with_client_auth_cert(certificates(certificate)?, secret);
            own.map_err(|error| broken(&place, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Some(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, JournalError> {
    let place = path.display().to_string();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| broken(&place, &error))?;
    match read.is_empty() {
        true => Err(broken(&place, &"there is no certificate in it")),
        false => Ok(read),
    }
}
