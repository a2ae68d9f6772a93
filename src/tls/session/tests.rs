use std::io::{Read, Write};

use proptest::prelude::*;
use rustls::client::ClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::OutboundPlainMessage;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    RootCertStore, SignatureScheme, SupportedProtocolVersion, version,
};

use super::*;
use crate::base::SplitMix64;
use crate::base::tls_roots::provider;

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS13], &[&version::TLS12]];

/// Both ends before the handshake.
fn pair(versions: &'static [&'static SupportedProtocolVersion]) -> (ClientConnection, TlsSession) {
    pair_with(versions, |_| {})
}

/// The same, with another provider of the client.
fn pair_with(
    versions: &'static [&'static SupportedProtocolVersion],
    change: impl FnOnce(&mut CryptoProvider),
) -> (ClientConnection, TlsSession) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let mut of_client = CryptoProvider::clone(&provider());
    change(&mut of_client);
    let mut client = ClientConfig::builder_with_provider(Arc::new(of_client))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(client), name).expect("a client");
    (
        client,
        TlsSession::new(Arc::new(config)).expect("a session"),
    )
}

/// What the client has to send now.
fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a vector takes all");
    }
    bytes
}

/// Gives the client all records; returns the plain bytes.
fn received(client: &mut ClientConnection, mut records: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !records.is_empty() {
        client.read_tls(&mut records).expect("a slice");
        client.process_new_packets().expect("good records");
        let _ = client.reader().read_to_end(&mut plain);
    }
    plain
}

/// What the session keeps, all of it.
fn kept(session: &mut TlsSession) -> Vec<u8> {
    let mut out = Vec::new();
    let sent = session.send_kept(|bytes| {
        out.extend_from_slice(bytes);
        Ok(bytes.len())
    });
    assert_eq!(sent.expect("sent"), out.len());
    out
}

/// Gives the session bytes in pieces of at most so many; returns the plain bytes.
fn opened(session: &mut TlsSession, bytes: &[u8], mut piece: impl FnMut() -> usize) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        let mut into = vec![0; piece().clamp(1, 100_000)];
        let n = session.open(&mut now.to_vec(), &mut into).expect("opened");
        plain.extend_from_slice(&into[..n]);
        while session.has_plain() {
            let n = session.take_plain(&mut into);
            plain.extend_from_slice(&into[..n]);
        }
        rest = later;
    }
    plain
}

/// Both ends after the handshake.
fn greeted(
    versions: &'static [&'static SupportedProtocolVersion],
) -> (ClientConnection, TlsSession) {
    let (mut client, mut session) = pair(versions);
    while client.is_handshaking() || session.is_handshaking() {
        let bytes = sent(&mut client);
        assert_eq!(opened(&mut session, &bytes, || usize::MAX), b"");
        received(&mut client, &kept(&mut session));
    }
    (client, session)
}

fn sealed(session: &mut TlsSession, plain: &[u8]) -> Vec<u8> {
    let mut records = vec![0; sealed_bytes_max(plain.len())];
    let n = session.seal(plain, &mut records).expect("sealed");
    records.truncate(n);
    records
}

#[test]
fn a_request_behind_the_handshake_arrives_however_the_bytes_are_cut() {
    for seed in 0..200 {
        for versions in VERSIONS {
            let mut random = SplitMix64::new(seed);
            let most = [1, 7, 100, 20_000][seed as usize % 4];
            let (mut client, mut session) = pair(versions);
            // Goes out with the client's last message of the handshake.
            client
                .writer()
                .write_all(b"GET / HTTP/1.1\r\n\r\n")
                .expect("a request");
            let mut request = Vec::new();
            while client.is_handshaking() || request.is_empty() {
                let bytes = sent(&mut client);
                let plain = opened(&mut session, &bytes, || (random.next_u64() % most) as usize);
                request.extend(plain);
                received(&mut client, &kept(&mut session));
            }
            assert_eq!(request, b"GET / HTTP/1.1\r\n\r\n", "{seed}");
            assert!(!session.is_handshaking() && session.held_bytes() == 0);
        }
    }
}

#[test]
fn sealed_bytes_arrive_whole_in_order_and_in_the_room_that_is_said() {
    for versions in VERSIONS {
        let (mut client, mut session) = greeted(versions);
        for len in [1, 300, 16_384, 16_385, 65_536, 200_000] {
            let plain: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let records = sealed(&mut session, &plain);
            assert!(records.len() > len && records.len() <= sealed_bytes_max(len));
            assert!(received(&mut client, &records) == plain, "{len} bytes");
        }
    }
}

