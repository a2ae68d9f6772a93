//! The last message of an exact subject.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::last_message::LastMessage;
use super::super::*;
use super::bench::*;
use crate::nats::api::{ApiError, Fetched, answer_with_message, message};
use crate::nats::protocol;
use weirgate_core::StoredId;
use weirgate_wire::json::Json;

#[test]
fn a_value_takes_two_requests() {
    let mut bench = Bench::asks("a.b");
    assert!(bench.sent().contains("$JS.API.STREAM.LIST"));
    bench.answer(LIST);
    let text = bench.sent();
    assert!(text.contains("$JS.API.STREAM.MSG.GET.S _INBOX."), "{text}");
    assert!(text.contains(r#"{"last_by_subj":"a.b"}"#), "{text}");
    let message = r#"{"message":{"seq":3,"data":"aGk="}}"#;
    bench.answer(message);
    let question = question(1, "a.b");
    let value = RetainedEvent::Value {
        question: question.clone(),
        subject: Arc::from("a.b"),
        payload: b"hi".to_vec(),
        is_deletion: false,
        id: Some(StoredId { major: 3, minor: 0 }),
    };
    let end = RetainedEvent::End {
        question,
        cut: None,
    };
    assert_eq!(bench.events(), [value, end]);
    bench.answer(message);
    assert_eq!(bench.events(), [], "late");
}

#[test]
fn a_name_without_a_value_ends_without_one() {
    let none = r#"{"error":{"err_code":10037,"description":"no message found"}}"#;
    for answers in [&[NO_STREAMS][..], &[LIST, none]] {
        let mut bench = Bench::asks("a.b");
        answers.iter().for_each(|answer| bench.answer(answer));
        assert_eq!(bench.came(), whole(0), "{answers:?}");
    }
}

#[test]
fn all_questions_share_one_subscription_for_answers() {
    let mut bench = Bench::idle();
    (1..4).for_each(|number| bench.ask(question(number, "a.b")));
    let text = bench.sent();
    assert_eq!(text.matches("SUB ").count(), 1);
    assert_eq!(text.matches("$JS.API.STREAM.LIST").count(), 3);
}

#[test]
fn only_the_word_that_there_is_no_message_is_none() {
    for (text, is_none) in [
        (r#"{"error":{"code":404,"err_code":10037}}"#, true),
        (r#"{"message":{"seq":1}}"#, true),
        ("", false),
        ("{}", false),
        (r#"{"message":{"seq":1,"data":"?"}}"#, false),
        (r#"{"message":{"seq":1,"data":"aGk"#, false),
    ] {
        let value = LastMessage::read(json(text), BYTES_MAX);
        assert_eq!(value == Ok(None), is_none, "{text:?}: {value:?}");
        assert_eq!(value.is_err(), !is_none, "{text:?}");
    }
}

/// The message in the first bytes of an answer of which the reader keeps some of the last ones too.
fn read_part(answer: &str, kept: usize) -> Fetched {
    let (part, rest) = answer.as_bytes().split_at(kept);
    let end = &rest[rest.len().saturating_sub(protocol::END_BYTES_KEPT)..];
    let part = Delivery {
        payload: part.to_vec(),
        end: end.to_vec(),
        ..Delivery::default()
    };
    let joined = answer_with_message(&part);
    let read = Json::read(&joined).map_err(ApiError::from);
    let read = read.and_then(message);
    read.unwrap_or_else(|error| panic!("{kept}: {error}"))
}

#[test]
fn of_an_answer_in_part_the_beginning_of_the_payload_and_what_is_behind_it_are_read() {
    let payload: Vec<u8> = (0..=255).cycle().take(400).collect();
    let data = STANDARD.encode(&payload);
    let answer = message_answer(&data);
    let (before, behind) = answer.split_once(&data).expect("data");
    assert!(behind.len() < protocol::END_BYTES_KEPT);
    for kept in before.len()..answer.len() {
        let read = read_part(&answer, kept);
        let is_in_part = answer.len() - kept >= protocol::END_BYTES_KEPT;
        let want = match is_in_part {
            true => &payload[..(kept - before.len()) / 4 * 3],
            false => &payload,
        };
        assert_eq!((&*read.payload, read.sequence), (want, 3), "{kept}");
        assert_eq!(read.stored_unix_ns, Some(1_767_225_600_000_000_000));
    }
}

#[test]
fn a_value_up_to_the_limit_comes_and_a_larger_one_is_over_it() {
    for bytes in [
        BYTES_MAX * 74 / 100,
        BYTES_MAX * 76 / 100,
        BYTES_MAX,
        BYTES_MAX + 1,
        BYTES_MAX * 101 / 100,
        4 * BYTES_MAX,
    ] {
        let payload = "x".repeat(bytes);
        // A message over the limit that was delivered has been cut, too.
        let live = &payload[..bytes.min(BYTES_MAX + 1)];
        let mut bench = Bench::with_live("a.b", &[("a.b", live)]);
        bench.answer(LIST);
        let answer = bench.over_the_wire(&message_answer(&STANDARD.encode(&payload)));
        assert_eq!(answer.is_cut(), bytes == 4 * BYTES_MAX, "{bytes}");
        bench.take(answer);
        assert!(bench.texts() == [live, "end"], "{bytes}");
    }
}

const OLD: &str = r#"{"message":{"seq":3,"data":"b2xk"}}"#;

#[test]
fn a_value_that_is_older_than_a_delivered_message_is_asked_for_again() {
    let mut bench = Bench::with_live("a.b", &[("a.b", "hi")]);
    bench.answer(LIST);
    bench.answer(OLD);
    assert_eq!(bench.came(), only(0));
    assert!(bench.pause().contains("STREAM.MSG.GET.S"));
    bench.answer(r#"{"message":{"seq":4,"data":"aGk="}}"#);
    assert_eq!(bench.texts(), ["hi", "end"]);
}

#[test]
fn after_a_message_that_the_stream_has_refused_the_value_is_what_the_stream_has() {
    let mut bench = Bench::with_live("a.b", &[("a.b", "hi")]);
    bench.answer(LIST);
    while !bench.has_ended() {
        bench.answer(OLD);
        if !bench.has_ended() {
            bench.pause();
        }
    }
    assert_eq!(bench.texts(), ["old", "end"]);
}
