//! The parser of client messages (contract channels: row messages).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::history::{Epoch, Position};
use crate::auth::Token;
use crate::wire::json::compact;
use crate::wire::json::{JsonError, check_json, object_entries};

const WRONG_SINCE: &str = "since must be an object of {epoch, offset} by name";

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits {
    /// Levels of nesting.
    pub(super) depth_max: usize,
    /// Entries of `channels`, because each may be compared with the whole table of roles. The limit of
    /// `since` too.
    pub(super) entries_max: usize,
    /// Whether `since` is read; otherwise `since` is an unknown member.
    pub(super) reads_since: bool,
}

/// The last positions of a client, by name. `None`: the request has none.
pub(super) type Since = Option<BTreeMap<String, Position>>;

/// The action of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Subscribe(Vec<String>, Since),
    Unsubscribe(Vec<String>),
    /// With a new token.
    Authenticate(Token),
    Ping,
    /// Another action: its name for the error.
    Unknown(String),
    /// Not a request: the error for a person.
    Wrong(Cow<'static, str>),
}

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) action: Action,
    /// The id's JSON text, or `null`.
    pub(super) id: String,
}

impl Request {
    /// A message that is not a request, without a readable id.
    pub(super) fn wrong(error: &'static str) -> Self {
        Self {
            action: Action::Wrong(error.into()),
            id: "null".to_owned(),
        }
    }

    /// Reads a text message.
    pub(super) fn parse(text: &str, limits: RequestLimits) -> Self {
        let depth_max = limits.depth_max;
        match members(text.as_bytes(), depth_max) {
            Ok(members) => members.read(limits),
            // The text may be JSON all the same.
            Err(JsonError::NotAnObject) if check_json(text.as_bytes(), depth_max).is_ok() => {
                Self::wrong("Message must be a JSON object")
            }
            Err(_) => Self::wrong("Invalid JSON"),
        }
    }
}

/// The known members, each as JSON text; the last of repeated members counts.
#[derive(Default)]
struct Members {
    action: Option<String>,
    channels: Option<String>,
    since: Option<String>,
    token: Option<String>,
    id: Option<String>,
}

fn members(text: &[u8], depth_max: usize) -> Result<Members, JsonError> {
    let mut members = Members::default();
    for entry in object_entries(text, depth_max)? {
        let (name, value) = entry?;
        let member = match &*name {
            "action" => &mut members.action,
            "channels" => &mut members.channels,
            "since" => &mut members.since,
            "token" => &mut members.token,
            "requestId" => &mut members.id,
            _ => continue,
        };
        *member = Some(value.as_raw_str().to_owned());
    }
    Ok(members)
}

impl Members {
    fn read(self, limits: RequestLimits) -> Request {
        let entries_max = limits.entries_max;
        let action = self.action.as_deref().unwrap_or("null");
        let named = sonic_rs::from_str::<String>(action);
        let action = match named.as_deref() {
            Ok("subscribe") => self.subscribe(limits),
            Ok("unsubscribe") => self.channels(entries_max).map(Action::Unsubscribe),
            Ok("authenticate") => self.token().map(Action::Authenticate),
            Ok("ping") => Ok(Action::Ping),
            Ok(other) => Ok(Action::Unknown(other.to_owned())),
            Err(_) if action == "null" => Ok(Action::Unknown("None".to_owned())),
            Err(_) => Ok(Action::Unknown(compact(action))),
        };
        Request {
            action: action.unwrap_or_else(Action::Wrong),
            id: self.id.unwrap_or_else(|| "null".to_owned()),
        }
    }

    fn subscribe(&self, limits: RequestLimits) -> Result<Action, Cow<'static, str>> {
        let channels = self.channels(limits.entries_max)?;
        let since = self.since.as_deref().filter(|_| limits.reads_since);
        let since = since.map(|since| positions(since, limits)).transpose()?;
        Ok(Action::Subscribe(channels, since))
    }

    fn token(&self) -> Result<Token, Cow<'static, str>> {
        let token = self.token.as_deref().unwrap_or("null");
        let token: Option<String> = sonic_rs::from_str(token).ok();
        token
            .and_then(Token::new)
            .ok_or(Cow::Borrowed("token must be a string"))
    }

    /// Returns the channels; an error if any is not a string.
    fn channels(&self, entries_max: usize) -> Result<Vec<String>, Cow<'static, str>> {
        let Some(channels) = &self.channels else {
            return Ok(Vec::new());
        };
        let names: Vec<String> =
            sonic_rs::from_str(channels).map_err(|_| "channels must be a list of strings")?;
        if names.len() > entries_max {
            return Err(format!("channels must have at most {entries_max} entries").into());
        }
        Ok(names)
    }
}

