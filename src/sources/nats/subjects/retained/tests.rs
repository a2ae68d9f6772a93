//! Questions for last values, and the answers of a server.

use super::*;
use crate::feeds::Subscription;

fn question(number: u64, name: &str) -> Question {
    let subscription = match name.contains(['*', '>']) {
        true => Subscription::pattern(name),
        false => Subscription::channel(name),
    };
    Question {
        subscription,
        number,
    }
}

fn answer(retained: &Retained, number: u64, payload: &str) -> Delivery {
    Delivery {
        subject: retained.reply(number).into(),
        sid: FIRST_SID,
        payload: payload.as_bytes().to_vec(),
        ..Delivery::default()
    }
}

fn ended(number: u64, name: &str, lack: Option<Lack>) -> Told {
    let question = question(number, name);
    Told::End { question, lack }
}

fn end(number: u64, name: &str) -> Told {
    ended(number, name, None)
}

fn refused(number: u64, name: &str, words: &str) -> Told {
    ended(number, name, Some(Lack::Refused(words.to_owned())))
}

#[test]
fn a_refusal_is_told_with_its_words() {
    let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]}}]}"#;
    let used_up = r#"{"error":{"err_code":10026,"description":"maximum consumers"}}"#;
    let none = r#"{"error":{"err_code":10037,"description":"no message found"}}"#;
    let words = "error 10026: maximum consumers";
    for (name, answers, want) in [
        ("a.*", [list, used_up], refused(1, "a.*", words)),
        ("a.b", [used_up, ""], refused(1, "a.b", words)),
        ("a.b", [r#"{"streams":["S"]}"#, none], end(1, "a.b")),
    ] {
        let (mut retained, mut out) = (Retained::new(10), Vec::new());
        retained.ask(question(1, name), Instant::now(), &mut out);
        for text in answers {
            retained.take(answer(&retained, 1, text), &mut out);
        }
        assert_eq!(std::mem::take(&mut retained.told), [want]);
    }
}

#[test]
fn a_value_takes_two_requests_and_a_time() {
    let (mut retained, mut out, now) = (Retained::new(10), Vec::new(), Instant::now());
    for number in 1..4 {
        retained.ask(question(number, "a.b"), now, &mut out);
    }
    let text = String::from_utf8_lossy(&out);
    assert_eq!(text.matches("SUB ").count(), 1);
    assert_eq!(text.matches("$JS.API.STREAM.NAMES").count(), 3);
    out.clear();
    let names = answer(&retained, 1, r#"{"type":"x","streams":["S"]}"#);
    retained.take(names, &mut out);
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("$JS.API.STREAM.MSG.GET.S _INBOX."), "{text}");
    assert!(text.contains(r#"{"last_by_subj":"a.b"}"#), "{text}");
    let message = answer(&retained, 1, r#"{"message":{"seq":3,"data":"aGk="}}"#);
    retained.take(message.clone(), &mut out);
    let value = Told::Value {
        of: question(1, "a.b"),
        subject: "a.b".into(),
        payload: b"hi".to_vec(),
    };
    assert_eq!(std::mem::take(&mut retained.told), [value, end(1, "a.b")]);
    retained.take(message, &mut out);
    assert_eq!(std::mem::take(&mut retained.told), [], "late");
    let none = answer(&retained, 2, r#"{"streams":null}"#);
    retained.take(none, &mut out);
    assert_eq!(std::mem::take(&mut retained.told), [end(2, "a.b")]);
    retained.end_late(now, &mut out);
    assert_eq!(std::mem::take(&mut retained.told), []);
    retained.end_late(now + ANSWER_TIMEOUT, &mut out);
    assert_eq!(
        std::mem::take(&mut retained.told),
        [refused(3, "a.b", "no answer")]
    );
    assert!(retained.due().is_none() && retained.asked() == 0);
}

#[test]
fn the_consumer_of_a_pattern_is_left_whatever_ends_it() {
    for is_late in [false, true] {
        let (mut retained, mut out, now) = (Retained::new(10), Vec::new(), Instant::now());
        retained.ask(question(1, "a.*"), now, &mut out);
        let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]}}]}"#;
        let list = answer(&retained, 1, list);
        retained.take(list, &mut out);
        let created = answer(&retained, 1, r#"{"name":"c","num_pending":1}"#);
        retained.take(created, &mut out);
        out.clear();
        if is_late {
            retained.end_late(now + ANSWER_TIMEOUT, &mut out);
        } else {
            let value = Delivery {
                subject: "a.x".into(),
                sid: FIRST_SID + 1,
                reply: Some("$JS.ACK.S.c.1.9.1.123.0".to_owned()),
                payload: b"1".to_vec(),
                ..Delivery::default()
            };
            retained.take(value, &mut out);
        }
        let told = std::mem::take(&mut retained.told);
        assert_eq!(told.len(), if is_late { 1 } else { 2 });
        let want = match is_late {
            true => refused(1, "a.*", "no answer"),
            false => end(1, "a.*"),
        };
        assert_eq!(told.last(), Some(&want));
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("$JS.API.CONSUMER.DELETE.S.c"), "{text}");
        assert!(text.contains(&format!("UNSUB {}", FIRST_SID + 1)), "{text}");
    }
}

