//! How many questions are asked, and what the server permits nobody to ask.

use super::super::events::NatsCut;
use super::super::listening::LISTEN_PAUSE;
use super::super::patience::SILENT_AFTER;
use super::super::*;
use super::bench::*;
use crate::nats::refusals::{INBOXES, PermissionsViolation};

#[test]
fn questions_beyond_the_limit_wait() {
    let mut bench = Bench::idle();
    for number in 0..ASKED_MAX as u64 {
        assert!(bench.retained.has_room(bench.now));
        bench.ask(question(number, "a"));
    }
    assert!(!bench.retained.has_room(bench.now));
    bench.answer_question(7, "{}");
    assert!(bench.retained.has_room(bench.now));
    assert_eq!(bench.retained.asked(), ASKED_MAX - 1);
}

/// Asks as many questions as there is room for; returns how many are on their way.
fn fill(bench: &mut Bench) -> usize {
    while bench.retained.has_room(bench.now) {
        let number = bench.retained.last.next().0;
        bench.ask(question(number, "a.b"));
    }
    bench.retained.asked()
}

const LARGE_BYTES: usize = 3 * 1024 * 1024;

/// All answers may wait at the server at the same time, which cuts a connection for which too much waits.
#[test]
fn so_many_questions_are_asked_at_once_as_large_answers_may_wait() {
    let mut bench = Bench::idle();
    bench.retained.answer_bytes = MessageBytes::default();
    assert_eq!(fill(&mut bench), 4, "nothing is known");
    bench.retained.answer_bytes = small_answers();
    assert_eq!(fill(&mut bench), ASKED_MAX);
    bench.retained.close(&mut bench.out);
    (0..1_000).for_each(|_| bench.retained.answer_bytes.note(LARGE_BYTES));
    assert_eq!(fill(&mut bench), 5);
}

#[test]
fn no_question_is_asked_while_the_others_may_have_answers_as_large_as_the_last_one() {
    let mut bench = Bench::idle();
    fill(&mut bench);
    (1..=ASKED_MAX as u64).for_each(|number| bench.answer_question(number, LIST));
    bench.answer(&"x".repeat(LARGE_BYTES));
    assert!(!bench.retained.has_room(bench.now));
    // Of questions to a stream without a leader nothing comes.
    assert!(bench.retained.has_room(bench.now + SILENT_AFTER));
}

#[test]
fn after_a_connection_that_ended_with_questions_one_is_asked_at_first() {
    let mut bench = Bench::idle();
    fill(&mut bench);
    bench.retained.close(&mut bench.out);
    assert_eq!(fill(&mut bench), 1, "perhaps they were the cause");
}

/// The server would end the connection, and all names on it with their messages.
#[test]
fn a_request_over_max_payload_is_not_sent() {
    for (name, request_bytes_max, sent) in [("a.b", 10, 0), ("a.*", 100, 1)] {
        let mut bench = Bench::idle();
        bench.retained.request_bytes_max = request_bytes_max;
        bench.ask(question(1, name));
        let mut out = bench.sent();
        bench.answer(LIST);
        bench.work();
        out += &bench.sent();
        let [end] = &bench.texts()[..] else {
            panic!("one end");
        };
        assert!(
            end.starts_with("end") && end.contains("max_payload"),
            "{end}"
        );
        assert_eq!(out.matches("PUB $JS.API").count(), sent, "{out}");
        assert!(bench.has_ended() && bench.retained.due().is_none());
    }
}

/// How often the subscription for answers was sent since the last call.
fn subscriptions(bench: &mut Bench) -> usize {
    bench.sent().matches("SUB _INBOX").count()
}

/// Whether a question, and nothing else, was refused for now with these words.
fn is_refused_for_now(bench: &mut Bench, words: &str) -> bool {
    let texts = bench.texts();
    matches!(&texts[..], [text] if text.starts_with("later") && text.contains(words))
}

/// A server ends the subscription for answers when its permissions change, and does not make it again.
#[test]
fn answers_are_subscribed_to_again_after_a_refusal() {
    let mut bench = Bench::asks("a.b");
    assert_eq!(subscriptions(&mut bench), 1);
    let refusal = PermissionsViolation::Subscribe(format!("{}.*", bench.retained.inbox));
    assert!(
        bench
            .retained
            .not_permitted(&refusal, bench.now, &mut bench.out)
    );
    assert!(is_refused_for_now(&mut bench, INBOXES));
    // Not at once: each attempt is an error in the log of the server.
    bench.ask(question(2, "a.b"));
    assert!(is_refused_for_now(&mut bench, INBOXES) && subscriptions(&mut bench) == 0);
    bench.now += LISTEN_PAUSE;
    bench.ask(question(3, "a.b"));
    assert_eq!(subscriptions(&mut bench), 1);
}

#[test]
fn the_refusal_of_a_name_is_not_one_of_answers() {
    let mut bench = Bench::asks("a.b");
    let other = PermissionsViolation::Subscribe("a.b".to_owned());
    assert!(
        !bench
            .retained
            .not_permitted(&other, bench.now, &mut bench.out)
    );
    assert_eq!(bench.events(), []);
}

const NO_ROOM: &str = "Maximum Subscriptions Exceeded";

/// A question, with the ping 3 after the subscription for answers.
fn pinged() -> Bench {
    let mut bench = Bench::asks("a.b");
    assert!(bench.retained.needs_ping(bench.now));
    bench.retained.note_ping(3, bench.now);
    assert!(!bench.retained.needs_ping(bench.now));
    bench
}

/// The server says that the connection has too many subscriptions. Returns whether that one for answers is meant, if the
/// oldest other change without an answer has this ping.
fn lacks_room(bench: &mut Bench, oldest: Option<u64>) -> bool {
    let (now, out) = (bench.now, &mut bench.out);
    bench.retained.lacks_room(NO_ROOM, oldest, now, out)
}

/// A connection has as many subscriptions as it may have, and later fewer.
#[test]
fn answers_are_subscribed_to_again_once_there_is_room() {
    let mut bench = pinged();
    assert!(lacks_room(&mut bench, None));
    assert!(is_refused_for_now(&mut bench, NO_ROOM));
    bench.sent();
    bench.now += LISTEN_PAUSE;
    bench.ask(question(2, "a.b"));
    assert_eq!(subscriptions(&mut bench), 1);
}

/// Which subscription the server means is said by the pings behind those without an answer.
#[test]
fn the_oldest_subscription_without_an_answer_is_the_one_that_has_no_room() {
    for (oldest, is_meant) in [(None, true), (Some(4), true), (Some(2), false)] {
        assert_eq!(lacks_room(&mut pinged(), oldest), is_meant, "{oldest:?}");
    }
    let mut answered = pinged();
    answered.retained.note_pongs(|ping| ping == 3);
    assert!(!lacks_room(&mut answered, None));
}

#[test]
fn a_refusal_is_told_with_its_words() {
    let used_up = r#"{"error":{"err_code":10026,"description":"maximum consumers"}}"#;
    for (name, answers) in [("a.*", &[LIST, used_up][..]), ("a.b", &[used_up])] {
        let mut bench = Bench::asks(name);
        answers.iter().for_each(|answer| bench.answer(answer));
        let cut = Some(NatsCut::Refused(
            "error 10026: maximum consumers".to_owned(),
        ));
        let question = question(1, name);
        assert_eq!(bench.events(), [RetainedEvent::End { question, cut }]);
    }
}
