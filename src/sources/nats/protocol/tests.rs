//! Operations in pieces of any size.

use proptest::prelude::*;

use super::*;

const ALL: &[u8] = b"INFO {\"server_id\":\"X\"}\r\nPING\r\n+OK\r\nMSG a.b 7 5\r\nhe\r\no\r\n\
    MSG a 8 _INBOX.x 0\r\n\r\nHMSG a.b 9 r 30 33\r\nNATS/1.0 503 No Responders\r\n\r\nabc\r\n\
    -ERR 'Permissions Violation for Subscription to \"x\"'\r\nPONG\r\n";

fn delivery(subject: &str, sid: u64, reply: Option<&str>, payload: &[u8]) -> Delivery {
    Delivery {
        subject: subject.to_owned(),
        sid,
        reply: reply.map(str::to_owned),
        payload: payload.to_vec(),
        ..Delivery::default()
    }
}

fn expected() -> Vec<Op> {
    let unanswered = Delivery {
        status: Some(503),
        ..delivery("a.b", 9, Some("r"), b"abc")
    };
    vec![
        Op::Info("{\"server_id\":\"X\"}".to_owned()),
        Op::Ping,
        Op::Ok,
        Op::Message(delivery("a.b", 7, None, b"he\r\no")),
        Op::Message(delivery("a", 8, Some("_INBOX.x"), b"")),
        Op::Message(unanswered),
        Op::Error("Permissions Violation for Subscription to \"x\"".to_owned()),
        Op::Pong,
    ]
}

fn read(reader: &mut Reader, mut bytes: &[u8]) -> Result<Vec<Op>, Malformed> {
    let mut ops = Vec::new();
    while let Some(op) = reader.next(&mut bytes)? {
        ops.push(op);
    }
    assert!(bytes.is_empty());
    Ok(ops)
}

proptest! {
    #[test]
    fn pieces_of_any_size_are_read_the_same(cuts in prop::collection::vec(0..ALL.len(), 0..8)) {
        let mut cuts = cuts;
        cuts.extend([0, ALL.len()]);
        cuts.sort_unstable();
        let mut reader = Reader::new(100);
        let mut ops = Vec::new();
        for piece in cuts.windows(2) {
            ops.extend(read(&mut reader, &ALL[piece[0]..piece[1]]).expect("good bytes"));
        }
        prop_assert_eq!(ops, expected());
    }

    #[test]
    fn any_bytes_end_in_an_error_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&mut Reader::new(10), &bytes);
    }
}

#[test]
fn a_heartbeat_names_the_last_delivery() {
    let headers = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 18446744073709551615\r\n\
        Nats-Last-Stream: 7\r\nNats-Consumer-Stalled: $JS.FC.S.c.x\r\n\r\n";
    let bytes = headers.len();
    let op = format!("HMSG a 1 {bytes} {bytes}\r\n{headers}\r\n");
    let ops = read(&mut Reader::new(10), op.as_bytes()).expect("good bytes");
    let heartbeat = Delivery {
        status: Some(100),
        last_consumer: Some(u64::MAX),
        stalled: Some("$JS.FC.S.c.x".to_owned()),
        ..delivery("a", 1, None, b"")
    };
    assert_eq!(ops, [Op::Message(heartbeat)]);
    // Only the server's own messages have a status.
    let headers = headers.replace(" 100 Idle Heartbeat", "");
    let bytes = headers.len();
    let op = format!("HMSG a 1 {bytes} {bytes}\r\n{headers}\r\n");
    let ops = read(&mut Reader::new(10), op.as_bytes()).expect("good bytes");
    assert_eq!(ops, [Op::Message(delivery("a", 1, None, b""))]);
}

