//! The requests for consumers.

use super::super::*;
use super::bench::*;

/// Requests for consumers since the last call.
fn creations(bench: &mut Bench) -> usize {
    bench.sent().matches("$JS.API.CONSUMER.CREATE").count()
}

/// Asks a question for a pattern, up to the request for its consumer.
fn ask_pattern(bench: &mut Bench, number: u64) {
    bench.ask(question(number, "a.*"));
    let reply = bench.number_of_answer(number);
    bench.answer_to(reply, LIST);
}

/// Questions 1 up to `count` for patterns.
fn patterns(count: u64) -> Bench {
    let mut bench = Bench::idle();
    (1..=count).for_each(|number| ask_pattern(&mut bench, number));
    bench
}

#[test]
fn few_consumers_are_made_at_once_and_what_needs_none_does_not_wait() {
    let mut bench = patterns(10);
    assert_eq!(creations(&mut bench), MAKING_MAX);
    assert!(bench.retained.has_room(bench.now) && !bench.retained.has_room_to_read());
    for number in 1..=10 {
        bench.answer_question(number, &made(9));
        let left = 10 - MAKING_MAX as u64;
        assert_eq!(
            creations(&mut bench),
            usize::from(number <= left),
            "{number}"
        );
    }
    assert!(bench.retained.has_room_to_read());
}

#[test]
fn who_waits_in_line_is_not_late() {
    let mut bench = patterns(MAKING_MAX as u64 + 1);
    bench.now += ANSWER_TIMEOUT - Duration::from_millis(1);
    bench.answer_question(1, &made(9));
    bench.answer_question(2, &made(9));
    bench.now += ANSWER_TIMEOUT - Duration::from_millis(1);
    bench.work();
    assert_eq!(bench.events(), []);
}

/// Of the last values of patterns, the size is known only once the first has come.
#[test]
fn first_requests_of_all_patterns_together_bring_no_more_than_may_wait() {
    const KIB: usize = 1024;
    for bytes in [1, 64 * KIB, 512 * KIB, 1024 * KIB, 4096 * KIB, 16_384 * KIB] {
        let mut bench = Bench::idle();
        (0..1_000).for_each(|_| bench.retained.answer_bytes.note(bytes));
        let (mut patterns, mut requested) = (0, 0);
        while bench.retained.has_room_to_read() {
            patterns += 1;
            ask_pattern(&mut bench, patterns);
            bench.answer_question(patterns, &made(9));
            requested += bench.pulls().into_iter().sum::<u64>() as usize;
        }
        let all = requested * bytes;
        // Each pattern gets one, also if others have taken the room.
        assert!(
            all <= 32 * KIB * KIB,
            "{patterns} patterns of {bytes}: {all}"
        );
    }
}

/// The server still makes the consumers of questions that have ended; with the first answer, the consumer is deleted, and
/// another one is asked for.
fn assert_slots_are_kept(mut bench: Bench) {
    assert_eq!(creations(&mut bench), 0);
    bench.answer_to(FIRST_CONSUMER, &made(9));
    let text = bench.sent();
    assert!(text.contains("$JS.API.CONSUMER.DELETE.S.c"), "{text}");
    assert_eq!(text.matches("$JS.API.CONSUMER.CREATE").count(), 1);
}

#[test]
fn a_consumer_that_nobody_waits_for_keeps_its_slot_until_it_is_made_and_is_deleted_then() {
    let mut bench = patterns(6);
    assert_eq!(creations(&mut bench), 2);
    (1..=4).for_each(|number| bench.retained.forget(number, &mut bench.out));
    assert_slots_are_kept(bench);
}

#[test]
fn so_does_a_consumer_whose_question_ended_without_an_answer() {
    let mut bench = patterns(6);
    assert_eq!(creations(&mut bench), 2);
    bench.now += ANSWER_TIMEOUT;
    bench.work();
    assert_eq!(
        bench.texts(),
        ["later: JetStream gives no last values: no answer"; 2]
    );
    assert_slots_are_kept(bench);
}

