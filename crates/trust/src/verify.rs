//! Whether a peer's certificate is good here: of the fleet's authority, in time, not revoked, and
//! of an identity that is admitted.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::tls::Admits;
use crate::{Identity, certificate};

/// What a certificate is held against.
#[derive(Debug)]
pub(crate) struct Anchors {
    pub(crate) authority: Vec<TrustAnchor<'static>>,
    pub(crate) revoked: Vec<CertRevocationList<'static>>,
    pub(crate) provider: Arc<CryptoProvider>,
}

/// The certificate is good, and of somebody who has no business here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error("its certificate names no identity of a fleet")]
    Nobody,
    #[error("it is {found}, and {admits} is wanted here")]
    Other { found: Identity, admits: Admits },
}

/// One list, or none.
pub(crate) fn revocations(der: &[u8]) -> Result<CertRevocationList<'static>, webpki::Error> {
    Ok(OwnedCertRevocationList::from_der(der)?.into())
}

#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) admits: Admits,
}

impl Verifier {
    fn check(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if !between.is_empty() {
            // There are none: the authority signs all.
            return Err(CertificateError::UnknownIssuer.into());
        }
        let certificate = EndEntityCert::try_from(end).map_err(as_rustls)?;
        let lists: Vec<&CertRevocationList<'_>> = self.anchors.revoked.iter().collect();
        let revocation = match RevocationOptionsBuilder::new(&lists) {
            Ok(options) => Some(
                options
                    .with_depth(RevocationCheckDepth::EndEntity)
                    .with_status_policy(UnknownStatusPolicy::Allow)
                    .build(),
            ),
            // There is no list.
            Err(_) => None,
        };
        let algorithms = self.anchors.provider.signature_verification_algorithms.all;
        certificate
            .verify_for_usage(
                algorithms,
                &self.anchors.authority,
                &[],
                now,
                usage,
                revocation,
                None,
            )
            .map_err(as_rustls)?;
        let found = certificate::identity(end).ok_or_else(|| refused(NotAdmitted::Nobody))?;
        match self.admits.admits(&found) {
            true => Ok(()),
            false => Err(refused(NotAdmitted::Other {
                found,
                admits: self.admits.clone(),
            })),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.anchors.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.anchors
            .provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn refused(why: NotAdmitted) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

fn as_rustls(error: webpki::Error) -> Error {
    use webpki::Error as Found;
    let of_certificate = match error {
        Found::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        Found::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Found::CertRevoked => CertificateError::Revoked,
        Found::UnknownIssuer => CertificateError::UnknownIssuer,
        Found::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Found::BadDer | Found::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    of_certificate.into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end, between, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SelectedUnofferedCipherSuite.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end, between, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SelectedUnofferedCipherSuite.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
