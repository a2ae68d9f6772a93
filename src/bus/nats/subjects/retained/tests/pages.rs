//! The values of a pattern in pages, through consumers.

use super::super::consuming::PULL_TIMEOUT;
use super::super::question::PAUSE_MIN;
use super::super::reading::{PAGE_BYTES, PAGE_BYTES_LIMIT, PAGE_VALUES};
use super::super::*;
use super::bench::*;
use weirgate_core::PageCursor;

/// A stream with one message for each subject.
const LAST_ONLY: &str = r#"{"streams":[{"created":"then","config":{"name":"S","subjects":["a.>"],"max_msgs_per_subject":1},"state":{"last_seq":90000}}]}"#;

/// A question that begins here; so many messages wait.
fn reads_after(after: PageCursor, waiting: u64) -> Bench {
    Bench::reads(LAST_ONLY, after, waiting)
}

fn reads(waiting: u64) -> Bench {
    reads_after(PageCursor::default(), waiting)
}

/// The consumer brings what it is asked for until the page is full. Returns the numbers that it was asked for.
fn fill_page(bench: &mut Bench) -> Vec<u64> {
    let (mut sequence, mut pulls) = (0, Vec::new());
    while bench.retained.paused() == 0 {
        let pull = bench.pull();
        pulls.push(pull);
        for _ in 0..pull {
            sequence += 1;
            bench.brings(sequence, 10);
        }
    }
    pulls
}

#[test]
fn a_page_is_bounded_in_values_and_bytes_and_a_question_goes_on() {
    let mut bench = reads(9_000);
    assert_eq!(fill_page(&mut bench), [8, 64, 576, 1_400]);
    let cursor = read(PAGE_VALUES, "then");
    assert_eq!(bench.came(), page(PAGE_VALUES as usize, cursor));
    bench.now += 10 * ANSWER_TIMEOUT;
    bench.work();
    assert_eq!(bench.retained.due(), None, "it waits for the clients");
    bench.wants_more();
    assert_eq!(bench.pull(), PAGE_VALUES);
}

#[test]
fn a_consumer_that_brings_far_more_than_a_page_is_made_again_for_the_next() {
    let mut bench = reads(9_000);
    (1..=5).for_each(|n| bench.brings(n, PAGE_BYTES_LIMIT / 5));
    assert_eq!(bench.came(), page(5, read(5, "then")));
    assert!(bench.sent().contains("$JS.API.CONSUMER.DELETE.S.c"));
    bench.wants_more();
    assert!(bench.sent().contains("STREAM.LIST"));
}

#[test]
fn large_values_come_few_at_a_time() {
    let mut bench = reads(12);
    assert_eq!(bench.pull(), 8);
    let large = PAGE_BYTES / 4;
    (1..=8).for_each(|n| bench.brings(n, large));
    assert_eq!(bench.came(), page(8, read(8, "then")));
    bench.wants_more();
    assert_eq!(bench.pull(), 3, "with their names");
    (9..=11).for_each(|n| bench.brings(n, large));
    assert_eq!(bench.pull(), 1, "there is still room");
    bench.brings(12, 2 * PAGE_BYTES);
    assert_eq!(bench.came(), whole(4));
}

#[test]
fn what_was_read_does_not_come_again_unless_the_stream_is_another() {
    for (made, sequence, came) in [
        ("then", 50, 2),
        ("then", 90_001, 4),
        ("another time", 50, 4),
        ("then", 0, 4),
    ] {
        let mut bench = reads_after(read(sequence, made), 4);
        bench.brings_all(49..=52);
        assert_eq!(bench.came(), whole(came), "{sequence}");
    }
}

#[test]
fn what_was_read_before_fills_no_page() {
    let mut bench = reads_after(read(80_000, "then"), 9_000);
    (1..=8).for_each(|n| bench.brings(n, PAGE_BYTES));
    assert_eq!((bench.came(), bench.pulls().len()), (only(0), 2));
}

#[test]
fn a_message_that_the_consumer_brings_twice_comes_once() {
    let mut bench = reads(4);
    bench.brings_all([7, 9, 9, 10]);
    assert_eq!(bench.came(), whole(3));
}