/// Four questions for patterns. Nobody waits any more for the first two, whose answers are late.
fn two_are_late() -> Bench {
    let mut bench = patterns(4);
    bench.retained.note_ping(1, bench.now);
    assert!(
        !bench.retained.needs_ping(bench.now + ANSWER_TIMEOUT),
        "somebody waits"
    );
    (1..=2).for_each(|number| bench.retained.forget(number, &mut bench.out));
    assert!(!bench.retained.needs_ping(bench.now));
    bench.now += ANSWER_TIMEOUT;
    assert_eq!(bench.retained.due(), Some(bench.now));
    assert!(bench.retained.needs_ping(bench.now));
    bench.retained.note_ping(7, bench.now);
    assert!(!bench.retained.needs_ping(bench.now) && bench.retained.due().is_none());
    bench.sent();
    bench
}

#[test]
fn a_slot_whose_answer_is_lost_is_free_when_the_server_is_past_the_request() {
    let mut bench = two_are_late();
    for (answered, created) in [(6, 0), (7, 2)] {
        bench.retained.note_pongs(|ping| ping <= answered);
        bench.work();
        assert_eq!(creations(&mut bench), created, "{answered}");
    }
}

#[test]
fn an_answer_that_comes_when_its_slot_is_free_is_no_answer_to_another_question() {
    let mut bench = two_are_late();
    bench.retained.note_pongs(|ping| ping == 7);
    bench.work();
    bench.answer_to(FIRST_CONSUMER, &made(9));
    assert_eq!(bench.events(), []);
    bench.answer_question(3, &made(9));
    assert!(bench.sent().contains("MSG.NEXT.S.c"));
}

#[test]
fn a_consumer_on_another_server_than_the_leader_is_made_again() {
    let mut bench = Bench::asks("a.*");
    bench.answer(LIST);
    for _ in 0..3 {
        bench.made_on("s1");
        let text = bench.sent();
        assert!(
            text.contains("CONSUMER.DELETE.S.c") && !text.contains("SUB "),
            "{text}"
        );
        assert!(bench.pause().contains("CONSUMER.CREATE.S"));
    }
    bench.made_on("s0");
    bench.brings_value("a.b", "1");
    assert_eq!(bench.texts(), ["1", "end"]);
}

#[test]
fn a_consumer_that_never_comes_to_the_leader_ends_its_question() {
    let mut bench = Bench::asks("a.*");
    bench.answer(LIST);
    let begun = bench.now;
    while !bench.has_ended() && bench.now < begun + 20 * ANSWER_TIMEOUT {
        bench.made_on("s1");
        bench.pause();
    }
    let why = "its consumers are on other servers than the leader";
    assert_eq!(
        bench.texts(),
        [format!("later: JetStream gives no last values: {why}")]
    );
}

/// By what the answer about the stream says, and by what the server refuses.
#[test]
fn a_consumer_has_the_limits_that_its_stream_permits() {
    const LIMITED: &str = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"],"consumer_limits":{"inactive_threshold":60000000000}}}]}"#;
    const REFUSED: &str =
        r#"{"error":{"code":400,"err_code":10153,"description":"exceeds system limit"}}"#;
    let mut bench = Bench::asks("a.*");
    bench.answer(LIMITED);
    for seconds in [60, 30, 15] {
        let asked = bench.sent();
        let threshold = format!(r#""inactive_threshold":{seconds}000000000"#);
        assert!(asked.contains(&threshold), "{asked}");
        bench.answer(REFUSED);
    }
    bench.made_on("");
    bench.brings_value("a.b", "1");
    assert_eq!(bench.texts(), ["1", "end"]);
}

/// nats-server 2.9 makes no consumer for a pattern in a stream that has only copies of a stream that is gone.
#[test]
fn a_value_in_a_stream_that_makes_no_consumer_is_missing() {
    const FOREIGN: &str = r#"{"error":{"code":400,"err_code":10093,"description":"no subset"}}"#;
    let missing = "end: JetStream gives no last values: error 10093: no subset";
    for (any, end) in [
        (r#"{"error":{"code":404,"err_code":10037}}"#, "end"),
        (r#"{"message":{"subject":"a.b","seq":1}}"#, missing),
        (r#"{"error":{"code":503,"err_code":10008}}"#, missing),
    ] {
        let mut bench = Bench::asks("a.*");
        bench.answer(LIST);
        bench.answer(FOREIGN);
        let asked = bench.sent();
        assert!(asked.contains("STREAM.MSG.GET.S "), "{asked}");
        assert!(asked.contains(r#"{"last_by_subj":"a.*"}"#), "{asked}");
        bench.answer(any);
        assert_eq!(bench.texts(), [end]);
    }
}
