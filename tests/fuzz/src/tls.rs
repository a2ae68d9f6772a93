//! TLS of a client against two independent readers: rustls in its form with buffers refuses the same first messages,
//! and reads what the session seals; the session reads what a client of rustls seals, whatever the cuts.

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use rustls::client::ClientConnection;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use weirgate_runtime::Clock;
use weirgate_server::listening::TlsSession;
use weirgate_wire::admission::{ClientAddr, Quota};

use super::{choices, outcome};

/// The longest run of operations on one connection.
const STEPS_MAX: usize = 64;

/// Bytes that are not the client's first message are refused long before.
const FIRST_BYTES_MAX: usize = 16 * 1024;

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

static CONFIGS: LazyLock<Configs> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key))
        .expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Configs {
        server: Arc::new(server),
        client: Arc::new(client),
    }
});

/// Feeds the bytes as a client's first messages, or as operations on a connection.
pub(super) fn run(data: &[u8]) -> u64 {
    let ([way, seed], rest) = choices(data);
    match way % 2 {
        0 => first_messages(usize::from(seed), rest),
        _ => connection(rest),
    }
}

fn session() -> TlsSession {
    let held = Quota::new("tls", u64::MAX);
    let server = Arc::clone(&CONFIGS.server);
    TlsSession::new(server, &held, ClientAddr::Unix, Clock::start()).expect("a session")
}

/// The same bytes to the session and to rustls: both refuse, or neither.
fn first_messages(cut: usize, data: &[u8]) -> u64 {
    let data = &data[..data.len().min(FIRST_BYTES_MAX)];
    let mut session = session();
    let mut judge = ServerConnection::new(Arc::clone(&CONFIGS.server)).expect("a connection");
    let mut into = [0; 64];
    let mut has_refused = false;
    for piece in data.chunks(1 + cut * 8) {
        has_refused = session.open(&mut piece.to_vec(), &mut into).is_err();
        let mut unread = piece;
        let mut is_good = true;
        while is_good && !unread.is_empty() {
            is_good = judge.read_tls(&mut unread).is_ok() && judge.process_new_packets().is_ok();
        }
        assert_eq!(has_refused, !is_good, "another judgement of {piece:02x?}");
        if has_refused {
            break;
        }
    }
    assert!(session.is_handshaking() && judge.is_handshaking());
    outcome((
        "first",
        has_refused,
        session.has_kept(),
        session.held_bytes() > 0,
    ))
}

/// A client and a session, and what each has said to the other.
struct Connection {
    client: ClientConnection,
    session: TlsSession,
    to_session: Vec<u8>,
    to_client: Vec<u8>,
    said_by_client: Vec<u8>,
    said_by_session: Vec<u8>,
    heard_by_client: Vec<u8>,
    heard_by_session: Vec<u8>,
}

