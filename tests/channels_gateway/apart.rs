//! Sizes tell nothing of another's secret: messages of a user's own names are compressed alone (RFC 7692 §8).

use serde_json::json;

use super::admission::{token, with_auth};
use super::*;

const OWN: &[u8] = br#"{"user": ["chat:*", "orders:{sub}:*"], "desk": ["*"]}"#;

/// The same names, but none is a user's own.
const NOBODYS: &[u8] = br#"{"user": ["chat:*", "orders:*"], "desk": ["*"]}"#;

const TEXTS: [&str; 2] = [
    "the order of ann is 4711 pieces of copper at 9,153.25 from the desk in Rotterdam, due on Friday",
    "nothing of this kind was ever ordered by anyone at all; whoever says so is mistaken, as so often",
];

/// A client that reads the names of ann, and the names that it asks for.
#[derive(Clone, Copy, Debug)]
struct Reader {
    table: &'static [u8],
    claims: &'static str,
    names: &'static [&'static str],
    /// The pattern for which the bus sends the copies.
    pattern: Option<&'static str>,
}

/// Wire bytes of the messages that others can write, and of the secret ones.
fn sizes(reader: Reader, secret: &str, guess: &str) -> (Vec<u64>, Vec<u64>) {
    let settings = ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, reader.table).expect("a table"),
        ..with_auth()
    };
    let mut bench = Bench::retaining_with(settings, 1 << 20);
    let claims: Value = serde_json::from_str(reader.claims).expect("claims");
    let target = format!("/ws?token={}", token(&claims));
    let key = bench.world.connect(&target, Some(15));
    bench.subscribe(key, reader.names);
    bench.confirm(reader.names[0]);
    bench.world.advance(2 * SECOND);
    bench.got(key);
    let (mut public, mut own) = (Vec::new(), Vec::new());
    let mut before = bench.world.net.sockets[&key].bytes;
    for step in 0..6 {
        let name = ["chat:1", "orders:ann:7"][step % 2];
        let text = [guess, secret][step % 2];
        let payload = format!(r#"{{"step":{step},"text":"{text}"}}"#);
        let message = BusMessage {
            pattern: reader.pattern.map(Into::into),
            quiet: step == 1,
            ..BusMessage::new(name, payload.into_bytes(), bench.world.now)
        };
        let number = bench.newest_question(reader.pattern.unwrap_or("orders:ann:7"));
        bench.bus(match message.quiet {
            true => BusEvent::LastValue {
                is_deletion: false,
                message,
                number,
            },
            false => BusEvent::Message(message),
        });
        let [got] = &bench.got(key)[..] else {
            panic!("{reader:?}: one message in step {step}");
        };
        assert_eq!(
            (&got["channel"], &got["data"]["text"]),
            (&json!(name), &json!(text))
        );
        let bytes = bench.world.net.sockets[&key].bytes;
        [&mut public, &mut own][step % 2].push(bytes - before);
        before = bytes;
    }
    (public, own)
}

#[test]
fn what_a_user_gets_alone_changes_no_size_of_what_others_write() {
    let exact = Reader {
        table: OWN,
        claims: r#"{"sub": "ann", "role": "user"}"#,
        names: &["orders:ann:7", "chat:1"],
        pattern: None,
    };
    let desk = Reader {
        claims: r#"{"sub": "bob", "role": "desk"}"#,
        names: &["*"],
        pattern: Some("*"),
        ..exact
    };
    // The table does not show whose names a token lists.
    let listed = Reader {
        table: br#"{"user": ["chat:*"], "desk": ["*"]}"#,
        claims: r#"{"sub": "ann", "role": "user", "channels": ["orders:ann:7"]}"#,
        ..exact
    };
    for reader in [exact, desk, listed] {
        for text in TEXTS {
            let [one, other] = TEXTS.map(|secret| sizes(reader, secret, text).0);
            assert_eq!(one, other, "{reader:?}: the sizes of what others write");
            let [one, other] = TEXTS.map(|guess| sizes(reader, text, guess).1);
            assert_eq!(one, other, "{reader:?}: the sizes of the secret");
        }
    }
    let nobodys = Reader {
        table: NOBODYS,
        ..exact
    };
    let [one, other] = TEXTS.map(|guess| sizes(nobodys, TEXTS[0], guess).1);
    assert_ne!(one, other, "the test would see it");
}

/// A table that makes a name a user's own counts from its first message on.
#[test]
fn a_new_table_of_roles_sets_names_apart() {
    let table = |table| ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, table).expect("a table"),
        ..settings()
    };
    let mut bench = Bench::up(table(NOBODYS));
    let key = bench.world.connect("/ws", Some(15));
    bench.subscribe(key, &["orders:ann:7"]);
    bench.confirm("orders:ann:7");
    let payload = |n| format!(r#"{{"step":{n},"text":"{}"}}"#, TEXTS[0]);
    let chained = |bench: &Bench| bench.world.hub.stats().encodings_chained;
    bench.publish("orders:ann:7", &[], payload(1));
    bench.publish("orders:ann:7", &[], payload(2));
    assert_eq!(chained(&bench), 1);
    let own = Acl::from_json(NameSyntax::Redis, OWN).expect("a table");
    let now = bench.world.now;
    bench.world.hub.handle_input(now, own);
    bench.publish("orders:ann:7", &[], payload(3));
    assert_eq!(chained(&bench), 1);
    assert_eq!(bench.got(key).len(), 5, "welcome, answer and messages");
}
