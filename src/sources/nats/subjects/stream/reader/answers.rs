//! The requests and the answers of JetStream's API in JSON.

use chrono::{DateTime, SecondsFormat, Utc};

use super::super::super::super::api::{self, ApiError, messages_of_consumer, refusal};
use super::{HEARTBEAT_MS, MS_NS};
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
    pub(super) retention: Retention,
}

/// How long a stream keeps a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// Up to the limits of the stream.
    Limits,
    /// Until all consumers have acknowledged it; not at all without a consumer.
    Interest,
    /// Until one consumer has acknowledged it.
    WorkQueue,
}

/// Limits of a consumer. Servers, accounts and streams can have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Messages without acknowledgement at which the server stops.
    pub(super) pending_max: u64,
    /// Milliseconds without a listener after which the server deletes the consumer.
    idle_max_ms: u64,
    /// Whether the server bounds the bytes on their way, too.
    has_flow_control: bool,
}

impl Limits {
    pub(super) const MOST: Self = Self {
        pending_max: 2_048,
        idle_max_ms: 5_000,
        has_flow_control: true,
    };
    /// Messages of usual size fit the server's output buffer for weirgate.
    const PENDING_WITHOUT_FLOW_CONTROL: u64 = 64;
    const PENDING_TOO_MANY: u64 = 10_121;
    const IDLE_TOO_LONG: u64 = 10_153;

    /// Halves the limit that the server refuses. Returns false if the error is another one, or nothing is left.
    pub(super) fn shrink(&mut self, error: &ApiError) -> bool {
        let limit = match error.code() {
            Some(Self::PENDING_TOO_MANY) => &mut self.pending_max,
            Some(Self::IDLE_TOO_LONG) => &mut self.idle_max_ms,
            _ => return false,
        };
        *limit /= 2;
        *limit > 0
    }

    /// Goes on where the user may not answer flow control.
    pub(super) fn without_flow_control(&mut self) {
        self.has_flow_control = false;
        self.pending_max = self.pending_max.min(Self::PENDING_WITHOUT_FLOW_CONTROL);
    }
}

impl StreamInfo {
    /// # Errors
    /// JetStream refuses, the answer cannot be read, or nobody leads the stream.
    pub(super) fn read(answer: &[u8]) -> Result<Self, ApiError> {
        let answer = open(answer)?;
        api::leader(answer)?;
        let time_ns = |path: &[&str]| answer.text(path).as_deref().and_then(unix_ns);
        let major = answer.number(&["state", "last_seq"]);
        let major = major.ok_or_else(|| ApiError::Unreadable("no state".to_owned()))?;
        let minor = time_ns(&["state", "last_ts"]).unwrap_or(0);
        let head = (major > 0).then_some(StoredId { major, minor });
        Ok(Self {
            head,
            created_ns: time_ns(&["created"]).unwrap_or(0),
            retention: match answer.text(&["config", "retention"]).as_deref() {
                Some("interest") => Retention::Interest,
                Some("workqueue") => Retention::WorkQueue,
                _ => Retention::Limits,
            },
        })
    }
}

/// Reads the answer to the request for a consumer: its name, and the number of messages delivered at once.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
pub(super) fn created(answer: &[u8]) -> Result<(Option<String>, u64), ApiError> {
    let answer = open(answer)?;
    Ok((answer.text(&["name"]), messages_of_consumer(answer)))
}

/// The request for a consumer that begins at a sequence number, or with the messages of a time. Flow control bounds
/// the bytes on their way: large messages would fill the server's output buffer for weirgate.
pub(super) fn create(
    stream: &str,
    deliver_subject: &str,
    from: Option<u64>,
    since: &str,
    limits: Limits,
) -> String {
    let mut config = sonic_rs::json!({
        "deliver_subject": deliver_subject,
        "ack_policy": "all",
        "ack_wait": 30 * SECOND_NS,
        "max_ack_pending": limits.pending_max,
        "replay_policy": "instant",
        "inactive_threshold": limits.idle_max_ms * MS_NS,
        "idle_heartbeat": HEARTBEAT_MS * MS_NS,
        "flow_control": limits.has_flow_control,
        "mem_storage": true,
        "num_replicas": 1,
    });
    match from {
        Some(sequence) => {
            config["deliver_policy"] = sonic_rs::json!("by_start_sequence");
            config["opt_start_seq"] = sonic_rs::json!(sequence);
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
            let info = StreamInfo {
                head,
                created_ns: 5,
                retention: Retention::Limits,
            };
            assert_eq!(StreamInfo::read(answer.as_bytes()).ok(), Some(info));
        }
        let missing =
            br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
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
        let mut limits = Limits::MOST;
        assert!(!limits.shrink(&refused(10_026)) && limits == Limits::MOST);
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
        let at = create("S", "in", Some(7), "", Limits::MOST);
        assert!(
            at.contains(r#""opt_start_seq":7"#) && at.contains("by_start_sequence"),
            "{at}"
        );
        let by_time = create("S", "in", None, "2026", Limits::MOST);
        assert!(by_time.contains(r#""opt_start_time":"2026""#), "{by_time}");
        assert!(!by_time.contains("opt_start_seq"));
    }
}
