//! The parser of client messages (protocol-channels.md, "Messages").

use std::borrow::Cow;

use sonic_rs::LazyValue;

use crate::auth::Token;
use crate::gateways::shared::history::{Since, read_last, read_since};
use crate::gateways::shared::members::{members_of_request, read_max_rate, text_of};
use crate::gateways::shared::statuses::read_status;
use weirgate_core::MaxRate;
use weirgate_wire::json::{Json, JsonError, NotAList, TextList};

/// Values of a request beside the entries of `channels`.
const OTHER_VALUES_MAX: usize = 1_024;

/// The most bytes of the JSON text of `requestId`, and of `action`: an answer repeats them.
const REPEATED_BYTES_MAX: usize = 4_096;
const ID_TOO_LONG: &str = "requestId too long (max 4096 bytes)";
const ACTION_TOO_LONG: &str = "action too long (max 4096 bytes)";

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits {
    /// The most entries of `channels`, because each entry may be compared with the whole table of roles.
    pub(super) entries_max: usize,
    /// Whether a `last` other than `"all"` is read; otherwise it is ignored, as an unknown member is.
    pub(super) reads_last: bool,
}

/// The action of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// With the position after which the client resumes, and the messages of each name for a client that does not resume.
    Subscribe(TextList, Since, Option<Last>),
    Unsubscribe(TextList),
    /// With a new token.
    Authenticate(Token),
    Ping,
    /// With the client's own rate from now on.
    Rate(Option<MaxRate>),
    /// Another action: its name for the error.
    Unknown(String),
    /// Not a request: the error text, for a person.
    Wrong(Cow<'static, str>),
}

/// The `last` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// So many of the newest messages of each name.
    Newest(usize),
    /// All kept messages of each name.
    All,
}

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) action: Action,
    /// The id's JSON text, or `null`.
    pub(super) id: String,
    /// Whether the client wants the status of the bus from now on.
    pub(super) status: bool,
}

impl Request {
    /// A message that is not a request, without a readable id.
    pub(super) fn wrong(error: &'static str) -> Self {
        Self {
            action: Action::Wrong(error.into()),
            id: "null".to_owned(),
            status: false,
        }
    }

    /// Whether the client wants all kept messages of names.
    pub(super) fn asks_all(&self) -> bool {
        matches!(self.action, Action::Subscribe(_, _, Some(Last::All)))
    }

    /// Reads a text message.
    pub(super) fn parse(text: &str, limits: RequestLimits) -> Self {
        let names = [
            "action",
            "channels",
            "since",
            "last",
            "token",
            "requestId",
            "status",
            "max_hz",
        ];
        let values_max = limits.entries_max + OTHER_VALUES_MAX;
        match members_of_request(text, values_max, names) {
            Ok(members) => Self::read(members, limits),
            Err(JsonError::TooDense) => Self::wrong("Message has too many values or escapes"),
            // The text may be JSON all the same.
            Err(JsonError::NotAnObject) if Json::check(text.as_bytes()).is_ok() => {
                Self::wrong("Message must be a JSON object")
            }
            Err(_) => Self::wrong("Invalid JSON"),
        }
    }

