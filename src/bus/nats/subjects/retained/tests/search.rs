//! Which streams are asked.

use super::super::reading::{QuestionReading, STREAMS_MAX};
use super::super::streams::parts_taken_by_streams;
use super::super::*;
use super::bench::*;
use crate::requests::Wants;

const STREAMS: &str = r#"{"total":3,"streams":[
    {"config":{"name":"A","subjects":["a.*","x.>","q"]}},
    {"config":{"name":"M"}},
    {"config":{"name":"B","subjects":["a.b.>"]}}]}"#;

#[test]
fn each_stream_is_asked_for_its_part() {
    for (pattern, want) in [
        ("a.>", &["A a.*", "B a.b.>"][..]),
        ("*.*.c", &["A x.*.c", "B a.b.c"]),
        (">", &["A a.*", "A x.>", "A q", "B a.b.>"]),
        ("b.*", &[]),
    ] {
        let parts = parts_taken_by_streams(pattern, json(STREAMS)).parts;
        let parts = parts.iter();
        let parts: Vec<_> = parts
            .map(|part| format!("{} {}", part.stream, part.filter))
            .collect();
        assert_eq!(parts, want);
    }
    let found = parts_taken_by_streams("a.>", json("{}"));
    assert!(found.parts.is_empty());
}

/// A question for `a.*` after this answer about its streams.
fn reading(streams: &str) -> QuestionReading {
    let mut reading = QuestionReading::of(&question(1, "a.*"));
    reading.take_streams("a.*", json(streams));
    reading
}

