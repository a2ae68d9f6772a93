//! TLS of the measuring clients.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ClientConfig, RootCertStore};

use crate::fault::{Fault, Tried};

/// The TLS of clients whose server is reached by `how`: a scheme or a flag; `None` for plain clients.
pub(crate) fn wanted(
    is_wanted: bool,
    how: &str,
    ca_file: Option<&Path>,
) -> Result<Option<Arc<ClientConfig>>, Fault> {
    match (is_wanted, ca_file) {
        (false, _) => Ok(None),
        (true, Some(file)) => client_config(file).map(Some),
        (true, None) => Err(Fault::Usage(format!("{how} needs --ca-file"))),
    }
}

/// Clients that trust the certificates of a PEM file. AES-128-GCM is their first choice, as of browsers on machines
/// with AES in hardware; no client uses a ticket, so every handshake is a whole one.
fn client_config(ca_file: &Path) -> Result<Arc<ClientConfig>, Fault> {
    let what = || format!("read {}", ca_file.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca_file);
    for certificate in certificates.map_err(io::Error::other).tried(what())? {
        let certificate = certificate.map_err(io::Error::other).tried(what())?;
        let added = roots.add(certificate);
        added.map_err(io::Error::other).tried(what())?;
    }
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)
        .tried("TLS")?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
