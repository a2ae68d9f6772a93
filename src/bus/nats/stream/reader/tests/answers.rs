//! The answers of JetStream: how they are read, and how the reader goes on after refusals, silence and losses. At the
//! end are flow control, and the consumers that are deleted.

use super::super::limits::ReaderLimits;
use super::super::*;
use super::model::{Event, NOW_NS, over_the_wire};
use super::*;
use crate::nats::consumer::Made;
use crate::nats::stream_info::rfc_3339;

#[test]
fn times_keep_their_nanoseconds() {
    let created_ns = |text: &str| {
        let answer = format!(r#"{{"created":"{text}","state":{{"last_seq":0}}}}"#);
        StreamInfo::read(answer.as_bytes())
            .expect("good")
            .created_ns
    };
    for (text, ns) in [
        ("2026-01-09T10:30:00.000000007Z", 1_767_954_600_000_000_007),
        ("1970-01-01T00:00:00.000000000Z", 0),
    ] {
        assert_eq!(created_ns(text), ns);
        assert_eq!(rfc_3339(ns), text);
    }
    let with_offset = created_ns("2026-01-09T11:30:00.5+01:00");
    assert_eq!(with_offset, 1_767_954_600_500_000_000);
    let unfinished = br#"{"created":"0001-01-01T00:00:00Z","state":{"last_seq":0}}"#;
    let read = StreamInfo::read(unfinished);
    assert!(matches!(read, Err(ApiError::Unfinished)), "{read:?}");
}

/// The answer is a third longer than the message, and the time is at its end. Of an answer far over the limit the middle
/// is thrown away.
#[test]
fn a_message_of_any_size_is_found() {
    for bytes in [1, 1_000_000, 4_000_000] {
        let data = "eHh4".repeat(bytes / 3);
        let answer = format!(
            r#"{{"message":{{"subject":"a","seq":7,"data":"{data}","time":"1970-01-01T00:00:00.000000009Z"}}}}"#
        );
        let delivery = over_the_wire("_INBOX.x", &answer, 1_000_000);
        assert_eq!(delivery.is_cut(), bytes == 4_000_000);
        let found = stored_message(&answer_with_message(&delivery)).expect("an answer");
        assert_eq!(found, Some(StoredId { major: 7, minor: 9 }));
    }
}

/// The leader is asked for a message that was handed over, and for one that no consumer brings.
#[test]
fn a_message_over_the_limit_that_a_consumer_does_not_bring_is_no_loss() {
    for (again, stored) in [(false, 1), (true, 1), (true, 0)] {
        let mut bench = ReaderRig::new(1);
        bench.server.message_bytes = 4_000_000;
        bench.read(100);
        bench.event(&Event::Hold(true));
        bench.event(&Event::Add(stored));
        if again {
            bench.connect();
        }
        for _ in 0..16 {
            bench.now += Duration::from_millis(500);
            bench.last_received.any_at = bench.now;
            bench.server.beat();
            if bench.reader.ask_if_due(bench.now, &mut bench.out) {
                bench.reader.ponged();
            }
            bench.read(100);
            bench.tick().expect("no fault");
        }
        assert_eq!(bench.server.messages_asked > 0, stored > 0);
        bench.settle();
        let mut want = vec!["old", "caught up"];
        want.extend(again.then_some("caught up"));
        want.extend((stored == 1).then_some("message"));
        assert_eq!(names(&bench.events), want, "{again} {stored}");
    }
}

#[test]
fn the_newest_message_of_a_stream() {
    for (state, head) in [
        (
            r#"{"messages":2,"last_seq":7,"last_ts":"1970-01-01T00:00:00.000000009Z"}"#,
            Some(StoredId { major: 7, minor: 9 }),
        ),
        (
            r#"{"messages":0,"last_seq":0,"last_ts":"0001-01-01T00:00:00Z"}"#,
            None,
        ),
    ] {
        let created = "1970-01-01T00:00:00.000000005Z";
        let answer = format!(r#"{{"created":"{created}","state":{state}}}"#);
        let info = StreamInfo::read(answer.as_bytes()).expect("good");
        assert_eq!((info.head, info.created_ns), (head, 5));
        assert_eq!(info.retention, Retention::Limits);
    }
    let missing = br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
    let refused = StreamInfo::read(missing).expect_err("no stream");
    assert_eq!(refused.to_string(), "error 10059: stream not found");
    assert!(StreamInfo::read(b"{}").is_err());
    for (cluster, leads) in [
        (
            r#"{"name":"c","leader":"n1","replicas":[{"name":"n0"}]}"#,
            true,
        ),
        (
            r#"{"name":"c","replicas":[{"name":"n0","current":false}]}"#,
            false,
        ),
        (r#"{"leader":"n1"}"#, true),
        ("null", true),
        (
            r#"{"name":"c","leader":"n1","replicas":[{"active":3999999999},{"active":60000000000}]}"#,
            true,
        ),
        (
            r#"{"name":"c","leader":"n1","replicas":[{"active":4000000000},{"active":60000000000}]}"#,
            false,
        ),
        (r#"{"name":"c","leader":"n1","replicas":null}"#, true),
    ] {
        let answer = format!(r#"{{"state":{{"last_seq":0}},"cluster":{cluster}}}"#);
        let read = StreamInfo::read(answer.as_bytes());
        assert_eq!(
            !matches!(read, Err(ApiError::NoLeader(_))),
            leads,
            "{cluster}"
        );
    }
    let deep = format!(r#"{{"state":{}"#, "[".repeat(100_000));
    for error in [
        StreamInfo::read(deep.as_bytes()).expect_err("too deep"),
        Made::read(deep.as_bytes()).expect_err("too deep"),
    ] {
        assert!(error.to_string().contains("deeper than 512"), "{error}");
    }
}

#[test]
fn delivered_and_waiting_messages_of_a_consumer() {
    let answer = br#"{"num_pending":3,"delivered":{"consumer_seq":2,"stream_seq":9}}"#;
    let made = Made::read(answer).expect("good");
    assert_eq!((made.name, made.waiting, made.begins), (None, 5, 10));
    let made = Made::read(br#"{"name":"c"}"#).expect("good");
    assert_eq!((made.name.as_deref(), made.waiting), (Some("c"), 0));
    assert!(Made::read(br#"{"error":{}}"#).is_err());
}

#[test]
fn a_server_that_lacks_messages_does_not_serve() {
    let replicas = r#"{"name":"n1","current":true,"active":9},{"name":"n2","current":false,"active":9,"lag":55465},
        {"name":"n3","current":false,"active":9,"lag":7},{"name":"n4","current":true,"active":5000000000},
        {"name":"n5","current":false,"active":9},{"name":"n6","current":true,"offline":true,"active":9}"#;
    let answer = format!(
        r#"{{"state":{{"last_seq":0}},"cluster":{{"name":"c","leader":"n0","replicas":[{replicas}]}}}}"#
    );
    let info = StreamInfo::read(answer.as_bytes()).expect("good");
    let serves = |server| info.serves(Some(server));
    let servers = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "other"];
    let want = [true, true, false, true, false, false, false, false];
    assert_eq!(servers.map(serves), want);
    assert!(info.serves(None), "no cluster");
}

#[test]
fn limits_shrink_to_those_of_the_server_as_long_as_something_is_left() {
    let refused = |code| ApiError::Refused {
        code,
        description: String::new(),
    };
    let mut limits = ReaderLimits::default();
    assert!(!limits.shrink(&refused(10_026)) && limits == ReaderLimits::default());
    assert!(limits.shrink(&refused(10_121)));
    assert!(limits.shrink(&refused(10_153)));
    let body = limits.plan(Start::Time(0)).request("S", Some("in")).body;
    assert!(body.contains(r#""max_ack_pending":1024"#), "{body}");
    assert!(
        body.contains(r#""inactive_threshold":2500000000"#),
        "{body}"
    );
    let tries = std::iter::from_fn(|| limits.shrink(&refused(10_121)).then_some(()));
    assert_eq!(tries.count(), 10, "down to one message");
}

#[test]
fn a_consumer_begins_at_a_message_or_a_time() {
    let body = |start| {
        ReaderLimits::default()
            .plan(start)
            .request("S", Some("in"))
            .body
    };
    let at = body(Start::Sequence(7));
    assert!(
        at.contains(r#""opt_start_seq":7"#) && at.contains("by_start_sequence"),
        "{at}"
    );
    let by_time = body(Start::Time(9));
    assert!(
        by_time.contains(r#""opt_start_time":"1970-01-01T00:00:00.000000009Z""#),
        "{by_time}"
    );
    assert!(!by_time.contains("opt_start_seq"));
}

#[test]
fn flow_control_is_answered_and_is_no_idle_time() {
    let mut bench = ReaderRig::new(1);
    // The consumer is made, and its message is not delivered.
    bench.event(&Event::Hold(true));
    bench.read(100);
    let control = |reply: Option<&str>, stalled: Option<&str>| Delivery {
        sid: bench.reader.last_sid,
        status: Some(100),
        reply: reply.map(str::to_owned),
        stalled: stalled.map(str::to_owned),
        ..Delivery::default()
    };
    let controls = [
        control(Some("$JS.FC.1"), None),
        control(None, Some("$JS.FC.1")),
    ];
    for delivery in controls.iter().cycle().take(10) {
        let now = bench.now;
        bench.out.clear();
        let (reader, out, events) = (&mut bench.reader, &mut bench.out, &mut bench.events);
        reader
            .take(delivery.clone(), now, NOW_NS, out, events)
            .expect("good");
        assert_eq!(String::from_utf8_lossy(out), "PUB $JS.FC.1  0\r\n\r\n");
    }
    assert!(matches!(bench.reader.step, ReaderStep::Read { .. }));
}

/// Takes this answer to the newest request.
fn take(bench: &mut ReaderRig, payload: String) -> Result<(), NatsError> {
    let delivery = Delivery {
        subject: format!(".{}", bench.reader.last_request).into(),
        sid: ANSWERS_SID,
        payload: payload.into_bytes(),
        ..Delivery::default()
    };
    let now = bench.now;
    let (reader, out, events) = (&mut bench.reader, &mut bench.out, &mut bench.events);
    reader.take(delivery, now, NOW_NS, out, events)
}

#[test]
fn smaller_limits_and_streams_that_cannot_be_read_keep_the_connection() {
    let refusal = |code: u64| format!(r#"{{"error":{{"err_code":{code},"description":"no"}}}}"#);
    let mut bench = ReaderRig::new(1);
    bench.read(1);
    bench.out.clear();
    take(&mut bench, refusal(10_121)).expect("asked again");
    let text = String::from_utf8_lossy(&bench.out);
    assert!(text.contains(r#""max_ack_pending":1024"#), "{text}");
    for (answer, words) in [
        (
            refusal(10_059),
            "the stream S does not exist; make it: nats stream add S",
        ),
        (
            r#"{"config":{"retention":"workqueue"},"state":{"last_seq":0}}"#.to_owned(),
            "the stream S is a work queue (retention: workqueue)",
        ),
    ] {
        let mut bench = ReaderRig::new(0);
        let error = take(&mut bench, answer).expect_err("it cannot be read");
        assert!(
            error.keeps_connection() && error.to_string().starts_with(words),
            "{error}"
        );
        bench.now += UNUSABLE_PAUSE;
        bench.tick().expect("another look");
        assert!(matches!(bench.reader.step, ReaderStep::Info { .. }));
    }
}

#[test]
fn a_stream_that_is_deleted_while_it_is_read_is_reported() {
    let mut bench = ReaderRig::new(1);
    bench.read(100);
    bench.now += CHECK_INTERVAL;
    bench.server.beat();
    bench.read(100);
    assert!(bench.reader.ask_if_due(bench.now, &mut bench.out));
    let missing = r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
    let error = take(&mut bench, missing.to_owned()).expect_err("it is gone");
    assert!(
        error.keeps_connection() && error.to_string().contains("S does not exist"),
        "{error}"
    );
    assert!(matches!(bench.reader.step, ReaderStep::Pause { .. }));
    // The stream is there again: the bus is no longer away.
    let caught_up = |bench: &ReaderRig| {
        let times = names(&bench.events)
            .into_iter()
            .filter(|name| *name == "caught up");
        times.count()
    };
    assert_eq!(caught_up(&bench), 1);
    bench.now += UNUSABLE_PAUSE;
    bench.settle();
    assert_eq!(caught_up(&bench), 2);
}

#[test]
fn a_consumer_without_heartbeats_is_replaced_though_answers_come() {
    let mut bench = ReaderRig::new(1);
    bench.read(100);
    bench.server.consumers.clear();
    let made = bench.reader.last_sid;
    for _ in 0..5 {
        bench.now += SILENCE_MAX / 3;
        bench.read(100);
        bench.tick().expect("answers come");
        if bench.reader.ask_if_due(bench.now, &mut bench.out) {
            bench.reader.ponged();
        }
    }
    assert_eq!(bench.reader.last_sid, made + 1, "one more consumer");
    bench.event(&Event::Add(1));
    bench.settle();
    assert_eq!(names(&bench.events).last(), Some(&"message"));
}

#[test]
fn a_consumer_that_beats_on_a_server_without_the_stream_is_left() {
    // The server says nothing, or that nobody leads the stream.
    for (is_answered, words) in [(true, None), (false, None), (false, Some("no leader"))] {
        let mut bench = ReaderRig::new(0);
        bench.read(100);
        bench.now += CHECK_INTERVAL;
        bench.last_received.any_at = bench.now;
        assert_eq!(bench.reader.work_due(), Some(bench.now));
        assert!(bench.reader.ask_if_due(bench.now, &mut bench.out));
        assert!(
            !bench.reader.ask_if_due(bench.now, &mut bench.out),
            "one at a time"
        );
        bench.reader.ponged();
        bench.server.take(&mut bench.out);
        if words.is_some() {
            let answer = bench.server.line.front_mut().expect("the answer");
            answer.payload = br#"{"state":{"last_seq":0},"cluster":{"name":"c"}}"#.to_vec();
            bench.read(1);
        } else if !is_answered {
            bench.server.line.clear();
        }
        let mut beat = || {
            bench.server.beat();
            let delivery = bench.server.line.pop_front().expect("a beat");
            let (now, out, events) = (bench.now, &mut bench.out, &mut bench.events);
            bench.reader.take(delivery, now, NOW_NS, out, events)
        };
        let taken: Vec<bool> = (0..11).map(|_| beat().is_ok()).collect();
        assert_eq!(taken.iter().all(|is_ok| *is_ok), is_answered, "{taken:?}");
    }
}

#[test]
fn an_answer_about_the_stream_that_a_slow_line_brings_after_the_next_question_is_due_counts() {
    let mut bench = ReaderRig::new(0);
    bench.read(100);
    bench.now += Duration::from_secs(3);
    assert!(bench.reader.ask_if_due(bench.now, &mut bench.out));
    bench.reader.ponged();
    bench.server.take(&mut bench.out);
    bench.now += Duration::from_secs(4);
    assert!(!bench.reader.ask_if_due(bench.now, &mut bench.out));
    assert!(
        bench.out.is_empty(),
        "a second question would make the first answer void"
    );
    bench.read(1);
    assert!(!matches!(
        &bench.reader.step,
        ReaderStep::Read {
            check: Check::Asked { .. },
            ..
        }
    ));
}

#[test]
fn each_consumer_is_deleted_before_the_next_and_at_a_stop() {
    let mut bench = ReaderRig::new(1);
    let deleted = |out: &[u8]| String::from_utf8_lossy(out).contains("$JS.API.CONSUMER.DELETE.S.c");
    bench.read(100);
    bench.reader.connected(bench.now, &mut bench.out);
    assert!(deleted(&bench.out), "the consumer of the connection before");
    bench.read(100);
    assert!(bench.reader.owes());
    bench.out.clear();
    bench.reader.stop(&mut bench.out);
    assert!(deleted(&bench.out) && !bench.reader.owes());
}

#[test]
fn a_question_that_an_election_drops_is_asked_again_and_its_first_answer_counts() {
    let mut bench = ReaderRig::new(3);
    let asked = |out: &[u8]| {
        let text = String::from_utf8_lossy(out).into_owned();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("PUB $JS.API.STREAM.INFO"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut all = asked(&bench.out);
    bench.out.clear();
    let begun = bench.now;
    for second in 1..5 {
        assert_eq!(
            bench.reader.work_due(),
            Some(begun + second * Duration::from_secs(1))
        );
        bench.now = begun + second * Duration::from_secs(1);
        bench.tick().expect("within the time for an answer");
        assert!(
            !bench.reader.ask_if_due(bench.now, &mut bench.out),
            "no PING"
        );
        all.extend(asked(&bench.out));
        bench.server.take(&mut bench.out);
        bench.out.clear();
    }
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(all.iter().all(|line| *line == all[0]), "{all:?}");
    // Four answers come at once: one consumer is asked for.
    bench.read(4);
    let made = String::from_utf8_lossy(&bench.out)
        .matches("CONSUMER.CREATE")
        .count();
    assert!(made <= 1, "{made}");
    bench.read(1_000);
    assert!(bench.reader.is_caught_up());
    bench.check();
}

#[test]
fn new_subjects_are_said_whichever_answer_shows_them() {
    // Before a consumer is asked for, after it was made, and while messages come.
    for deliveries in [0, 2, 1_000] {
        let mut bench = ReaderRig::new(1);
        bench.read(deliveries);
        bench.server.subjects = &["b.>"];
        bench.settle();
        let is_said = |event: &KeptEvent| matches!(event, KeptEvent::Subjects(all) if all.stored() == ["b.>"]);
        let said = bench.events.iter().filter(|event| is_said(event));
        assert_eq!(said.count(), 1, "after {deliveries} deliveries");
    }
}