#[test]
fn questions_beyond_the_limit_wait() {
    let (mut retained, mut out, now) = (Retained::new(10), Vec::new(), Instant::now());
    for number in 0..ASKED_MAX as u64 {
        assert!(retained.has_room());
        retained.ask(question(number, "a"), now, &mut out);
    }
    assert!(!retained.has_room());
    let none = answer(&retained, 7, "{}");
    retained.take(none, &mut out);
    assert!(retained.has_room());
    assert_eq!(retained.asked(), ASKED_MAX - 1);
}

#[test]
fn errors_are_no_value() {
    for text in [
        "",
        "{}",
        r#"{"error":{"code":404,"err_code":10037}}"#,
        r#"{"message":{"seq":1}}"#,
        r#"{"message":{"seq":1,"data":"?"}}"#,
    ] {
        let text = json::read(text.as_bytes()).expect("no deep JSON");
        assert_eq!(last_message(text), None, "{text:?}");
        assert_eq!(first_stream(text).ok().flatten(), None, "{text:?}");
    }
}

#[test]
fn a_deep_answer_ends_its_question_and_is_named() {
    let names = r#"{"streams":["S"]}"#;
    let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]}}]}"#;
    let deep = format!(r#"{{"name":"c","a":{}"#, "[".repeat(100_000));
    for (name, answers) in [
        ("a.b", vec![]),
        ("a.b", vec![names]),
        ("a.*", vec![]),
        ("a.*", vec![list]),
    ] {
        let (mut retained, mut out) = (Retained::new(10), Vec::new());
        retained.ask(question(1, name), Instant::now(), &mut out);
        for text in answers.into_iter().chain([deep.as_str()]) {
            let answer = answer(&retained, 1, text);
            retained.take(answer, &mut out);
        }
        let told = std::mem::take(&mut retained.told);
        let [
            Told::End {
                lack: Some(lack), ..
            },
        ] = told.as_slice()
        else {
            panic!("{told:?}");
        };
        assert!(lack.to_string().contains("deeper than 512"), "{lack}");
    }
}

fn json(text: &str) -> Json<'_> {
    json::read(text.as_bytes()).expect("JSON")
}

const STREAMS: &str = r#"{"total":3,"streams":[
    {"config":{"name":"A","subjects":["a.*","x.>","q"]}},
    {"config":{"name":"M"}},
    {"config":{"name":"B","subjects":["a.b.>"]}}]}"#;

fn value(payload: usize, pending: u64) -> Delivery {
    Delivery {
        reply: Some(format!("$JS.ACK.A.c.1.9.1.123.{pending}")),
        payload: vec![b'x'; payload],
        ..Delivery::default()
    }
}

