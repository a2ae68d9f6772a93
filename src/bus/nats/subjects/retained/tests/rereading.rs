//! Last values that are removed before they come, so that an older message of the subject is the last one again.

use super::super::consuming::PULL_TIMEOUT;
use super::super::listed::SUBJECTS_MAX;
use super::super::values_read::REREADS_MAX;
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

/// What the stream has behind its last message at that time was not listed.
#[test]
fn a_later_message_tells_that_no_more_of_the_listed_ones_come() {
    let mut bench = reads(WITH_HOLES);
    bench.brings_all([7, 9]);
    bench.answer(WITH_HOLES);
    bench.brings_as(90_001, "a.9", 1);
    assert!(bench.has_consumer());
    bench.brings_as(90_002, "a.new", 0);
    go_on(&mut bench, WITH_HOLES, 3);
    bench.brings_all([2, 7, 9]);
    assert_eq!(bench.came(), whole(7));
}

/// In place of a removed message nats-server 2.9 brings the next one: a listed one, which then comes again, or an older one of
/// another subject.
#[test]
fn what_comes_in_place_of_a_removed_message_does_not_count_for_it() {
    for in_place in [7, 6] {
        let mut bench = reads(WITH_HOLES);
        bench.brings_as(in_place, "a.7", 2);
        bench.brings_as(7, "a.7", 1);
        bench.brings_as(9, "a.9", 0);
        assert!(bench.has_consumer(), "{in_place}");
        bring_no_more(&mut bench);
        go_on(&mut bench, WITH_HOLES, 3);
        bench.brings_all([2, 7, 9]);
        assert!(bench.has_ended(), "{in_place}");
    }
}

/// The stream keeps five messages of a subject, and has got five newer ones: clients have them, and nothing is missing. A subject
/// with fewer may have been made since.
#[test]
fn a_value_that_newer_ones_have_replaced_is_not_missing() {
    for (newer, is_whole) in [(5, true), (4, false)] {
        let mut bench = reads(WITH_HOLES);
        bench.answer(WITH_HOLES);
        bench.brings_all([7, 9]);
        for n in 1..=newer {
            assert!(bench.has_consumer(), "{newer} {n}");
            bench.brings_as(90_000 + n, "a.2", newer - n);
        }
        assert_eq!(bench.has_ended(), is_whole, "{newer}");
        assert!(!bench.has_consumer());
    }
}

/// While messages are stored, nats-server 2.9 may say for a moment that fewer wait.
#[test]
fn values_that_the_server_has_not_counted_come() {
    for list in [WITH_HOLES, WITHOUT_HOLES] {
        let mut bench = Bench::reads(list, PageCursor::default(), 1);
        bench.brings_as(7, "a.7", 2);
        bench.brings_as(9, "a.9", 0);
        assert!(bench.has_consumer());
        bench.brings_as(90_000, "a.8", 1);
        assert_eq!(bench.came(), whole(3));
    }
}

/// More subjects than are told apart count by their messages.
#[test]
fn subjects_are_told_apart_up_to_a_number() {
    let most = SUBJECTS_MAX as u64;
    let mut bench = Bench::reads(WITH_HOLES, PageCursor::default(), most + 3);
    for n in 1..=most + 1 {
        bench.brings(n, 1);
        if bench.retained.paused() > 0 {
            bench.wants_more();
        }
    }
    bench.brings_as(most + 2, "a.1", 0);
    bench.brings_as(most + 2, "a.1", 0);
    assert!(bench.has_consumer());
    bench.brings(most + 3, 1);
    assert!(bench.has_ended());
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
