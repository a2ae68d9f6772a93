//! TLS of the measuring clients, and of the limit.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

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
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_file)? {
        let added = roots.add(certificate);
        added.map_err(io::Error::other).tried(reading(ca_file))?;
    }
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
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

/// The files of the certificates and of the key, from the environment, as for the servers in `loadtest/peers`.
pub(crate) fn server_files() -> Result<[PathBuf; 2], Fault> {
    let file = |name: &str| std::env::var_os(name).map(PathBuf::from);
    match (file("TLS_CERT"), file("TLS_KEY")) {
        (Some(certificates), Some(key)) => Ok([certificates, key]),
        _ => Err(Fault::Usage(
            "a limit over TLS needs TLS_CERT and TLS_KEY, the files of the certificates and of the key".into(),
        )),
    }
}

/// The TLS of the limit: TLS 1.3 with AES-128-GCM alone. The limit makes no tickets, because no measuring client uses a ticket.
pub(crate) fn server_config() -> Result<Arc<ServerConfig>, Fault> {
    let [chain_file, key_file] = server_files()?;
    let chain = certificates(&chain_file)?;
    let key = PrivateKeyDer::from_pem_file(&key_file);
    let key = key.map_err(io::Error::other).tried(reading(&key_file))?;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)
        .tried("TLS")?;
    let config = config.with_no_client_auth().with_single_cert(chain, key);
    let mut config = config
        .map_err(io::Error::other)
        .tried("TLS_CERT and TLS_KEY")?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    certificates.map_err(io::Error::other).tried(reading(file))
}

fn reading(file: &Path) -> String {
    format!("read {}", file.display())
}