#[test]
fn each_stream_is_asked_for_its_part() {
    let of = |pattern| Vec::from(targets(pattern, json(STREAMS)).0);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(of("a.>"), [pair("A", "a.*"), pair("B", "a.b.>")]);
    assert_eq!(of("*.*.c"), [pair("A", "x.*.c"), pair("B", "a.b.c")]);
    assert_eq!(of(">").len(), 4);
    assert_eq!(of("b.*"), []);
    assert_eq!(Vec::from(targets("a.>", json("{}")).0), []);
}

#[test]
fn as_many_values_as_there_may_be_are_all() {
    let mut values = LastValues::new("a.*", json(STREAMS), 2);
    assert!(values.next_consumer("in").is_some());
    let created = values.created(json(r#"{"name":"c","num_pending":2}"#));
    assert_eq!(created, Next::Wait);
    assert_eq!(values.delivered(&value(1, 1)), (true, Next::Wait));
    assert_eq!(values.delivered(&value(1, 0)), (true, Next::Stream));
    assert!(values.next_consumer("in").is_none());
    assert!(!values.is_cut);
}

#[test]
fn so_many_streams_are_asked_and_no_more() {
    for (count, is_cut) in [(STREAMS_MAX, false), (STREAMS_MAX + 1, true)] {
        let stream = |n| format!(r#"{{"config":{{"name":"S{n}","subjects":["a.{n}"]}}}}"#);
        let streams: Vec<String> = (0..count).map(stream).collect();
        let answer = format!(r#"{{"streams":[{}]}}"#, streams.join(","));
        let mut values = LastValues::new("a.*", json(&answer), 100);
        assert_eq!(values.is_cut, is_cut);
        let asked = std::iter::from_fn(|| values.next_consumer("in")).count();
        assert_eq!(asked, STREAMS_MAX);
    }
}

#[test]
fn streams_of_other_pages_count_as_cut() {
    for (total, is_cut) in [(1, false), (2, true)] {
        let stream = r#"{"config":{"name":"S","subjects":["a.1"]}}"#;
        let answer = format!(r#"{{"total":{total},"streams":[{stream}]}}"#);
        let mut values = LastValues::new("a.*", json(&answer), 100);
        assert_eq!(values.is_cut, is_cut);
        assert!(values.next_consumer("in").is_some());
    }
}

#[test]
fn values_are_bounded_in_number_and_bytes() {
    let mut values = LastValues::new("a.>", json(STREAMS), 3);
    let (subject, body) = values.next_consumer("in").expect("a stream");
    assert_eq!(subject, "$JS.API.CONSUMER.CREATE.A");
    assert!(body.contains(r#""filter_subject":"a.*""#) && body.contains(r#""max_ack_pending":3"#));
    assert_eq!(
        values.created(json(r#"{"name":"c","num_pending":2}"#)),
        Next::Wait
    );
    assert_eq!(values.delivered(&value(1, 1)), (true, Next::Wait));
    assert_eq!(values.delivered(&value(1, 0)), (true, Next::Stream));
    assert_eq!(
        values.delete().as_deref(),
        Some("$JS.API.CONSUMER.DELETE.A.c")
    );
    assert!(!values.is_cut);
    assert!(values.next_consumer("in").is_some());
    assert_eq!(
        values.created(json(r#"{"name":"d","num_pending":5}"#)),
        Next::Wait
    );
    assert!(values.is_cut);
    assert_eq!(values.delivered(&value(1, 4)), (true, Next::Stream));
    assert!(values.next_consumer("in").is_none());
    let mut large = LastValues::new("a.*", json(STREAMS), 100);
    assert!(large.next_consumer("in").is_some());
    assert_eq!(
        large.delivered(&value(BYTES_MAX - 1, 5)),
        (true, Next::Wait)
    );
    assert_eq!(large.delivered(&value(2, 4)), (false, Next::Stream));
    assert!(large.is_cut && large.next_consumer("in").is_none());
    let mut none = LastValues::new("a.*", json(STREAMS), 100);
    assert!(none.next_consumer("in").is_some());
    assert_eq!(
        none.created(json(r#"{"name":"c","num_pending":0}"#)),
        Next::Stream
    );
    assert_eq!(
        none.created(json(r#"{"error":{"code":400}}"#)),
        Next::Stream
    );
}
