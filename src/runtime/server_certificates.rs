//! The certificates of servers that outgoing TLS accepts: those that the library (webpki) accepts, and any that is
//! itself a trusted certificate.
//!
//! The library wants the certificate of a server to be another one than that of its authority, and of version 3. A
//! certificate that people make themselves often serves as both (`openssl req -x509`), or has version 1. Whoever trusts
//! exactly this certificate trusts its key, as with OpenSSL and Go: its names, dates and purpose are checked here, and
//! the signature of the handshake with its key. Any other certificate is the library's matter.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Version};

const IS_AUTHORITY: &str = "the server's certificate is one of an authority (CA:TRUE): trust exactly \
     this certificate by its file (the setting of the CA), or make one with basicConstraints=CA:FALSE";
const IS_OLD: &str = "the server's certificate has version 1: make one of version 3, with \
     subjectAltName (openssl x509 -req -extfile), or trust exactly this certificate by its file (the setting of the CA)";

/// Checks the certificates of servers.
#[derive(Debug)]
pub(super) struct ServerCertificates {
    trusted: Vec<CertificateDer<'static>>,
    library: Arc<WebPkiServerVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertificates {
    /// Trusts these certificates: those of authorities, and servers that have exactly one of them. `roots` are the same
    /// certificates.
    ///
    /// # Errors
    /// `roots` is empty.
    pub(super) fn new(
        trusted: Vec<CertificateDer<'static>>,
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let roots = Arc::new(roots);
        let library = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        Ok(Self {
            trusted,
            library: library.build()?,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// The key of a certificate of version 1, which the library cannot read; `None` for any other certificate, and for one
    /// that is not trusted itself.
    fn old_key(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Option<SubjectPublicKeyInfoDer<'static>> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let is_old = parsed.version() == X509Version::V1 && self.trusted.contains(certificate);
        is_old.then(|| parsed.public_key().raw.to_vec().into())
    }
}

impl ServerCertVerifier for ServerCertificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trusted.contains(end_entity) {
            return check(end_entity, name, now).map(|()| ServerCertVerified::assertion());
        }
        let library = &self.library;
        let verified = library.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        verified.map_err(explained)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.old_key(certificate) {
            None => verify_tls12_signature(message, certificate, signed, &self.algorithms),
            Some(key) => verify_with_key(message, &key, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.old_key(certificate) {
            None => verify_tls13_signature(message, certificate, signed, &self.algorithms),
            Some(key) => {
                verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Replaces an error of the library that only names the fault by one that says what to do.
fn explained(error: Error) -> Error {
    let Error::InvalidCertificate(CertificateError::Other(other)) = &error else {
        return error;
    };
    match other.0.downcast_ref::<webpki::Error>() {
        Some(webpki::Error::CaUsedAsEndEntity) => Error::General(IS_AUTHORITY.to_owned()),
        Some(webpki::Error::UnsupportedCertVersion) => Error::General(IS_OLD.to_owned()),
        _ => error,
    }
}

/// Checks dates, purpose and names of a certificate that is trusted itself.
fn check(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.validity();
    let at = |unix_s: i64| UnixTime::since_unix_epoch(Duration::from_secs(unix_s.max(0) as u64));
    let (time, not_before) = (now, at(validity.not_before.timestamp()));
    if time < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    let not_after = at(validity.not_after.timestamp());
    if time > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    if !serves(&parsed) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    check_name(certificate, &parsed, name)
}

/// Whether the purposes that a certificate names, if it names any, permit a server of TLS, as OpenSSL reads them.
fn serves(certificate: &X509Certificate<'_>) -> bool {
    let extended = certificate.extended_key_usage().ok().flatten();
    let usage = certificate.key_usage().ok().flatten();
    extended.is_none_or(|extended| extended.value.server_auth)
        && usage.is_none_or(|usage| {
            let usage = usage.value;
            usage.digital_signature() || usage.key_encipherment() || usage.key_agreement()
        })
}

/// Checks the name as OpenSSL does: the subject's common name counts only for a host, and only where the certificate has no
/// DNS name in its extension (RFC 6125 §6.4.4).
fn check_name(
    certificate: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    name: &ServerName<'_>,
) -> Result<(), Error> {
    let names = parsed.subject_alternative_name().ok().flatten();
    let has_dns_name = names.is_some_and(|names| {
        let mut names = names.value.general_names.iter();
        names.any(|name| matches!(name, GeneralName::DNSName(_)))
    });
    // The library cannot read version 1, which has no extensions.
    if parsed.version() != X509Version::V1 {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let verified = verify_server_name(&certificate, name);
        if verified.is_ok() || has_dns_name {
            return verified;
        }
    }
    let mut common_names = parsed.subject().iter_common_name();
    let is_named = match name {
        ServerName::DnsName(host) => common_names.any(|common| {
            let common = common.as_str().unwrap_or_default();
            names_host(common, host.as_ref())
        }),
        _ => false,
    };
    match is_named {
        true => Ok(()),
        false => Err(CertificateError::NotValidForNameContext {
            expected: name.to_owned(),
            presented: Vec::new(),
        }
        .into()),
    }
}

/// Whether a name of a certificate, perhaps `*.example.org`, is that of the host.
fn names_host(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    }
}

/// Verifies a signature of TLS 1.2, where a scheme does not say which of several algorithms has signed: one has to fit.
fn verify_with_key(
    message: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = webpki::RawPublicKeyEntity::try_from(key);
    let key = key.map_err(|_| CertificateError::BadEncoding)?;
    let of_scheme = algorithms
        .mapping
        .iter()
        .filter(|one| one.0 == signed.scheme);
    let mut candidates = of_scheme.flat_map(|(_, all)| *all).peekable();
    if candidates.peek().is_none() {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    match candidates.any(|one| {
        key.verify_signature(*one, message, signed.signature())
            .is_ok()
    }) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}
