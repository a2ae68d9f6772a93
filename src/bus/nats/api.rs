//! Requests to JetStream on a connection, and their answers. The types of the `nats` crate describe streams and consumers.
//!
//! Any client that may publish to an inbox can have sent an answer, so [`Json::read`] checks each before a parser reads
//! it.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nats::jetstream::{ConsumerInfo, StreamConfig, StreamInfo};
use sonic_rs::{Deserialize, JsonValueMutTrait, JsonValueTrait};

use super::consumer_limits::StreamRoom;
use super::error::{JETSTREAM_ADVICE, NatsError};
use super::needs::Action;
use super::protocol::{Delivery, END_BYTES_KEPT, are_of_deletion};
use super::refusals::INBOXES;
use super::stream_info::{StreamCluster, check_made, unix_ns};
use super::subjects::stored_subjects;
use weirgate_wire::auth::StreamSubjects;
use weirgate_wire::json::{Json, JsonError, ObjectWriter};

/// How long an answer may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(3_000);
/// The status of an answer that the server gives in place of JetStream, as in HTTP: service unavailable.
const UNAVAILABLE: u64 = 503;
/// In place of [`ANSWER_TIMEOUT`] while other subjects wait: [`JetStream::hurry`].
pub(super) const HASTY_TIMEOUT: Duration = Duration::from_millis(1_000);

/// The reason for a request without the desired answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    #[error("error {code}: {description}")]
    Refused { code: u64, description: String },
    /// The server reaches no leader of JetStream: only the server answers.
    #[error("error {code}: {description}")]
    Unavailable { code: u64, description: String },
    /// JetStream is switched off for the account or at the server, or without a resource: only the server answers.
    #[error("error {code}: {description}")]
    OutOfService { code: u64, description: String },
    #[error("JetStream is not there")]
    NoJetStream,
    #[error("this user may not {0}")]
    NotPermitted(String),
    #[error(
        "the stream {0} has no leader that reaches most of its servers: they are away, or the server is cut off from them"
    )]
    NoLeader(String),
    /// The server makes the stream at this moment, for another client.
    #[error("the stream is being made")]
    Unfinished,
    #[error("no answer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    #[error("the connection was lost")]
    Lost,
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

/// A request to JetStream that is not sent yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiRequest {
    pub(super) subject: String,
    pub(super) body: String,
}

impl ApiRequest {
    /// A request whose subject says everything.
    pub(super) const fn of(subject: String) -> Self {
        Self {
            subject,
            body: String::new(),
        }
    }

    /// For the state of a stream.
    pub(super) fn stream_info(stream: &str) -> Self {
        Self::of(Action::StreamInfo.subject_about(stream))
    }

    /// For the name of the stream that takes `subject` from publishers.
    pub(super) fn stream_holding(subject: &str) -> Self {
        Self {
            subject: Action::StreamNames.subject_without_stream(),
            body: sonic_rs::json!({ "subject": subject }).to_string(),
        }
    }

    /// For the state of a consumer.
    pub(super) fn consumer(stream: &str, name: &str) -> Self {
        Self::of(Action::ConsumerInfo.subject(stream, name))
    }

    /// For the message of this sequence.
    pub(super) fn message_at(stream: &str, sequence: u64) -> Self {
        let mut query = ObjectWriter::new();
        query.number("seq", sequence);
        Self::message(stream, query)
    }

    /// For the last message of a subject.
    pub(super) fn last(stream: &str, subject: &str) -> Self {
        let mut query = ObjectWriter::new();
        query.string("last_by_subj", subject);
        Self::message(stream, query)
    }

    /// For the first message of a subject at or after a sequence.
    pub(super) fn first_from(stream: &str, subject: &str, sequence: u64) -> Self {
        let mut query = ObjectWriter::new();
        query.number("seq", sequence);
        query.string("next_by_subj", subject);
        Self::message(stream, query)
    }

    /// For the message that `query` selects.
    fn message(stream: &str, query: ObjectWriter) -> Self {
        Self {
            subject: Action::GetMessage.subject_about(stream),
            body: query.finish(),
        }
    }
}

