//! What stands in a certificate of a fleet.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Identity;

/// From when to when a certificate is good, seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: i64,
    /// Not after.
    pub until: i64,
}

impl Validity {
    /// Whether it is to be renewed: less than a third of its life is left.
    pub fn ends_soon(&self, now: i64) -> bool {
        self.until - now < (self.until - self.from) / 3
    }
}

/// An instant, seconds since 1970, as people read it.
pub fn instant(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|instant| instant.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {seconds}"))
}

/// Whose a certificate is; `None` unless it has exactly one identity.
pub(crate) fn identity(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Identity::of_uri(uri),
        _ => None,
    }
}

/// Its serial number, as a list of revoked ones has it.
#[cfg(feature = "tokio")]
pub(crate) fn serial(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.raw_serial().to_vec())
}

/// From when to when it is good.
pub(crate) fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some(Validity {
        from: validity.not_before.timestamp(),
        until: validity.not_after.timestamp(),
    })
}

/// The one common name of its subject.
pub(crate) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    Some(name.as_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_ends_soon_in_its_last_third() {
        let validity = Validity { from: 0, until: 300 };
        assert!(!validity.ends_soon(199));
        assert!(validity.ends_soon(201) && validity.ends_soon(400));
        assert_eq!(instant(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        for der in [&b""[..], &[0x30, 0x82, 0xff, 0xff], &[0; 64]] {
            assert_eq!(
                (identity(der), validity(der), common_name(der)),
                (None, None, None)
            );
        }
    }
}
