//! When a question ends that brings nothing new, and what it then has.

use super::super::question::PAUSE_MAX;
use super::super::*;
use super::bench::*;
use weirgate_core::PageCursor;

/// The list of a stream with one message for each subject.
const LIST_WITHOUT_CLUSTER: &str = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"],"max_msgs_per_subject":1},"state":{"last_seq":90000}}]}"#;

/// A question whose time is over, and whose stream was read up to here.
fn unanswered(values: usize, cursor: PageCursor, why: &str) -> Came {
    let why = format!("JetStream gives no last values: {why}");
    let last = Last::Unanswered { cursor, why };
    Came { values, last }
}

#[test]
fn a_question_without_an_answer_ends_in_time() {
    let mut bench = Bench::asks("a.b");
    bench.work();
    assert_eq!(bench.came(), only(0));
    bench.now += ANSWER_TIMEOUT;
    bench.work();
    assert_eq!(
        bench.came(),
        unanswered(0, PageCursor::default(), "no answer")
    );
    assert!(bench.retained.due().is_none() && bench.has_ended());
}

/// For a time no server is the leader.
#[test]
fn a_question_that_nobody_can_answer_for_now_ends_at_once() {
    let mut bench = Bench::asks("a.b");
    bench.answer(r#"{"error":{"code":503,"err_code":10008,"description":"unavailable"}}"#);
    assert!(matches!(bench.came().last, Last::Unanswered { .. }));
}

#[test]
fn a_question_lasts_while_it_brings_new_values() {
    let mut bench = Bench::reads(LIST_WITHOUT_CLUSTER, PageCursor::default(), 9);
    for n in 1..4 {
        bench.now += ANSWER_TIMEOUT - Duration::from_millis(1);
        bench.work();
        bench.brings(n, 1);
        assert_eq!(bench.retained.due(), Some(bench.now + ANSWER_TIMEOUT));
        assert_eq!(bench.came(), only(1), "{n}");
    }
    bench.now += ANSWER_TIMEOUT;
    bench.work();
    assert_eq!(bench.came(), unanswered(0, read(3, ""), "no answer"));
}

/// A question with a consumer for which a message waits.
fn with_consumer() -> Bench {
    let mut bench = Bench::reads(LIST_WITHOUT_CLUSTER, PageCursor::default(), 1);
    bench.out.clear();
    bench
}

/// The consumer and the subscription to it are deleted.
fn assert_consumer_is_left(bench: &mut Bench) {
    let text = bench.sent();
    assert!(text.contains("$JS.API.CONSUMER.DELETE.S.c"), "{text}");
    assert!(text.contains(&format!("UNSUB {FIRST_CONSUMER}")), "{text}");
}

#[test]
fn the_consumer_of_a_pattern_is_left_at_the_end() {
    let mut bench = with_consumer();
    bench.brings(9, 1);
    assert_eq!(bench.came(), whole(1));
    assert_consumer_is_left(&mut bench);
}

#[test]
fn the_consumer_of_a_pattern_is_left_when_its_time_is_over() {
    let mut bench = with_consumer();
    bench.now += ANSWER_TIMEOUT;
    bench.work();
    assert_eq!(bench.came(), unanswered(0, read(0, ""), "no answer"));
    assert_consumer_is_left(&mut bench);
}

#[test]
fn the_consumer_of_a_pattern_is_left_when_nobody_waits_any_more() {
    let mut bench = with_consumer();
    bench.retained.forget(1, &mut bench.out);
    assert_eq!(bench.came(), only(0));
    assert_consumer_is_left(&mut bench);
}

/// Every consumer brings these messages and gets this status, until the question ends. Returns how long that takes.
fn fail_always(bench: &mut Bench, messages: &[u64], status: u16) -> Duration {
    let begun = bench.now;
    while !bench.has_ended() && bench.now < begun + 10 * ANSWER_TIMEOUT {
        bench.brings_all(messages.iter().copied());
        bench.says(status, "");
        bench.pause();
        bench.answer_until_consumer(LIST_WITHOUT_CLUSTER, 9);
    }
    bench.now - begun
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
        let mut bench = Bench::reads(LIST_WITHOUT_CLUSTER, PageCursor::default(), 9);
        let took = fail_always(&mut bench, messages, status);
        assert!(took <= ANSWER_TIMEOUT + PAUSE_MAX, "{status}: {took:?}");
        let came = bench.came();
        assert_eq!(came.values, messages.len());
        let Last::Unanswered { why, .. } = came.last else {
            panic!("{came:?}");
        };
        assert!(why.contains(&status.to_string()), "{why}");
    }
}

/// Two streams, of which the first does not answer in time about a consumer.
fn first_is_silent() -> Bench {
    let mut bench = Bench::asks("a.*");
    bench.answer(TWO_STREAMS);
    bench.now += ANSWER_TIMEOUT;
    bench.work();
    assert_eq!(bench.came(), only(0));
    bench
}

/// The other streams are read, and what they have does not come again.
#[test]
fn a_stream_that_does_not_answer_keeps_no_other_from_its_values() {
    let mut bench = first_is_silent();
    bench.answer(&made(1));
    bench.brings(9, 1);
    assert_eq!(bench.came(), unanswered(1, read(9, ""), "no answer"));
}

/// The server has worked on the first request for longer than a question waits.
#[test]
fn a_late_consumer_of_one_stream_is_not_taken_for_that_of_the_next() {
    let mut bench = first_is_silent();
    bench.sent();
    bench.answer_to(FIRST_CONSUMER, r#"{"name":"late","num_pending":1}"#);
    assert!(bench.sent().contains("CONSUMER.DELETE.F.late "));
    bench.answer(&made(1));
    assert!(bench.sent().contains("MSG.NEXT.S.c "));
}

/// The others are read.
#[test]
fn a_stream_whose_consumers_get_a_status_each_time_keeps_no_other_from_its_values() {
    let mut bench = Bench::asks("a.*");
    for _ in 0..200 {
        bench.answer_until_consumer(TWO_STREAMS, 1);
        match bench.sent().contains("MSG.NEXT.S.c") {
            true => bench.brings(9, 1),
            false => bench.says(409, ""),
        }
        if bench.has_ended() {
            break;
        }
        bench.pause();
    }
    let came = bench.came();
    assert_eq!(came.values, 1);
    assert!(matches!(came.last, Last::Unanswered { .. }), "{came:?}");
}