impl ApiError {
    const CONSUMER_EXISTS: [u64; 3] = [10_013, 10_105, 10_148];
    const CONSUMER_NOT_FOUND: u64 = 10_014;
    const CONSUMERS_TOO_MANY: u64 = 10_026;
    const FILTER_NOT_SUBSET: u64 = 10_093;
    /// No leader of JetStream is reached.
    const NO_META_LEADER: u64 = 10_008;
    const NO_MESSAGE_FOUND: u64 = 10_037;
    const STREAM_NOT_FOUND: u64 = 10_059;

    pub(super) fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. }
            | Self::Unavailable { code, .. }
            | Self::OutOfService { code, .. } => Some(*code),
            _ => None,
        }
    }

    pub(super) fn stream_is_missing(&self) -> bool {
        self.code() == Some(Self::STREAM_NOT_FOUND)
    }

    /// Whether the consumer is missing, or its stream with it.
    pub(super) fn consumer_is_missing(&self) -> bool {
        self.code() == Some(Self::CONSUMER_NOT_FOUND) || self.stream_is_missing()
    }

    pub(super) fn consumer_exists(&self) -> bool {
        self.code()
            .is_some_and(|c| Self::CONSUMER_EXISTS.contains(&c))
    }

    /// Whether JetStream has answered, even with an error. A server that is cut off from its cluster answers that
    /// JetStream is unavailable.
    pub(super) fn is_an_answer(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Unfinished | Self::Unreadable(_)
        )
    }

    /// Whether every other request on this connection would fail too.
    pub(super) fn fails_all_requests(&self) -> bool {
        match self {
            Self::NoJetStream | Self::Lost => true,
            // A user that may not subscribe to inboxes gets no answer to any request.
            Self::NotPermitted(what) => what.ends_with(INBOXES),
            Self::Refused { .. }
            | Self::Unavailable { .. }
            | Self::OutOfService { .. }
            | Self::NoLeader(_)
            | Self::Unfinished
            | Self::NoAnswer(_)
            | Self::Unreadable(_) => false,
        }
    }

    /// What an operator can do.
    pub(super) fn advice(&self) -> &'static str {
        match self.code() {
            Some(Self::CONSUMERS_TOO_MANY) => {
                "raise max_consumers of the stream or of the account, or delete consumers that nobody uses"
            }
            Some(Self::FILTER_NOT_SUBSET) => "add the subject to the stream",
            _ => JETSTREAM_ADVICE,
        }
    }

    pub(super) fn message_is_missing(&self) -> bool {
        self.code() == Some(Self::NO_MESSAGE_FOUND)
    }

    /// Whether the server says that the stream does not hold the subject of a consumer. A server before 2.10 says so of
    /// a stream that has only copies of a stream that is gone.
    pub(super) fn filter_is_foreign(&self) -> bool {
        self.code() == Some(Self::FILTER_NOT_SUBSET)
    }
}

/// A message that was requested, not delivered by a consumer.
pub(super) struct Fetched {
    pub(super) sequence: u64,
    pub(super) payload: Vec<u8>,
    /// When it was stored, Unix nanoseconds; `None`: unknown.
    pub(super) stored_unix_ns: Option<u64>,
    /// The value of the subject was deleted.
    pub(super) is_deletion: bool,
}

/// An answer about a stream.
#[derive(Debug)]
pub(super) struct StreamAnswer {
    pub(super) info: StreamInfo,
    /// The subjects of its messages.
    pub(super) subjects: StreamSubjects,
    pub(super) room: StreamRoom,
}

/// JetStream by requests on a connection.
pub(super) trait JetStream {
    /// Sends a request, and waits. Returns the JSON of the answer. An error in the answer, and a missing answer, are
    /// errors.
    fn request(&mut self, subject: &str, body: &[u8]) -> Result<Vec<u8>, ApiError>;

    /// As [`Self::request`].
    fn ask_for(&mut self, request: &ApiRequest) -> Result<Vec<u8>, ApiError> {
        self.request(&request.subject, request.body.as_bytes())
    }

    /// Gives later answers less time, because something else waits meanwhile. By default, changes nothing.
    fn hurry(&mut self) {}

    /// The state of a stream. Returns an error if the stream has no leader: then nothing of it is delivered; and while the
    /// stream is being made.
    fn stream_info(&mut self, stream: &str) -> Result<StreamAnswer, ApiError> {
        stream_of(&self.ask_for(&ApiRequest::stream_info(stream))?)
    }