impl Connection {
    fn new() -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client =
            ClientConnection::new(Arc::clone(&CONFIGS.client), name).expect("a client");
        client.set_buffer_limit(None);
        Self {
            client,
            session: session(),
            to_session: Vec::new(),
            to_client: Vec::new(),
            said_by_client: Vec::new(),
            said_by_session: Vec::new(),
            heard_by_client: Vec::new(),
            heard_by_session: Vec::new(),
        }
    }

    /// Moves at most so many bytes to the session, with so much room for plain bytes.
    fn move_to_session(&mut self, bytes: usize, room: usize) -> bool {
        while self.client.wants_write() {
            self.client
                .write_tls(&mut self.to_session)
                .expect("a vector takes all");
        }
        let mut piece: Vec<u8> = self
            .to_session
            .drain(..bytes.min(self.to_session.len()))
            .collect();
        let mut into = vec![0; room];
        let Ok(n) = self.session.open(&mut piece, &mut into) else {
            return false;
        };
        self.heard_by_session.extend_from_slice(&into[..n]);
        while self.session.has_input() {
            let mut into = vec![0; room.max(1)];
            let Ok(n) = self.session.open(&mut [], &mut into) else {
                return false;
            };
            self.heard_by_session.extend_from_slice(&into[..n]);
        }
        true
    }

    /// Moves what the session keeps, at most so many bytes, and all that waits for the client.
    fn move_to_client(&mut self, bytes: usize) {
        let mut left = bytes;
        let wire = &mut self.to_client;
        let sent = self.session.send_kept(|kept| {
            let n = kept.len().min(left);
            left -= n;
            wire.extend_from_slice(&kept[..n]);
            match n {
                0 => Err(std::io::ErrorKind::WouldBlock.into()),
                n => Ok(n),
            }
        });
        sent.expect("a vector takes all");
        let mut unread = &self.to_client[..];
        while !unread.is_empty() {
            self.client.read_tls(&mut unread).expect("a slice");
            self.client.process_new_packets().expect("good records");
            let _ = self.client.reader().read_to_end(&mut self.heard_by_client);
        }
        self.to_client.clear();
    }

    /// Seals; a part of the records may be kept, as where the network takes less.
    fn seal(&mut self, plain: &[u8], taken: usize) {
        let mut records = vec![0; TlsSession::sealed_bytes_max(plain.len())];
        let n = self.session.seal(plain, &mut records).expect("sealed");
        let (out, rest) = records[..n].split_at(taken.min(n));
        self.to_client.extend_from_slice(out);
        self.session.keep(rest);
        self.said_by_session.extend_from_slice(plain);
    }

    fn check(&self) {
        assert!(self.said_by_client.starts_with(&self.heard_by_session));
        assert!(self.said_by_session.starts_with(&self.heard_by_client));
    }
}

fn connection(data: &[u8]) -> u64 {
    let mut both = Connection::new();
    let mut is_damaged = false;
    let mut path = Vec::new();
    for step in data.chunks_exact(3).take(STEPS_MAX) {
        let (kind, size) = (
            step[0] % 6,
            usize::from(step[1]) * (1 + usize::from(step[2] % 64)),
        );
        let text: Vec<u8> = (0..size).map(|n| (n % 251) as u8 ^ step[2]).collect();
        let greeted = !both.session.is_handshaking() && !both.client.is_handshaking();
        let mut is_refused = false;
        match kind {
            0 | 1 => is_refused = !both.move_to_session(size, usize::from(step[2])),
            2 => both.move_to_client(size),
            3 => {
                both.client.writer().write_all(&text).expect("written");
                both.said_by_client.extend(text);
            }
            // Behind kept bytes nothing is sealed: the shell waits until they are gone.
            4 if greeted && !both.session.has_kept() => both.seal(&text, usize::from(step[2]) * 97),
            5 if step[2] > 250 && greeted => {
                let at = usize::from(step[1]);
                if let Some(byte) = both.to_session.get_mut(at) {
                    *byte ^= 0x40;
                    is_damaged = true;
                }
            }
            _ => {}
        }
        if is_refused {
            assert!(is_damaged, "good records are refused");
            path.push(u8::MAX);
            break;
        }
        both.check();
        path.push(kind * 2 + u8::from(greeted));
    }
    if !is_damaged {
        settle(&mut both);
    }
    outcome((path, is_damaged, both.session.is_handshaking()))
}

/// Moves everything: all that was said is heard.
fn settle(both: &mut Connection) {
    for _ in 0..8 {
        assert!(
            both.move_to_session(usize::MAX, 1_000),
            "good records are refused"
        );
        both.move_to_client(usize::MAX);
    }
    assert!(!both.session.is_handshaking() && !both.session.has_kept());
    assert_eq!(
        both.session.held_bytes(),
        0,
        "an idle connection holds nothing"
    );
    assert_eq!(both.heard_by_session.len(), both.said_by_client.len());
    assert_eq!(both.heard_by_client.len(), both.said_by_session.len());
    both.check();
}
