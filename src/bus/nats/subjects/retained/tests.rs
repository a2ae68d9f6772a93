//! Questions for last values, and the answers of a server.

use std::sync::Arc;

use super::all_streams::AfterPage;
use super::consuming::PULL_TIMEOUT;
use super::last_message::LastMessage;
use super::listening::LISTEN_PAUSE;
use super::patience::SILENT_AFTER;
use super::question::{PAUSE_MAX, PAUSE_MIN};
use super::reading::{PAGE_BYTES, PAGE_BYTES_LIMIT, PAGE_VALUES, QuestionReading, STREAMS_MAX};
use super::streams::parts_taken_by_streams;
use super::values_read::{LISTED_WITHIN_NS, REREADS_MAX};
use super::*;
use crate::nats::api::{ApiError, answer_with_message, message};
use crate::nats::protocol;
use crate::nats::refusals::{INBOXES, PermissionsViolation};
use crate::requests::Wants;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use weirgate_core::{PageCursor, ReadPart, RetainedCut, StoredId, Subscription, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::json::Json;

fn question(number: u64, name: &str) -> Question {
    let subscription = match name.contains(['*', '>']) {
        true => Subscription::pattern(name),
        false => Subscription::channel(name),
    };
    Question {
        subscription,
        cover: None,
        number,
        after: Arc::default(),
        wants: Wants::LastValues,
        names: Arc::default(),
        client: ClientAddr::Unix,
    }
}

/// The payload limit.
const BYTES_MAX: usize = 2 * PAGE_BYTES;

/// After many small answers.
fn small_answers() -> MessageBytes {
    let mut bytes = MessageBytes::default();
    (0..1_000).for_each(|_| bytes.note(1_000));
    bytes
}

/// Questions on a server without transforms and copies.
fn retained(now: Instant) -> Retained {
    let mut retained = Retained::new(
        QuestionSettings {
            has_last_values: true,
            stream: Some("S".to_owned()),
            payload_bytes_max: BYTES_MAX,
        },
        SourceProgress::default(),
        small_answers(),
    );
    assert!(retained.all_streams.ask(ReplyNumber(u64::MAX), now));
    assert_eq!(retained.all_streams.add_page(json("{}")), AfterPage::Known);
    retained
}

/// The answer to what this question has asked.
fn answer(retained: &Retained, number: u64, payload: &str) -> Delivery {
    let number = ReplyNumber(number);
    let step = retained.pending.get(&number).map(|pending| &pending.step);
    answer_to(
        retained,
        match step {
            Some(QuestionStep::Create { consumer, .. }) => ReplyNumber(consumer.sid),
            _ => number,
        },
        payload,
    )
}

fn answer_to(retained: &Retained, number: ReplyNumber, payload: &str) -> Delivery {
    Delivery {
        subject: retained.reply(number).into(),
        sid: FIRST_SID,
        payload: payload.as_bytes().to_vec(),
        ..Delivery::default()
    }
}

fn ended(number: u64, name: &str, cut: Option<NatsCut>) -> RetainedEvent {
    let question = question(number, name);
    RetainedEvent::End { question, cut }
}

fn end(number: u64, name: &str) -> RetainedEvent {
    ended(number, name, None)
}

fn refused(number: u64, name: &str, words: &str) -> RetainedEvent {
    ended(number, name, Some(NatsCut::Refused(words.to_owned())))
}

/// Nothing came within the time. `read_to`: the stream was read up to this message.
fn unanswered(number: u64, name: &str, read_to: Option<u64>) -> RetainedEvent {
    let part = |sequence| ReadPart {
        stream: "S".to_owned(),
        filter: name.to_owned(),
        made: String::new(),
        sequence,
    };
    RetainedEvent::Unanswered {
        question: question(number, name),
        cursor: Arc::new(PageCursor::of(read_to.map(part).into_iter().collect())),
        why: NatsCut::Refused("no answer".to_owned()),
    }
}

/// The other streams are read, and what they have does not come again.
#[test]
fn a_stream_that_does_not_answer_keeps_no_other_from_its_values() {
    let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
    retained.ask(question(1, "a.*"), None, now, &mut out);
    let list = r#"{"streams":[{"config":{"name":"F","subjects":["a.x"]}},{"config":{"name":"S","subjects":["a.*"]}}]}"#;
    retained.take(answer(&retained, 1, list), now, &mut out);
    let at = now + ANSWER_TIMEOUT;
    retained.work(at, &mut out);
    assert_eq!(std::mem::take(&mut retained.events), []);
    let made = answer(&retained, 1, r#"{"name":"c","num_pending":1}"#);
    // The late answer of the first stream, then that of the second.
    retained.take(made.clone(), at, &mut out);
    retained.take(made, at, &mut out);
    let value = Delivery {
        subject: "a.y".into(),
        sid: retained.last_sid,
        reply: Some("$JS.ACK.S.c.1.9.1.123.0".to_owned()),
        payload: b"1".to_vec(),
        ..Delivery::default()
    };
    retained.take(value, at, &mut out);
    let events = std::mem::take(&mut retained.events);
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events.last(), Some(&unanswered(1, "a.*", Some(9))));
    // For a time no server is the leader.
    let away = r#"{"error":{"code":503,"err_code":10008,"description":"unavailable"}}"#;
    retained.ask(question(2, "a.b"), None, at, &mut out);
    retained.take(answer(&retained, 2, away), at, &mut out);
    let events = std::mem::take(&mut retained.events);
    let [RetainedEvent::Unanswered { .. }] = &events[..] else {
        panic!("{events:?}");
    };
}

/// The server has worked on the request for the consumer of the first stream for longer than a question waits.
#[test]
fn a_late_consumer_of_one_stream_is_not_taken_for_that_of_the_next() {
    let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
    retained.ask(question(1, "a.*"), None, now, &mut out);
    let list = r#"{"streams":[{"config":{"name":"F","subjects":["a.x"]}},{"config":{"name":"S","subjects":["a.*"]}}]}"#;
    retained.take(answer(&retained, 1, list), now, &mut out);
    let at = now + ANSWER_TIMEOUT;
    retained.work(at, &mut out);
    let [first, second] = ["F", "S"].map(|stream| reply_subject(&out, "CONSUMER.CREATE", stream));
    out.clear();
    for (reply, name) in [(first, "late"), (second, "c")] {
        let made = Delivery {
            subject: reply.into(),
            sid: FIRST_SID,
            payload: format!(r#"{{"name":"{name}","num_pending":1}}"#).into(),
            ..Delivery::default()
        };
        retained.take(made, at, &mut out);
    }
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("CONSUMER.DELETE.F.late "), "{text}");
    assert!(
        text.contains("MSG.NEXT.S.c ") && !text.contains("MSG.NEXT.S.late"),
        "{text}"
    );
}

/// The subject for the answer to the request of this kind about a stream.
fn reply_subject(out: &[u8], request: &str, stream: &str) -> String {
    let text = String::from_utf8_lossy(out);
    let begin = format!("PUB $JS.API.{request}.{stream} ");
    let line = text.lines().find(|line| line.starts_with(&begin));
    let rest = line.and_then(|line| line.strip_prefix(&begin));
    let reply = rest.and_then(|rest| rest.split(' ').next());
    reply
        .unwrap_or_else(|| panic!("{request} {stream}: {text}"))
        .to_owned()
}

#[test]
fn a_refusal_is_told_with_its_words() {
    let used_up = r#"{"error":{"err_code":10026,"description":"maximum consumers"}}"#;
    let none = r#"{"error":{"err_code":10037,"description":"no message found"}}"#;
    let words = "error 10026: maximum consumers";
    for (name, answers, want) in [
        ("a.*", [LIST, used_up], refused(1, "a.*", words)),
        ("a.b", [used_up, ""], refused(1, "a.b", words)),
        ("a.b", [LIST, none], end(1, "a.b")),
    ] {
        let (mut retained, mut out) = (retained(Instant::now()), Vec::new());
        retained.ask(question(1, name), None, Instant::now(), &mut out);
        for text in answers {
            retained.take(answer(&retained, 1, text), Instant::now(), &mut out);
        }
        assert_eq!(std::mem::take(&mut retained.events), [want]);
    }
}

/// The server would end the connection, and all names on it with their messages.
#[test]
fn a_request_over_max_payload_is_not_sent() {
    for (name, request_bytes_max, sent) in [("a.b", 10, 0), ("a.*", 100, 1)] {
        let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
        retained.request_bytes_max = request_bytes_max;
        retained.ask(question(1, name), None, now, &mut out);
        retained.take(answer(&retained, 1, LIST), now, &mut out);
        retained.work(now, &mut out);
        let events = std::mem::take(&mut retained.events);
        let why = match &events[..] {
            [RetainedEvent::End { cut: Some(why), .. }] => why.to_string(),
            events => panic!("{events:?}"),
        };
        assert!(why.contains("max_payload"), "{why}");
        let out = String::from_utf8(out).expect("text");
        assert_eq!(out.matches("PUB $JS.API").count(), sent, "{out}");
        assert_eq!((retained.asked(), retained.due()), (0, None));
    }
}

/// A server ends the subscription for answers when its permissions change, and does not make it again.
#[test]
fn answers_are_subscribed_to_again_after_a_refusal() {
    let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
    let is_refused = |retained: &mut Retained| {
        let events = std::mem::take(&mut retained.events);
        matches!(&events[..], [RetainedEvent::Unanswered { why, .. }] if why.to_string().contains(INBOXES))
    };
    let subscribed = |out: &mut Vec<u8>| {
        let text = String::from_utf8(std::mem::take(out)).expect("text");
        text.matches("SUB _INBOX").count()
    };
    retained.ask(question(1, "a.b"), None, now, &mut out);
    assert_eq!(subscribed(&mut out), 1);
    let refusal = PermissionsViolation::Subscribe(format!("{}.*", retained.inbox));
    assert!(retained.not_permitted(&refusal, now, &mut out));
    assert!(is_refused(&mut retained));
    // Not at once: each attempt is an error in the log of the server.
    retained.ask(question(2, "a.b"), None, now, &mut out);
    assert!(is_refused(&mut retained) && subscribed(&mut out) == 0);
    let at = now + LISTEN_PAUSE;
    retained.ask(question(3, "a.b"), None, at, &mut out);
    assert_eq!(subscribed(&mut out), 1);
    let other = PermissionsViolation::Subscribe("a.b".to_owned());
    assert!(!retained.not_permitted(&other, at, &mut out));
    assert!(retained.events.is_empty());
}

/// A connection has as many subscriptions as it may have, and later fewer. Which one the server means is said by the pings behind
/// those without an answer.
#[test]
fn answers_are_subscribed_to_again_once_there_is_room() {
    for (ours, oldest, is_meant) in [
        (Some(3), None, true),
        (Some(3), Some(4), true),
        (Some(3), Some(2), false),
        (None, None, false),
    ] {
        let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
        retained.ask(question(1, "a.b"), None, now, &mut out);
        assert!(retained.needs_ping(now));
        retained.note_ping(3, now);
        assert!(!retained.needs_ping(now));
        retained.note_pongs(|ping| ours != Some(ping));
        let words = "Maximum Subscriptions Exceeded";
        assert_eq!(retained.lacks_room(words, oldest, now, &mut out), is_meant);
        let events = std::mem::take(&mut retained.events);
        let is_told = matches!(&events[..], [RetainedEvent::Unanswered { why, .. }] if why.to_string().contains(words));
        assert_eq!(is_told, is_meant, "{events:?}");
        out.clear();
        let at = now + LISTEN_PAUSE;
        retained.ask(question(2, "a.b"), None, at, &mut out);
        let text = String::from_utf8_lossy(&out);
        assert_eq!(text.contains("SUB _INBOX"), is_meant);
    }
}

#[test]
fn a_value_takes_two_requests_and_a_time() {
    let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
    for number in 1..4 {
        retained.ask(question(number, "a.b"), None, now, &mut out);
    }
    let text = String::from_utf8_lossy(&out);
    assert_eq!(text.matches("SUB ").count(), 1);
    assert_eq!(text.matches("$JS.API.STREAM.LIST").count(), 3);
    out.clear();
    let list = answer(&retained, 1, LIST);
    retained.take(list, Instant::now(), &mut out);
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("$JS.API.STREAM.MSG.GET.S _INBOX."), "{text}");
    assert!(text.contains(r#"{"last_by_subj":"a.b"}"#), "{text}");
    let message = answer(&retained, 1, r#"{"message":{"seq":3,"data":"aGk="}}"#);
    retained.take(message.clone(), Instant::now(), &mut out);
    let value = RetainedEvent::Value {
        question: question(1, "a.b"),
        subject: "a.b".into(),
        payload: b"hi".to_vec(),
        is_deletion: false,
        id: Some(StoredId { major: 3, minor: 0 }),
    };
    assert_eq!(std::mem::take(&mut retained.events), [value, end(1, "a.b")]);
    retained.take(message, Instant::now(), &mut out);
    assert_eq!(std::mem::take(&mut retained.events), [], "late");
    let none = answer(&retained, 2, r#"{"streams":null}"#);
    retained.take(none, Instant::now(), &mut out);
    assert_eq!(std::mem::take(&mut retained.events), [end(2, "a.b")]);
    retained.work(now, &mut out);
    assert_eq!(std::mem::take(&mut retained.events), []);
    retained.work(now + ANSWER_TIMEOUT, &mut out);
    assert_eq!(
        std::mem::take(&mut retained.events),
        [unanswered(3, "a.b", None)]
    );
    assert!(retained.due().is_none() && retained.asked() == 0);
}

#[test]
fn a_question_lasts_while_it_brings_new_values() {
    let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
    retained.ask(question(1, "a.*"), None, now, &mut out);
    retained.take(answer(&retained, 1, LIST), now, &mut out);
    let created = answer(&retained, 1, r#"{"name":"c","num_pending":9}"#);
    retained.take(created, now, &mut out);
    let mut at = now;
    for n in 1..4 {
        at += ANSWER_TIMEOUT - Duration::from_millis(1);
        retained.work(at, &mut out);
        let value = Delivery {
            subject: format!("a.{n}").into(),
            sid: FIRST_SID + 1,
            reply: Some(format!("$JS.ACK.S.c.1.{n}.{n}.123.5")),
            payload: b"1".to_vec(),
            ..Delivery::default()
        };
        retained.take(value, at, &mut out);
        assert_eq!(retained.due(), Some(at + ANSWER_TIMEOUT));
        assert_eq!(std::mem::take(&mut retained.events).len(), 1, "{n}");
    }
    retained.work(at + ANSWER_TIMEOUT, &mut out);
    let want = [unanswered(1, "a.*", Some(3))];
    assert_eq!(std::mem::take(&mut retained.events), want);
}

#[test]
fn the_consumer_of_a_pattern_is_left_whatever_ends_it() {
    for is_late in [false, true] {
        let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
        retained.ask(question(1, "a.*"), None, now, &mut out);
        let list = answer(&retained, 1, LIST);
        retained.take(list, now, &mut out);
        let created = answer(&retained, 1, r#"{"name":"c","num_pending":1}"#);
        retained.take(created, now, &mut out);
        out.clear();
        if is_late {
            retained.work(now + ANSWER_TIMEOUT, &mut out);
        } else {
            let value = Delivery {
                subject: "a.x".into(),
                sid: FIRST_SID + 1,
                reply: Some("$JS.ACK.S.c.1.9.1.123.0".to_owned()),
                payload: b"1".to_vec(),
                ..Delivery::default()
            };
            retained.take(value, now, &mut out);
        }
        let events = std::mem::take(&mut retained.events);
        assert_eq!(events.len(), if is_late { 1 } else { 2 });
        let want = match is_late {
            true => unanswered(1, "a.*", Some(0)),
            false => end(1, "a.*"),
        };
        assert_eq!(events.last(), Some(&want));
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("$JS.API.CONSUMER.DELETE.S.c"), "{text}");
        assert!(text.contains(&format!("UNSUB {}", FIRST_SID + 1)), "{text}");
    }
}

#[test]
fn questions_beyond_the_limit_wait() {
    let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
    for number in 0..ASKED_MAX as u64 {
        assert!(retained.has_room(now));
        retained.ask(question(number, "a"), None, now, &mut out);
    }
    assert!(!retained.has_room(now));
    let none = answer(&retained, 7, "{}");
    retained.take(none, Instant::now(), &mut out);
    assert!(retained.has_room(now));
    assert_eq!(retained.asked(), ASKED_MAX - 1);
}

/// All answers may wait at the server at the same time, which cuts a connection for which too much waits.
#[test]
fn so_many_questions_are_asked_at_once_as_large_answers_may_wait() {
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut retained = retained(now);
    let fill = |retained: &mut Retained, now, out: &mut Vec<u8>| {
        while retained.has_room(now) {
            let number = retained.last.0 + 1;
            retained.ask(question(number, "a.b"), None, now, out);
        }
        retained.asked()
    };
    retained.answer_bytes = MessageBytes::default();
    assert_eq!(fill(&mut retained, now, &mut out), 4, "nothing is known");
    retained.answer_bytes = small_answers();
    assert_eq!(fill(&mut retained, now, &mut out), ASKED_MAX);
    for number in 1..=ASKED_MAX as u64 {
        retained.take(answer(&retained, number, LIST), now, &mut out);
    }
    let large = "x".repeat(3 * 1024 * 1024);
    retained.take(answer(&retained, 1, &large), now, &mut out);
    assert!(!retained.has_room(now), "63 answers may be as large");
    // Of questions to a stream without a leader nothing comes.
    let later = now + SILENT_AFTER;
    assert!(retained.has_room(later));
    retained.close(&mut out);
    assert_eq!(
        fill(&mut retained, now, &mut out),
        1,
        "perhaps they were the cause"
    );
    (0..1_000).for_each(|_| retained.answer_bytes.note(3 * 1024 * 1024));
    assert_eq!(fill(&mut retained, now, &mut out), 5);
}

/// Requests for consumers in these bytes.
fn creations(out: &mut Vec<u8>) -> usize {
    let text = String::from_utf8(std::mem::take(out)).expect("text");
    text.matches("$JS.API.CONSUMER.CREATE").count()
}

/// Questions for patterns, each up to the request for its consumer.
fn patterns(count: u64, now: Instant, out: &mut Vec<u8>) -> Retained {
    let mut retained = retained(now);
    for number in 1..=count {
        retained.ask(question(number, "a.*"), None, now, out);
        retained.take(answer(&retained, number, LIST), now, out);
    }
    retained
}

const MADE: &str = r#"{"name":"c","num_pending":9}"#;
/// The number of the answer about the first consumer on a connection.
const FIRST_CONSUMER: ReplyNumber = ReplyNumber(FIRST_SID + 1);

#[test]
fn few_consumers_are_made_at_once_and_what_needs_none_does_not_wait() {
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut retained = patterns(10, now, &mut out);
    assert_eq!(creations(&mut out), MAKING_MAX);
    assert!(retained.has_room(now) && !retained.has_room_to_read());
    // Who waits in line is not late.
    retained.work(now + ANSWER_TIMEOUT - Duration::from_millis(1), &mut out);
    for number in 1..=10 {
        assert_eq!(std::mem::take(&mut retained.events), []);
        retained.take(answer(&retained, number, MADE), now, &mut out);
        let left = 10 - MAKING_MAX as u64;
        assert_eq!(creations(&mut out), usize::from(number <= left), "{number}");
    }
    assert!(retained.has_room_to_read());
}

/// The numbers of messages in the requests to consumers in these bytes, together.
fn requested(out: &mut Vec<u8>) -> usize {
    let text = String::from_utf8(std::mem::take(out)).expect("text");
    let batches = text.split("\"batch\":").skip(1);
    let number = |rest: &str| rest.split([',', '}']).next()?.parse::<usize>().ok();
    batches.map(|rest| number(rest).expect("a number")).sum()
}

/// Of the last values of patterns, the size is known only once the first has come.
#[test]
fn first_requests_of_all_patterns_together_bring_no_more_than_may_wait() {
    const KIB: usize = 1024;
    for bytes in [1, 64 * KIB, 512 * KIB, 1024 * KIB, 4096 * KIB, 16_384 * KIB] {
        let (now, mut out) = (Instant::now(), Vec::new());
        let mut retained = patterns(0, now, &mut out);
        (0..1_000).for_each(|_| retained.answer_bytes.note(bytes));
        let mut patterns = 0;
        while retained.has_room_to_read() {
            patterns += 1;
            retained.ask(question(patterns, "a.*"), None, now, &mut out);
            retained.take(answer(&retained, patterns, LIST), now, &mut out);
            retained.take(answer(&retained, patterns, MADE), now, &mut out);
        }
        let all = requested(&mut out) * bytes;
        // Each pattern gets one, also if others have taken the room.
        assert!(
            all <= 32 * KIB * KIB,
            "{patterns} patterns of {bytes}: {all}"
        );
    }
}

#[test]
fn a_consumer_that_nobody_waits_for_keeps_its_place_until_it_is_made_and_is_deleted_then() {
    for is_late in [false, true] {
        let (now, mut out) = (Instant::now(), Vec::new());
        let mut retained = patterns(6, now, &mut out);
        assert_eq!(creations(&mut out), 2);
        if is_late {
            retained.work(now + ANSWER_TIMEOUT, &mut out);
            let late = [1, 2].map(|number| unanswered(number, "a.*", None));
            assert_eq!(std::mem::take(&mut retained.events), late);
        } else {
            (1..=4).for_each(|number| retained.forget(number, &mut out));
        }
        assert_eq!(creations(&mut out), 0, "the server still makes them");
        retained.take(answer_to(&retained, FIRST_CONSUMER, MADE), now, &mut out);
        let text = String::from_utf8(out.clone()).expect("text");
        assert!(text.contains("$JS.API.CONSUMER.DELETE.S.c"), "{text}");
        assert_eq!(creations(&mut out), 1);
    }
}

#[test]
fn a_place_whose_answer_is_lost_is_free_when_the_server_is_past_the_request() {
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut retained = patterns(4, now, &mut out);
    retained.note_ping(1, now);
    let late = now + ANSWER_TIMEOUT;
    assert!(!retained.needs_ping(late), "somebody waits");
    (1..=2).for_each(|number| retained.forget(number, &mut out));
    assert!(!retained.needs_ping(now));
    assert_eq!(retained.due(), Some(late));
    assert!(retained.needs_ping(late));
    retained.note_ping(7, late);
    assert!(!retained.needs_ping(late) && retained.due().is_none());
    creations(&mut out);
    retained.note_pongs(|ping| ping < 7);
    retained.work(late, &mut out);
    assert_eq!(creations(&mut out), 0);
    retained.note_pongs(|ping| ping <= 7);
    retained.work(late, &mut out);
    assert_eq!(creations(&mut out), 2);
    // It was not lost.
    retained.take(answer_to(&retained, FIRST_CONSUMER, MADE), late, &mut out);
    assert_eq!(std::mem::take(&mut retained.events), []);
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

/// The answer with a message of this payload, as the server writes it.
fn stored(payload: &[u8]) -> String {
    let data = STANDARD.encode(payload);
    format!(
        r#"{{"type":"get","message":{{"subject":"a.b","seq":3,"hdrs":"TkFUUy8xLjANCg==","data":"{data}","time":"2026-01-01T00:00:00Z"}}}}"#
    )
}

#[test]
fn of_an_answer_in_part_the_beginning_of_the_payload_and_what_is_behind_it_are_read() {
    let payload: Vec<u8> = (0..=255).cycle().take(400).collect();
    let answer = stored(&payload);
    let (before, behind) = answer.split_once(&STANDARD.encode(&payload)).expect("data");
    for kept in before.len()..answer.len() {
        let (part, rest) = answer.as_bytes().split_at(kept);
        let end = &rest[rest.len().saturating_sub(protocol::END_BYTES_KEPT)..];
        let part = Delivery {
            payload: part.to_vec(),
            end: end.to_vec(),
            ..Delivery::default()
        };
        let joined = answer_with_message(&part);
        let read = Json::read(&joined)
            .map_err(ApiError::from)
            .and_then(message);
        let read = read.unwrap_or_else(|error| panic!("{kept}: {error}"));
        let want = match end.len() {
            protocol::END_BYTES_KEPT => &payload[..(kept - before.len()) / 4 * 3],
            _ => &payload,
        };
        let at = read.stored_unix_ns;
        assert_eq!(
            (&*read.payload, read.sequence, at),
            (want, 3, Some(1_767_225_600_000_000_000)),
            "{kept}"
        );
    }
    assert!(behind.len() < protocol::END_BYTES_KEPT);
}

/// The answer as the reader of the connection gives it.
fn over_the_wire(retained: &Retained, payload: &str) -> Delivery {
    let subject = retained.reply(ReplyNumber(1));
    let mut reader = protocol::OpReader::new(Retained::payload_limits(BYTES_MAX));
    let op = format!(
        "MSG {subject} {FIRST_SID} {}\r\n{payload}\r\n",
        payload.len()
    );
    match reader.next(&mut op.as_bytes()) {
        Ok(Some(protocol::Op::Message(delivery))) => delivery,
        other => panic!("{other:?}"),
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
        let mut bench = Bench::new("a.b", &[("a.b", live)]);
        bench.answer(LIST);
        let answer = over_the_wire(&bench.retained, &stored(payload.as_bytes()));
        assert_eq!(answer.is_cut(), bytes == 4 * BYTES_MAX, "{bytes}");
        bench.retained.take(answer, bench.now, &mut bench.out);
        let values = bench.values();
        assert_eq!(values.len(), 2, "{bytes}");
        assert_eq!((&*values[0], &*values[1]), (live, "end"), "{bytes}");
    }
}

#[test]
fn a_list_that_cannot_be_read_is_not_an_empty_one() {
    let long = format!(r#"{{"total":1,"streams":["{}"#, "x".repeat(4 * BYTES_MAX));
    for (name, is_of_all) in [("a.b", false), ("a.*", false), ("a.b", true), ("a.*", true)] {
        for text in ["", "{}", r#"{"total":1,"streams":[{"config"#, &long] {
            let mut bench = Bench::new(name, &[]);
            if is_of_all {
                bench.retained.all_streams = AllStreams::default();
                bench.answer(r#"{"total":0,"streams":null}"#);
            }
            let mut answer = over_the_wire(&bench.retained, text);
            assert_eq!(answer.is_cut(), text.len() > BYTES_MAX);
            answer.subject = bench.retained.reply(bench.retained.last).into();
            bench.retained.take(answer, bench.now, &mut bench.out);
            let [end] = &bench.values()[..] else {
                panic!("{name}");
            };
            assert!(end.contains("Unreadable"), "{name} {is_of_all}: {end}");
            assert!(!bench.retained.all_streams.is_known(bench.now) || !is_of_all);
        }
    }
    // What the kept stream holds.
    let mut all = All::asks(None);
    let answer = answer(&all.pages.retained, 1, "{}");
    all.pages
        .retained
        .take(answer, all.pages.now, &mut all.pages.out);
    assert_eq!(all.came(), (0, Some(RetainedCut::Unreadable), true));
}

#[test]
fn a_deep_answer_ends_its_question_and_is_named() {
    let deep = format!(r#"{{"name":"c","a":{}"#, "[".repeat(100_000));
    for (name, answers) in [
        ("a.b", vec![]),
        ("a.b", vec![LIST]),
        ("a.*", vec![]),
        ("a.*", vec![LIST]),
    ] {
        let (mut retained, mut out) = (retained(Instant::now()), Vec::new());
        retained.ask(question(1, name), None, Instant::now(), &mut out);
        for text in answers.into_iter().chain([deep.as_str()]) {
            let answer = answer(&retained, 1, text);
            retained.take(answer, Instant::now(), &mut out);
        }
        let events = std::mem::take(&mut retained.events);
        let [RetainedEvent::End { cut: Some(cut), .. }] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert!(cut.to_string().contains("deeper than 512"), "{cut}");
    }
}

fn json(text: &str) -> Json<'_> {
    Json::read(text.as_bytes()).expect("JSON")
}

const STREAMS: &str = r#"{"total":3,"streams":[
    {"config":{"name":"A","subjects":["a.*","x.>","q"]}},
    {"config":{"name":"M"}},
    {"config":{"name":"B","subjects":["a.b.>"]}}]}"#;

fn values(pattern: &str, streams: &str) -> QuestionReading {
    let mut values = QuestionReading::of(&question(1, pattern));
    values.take_streams(pattern, json(streams));
    values
}

#[test]
fn each_stream_is_asked_for_its_part() {
    let parts_of = |pattern| {
        let parts = parts_taken_by_streams(pattern, json(STREAMS))
            .parts
            .into_iter();
        let pairs = parts.map(|part| (part.stream, part.filter));
        pairs.collect::<Vec<_>>()
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(parts_of("a.>"), [pair("A", "a.*"), pair("B", "a.b.>")]);
    assert_eq!(parts_of("*.*.c"), [pair("A", "x.*.c"), pair("B", "a.b.c")]);
    assert_eq!(parts_of(">").len(), 4);
    assert_eq!(parts_of("b.*"), []);
    let found = parts_taken_by_streams("a.>", json("{}"));
    assert_eq!(Vec::from(found.parts), []);
}

#[test]
fn so_many_streams_are_asked_and_no_more() {
    for (count, has_more_streams) in [(STREAMS_MAX, false), (STREAMS_MAX + 1, true)] {
        let stream = |n| format!(r#"{{"config":{{"name":"S{n}","subjects":["a.{n}"]}}}}"#);
        let streams: Vec<String> = (0..count).map(stream).collect();
        let answer = format!(r#"{{"streams":[{}]}}"#, streams.join(","));
        let values = values("a.*", &answer);
        assert_eq!(!values.left_out.is_empty(), has_more_streams);
        assert_eq!(values.parts_left.len(), STREAMS_MAX);
    }
}

#[test]
fn streams_of_other_pages_are_not_asked() {
    for (total, has_more_streams) in [(1, false), (2, true)] {
        let stream = r#"{"config":{"name":"S","subjects":["a.1"]}}"#;
        let answer = format!(r#"{{"total":{total},"streams":[{stream}]}}"#);
        let values = values("a.*", &answer);
        assert_eq!(!values.left_out.is_empty(), has_more_streams);
        assert_eq!(values.parts_left.len(), 1);
    }
}

const PAGES_LIST: &str = r#"{"streams":[{"created":"then","config":{"name":"S","subjects":["a.>"],"max_msgs_per_subject":1},"state":{"last_seq":90000}}]}"#;
/// As [`PAGES_LIST`], of a stream that has older messages of a subject, any of which can be deleted.
const HISTORY_LIST: &str = r#"{"streams":[{"created":"then","config":{"name":"S","subjects":["a.>"],"max_msgs_per_subject":5},"state":{"last_seq":90000,"first_seq":1,"messages":80000}}]}"#;
/// The same without a hole.
const WHOLE_LIST: &str = r#"{"streams":[{"created":"then","config":{"name":"S","subjects":["a.>"]},"state":{"last_seq":90000,"first_seq":1,"messages":90000}}]}"#;

/// Answers what a question asks until it waits for messages: the list of its streams, that there are no other streams, and the
/// consumer.
fn answer_all(retained: &mut Retained, list: &str, now: Instant, out: &mut Vec<u8>) {
    for _ in 0..3 {
        let step = retained
            .pending
            .values()
            .next()
            .map(|pending| &pending.step);
        let (number, text) = match step {
            Some(QuestionStep::AllStreams) => (
                retained.all_streams.asked().map(|number| number.0),
                r#"{"streams":[]}"#,
            ),
            Some(QuestionStep::Streams) => (Some(1), list),
            Some(QuestionStep::Create { .. }) => (Some(1), MADE),
            _ => (None, ""),
        };
        if let Some(number) = number {
            retained.take(answer(retained, number, text), now, out);
        }
    }
}

/// A consumer for which so many messages wait, made in 1970.
fn made_early(waiting: u64) -> String {
    format!(r#"{{"name":"c","num_pending":{waiting},"created":"1970-01-01T00:00:00Z"}}"#)
}

/// A stream of a pattern that is read in pages.
struct Pages {
    retained: Retained,
    out: Vec<u8>,
    now: Instant,
    delivered: u64,
}

impl Pages {
    /// A question that begins here; so many messages wait.
    fn after(after: PageCursor, waiting: u64) -> Self {
        Self::listed(PAGES_LIST, after, waiting)
    }

    /// The same in the stream of this list.
    fn listed(list: &str, after: PageCursor, waiting: u64) -> Self {
        let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
        let question = Question {
            after: Arc::new(after),
            ..question(1, "a.*")
        };
        retained.ask(question, None, now, &mut out);
        retained.take(answer(&retained, 1, list), now, &mut out);
        retained.take(answer(&retained, 1, &made_early(waiting)), now, &mut out);
        Self {
            retained,
            out,
            now,
            delivered: 0,
        }
    }

    /// The requests for messages since the last call.
    fn pulls(&mut self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.out).into_owned();
        self.out.clear();
        let bodies = text.lines().filter(|line| line.contains("expires"));
        bodies.map(str::to_owned).collect()
    }

    /// The consumer brings the message of this number, with a payload of so many bytes.
    fn brings(&mut self, sequence: u64, bytes: usize) {
        self.brings_at(sequence, 123, bytes);
    }

    /// The same of a message that was stored at this time.
    fn brings_at(&mut self, sequence: u64, stored_ns: u64, bytes: usize) {
        self.delivered += 1;
        let n = self.delivered;
        let delivery = Delivery {
            subject: format!("a.{sequence}").into(),
            sid: self.retained.last_sid,
            reply: Some(format!("$JS.ACK.S.c.1.{sequence}.{n}.{stored_ns}.5")),
            payload: vec![b'1'; bytes],
            ..Delivery::default()
        };
        self.retained.take(delivery, self.now, &mut self.out);
    }

    fn says(&mut self, status: u16) {
        self.says_words(status, "");
    }

    fn says_words(&mut self, status: u16, words: &str) {
        let delivery = Delivery {
            subject: b"_INBOX.x".to_vec(),
            sid: self.retained.last_sid,
            status: Some(status),
            status_words: words.into(),
            ..Delivery::default()
        };
        self.retained.take(delivery, self.now, &mut self.out);
    }

    /// How many messages the consumer was asked for.
    fn asks(&mut self) -> u64 {
        let pulls = self.pulls();
        let [pull] = pulls.as_slice() else {
            panic!("{pulls:?}");
        };
        let pull = Json::read(pull.as_bytes()).expect("JSON");
        pull.number(&["batch"]).expect("a number")
    }

    /// The values that came, and what came last.
    fn came(&mut self) -> (usize, Option<RetainedEvent>) {
        let mut events = std::mem::take(&mut self.retained.events);
        let is_value = |event: &RetainedEvent| matches!(event, RetainedEvent::Value { .. });
        let last = events.pop_if(|event| !is_value(event));
        assert!(events.iter().all(is_value));
        (events.len(), last)
    }
}

fn read(sequence: u64, made: &str) -> PageCursor {
    let [stream, filter] = ["S", "a.*"].map(str::to_owned);
    PageCursor::of(vec![ReadPart {
        stream,
        filter,
        made: made.to_owned(),
        sequence,
    }])
}

fn page(sequence: u64, is_open: bool) -> Option<RetainedEvent> {
    Some(RetainedEvent::Page {
        number: 1,
        cursor: Arc::new(read(sequence, "then")),
        is_open,
    })
}

#[test]
fn a_page_is_bounded_in_values_and_bytes_and_a_question_goes_on() {
    let mut pages = Pages::after(PageCursor::default(), 9_000);
    let (mut n, mut asked) = (0, Vec::new());
    while pages.retained.paused() == 0 {
        asked.push(pages.asks());
        for _ in 0..asked[asked.len() - 1] {
            n += 1;
            pages.brings(n, 10);
        }
    }
    assert_eq!(asked, [8, 64, 576, 1_400]);
    assert_eq!(
        pages.came(),
        (PAGE_VALUES as usize, page(PAGE_VALUES, true))
    );
    let long = pages.now + 10 * ANSWER_TIMEOUT;
    pages.retained.work(long, &mut pages.out);
    assert_eq!(pages.retained.due(), None, "it waits for the clients");
    pages.retained.more(1, long, &mut pages.out);
    assert_eq!(pages.asks(), PAGE_VALUES);
    // Larger values: far more than a page ends it, and the consumer is made again.
    for _ in 0..5 {
        n += 1;
        pages.brings(n, PAGE_BYTES_LIMIT / 5);
    }
    assert_eq!(pages.came(), (5, page(n, true)));
    assert!(String::from_utf8_lossy(&pages.out).contains("$JS.API.CONSUMER.DELETE.S.c"));
    pages.out.clear();
    pages.retained.more(1, long, &mut pages.out);
    assert!(String::from_utf8_lossy(&pages.out).contains("STREAM.LIST"));
}

#[test]
fn large_values_come_few_at_a_time() {
    let mut pages = Pages::after(PageCursor::default(), 12);
    assert_eq!(pages.asks(), 8);
    let large = PAGE_BYTES / 4;
    (1..=8).for_each(|n| pages.brings(n, large));
    assert_eq!(pages.came(), (8, page(8, true)));
    pages.retained.more(1, pages.now, &mut pages.out);
    assert_eq!(pages.asks(), 3, "with their names");
    (9..=11).for_each(|n| pages.brings(n, large));
    assert_eq!(pages.asks(), 1, "there is still room");
    pages.brings(12, 2 * PAGE_BYTES);
    assert_eq!(pages.came(), (4, Some(end(1, "a.*"))));
}

fn is_end(event: Option<RetainedEvent>) -> bool {
    matches!(event, Some(RetainedEvent::End { cut: None, .. }))
}

#[test]
fn what_was_read_does_not_come_again_unless_the_stream_is_another() {
    for (made, sequence, came) in [
        ("then", 50, 2),
        ("then", 90_001, 4),
        ("another time", 50, 4),
        ("then", 0, 4),
    ] {
        let mut pages = Pages::after(read(sequence, made), 4);
        (49..=52).for_each(|n| pages.brings(n, 10));
        let (values, last) = pages.came();
        assert_eq!((values, is_end(last)), (came, true), "{sequence}");
    }
    // A page that was read before is no page.
    let mut pages = Pages::after(read(80_000, "then"), 9_000);
    (1..=8).for_each(|n| pages.brings(n, PAGE_BYTES));
    assert_eq!((pages.came(), pages.pulls().len()), ((0, None), 2));
}

#[test]
fn a_message_that_the_consumer_brings_twice_comes_once() {
    let mut pages = Pages::after(PageCursor::default(), 4);
    [7, 9, 9, 10].into_iter().for_each(|n| pages.brings(n, 10));
    let (values, last) = pages.came();
    assert_eq!((values, is_end(last)), (3, true));
}

#[test]
fn a_question_outlives_its_consumer_and_its_connection() {
    let mut pages = Pages::after(PageCursor::default(), 9_000);
    pages.brings(7, 10);
    pages.brings(8, 10);
    // The consumer is gone: another one leaves out what has come.
    pages.says(409);
    pages.now += PAUSE_MIN;
    pages.out.clear();
    pages.retained.work(pages.now, &mut pages.out);
    assert!(String::from_utf8_lossy(&pages.out).contains("STREAM.LIST"));
    pages.retained.close(&mut pages.out);
    assert_eq!(pages.came(), (2, page(8, false)));
    assert!(pages.retained.due().is_none() && pages.retained.asked() == 0);
    // Nobody waits any more.
    let mut pages = Pages::after(PageCursor::default(), 9_000);
    pages.retained.forget(1, &mut pages.out);
    let text = String::from_utf8_lossy(&pages.out).into_owned();
    assert!(text.contains("$JS.API.CONSUMER.DELETE.S.c"), "{text}");
    assert_eq!(pages.came(), (0, None));
}

impl Pages {
    /// Every consumer brings these messages and gets this status, until the question ends. Returns how long that takes.
    fn fails_always(&mut self, messages: &[u64], status: u16) -> Duration {
        let begun = self.now;
        while self.retained.asked() > 0 && self.now < begun + 10 * ANSWER_TIMEOUT {
            for message in messages {
                self.brings(*message, 10);
            }
            self.says(status);
            self.now = self.retained.due().expect("a time");
            self.retained.work(self.now, &mut self.out);
            self.delivered = 0;
            answer_all(&mut self.retained, PAGES_LIST, self.now, &mut self.out);
        }
        self.now - begun
    }
}

#[test]
fn a_question_ends_in_time_whatever_status_its_consumers_get() {
    for (messages, status) in [
        (&[][..], 404),
        (&[], 409),
        (&[], 499),
        (&[], 503),
        // The same messages again and again.
        (&[7, 8], 409),
    ] {
        let mut pages = Pages::after(PageCursor::default(), 9_000);
        let took = pages.fails_always(messages, status);
        assert!(took <= ANSWER_TIMEOUT + PAUSE_MAX, "{status}: {took:?}");
        assert_eq!(pages.retained.asked(), 0);
        let (values, last) = pages.came();
        assert_eq!(values, messages.len());
        let Some(RetainedEvent::Unanswered { why, .. }) = last else {
            panic!("{last:?}");
        };
        assert!(why.to_string().contains(&status.to_string()), "{why}");
    }
}

/// The server says it in the answer about the consumer, or in the status of a request for more.
#[test]
fn a_consumer_is_asked_for_as_many_messages_as_the_server_permits() {
    let mut pages = Pages::after(PageCursor::default(), 9_000);
    let mut asked = vec![pages.asks()];
    for (words, most) in [
        ("Exceeded MaxRequestBatch of 5", 5),
        ("Exceeded MaxRequestBatch of 3", 3),
    ] {
        pages.says_words(409, words);
        asked.push(pages.asks());
        assert_eq!(asked.last(), Some(&most));
    }
    (1..=3).for_each(|n| pages.brings(n, 10));
    assert_eq!(pages.asks(), 3);
    // Nothing less is permitted: the consumer is of no use.
    pages.says_words(409, "Exceeded MaxRequestBatch of 3");
    assert!(pages.pulls().is_empty());
    pages.now = pages.retained.due().expect("a pause");
    pages.retained.work(pages.now, &mut pages.out);
    let limited = r#"{"name":"c","num_pending":9000,"config":{"max_request_batch":2}}"#;
    for text in [PAGES_LIST, limited] {
        let answer = answer(&pages.retained, 1, text);
        pages.retained.take(answer, pages.now, &mut pages.out);
    }
    assert_eq!(pages.asks(), 2);
}

/// By what the answer about the stream says, and by what the server refuses.
#[test]
fn a_consumer_has_the_limits_that_its_stream_permits() {
    const LIMITED: &str = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"],"consumer_limits":{"inactive_threshold":60000000000}}}]}"#;
    const REFUSED: &str =
        r#"{"error":{"code":400,"err_code":10153,"description":"exceeds system limit"}}"#;
    let mut bench = Bench::new("a.*", &[]);
    bench.answer(LIMITED);
    for seconds in [60, 30, 15] {
        let asked = bench.sent();
        let threshold = format!(r#""inactive_threshold":{seconds}000000000"#);
        assert!(asked.contains(&threshold), "{asked}");
        bench.answer(REFUSED);
    }
    bench.consumer("", Some(("a.b", "1")));
    assert_eq!(bench.values(), ["1", "end"]);
}

#[test]
fn a_consumer_that_never_comes_to_the_leader_ends_its_question() {
    let mut bench = Bench::new("a.*", &[]);
    bench.answer(LIST);
    let begun = bench.now;
    while bench.retained.asked() > 0 && bench.now < begun + 20 * ANSWER_TIMEOUT {
        bench.consumer("s1", None);
        bench.pause();
    }
    assert_eq!(
        bench.values(),
        [
            "later: JetStream gives no last values: its consumers are on other servers than the leader"
        ]
    );
}

/// The others are read.
#[test]
fn a_stream_whose_consumers_get_a_status_each_time_keeps_no_other_from_its_values() {
    let (mut retained, mut out, mut now) = (retained(Instant::now()), Vec::new(), Instant::now());
    retained.ask(question(1, "a.*"), None, now, &mut out);
    let list = r#"{"streams":[{"config":{"name":"F","subjects":["a.x"]}},{"config":{"name":"S","subjects":["a.*"]}}]}"#;
    let mut values = 0;
    for _ in 0..200 {
        answer_all(&mut retained, list, now, &mut out);
        let is_second = String::from_utf8_lossy(&out).contains("MSG.NEXT.S.c");
        out.clear();
        let delivery = Delivery {
            subject: "a.y".into(),
            sid: retained.last_sid,
            reply: is_second.then(|| "$JS.ACK.S.c.1.9.1.123.0".to_owned()),
            status: (!is_second).then_some(409),
            payload: b"1".to_vec(),
            ..Delivery::default()
        };
        retained.take(delivery, now, &mut out);
        let events = std::mem::take(&mut retained.events);
        values += events.len();
        let Some(due) = retained.due() else { break };
        now = due;
        retained.work(now, &mut out);
    }
    assert_eq!((values, retained.asked()), (2, 0), "a value, and the end");
}

#[test]
fn messages_that_were_deleted_meanwhile_are_not_waited_for() {
    let mut pages = Pages::after(PageCursor::default(), 9_000);
    pages.brings(7, 10);
    assert_eq!(pages.pulls().len(), 1);
    for n in 1..=2 {
        pages.now += PULL_TIMEOUT;
        pages.says(408);
        assert_eq!(pages.pulls().len(), usize::from(n == 1), "{n}");
    }
    assert_eq!(pages.came(), (1, Some(end(1, "a.*"))));
}

impl Pages {
    /// Nothing comes for as long as a consumer is waited for.
    fn brings_no_more(&mut self) {
        for _ in 1..=2 {
            self.now += PULL_TIMEOUT;
            self.says(408);
        }
    }

    /// Lets a pause pass, and answers with the list and a consumer for which so many messages wait. Returns the request for the
    /// consumer.
    fn goes_on(&mut self, list: &str, waiting: u64) -> String {
        self.now += PAUSE_MAX;
        self.retained.work(self.now, &mut self.out);
        self.takes(1, list);
        if let Some(number) = self.retained.all_streams.asked() {
            self.takes(number.0, r#"{"streams":[]}"#);
        }
        let request = String::from_utf8_lossy(&std::mem::take(&mut self.out)).into_owned();
        self.takes(1, &made_early(waiting));
        self.delivered = 0;
        request
    }

    fn takes(&mut self, number: u64, payload: &str) {
        self.out.clear();
        let answer = answer(&self.retained, number, payload);
        self.retained.take(answer, self.now, &mut self.out);
    }
}

/// The newest message of a subject was removed before it came, and the one before is the last one again.
#[test]
fn a_value_that_the_removal_of_a_newer_one_uncovers_comes() {
    for stops_by_later in [false, true] {
        let mut pages = Pages::listed(HISTORY_LIST, PageCursor::default(), 3);
        pages.brings(7, 10);
        // Its time is from before the clock of the server went back.
        pages.brings_at(9, 3 * LISTED_WITHIN_NS, 10);
        match stops_by_later {
            true => pages.brings_at(90_001, 3 * LISTED_WITHIN_NS, 10),
            false => pages.brings_no_more(),
        }
        let request = pages.goes_on(HISTORY_LIST, 3);
        assert!(request.contains("last_per_subject"), "{request}");
        [2, 7, 9].into_iter().for_each(|n| pages.brings(n, 10));
        let (values, last) = pages.came();
        assert_eq!(
            (values, is_end(last)),
            (5 + usize::from(stops_by_later), true)
        );
    }
}

/// What a second consumer lists may be older than what the first one has brought.
#[test]
fn a_value_that_was_uncovered_between_two_consumers_comes() {
    let mut pages = Pages::listed(HISTORY_LIST, PageCursor::default(), 3);
    pages.brings(7, 10);
    pages.says(409);
    pages.goes_on(HISTORY_LIST, 3);
    [2, 7, 8].into_iter().for_each(|n| pages.brings(n, 10));
    assert_eq!(pages.came(), (2, None));
    pages.goes_on(HISTORY_LIST, 3);
    [2, 7, 8].into_iter().for_each(|n| pages.brings(n, 10));
    let (values, last) = pages.came();
    assert_eq!((values, is_end(last)), (3, true));
}

/// What limits remove are the first messages: no older one of a subject is left.
#[test]
fn the_first_messages_of_a_stream_uncover_none() {
    let mut pages = Pages::listed(WHOLE_LIST, PageCursor::default(), 3);
    [7, 9].into_iter().for_each(|n| pages.brings(n, 10));
    pages.brings_no_more();
    let request = pages.goes_on(WHOLE_LIST, 0);
    assert!(request.contains(r#""opt_start_seq":10"#), "{request}");
    let (values, last) = pages.came();
    assert_eq!((values, is_end(last)), (2, true));
}

/// Values of the first stream were removed before they came. As the second stream fails, the first is read once more, and
/// then nothing is missing.
#[test]
fn a_stream_that_was_read_whole_at_the_second_time_is_not_read_a_third_time() {
    const TWO: &str = r#"{"streams":[
        {"config":{"name":"S","subjects":["a.>"]},"state":{"last_seq":90000,"first_seq":1,"messages":90000}},
        {"config":{"name":"F","subjects":["a.x"]},"state":{"last_seq":90000,"first_seq":1,"messages":90000}}]}"#;
    let mut pages = Pages::listed(TWO, PageCursor::default(), 3);
    [7, 9].into_iter().for_each(|n| pages.brings(n, 10));
    pages.brings_no_more();
    pages.takes(1, &made_early(1));
    pages.says(409);
    pages.goes_on(TWO, 2);
    [7, 9].into_iter().for_each(|n| pages.brings(n, 10));
    pages.takes(1, &made_early(1));
    pages.delivered = 0;
    pages.brings(5, 10);
    let (values, last) = pages.came();
    assert_eq!((values, is_end(last)), (3, true));
}

/// Another question begins with the first value.
#[test]
fn values_that_are_removed_each_time_are_asked_for_again_later() {
    let mut pages = Pages::listed(HISTORY_LIST, PageCursor::default(), 3);
    for _ in 0..REREADS_MAX {
        pages.brings(7, 10);
        pages.brings_no_more();
        pages.goes_on(HISTORY_LIST, 3);
    }
    pages.brings(7, 10);
    pages.brings_no_more();
    let (values, last) = pages.came();
    let Some(RetainedEvent::Unanswered { cursor, .. }) = last else {
        panic!("{last:?}");
    };
    assert_eq!((values, &*cursor), (3, &read(0, "then")));
}

/// A question on a server whose last value is from before a message that was delivered already.
struct Bench {
    retained: Retained,
    out: Vec<u8>,
    now: Instant,
}

impl Bench {
    /// `live`: subjects and payloads that were delivered for the name before the question.
    fn new(name: &str, live: &[(&str, &str)]) -> Self {
        Self::of(question(1, name), live)
    }

    /// The same for a name whose live messages come by a wider pattern.
    fn within(cover: &'static str, name: &str, live: &[(&str, &str)]) -> Self {
        let cover = Some(TopicName::fixed(cover));
        let question = question(1, name);
        Self::of(Question { cover, ..question }, live)
    }

    fn of(question: Question, live: &[(&str, &str)]) -> Self {
        let cover = question.cover.as_ref().map(TopicName::as_str);
        let subscribed = cover.unwrap_or(&question.subscription.name).to_owned();
        let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
        for (subject, payload) in live {
            let delivery = Delivery {
                subject: (*subject).into(),
                sid: 5,
                payload: payload.as_bytes().to_vec(),
                ..Delivery::default()
            };
            retained.note_live(&delivery, now);
        }
        let sid_of = |name: &str| (name == subscribed).then_some(5);
        let scope = LiveScope::of(&question, sid_of);
        retained.ask(question, scope, now, &mut out);
        Self { retained, out, now }
    }

    fn answer(&mut self, payload: &str) {
        let answer = answer(&self.retained, 1, payload);
        self.out.clear();
        self.retained.take(answer, self.now, &mut self.out);
    }

    /// What was sent since the last call.
    fn sent(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.out)).into_owned()
    }

    /// Lets the pause pass; returns what is asked again.
    fn pause(&mut self) -> String {
        self.out.clear();
        self.now = self.retained.due().expect("a pause");
        self.retained.work(self.now, &mut self.out);
        String::from_utf8_lossy(&self.out).into_owned()
    }

    fn values(&mut self) -> Vec<String> {
        let events = std::mem::take(&mut self.retained.events).into_iter();
        let text = |events| match events {
            RetainedEvent::Value { payload, .. } => String::from_utf8_lossy(&payload).into_owned(),
            RetainedEvent::End { cut: None, .. } => "end".to_owned(),
            RetainedEvent::End { cut, .. } => format!("{cut:?}"),
            RetainedEvent::Page { .. } => "page".to_owned(),
            RetainedEvent::Unanswered { why, .. } => format!("later: {why}"),
        };
        events.map(text).collect()
    }

    /// The server of the name puts the consumer on a server, and delivers a value.
    fn consumer(&mut self, server: &str, value: Option<(&str, &str)>) {
        let cluster = format!(r#""cluster":{{"leader":"{server}"}}"#);
        self.answer(&format!(r#"{{"name":"c","num_pending":1,{cluster}}}"#));
        let sid = self.retained.last_sid;
        if let Some((subject, payload)) = value {
            let delivery = Delivery {
                subject: subject.into(),
                sid,
                reply: Some("$JS.ACK.S.c.1.9.1.123.0".to_owned()),
                payload: payload.as_bytes().to_vec(),
                ..Delivery::default()
            };
            self.out.clear();
            self.retained.take(delivery, self.now, &mut self.out);
        }
    }
}

const LIST: &str =
    r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]},"cluster":{"leader":"s0"}}]}"#;

#[test]
fn a_value_that_is_older_than_a_delivered_message_is_asked_for_again() {
    let mut bench = Bench::new("a.b", &[("a.b", "hi")]);
    bench.answer(LIST);
    bench.answer(r#"{"message":{"seq":3,"data":"b2xk"}}"#);
    assert_eq!(bench.values(), [""; 0]);
    assert!(bench.pause().contains("STREAM.MSG.GET.S"));
    bench.answer(r#"{"message":{"seq":4,"data":"aGk="}}"#);
    assert_eq!(bench.values(), ["hi", "end"]);
    // The stream has refused the message: the value is what the stream has.
    let mut bench = Bench::new("a.b", &[("a.b", "hi")]);
    bench.answer(LIST);
    while bench.retained.asked() > 0 {
        bench.answer(r#"{"message":{"seq":3,"data":"b2xk"}}"#);
        if bench.retained.asked() > 0 {
            bench.pause();
        }
    }
    assert_eq!(bench.values(), ["old", "end"]);
}

#[test]
fn a_pattern_is_asked_for_again_until_a_delivered_message_is_stored() {
    let mut bench = Bench::new("a.*", &[("a.b", "1"), ("a.b", "2")]);
    bench.answer(LIST);
    bench.consumer("s0", Some(("a.b", "1")));
    assert_eq!(bench.values(), ["1"]);
    assert!(bench.pause().contains("STREAM.LIST"));
    bench.answer(LIST);
    bench.consumer("s0", Some(("a.b", "2")));
    assert_eq!(bench.values(), ["2", "end"]);
}

/// The stream has given all of its values: what it stores later has a higher number.
#[test]
fn what_is_stored_late_is_read_without_the_other_values() {
    let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]},"cluster":{"leader":"s0"},"state":{"last_seq":9}}]}"#;
    let mut bench = Bench::new("a.*", &[("a.b", "1"), ("a.b", "2")]);
    bench.answer(list);
    assert!(bench.sent().contains("last_per_subject"));
    bench.consumer("s0", Some(("a.b", "1")));
    for _ in 0..3 {
        assert!(bench.pause().contains("STREAM.LIST"));
        bench.answer(list);
        let request = bench.sent();
        assert!(request.contains(r#""opt_start_seq":10"#), "{request}");
        bench.answer(r#"{"name":"c","num_pending":0,"cluster":{"leader":"s0"}}"#);
        assert_eq!(bench.retained.asked(), 1);
    }
}

/// The cover is subscribed in place of the pattern, and brings messages of other subjects too.
#[test]
fn a_pattern_within_a_wider_one_is_asked_for_again_for_its_own_messages() {
    let live = [("a.b.x", "1"), ("a.c.x", "1"), ("a.b.x", "2")];
    let mut bench = Bench::within("a.>", "a.b.*", &live);
    bench.answer(LIST);
    bench.consumer("s0", Some(("a.b.x", "1")));
    assert_eq!(bench.values(), ["1"], "an answer from before the second");
    assert!(bench.pause().contains("STREAM.LIST"));
    bench.answer(LIST);
    bench.consumer("s0", Some(("a.b.x", "2")));
    assert_eq!(bench.values(), ["2", "end"], "whatever `a.c.x` has");
}

#[test]
fn a_consumer_on_another_server_than_the_leader_is_made_again() {
    let mut bench = Bench::new("a.*", &[]);
    bench.answer(LIST);
    for _ in 0..3 {
        bench.consumer("s1", None);
        let text = String::from_utf8_lossy(&bench.out).into_owned();
        assert!(
            text.contains("CONSUMER.DELETE.S.c") && !text.contains("SUB "),
            "{text}"
        );
        assert!(bench.pause().contains("CONSUMER.CREATE.S"));
    }
    bench.consumer("s0", Some(("a.b", "1")));
    assert_eq!(bench.values(), ["1", "end"]);
}

/// nats-server 2.9 makes no consumer for a pattern in a stream that has only copies of a stream that is gone.
#[test]
fn a_value_in_a_stream_that_makes_no_consumer_is_missing() {
    const FOREIGN: &str = r#"{"error":{"code":400,"err_code":10093,"description":"no subset"}}"#;
    for (any, is_missing) in [
        (r#"{"error":{"code":404,"err_code":10037}}"#, false),
        (r#"{"message":{"subject":"a.b","seq":1}}"#, true),
        (r#"{"error":{"code":503,"err_code":10008}}"#, true),
    ] {
        let mut bench = Bench::new("a.*", &[]);
        bench.answer(LIST);
        bench.answer(FOREIGN);
        let asked = bench.sent();
        assert!(asked.contains("STREAM.MSG.GET.S "), "{asked}");
        assert!(asked.contains(r#"{"last_by_subj":"a.*"}"#), "{asked}");
        bench.answer(any);
        let end = match is_missing {
            true => r#"Some(Refused("error 10093: no subset"))"#,
            false => "end",
        };
        assert_eq!(bench.values(), [end]);
    }
}

/// A question about the stream that is the kept feed goes to this stream alone, and its values have ids.
#[test]
fn the_kept_stream_is_asked_without_a_search() {
    let info =
        r#"{"config":{"name":"S","subjects":["a.>"]},"created":"then","state":{"last_seq":9}}"#;
    for name in ["a.b", "a.*", "b.*"] {
        let (mut retained, mut out, now) = (retained(Instant::now()), Vec::new(), Instant::now());
        let question = Question {
            wants: Wants::Newest,
            ..question(1, name)
        };
        retained.ask(question, None, now, &mut out);
        assert!(String::from_utf8_lossy(&out).contains("$JS.API.STREAM.INFO.S "));
        out.clear();
        retained.take(answer(&retained, 1, info), now, &mut out);
        let text = String::from_utf8_lossy(&out);
        let asks = match name {
            "a.b" => text.contains("$JS.API.STREAM.MSG.GET.S "),
            "a.*" => text.contains("$JS.API.CONSUMER.CREATE.S "),
            _ => text.is_empty() && retained.asked() == 0,
        };
        assert!(asks, "{name}: {text}");
    }
}

/// A question for all messages of `a.b` in the stream S, of which the leader says where it begins and ends.
struct All {
    pages: Pages,
}

impl All {
    fn after(after: Option<u64>, (first, last): (u64, u64), waiting: u64) -> Self {
        let mut all = Self::asks(after);
        all.looks((first, last));
        if waiting > 0 {
            all.made(waiting);
        }
        all
    }

    fn asks(after: Option<u64>) -> Self {
        let (retained, now) = (retained(Instant::now()), Instant::now());
        let pages = Pages {
            retained,
            out: Vec::new(),
            now,
            delivered: 0,
        };
        let mut all = Self { pages };
        let question = Question {
            wants: Wants::All,
            after: Arc::new(PageCursor::after(after.map(id))),
            ..question(1, "a.b")
        };
        let pages = &mut all.pages;
        pages.retained.ask(question, None, now, &mut pages.out);
        all
    }

    fn out(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pages.out).into_owned();
        self.pages.out.clear();
        text
    }

    /// The consumer brings every second message until the page is full, so that the leader is asked about the stream.
    /// Returns the number of the last one.
    fn brings_a_page(&mut self) -> u64 {
        let mut sequence = 0;
        while !String::from_utf8_lossy(&self.pages.out).contains("STREAM.INFO") {
            self.pages.out.clear();
            for _ in 0..8 {
                sequence += 2;
                self.brings([sequence]);
            }
        }
        sequence
    }

    /// The leader is asked about the stream, and says this.
    fn looks(&mut self, (first, last): (u64, u64)) {
        self.looks_at("2026-01-01T00:00:00Z", (first, last));
    }

    /// The same of a stream that lacks messages within, of which it has so many; `missing`: the list that it is asked for.
    fn looks_into(&mut self, (last, messages): (u64, u64), missing: Option<&[u64]>) {
        let text = self.out();
        let asked = ["", r#"{"deleted_details":true}"#][usize::from(missing.is_some())];
        assert!(text.contains("$JS.API.STREAM.INFO.S "), "{text}");
        assert!(
            text.ends_with(&format!(" {}\r\n{asked}\r\n", asked.len())),
            "{text}"
        );
        let missing = missing.map_or(String::new(), |missing| {
            format!(r#","deleted":{missing:?}"#)
        });
        let info = format!(
            r#"{{"config":{{"name":"S","subjects":["a.>"]}},"created":"2026-01-01T00:00:00Z","state":{{"messages":{messages},"bytes":1,"first_seq":1,"last_seq":{last},"last_ts":"2026-01-01T00:00:00Z"{missing}}}}}"#
        );
        let info = answer(&self.pages.retained, 1, &info);
        let pages = &mut self.pages;
        pages.retained.take(info, pages.now, &mut pages.out);
    }

    fn looks_at(&mut self, created: &str, (first, last): (u64, u64)) {
        let text = self.out();
        assert!(text.contains("$JS.API.STREAM.INFO.S "), "{text}");
        let info = format!(
            r#"{{"config":{{"name":"S","subjects":["a.>"]}},"created":"{created}","state":{{"messages":{},"bytes":1,"first_seq":{first},"last_seq":{last},"last_ts":"2026-01-01T00:00:00Z"}}}}"#,
            last + 1 - first,
        );
        let info = answer(&self.pages.retained, 1, &info);
        let pages = &mut self.pages;
        pages.retained.take(info, pages.now, &mut pages.out);
    }

    /// This server of a cluster leads the stream, and says this about it.
    fn looks_led(&mut self, leader: &str, last: u64) {
        let text = self.out();
        assert!(text.contains("$JS.API.STREAM.INFO.S "), "{text}");
        let info = format!(
            r#"{{"config":{{"name":"S","subjects":["a.>"]}},"created":"2026-01-01T00:00:00Z","cluster":{{"name":"C","leader":"{leader}"}},"state":{{"messages":{last},"bytes":1,"first_seq":1,"last_seq":{last},"last_ts":"2026-01-01T00:00:00Z"}}}}"#,
        );
        let info = answer(&self.pages.retained, 1, &info);
        let pages = &mut self.pages;
        pages.retained.take(info, pages.now, &mut pages.out);
    }

    /// After a pause, what is due is asked again.
    fn pause(&mut self) {
        assert_eq!(self.out(), "");
        let pages = &mut self.pages;
        pages.now += PAUSE_MAX;
        pages.retained.work(pages.now, &mut pages.out);
    }

    /// A consumer is made that begins at the last message that was read.
    fn made(&mut self, waiting: u64) {
        self.begins(1, waiting);
    }

    /// A consumer is made that begins at this number.
    fn begins(&mut self, begins: u64, waiting: u64) {
        let pages = &mut self.pages;
        pages.delivered = 0;
        let text = String::from_utf8_lossy(&pages.out).into_owned();
        assert!(text.contains("$JS.API.CONSUMER.CREATE.S "), "{text}");
        let created = format!(
            r#"{{"name":"c","num_pending":{waiting},"delivered":{{"stream_seq":{}}}}}"#,
            begins - 1
        );
        let created = answer(&pages.retained, 1, &created);
        pages.retained.take(created, pages.now, &mut pages.out);
    }

    /// The consumer brings a message that was stored at this time.
    fn brings_at(&mut self, sequence: u64, stored_ns: u64) {
        self.pages.delivered += 1;
        let delivered = self.pages.delivered;
        let delivery = Delivery {
            subject: "a.b".into(),
            sid: self.pages.retained.last_sid,
            reply: Some(format!(
                "$JS.ACK.S.c.1.{sequence}.{delivered}.{stored_ns}.5"
            )),
            payload: b"1".to_vec(),
            ..Delivery::default()
        };
        let pages = &mut self.pages;
        pages.retained.take(delivery, pages.now, &mut pages.out);
    }

    fn brings(&mut self, sequences: impl IntoIterator<Item = u64>) {
        sequences
            .into_iter()
            .for_each(|sequence| self.pages.brings(sequence, 10));
    }

    /// The number of messages that came, and how the question ended.
    fn came(&mut self) -> (usize, Option<RetainedCut>, bool) {
        let (count, last) = self.pages.came();
        let (cut, is_end) = match last {
            Some(RetainedEvent::End { cut, .. }) => (cut.as_ref().map(NatsCut::reason), true),
            Some(RetainedEvent::Page { cursor, .. }) => (cursor.cut, false),
            other => panic!("{other:?}"),
        };
        (count, cut, is_end)
    }
}

/// The id of the message with this number, as the consumer of [`Pages`] says it.
fn id(major: u64) -> StoredId {
    StoredId { major, minor: 123 }
}

/// What was read of a stream counts for the time at which it was made, and the server gives no such time while it makes
/// the stream.
#[test]
fn a_stream_that_is_being_made_is_waited_for() {
    let made = |created: &str, config: &str| {
        format!(r#"{{"created":"{created}","config":{{"name":"S",{config}}}}}"#)
    };
    let (unfinished, finished) = ("0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
    let list = |stream: String| format!(r#"{{"streams":[{stream}]}}"#);
    // A stream of publishers.
    let taken = |created| list(made(created, r#""subjects":["a.>"]"#));
    let mut bench = Bench::new("a.*", &[]);
    for _ in 0..3 {
        bench.answer(&taken(unfinished));
        assert!(bench.out.is_empty(), "no consumer");
        assert!(bench.pause().contains("STREAM.LIST"));
    }
    bench.answer(&taken(finished));
    bench.consumer("", Some(("a.b", "1")));
    assert_eq!(bench.values(), ["1", "end"]);
    let mut bench = Bench::new("a.b", &[]);
    bench.answer(&taken(unfinished));
    assert!(bench.out.is_empty(), "the server would crash");
    assert!(bench.pause().contains("STREAM.LIST"));
    bench.answer(&taken(finished));
    assert!(bench.sent().contains("STREAM.MSG.GET.S"));
    // Known, but its leader did not say anything in time: it is asked again, and no other stream is searched for.
    let mut bench = Bench::new("a.b", &[]);
    bench.answer(r#"{"total":1,"streams":[],"missing":["S"]}"#);
    assert!(bench.out.is_empty());
    assert!(bench.pause().contains("STREAM.LIST"));
    // A copy: the list of all streams is asked for again, however young it is.
    let copy = |created| list(made(created, r#""mirror":{"name":"FAR"}"#));
    let mut bench = Bench::new("a.*", &[]);
    bench.retained.all_streams = AllStreams::default();
    for created in [unfinished, unfinished, finished] {
        bench.answer(&list(String::new()));
        let (number, text) = (bench.retained.last.0, bench.sent());
        assert!(text.contains("STREAM.LIST"), "{text}");
        let all = answer(&bench.retained, number, &copy(created));
        bench.retained.take(all, bench.now, &mut bench.out);
        let text = bench.sent();
        assert_eq!(
            text.contains("CONSUMER.CREATE.S"),
            created == finished,
            "{text}"
        );
        if created == unfinished {
            assert!(bench.pause().contains("STREAM.LIST"));
        }
    }
    bench.consumer("", Some(("a.b", "1")));
    assert_eq!(bench.values(), ["1", "end"]);
    // The kept stream, asked for all messages.
    let mut all = All::asks(None);
    all.looks_at(unfinished, (1, 0));
    assert_eq!(all.out(), "");
    all.pages.now += PAUSE_MIN;
    all.pages.retained.work(all.pages.now, &mut all.pages.out);
    all.looks((1, 1));
    all.made(1);
    all.brings([1]);
    assert_eq!(all.came(), (1, None, true));
    // Never made: the question ends in its time.
    let mut bench = Bench::new("a.*", &[]);
    while bench.retained.asked() > 0 {
        bench.answer(&taken(unfinished));
        bench.pause();
    }
    let later = "later: JetStream gives no last values: no answer";
    assert_eq!(bench.values(), [later]);
}

#[test]
fn of_several_servers_one_that_lacks_what_clients_may_have_ends_no_question() {
    let reached = |number: u64| {
        let all = All::asks(None);
        all.pages.retained.progress.read(Some(id(number)));
        all
    };
    let mut all = reached(9);
    all.pages.retained.send(ReplyNumber(1), &mut Vec::new());
    all.looks_led("n1", 7);
    all.pause();
    all.looks_led("n1", 9);
    all.made(9);
    all.brings(1..=9);
    // Who leads it now?
    all.looks_led("n1", 9);
    assert_eq!(all.came(), (9, None, true));
    // Another server: the one that was read may have lacked some.
    let mut all = All::asks(None);
    all.looks_led("n1", 7);
    all.made(7);
    all.brings(1..=7);
    all.looks_led("n2", 9);
    all.pause();
    all.looks_led("n2", 9);
    assert!(String::from_utf8_lossy(&all.pages.out).contains(r#""opt_start_seq":7"#));
    all.begins(7, 3);
    all.brings(7..=9);
    all.looks_led("n2", 9);
    assert_eq!(all.came(), (9, None, true));
    // It stays behind.
    let mut all = reached(9);
    all.pages.retained.send(ReplyNumber(1), &mut Vec::new());
    while all.pages.retained.asked() > 0 {
        all.looks_led("n1", 7);
        all.pause();
    }
    assert_eq!(all.came(), (0, Some(RetainedCut::Refused), true));
}

#[test]
fn all_messages_come_from_the_beginning_and_after_a_place() {
    let mut all = All::after(None, (5, 9), 3);
    assert!(all.out().contains(r#""opt_start_seq":1"#));
    all.brings([5, 6, 7]);
    assert_eq!(all.came(), (3, None, true));
    // The last one that was read comes again.
    let mut all = All::after(Some(6), (5, 9), 2);
    let created = all.out();
    let time = r#""opt_start_time":"1970-01-01T00:00:00.000000123Z""#;
    assert!(created.contains(time), "{created}");
    all.brings([6, 7]);
    assert_eq!(all.came(), (1, None, true));
    // With one of the same time.
    let mut all = All::after(Some(6), (4, 9), 3);
    all.brings([5, 6, 7]);
    assert_eq!(all.came(), (1, None, true));
    // Nothing of the name.
    let mut all = All::after(Some(6), (5, 9), 0);
    all.made(0);
    assert_eq!(all.came(), (0, None, true));
}

#[test]
fn messages_that_were_removed_before_they_were_read_are_a_hole() {
    for (first, cut) in [
        // What was read was removed.
        (6, None),
        // Between 5 and 9 are numbers of other names, or were messages of this one.
        (9, Some(RetainedCut::Window)),
        (8, Some(RetainedCut::Window)),
    ] {
        let mut all = All::after(None, (1, 20), 4);
        all.out();
        all.brings([4, 5, 9]);
        all.brings([10]);
        all.looks((first, 30));
        assert_eq!(all.came(), (4, cut, true), "{first}");
    }
    // Before the first one.
    let mut all = All::after(Some(6), (8, 20), 1);
    all.brings([8]);
    all.looks((8, 20));
    assert_eq!(all.came(), (1, Some(RetainedCut::Window), true));
    let mut all = All::after(Some(6), (7, 20), 1);
    all.brings([7]);
    assert_eq!(all.came(), (1, None, true));
}

/// The first message of the stream, of another name, stays.
#[test]
fn messages_that_were_removed_from_within_are_missed() {
    // After the first page, three are left of the name, and the stream lacks some messages.
    let second_page = |last: u64, messages: u64| {
        let mut all = All::after(None, (1, 90_000), PAGE_VALUES + 3);
        let page = all.brings_a_page();
        all.looks((1, 90_000));
        assert_eq!(all.came(), (PAGE_VALUES as usize, None, false));
        let pages = &mut all.pages;
        pages.retained.more(1, pages.now, &mut pages.out);
        all.looks_into((last, messages), None);
        (all, page)
    };
    // As many of the name are left as before, or two were removed; the last one that was read comes again.
    for (left, cut) in [(3, None), (1, Some(RetainedCut::Window))] {
        let (mut all, page) = second_page(90_000, 70_000);
        all.made(left + 1);
        all.brings((0..=left).map(|one| page + 2 * one));
        all.out();
        all.pages
            .out
            .extend_from_slice(b"$JS.API.STREAM.INFO.S  0\r\n\r\n");
        all.looks_into((90_000, 70_000), None);
        assert_eq!(all.came(), (left as usize, cut, true));
    }
    // All of the name.
    let (mut all, _) = second_page(90_000, 70_000);
    all.made(0);
    assert_eq!(all.came(), (0, Some(RetainedCut::Window), true));
    // A message that came and went between the two consumers may have had the name.
    for (missing, cut) in [(5, None), (90_005, Some(RetainedCut::Window))] {
        let (mut all, page) = second_page(90_010, 90_009);
        all.looks_into((90_010, 90_009), Some(&[missing]));
        all.made(4);
        all.brings((0..=3).map(|one| page + 2 * one));
        all.pages
            .out
            .extend_from_slice(b"$JS.API.STREAM.INFO.S  0\r\n\r\n");
        all.looks_into((90_010, 90_009), None);
        assert_eq!(all.came(), (3, cut, true), "{missing}");
    }
}

#[test]
fn messages_that_were_removed_behind_a_position_are_missed() {
    for (missing, cut) in [([3, 7], None), ([3, 12], Some(RetainedCut::Window))] {
        let mut all = All::asks(Some(10));
        all.looks_into((20, 18), None);
        all.looks_into((20, 18), Some(&missing));
        all.made(0);
        assert_eq!(all.came(), (0, cut, true), "{missing:?}");
    }
    // More than are listed.
    let mut all = All::asks(Some(10));
    all.looks_into((9_000, 18), None);
    all.made(0);
    assert_eq!(all.came(), (0, Some(RetainedCut::Window), true));
}

#[test]
fn a_page_of_all_leaves_its_consumer_and_says_what_may_be_missing() {
    let mut all = All::after(None, (1, 90_000), 9_000);
    let sequence = all.brings_a_page();
    assert_eq!(all.pages.retained.paused(), 0);
    assert_eq!(sequence, 2 * PAGE_VALUES);
    all.looks((sequence / 2, 90_000));
    assert_eq!(all.pages.retained.paused(), 1);
    let (count, cut, is_end) = all.came();
    assert_eq!((count, is_end), (PAGE_VALUES as usize, false));
    assert_eq!(cut, Some(RetainedCut::Window));
    let pages = &mut all.pages;
    pages.retained.more(1, pages.now, &mut pages.out);
    all.looks((sequence / 2, 90_000));
    // By the number: the clock may have gone back before it.
    let number = format!(r#""opt_start_seq":{sequence}"#);
    assert!(String::from_utf8_lossy(&all.pages.out).contains(&number));
    all.made(9_000);
    all.brings([sequence, sequence + 2]);
    // The connection ends: what came since the last look comes once more.
    let pages = &mut all.pages;
    pages.retained.close(&mut pages.out);
    let (_, last) = pages.came();
    let Some(RetainedEvent::Page { cursor, .. }) = last else {
        panic!("a page");
    };
    assert_eq!(cursor.after, Some(id(sequence)));
}

#[test]
fn a_position_in_another_epoch_of_the_stream_is_found_out() {
    let mut all = All::after(Some(10), (1, 9), 0);
    assert_eq!(all.came(), (0, Some(RetainedCut::Epoch), true));
    // Its number is that of another message.
    let mut all = All::after(Some(10), (1, 20), 3);
    all.brings_at(10, 456);
    assert_eq!(all.came(), (0, Some(RetainedCut::Epoch), true));
    // That message has another name, but newer messages have lower numbers.
    let mut all = All::after(Some(10), (1, 20), 3);
    all.brings_at(4, 400);
    assert_eq!(all.came(), (0, Some(RetainedCut::Epoch), true));
}

#[test]
fn a_stream_that_is_made_anew_between_two_pages_is_found_out() {
    let mut all = All::after(None, (1, 90_000), 9_000);
    all.brings_a_page();
    all.looks((1, 90_000));
    assert_eq!(all.came(), (PAGE_VALUES as usize, None, false));
    let pages = &mut all.pages;
    pages.retained.more(1, pages.now, &mut pages.out);
    all.looks_at("2026-01-02T00:00:00Z", (1, 90_000));
    assert_eq!(all.came(), (0, Some(RetainedCut::Epoch), true));
}

/// nats-server 2.9.10 crashes if a consumer of a stream in memory begins at a time.
#[test]
fn a_stream_in_memory_is_read_by_numbers() {
    let looks = |created: &str| {
        let mut all = All::asks(Some(10));
        let info = format!(
            r#"{{"config":{{"name":"S","subjects":["a.>"],"storage":"memory"}},"created":"{created}","state":{{"messages":20,"bytes":1,"first_seq":1,"last_seq":20,"last_ts":"2026-01-01T00:00:00Z"}}}}"#
        );
        let info = answer(&all.pages.retained, 1, &info);
        let pages = &mut all.pages;
        pages.retained.take(info, pages.now, &mut pages.out);
        all
    };
    let created = looks("1970-01-01T00:00:00.000000123Z").out();
    assert!(created.contains(r#""opt_start_seq":10"#), "{created}");
    // It was made after the position.
    let mut all = looks("1970-01-01T00:00:00.000000124Z");
    assert_eq!(all.came(), (0, Some(RetainedCut::Epoch), true));
}

#[test]
fn a_clock_that_went_back_leaves_out_nothing() {
    // The numbers 11 to 14 were stored at earlier times than 10.
    let mut all = All::asks(Some(10));
    all.looks((1, 20));
    assert!(String::from_utf8_lossy(&all.pages.out).contains("opt_start_time"));
    all.begins(15, 3);
    assert!(String::from_utf8_lossy(&all.pages.out).contains(r#""opt_start_seq":10"#));
    all.begins(10, 4);
    all.brings_at(10, 123);
    for (number, stored_ns) in [(11, 40), (12, 50), (15, 130)] {
        all.brings_at(number, stored_ns);
    }
    let text = all.out();
    assert!(text.contains("STREAM.INFO"), "{text}");
    all.pages.out.extend_from_slice(b"$JS.API.STREAM.INFO.S ");
    all.looks((1, 20));
    assert_eq!(all.came(), (3, None, true));
    // All that is newer by its number is older by its time.
    let mut all = All::asks(Some(10));
    all.looks((1, 12));
    all.begins(13, 0);
    all.begins(10, 3);
    all.brings_at(10, 123);
    all.brings_at(11, 40);
    all.brings_at(12, 50);
    assert_eq!(all.came(), (2, None, true));
}

#[test]
fn an_empty_message_is_one_of_all() {
    let mut all = All::after(None, (1, 2), 2);
    all.pages.brings(1, 0);
    all.pages.brings(2, 1);
    assert_eq!(all.came(), (2, None, true));
}
