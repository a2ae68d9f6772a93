//! Questions for all messages of `a.b` in the stream S, of which the leader says where it begins and ends.

use std::sync::Arc;

use super::super::consuming::PULL_TIMEOUT;
use super::super::question::PAUSE_MAX;
use super::super::reading::PAGE_VALUES;
use super::super::*;
use super::bench::*;
use crate::nats::stream_info::unix_ns;
use crate::requests::Wants;
use weirgate_core::{PageCursor, RetainedCut};

/// What the leader says about the stream.
#[derive(Clone, Copy)]
struct Stream<'a> {
    created: &'a str,
    subjects: &'a [&'a str],
    /// In a cluster.
    leader: Option<&'a str>,
    first: u64,
    last: u64,
    messages: u64,
    /// The list of missing numbers, which has to be asked for.
    missing: Option<&'a [u64]>,
    is_in_memory: bool,
}

/// A stream with all messages from one number to another.
const fn stream(first: u64, last: u64) -> Stream<'static> {
    Stream {
        created: "2026-01-01T00:00:00Z",
        subjects: &["a.>"],
        leader: None,
        first,
        last,
        messages: last + 1 - first,
        missing: None,
        is_in_memory: false,
    }
}

/// A stream from number 1 on that lacks messages within, of which it has so many.
const fn with_holes(last: u64, messages: u64) -> Stream<'static> {
    Stream {
        messages,
        ..stream(1, last)
    }
}

/// A stream from number 1 on in a cluster.
const fn led_by(leader: &str, last: u64) -> Stream<'_> {
    Stream {
        leader: Some(leader),
        ..stream(1, last)
    }
}

