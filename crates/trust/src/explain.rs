//! What came in the way of a handshake, in words that name what helps.

use std::error::Error as _;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::certificate::instant;

/// An error with all its sources.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(error.source(), |error| (**error).source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// Why a handshake, or a connection just after it, came to nothing.
pub fn explain(error: &io::Error) -> String {
    let of_tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .and_then(of_tls);
    of_tls.unwrap_or_else(|| match error.source() {
        Some(_) => chain(error),
        None => error.to_string(),
    })
}

fn of_tls(error: &Error) -> Option<String> {
    Some(match error {
        Error::InvalidCertificate(of) => of_certificate(of)?,
        Error::AlertReceived(alert) => of_alert(*alert)?.to_owned(),
        Error::InvalidMessage(_) => {
            "it does not speak TLS as a fleet does; is one of the two `insecure`?".to_owned()
        }
        Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> Option<String> {
    Some(match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its certificate was good until {}, and the clock here says {}: renew it (`transhume ca renew`), or set the clock that is off",
            instant(not_after.as_secs() as i64),
            instant(time.as_secs() as i64)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is good from {} on, and the clock here says {}: the clocks are apart, set the one that is off",
            instant(not_before.as_secs() as i64),
            instant(time.as_secs() as i64)
        ),
        CertificateError::Revoked => "its certificate is revoked".to_owned(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of another authority".to_owned()
        }
        CertificateError::Other(other) => other.0.to_string(),
        _ => return None,
    })
}

fn of_alert(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateExpired => {
            "it says that our certificate is not good at this time: renew it, or the clocks are apart"
        }
        AlertDescription::CertificateRevoked => "it says that our certificate is revoked",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it says that our certificate is of another authority"
        }
        AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::BadCertificate => "it does not admit whom our certificate names",
        AlertDescription::CertificateRequired => "it wants a certificate of the fleet, and got none",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;

    use super::*;

    #[test]
    fn clocks_that_are_apart_are_called_that() {
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let early = CertificateError::NotValidYetContext {
            time: at(0),
            not_before: at(3600),
        };
        let error = io::Error::new(io::ErrorKind::InvalidData, Error::InvalidCertificate(early));
        let told = explain(&error);
        assert!(
            told.contains("1970-01-01T01:00:00Z") && told.contains("clocks are apart"),
            "{told}"
        );
        let plain = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(explain(&plain), plain.to_string());
    }
}
