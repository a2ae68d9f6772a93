//! What a client may make a step cost; and records that only somebody with the keys of the connection can make, and no
//! honest client sends.

use super::*;

/// Opening stops where the step has cost as much as its buffer, and goes on without further bytes.
#[test]
fn a_step_opens_as_many_records_as_large_ones_would_cost() {
    for versions in VERSIONS {
        let (mut client, mut session) = greeted(versions);
        let text: Vec<u8> = (0..200).collect();
        for byte in &text {
            client.writer().write_all(&[*byte]).expect("a record");
        }
        let records = sent(&mut client);
        let mut into = vec![0; 16 * RECORD_COST_BYTES];
        let mut got = Vec::new();
        let mut raw = records.clone();
        while got.is_empty() || session.has_input() {
            let n = session.open(&mut raw, &mut into).expect("opened");
            assert!(n == 16 || got.len() + n == text.len(), "{n} in a step");
            got.extend_from_slice(&into[..n]);
            raw.clear();
            let answer = sealed(&mut session, b"between");
            assert_eq!(received(&mut client, &answer), b"between");
        }
        assert!(got == text && session.held_bytes() == 0);
    }
}

/// A session that has got key updates, with so many bytes of data after each: how many were let through.
fn key_updates(count: usize, data: &[u8]) -> usize {
    let (mut client, mut session) = greeted(VERSIONS[0]);
    client.set_buffer_limit(None);
    let mut into = vec![0; 100_000];
    let is_let_through = |_: &usize| {
        client.refresh_traffic_keys().expect("a key update");
        client.writer().write_all(data).expect("written");
        let opened = session.open(&mut sent(&mut client), &mut into);
        received(&mut client, &kept(&mut session));
        opened.is_ok_and(|n| n == data.len())
    };
    (0..count).take_while(is_let_through).count()
}

#[test]
fn key_updates_are_permitted_by_data_and_time() {
    assert_eq!(key_updates(50, &[7; DATALESS_EVERY_BYTES]), 50);
    let let_through = key_updates(2_000, b"x");
    assert!((10..1_000).contains(&let_through), "{let_through}");
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
        let is_reported = session.has_kept() || count > 1;
        assert!(is_reported, "{typ:?}: an alert");
    }
}