#[test]
fn an_empty_message_with_the_headers_of_a_deletion_is_one() {
    let ack = "$JS.ACK.S.c.1.7.1.1700000000000000000.0";
    for (headers, payload, is_deletion) in [
        ("KV-Operation: DEL", "", true),
        ("KV-Operation:PURGE\r\nNats-Rollup: sub", "", true),
        ("Nats-Marker-Reason: MaxAge", "", true),
        ("Nats-Marker-Reason: Whatever", "", true),
        ("KV-Operation: PUT", "", false),
        ("X-KV-Operation: DEL", "", false),
        ("KV-Operation: DEL", "1", false),
    ] {
        for reply in ["", ack] {
            let headers = format!("NATS/1.0\r\n{headers}\r\n\r\n");
            let (own, all) = (headers.len(), headers.len() + payload.len());
            let op = format!("HMSG a 1 {reply} {own} {all}\r\n{headers}{payload}\r\n");
            let ops = read(&mut Reader::new(10), op.as_bytes()).expect("good bytes");
            let [Op::Message(message)] = ops.as_slice() else {
                panic!("{ops:?}");
            };
            assert_eq!(message.is_deletion, is_deletion, "{op}");
        }
    }
}

#[test]
fn a_message_of_a_stream_has_no_status_whatever_its_headers() {
    let ack = "$JS.ACK.S.c.1.7.1.1700000000000000000.0";
    for (reply, status) in [(ack, None), ("$JS.FC.S.c.x", Some(100))] {
        let headers = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 9\r\n\r\n";
        let bytes = headers.len();
        let op = format!("HMSG a 1 {reply} {bytes} {}\r\n{headers}x\r\n", bytes + 1);
        let ops = read(&mut Reader::new(10), op.as_bytes()).expect("good bytes");
        let message = Delivery {
            status,
            last_consumer: status.map(|_| 9),
            ..delivery("a", 1, Some(reply), b"x")
        };
        assert_eq!(ops, [Op::Message(message)]);
    }
}

#[test]
fn of_a_payload_over_the_limit_the_beginning_is_kept() {
    let mut reader = Reader::new(3);
    let ops = read(
        &mut reader,
        b"MSG a 1 9\r\nabcdefghi\r\nMSG a 1 3\r\nxyz\r\n",
    );
    let want = [b"abcd".as_slice(), b"xyz"].map(|p| Op::Message(delivery("a", 1, None, p)));
    assert_eq!(ops.expect("good bytes"), want);
}

#[test]
fn what_is_not_the_protocol() {
    for bad in [
        "HTTP/1.1 400 Bad Request\r\n",
        "MSG a 1\r\n",
        "MSG a 1 x\r\n",
        "MSG a x 1\r\n",
        "MSG a 1 2 3 4\r\n",
        "HMSG a 1 9 3\r\n",
        "MSG a 1 99999999999999999999999\r\n",
        "MSG a 1 1\r\nabc\r\n",
        "\r\n",
    ] {
        assert!(read(&mut Reader::new(10), bad.as_bytes()).is_err(), "{bad}");
    }
    let endless = vec![b'x'; LINE_BYTES_MAX + 1];
    assert!(read(&mut Reader::new(10), &endless).is_err());
}

#[test]
fn both_forms_are_read() {
    let old = "$JS.ACK.LEVEL_SIGNALS.gateway_levels.1.4711.22.1700000000000000000.9";
    let new = "$JS.ACK._.accHash.LEVEL_SIGNALS.gateway_levels.1.4711.22.1700000000000000000.9";
    let newest = format!("{new}.r4nd0m");
    let want = Some(AckSubject {
        stream_sequence: 4711,
        consumer_sequence: 22,
        stored_unix_ns: 1_700_000_000_000_000_000,
        pending: 9,
    });
    for subject in [old, new, newest.as_str()] {
        assert_eq!(AckSubject::parse(subject), want, "{subject}");
    }
}

#[test]
fn others_are_refused() {
    for subject in [
        "",
        "_INBOX.abc",
        "$JS.ACK.",
        "$JS.ACK.s.c.1.2.3.4",
        "$JS.ACK.s.c.1.x.3.4.5",
        "$JS.ACK.d.a.s.c.1.2.3.4",
        "$JS.FC.s.c.x",
    ] {
        assert_eq!(AckSubject::parse(subject), None, "{subject}");
    }
}

proptest! {
    #[test]
    fn no_subject_panics(subject in "(\\$JS\\.ACK\\.)?[a-z0-9.]{0,60}") {
        let _ = AckSubject::parse(&subject);
    }
}
