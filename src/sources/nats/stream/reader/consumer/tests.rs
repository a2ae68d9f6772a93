//! The answers of JetStream.

use super::*;

#[test]
fn times_keep_their_nanoseconds() {
    for (text, ns) in [
        ("2026-01-09T10:30:00.000000007Z", 1_767_954_600_000_000_007),
        ("1970-01-01T00:00:00.000000000Z", 0),
    ] {
        assert_eq!(unix_ns(text), Some(ns));
        assert_eq!(rfc_3339(ns), text);
    }
    assert_eq!(
        unix_ns("2026-01-09T11:30:00.5+01:00"),
        Some(1_767_954_600_500_000_000)
    );
    assert_eq!(unix_ns("0001-01-01T00:00:00Z"), None);
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
        let info = StreamInfo {
            head,
            created_ns: 5,
            retention: Retention::Limits,
        };
        assert_eq!(StreamInfo::read(answer.as_bytes()).ok(), Some(info));
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
        assert_eq!(!matches!(read, Err(ApiError::NoLeader)), leads, "{cluster}");
    }
    let deep = format!(r#"{{"state":{}"#, "[".repeat(100_000));
    for error in [
        StreamInfo::read(deep.as_bytes()).expect_err("too deep"),
        created(deep.as_bytes()).expect_err("too deep"),
    ] {
        assert!(error.to_string().contains("deeper than 512"), "{error}");
    }
}

#[test]
fn delivered_and_waiting_messages_of_a_consumer() {
    let answer = br#"{"num_pending":3,"delivered":{"consumer_seq":2,"stream_seq":9}}"#;
    assert_eq!(created(answer).ok(), Some((None, 5)));
    assert_eq!(
        created(br#"{"name":"c"}"#).ok(),
        Some((Some("c".to_owned()), 0))
    );
    assert!(created(br#"{"error":{}}"#).is_err());
}

#[test]
fn limits_shrink_to_those_of_the_server_as_long_as_something_is_left() {
    let refused = |code| ApiError::Refused {
        code,
        description: String::new(),
    };
    let mut limits = Limits::default();
    assert!(!limits.shrink(&refused(10_026)) && limits == Limits::default());
    assert!(limits.shrink(&refused(Limits::PENDING_TOO_MANY)));
    assert!(limits.shrink(&refused(Limits::IDLE_TOO_LONG)));
    let body = create("S", "in", None, "2026", limits);
    assert!(body.contains(r#""max_ack_pending":1024"#), "{body}");
    assert!(
        body.contains(r#""inactive_threshold":2500000000"#),
        "{body}"
    );
    let tries = std::iter::from_fn(|| {
        limits
            .shrink(&refused(Limits::PENDING_TOO_MANY))
            .then_some(())
    });
    assert_eq!(tries.count(), 10, "down to one message");
}

#[test]
fn a_consumer_begins_at_a_message_or_a_time() {
    let at = create("S", "in", Some(7), "", Limits::default());
    assert!(
        at.contains(r#""opt_start_seq":7"#) && at.contains("by_start_sequence"),
        "{at}"
    );
    let by_time = create("S", "in", None, "2026", Limits::default());
    assert!(by_time.contains(r#""opt_start_time":"2026""#), "{by_time}");
    assert!(!by_time.contains("opt_start_seq"));
}
