//! Calls of services and their outcome, and the paths between the gateway and its services. Also messages from clients:
//! `{event, request_id?, data?}`, each part as its original text.

use std::fmt;
use std::sync::Arc;

use sonic_rs::LazyValue;

use super::services::EventsService;
use crate::gateways::shared::history::{Since, read_since};
use crate::gateways::shared::members::{members, members_of_request, text_of};
use weirgate_core::Frame;
use weirgate_wire::head::Trace;
use weirgate_wire::json::compact;

/// A request to a service.
#[derive(Clone, Debug)]
pub struct Call {
    /// The gateway's number of the call; the reply has the same number.
    pub id: u64,
    /// The called service.
    pub service: EventsService,
    /// The request body.
    pub body: Vec<u8>,
    /// The trace of the call.
    pub trace: Trace,
    /// Reads the outcome.
    pub reader: AnswerReader,
}

/// Makes frames from the outcome of a call. The thread of the calls runs it, not the loop: an answer may be large, and
/// only its client should wait. It has no effects, as the whole gateway has none.
#[derive(Clone)]
pub struct AnswerReader(Arc<dyn Fn(Result<ServiceAnswer, CallFailure>) -> ForClient + Send + Sync>);

/// The message for the client of a call: an answer, or an error.
pub type ForClient = Result<Arc<Frame>, Arc<Frame>>;

impl AnswerReader {
    /// Makes a reader from this function.
    pub fn new(
        read: impl Fn(Result<ServiceAnswer, CallFailure>) -> ForClient + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// Makes the reply of the call `id` for the loop.
    pub fn read(&self, id: u64, outcome: Result<ServiceAnswer, CallFailure>) -> Reply {
        let failure = outcome.as_ref().err().copied();
        Reply {
            id,
            failure,
            frame: (self.0)(outcome),
        }
    }
}

impl fmt::Debug for AnswerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// The outcome of a [`Call`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// The id of the call.
    pub id: u64,
    /// Why there is no answer, if there is none.
    pub failure: Option<CallFailure>,
    /// The frame from the call's [`AnswerReader`].
    pub frame: ForClient,
}

/// A service's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAnswer {
    /// HTTP status.
    pub status: u16,
    /// Media type, empty if absent.
    pub content_type: String,
    /// The whole body.
    pub body: Vec<u8>,
    /// The content coding that the body still has, because weirgate cannot decode it (RFC 9110 §8.4).
    pub unknown_coding: Option<String>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// No answer in time.
    Timeout,
    /// The connection was refused or cut, or the response was malformed.
    Unreachable,
    /// The answer exceeds the limit.
    TooLarge,
}

/// The path of calls to a service: `POST`, below the path of the service's URL.
pub const CALL_PATH: &str = "/gateway/handle";

/// The path at which services push events.
pub const BROADCAST_PATH: &str = "/internal/broadcast";

/// The first parts of the paths that the gateway and its services reserve for calls among themselves: clients cannot
/// reach these paths (contract events, section "Proxy").
pub const INNER_PATHS: [&str; 2] = ["gateway", "internal"];

/// A message of the right shape. Parts are JSON text, so that numbers and escapes stay unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceMessage {
    /// The decoded name of the event, used for decisions.
    pub(super) name: String,
    /// The event, as a JSON string.
    pub(super) event: String,
    /// A JSON string, or `null`.
    pub(super) request_id: String,
    /// A JSON object without white space.
    pub(super) data: String,
}

