//! The client side of a process that connects to itself: `weirgate health`, and `--check --connect`.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use super::{CertificateFacts, ServerTls};
use weirgate_runtime::tls_roots::{certificates_of, provider, time};
use weirgate_runtime::{Clock, regular_file};
use weirgate_wire::admission::{ClientAddr, Quota};

/// A configuration that accepts only the server's certificate in a file, whatever names it has, because these are meant
/// for clients on other machines. Without a file it accepts any certificate: use this only for an address of this
/// machine, where a listener is trusted as with plain HTTP. `asked` becomes true if the server asks for a certificate
/// of the client, after its own certificate was accepted; the client shows none.
///
/// # Errors
/// The file has no certificate, as text.
pub fn client_config_trusting(
    file: Option<&Path>,
    asked: &Arc<AtomicBool>,
) -> Result<ClientConfig, String> {
    let certificate = file.map(first_certificate).transpose()?;
    let provider = provider();
    let verifier = OwnCertificate {
        certificate,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_details(provider, time())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(config.with_client_cert_resolver(Arc::new(RecordsIfAsked(Arc::clone(asked)))))
}

fn first_certificate(file: &Path) -> Result<CertificateDer<'static>, String> {
    let named = |reason: String| format!("{}: {reason}", file.display());
    let pem = regular_file(file).map_err(|error| named(error.to_string()))?;
    let all = certificates_of(&pem).map_err(named)?;
    let certificate = all.into_iter().next();
    certificate.ok_or_else(|| named("it has no certificate".to_owned()))
}

/// Shows no certificate of the client. Records whether the server asked for a certificate.
#[derive(Debug)]
struct RecordsIfAsked(Arc<AtomicBool>);

impl ResolvesClientCert for RecordsIfAsked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Makes a handshake in memory, with the configuration for clients. The client asks for the first DNS name of the
/// certificate, or for its first address, and accepts only this certificate. Returns the version of the protocol.
///
/// # Errors
/// The reason why clients could not connect, as text.
pub(crate) fn greet_itself(
    tls: &ServerTls,
    certificate: &CertificateFacts,
) -> Result<&'static str, String> {
    let file = Some(certificate.file.as_path());
    let config = Arc::new(client_config_trusting(file, &Arc::default())?);
    let is_dns_name = |name: &&String| name.parse::<IpAddr>().is_err();
    let names = &certificate.names;
    let name = names.iter().find(is_dns_name).or_else(|| names.first());
    let name = name.map_or("localhost", String::as_str).replace('*', "any");
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let library = |error: Error| error.to_string();
    let in_memory = |error: io::Error| error.to_string();
    let mut client = ClientConnection::new(config, name).map_err(library)?;
    let held = Quota::new("tls", u64::MAX);
    let server = tls.new_session(&held, ClientAddr::Unix, Clock::start());
    let mut server = server.map_err(library)?;
    while client.is_handshaking() {
        let mut to_server = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut to_server).map_err(in_memory)?;
        }
        let opened = server.open(&mut to_server, &mut []);
        let mut to_client = Vec::new();
        // Appending to a vector cannot fail.
        let _ = server.send_kept(|bytes| {
            to_client.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        let mut unread = &to_client[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).map_err(in_memory)?;
            client.process_new_packets().map_err(library)?;
        }
        opened.map_err(in_memory)?;
    }
    // The server decides about the client's certificate later; this client shows none.
    Ok(server.version())
}

#[derive(Debug)]
struct OwnCertificate {
    /// `None` accepts any.
    certificate: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.certificate {
            Some(own) if own != end_entity => Err(Error::General(
                "another certificate than in the file".to_owned(),
            )),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
