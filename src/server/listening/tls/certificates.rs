//! The server's certificates: read from PEM files, checked, and chosen for a client by the name in its first message
//! (SNI, RFC 6066 §3) and by the signatures that it can check.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;

use super::client_certificates;
use super::session::TlsSession;
use weirgate_runtime::Clock;
use weirgate_runtime::tls_roots::{certificates_of, provider, time};
use weirgate_wire::admission::{ClientAddr, Quota};
use weirgate_wire::base::escaped;

/// The protocol that the server offers after the handshake (ALPN, RFC 7301 §6): a WebSocket needs HTTP/1.1.
const HTTP_1_1: &[u8] = b"http/1.1";

/// The tickets that a connection gives: a client that returns uses its ticket up, and gets another.
const TICKETS: usize = 1;

/// A certificate that ends sooner is worth a warning: a renewal should have come a month before the end.
pub(crate) const ENDS_SOON_S: i64 = 14 * 24 * 3600;

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    /// The chain, the server's certificate first (PEM).
    pub chain: PathBuf,
    /// The key of the server's certificate (PEM).
    pub key: PathBuf,
}

/// The oldest permitted version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OldestVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// The files of TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerTlsFiles {
    /// At least one pair. The first is for clients that name no server in their first message, or an unknown server.
    pub certificates: Vec<CertificateFiles>,
    /// The authorities of client certificates (PEM). Each client must then show a certificate; with `None` the server
    /// asks for no certificate.
    pub client_ca: Option<PathBuf>,
    /// The oldest version.
    pub oldest: OldestVersion,
}

impl ServerTlsFiles {
    /// All files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let pairs = self.certificates.iter();
        let pairs = pairs.flat_map(|files| [files.chain.clone(), files.key.clone()]);
        pairs.chain(self.client_ca.clone()).collect()
    }
}

/// Why clients cannot be served with these files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {what} of {file}: {reason}")]
    File {
        /// The content: the certificates, the key, or the authorities of clients.
        what: &'static str,
        /// The file.
        file: String,
        /// The error of the file.
        reason: String,
    },
    /// The key is of another certificate.
    #[error("the key of {key} does not belong to the first certificate of {chain}")]
    OtherKey {
        /// The file of the key.
        key: String,
        /// The file of the chain.
        chain: String,
    },
    /// The library refuses the settings.
    #[error("TLS cannot be used: {0}")]
    Library(String),
}

impl CertificateError {
    /// Makes the error for a `file` whose `what` cannot be read; the reason is added later.
    fn of(what: &'static str, file: &Path) -> impl Fn(String) -> Self {
        let file = file.display().to_string();
        move |reason| Self::File {
            what,
            file: file.clone(),
            reason,
        }
    }
}

/// Facts of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFacts {
    /// The file of the chain.
    pub file: PathBuf,
    /// The DNS names and addresses of the certificate.
    pub names: Vec<String>,
    /// The first moment of its validity, Unix time in seconds.
    pub begins_unix_s: i64,
    /// The last moment of its validity, Unix time in seconds.
    pub ends_unix_s: i64,
    /// Whether each certificate of the chain was issued by the next.
    pub is_in_order: bool,
    /// Whether the chain has only the server's certificate, though this certificate says where that of its issuer is.
    /// Public authorities issue such certificates, through an intermediate that the chain then lacks.
    pub lacks_intermediate: bool,
    /// Whether the key is an RSA key, and no certificate with the same names has a key of another kind. A handshake
    /// with RSA costs five times as much as with an elliptic curve.
    pub is_costly: bool,
}

/// The configuration for clients, and facts of its certificates.
#[derive(Clone, Debug)]
pub(crate) struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// Whether clients have to show a certificate.
    requires_certificates: bool,
    /// In the order of the files.
    pub facts: Vec<CertificateFacts>,
    /// The content of the files, for a comparison with later content.
    content: Vec<Vec<u8>>,
}

