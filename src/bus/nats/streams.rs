//! The streams of subjects: made if missing, used unchanged if present. Optional streams may be absent: then they are
//! neither made nor read.

use std::thread;
use std::time::Duration;

use nats::jetstream::StreamConfig;

use super::api::{ApiError, JetStream, StreamAnswer, request_failed};
use super::consumer_limits::StreamRoom;
use super::error::NatsError;
use super::settings::{StreamSpec, SubscriptionSpec};
use weirgate_wire::auth::StreamSubjects;

/// How long and how often to wait for a stream that the server is making: its disk may be slow.
const UNFINISHED_PAUSE: Duration = Duration::from_millis(20);
const UNFINISHED_PAUSES_MAX: u32 = 25;

/// The state of a stream, reported by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamHead {
    /// The creation time, Unix nanoseconds.
    pub(super) created_unix_ns: i64,
    /// The highest sequence number given out so far.
    pub(super) last_sequence: u64,
}

/// Whether the subject of an optional stream is read (`NatsSettings::streams_optional`).
///
/// As long as the server has none of the streams, or the user may not ask for them, weirgate makes no stream and reads
/// no subject of them. A single stream makes all of them wanted, until the end of the process: from then on a missing
/// stream is made, as without the setting. Without an answer nothing is decided, and a later attempt asks again. Once
/// the subjects are left out, only the watchdog asks, so that no silence about these streams keeps the relays waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Read, and the stream made if missing.
    Wanted,
    /// Not decided yet.
    Undecided,
    /// None of the streams exists; the watchdog asks again and again.
    LeftOut,
    /// This user may not ask for a stream; the next connection asks again.
    Forbidden,
}

impl Presence {
    pub(super) fn new(is_optional: bool) -> Self {
        match is_optional {
            true => Self::Undecided,
            false => Self::Wanted,
        }
    }

    pub(super) fn is_left_out(self) -> bool {
        matches!(self, Self::LeftOut | Self::Forbidden)
    }
}

/// Makes the stream if missing, and returns it.
///
/// Several processes may start beside a server without streams, and each makes the missing ones. While the server makes
/// a stream for one of them, it may refuse the others, because the stream overlaps with itself, or answer with a stream
/// that is not whole; a moment later it answers with the stream.
pub(super) fn ensure_stream(
    api: &mut impl JetStream,
    spec: &StreamSpec,
) -> Result<FoundStream, NatsError> {
    let mut info = api.stream_info(&spec.name);
    if info.as_ref().is_err_and(ApiError::stream_is_missing) {
        let made = api.add_stream(&StreamConfig {
            name: spec.name.clone(),
            subjects: spec.subjects.clone(),
            max_age: Duration::from_secs(spec.max_age_s),
            ..StreamConfig::default()
        });
        info = match made {
            Ok(_) => {
                tracing::info!(stream = spec.name, "made the missing stream");
                made
            }
            Err(refusal @ ApiError::Refused { .. }) => match api.stream_info(&spec.name) {
                Err(error) if error.stream_is_missing() => Err(refusal),
                info => info,
            },
            Err(_) => made,
        };
    }
    let mut pauses = UNFINISHED_PAUSES_MAX;
    while matches!(info, Err(ApiError::Unfinished)) && pauses > 0 {
        pauses -= 1;
        thread::sleep(UNFINISHED_PAUSE);
        info = api.stream_info(&spec.name);
    }
    let failed = |error| request_failed(format!("find or make the stream {}", spec.name), error);
    info.map(|answer| FoundStream::new(spec.name.clone(), answer))
        .map_err(failed)
}

/// Whether the server has any of the streams. Never returns [`Presence::Undecided`].
///
/// # Errors
/// The server did not answer about a stream, and no other stream exists.
pub(super) fn presence_of(
    api: &mut impl JetStream,
    streams: &[StreamSpec],
) -> Result<Presence, NatsError> {
    let (mut found, mut unanswered) = (Presence::LeftOut, None);
    for stream in streams {
        // Only the first stream without an answer gets the full timeout.
        if unanswered.is_some() {
            api.hurry();
        }
        match api.stream_info(&stream.name) {
            Ok(_) | Err(ApiError::NoLeader(_) | ApiError::Unfinished) => {
                return Ok(Presence::Wanted);
            }
            Err(error) if error.stream_is_missing() => {}
            Err(error) if error.fails_all_requests() => unanswered = Some((stream, error)),
            // Without this permission the stream could not be read either.
            Err(ApiError::NotPermitted(_)) => found = Presence::Forbidden,
            Err(error) => unanswered = unanswered.or(Some((stream, error))),
        }
    }
    match unanswered {
        None => Ok(found),
        Some((stream, error)) => Err(request_failed(
            format!("tell of the stream {}", stream.name),
            error,
        )),
    }
}

