//! What a client says, read once (contract channels: row messages).

use std::borrow::Cow;

use crate::wire::json::compact;
use crate::wire::json::{JsonError, check_json, object_entries};

/// How large a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits {
    /// Levels of nesting.
    pub(super) depth_max: usize,
    /// Entries of `channels`: each may cost a look at the whole table of who may do what.
    pub(super) entries_max: usize,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Ping,
    /// Something else: how it is called in the error.
    Unknown(String),
    /// No request: the error for a person.
    Wrong(Cow<'static, str>),
}

/// One message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) action: Action,
    /// JSON as it came, or `null`.
    pub(super) id: String,
}

impl Request {
    /// What cannot be a request, and has no id that could be read.
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
            Ok(members) => members.read(limits.entries_max),
            // It may be JSON all the same.
            Err(JsonError::NotAnObject) if check_json(text.as_bytes(), depth_max).is_ok() => {
                Self::wrong("Message must be a JSON object")
            }
            Err(_) => Self::wrong("Invalid JSON"),
        }
    }
}

/// The members that count, each as its own text; of a repeated one the last.
#[derive(Default)]
struct Members {
    action: Option<String>,
    channels: Option<String>,
    id: Option<String>,
}

fn members(text: &[u8], depth_max: usize) -> Result<Members, JsonError> {
    let mut members = Members::default();
    for entry in object_entries(text, depth_max)? {
        let (name, value) = entry?;
        let member = match &*name {
            "action" => &mut members.action,
            "channels" => &mut members.channels,
            "requestId" => &mut members.id,
            _ => continue,
        };
        *member = Some(value.as_raw_str().to_owned());
    }
    Ok(members)
}

impl Members {
    fn read(self, entries_max: usize) -> Request {
        let action = self.action.as_deref().unwrap_or("null");
        let named = sonic_rs::from_str::<String>(action);
        let action = match named.as_deref() {
            Ok("subscribe") => self.channels(entries_max).map(Action::Subscribe),
            Ok("unsubscribe") => self.channels(entries_max).map(Action::Unsubscribe),
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

    /// All of them are texts, or none counts.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Action, String) {
        let limits = RequestLimits {
            depth_max: 8,
            entries_max: 100,
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
                Action::Subscribe(names(&["a", "b*", "a"])),
                "\"r\"",
            ),
            (
                r#" { "requestId" : [1, 2.50] , "action" : "unsub\u0073cribe" , "channels" : [ ] } "#,
                Action::Unsubscribe(Vec::new()),
                "[1, 2.50]",
            ),
            (
                r#"{"action":"subscribe"}"#,
                Action::Subscribe(Vec::new()),
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
}
