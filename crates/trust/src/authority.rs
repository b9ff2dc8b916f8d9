//! A fleet's own certificate authority: a directory with its key, what it issued and what it
//! revoked.
//!
//! ```text
//!  ca.pem  ca.key (its owner's alone)  issued.jsonl (appended to)  revoked.pem (made from it)
//! ```
//!
//! Deliberately absent: authorities between this one and a certificate.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::certificate::{self, Validity};
use crate::limits::{AUTHORITY_DAYS, BACKDATED, CERTIFICATE_DAYS_MAX};
use crate::seen::{contents, pem};
use crate::{Identity, TrustError};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
const ISSUED: &str = "issued.jsonl";
const REVOKED: &str = "revoked.pem";
/// Read by their owner alone.
const KEY_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o644;

/// What an authority cannot do.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file.
    #[error("cannot {action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is one already: its key would be lost.
    #[error("{path} holds an authority already")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// There is none.
    #[error("{path} holds no authority")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// One of its files is not what it should be.
    #[error(transparent)]
    Files(#[from] TrustError),
    /// The list of what was issued is damaged.
    #[error("line {line} of {path} is none of an authority's")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// So long a validity is refused.
    #[error("a certificate is valid for 1 to {CERTIFICATE_DAYS_MAX} days, not {days}")]
    Days {
        /// As asked.
        days: u32,
    },
    /// Nothing that is still good was issued to it.
    #[error("this authority has no good certificate of {of}")]
    NotIssued {
        /// An identity or a serial number.
        of: String,
    },
    /// It cannot be signed.
    #[error("cannot make a certificate")]
    Sign(#[from] rcgen::Error),
}

impl AuthorityError {
    /// What would help, where the text does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            AuthorityError::Exists { .. } => Some(
                "use it, or name another directory with --dir: its certificates are worth nothing to a new one",
            ),
            AuthorityError::Missing { .. } => {
                Some("`transhume ca init` makes one; --dir names the directory of one that is there")
            }
            AuthorityError::NotIssued { .. } => Some("`transhume ca show` lists what it issued"),
            _ => None,
        }
    }
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Whose it is.
    pub identity: Identity,
    /// From when to when it is good.
    pub validity: Validity,
    /// When it was revoked, seconds since 1970; `None` where it was not.
    pub revoked_at: Option<i64>,
}

/// What `issue` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedFiles {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM; its owner alone may read it.
    pub key: PathBuf,
    /// What it is.
    pub issued: Issued,
}

/// A line of the list.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
enum Line {
    Issued {
        serial: String,
        identity: String,
        from: i64,
        until: i64,
    },
    Revoked {
        serial: String,
        at: i64,
    },
}

/// The authority of a directory.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

fn parameters(fleet: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, fleet);
    params
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn days(number: u32) -> time::Duration {
    time::Duration::days(number.into())
}

fn serial() -> Result<Vec<u8>, rcgen::Error> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive, and of this length always.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes.to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or_default(), 16);
    digits.filter_map(|pair| byte(pair).ok()).collect()
}

/// For its owner alone, where there is none.
fn make_dir(dir: &Path) -> Result<(), AuthorityError> {
    let made = fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
    made.map_err(|source| AuthorityError::File {
        action: "create",
        path: dir.to_owned(),
        source,
    })
}

/// Whole or not at all, and durable.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = || {
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|source| AuthorityError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