/// Returns the positions; an error if any is not a position.
fn positions(
    since: &str,
    limits: RequestLimits,
) -> Result<BTreeMap<String, Position>, Cow<'static, str>> {
    let mut positions = BTreeMap::new();
    let entries = object_entries(since.as_bytes(), limits.depth_max).map_err(|_| WRONG_SINCE)?;
    for entry in entries {
        let (name, value) = entry.map_err(|_| WRONG_SINCE)?;
        let position = position(value.as_raw_str(), limits.depth_max).ok_or(WRONG_SINCE)?;
        positions.insert(name.into_owned(), position);
        if positions.len() > limits.entries_max {
            let max = limits.entries_max;
            return Err(format!("since must have at most {max} entries").into());
        }
    }
    Ok(positions)
}

/// Returns a position. The last of repeated members counts; unknown members are ignored.
fn position(text: &str, depth_max: usize) -> Option<Position> {
    let (mut epoch, mut offset) = (None, None);
    for entry in object_entries(text.as_bytes(), depth_max).ok()? {
        let (name, value) = entry.ok()?;
        match &*name {
            "epoch" => epoch = sonic_rs::from_str::<String>(value.as_raw_str()).ok(),
            "offset" => offset = sonic_rs::from_str::<u64>(value.as_raw_str()).ok(),
            _ => {}
        }
    }
    Some(Position {
        epoch: Epoch::parse(&epoch?),
        offset: offset?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Action, String) {
        let limits = RequestLimits {
            depth_max: 8,
            entries_max: 100,
            reads_since: true,
        };
        let request = Request::parse(text, limits);
        (request.action, request.id)
    }

    fn wrong(text: &'static str) -> Action {
        Action::Wrong(text.into())
    }

    #[test]
    fn requests_and_their_ids() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        for (text, action, id) in [
            (
                r#"{"action":"subscribe","channels":["a","b*","a"],"requestId":"r"}"#,
                Action::Subscribe(names(&["a", "b*", "a"]), None),
                "\"r\"",
            ),
            (
                r#" { "requestId" : [1, 2.50] , "action" : "unsub\u0073cribe" , "channels" : [ ] } "#,
                Action::Unsubscribe(Vec::new()),
                "[1, 2.50]",
            ),
            (
                r#"{"action":"subscribe"}"#,
                Action::Subscribe(Vec::new(), None),
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
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(8), "]".repeat(8));
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
    fn positions_are_read_whole_or_not_at_all() {
        let of = |since: &str| format!("{{\"action\":\"subscribe\",\"since\":{since}}}");
        let good =
            r#"{"a":{"epoch":"00000000000000ff","offset":41,"x":[]},"b":{"offset":0,"epoch":""}}"#;
        let position = |epoch, offset| Position {
            epoch: Epoch::parse(epoch),
            offset,
        };
        let want = [
            ("a".to_owned(), position("00000000000000ff", 41)),
            ("b".to_owned(), position("", 0)),
        ];
        let want = Action::Subscribe(Vec::new(), Some(want.into()));
        assert_eq!(parse(&of(good)).0, want);
        assert_eq!(Epoch::new(255), Epoch::parse("00000000000000ff"));
        for foreign in ["ff", "00000000000000FF", "x", "+0000000000000ff"] {
            assert_ne!(Epoch::new(255), Epoch::parse(foreign), "{foreign}");
        }
        for bad in [
            "null",
            "5",
            "[]",
            r#"{"a":1}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"epoch":"0"}}"#,
            r#"{"a":{"epoch":0,"offset":0}}"#,
            r#"{"a":{"epoch":"0","offset":-1}}"#,
            r#"{"a":{"epoch":"0","offset":1.5}}"#,
            r#"{"a":{"epoch":"0","offset":"1"}}"#,
            r#"{"a":{"epoch":"0","offset":18446744073709551616}}"#,
        ] {
            assert_eq!(parse(&of(bad)).0, wrong(WRONG_SINCE), "{bad}");
        }
        let one = r#":{"epoch":"","offset":1}"#;
        let many: Vec<String> = (0..101).map(|n| format!("\"{n}\"{one}")).collect();
        let many = of(&format!("{{{}}}", many.join(",")));
        assert_eq!(parse(&many).0, wrong("since must have at most 100 entries"));
        let limits = RequestLimits {
            depth_max: 8,
            entries_max: 100,
            reads_since: false,
        };
        let ignored = Request::parse(&of("5"), limits).action;
        assert_eq!(ignored, Action::Subscribe(Vec::new(), None));
    }
}