impl DeviceMessage {
    /// Reads a message; `None` if the text is not JSON or has another shape (contract: row `bad_request`). Other
    /// members are ignored; the last of repeated members counts.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let names = ["event", "request_id", "data"];
        let [event, request_id, data] = members_of_request(text, 0, names).ok()?;
        let event = event?;
        let name = text_of(&event).filter(|name| !name.is_empty())?;
        let request_id = match &request_id {
            None => "null",
            Some(value) if value.as_raw_str() == "null" => "null",
            Some(value) => text_of(value).map(|_| value.as_raw_str())?,
        };
        let data = match &data {
            None => "{}".to_owned(),
            Some(value) => value
                .as_raw_str()
                .starts_with('{')
                .then(|| compact(value.as_raw_str()))?,
        };
        Some(Self {
            name,
            event: event.as_raw_str().to_owned(),
            request_id: request_id.to_owned(),
            data,
        })
    }

    /// The event and the id, which the response repeats.
    pub(super) fn request(&self) -> (&str, &str) {
        (&self.event, &self.request_id)
    }

    /// Returns `data.device_id`, if valid.
    pub(super) fn device_id(&self) -> Option<String> {
        let id = self.member("device_id")?;
        text_of(&id).filter(|id| is_device_id(id))
    }

    /// Returns `data.since`.
    pub(super) fn since(&self) -> Since {
        read_since(self.member("since").as_ref())
    }

    /// The member of `data` with this name.
    fn member(&self, name: &str) -> Option<LazyValue<'_>> {
        // The whole message was checked, so neither depth nor syntax can fail here.
        let [member] = members(self.data.as_bytes(), [name]).ok()?;
        member
    }
}

/// 1 to 200 characters.
pub(super) fn is_device_id(id: &str) -> bool {
    (1..=200).contains(&id.chars().take(201).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_services_are_among_the_inner_ones() {
        for path in [CALL_PATH, BROADCAST_PATH] {
            let first = path.split('/').nth(1).expect("a first part");
            assert!(INNER_PATHS.contains(&first), "{path}");
        }
    }
}

#[cfg(test)]
mod message_tests {
    use super::*;

    fn parsed(text: &str) -> Option<[String; 4]> {
        DeviceMessage::parse(text).map(|m| [m.name, m.event, m.request_id, m.data])
    }

    #[test]
    fn parts_keep_their_text() {
        for (text, want) in [
            (r#"{"event":"a"}"#, ["a", r#""a""#, "null", "{}"]),
            (
                r#" {"data": {"n": 1.50, "s": " \" x"}, "event":"\u0061b","request_id":"","x":[1]} "#,
                ["ab", r#""\u0061b""#, r#""""#, r#"{"n":1.50,"s":" \" x"}"#],
            ),
            (
                r#"{"event":3,"event":"b","request_id":"1","request_id":null}"#,
                ["b", r#""b""#, "null", "{}"],
            ),
        ] {
            assert_eq!(parsed(text), Some(want.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_would_take_long_to_read_is_no_message() {
        let message = |escapes: usize| format!(r#"{{"event":"{}"}}"#, r"\n".repeat(escapes));
        assert!(parsed(&message(262_144)).is_some());
        assert_eq!(parsed(&message(262_145)), None);
    }

    #[test]
    fn other_shapes_are_no_messages() {
        let deep = format!(
            r#"{{"event":"a","data":{{"x":{}{}}}}}"#,
            "[".repeat(511),
            "]".repeat(511)
        );
        for text in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"event":""}"#,
            r#"{"event":3}"#,
            r#"{"event":null}"#,
            r#"{"event":"a","request_id":5}"#,
            r#"{"event":"a","request_id":{}}"#,
            r#"{"event":"a","data":null}"#,
            r#"{"event":"a","data":[]}"#,
            r#"{"event":"a","data":{"x":NaN}}"#,
            r#"{"event":"a",}"#,
            r#"{"event":"a"} x"#,
            &deep,
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_device_id_has_one_to_two_hundred_characters() {
        let id = |id: &str| {
            let text = format!(r#"{{"event":"identify","data":{{"device_id":{id}}}}}"#);
            DeviceMessage::parse(&text).expect("a message").device_id()
        };
        let long = |n: usize| format!("\"{}\"", "é".repeat(n));
        assert_eq!(id(r#"" a""#).as_deref(), Some(" a"));
        assert_eq!(id(r#"1,"device_id":"b""#).as_deref(), Some("b"));
        assert_eq!(id(&long(200)).map(|id| id.len()), Some(400));
        for bad in [r#""""#, "5", "null", &long(201)] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