#[test]
fn so_many_streams_are_asked_and_no_more() {
    for (count, has_more_streams) in [(STREAMS_MAX, false), (STREAMS_MAX + 1, true)] {
        let stream = |n| format!(r#"{{"config":{{"name":"S{n}","subjects":["a.{n}"]}}}}"#);
        let streams: Vec<String> = (0..count).map(stream).collect();
        let reading = reading(&format!(r#"{{"streams":[{}]}}"#, streams.join(",")));
        assert_eq!(!reading.left_out.is_empty(), has_more_streams);
        assert_eq!(reading.parts_left.len(), STREAMS_MAX);
    }
}

#[test]
fn streams_of_other_pages_are_not_asked() {
    for (total, has_more_streams) in [(1, false), (2, true)] {
        let stream = r#"{"config":{"name":"S","subjects":["a.1"]}}"#;
        let reading = reading(&format!(r#"{{"total":{total},"streams":[{stream}]}}"#));
        assert_eq!(!reading.left_out.is_empty(), has_more_streams);
        assert_eq!(reading.parts_left.len(), 1);
    }
}

/// What is no list: empty, without streams, cut off, and too long.
fn unreadable_lists() -> [String; 4] {
    let begins = r#"{"total":1,"streams":["#;
    [
        String::new(),
        "{}".to_owned(),
        format!(r#"{begins}{{"config"#),
        format!(r#"{begins}"{}"#, "x".repeat(4 * BYTES_MAX)),
    ]
}

/// The answer over the wire ends the question, because it cannot be read.
fn assert_is_unreadable(bench: &mut Bench, text: &str) {
    let answer = bench.over_the_wire(text);
    assert_eq!(answer.is_cut(), text.len() > BYTES_MAX);
    bench.take(answer);
    let events = bench.events();
    let [
        RetainedEvent::End {
            cut: Some(NatsCut::Unreadable(_)),
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
}

#[test]
fn a_list_that_cannot_be_read_is_not_an_empty_one() {
    for name in ["a.b", "a.*"] {
        for text in unreadable_lists() {
            assert_is_unreadable(&mut Bench::asks(name), &text);
        }
    }
}

#[test]
fn nor_is_a_list_of_all_streams_that_cannot_be_read() {
    for name in ["a.b", "a.*"] {
        for text in unreadable_lists() {
            let mut bench = Bench::asks(name);
            bench.retained.all_streams = AllStreams::default();
            bench.answer(NO_STREAMS);
            assert_is_unreadable(&mut bench, &text);
            assert!(!bench.retained.all_streams.is_known(bench.now));
        }
    }
}

#[test]
fn a_deep_answer_ends_its_question_and_is_named() {
    let deep = format!(r#"{{"name":"c","a":{}"#, "[".repeat(100_000));
    for name in ["a.b", "a.*"] {
        for answers in [&[deep.as_str()][..], &[LIST, deep.as_str()]] {
            let mut bench = Bench::asks(name);
            answers.iter().for_each(|answer| bench.answer(answer));
            let [end] = &bench.texts()[..] else {
                panic!("{name}");
            };
            assert!(
                end.starts_with("end") && end.contains("deeper than 512"),
                "{end}"
            );
        }
    }
}

/// A question about the stream that is the kept feed goes to this stream alone, and its values have ids.
#[test]
fn the_kept_stream_is_asked_without_a_search() {
    let info =
        r#"{"config":{"name":"S","subjects":["a.>"]},"created":"then","state":{"last_seq":9}}"#;
    for (name, asks) in [
        ("a.b", "$JS.API.STREAM.MSG.GET.S "),
        ("a.*", "$JS.API.CONSUMER.CREATE.S "),
        ("b.*", ""),
    ] {
        let mut bench = Bench::idle();
        bench.ask(Question {
            wants: Wants::Newest,
            ..question(1, name)
        });
        assert!(bench.sent().contains("$JS.API.STREAM.INFO.S "));
        bench.answer(info);
        let text = bench.sent();
        assert!(text.contains(asks), "{name}: {text}");
        assert_eq!(
            (text.is_empty(), bench.has_ended()),
            (asks.is_empty(), asks.is_empty())
        );
    }
}

/// The server gives no time while it makes a stream, and what was read of a stream counts for the time at which it was made.
const UNFINISHED: &str = "0001-01-01T00:00:00Z";
const FINISHED: &str = "2026-01-01T00:00:00Z";

/// The list of a stream of publishers that was made at this time.
fn taken(created: &str) -> String {
    format!(
        r#"{{"streams":[{{"created":"{created}","config":{{"name":"S","subjects":["a.>"]}}}}]}}"#
    )
}

/// The list of a copy that was made at this time.
fn copy(created: &str) -> String {
    format!(
        r#"{{"streams":[{{"created":"{created}","config":{{"name":"S","mirror":{{"name":"FAR"}}}}}}]}}"#
    )
}

#[test]
fn a_pattern_waits_for_a_stream_that_is_being_made() {
    let mut bench = Bench::asks("a.*");
    for _ in 0..3 {
        bench.answer(&taken(UNFINISHED));
        assert!(bench.out.is_empty(), "no consumer");
        assert!(bench.pause().contains("STREAM.LIST"));
    }
    bench.answer(&taken(FINISHED));
    bench.made_on("");
    bench.brings_value("a.b", "1");
    assert_eq!(bench.texts(), ["1", "end"]);
}

#[test]
fn a_subject_waits_for_a_stream_that_is_being_made() {
    let mut bench = Bench::asks("a.b");
    bench.answer(&taken(UNFINISHED));
    assert!(bench.out.is_empty(), "the server would crash");
    assert!(bench.pause().contains("STREAM.LIST"));
    bench.answer(&taken(FINISHED));
    assert!(bench.sent().contains("STREAM.MSG.GET.S"));
}

/// The stream is known, but its leader did not say anything in time: no other stream is searched for.
#[test]
fn a_subject_waits_for_the_leader_of_its_stream() {
    let mut bench = Bench::asks("a.b");
    bench.answer(r#"{"total":1,"streams":[],"missing":["S"]}"#);
    assert!(bench.out.is_empty());
    assert!(bench.pause().contains("STREAM.LIST"));
}

/// The list of all streams is asked for again, however young it is.
#[test]
fn a_pattern_waits_for_a_copy_that_is_being_made() {
    let mut bench = Bench::asks("a.*");
    bench.retained.all_streams = AllStreams::default();
    for created in [UNFINISHED, UNFINISHED, FINISHED] {
        bench.answer(NO_STREAMS);
        assert!(bench.sent().contains("STREAM.LIST"));
        bench.answer(&copy(created));
        let creates = bench.sent().contains("CONSUMER.CREATE.S");
        assert_eq!(creates, created == FINISHED);
        if !creates {
            assert!(bench.pause().contains("STREAM.LIST"));
        }
    }
    bench.made_on("");
    bench.brings_value("a.b", "1");
    assert_eq!(bench.texts(), ["1", "end"]);
}

#[test]
fn a_stream_that_is_never_made_ends_its_question_in_time() {
    let mut bench = Bench::asks("a.*");
    while !bench.has_ended() {
        bench.answer(&taken(UNFINISHED));
        bench.pause();
    }
    let later = "later: JetStream gives no last values: no answer";
    assert_eq!(bench.texts(), [later]);
}
