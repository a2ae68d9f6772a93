use std::io::{Read, Write};
use std::iter::repeat_n;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rustls::client::ClientConnection;
use rustls::crypto::cipher::OutboundPlainMessage;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ConnectionTrafficSecrets, ContentType, NamedGroup, ProtocolVersion,
    RootCertStore, SignatureScheme, SupportedProtocolVersion, version,
};

use super::*;
use weirgate_runtime::tls_roots::provider;
use weirgate_wire::admission::Chosen;
use weirgate_wire::base::SplitMix64;

mod costs;

pub(crate) const VERSIONS: [&[&SupportedProtocolVersion]; 2] =
    [&[&version::TLS13], &[&version::TLS12]];

const CLIENT: ClientAddr = ClientAddr::Unix;

/// Both ends before the handshake.
fn pair(versions: &'static [&'static SupportedProtocolVersion]) -> (ClientConnection, TlsSession) {
    pair_with(versions, |_| {})
}

/// Both ends before the handshake, with another provider of the client.
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
    let held = Quota::new("tls", u64::MAX);
    let session = TlsSession::new(Arc::new(config), &held, CLIENT, Clock::start());
    (client, session.expect("a session"))
}

/// What the client has to send now.
pub(crate) fn sent(client: &mut ClientConnection) -> Vec<u8> {
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
        while session.has_input() {
            let n = session.open(&mut [], &mut into).expect("opened");
            plain.extend_from_slice(&into[..n]);
        }
        rest = later;
    }
    plain
}

/// Both ends after the handshake.
pub(crate) fn greeted(
    versions: &'static [&'static SupportedProtocolVersion],
) -> (ClientConnection, TlsSession) {
    let (mut client, mut session) = pair(versions);
    greet(&mut client, &mut session);
    (client, session)
}

/// The handshake, to its end on both sides.
fn greet(client: &mut ClientConnection, session: &mut TlsSession) {
    while client.is_handshaking() || session.is_handshaking() {
        let bytes = sent(client);
        assert_eq!(opened(session, &bytes, || usize::MAX), b"");
        received(client, &kept(session));
    }
}

/// Browsers put the exchange that a quantum computer does not open first.
#[test]
fn clients_get_the_key_exchange_that_they_prefer() {
    for wanted in [
        NamedGroup::X25519MLKEM768,
        NamedGroup::X25519,
        NamedGroup::secp256r1,
    ] {
        let (mut client, mut session) = pair_with(VERSIONS[0], |provider| {
            provider
                .kx_groups
                .sort_by_key(|group| group.name() != wanted);
        });
        greet(&mut client, &mut session);
        let group = client.negotiated_key_exchange_group();
        assert_eq!(group.map(SupportedKxGroup::name), Some(wanted));
    }
}

fn sealed(session: &mut TlsSession, plain: &[u8]) -> Vec<u8> {
    let mut records = vec![0; TlsSession::sealed_bytes_max(plain.len())];
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
            assert!(records.len() > len && records.len() <= TlsSession::sealed_bytes_max(len));
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
    for (requires_certificate, bytes_max) in
        [(false, INCOMING_BYTES_MAX), (true, CERTIFICATES_BYTES_MAX)]
    {
        // A handshake that never ends.
        let (_, mut session) = pair(VERSIONS[0]);
        session.requires_certificate = requires_certificate;
        let mut hello = [22, 3, 1, 0x40, 0].to_vec();
        hello.extend([1, 0, 0xff, 0xff]);
        hello.resize(5 + 0x4000, 0);
        let refused = (0..10).find_map(|_| session.open(&mut hello.clone(), &mut into).err());
        assert!(refused.is_some() && session.held_bytes() <= 2 * bytes_max);
        // Nor one in records of a single byte, whose message is not too long for the library.
        let (_, mut session) = pair(VERSIONS[0]);
        session.requires_certificate = requires_certificate;
        let mut held_most = 0;
        for byte in [1, 0, 0x70, 0].into_iter().chain(repeat_n(0, 0x7000)) {
            let mut record = [22, 3, 1, 0, 1, byte];
            if session.open(&mut record, &mut into).is_err() {
                break;
            }
            held_most = held_most.max(session.held_bytes());
        }
        assert!((bytes_max / 2..=bytes_max).contains(&held_most));
    }
}