    /// Makes a request of its members. A wrong member becomes [`Action::Wrong`], so that the answer has the request's id.
    fn read(
        [action, channels, since, last, token, id, status, max_hz]: [Option<LazyValue<'_>>; 8],
        limits: RequestLimits,
    ) -> Self {
        let id = raw(id.as_ref());
        if id.len() > REPEATED_BYTES_MAX {
            return Self::wrong(ID_TOO_LONG);
        }
        let channels = || read_channels(channels.as_ref(), limits.entries_max);
        let action = raw(action.as_ref());
        let named = Json::text_of(action);
        let action = match named.as_deref() {
            Some("subscribe") => channels().and_then(|channels| {
                let last = last.as_ref();
                let last = match last.and_then(text_of).is_some_and(|last| last == "all") {
                    true => Some(Last::All),
                    false => read_last(last.filter(|_| limits.reads_last))?.map(Last::Newest),
                };
                let since = read_since(since.as_ref());
                Ok(Action::Subscribe(channels, since, last))
            }),
            Some("unsubscribe") => channels().map(Action::Unsubscribe),
            Some("authenticate") => {
                let token = token.as_ref().and_then(text_of).and_then(Token::new);
                let token = token.ok_or(Cow::Borrowed("token must be a string"));
                token.map(Action::Authenticate)
            }
            Some("ping") => Ok(Action::Ping),
            Some("rate") => {
                let rate = read_max_rate(max_hz.as_ref());
                rate.map(Action::Rate).map_err(Cow::Borrowed)
            }
            _ if action.len() > REPEATED_BYTES_MAX => Err(ACTION_TOO_LONG.into()),
            Some(other) => Ok(Action::Unknown(other.to_owned())),
            // The contract has the word of the replaced gateway, in Python, for an action that is missing.
            None if action == "null" => Ok(Action::Unknown("None".to_owned())),
            None => Ok(Action::Unknown(Json::compact(action))),
        };
        Self {
            action: action.unwrap_or_else(Action::Wrong),
            id: id.to_owned(),
            status: read_status(status.as_ref()),
        }
    }
}

/// The JSON text of a member.
fn raw<'a>(member: Option<&'a LazyValue<'_>>) -> &'a str {
    member.map_or("null", LazyValue::as_raw_str)
}

/// Returns the channels; an error if any is not a string.
fn read_channels(
    channels: Option<&LazyValue<'_>>,
    entries_max: usize,
) -> Result<TextList, Cow<'static, str>> {
    let Some(channels) = channels else {
        return Ok(TextList::default());
    };
    TextList::read(channels, entries_max).map_err(|why| match why {
        NotAList::OtherValue => "channels must be a list of strings".into(),
        NotAList::TooLong => format!("channels must have at most {entries_max} entries").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::shared::members::members;

    /// Values and escapes of a request (`check_density`).
    const VALUES_MAX: usize = 131_072;
    const ESCAPES_MAX: usize = 262_144;

    fn parse(text: &str) -> (Action, String) {
        let limits = RequestLimits {
            entries_max: 100,
            reads_last: true,
        };
        let request = Request::parse(text, limits);
        (request.action, request.id)
    }

    fn wrong(text: &'static str) -> Action {
        Action::Wrong(text.into())
    }

    #[test]
    fn requests_and_their_ids() {
        let names = |json: &str| {
            let channels = format!(r#"{{"channels":{json}}}"#);
            let [list] = members(channels.as_bytes(), ["channels"]).expect("an object");
            TextList::read(&list.expect("a list"), 100).expect("texts")
        };
        for (text, action, id) in [
            (
                r#"{"action":"subscribe","channels":["a","b*","a"],"requestId":"r"}"#,
                Action::Subscribe(names(r#"["a","b*","a"]"#), Since::Absent, None),
                "\"r\"",
            ),
            (
                r#" { "requestId" : [1, 2.50] , "action" : "unsub\u0073cribe" , "channels" : [ ] } "#,
                Action::Unsubscribe(names("[ ]")),
                "[1, 2.50]",
            ),
            (
                r#"{"action":"subscribe"}"#,
                Action::Subscribe(TextList::default(), Since::Absent, None),
                "null",
            ),
            (r#"{"action":"ping","channels":5}"#, Action::Ping, "null"),
            (
                r#"{"action":"publish","action":"ping","requestId":1,"requestId":null,"x":[]}"#,
                Action::Ping,
                "null",
            ),
            (r#"{"action":"é"}"#, Action::Unknown("é".to_owned()), "null"),
            ("{}", Action::Unknown("None".to_owned()), "null"),
            (
                r#"{"action":null}"#,
                Action::Unknown("None".to_owned()),
                "null",
            ),
            (
                r#"{"action":{"a b" : [ 1.0, "c\" d" ] },"requestId":7}"#,
                Action::Unknown(r#"{"a b":[1.0,"c\" d"]}"#.to_owned()),
                "7",
            ),
        ] {
            assert_eq!(parse(text), (action, id.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_request() {
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(512), "]".repeat(512));
        for text in [
            "",
            "hello",
            "NaN",
            "{",
            "[1",
            "{\"action\":\"ping\"} x",
            "{\"action\":\"ping\",\"requestId\":NaN}",
            "{\"requestId\":\"\\ud800\"}",
            "\u{feff}{}",
            &deep,
        ] {
            assert_eq!(
                parse(text),
                (wrong("Invalid JSON"), "null".to_owned()),
                "{text}"
            );
        }
        for text in ["[1]", "5", "null", " \"ping\" "] {
            let says = wrong("Message must be a JSON object");
            assert_eq!(parse(text).0, says, "{text}");
        }
        for channels in [
            "null",
            "5",
            "\"a\"",
            "{}",
            "[5]",
            "[\"a\",null]",
            "[[\"a\"]]",
        ] {
            let text =
                format!("{{\"action\":\"subscribe\",\"channels\":{channels},\"requestId\":1}}");
            let says = wrong("channels must be a list of strings");
            assert_eq!(parse(&text), (says, "1".to_owned()), "{text}");
        }
        let many = vec!["\"a\""; 101].join(",");
        let many = parse(&format!(
            "{{\"action\":\"subscribe\",\"channels\":[{many}]}}"
        ));
        assert_eq!(many.0, wrong("channels must have at most 100 entries"));
    }

    #[test]
    fn what_would_take_long_to_read_is_refused_unread() {
        let dense = wrong("Message has too many values or escapes");
        let list = |count: usize| format!(r#"{{"x":[0{}]}}"#, ",0".repeat(count));
        let escapes = |count: usize| format!(r#"{{"action":"{}"}}"#, r"\n".repeat(count));
        let unknown = Action::Unknown("None".to_owned());
        assert_eq!(parse(&list(VALUES_MAX - 1)).0, unknown);
        assert_eq!(parse(&list(VALUES_MAX)).0, dense);
        assert_eq!(parse(&escapes(ESCAPES_MAX)).0, wrong(ACTION_TOO_LONG));
        assert_eq!(parse(&escapes(ESCAPES_MAX + 1)).0, dense);
        let members = |count: usize| format!(r#"{{{}"a":1}}"#, r#""":1,"#.repeat(count));
        assert_eq!(parse(&members(16_383)).0, unknown);
        assert_eq!(parse(&members(16_384)).0, wrong("Invalid JSON"));
    }

    #[test]
    fn what_an_answer_repeats_is_short() {
        let with_id = |bytes: usize| {
            let id = format!("\"{}\"", "r".repeat(bytes - 2));
            let (action, read) = parse(&format!(r#"{{"action":"ping","requestId":{id}}}"#));
            (action, read == id, read == "null")
        };
        assert_eq!(with_id(REPEATED_BYTES_MAX), (Action::Ping, true, false));
        let refused = (wrong(ID_TOO_LONG), false, true);
        assert_eq!(with_id(REPEATED_BYTES_MAX + 1), refused);
        let named = |bytes: usize| {
            let text = format!(r#"{{"action":"{}","requestId":1}}"#, "a".repeat(bytes - 2));
            parse(&text)
        };
        let unknown = Action::Unknown("a".repeat(REPEATED_BYTES_MAX - 2));
        assert_eq!(named(REPEATED_BYTES_MAX), (unknown, "1".to_owned()));
        let refused = (wrong(ACTION_TOO_LONG), "1".to_owned());
        assert_eq!(named(REPEATED_BYTES_MAX + 1), refused);
    }

    #[test]
    fn a_since_of_any_kind_is_read() {
        let since = |since: &str| {
            let text = format!("{{\"action\":\"subscribe\",\"since\":{since}}}");
            let Action::Subscribe(names, since, None) = parse(&text).0 else {
                panic!("a request: {text}");
            };
            assert_eq!(names.len(), 0);
            since
        };
        assert_eq!(since("null"), Since::Null);
        let at = |text: &str| Since::At(text.to_owned());
        assert_eq!(since(r#""m1.2""#), at("m1.2"));
        let long = format!("\"{}\"", "m".repeat(65));
        for bad in ["5", "true", "[]", r#"{"a":1}"#, r#""""#, &long] {
            assert_eq!(since(bad), at(""), "{bad}");
        }
    }
}
