//! The cryptography of TLS, and the authorities that outgoing TLS trusts: from a file, or from the system.
//!
//! Used by the sources, by calls to services and by the listeners. Reads files whenever it is called: at the start, and
//! for NATS at each connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::server_certificates::ServerCertificates;
use super::{Clock, regular_file};
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// Why outgoing TLS cannot be set up: a fault in a file of the settings, or in the system's store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientTlsError {
    /// There are no trusted certificates.
    #[error("no certificates to trust in {place} ({reason})")]
    NobodyTrusted {
        /// The file, or the system's store.
        place: String,
        /// The error of the file or the store.
        reason: String,
    },
    /// The client's own certificate or its key cannot be used. The text names the file.
    #[error("{0}")]
    OwnCertificate(String),
}

/// Returns the client side of TLS 1.2 and 1.3. It trusts the certificates of `ca_file` (PEM), or of the system without a
/// file: servers whose certificates these authorities have signed, and servers that have exactly one of these certificates.
/// If `own` is set, the client shows the certificate and uses the key of these two PEM files.
///
/// # Errors
/// A file cannot be read or has the wrong content, or the certificate and the key of `own` do not belong together.
pub fn client(
    ca_file: Option<&Path>,
    own: Option<&(PathBuf, PathBuf)>,
) -> Result<Arc<ClientConfig>, ClientTlsError> {
    let builder = trusting(ca_file)?;
    let config = match own {
        Some(own) => showing(builder, own).map_err(ClientTlsError::OwnCertificate)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Begins a configuration that trusts the certificates of `ca_file`, or of the system without a file.
fn trusting(
    ca_file: Option<&Path>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, ClientTlsError> {
    let (place, certificates) = match ca_file {
        Some(file) => (file.display().to_string(), certificates(file)),
        None => ("the system's store".to_owned(), system_certificates()),
    };
    let nobody = |reason: String| ClientTlsError::NobodyTrusted {
        place: place.clone(),
        reason,
    };
    let certificates = certificates.map_err(nobody)?;
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if taken == 0 {
        return Err(nobody("it has none".to_owned()));
    }
    let provider = provider();
    let verifier = ServerCertificates::new(certificates, roots, &provider);
    let verifier = verifier.map_err(|error| nobody(error.to_string()))?;
    let builder = ClientConfig::builder_with_details(provider, time())
        .with_safe_default_protocol_versions()
        .map_err(|error| nobody(error.to_string()))?;
    let builder = builder.dangerous();
    Ok(builder.with_custom_certificate_verifier(Arc::new(verifier)))
}

/// The client shows the certificate and uses the key of these two files.
fn showing(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    (certificate, key): &(PathBuf, PathBuf),
) -> Result<ClientConfig, String> {
    let not = |path: &Path, what: &str| format!("{} does not hold {what}", path.display());
    let chain = certificates(certificate)
        .ok()
        .filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| not(certificate, "certificates"))?;
    let parsed = PrivateKeyDer::from_pem_file(key).map_err(|_| not(key, "a private key"))?;
    let showing = builder.with_client_auth_cert(chain, parsed);
    showing.map_err(|error| error.to_string())
}

/// The cryptography of all TLS in the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The time of all TLS in the process. The library's own time provider panics while the clock is before 1970.
pub fn time() -> Arc<dyn TimeProvider> {
    Arc::new(WallTime(Clock::start()))
}

#[derive(Debug)]
struct WallTime(Clock);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since_1970 = Duration::from_millis(self.0.now().unix_ms().unsigned_abs());
        Some(UnixTime::since_unix_epoch(since_1970))
    }
}

/// Returns all certificates of a PEM file, in order.
///
/// # Errors
/// The first error in the file, as text.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = regular_file(file).map_err(|error| error.to_string())?;
    certificates_of(&pem)
}

/// Returns all certificates of the content of a PEM file, in order.
///
/// # Errors
/// The first error, as text.
pub fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<_, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.map_err(|error| error.to_string())
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    match found.errors.first() {
        Some(error) if found.certs.is_empty() => Err(error.to_string()),
        _ => Ok(found.certs),
    }
}