/// What the network did not take goes out after what it did not take before.
#[test]
fn kept_records_keep_their_order() {
    let (mut client, mut session) = greeted(VERSIONS[0]);
    for text in ["first", "second"] {
        let records = sealed(&mut session, text.as_bytes());
        session.keep(&records);
    }
    assert_eq!(received(&mut client, &kept(&mut session)), b"firstsecond");
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

/// A session after its handshake, whose bytes are charged to the client in `held`.
fn greeted_in(
    held: &Quota,
    versions: &'static [&'static SupportedProtocolVersion],
) -> (ClientConnection, TlsSession) {
    let (client, mut session) = greeted(versions);
    (session.input, session.output) = (held.hold(CLIENT, 0, 0), held.hold(CLIENT, 0, 0));
    (client, session)
}

#[test]
fn held_bytes_are_counted_until_the_session_ends() {
    for versions in VERSIONS {
        let held = Quota::new("tls", 1_000);
        let (mut client, mut session) = greeted_in(&held, versions);
        client.writer().write_all(&[7; 3_000]).expect("a record");
        let record = sent(&mut client);
        let (begin, rest) = record.split_at(500);
        let mut into = [0; 1_000];
        assert_eq!(session.open(&mut begin.to_vec(), &mut into).ok(), Some(0));
        assert!(session.has_begun_record());
        assert_eq!((held.held(), held.of(CLIENT)), (500, 500));
        assert_eq!(
            session.open(&mut rest.to_vec(), &mut into).ok(),
            Some(1_000)
        );
        assert!(!session.has_begun_record());
        assert_eq!(held.held(), 2_000, "plain bytes without room");
        assert_eq!(session.open(&mut [], &mut into).ok(), Some(1_000));
        assert_eq!(session.open(&mut [], &mut into).ok(), Some(1_000));
        session.keep(&[0; 100]);
        assert_eq!(held.held(), 100);
        let _ = session.send_kept(|bytes| Ok(bytes.len().min(60)));
        assert_eq!((held.held(), session.held_bytes()), (0, 0));
        drop(session);
        assert_eq!(held.held(), 0);
    }
}

/// Over the limit the session that holds much for long has to go, on whichever thread, and not one that has just moved.
#[test]
fn a_session_that_stands_still_gives_way_to_one_that_moves() {
    let held = Quota::new("tls", 30_000);
    let (mut client, mut idle) = greeted_in(&held, VERSIONS[0]);
    let (mut mover, mut moves) = greeted_in(&held, VERSIONS[0]);
    let chosen = Chosen::new(Waker::noop().clone());
    idle.wake_with(&chosen.waker("idle"));
    moves.wake_with(&chosen.waker("moves"));
    let mut into = [0; 20_000];
    client.writer().write_all(&[7; 16_000]).expect("a record");
    let record = sent(&mut client);
    let opened = idle.open(&mut record[..16_000].to_vec(), &mut into);
    opened.expect("a begun record");
    // Much longer than a busy machine lets this thread wait.
    thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        mover.writer().write_all(&[7; 16_000]).expect("a record");
        for piece in sent(&mut mover).chunks(5_000) {
            moves.open(&mut piece.to_vec(), &mut into).expect("opened");
        }
    }
    assert_eq!(chosen.take(), ["idle"]);
    assert!(idle.is_evicted() && !moves.is_evicted());
    let rest = idle.open(&mut record[16_000..].to_vec(), &mut into);
    assert_eq!(rest.expect("the rest"), 16_000);
    assert!(!idle.is_evicted(), "it moved before its thread had looked");
}

/// Sending is not progress of reading: a client that reads nothing cannot look busy with records of its own.
#[test]
fn each_direction_has_its_own_progress() {
    let held = Quota::new("tls", 100);
    let (mut client, mut session) = greeted_in(&held, VERSIONS[0]);
    session.keep(&[0; 90]);
    let mut into = [0; 100];
    thread::sleep(Duration::from_millis(30));
    client.writer().write_all(b"still here").expect("a record");
    let record = sent(&mut client);
    session.open(&mut record[..9].to_vec(), &mut into).unwrap();
    let other = held.hold(CLIENT, 80, session.clock.mono_us() - 10_000);
    session.open(&mut record[9..].to_vec(), &mut into).unwrap();
    held.make_room(session.clock.mono_us());
    assert!(session.is_evicted() && !other.is_evicted());
}