/// A stream that is there.
#[derive(Debug)]
pub(super) struct FoundStream {
    pub(super) name: String,
    pub(super) head: StreamHead,
    /// The subjects of its messages.
    pub(super) subjects: StreamSubjects,
    pub(super) room: StreamRoom,
}

impl FoundStream {
    fn new(name: String, answer: StreamAnswer) -> Self {
        let StreamAnswer {
            info,
            subjects,
            room,
        } = answer;
        let head = StreamHead {
            created_unix_ns: i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(0),
            last_sequence: info.state.last_seq,
        };
        Self {
            name,
            head,
            subjects,
            room,
        }
    }
}

/// Finds the stream of a subject, if weirgate does not make the stream; `None`: there is none.
pub(super) fn find_stream(
    api: &mut impl JetStream,
    spec: &SubscriptionSpec,
) -> Result<Option<FoundStream>, ApiError> {
    let name = match &spec.stream {
        Some(name) => Some(name.clone()),
        None => api.stream_holding(&spec.subject)?,
    };
    let Some(name) = name else { return Ok(None) };
    match api.stream_info(&name) {
        Ok(answer) => Ok(Some(FoundStream::new(name, answer))),
        Err(error) if error.stream_is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use weirgate_wire::json::Json;

    use super::super::api::refusal;
    use super::*;

    /// A server that answers in this order.
    struct Replies(VecDeque<&'static str>);

    impl JetStream for Replies {
        fn request(&mut self, _: &str, _: &[u8]) -> Result<Vec<u8>, ApiError> {
            let answer = self.0.pop_front().expect("one more answer").as_bytes();
            match refusal(Json::read(answer)?) {
                Some(refusal) => Err(refusal),
                None => Ok(answer.to_vec()),
            }
        }
    }

    const MISSING: &str = r#"{"error":{"code":404,"err_code":10059,"description":"no stream"}}"#;
    const OVERLAPS: &str = r#"{"error":{"code":400,"err_code":10065,"description":"overlap"}}"#;
    const UNFINISHED: &str = r#"{"created":"0001-01-01T00:00:00Z","config":{},"state":{}}"#;
    const MADE: &str = r#"{"created":"1970-01-01T00:00:00.000000005Z",
        "config":{"name":"S","max_bytes":-1,"max_msgs":-1,"max_msgs_per_subject":-1,"discard":"old","retention":"limits",
            "max_consumers":-1,"max_age":0,"storage":"file","num_replicas":1},
        "state":{"messages":0,"bytes":0,"first_seq":0,"first_ts":"0001-01-01T00:00:00Z","last_seq":0,
            "last_ts":"0001-01-01T00:00:00Z","consumer_count":0}}"#;

    /// The creation time of the stream, Unix nanoseconds.
    fn ensured(answers: &[&'static str]) -> Result<i64, String> {
        let spec = StreamSpec {
            name: "S".into(),
            subjects: vec!["s.*".into()],
            max_age_s: 1,
        };
        let mut server = Replies(answers.iter().copied().collect());
        let ensured = ensure_stream(&mut server, &spec);
        assert!(server.0.is_empty(), "{} answers are left", server.0.len());
        ensured
            .map(|found| found.head.created_unix_ns)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_stream_that_another_process_makes_at_once_is_waited_for() {
        assert_eq!(ensured(&[MADE]), Ok(5));
        assert_eq!(ensured(&[MISSING, MADE]), Ok(5));
        assert_eq!(ensured(&[UNFINISHED, MADE]), Ok(5));
        assert_eq!(ensured(&[MISSING, UNFINISHED, UNFINISHED, MADE]), Ok(5));
        assert_eq!(ensured(&[MISSING, OVERLAPS, UNFINISHED, MADE]), Ok(5));
        let overlaps = ensured(&[MISSING, OVERLAPS, MISSING]).expect_err("a stream of others");
        assert!(overlaps.contains("10065"), "{overlaps}");
        let for_ever = vec![UNFINISHED; 1 + UNFINISHED_PAUSES_MAX as usize];
        let unfinished = ensured(&for_ever).expect_err("no stream");
        assert!(unfinished.contains("being made"), "{unfinished}");
    }
}