    /// The name of the stream that takes `subject` from publishers. The subjects of two streams never overlap, so there is at most
    /// one.
    fn stream_holding(&mut self, subject: &str) -> Result<Option<String>, ApiError> {
        let answer = self.ask_for(&ApiRequest::stream_holding(subject))?;
        first_stream(Json::read(&answer)?)
    }

    fn add_stream(&mut self, config: &StreamConfig) -> Result<StreamAnswer, ApiError> {
        let body = sonic_rs::to_vec(config).map_err(unreadable)?;
        let answer = self.request(&Action::CreateStream.subject_about(&config.name), &body)?;
        finished_stream(Json::read(&answer)?)
    }

    /// The state of a consumer.
    fn consumer(&mut self, stream: &str, name: &str) -> Result<ConsumerState, ApiError> {
        ConsumerState::read(&self.ask_for(&ApiRequest::consumer(stream, name))?)
    }

    /// Changes the deliver subject of a consumer without a listener. The other settings are sent back as received,
    /// because settings unknown to the crate must not be lost.
    fn set_deliver_subject(
        &mut self,
        stream: &str,
        name: &str,
        deliver_subject: &str,
    ) -> Result<(), ApiError> {
        let info = self.ask_for(&ApiRequest::consumer(stream, name))?;
        let body = deliver_subject_body(stream, &info, deliver_subject)?;
        self.request(&Action::CreateDurable.subject(stream, name), &body)
            .map(drop)
    }

    /// The message of this sequence.
    fn message_at(&mut self, stream: &str, sequence: u64) -> Result<Option<Fetched>, ApiError> {
        self.fetch(&ApiRequest::message_at(stream, sequence))
    }

    /// The last message of a subject.
    fn last(&mut self, stream: &str, subject: &str) -> Result<Option<Fetched>, ApiError> {
        self.fetch(&ApiRequest::last(stream, subject))
    }

    /// The first message of a subject at or after a sequence.
    fn first_from(
        &mut self,
        stream: &str,
        subject: &str,
        sequence: u64,
    ) -> Result<Option<Fetched>, ApiError> {
        self.fetch(&ApiRequest::first_from(stream, subject, sequence))
    }

    /// Requests a message. Returns `None` if the stream has no such message.
    fn fetch(&mut self, request: &ApiRequest) -> Result<Option<Fetched>, ApiError> {
        let answer = match self.ask_for(request) {
            Err(error) if error.message_is_missing() => return Ok(None),
            answer => answer?,
        };
        message(Json::read(&answer)?).map(Some)
    }
}

/// The state of a consumer on the server.
pub(super) struct ConsumerState {
    pub(super) info: ConsumerInfo,
    /// Whether it delivers nothing until a time (`pause_until`).
    pub(super) is_paused: bool,
    /// When it has delivered last, Unix nanoseconds; `None`: not yet.
    pub(super) active_unix_ns: Option<u64>,
}

impl ConsumerState {
    /// Reads the answer about a consumer.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub(super) fn read(answer: &[u8]) -> Result<Self, ApiError> {
        let answer = Json::read(answer)?;
        let paused = answer.get(&["paused"]);
        let active = answer.text(&["delivered", "last_active"]);
        Ok(Self {
            is_paused: paused.is_some_and(|paused| Json::of(&paused).parse().unwrap_or(false)),
            active_unix_ns: active.as_deref().and_then(unix_ns),
            info: answer.parse()?,
        })
    }
}

/// The state of a stream in an answer.
///
/// # Errors
/// The answer cannot be read, or the stream has no leader or is being made.
pub(super) fn stream_of(answer: &[u8]) -> Result<StreamAnswer, ApiError> {
    let answer = Json::read(answer)?;
    StreamCluster::read(answer)?;
    finished_stream(answer)
}

/// The state of a stream that the server has made.
fn finished_stream(answer: Json<'_>) -> Result<StreamAnswer, ApiError> {
    check_made(&answer.text(&["created"]).unwrap_or_default())?;
    Ok(StreamAnswer {
        info: answer.parse()?,
        subjects: stored_subjects(answer),
        room: answer.parse()?,
    })
}

/// The JSON of an answer.
///
/// # Errors
/// It has an error, or nobody answers the subject.
pub(super) fn answer_of(answer: Delivery) -> Result<Vec<u8>, ApiError> {
    // The status of the server: nobody listens on the subject of the request.
    if answer.status.is_some() {
        return Err(ApiError::NoJetStream);
    }
    if answer.is_cut() {
        return Err(ApiError::Unreadable("it is too long".to_owned()));
    }
    match refusal(Json::read(&answer.payload)?) {
        Some(refusal) => Err(refusal),
        None => Ok(answer.payload),
    }
}