impl ServerTls {
    /// Reads the files, each once with `read`. `tickets` makes and reads the tickets of returning clients. All
    /// configurations of a process share it, so clients can still resume after a change of the certificate. Not used with
    /// `client_ca`.
    ///
    /// # Errors
    /// A file is missing or has other content, or a key belongs to another certificate.
    pub(crate) fn read(
        files: &ServerTlsFiles,
        tickets: Arc<dyn ProducesTickets>,
        mut read: impl FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Self, CertificateError> {
        let provider = provider();
        let mut texts = Vec::new();
        let mut text_of = |file: &Path| {
            let text = read(file).map_err(|error| error.to_string())?;
            texts.push(text.clone());
            Ok(text)
        };
        let mut all = Vec::new();
        for files in &files.certificates {
            all.push(Certificate::read(files, &provider, &mut text_of)?);
        }
        // Up to here, `is_costly` says only that the key is an RSA key.
        let has_other = |rsa: &CertificateFacts| {
            let mut others = all.iter().map(|one| &one.facts);
            others.any(|other| !other.is_costly && other.names == rsa.names)
        };
        let facts = all.iter().map(|one| CertificateFacts {
            is_costly: one.facts.is_costly && !has_other(&one.facts),
            ..one.facts.clone()
        });
        let facts = facts.collect();
        let versions: &[&SupportedProtocolVersion] = match files.oldest {
            OldestVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            OldestVersion::Tls13 => &[&version::TLS13],
        };
        let config = ServerConfig::builder_with_details(Arc::clone(&provider), time())
            .with_protocol_versions(versions)
            .map_err(|error| CertificateError::Library(error.to_string()))?;
        let config = match &files.client_ca {
            None => config.with_no_client_auth(),
            Some(file) => {
                let verifier =
                    client_certificates::verifier(authorities(file, &mut text_of)?, provider);
                let verifier = verifier.map_err(CertificateError::Library)?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let mut config = config.with_cert_resolver(Arc::new(ByName::new(all)));
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        // Only tickets: the server stores nothing for clients that have left.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // A resumption checks no certificate. With a ticket, and the tickets of later resumptions, a client could
        // connect even after its certificate has expired or its authority has been removed.
        if files.client_ca.is_none() {
            config.ticketer = tickets;
            config.send_tls13_tickets = TICKETS;
        }
        Ok(Self {
            config: Arc::new(config),
            requires_certificates: files.client_ca.is_some(),
            facts,
            content: texts,
        })
    }

    /// The session of the next client. Its bytes are charged to `client` in `held`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(super) fn new_session(
        &self,
        held: &Quota,
        client: ClientAddr,
        clock: Clock,
    ) -> Result<TlsSession, rustls::Error> {
        let mut session = TlsSession::new(Arc::clone(&self.config), held, client, clock)?;
        session.requires_certificate = self.requires_certificates;
        Ok(session)
    }

    /// Whether the configuration in force was made from files with the same content.
    pub(crate) fn is_same(&self, in_force: &ServerTlsInForce) -> bool {
        self.content == in_force.locked().content
    }
}

/// Reads a file, or returns the reason why it cannot be read.
type ReadText<'a> = &'a mut dyn FnMut(&Path) -> Result<Vec<u8>, String>;

/// Reads the certificates of authorities.
///
/// # Errors
/// The file cannot be read, or has no certificate of an authority.
fn authorities(file: &Path, read: ReadText<'_>) -> Result<RootCertStore, CertificateError> {
    let failed = CertificateError::of("the authorities", file);
    let mut roots = RootCertStore::empty();
    let pem = read(file).map_err(&failed)?;
    // The second is the number of those that the library cannot read. They are left out.
    let (taken, _) = roots.add_parsable_certificates(certificates_of(&pem).map_err(&failed)?);
    match taken {
        0 => Err(failed("it has no certificate of an authority".to_owned())),
        _ => Ok(roots),
    }
}

#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    facts: CertificateFacts,
}

impl Certificate {
    /// Reads a chain and its key, which have to belong together, with `read`.
    fn read(
        files: &CertificateFiles,
        provider: &CryptoProvider,
        read: ReadText<'_>,
    ) -> Result<Self, CertificateError> {
        let bad_chain = CertificateError::of("the certificates", &files.chain);
        let bad_key = CertificateError::of("the key", &files.key);
        let chain = read(&files.chain).map_err(&bad_chain)?;
        let chain = certificates_of(&chain).map_err(&bad_chain)?;
        let facts = CertificateFacts::of(&files.chain, &chain).map_err(&bad_chain)?;
        let key = read(&files.key).map_err(&bad_key)?;
        let key = PrivateKeyDer::from_pem_slice(&key);
        let key = key.map_err(|error| bad_key(error.to_string()))?;
        let signing = provider.key_provider.load_private_key(key);
        let signing = signing.map_err(|error| bad_key(error.to_string()))?;
        let key = CertifiedKey::new(chain, signing);
        // For some kinds of keys the library cannot compare the two; such a key is accepted.
        let other_key = rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch);
        if key.keys_match() == Err(other_key) {
            return Err(CertificateError::OtherKey {
                key: files.key.display().to_string(),
                chain: files.chain.display().to_string(),
            });
        }
        let key = Arc::new(key);
        Ok(Self { key, facts })
    }
}

