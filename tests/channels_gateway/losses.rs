//! The newest messages after the bus has lost messages: those from before may be outdated, and the answer says so.

use super::resume::{Kept, MARK, TICK, at, data, limits};
use super::*;

const QUIET: &str = "market:quiet";

/// The connection to the bus ends, and is back.
fn lose(kept: &mut Kept) {
    kept.bench.bus(BusEvent::Gap { lost: None });
    kept.bench.down();
    kept.begin(MARK);
}

/// A feed whose names have each a message from before a loss.
fn after_loss() -> Kept {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    kept.publish(QUIET, "2");
    lose(&mut kept);
    kept
}

/// The answer to a request for the newest messages, and what they are.
fn newest(kept: &mut Kept, names: &[&str], rest: Value) -> (Value, Vec<Value>) {
    let mut request = json!({"action": "subscribe", "channels": names});
    for (name, value) in rest.as_object().expect("members") {
        request[name] = value.clone();
    }
    let (key, answer, mut got) = kept.asks(&request);
    got.retain(|one| one["type"] == "data");
    kept.bench.world.end(key, true);
    (answer, data(&got))
}

#[test]
fn newest_messages_from_before_a_loss_are_said_to_be_outdated_until_another_comes() {
    let mut kept = after_loss();
    let (old, new) = (json!([1, 2]), json!([2, 3]));
    let (answer, got) = newest(&mut kept, &[TICK, QUIET, "market:none"], json!({"last": 1}));
    assert_eq!(json!(got), old);
    assert_eq!(answer["why"], json!({ TICK: "lost", QUIET: "lost" }));
    assert_eq!(answer.get("recovered"), None);
    let (answer, got) = newest(&mut kept, &["market:*"], json!({"last": 1}));
    assert_eq!(json!(got), old);
    assert_eq!(answer["why"], json!({"market:*": "lost"}));
    kept.publish(TICK, "3");
    let (answer, got) = newest(&mut kept, &[TICK, QUIET], json!({"last": 1}));
    assert_eq!(json!(got), new);
    assert_eq!(answer["why"], json!({ QUIET: "lost" }));
    let (answer, got) = newest(&mut kept, &[TICK], json!({"last": 2}));
    assert_eq!(json!(got), json!([1, 3]), "with a hole");
    assert_eq!(answer["why"], json!({ TICK: "lost" }));
    let (answer, got) = newest(&mut kept, &["market:*"], json!({"last": 1}));
    assert_eq!(json!(got), new);
    assert_eq!(answer["why"], json!({"market:*": "lost"}));
    kept.publish(QUIET, "4");
    let (answer, got) = newest(&mut kept, &["market:*", TICK], json!({"last": 1}));
    assert_eq!(json!(got), json!([3, 3, 4]));
    assert_eq!(answer.get("why"), None, "all are whole again");
}

/// The reason why messages were missed says nothing of the newest ones.
#[test]
fn with_a_position_from_before_a_loss_a_name_is_outdated_or_not() {
    let mut kept = after_loss();
    kept.publish(TICK, "3");
    let rest = json!({"last": 1, "since": "m5.7f3a09c2b11e.9.0"});
    let (answer, got) = newest(&mut kept, &[TICK, QUIET], rest);
    assert_eq!(json!(got), json!([2, 3]));
    let recovered = json!({ TICK: false, QUIET: false });
    assert_eq!(answer["recovered"], recovered);
    assert_eq!(answer["why"], json!({ TICK: "epoch", QUIET: "lost" }));
    // A position from after it.
    let (answer, got) = newest(&mut kept, &[QUIET], json!({"last": 1, "since": at(0)}));
    assert_eq!(json!(got), json!([]));
    assert_eq!(answer["recovered"], json!({ QUIET: true }));
    assert_eq!(answer.get("why"), None);
}

#[test]
fn a_client_that_asks_for_its_names_again_and_an_event_stream_are_told_too() {
    let mut kept = after_loss();
    let (key, _) = kept.member(&[QUIET]);
    let request = json!({"action": "subscribe", "channels": [QUIET], "last": 1});
    kept.bench.say(key, &request);
    let got = kept.bench.got(key);
    assert_eq!(got[0]["why"], json!({ QUIET: "lost" }));
    assert_eq!(got[1]["data"], 2);

    let send = request.to_string().replace('"', "%22");
    let key = kept.bench.world.accept(usize::MAX);
    let request =
        format!("GET /ws?send={send} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    kept.bench.world.send(key, request.as_bytes());
    let sent = kept.bench.world.sent(key);
    assert!(
        sent.contains(r#""why":{"market:quiet":"lost"}"#) && sent.contains(r#""data":2"#),
        "{sent}"
    );
}

/// While the bus is away, the status says that newer messages may be missing; the answer says so, too.
#[test]
fn newest_messages_are_outdated_as_soon_as_the_bus_is_away() {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    kept.bench.bus(BusEvent::Gap { lost: None });
    kept.bench.down();
    let (answer, got) = newest(&mut kept, &[TICK], json!({"last": 1}));
    assert_eq!(
        (json!(got), &answer["why"]),
        (json!([1]), &json!({ TICK: "lost" }))
    );
}

#[test]
fn an_instance_that_starts_after_the_loss_has_no_outdated_messages() {
    let mut kept = Kept::with(settings(), limits());
    let (answer, got) = newest(&mut kept, &[TICK], json!({"last": 1}));
    assert_eq!((got.len(), answer.get("why")), (0, None));
}