/// The body of a request that changes only the deliver subject of a consumer. `info`: the answer about the consumer.
fn deliver_subject_body(
    stream: &str,
    info: &[u8],
    deliver_subject: &str,
) -> Result<Vec<u8>, ApiError> {
    let info: sonic_rs::Value = parse(info)?;
    let mut config = info.get("config").cloned().unwrap_or_default();
    if let Some(config) = config.as_object_mut() {
        config.insert("deliver_subject", deliver_subject);
    }
    // Servers before 2.10 do not know the action; they would make a missing consumer anew.
    sonic_rs::to_vec(&sonic_rs::json!({
        "stream_name": stream,
        "config": config,
        "action": "update",
    }))
    .map_err(unreadable)
}

/// The error in an answer, if any.
pub(super) fn refusal(answer: Json<'_>) -> Option<ApiError> {
    answer.get(&["error"])?;
    let description = answer.text(&["error", "description"]);
    let description = description.unwrap_or_else(|| "no description".to_owned());
    let code = answer.number(&["error", "err_code"]).unwrap_or(0);
    Some(match answer.number(&["error", "code"]) {
        Some(UNAVAILABLE) if code == ApiError::NO_META_LEADER => {
            ApiError::Unavailable { code, description }
        }
        Some(UNAVAILABLE) => ApiError::OutOfService { code, description },
        _ => ApiError::Refused { code, description },
    })
}

/// The message in an answer. An empty payload has no member `data`.
pub(super) fn message(answer: Json<'_>) -> Result<Fetched, ApiError> {
    // Of a message without an end, a member could seem to be missing.
    let whole = answer.get(&["message"]);
    let sequence = whole.and_then(|_| answer.number(&["message", "seq"]));
    let bytes = |field| {
        let data = answer.get(&["message", field]);
        let data = data.as_ref().and_then(|data| data.as_str());
        STANDARD.decode(data.unwrap_or_default())
    };
    let (Some(sequence), Ok(payload), Ok(headers)) = (sequence, bytes("data"), bytes("hdrs"))
    else {
        return Err(ApiError::Unreadable("no message".to_owned()));
    };
    let is_deletion = payload.is_empty() && are_of_deletion(&String::from_utf8_lossy(&headers));
    let stored = answer.text(&["message", "time"]);
    Ok(Fetched {
        sequence,
        payload,
        stored_unix_ns: stored.as_deref().and_then(unix_ns),
        is_deletion,
    })
}

/// The answer with a message. If the answer was cut in the payload of the message, it has as much of the payload as is
/// there, and goes on behind the payload.
pub(super) fn answer_with_message(answer: &Delivery) -> Cow<'_, [u8]> {
    if !answer.is_cut() {
        return Cow::Borrowed(&answer.payload);
    }
    let (mut joined, mut end) = (answer.payload.clone(), &answer.end[..]);
    // Something is missing between the two, and both have a part of a string in base64. Four of its characters belong
    // together.
    if end.len() == END_BYTES_KEPT {
        let begins = memchr::memrchr(b'"', &joined).map_or(0, |quote| quote + 1);
        joined.truncate(joined.len() - (joined.len() - begins) % 4);
        end = &end[memchr::memchr(b'"', end).unwrap_or(0)..];
    }
    joined.extend_from_slice(end);
    Cow::Owned(joined)
}

/// The number of messages delivered or about to be delivered by a new consumer, from the answer to the request for the
/// consumer.
pub(super) fn messages_of_consumer(answer: Json<'_>) -> u64 {
    let pending = answer.number(&["num_pending"]);
    let delivered = answer.number(&["delivered", "consumer_seq"]);
    pending
        .into_iter()
        .chain(delivered)
        .fold(0, u64::saturating_add)
}

/// The first name in a list of streams; an empty list may be `null`.
pub(super) fn first_stream(answer: Json<'_>) -> Result<Option<String>, ApiError> {
    let streams = answer.get(&["streams"]);
    let streams = streams.ok_or_else(|| ApiError::Unreadable("no list of streams".to_owned()))?;
    let names: Option<Vec<String>> = Json::of(&streams).parse()?;
    Ok(names.and_then(|names| names.into_iter().next()))
}

