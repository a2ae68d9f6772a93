//! The check of clients' certificates (`--tls-client-ca`). The library makes it, within a bound on its search for a
//! path.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// The most certificates between a client's certificate and its authority. The library itself accepts at most six.
const INTERMEDIATES_MAX: usize = 8;

/// Returns the verifier that asks each client for a certificate of one of the authorities.
///
/// # Errors
/// The library cannot use the authorities.
pub(super) fn verifier(
    authorities: RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let library = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
    let library = library.build().map_err(|error| error.to_string())?;
    Ok(Arc::new(Bounded(library)))
}

/// Bounds the work of the library, which tries every order in which certificates fit by their names. Anybody can make
/// certificates that fit: with 70 of the same name, a handshake cost as much as 70 other handshakes.
#[derive(Debug)]
struct Bounded(Arc<dyn ClientCertVerifier>);

/// Permits only one key for each name, so that few orders fit: the library can only choose among certificates of the
/// same key.
fn bounded(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    let refused = CertificateError::ApplicationVerificationFailure;
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(refused.into());
    }
    let parsed = intermediates
        .iter()
        .map(|der| X509Certificate::from_der(der));
    let parsed = parsed.collect::<Result<Vec<_>, _>>();
    let parsed = parsed.map_err(|_| CertificateError::BadEncoding)?;
    let has_one_key = |(_, one): &(_, X509Certificate<'_>)| {
        let mut named = parsed
            .iter()
            .filter(|(_, other)| other.subject() == one.subject());
        named.all(|(_, other)| other.public_key().raw == one.public_key().raw)
    };
    match parsed.iter().all(has_one_key) {
        true => Ok(()),
        false => Err(refused.into()),
    }
}

impl ClientCertVerifier for Bounded {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        bounded(intermediates)?;
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;
    use weirgate_runtime::tls_roots::provider;

    fn key() -> KeyPair {
        KeyPair::generate().expect("a key")
    }

    /// A certificate of an authority with this name and key, signed by another.
    fn certificate(
        name: &str,
        key: &KeyPair,
        issuer: &Issuer<'static, KeyPair>,
        is_ca: bool,
    ) -> CertificateDer<'static> {
        let made = params(name, is_ca).signed_by(key, issuer).expect("signed");
        made.der().clone()
    }

    fn params(name: &str, is_ca: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_ca {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params
    }

    /// An authority, and a client's chain of so many intermediates.
    fn chain(length: usize) -> (RootCertStore, Vec<CertificateDer<'static>>) {
        let root_key = key();
        let root = params("root", true).self_signed(&root_key).expect("signed");
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).expect("a root");
        let mut issuer = Issuer::new(params("root", true), root_key);
        let mut all = Vec::new();
        for n in 0..length {
            let (name, own) = (format!("authority {n}"), key());
            all.push(certificate(&name, &own, &issuer, true));
            issuer = Issuer::new(params(&name, true), own);
        }
        all.push(certificate("client", &key(), &issuer, false));
        all.reverse();
        (roots, all)
    }

    fn verified(roots: RootCertStore, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let verifier = verifier(roots, provider()).expect("a verifier");
        let outcome = verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now());
        outcome.map(drop)
    }

    #[test]
    fn honest_chains_are_taken_and_those_without_their_authority_are_not() {
        for length in 0..4 {
            let (roots, chain) = chain(length);
            verified(roots, &chain).expect("a good chain");
        }
        let (_, chain_of_another) = chain(1);
        verified(chain(1).0, &chain_of_another).expect_err("of another authority");
    }

    #[test]
    fn certificates_that_make_the_search_long_are_refused_before_it() {
        let of_one_name = |count: usize, keys: usize| {
            let keys: Vec<KeyPair> = (0..keys).map(|_| key()).collect();
            let issuer = Issuer::new(params("x", true), key());
            let each = (0..count).map(|n| certificate("x", &keys[n % keys.len()], &issuer, true));
            each.collect::<Vec<_>>()
        };
        let refused = Err(CertificateError::ApplicationVerificationFailure.into());
        for intermediates in [of_one_name(70, 70), of_one_name(9, 1), of_one_name(8, 2)] {
            assert_eq!(bounded(&intermediates), refused);
        }
        // An authority that two others have signed.
        assert_eq!(bounded(&of_one_name(8, 1)), Ok(()));
        let garbage = [CertificateDer::from(vec![1, 2, 3])];
        assert_eq!(bounded(&garbage), Err(CertificateError::BadEncoding.into()));
        let (roots, mut long) = chain(2);
        long.extend(of_one_name(2, 2));
        assert_eq!(verified(roots, &long), refused, "not searched");
    }
}
