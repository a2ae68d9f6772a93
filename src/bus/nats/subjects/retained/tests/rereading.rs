//! Last values that are removed before they come, so that an older message of the subject is the last one again.

use super::super::consuming::PULL_TIMEOUT;
use super::super::values_read::{LISTED_WITHIN_NS, REREADS_MAX};
use super::bench::*;
use weirgate_core::PageCursor;

/// A stream that has older messages of a subject, any of which can be deleted.
const WITH_HOLES: &str = r#"{"streams":[{"created":"then","config":{"name":"S","subjects":["a.>"],"max_msgs_per_subject":5},"state":{"last_seq":90000,"first_seq":1,"messages":80000}}]}"#;
/// The same without a hole.
const WITHOUT_HOLES: &str = r#"{"streams":[{"created":"then","config":{"name":"S","subjects":["a.>"]},"state":{"last_seq":90000,"first_seq":1,"messages":90000}}]}"#;

/// A question for which three messages wait.
fn reads(list: &str) -> Bench {
    Bench::reads(list, PageCursor::default(), 3)
}

/// Nothing comes for as long as a consumer is waited for.
fn bring_no_more(bench: &mut Bench) {
    for _ in 1..=2 {
        bench.now += PULL_TIMEOUT;
        bench.says(408, "");
    }
}

/// Lets a pause pass, and answers with the list and a consumer for which so many messages wait. Returns the request for the
/// consumer.
fn go_on(bench: &mut Bench, list: &str, waiting: u64) -> String {
    bench.pause();
    bench.answer(list);
    if bench.retained.all_streams.asked().is_some() {
        bench.answer(NO_STREAMS);
    }
    let request = bench.sent();
    bench.answer(&made(waiting));
    request
}

/// The newest message of a subject was removed before it came, and the one before is the last one again.
#[test]
fn a_value_that_the_removal_of_a_newer_one_uncovers_comes() {
    let mut bench = reads(WITH_HOLES);
    bench.brings_all([7, 9]);
    bring_no_more(&mut bench);
    let request = go_on(&mut bench, WITH_HOLES, 3);
    assert!(request.contains("last_per_subject"), "{request}");
    bench.brings_all([2, 7, 9]);
    assert_eq!(bench.came(), whole(5));
}

/// A message that was stored after the consumer was made says so, too. The time alone does not: the clock of the server may
/// have gone back.
#[test]
fn a_later_message_tells_that_no_more_of_the_listed_ones_come() {
    let mut bench = reads(WITH_HOLES);
    bench.brings(7, 10);
    bench.brings_at(9, 3 * LISTED_WITHIN_NS, 10);
    assert!(bench.sent().contains("MSG.NEXT") && bench.retained.pending.len() == 1);
    bench.brings_at(90_001, 3 * LISTED_WITHIN_NS, 10);
    go_on(&mut bench, WITH_HOLES, 3);
    bench.brings_all([2, 7, 9]);
    assert_eq!(bench.came(), whole(6));
}

/// What a second consumer lists may be older than what the first one has brought.
#[test]
fn a_value_that_was_uncovered_between_two_consumers_comes() {
    let mut bench = reads(WITH_HOLES);
    bench.brings(7, 10);
    bench.says(409, "");
    go_on(&mut bench, WITH_HOLES, 3);
    bench.brings_all([2, 7, 8]);
    assert_eq!(bench.came(), only(2));
    go_on(&mut bench, WITH_HOLES, 3);
    bench.brings_all([2, 7, 8]);
    assert_eq!(bench.came(), whole(3));
}

/// What limits remove are the first messages: no older one of a subject is left.
#[test]
fn the_first_messages_of_a_stream_uncover_none() {
    let mut bench = reads(WITHOUT_HOLES);
    bench.brings_all([7, 9]);
    bring_no_more(&mut bench);
    let request = go_on(&mut bench, WITHOUT_HOLES, 0);
    assert!(request.contains(r#""opt_start_seq":10"#), "{request}");
    assert_eq!(bench.came(), whole(2));
}

/// Values of the first stream were removed before they came. As the second stream fails, the first is read once more, and
/// then nothing is missing.
#[test]
fn a_stream_that_was_read_whole_at_the_second_time_is_not_read_a_third_time() {
    const TWO: &str = r#"{"streams":[
        {"config":{"name":"S","subjects":["a.>"]},"state":{"last_seq":90000,"first_seq":1,"messages":90000}},
        {"config":{"name":"F","subjects":["a.x"]},"state":{"last_seq":90000,"first_seq":1,"messages":90000}}]}"#;
    let mut bench = reads(TWO);
    bench.brings_all([7, 9]);
    bring_no_more(&mut bench);
    bench.answer(&made(1));
    bench.says(409, "");
    go_on(&mut bench, TWO, 2);
    bench.brings_all([7, 9]);
    bench.answer(&made(1));
    bench.brings(5, 10);
    assert_eq!(bench.came(), whole(3));
}

/// Another question begins with the first value.
#[test]
fn values_that_are_removed_each_time_are_asked_for_again_later() {
    let mut bench = reads(WITH_HOLES);
    for _ in 0..REREADS_MAX {
        bench.brings(7, 10);
        bring_no_more(&mut bench);
        go_on(&mut bench, WITH_HOLES, 3);
    }
    bench.brings(7, 10);
    bring_no_more(&mut bench);
    let came = bench.came();
    let Last::Unanswered { cursor, .. } = came.last else {
        panic!("{came:?}");
    };
    assert_eq!((came.values, cursor), (3, read(0, "then")));
}