impl CertificateFacts {
    /// Reads the facts of a chain from its certificates; an error if one cannot be parsed, or if there is none.
    fn of(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let parsed = chain
            .iter()
            .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed));
        let parsed = parsed.collect::<Result<Vec<_>, _>>();
        let parsed = parsed.map_err(|error| error.to_string())?;
        let first = parsed.first().ok_or("it has none")?;
        let is_in_order = parsed
            .windows(2)
            .all(|pair| pair[0].issuer().as_raw() == pair[1].subject().as_raw());
        let validity = first.validity();
        Ok(Self {
            file: file.to_owned(),
            names: server_names(first),
            begins_unix_s: validity.not_before.timestamp(),
            ends_unix_s: validity.not_after.timestamp(),
            is_in_order,
            lacks_intermediate: parsed.len() == 1 && names_place_of_issuer(first),
            is_costly: matches!(
                first.public_key().parsed(),
                Ok(x509_parser::public_key::PublicKey::RSA(_))
            ),
        })
    }
}

/// The access method id-ad-caIssuers.
const CA_ISSUERS: &str = "1.3.6.1.5.5.7.48.2";

/// Whether a certificate of another issuer says where the issuer's certificate is (RFC 5280 §4.2.2.1).
fn names_place_of_issuer(certificate: &X509Certificate<'_>) -> bool {
    let is_place = |extension: &X509Extension<'_>| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => access
            .iter()
            .any(|one| one.access_method.to_id_string() == CA_ISSUERS),
        _ => false,
    };
    certificate.issuer() != certificate.subject() && certificate.extensions().iter().any(is_place)
}

/// The DNS names and addresses of a certificate (RFC 6125 §6.4). Browsers do not read the subject.
fn server_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let ip = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            ip.ok().map(|ip| ip.to_string())
        }
        _ => None,
    };
    names.filter_map(name).collect()
}

/// The most characters of a client's name: enough to recognize the client.
const CLIENT_NAME_CHARS_MAX: usize = 128;

/// The name of a client in its certificate: the common name of the subject, else the first email address, DNS name
/// or URI. `None` for a certificate without any of these.
pub(super) fn client_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let common = parsed.subject().iter_common_name().next();
    let common = common.and_then(|name| name.as_str().ok().map(str::to_owned));
    let name = common.or_else(|| {
        let names = parsed.subject_alternative_name().ok()??;
        names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                GeneralName::RFC822Name(name)
                | GeneralName::DNSName(name)
                | GeneralName::URI(name) => Some((*name).to_owned()),
                _ => None,
            })
    })?;
    let shown: String = name.chars().take(CLIENT_NAME_CHARS_MAX).collect();
    Some(escaped(&shown, &[]).into())
}

/// Chooses a certificate among those with the name that the client asks for, or among all without such a name: the
/// first with a key for which the client knows a signature scheme, or else the first.
#[derive(Debug)]
struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    /// Exact names, and wildcards with their `*.`.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    fn new(certificates: Vec<Certificate>) -> Self {
        let all = certificates.iter().map(|one| Arc::clone(&one.key));
        let all = all.collect();
        let mut names: HashMap<_, Vec<_>> = HashMap::new();
        for one in certificates {
            for name in one.facts.names {
                names.entry(name).or_default().push(Arc::clone(&one.key));
            }
        }
        Self { all, names }
    }

    /// Returns the certificates for this name: those with the exact name, otherwise those with a wildcard for it.
    fn of_name(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.to_ascii_lowercase();
        self.names.get(&name).or_else(|| {
            // A wildcard matches a single label (RFC 6125 §6.4.3).
            let (_, parent) = name.split_once('.')?;
            self.names.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let of_name = hello.server_name().and_then(|name| self.of_name(name));
        let all = of_name.unwrap_or(&self.all);
        let offered = hello.signature_schemes();
        let mut checked = all
            .iter()
            .filter(|one| one.key.choose_scheme(offered).is_some());
        checked.next().or_else(|| all.first()).cloned()
    }
}

/// The configuration in force, shared by the thread of reloads and the thread of handshakes.
#[derive(Clone, Debug)]
pub(crate) struct ServerTlsInForce(Arc<Mutex<ServerTls>>);

impl ServerTlsInForce {
    /// The first configuration.
    pub(crate) fn new(tls: ServerTls) -> Self {
        Self(Arc::new(Mutex::new(tls)))
    }

    /// As [`ServerTls::new_session`].
    pub(crate) fn new_session(
        &self,
        held: &Quota,
        client: ClientAddr,
        clock: Clock,
    ) -> Result<TlsSession, rustls::Error> {
        self.locked().new_session(held, client, clock)
    }

    /// The configuration with its facts.
    pub(crate) fn config(&self) -> ServerTls {
        self.locked().clone()
    }

    /// The facts of the certificates in force.
    pub(crate) fn facts(&self) -> Vec<CertificateFacts> {
        self.locked().facts.clone()
    }

    /// Replaces the configuration for the next clients; open connections keep theirs.
    pub(crate) fn put(&self, tls: ServerTls) {
        *self.locked() = tls;
    }

    fn locked(&self) -> MutexGuard<'_, ServerTls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
