//! TLS 1.3 between agents: both show a certificate of the fleet's own authority, and the target's
//! names its address (rustls).

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::kernel::KernelConnection;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{ClientConfig, ExtractedSecrets, RootCertStore, ServerConfig};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connection::Connection;
use super::invalid;
use super::records::{Opener, Sealer, SharedKeys};
use crate::limits::TLS_HANDSHAKE_BYTES_MAX;

/// PEM files of one agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The authority that signed every agent's certificate.
    pub authority: PathBuf,
    /// This agent's certificate; it names the address that the agent listens on for page streams.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, or not PEM of the kind expected.
    #[error("cannot read {path} as PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate, the key and the authority do not fit.
    #[error("the certificate of this agent cannot be used")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Both roles of one agent.
#[derive(Clone)]
pub struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

fn pem<T: PemObject>(path: &Path) -> Result<T, TlsError> {
    T::from_pem_file(path).map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Unusable(Box::new(error))
}

impl Tls {
    /// Reads the files.
    pub fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(CryptoProvider {
            // The fastest of them where the processor knows AES, as nearly all do.
            cipher_suites: vec![
                TLS13_AES_128_GCM_SHA256,
                TLS13_AES_256_GCM_SHA384,
                TLS13_CHACHA20_POLY1305_SHA256,
            ],
            ..rustls::crypto::ring::default_provider()
        });
        let mut authority = RootCertStore::empty();
        authority
            .add(pem::<CertificateDer>(&files.authority)?)
            .map_err(unusable)?;
        let authority = Arc::new(authority);
        let certificate = vec![pem::<CertificateDer>(&files.certificate)?];
        let key: PrivateKeyDer = pem(&files.key)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(authority.clone(), provider.clone())
            .build()
            .map_err(unusable)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificate.clone(), key.clone_key())
            .map_err(unusable)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(authority)
            .with_client_auth_cert(certificate, key)
            .map_err(unusable)?;
        // Nothing is resumed, and the records are ours.
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        client.enable_secret_extraction = true;
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }

    /// The source's end.
    pub(super) async fn connect(&self, target: IpAddr, mut stream: TcpStream) -> io::Result<Connection> {
        let name = ServerName::IpAddress(target.into());
        let mut tls = UnbufferedClientConnection::new(self.client.clone(), name).map_err(invalid)?;
        let arrived = shake(&mut stream, |bytes, out| {
            step(tls.process_tls_records(bytes), out)
        })
        .await?;
        let (secrets, keys) = tls.dangerous_into_kernel_connection().map_err(invalid)?;
        with_keys(stream, &secrets, keys, arrived)
    }

    /// The target's end.
    pub(super) async fn accept(&self, mut stream: TcpStream) -> io::Result<Connection> {
        let mut tls = UnbufferedServerConnection::new(self.server.clone()).map_err(invalid)?;
        let arrived = shake(&mut stream, |bytes, out| {
            step(tls.process_tls_records(bytes), out)
        })
        .await?;
        let (secrets, keys) = tls.dangerous_into_kernel_connection().map_err(invalid)?;
        with_keys(stream, &secrets, keys, arrived)
    }
}

/// The records that follow the handshake are ours.
fn with_keys<D: Send + 'static>(
    stream: TcpStream,
    secrets: &ExtractedSecrets,
    keys: KernelConnection<D>,
    arrived: Arrived,
) -> io::Result<Connection> {
    let keys: SharedKeys = Arc::new(std::sync::Mutex::new(keys));
    let (sent, received) = (&secrets.tx, &secrets.rx);
    let sealer = Sealer::new(&sent.1, sent.0, keys.clone());
    let opener = Opener::new(&received.1, received.0, keys);
    match (sealer, opener) {
        (Some(sealer), Some(opener)) => Ok(Connection::sealed(stream, sealer, opener, arrived)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// What the peer sent behind its part of the handshake.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// Of whole records that were opened.
    pub opened: Vec<u8>,
    /// Still sealed.
    pub sealed: Vec<u8>,
}

/// What the handshake needs next.
enum Step {
    On,
    Write,
    Read,
    Done,
    Opened(Vec<u8>),
}

/// Bytes taken, and what is next. What is to be written is appended to `out`.
fn step<D>(status: UnbufferedStatus<'_, '_, D>, out: &mut Vec<u8>) -> io::Result<(usize, Step)> {
    let UnbufferedStatus { discard, state } = status;
    let next = match state.map_err(invalid)? {
        ConnectionState::EncodeTlsData(mut data) => {
            let start = out.len();
            let needed = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                Err(error) => return Err(invalid(error)),
                Ok(_) => 0,
            };
            out.resize(start + needed, 0);
            data.encode(&mut out[start..]).map_err(invalid)?;
            Step::On
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::Write
        }
        ConnectionState::BlockedHandshake => Step::Read,
        ConnectionState::WriteTraffic(_) => Step::Done,
        ConnectionState::ReadTraffic(mut traffic) => {
            let mut opened = Vec::new();
            while let Some(record) = traffic.next_record() {
                opened.extend_from_slice(record.map_err(invalid)?.payload);
            }
            Step::Opened(opened)
        }
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    Ok((discard, next))
}

/// Makes the handshake.
async fn shake(
    stream: &mut TcpStream,
    mut next: impl FnMut(&mut [u8], &mut Vec<u8>) -> io::Result<(usize, Step)>,
) -> io::Result<Arrived> {
    let (mut arrived, mut out) = (Arrived::default(), Vec::new());
    loop {
        let (taken, step) = match next(&mut arrived.sealed, &mut out) {
            Ok(done) => done,
            Err(error) => {
                // rustls has an alert ready that tells the peer why, and the peer may be gone.
                if let Ok((_, Step::On)) = next(&mut [], &mut out) {
                    let _ = stream.write_all(&out).await;
                }
                return Err(error);
            }
        };
        arrived.sealed.drain(..taken);
        match step {
            Step::On => {}
            Step::Write => stream.write_all(&std::mem::take(&mut out)).await?,
            Step::Read if arrived.sealed.len() >= TLS_HANDSHAKE_BYTES_MAX => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the TLS handshake is too long",
                ));
            }
            Step::Read if stream.read_buf(&mut arrived.sealed).await? == 0 => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Step::Read => {}
            Step::Done => return Ok(arrived),
            Step::Opened(bytes) => arrived.opened.extend(bytes),
        }
    }
}
