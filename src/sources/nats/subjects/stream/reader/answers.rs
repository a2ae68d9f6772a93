//! The requests and the answers of JetStream's API in JSON.

use chrono::{DateTime, SecondsFormat, Utc};

use super::super::super::super::api::{self, ApiError, messages_of_consumer, refusal};
use super::{ACKED_TOGETHER, HEARTBEAT_MS, MS_NS};
use crate::feeds::StoredId;
use crate::wire::json::Json;

const SECOND_NS: u64 = 1_000 * MS_NS;

/// The state of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamInfo {
    /// The newest message that was ever stored; `None` for a stream without any so far.
    pub(super) head: Option<StoredId>,
    /// When the stream was made, Unix nanoseconds; 0 if unknown.
    pub(super) created_ns: u64,
}

impl StreamInfo {
    /// # Errors
    /// JetStream refuses, or the answer cannot be read.
    pub(super) fn read(answer: &[u8]) -> Result<Self, ApiError> {
        let answer = open(answer)?;
        let time_ns = |path: &[&str]| answer.text(path).as_deref().and_then(unix_ns);
        let major = answer.number(&["state", "last_seq"]);
        let major = major.ok_or_else(|| ApiError::Unreadable("no state".to_owned()))?;
        let minor = time_ns(&["state", "last_ts"]).unwrap_or(0);
        let head = (major > 0).then_some(StoredId { major, minor });
        Ok(Self {
            head,
            created_ns: time_ns(&["created"]).unwrap_or(0),
        })
    }
}

/// Reads the answer to the request for a consumer: the number of messages delivered at once.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
pub(super) fn created(answer: &[u8]) -> Result<u64, ApiError> {
    open(answer).map(messages_of_consumer)
}

/// The request for a consumer that begins at a message, or with the messages of a time.
pub(super) fn create(
    stream: &str,
    deliver_subject: &str,
    from: Option<StoredId>,
    since: &str,
) -> String {
    let mut config = sonic_rs::json!({
        "deliver_subject": deliver_subject,
        "ack_policy": "all",
        "ack_wait": 30 * SECOND_NS,
        "max_ack_pending": 4 * ACKED_TOGETHER,
        "replay_policy": "instant",
        "inactive_threshold": 30 * SECOND_NS,
        "idle_heartbeat": HEARTBEAT_MS * MS_NS,
        "mem_storage": true,
        "num_replicas": 1,
    });
    match from {
        Some(id) => {
            config["deliver_policy"] = sonic_rs::json!("by_start_sequence");
            config["opt_start_seq"] = sonic_rs::json!(id.major);
        }
        None => {
            config["deliver_policy"] = sonic_rs::json!("by_start_time");
            config["opt_start_time"] = sonic_rs::json!(since);
        }
    }
    sonic_rs::json!({ "stream_name": stream, "config": config }).to_string()
}

/// A time in the form of JetStream's API, from Unix nanoseconds.
pub(super) fn rfc_3339(unix_ns: u64) -> String {
    let time = DateTime::<Utc>::from_timestamp_nanos(i64::try_from(unix_ns).unwrap_or(i64::MAX));
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Unix nanoseconds of a time in the form of JetStream's API.
fn unix_ns(text: &str) -> Option<u64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_nanos_opt()?).ok()
}

/// Opens an answer without an error.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
fn open(answer: &[u8]) -> Result<Json<'_>, ApiError> {
    let answer = api::read(answer)?;
    refusal(answer).map_or(Ok(answer), Err)
}

#[cfg(test)]
mod tests {
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
            let created_ns = 5;
            let info = StreamInfo::read(answer.as_bytes());
            assert_eq!(info.ok(), Some(StreamInfo { head, created_ns }));
        }
        let missing =
            br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        let refused = StreamInfo::read(missing).expect_err("no stream");
        assert_eq!(refused.to_string(), "error 10059: stream not found");
        assert!(StreamInfo::read(b"{}").is_err());
        let deep = format!(r#"{{"state":{}"#, "[".repeat(100_000));
        for error in [
            StreamInfo::read(deep.as_bytes()).expect_err("too deep"),
            created(deep.as_bytes()).expect_err("too deep"),
        ] {
            assert!(error.to_string().contains("deeper than 64"), "{error}");
        }
    }

    #[test]
    fn delivered_and_waiting_messages_of_a_consumer() {
        let answer = br#"{"num_pending":3,"delivered":{"consumer_seq":2,"stream_seq":9}}"#;
        assert_eq!(created(answer).ok(), Some(5));
        assert_eq!(created(b"{}").ok(), Some(0));
        assert!(created(br#"{"error":{}}"#).is_err());
    }

    #[test]
    fn a_consumer_begins_at_a_message_or_a_time() {
        let at = create("S", "in", Some(StoredId { major: 7, minor: 9 }), "");
        assert!(
            at.contains(r#""opt_start_seq":7"#) && at.contains("by_start_sequence"),
            "{at}"
        );
        let by_time = create("S", "in", None, "2026");
        assert!(by_time.contains(r#""opt_start_time":"2026""#), "{by_time}");
        assert!(!by_time.contains("opt_start_seq"));
    }
}
