//! TLS 1.3 as a fleet speaks it: both sides show a certificate, and say who they expect.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};

use crate::certificate::Validity;
use crate::verify::{Anchors, Verifier};
use crate::{Identity, certificate};

/// Who is let in, or expected at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admits {
    /// This one alone.
    Exactly(Identity),
    /// The agent of any host of the fleet.
    Agents,
    /// Everybody who has a certificate of the fleet.
    Anyone,
}

impl Admits {
    pub(crate) fn admits(&self, found: &Identity) -> bool {
        match self {
            Admits::Exactly(wanted) => wanted == found,
            Admits::Agents => matches!(found, Identity::Agent(_)),
            Admits::Anyone => true,
        }
    }
}

impl fmt::Display for Admits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Admits::Exactly(identity) => identity.fmt(f),
            Admits::Agents => f.write_str("an agent"),
            Admits::Anyone => f.write_str("anyone of the fleet"),
        }
    }
}

/// One part's certificate and key, and what it holds others' against; as the files were when they
/// were read.
pub struct Credentials {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) identity: Identity,
    pub(crate) validity: Validity,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.identity)
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        // The fastest of them where the processor knows AES, as nearly all do.
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::ring::default_provider()
    })
}

impl Credentials {
    /// Who this part is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// From when to when its certificate is good.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    fn verifier(&self, admits: Admits) -> Arc<Verifier> {
        Arc::new(Verifier {
            anchors: self.anchors.clone(),
            admits,
        })
    }

    /// For whoever dials.
    pub fn client(&self, expects: Identity) -> Result<Arc<ClientConfig>, Error> {
        let mut config = ClientConfig::builder_with_provider(self.anchors.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(Admits::Exactly(expects)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.enable_sni = false;
        // Nothing is resumed, and the records of pages and tunnels are ours.
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }

    /// For whoever is dialled.
    pub fn server(&self, admits: Admits) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(self.anchors.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(self.verifier(admits))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }

    /// Whether a certificate that a handshake has verified is on the list by now.
    #[cfg(feature = "tokio")]
    pub(crate) fn has_revoked(&self, certificate: &CertificateDer<'_>) -> bool {
        let lists = &self.anchors.revoked;
        let serial = certificate::serial(certificate);
        let listed = |serial: Vec<u8>| {
            let mut lists = lists.iter();
            lists.any(|list| matches!(list.find_serial(&serial), Ok(Some(_))))
        };
        serial.is_some_and(listed)
    }

    /// Whose certificate a peer showed, which a handshake has verified.
    pub fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Option<Identity> {
        certificate::identity(certificates?.first()?)
    }
}

/// For where one is wanted: who is expected stands in the configuration, and no verifier looks at
/// this.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from("transhume.invalid").expect("it is a name of the DNS")
}