#[test]
fn a_question_outlives_its_consumer_and_its_connection() {
    let mut bench = reads(9_000);
    bench.brings_all([7, 8]);
    // The consumer is gone: another one leaves out what has come.
    bench.says(409, "");
    let gone = bench.now;
    assert!(bench.pause().contains("STREAM.LIST"));
    assert_eq!(bench.now, gone + PAUSE_MIN);
    bench.retained.close(&mut bench.out);
    let last = Last::Page {
        cursor: read(8, "then"),
        is_open: false,
    };
    assert_eq!(bench.came(), Came { values: 2, last });
    assert!(bench.retained.due().is_none() && bench.has_ended());
}

/// The server says it in the status of a request for more.
#[test]
fn a_consumer_is_asked_for_as_many_messages_as_a_status_permits() {
    let mut bench = reads(9_000);
    assert_eq!(bench.pull(), 8);
    for most in [5, 3] {
        bench.says(409, &format!("Exceeded MaxRequestBatch of {most}"));
        assert_eq!(bench.pull(), most);
    }
    bench.brings_all(1..=3);
    assert_eq!(bench.pull(), 3);
    // Nothing less is permitted: the consumer is of no use.
    bench.says(409, "Exceeded MaxRequestBatch of 3");
    assert!(bench.pulls().is_empty());
}

#[test]
fn a_consumer_is_asked_for_as_many_messages_as_the_answer_about_it_permits() {
    let mut bench = Bench::asks("a.*");
    bench.answer(LAST_ONLY);
    bench.answer(r#"{"name":"c","num_pending":9000,"config":{"max_request_batch":2}}"#);
    assert_eq!(bench.pull(), 2);
}

#[test]
fn messages_that_were_deleted_meanwhile_are_not_waited_for() {
    let mut bench = reads(9_000);
    bench.brings(7, 10);
    bench.pulls();
    for pulls in [1, 0] {
        bench.now += PULL_TIMEOUT;
        bench.says(408, "");
        assert_eq!(bench.pulls().len(), pulls);
    }
    assert_eq!(bench.came(), whole(1));
}

/// Delivered for the name before the question; the second may not be stored yet.
const LIVE: [(&str, &str); 2] = [("a.b", "1"), ("a.b", "2")];

#[test]
fn a_pattern_is_asked_for_again_until_a_delivered_message_is_stored() {
    let mut bench = Bench::with_live("a.*", &LIVE);
    bench.answer(LIST);
    bench.made_on("s0");
    bench.brings_value("a.b", "1");
    assert_eq!(bench.texts(), ["1"]);
    assert!(bench.pause().contains("STREAM.LIST"));
    bench.answer(LIST);
    bench.made_on("s0");
    bench.brings_value("a.b", "2");
    assert_eq!(bench.texts(), ["2", "end"]);
}

/// The stream has given all of its values: what it stores later has a higher number.
#[test]
fn what_is_stored_late_is_read_without_the_other_values() {
    let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]},"cluster":{"leader":"s0"},"state":{"last_seq":9}}]}"#;
    let mut bench = Bench::with_live("a.*", &LIVE);
    bench.answer(list);
    assert!(bench.sent().contains("last_per_subject"));
    bench.made_on("s0");
    bench.brings_value("a.b", "1");
    for _ in 0..3 {
        assert!(bench.pause().contains("STREAM.LIST"));
        bench.answer(list);
        let request = bench.sent();
        assert!(request.contains(r#""opt_start_seq":10"#), "{request}");
        bench.answer(r#"{"name":"c","num_pending":0,"cluster":{"leader":"s0"}}"#);
        assert!(!bench.has_ended());
    }
}

/// The cover is subscribed in place of the pattern, and brings messages of other subjects too.
#[test]
fn a_pattern_within_a_wider_one_is_asked_for_again_for_its_own_messages() {
    let live = [("a.b.x", "1"), ("a.c.x", "1"), ("a.b.x", "2")];
    let mut bench = Bench::with_live_within("a.>", "a.b.*", &live);
    bench.answer(LIST);
    bench.made_on("s0");
    bench.brings_value("a.b.x", "1");
    assert_eq!(bench.texts(), ["1"], "an answer from before the second");
    assert!(bench.pause().contains("STREAM.LIST"));
    bench.answer(LIST);
    bench.made_on("s0");
    bench.brings_value("a.b.x", "2");
    assert_eq!(bench.texts(), ["2", "end"], "whatever `a.c.x` has");
}