#[test]
fn kept_bytes_go_out_in_pieces_before_what_is_sealed_later() {
    let (mut client, mut session) = greeted(VERSIONS[0]);
    let records = sealed(&mut session, &[b'a'; 5_000]);
    let (out, rest) = records.split_at(100);
    session.keep(rest);
    assert_eq!(session.held_bytes(), rest.len());
    let mut wire = out.to_vec();
    for n in 0.. {
        let mut is_open = true;
        let sent = session.send_kept(|bytes| {
            // Each piece, then no room.
            let piece = &bytes[..bytes.len().min(n)];
            match std::mem::take(&mut is_open) && !piece.is_empty() {
                true => {
                    wire.extend_from_slice(piece);
                    Ok(piece.len())
                }
                false => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        assert!(sent.expect("sent") <= n);
        if !session.has_kept() {
            break;
        }
    }
    wire.extend(sealed(&mut session, b"later"));
    let plain = received(&mut client, &wire);
    assert_eq!((plain.len(), &plain[5_000..]), (5_005, &b"later"[..]));
    let failed = || Err(io::ErrorKind::BrokenPipe.into());
    session.keep(b"x");
    let error = session.send_kept(|_| failed()).expect_err("broken");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn each_side_may_end_first() {
    for versions in VERSIONS {
        let (mut client, mut session) = greeted(versions);
        client.writer().write_all(b"last").expect("written");
        client.send_close_notify();
        let bytes = sent(&mut client);
        assert_eq!(opened(&mut session, &bytes, || 3), b"last");
        assert!(session.has_ended());
        // The other direction is open still.
        let records = sealed(&mut session, b"answer");
        assert_eq!(received(&mut client, &records), b"answer");
        session.keep_close_notify();
        received(&mut client, &kept(&mut session));
        assert!(
            client
                .process_new_packets()
                .expect("good")
                .peer_has_closed()
        );
        let mut room = [0; 1_000];
        assert!(session.seal(b"more", &mut room).is_err(), "nothing follows");

        let (mut client, mut session) = greeted(versions);
        session.keep_close_notify();
        received(&mut client, &kept(&mut session));
        assert!(
            client
                .process_new_packets()
                .expect("good")
                .peer_has_closed()
        );
        assert!(!session.has_ended());
    }
}

/// A record of the client with this content, whatever it is.
struct Forger {
    encrypter: Box<dyn rustls::crypto::cipher::MessageEncrypter>,
    seq: u64,
}

impl Forger {
    fn new(client: ClientConnection) -> Self {
        let suite = client.negotiated_cipher_suite().expect("a suite");
        assert_ne!(suite.suite(), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let (seq, secrets) = client.dangerous_extract_secrets().expect("secrets").tx;
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secrets
        else {
            panic!("AES");
        };
        let aead = suite.tls13().expect("TLS 1.3").aead_alg;
        let encrypter = aead.encrypter(key, iv);
        Self { encrypter, seq }
    }

    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_2,
            payload: payload.into(),
        };
        let sealed = self.encrypter.encrypt(message, self.seq).expect("sealed");
        self.seq += 1;
        sealed.encode()
    }
}

#[test]
fn a_message_of_the_protocol_in_parts_ends_no_process() {
    let (client, mut session) = greeted(VERSIONS[0]);
    let mut forger = Forger::new(client);
    let mut into = [0; 1_000];
    // The first two bytes of a key update.
    let mut part = forger.record(ContentType::Handshake, &[24, 0]);
    assert_eq!(session.open(&mut part, &mut into).expect("a part"), 0);
    // The library refers to the part while it seals.
    assert!(!sealed(&mut session, b"between").is_empty());
    session.keep_close_notify();
    let mut rest = forger.record(ContentType::Handshake, &[0, 1, 1]);
    let _ = session.open(&mut rest, &mut into);
}

/// A client that knows no signature of the certificate's kind learns the reason behind the server's first messages.
#[test]
fn an_alert_follows_what_was_to_be_sent_before() {
    let (mut client, mut session) = pair_with(VERSIONS[0], |provider| {
        let algorithms = provider.signature_verification_algorithms;
        let rsa = |(scheme, _): &&(SignatureScheme, _)| *scheme == SignatureScheme::RSA_PSS_SHA256;
        let mapping: Vec<_> = algorithms.mapping.iter().filter(rsa).copied().collect();
        provider.signature_verification_algorithms.mapping = mapping.leak();
    });
    let mut into = [0; 1_000];
    session
        .open(&mut sent(&mut client), &mut into)
        .expect_err("no signature in common");
    let mut records = &*kept(&mut session);
    let mut error = Ok(());
    while error.is_ok() && !records.is_empty() {
        client.read_tls(&mut records).expect("a slice");
        error = client.process_new_packets().map(drop);
    }
    let reason = rustls::AlertDescription::HandshakeFailure;
    assert_eq!(error, Err(rustls::Error::AlertReceived(reason)));
}

/// The library refers to the part in the caller's buffer, and the error has taken the buffer.
#[test]
fn an_error_behind_a_part_of_a_message_ends_no_process() {
    for part in [&[24, 0][..], &[24, 0, 0, 1][..]] {
        let (client, mut session) = greeted(VERSIONS[0]);
        let mut forger = Forger::new(client);
        let mut into = [0; 1_000];
        let mut begun = forger.record(ContentType::Handshake, part);
        assert_eq!(session.open(&mut begun, &mut into).expect("a part"), 0);
        let mut between = forger.record(ContentType::ApplicationData, b"GET /");
        let error = session.open(&mut between, &mut into).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(session.seal(b"later", &mut [0; 1_000]).is_err());
        assert!(session.open(&mut [23, 3, 3, 0, 0], &mut into).is_err());
        session.keep_close_notify();
    }
}

#[test]
fn whatever_a_client_forges_no_process_ends() {
    let types = [
        ContentType::Handshake,
        ContentType::ApplicationData,
        ContentType::Alert,
        ContentType::ChangeCipherSpec,
        ContentType::Heartbeat,
    ];
    let parts: [&[u8]; 8] = [
        &[],
        &[24],
        &[24, 0, 0, 1],
        &[24, 0, 0, 1, 1],
        &[4, 0],
        &[1, 0],
        &[2, 40],
        b"GET",
    ];
    for seed in 0..300 {
        let mut random = SplitMix64::new(seed);
        let mut below = |n: usize| random.next_u64() as usize % n;
        let (client, mut session) = greeted(VERSIONS[0]);
        let mut forger = Forger::new(client);
        let mut into = [0; 64];
        for _ in 0..8 {
            // Mostly parts of messages of the handshake.
            let typ = types[below(types.len()).saturating_sub(below(3))];
            let mut bytes = forger.record(typ, parts[below(parts.len())]);
            let cut = below(bytes.len());
            let _ = session.open(&mut bytes[..cut], &mut into);
            let _ = session.open(&mut bytes[cut..], &mut into);
            if below(2) == 0 {
                let _ = session.seal(b"between", &mut [0; 1_000]);
            }
        }
        session.keep_close_notify();
        let _ = session.open(&mut forger.record(ContentType::Handshake, &[24]), &mut into);
        session.keep_close_notify();
    }
}

#[test]
fn what_the_protocol_forbids_ends_the_session_with_an_alert() {
    for (typ, payload, count) in [
        // Empty records, renegotiation, an early end of the alphabet of types, a warning after the other.
        (ContentType::ApplicationData, &[][..], 1_000),
        (ContentType::Handshake, &[0, 0, 0, 0][..], 1),
        (ContentType::ChangeCipherSpec, &[1][..], 1),
        (ContentType::Alert, &[1, 90][..], 100),
        (ContentType::Heartbeat, &[1][..], 1),
    ] {
        let (client, mut session) = greeted(VERSIONS[0]);
        let mut forger = Forger::new(client);
        let mut into = [0; 1_000];
        let error = (0..count).find_map(|_| {
            session
                .open(&mut forger.record(typ, payload), &mut into)
                .err()
        });
        let error = error.unwrap_or_else(|| panic!("{typ:?} was let through"));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{typ:?}");
        // The library ends some sessions without a word: after too many empty records or warnings.
        let is_told = session.has_kept() || count > 1;
        assert!(is_told, "{typ:?}: an alert");
    }
}

#[test]
fn an_unfinished_record_is_bounded() {
    let (_, mut session) = greeted(VERSIONS[0]);
    let mut into = [0; 1_000];
    // The header of the largest record, and no end.
    let mut head = [23, 3, 3, 0x41, 0];
    session.open(&mut head, &mut into).expect("a header");
    let mut held_most = 0;
    for _ in 0..16_000 {
        session.open(&mut [0], &mut into).expect("a part");
        held_most = held_most.max(session.held_bytes());
    }
    assert!(held_most <= INCOMING_BYTES_MAX);
    // A larger one is refused at its header.
    let (_, mut session) = greeted(VERSIONS[0]);
    assert!(
        session
            .open(&mut [23, 3, 3, 0xff, 0xff], &mut into)
            .is_err()
    );
    // A handshake that never ends.
    let (_, mut session) = pair(VERSIONS[0]);
    let mut hello = [22, 3, 1, 0x40, 0].to_vec();
    hello.extend([1, 0, 0xff, 0xff]);
    hello.resize(5 + 0x4000, 0);
    let refused = (0..10).find_map(|_| session.open(&mut hello.clone(), &mut into).err());
    assert!(refused.is_some() && session.held_bytes() <= 2 * HANDSHAKE_BYTES_MAX);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (_, mut session) = pair(VERSIONS[0]);
        let mut into = [0; 1_000];
        if let Ok(n) = session.open(&mut bytes.clone(), &mut into) {
            prop_assert_eq!(n, 0);
        }
        prop_assert!(session.is_handshaking());
    }

    #[test]
    fn a_changed_record_is_refused(at in 0_usize..50, bit in 0_u8..8) {
        let (mut client, mut session) = greeted(VERSIONS[0]);
        client.writer().write_all(b"twenty-eight bytes of a text").expect("written");
        let mut record = sent(&mut client);
        let at = at % record.len();
        record[at] ^= 1 << bit;
        let mut into = [0; 1_000];
        match session.open(&mut record, &mut into) {
            // The version of a record is ignored (RFC 8446 §5.1); its type too, by the library.
            Ok(28) if at < 3 => {}
            // A longer record: the rest never comes.
            Ok(n) => prop_assert_eq!(n, 0),
            Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData),
        }
    }
}
