//! A part's files, read again when they change.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::limits::{FILE_BYTES_MAX, LOOK_AGAIN};
use crate::tls::{Credentials, provider};
use crate::verify::{Anchors, revocations};
use crate::{certificate, explain};

/// PEM files of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustFiles {
    /// The authority that signed every certificate of the fleet.
    pub authority: PathBuf,
    /// This part's certificate.
    pub certificate: PathBuf,
    /// Its private key; nobody else may read the file.
    pub key: PathBuf,
    /// The list of revoked certificates; none is where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not there.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not PEM of the kind expected.
    #[error("{path} holds no {what} as PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is expected there.
        what: &'static str,
    },
    /// Others could take it.
    #[error("others than its owner may read the private key {path}: `chmod 600` it")]
    KeyReadable {
        /// The file.
        path: PathBuf,
    },
    /// The certificate names nobody.
    #[error("the certificate {path} names no identity of a fleet; `transhume ca issue` makes one that does")]
    Nobody {
        /// The file.
        path: PathBuf,
    },
    /// The list of revoked certificates is of another authority.
    #[error("{path} is no list of this fleet's authority: nobody would be revoked by it")]
    OtherList {
        /// The list.
        path: PathBuf,
    },
    /// Key and certificate, or list and authority, do not fit.
    #[error("the files of certificate {path} cannot be used")]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// By what it is seen that a file has changed.
type Stamp = Option<(SystemTime, u64, u64)>;

/// The files of this part as they are now.
#[derive(Debug)]
pub struct Trust {
    files: TrustFiles,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    current: Arc<Credentials>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

impl Trust {
    /// Reads the files.
    pub fn read(files: TrustFiles) -> Result<Arc<Self>, TrustError> {
        let stamps = stamps(&files);
        let current = Arc::new(read(&files)?);
        let seen = Seen {
            current,
            stamps,
            looked: Instant::now(),
        };
        Ok(Arc::new(Self {
            files,
            seen: Mutex::new(seen),
        }))
    }

    /// What the files say. One that changed was looked at within [`LOOK_AGAIN`]; where they cannot
    /// be used, what they said before stays.
    pub fn current(&self) -> Arc<Credentials> {
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        if seen.looked.elapsed() >= LOOK_AGAIN {
            seen.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != seen.stamps {
                match read(&self.files) {
                    Ok(read) => {
                        // Where it fails, it is tried again with the next look.
                        seen.stamps = stamps;
                        let until = certificate::instant(read.validity.until);
                        tracing::info!(identity = %read.identity, %until, "certificate read again");
                        seen.current = Arc::new(read);
                    }
                    Err(error) => {
                        let why = explain::chain(&error);
                        tracing::warn!("changed certificates cannot be used, those before stay: {why}");
                    }
                }
            }
        }
        seen.current.clone()
    }
}

fn stamps(files: &TrustFiles) -> Vec<Stamp> {
    let paths = [
        Some(&files.authority),
        Some(&files.certificate),
        Some(&files.key),
        files.revoked.as_ref(),
    ];
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    paths.into_iter().flatten().map(stamp).collect()
}

/// A regular file of a sensible size.
pub(crate) fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        let why = format!("it is no file of at most {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    fs::read(path)
}

pub(crate) fn pem<T: PemObject>(path: &Path, what: &'static str) -> Result<T, TrustError> {
    let text = contents(path).map_err(|source| TrustError::Read {
        path: path.to_owned(),
        source,
    })?;
    T::from_pem_slice(&text).map_err(|_| TrustError::Pem {
        path: path.to_owned(),
        what,
    })
}

fn read(files: &TrustFiles) -> Result<Credentials, TrustError> {
    let path = || files.certificate.clone();
    let unusable =
        |source: Box<dyn std::error::Error + Send + Sync>| TrustError::Unusable { path: path(), source };
    let provider = provider();
    let authority: CertificateDer = pem(&files.authority, "certificate")?;
    let anchor = webpki::anchor_from_trusted_cert(&authority).map_err(|error| unusable(error.into()))?;
    let revoked = match &files.revoked {
        Some(path) => {
            let list: CertificateRevocationListDer = pem(path, "list of revoked certificates")?;
            let list = revocations(&list).map_err(|error| unusable(error.into()))?;
            // A list of another's would be passed over, and nobody be revoked.
            if list.issuer() != anchor.subject.as_ref() {
                return Err(TrustError::OtherList { path: path.clone() });
            }
            vec![list]
        }
        None => Vec::new(),
    };
    let own: CertificateDer = pem(&files.certificate, "certificate")?;
    let (Some(identity), Some(validity)) = (certificate::identity(&own), certificate::validity(&own)) else {
        return Err(TrustError::Nobody { path: path() });
    };
    let readable = fs::metadata(&files.key).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
    if readable {
        return Err(TrustError::KeyReadable {
            path: files.key.clone(),
        });
    }
    let key: PrivateKeyDer = pem(&files.key, "private key")?;
    let key = CertifiedKey::from_der(vec![own], key, &provider).map_err(|error| unusable(error.into()))?;
    Ok(Credentials {
        key: Arc::new(key),
        anchors: Arc::new(Anchors {
            authority: vec![anchor.to_owned()],
            revoked,
            provider,
        }),
        identity,
        validity,
    })
}
