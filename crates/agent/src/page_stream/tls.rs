//! TLS 1.3 between agents: both show a certificate of the fleet's own authority, and the target's
//! names its address (rustls).

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Wire;
use crate::limits::PAGE_CHUNK_BYTES;

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
    acceptor: TlsAcceptor,
    connector: TlsConnector,
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
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
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificate.clone(), key.clone_key())
            .map_err(unusable)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(authority)
            .with_client_auth_cert(certificate, key)
            .map_err(unusable)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }

    /// The source's end.
    pub(super) async fn connect(&self, target: IpAddr, stream: TcpStream) -> io::Result<Wire> {
        let mut stream = self
            .connector
            .connect(ServerName::IpAddress(target.into()), stream)
            .await?;
        // A chunk becomes one call to the kernel.
        stream.get_mut().1.set_buffer_limit(Some(PAGE_CHUNK_BYTES));
        Ok(Box::new(stream))
    }

    /// The target's end.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Wire> {
        Ok(Box::new(self.acceptor.accept(stream).await?))
    }
}