fn parse<T: for<'a> Deserialize<'a>>(answer: &[u8]) -> Result<T, ApiError> {
    Ok(Json::read(answer)?.parse()?)
}

fn unreadable(error: sonic_rs::Error) -> ApiError {
    JsonError::from(error).into()
}

impl From<JsonError> for ApiError {
    fn from(error: JsonError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// The error for a failed request; `action` names the request.
pub(super) fn request_failed(action: String, source: ApiError) -> NatsError {
    let fails_all_requests = source.fails_all_requests();
    match source {
        ApiError::Lost => NatsError::Lost,
        ApiError::NotPermitted(what) => NatsError::NotPermitted {
            what,
            fails_all_requests,
        },
        ApiError::NoLeader(stream) => NatsError::NoLeader { action, stream },
        source => NatsError::JetStream {
            action,
            reason: source.to_string(),
            advice: source.advice(),
            fails_all_requests,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_answers() {
        let refused = br#"{"type":"x","error":{"code":404,"err_code":10014,"description":"consumer not found"}}"#;
        let refusal = |answer: &[u8]| refusal(Json::read(answer).expect("no deep JSON"));
        let error = refusal(refused).expect("a refusal");
        assert!(error.consumer_is_missing() && !error.stream_is_missing());
        assert_eq!(error.to_string(), "error 10014: consumer not found");
        let cut_off =
            br#"{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}"#;
        let unavailable = refusal(cut_off).expect("a refusal");
        assert!(!unavailable.is_an_answer() && error.is_an_answer());
        let expected = ApiError::Unavailable {
            code: 10_008,
            description: "temporarily unavailable".to_owned(),
        };
        assert_eq!(unavailable, expected);
        // Switched off for the account, and at the server.
        for code in [10_039, 10_076] {
            let off = format!(
                r#"{{"error":{{"code":503,"err_code":{code},"description":"JetStream not enabled"}}}}"#
            );
            let off = refusal(off.as_bytes()).expect("a refusal");
            assert!(matches!(off, ApiError::OutOfService { .. }) && !off.is_an_answer());
            assert_eq!(
                off.to_string(),
                format!("error {code}: JetStream not enabled")
            );
        }
        // An unknown code, and no code at all.
        assert!(refusal(br#"{"error":{"err_code":99999}}"#).is_some());
        assert!(refusal(br#"{"error":{}}"#).is_some());
        assert!(refusal(br#"{"config":{"error":1}}"#).is_none());
        assert!(refusal(b"").is_none());
        assert!(parse::<StreamInfo>(b"").is_err());
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (code, advice) in [
            (10_026, "raise max_consumers of the stream"),
            (10_093, "add the subject to the stream"),
            (10_008, "check that nats-server runs with JetStream"),
        ] {
            let description = "no".to_owned();
            let refused = ApiError::Refused { code, description };
            let text = request_failed("read".to_owned(), refused).to_string();
            let said = format!("JetStream did not read (error {code}: no); {advice}");
            assert!(text.starts_with(&said), "{text}");
        }
    }

    #[test]
    fn a_consumer_is_moved_with_all_its_settings() {
        let info = br#"{"name":"d","config":{"durable_name":"d","deliver_subject":"_INBOX.a","ack_wait":30000000000,"metadata":{"of":"others"}},"push_bound":false}"#;
        let request = deliver_subject_body("S", info, "_INBOX.b").expect("a request");
        let request: serde_json::Value = serde_json::from_slice(&request).expect("JSON");
        let want = serde_json::json!({"stream_name": "S", "config": {
            "durable_name": "d", "deliver_subject": "_INBOX.b", "ack_wait": 30_000_000_000u64,
            "metadata": {"of": "others"}}, "action": "update"});
        assert_eq!(request, want);
    }

    #[test]
    fn a_list_of_streams_may_be_empty() {
        for (answer, name) in [
            (r#"{"total":0,"streams":null}"#, None),
            (r#"{"total":0,"streams":[]}"#, None),
            (r#"{"total":1,"streams":["NEWS"]}"#, Some("NEWS")),
        ] {
            let first =
                first_stream(Json::read(answer.as_bytes()).expect("JSON")).expect("an answer");
            assert_eq!(first.as_deref(), name);
        }
        assert!(first_stream(Json::read(b"{}").expect("JSON")).is_err());
    }
}
