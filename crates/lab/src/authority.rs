//! The lab's own certificate authority: one certificate per host, naming the address where its
//! agent takes page streams.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::LabError;

/// Signs certificates; its key is never written.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

/// Files of one host, PEM; as the agent's `[tls]` names them.
#[derive(Serialize)]
pub struct Identity {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn unusable(source: rcgen::Error) -> LabError {
    LabError::Certificate(source)
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(|source| LabError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

impl Authority {
    /// A new one, whose certificate is written into the directory.
    pub fn create(dir: &Path) -> Result<Self, LabError> {
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::CommonName, "Transhume lab");
        let signed = params.self_signed(&key).map_err(unusable)?;
        let certificate = dir.join("authority.pem");
        write(&certificate, &signed.pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// A certificate for an address, with its key, in the directory.
    pub fn identify(&self, dir: &Path, address: IpAddr) -> Result<Identity, LabError> {
        let key = KeyPair::generate().map_err(unusable)?;
        let params = CertificateParams::new([address.to_string()]).map_err(unusable)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(unusable)?;
        let identity = Identity {
            authority: self.certificate.clone(),
            certificate: dir.join("agent.pem"),
            key: dir.join("agent.key"),
        };
        write(&identity.certificate, &signed.pem())?;
        write(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}