impl Stream<'_> {
    fn answer(&self) -> String {
        let Self {
            created,
            subjects,
            first,
            last,
            messages,
            ..
        } = self;
        let storage = if self.is_in_memory { "memory" } else { "file" };
        let cluster = self.leader.map_or(String::new(), |leader| {
            format!(r#","cluster":{{"name":"C","leader":"{leader}"}}"#)
        });
        let missing = self.missing.map_or(String::new(), |missing| {
            format!(r#","deleted":{missing:?}"#)
        });
        format!(
            r#"{{"config":{{"name":"S","subjects":{subjects:?},"storage":"{storage}"}},"created":"{created}"{cluster},"state":{{"messages":{messages},"bytes":1,"first_seq":{first},"last_seq":{last},"last_ts":"2026-01-01T00:00:00Z"{missing}}}}}"#
        )
    }
}

/// A question for all messages after this one.
fn asks(after: Option<u64>) -> Bench {
    asks_of("a.b", after)
}

/// The same of this name.
fn asks_of(name: &str, after: Option<u64>) -> Bench {
    let mut bench = Bench::idle();
    bench.ask(Question {
        wants: Wants::All,
        after: Arc::new(PageCursor::after(after.map(id))),
        ..question(1, name)
    });
    bench
}

/// The same up to a consumer for which so many messages wait.
fn reads(after: Option<u64>, state: Stream<'_>, waiting: u64) -> Bench {
    let mut bench = asks(after);
    bench.checks(state);
    bench.made_from(1, waiting);
    bench
}

impl Bench {
    /// The leader was asked about the stream, with the list of missing numbers if it has one, and answers.
    fn checks(&mut self, state: Stream<'_>) {
        let text = self.sent();
        let body = match state.missing {
            Some(_) => r#"{"deleted_details":true}"#,
            None => "",
        };
        assert!(text.contains("$JS.API.STREAM.INFO.S "), "{text}");
        let ends = format!(" {}\r\n{body}\r\n", body.len());
        assert!(text.ends_with(&ends), "{text}");
        self.answer(&state.answer());
    }

    /// A consumer was asked for, and begins at this number.
    fn made_from(&mut self, begins: u64, waiting: u64) {
        let text = self.sent();
        assert!(text.contains("$JS.API.CONSUMER.CREATE.S "), "{text}");
        let before = begins - 1;
        self.answer(&format!(
            r#"{{"name":"c","num_pending":{waiting},"delivered":{{"stream_seq":{before}}}}}"#
        ));
    }

    /// The consumer brings every second message until the page is full, so that the leader is asked about the stream.
    /// Returns the number of the last one.
    fn brings_a_page(&mut self) -> u64 {
        let mut sequence = 0;
        while !String::from_utf8_lossy(&self.out).contains("STREAM.INFO") {
            self.out.clear();
            for _ in 0..8 {
                sequence += 2;
                self.brings(sequence, 10);
            }
        }
        sequence
    }

    /// A page came, and the question goes on.
    fn came_page(&mut self) -> PageCursor {
        let came = self.came();
        match came.last {
            Last::Page {
                cursor,
                is_open: true,
            } if came.values == PAGE_VALUES as usize => cursor,
            _ => panic!("{came:?}"),
        }
    }
}

/// A question whose first page was read, and whose second one is wanted.
struct SecondPage {
    bench: Bench,
    /// The number of the last message of the first page.
    page_end: u64,
}

/// After a page, and three further messages of the name.
fn second_page() -> SecondPage {
    let mut bench = reads(None, stream(1, 90_000), PAGE_VALUES + 3);
    let page_end = bench.brings_a_page();
    bench.checks(stream(1, 90_000));
    assert_eq!(bench.came_page().cut, None);
    bench.wants_more();
    SecondPage { bench, page_end }
}

#[test]
fn all_messages_come_from_the_beginning() {
    let mut bench = asks(None);
    bench.checks(stream(5, 9));
    let request = String::from_utf8_lossy(&bench.out);
    assert!(request.contains(r#""opt_start_seq":1"#), "{request}");
    bench.made_from(1, 3);
    bench.brings_all([5, 6, 7]);
    assert_eq!(bench.came(), whole(3));
}

#[test]
fn after_a_position_a_consumer_begins_at_its_time() {
    let mut bench = asks(Some(6));
    bench.checks(stream(5, 9));
    let time = r#""opt_start_time":"1970-01-01T00:00:00.000000123Z""#;
    let request = bench.sent();
    assert!(request.contains(time), "{request}");
}

/// What comes again is the message of the position, and one of the same time.
#[test]
fn what_was_read_before_the_position_does_not_come_again() {
    for brought in [&[6, 7][..], &[5, 6, 7]] {
        let mut bench = reads(Some(6), stream(4, 9), brought.len() as u64);
        bench.brings_all(brought.iter().copied());
        assert_eq!(bench.came(), whole(1), "{brought:?}");
    }
}

#[test]
fn a_stream_without_messages_of_the_name_has_none() {
    let mut bench = reads(Some(6), stream(5, 9), 0);
    assert_eq!(bench.came(), whole(0));
}

#[test]
fn an_empty_message_is_one_of_all() {
    let mut bench = reads(None, stream(1, 2), 2);
    bench.brings(1, 0);
    bench.brings(2, 1);
    assert_eq!(bench.came(), whole(2));
}

#[test]
fn an_answer_about_the_stream_that_cannot_be_read_says_so() {
    let mut bench = asks(None);
    bench.answer("{}");
    assert_eq!(bench.came(), lacking(0, RetainedCut::Unreadable));
}

#[test]
fn a_stream_that_is_being_made_is_waited_for() {
    let mut bench = asks(None);
    bench.checks(Stream {
        created: "0001-01-01T00:00:00Z",
        ..stream(1, 0)
    });
    assert!(bench.out.is_empty());
    bench.pause();
    bench.checks(stream(1, 1));
    bench.made_from(1, 1);
    bench.brings_all([1]);
    assert_eq!(bench.came(), whole(1));
}

/// A question for which a client may have messages up to this one.
fn asks_with_progress(reached: u64) -> Bench {
    let mut bench = asks(None);
    bench.retained.progress.read(Some(id(reached)));
    bench.sent();
    bench.retained.send(ReplyNumber(1), &mut bench.out);
    bench
}

/// Lets the pause after an answer that does not count pass.
fn pause(bench: &mut Bench) {
    assert!(bench.out.is_empty());
    bench.now += PAUSE_MAX;
    bench.work();
}

#[test]
fn a_leader_that_lacks_what_clients_may_have_is_asked_again() {
    let mut bench = asks_with_progress(9);
    bench.checks(led_by("n1", 7));
    pause(&mut bench);
    bench.checks(led_by("n1", 9));
    bench.made_from(1, 9);
    bench.brings_all(1..=9);
    // Who leads it now?
    bench.checks(led_by("n1", 9));
    assert_eq!(bench.came(), whole(9));
}

#[test]
fn a_leader_that_stays_behind_ends_the_question() {
    let mut bench = asks_with_progress(9);
    while !bench.has_ended() {
        bench.checks(led_by("n1", 7));
        pause(&mut bench);
    }
    assert_eq!(bench.came(), lacking(0, RetainedCut::Refused));
}

/// The one that was read may have lacked some.
#[test]
fn a_stream_with_another_leader_at_the_end_is_read_on() {
    let mut bench = asks(None);
    bench.checks(led_by("n1", 7));
    bench.made_from(1, 7);
    bench.brings_all(1..=7);
    bench.checks(led_by("n2", 9));
    pause(&mut bench);
    bench.checks(led_by("n2", 9));
    let request = String::from_utf8_lossy(&bench.out);
    assert!(request.contains(r#""opt_start_seq":7"#), "{request}");
    bench.made_from(7, 3);
    bench.brings_all(7..=9);
    bench.checks(led_by("n2", 9));
    assert_eq!(bench.came(), whole(9));
}

/// Between 5 and 9 are numbers of other names, or were messages of this one.
#[test]
fn messages_that_were_removed_before_they_were_read_are_a_hole() {
    for (first, came) in [
        // What was read was removed.
        (6, whole(4)),
        (9, lacking(4, RetainedCut::Window)),
        (8, lacking(4, RetainedCut::Window)),
    ] {
        let mut bench = reads(None, stream(1, 20), 4);
        bench.sent();
        bench.brings_all([4, 5, 9, 10]);
        bench.checks(stream(first, 30));
        assert_eq!(bench.came(), came, "{first}");
    }
}

#[test]
fn messages_that_were_removed_before_the_first_one_are_a_hole() {
    let mut bench = reads(Some(6), stream(8, 20), 1);
    bench.sent();
    bench.brings_all([8]);
    bench.checks(stream(8, 20));
    assert_eq!(bench.came(), lacking(1, RetainedCut::Window));
    let mut bench = reads(Some(6), stream(7, 20), 1);
    bench.brings_all([7]);
    assert_eq!(bench.came(), whole(1));
}

/// As many of the name are left as before, or two were removed. The first message of the stream, of another name, stays.
#[test]
fn messages_that_were_removed_from_within_are_missed() {
    for (left, came) in [(3, whole(3)), (1, lacking(1, RetainedCut::Window))] {
        let SecondPage {
            mut bench,
            page_end,
        } = second_page();
        bench.checks(with_holes(90_000, 70_000));
        // The last one that was read comes again.
        bench.made_from(1, left + 1);
        bench.sent();
        bench.brings_all((0..=left).map(|one| page_end + 2 * one));
        bench.checks(with_holes(90_000, 70_000));
        assert_eq!(bench.came(), came, "{left}");
    }
}

/// The last one that was read may still be there, or not.
#[test]
fn all_messages_of_the_name_that_were_removed_are_missed() {
    for left in [0, 1] {
        let SecondPage {
            mut bench,
            page_end,
        } = second_page();
        bench.checks(with_holes(90_000, 70_000));
        bench.made_from(1, left);
        bench.brings_all([page_end].into_iter().take(left as usize));
        assert_eq!(bench.came(), lacking(0, RetainedCut::Window), "{left}");
    }
}

/// The server counts a message with the subject `a.>` for the consumer of `a.*`, and does not deliver it. Another consumer
/// tells whether a message was only late.
#[test]
fn a_message_that_waits_for_a_consumer_and_never_comes_is_missed() {
    for (waiting, last, came) in [(1, 3, lacking(2, RetainedCut::Window)), (2, 4, whole(3))] {
        let mut bench = reads(None, stream(1, 4), 3);
        bench.brings_all([1, 3]);
        for _ in 1..=2 {
            bench.now += PULL_TIMEOUT;
            bench.says(408, "");
        }
        bench.pause();
        bench.checks(stream(1, 4));
        bench.made_from(3, waiting);
        bench.brings_all(3..=last);
        if waiting > 1 {
            // It may have been stored meanwhile.
            bench.checks(stream(1, 4));
        }
        assert_eq!(bench.came(), came, "{waiting}");
    }
}

#[test]
fn a_message_that_came_and_went_between_two_consumers_may_have_had_the_name() {
    for (missing, came) in [(5, whole(3)), (90_005, lacking(3, RetainedCut::Window))] {
        let SecondPage {
            mut bench,
            page_end,
        } = second_page();
        let state = with_holes(90_010, 90_009);
        bench.checks(state);
        bench.checks(Stream {
            missing: Some(&[missing]),
            ..state
        });
        bench.made_from(1, 4);
        bench.sent();
        bench.brings_all((0..=3).map(|one| page_end + 2 * one));
        bench.checks(state);
        assert_eq!(bench.came(), came, "{missing}");
    }
}

#[test]
fn messages_that_were_removed_behind_a_position_are_missed() {
    for (missing, came) in [
        ([3, 7], whole(0)),
        ([3, 12], lacking(0, RetainedCut::Window)),
    ] {
        let mut bench = asks(Some(10));
        bench.checks(with_holes(20, 18));
        bench.checks(Stream {
            missing: Some(&missing),
            ..with_holes(20, 18)
        });
        bench.made_from(1, 0);
        assert_eq!(bench.came(), came, "{missing:?}");
    }
}

#[test]
fn of_more_missing_numbers_than_are_listed_some_count_as_behind_the_position() {
    let mut bench = asks(Some(10));
    bench.checks(with_holes(9_000, 18));
    bench.made_from(1, 0);
    assert_eq!(bench.came(), lacking(0, RetainedCut::Window));
}

#[test]
fn a_page_of_all_leaves_its_consumer_and_says_what_may_be_missing() {
    let mut bench = reads(None, stream(1, 90_000), 9_000);
    let page_end = bench.brings_a_page();
    assert_eq!(page_end, 2 * PAGE_VALUES);
    assert_eq!(bench.retained.paused(), 0);
    assert!(String::from_utf8_lossy(&bench.out).contains("CONSUMER.DELETE.S.c"));
    bench.checks(stream(page_end / 2, 90_000));
    assert_eq!(bench.retained.paused(), 1);
    assert_eq!(bench.came_page().cut, Some(RetainedCut::Window));
}

/// By the number: the clock may have gone back before it.
#[test]
fn the_next_page_begins_at_the_number_of_the_last_message() {
    let SecondPage {
        mut bench,
        page_end,
    } = second_page();
    bench.checks(stream(1, 90_000));
    let number = format!(r#""opt_start_seq":{page_end}"#);
    assert!(bench.sent().contains(&number));
}

#[test]
fn what_came_since_the_last_check_comes_once_more_after_the_connection() {
    let SecondPage {
        mut bench,
        page_end,
    } = second_page();
    bench.checks(stream(1, 90_000));
    bench.made_from(1, 9_000);
    bench.brings_all([page_end, page_end + 2]);
    bench.retained.close(&mut bench.out);
    let came = bench.came();
    let Last::Page { cursor, .. } = came.last else {
        panic!("{came:?}");
    };
    assert_eq!(cursor.after, Some(id(page_end)));
}

#[test]
fn a_stream_that_ends_before_the_position_is_another_one() {
    let mut bench = asks(Some(10));
    bench.checks(stream(1, 9));
    assert_eq!(bench.came(), lacking(0, RetainedCut::Epoch));
}

/// The number of the position is that of another message; or that one has another name, but newer messages have lower
/// numbers.
#[test]
fn a_position_in_another_epoch_of_the_stream_is_found_out() {
    for (sequence, stored_ns) in [(10, 456), (4, 400)] {
        let mut bench = reads(Some(10), stream(1, 20), 3);
        bench.brings_at(sequence, stored_ns, 1);
        assert_eq!(bench.came(), lacking(0, RetainedCut::Epoch), "{sequence}");
    }
}

#[test]
fn a_stream_that_is_made_anew_between_two_pages_is_found_out() {
    let SecondPage { mut bench, .. } = second_page();
    bench.checks(Stream {
        created: "2026-01-02T00:00:00Z",
        ..stream(1, 90_000)
    });
    assert_eq!(bench.came(), lacking(0, RetainedCut::Epoch));
}

/// A question after a position in a stream in memory that was made at this time.
fn in_memory(created: &str) -> Bench {
    let mut bench = asks(Some(10));
    bench.checks(Stream {
        created,
        is_in_memory: true,
        ..stream(1, 20)
    });
    bench
}

/// nats-server 2.9.10 crashes if a consumer of a stream in memory begins at a time.
#[test]
fn a_stream_in_memory_is_read_by_numbers() {
    let request = in_memory("1970-01-01T00:00:00.000000123Z").sent();
    assert!(request.contains(r#""opt_start_seq":10"#), "{request}");
}

#[test]
fn a_stream_in_memory_that_was_made_after_the_position_is_another_one() {
    let mut bench = in_memory("1970-01-01T00:00:00.000000124Z");
    assert_eq!(bench.came(), lacking(0, RetainedCut::Epoch));
}

/// The numbers 11 to 14 were stored at earlier times than 10.
#[test]
fn a_clock_that_went_back_leaves_out_nothing() {
    let mut bench = asks(Some(10));
    bench.checks(stream(1, 20));
    assert!(String::from_utf8_lossy(&bench.out).contains("opt_start_time"));
    bench.made_from(15, 3);
    assert!(String::from_utf8_lossy(&bench.out).contains(r#""opt_start_seq":10"#));
    bench.made_from(10, 4);
    bench.sent();
    for (number, stored_ns) in [(10, 123), (11, 40), (12, 50), (15, 130)] {
        bench.brings_at(number, stored_ns, 1);
    }
    bench.checks(stream(1, 20));
    assert_eq!(bench.came(), whole(3));
}

#[test]
fn what_is_newer_by_its_number_and_older_by_its_time_comes() {
    let mut bench = asks(Some(10));
    bench.checks(stream(1, 12));
    bench.made_from(13, 0);
    bench.made_from(10, 3);
    for (number, stored_ns) in [(10, 123), (11, 40), (12, 50)] {
        bench.brings_at(number, stored_ns, 1);
    }
    assert_eq!(bench.came(), whole(2));
}

/// A stream that takes these subjects.
const fn taking<'a>(subjects: &'a [&'a str], last: u64) -> Stream<'a> {
    Stream {
        subjects,
        ..stream(1, last)
    }
}

/// It may still have messages of the others, which no consumer for a subject of the stream brings.
#[test]
fn a_name_of_which_the_stream_takes_only_a_part_is_read_with_the_whole_stream() {
    for (name, subjects, filter) in [
        ("a.*", &["a.b"][..], None),
        ("a.*", &["a.b", "c"], None),
        (">", &["a.>"], None),
        ("a.*", &["a.>"], Some("a.*")),
        ("a.b", &["*.b", "c"], Some("a.b")),
    ] {
        let mut bench = asks_of(name, None);
        bench.checks(taking(subjects, 9));
        let request = bench.sent();
        let filter = filter.map(|filter| format!(r#""filter_subject":"{filter}""#));
        match filter {
            Some(filter) => assert!(request.contains(&filter), "{request}"),
            None => assert!(!request.contains("filter_subject"), "{request}"),
        }
    }
}

/// What it still has of the name cannot be asked for.
#[test]
fn a_name_that_the_stream_does_not_take_any_more_says_so() {
    let mut bench = asks(None);
    bench.checks(taking(&["c"], 9));
    assert_eq!(bench.came(), lacking(0, RetainedCut::Off));
    let SecondPage { mut bench, .. } = second_page();
    bench.checks(taking(&["c"], 90_000));
    assert_eq!(bench.came(), lacking(0, RetainedCut::Off));
}

/// Its consumer has brought all.
#[test]
fn a_name_that_the_stream_gives_up_at_the_end_of_the_reading_is_whole() {
    for leader in [None, Some("n1")] {
        let led = |subjects| Stream {
            leader,
            ..taking(subjects, 9)
        };
        let mut bench = reads(None, led(&["a.>"]), 2);
        bench.brings_all([7, 9]);
        bench.checks(led(&["c"]));
        assert_eq!(bench.came(), whole(2), "{leader:?}");
    }
}

const MADE: &str = "2026-01-01T00:00:00Z";
const MADE_ANEW: &str = "2026-01-02T00:00:00Z";

/// A question that was asked while the source of the kept feed read a stream that was made at this time.
fn asks_beside_source(after: Option<u64>, made: &str) -> Bench {
    let mut bench = Bench::idle();
    bench.source_reads(made);
    bench.ask(Question {
        wants: Wants::All,
        after: Arc::new(PageCursor::after(after.map(id))),
        ..question(1, "a.b")
    });
    bench
}

impl Bench {
    fn source_reads(&self, made: &str) {
        let made_ns = unix_ns(made).expect("a time");
        // Later than any question.
        let now = self.now + Duration::from_secs(1_000);
        self.retained.progress.made(made_ns, now);
    }
}

/// The loop would take its messages for those of the first stream, and get them as live ones once more.
#[test]
fn a_stream_that_is_made_anew_is_read_by_another_question_once_the_source_has_noticed() {
    let anew = Stream {
        created: MADE_ANEW,
        ..stream(1, 5)
    };
    for (after, looks) in [(None, 2), (Some(3), 1), (None, 0)] {
        let mut bench = asks_beside_source(after, MADE);
        for _ in 0..looks {
            bench.checks(anew);
            pause(&mut bench);
        }
        bench.source_reads(MADE_ANEW);
        bench.checks(anew);
        let last = Last::Page {
            cursor: PageCursor::after(after.map(id)),
            is_open: false,
        };
        assert_eq!(bench.came(), Came { values: 0, last });
    }
    let mut bench = asks_beside_source(None, MADE_ANEW);
    bench.checks(anew);
    bench.made_from(1, 1);
    bench.brings_all([5]);
    assert_eq!(bench.came(), whole(1));
}

/// It cannot be told what the loop has of it.
#[test]
fn a_source_that_does_not_notice_a_new_stream_ends_the_question() {
    let mut bench = asks_beside_source(None, MADE_ANEW);
    while !bench.has_ended() {
        bench.checks(stream(1, 5));
        pause(&mut bench);
    }
    assert_eq!(bench.came(), lacking(0, RetainedCut::Refused));
}