impl Authority {
    /// A new one, for a fleet of that name.
    pub fn create(dir: &Path, fleet: &str) -> Result<Self, AuthorityError> {
        make_dir(dir)?;
        if dir.join(KEY).exists() || dir.join(CERTIFICATE).exists() {
            return Err(AuthorityError::Exists { path: dir.to_owned() });
        }
        let key = KeyPair::generate()?;
        let mut params = parameters(fleet);
        params.not_before = now() - BACKDATED;
        params.not_after = now() + days(AUTHORITY_DAYS);
        let signed = params.self_signed(&key)?;
        write(&dir.join(KEY), &key.serialize_pem(), KEY_MODE)?;
        write(&dir.join(CERTIFICATE), &signed.pem(), FILE_MODE)?;
        let authority = Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
        };
        authority.write_revoked(&[])?;
        Ok(authority)
    }

    /// The one that is there.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        if !dir.join(KEY).exists() {
            return Err(AuthorityError::Missing { path: dir.to_owned() });
        }
        let file = |name: &str| dir.join(name);
        let text = contents(&file(KEY)).map_err(|source| AuthorityError::File {
            action: "read",
            path: file(KEY),
            source,
        })?;
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&text))?;
        let own: CertificateDer = pem(&file(CERTIFICATE), "certificate")?;
        let fleet = certificate::common_name(&own).ok_or_else(|| TrustError::Pem {
            path: file(CERTIFICATE),
            what: "authority's certificate",
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(parameters(&fleet), key),
        })
    }

    /// Its certificate, which every part of the fleet is to have.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join(CERTIFICATE)
    }

    /// The list of revoked certificates, which every part is to have.
    pub fn revoked(&self) -> PathBuf {
        self.dir.join(REVOKED)
    }

    /// A new key and a certificate for it, as files of `out` that take the place of older ones; the
    /// directory is made where there is none.
    pub fn issue(
        &self,
        identity: &Identity,
        days_valid: u32,
        out: &Path,
    ) -> Result<IssuedFiles, AuthorityError> {
        if !(1..=CERTIFICATE_DAYS_MAX).contains(&days_valid) {
            return Err(AuthorityError::Days { days: days_valid });
        }
        make_dir(out)?;
        self.issue_until(identity, now() + days(days_valid), out)
    }

    pub(crate) fn issue_until(
        &self,
        identity: &Identity,
        until: OffsetDateTime,
        out: &Path,
    ) -> Result<IssuedFiles, AuthorityError> {
        let (from, serial) = (now() - BACKDATED, serial()?);
        let from = from.min(until - days(1));
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, identity.to_string());
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity {
            Identity::User(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Identity::Coordinator | Identity::Agent(_) => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        (params.not_before, params.not_after) = (from, until);
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let issued = Issued {
            serial: hex(&serial),
            identity: identity.clone(),
            validity: Validity {
                from: from.unix_timestamp(),
                until: until.unix_timestamp(),
            },
            revoked_at: None,
        };
        self.append(&Line::Issued {
            serial: issued.serial.clone(),
            identity: identity.to_string(),
            from: issued.validity.from,
            until: issued.validity.until,
        })?;
        let file = |end: &str| out.join(format!("{}.{end}", identity.file_stem()));
        let files = IssuedFiles {
            certificate: file("pem"),
            key: file("key"),
            issued,
        };
        // A part that looks in between finds two that do not fit, and keeps those it has.
        write(&files.key, &key.serialize_pem(), KEY_MODE)?;
        write(&files.certificate, &signed.pem(), FILE_MODE)?;
        Ok(files)
    }

    /// A new key and certificate in place of the files of one that it issued.
    pub fn renew(&self, certificate: &Path, days_valid: u32) -> Result<IssuedFiles, AuthorityError> {
        let old: CertificateDer = pem(certificate, "certificate")?;
        let identity = certificate::identity(&old).ok_or_else(|| TrustError::Nobody {
            path: certificate.to_owned(),
        })?;
        let out = match certificate.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let files = self.issue(&identity, days_valid, out)?;
        Ok(files)
    }

    /// Every certificate of this identity, or the one of this serial number, is worth nothing once
    /// every part has the new list.
    pub fn revoke(&self, of: &str) -> Result<Vec<Issued>, AuthorityError> {
        let identity = of.parse::<Identity>().ok();
        let (at, mut all) = (now().unix_timestamp(), self.issued()?);
        let mut revoked = Vec::new();
        for issued in &mut all {
            let named = issued.serial == of || Some(&issued.identity) == identity.as_ref();
            if !named || issued.validity.until <= at {
                continue;
            }
            // One that is revoked already may be missing from the list, if that was interrupted.
            if issued.revoked_at.is_none() {
                let serial = issued.serial.clone();
                self.append(&Line::Revoked { serial, at })?;
                issued.revoked_at = Some(at);
            }
            revoked.push(issued.clone());
        }
        self.write_revoked(&all)?;
        match revoked.is_empty() {
            true => Err(AuthorityError::NotIssued { of: of.to_owned() }),
            false => Ok(revoked),
        }
    }

    /// What a part needs beside its own certificate, into its directory: the authority's
    /// certificate and the list of revoked ones.
    pub fn copy_lists(&self, out: &Path) -> Result<(), AuthorityError> {
        let same = |out: &Path| out.canonicalize().ok() == self.dir.canonicalize().ok();
        if same(out) {
            return Ok(());
        }
        for path in [self.certificate(), self.revoked()] {
            let text = fs::read_to_string(&path).map_err(|source| AuthorityError::File {
                action: "read",
                path: path.clone(),
                source,
            })?;
            if let Some(name) = path.file_name() {
                write(&out.join(name), &text, FILE_MODE)?;
            }
        }
        Ok(())
    }

    /// All that it issued, oldest first.
    pub fn issued(&self) -> Result<Vec<Issued>, AuthorityError> {
        let path = self.dir.join(ISSUED);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|source| AuthorityError::File {
                action: "read",
                path: path.clone(),
                source,
            })?,
        };
        let mut all: Vec<Issued> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let damaged = |source| AuthorityError::Line {
                path: path.clone(),
                line: index + 1,
                source,
            };
            match serde_json::from_str(line).map_err(damaged)? {
                Line::Issued {
                    serial,
                    identity,
                    from,
                    until,
                } => all.push(Issued {
                    serial,
                    identity: identity
                        .parse()
                        .map_err(|error| damaged(serde::de::Error::custom(error)))?,
                    validity: Validity { from, until },
                    revoked_at: None,
                }),
                Line::Revoked { serial, at } => {
                    let same = |issued: &&mut Issued| issued.serial == serial;
                    all.iter_mut()
                        .filter(same)
                        .for_each(|issued| issued.revoked_at = Some(at));
                }
            }
        }
        Ok(all)
    }

    fn append(&self, line: &Line) -> Result<(), AuthorityError> {
        let path = self.dir.join(ISSUED);
        let mut text = serde_json::to_string(line).expect("text and numbers are JSON");
        text.push('\n');
        let appended = || {
            let mut options = OpenOptions::new();
            let mut file = options.append(true).create(true).mode(KEY_MODE).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        appended().map_err(|source| AuthorityError::File {
            action: "append to",
            path: path.clone(),
            source,
        })
    }

    /// What is over needs not stand there.
    fn write_revoked(&self, all: &[Issued]) -> Result<(), AuthorityError> {
        let now = now();
        let instant = |at| OffsetDateTime::from_unix_timestamp(at).unwrap_or(now);
        let still = all
            .iter()
            .filter(|issued| issued.validity.until > now.unix_timestamp());
        let revoked_certs = still.filter_map(|issued| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&unhex(&issued.serial)),
                revocation_time: instant(issued.revoked_at?),
                reason_code: None,
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: now - BACKDATED,
            next_update: now + days(AUTHORITY_DAYS),
            crl_number: SerialNumber::from(now.unix_timestamp_nanos() as u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let text = list.signed_by(&self.issuer)?.pem()?;
        write(&self.revoked(), &text, FILE_MODE)
    }
}
