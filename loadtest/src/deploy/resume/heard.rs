//! Texts of the two gateways whose clients resume, in a common form.

use serde_json::Value;

use crate::deploy::Gateway;

/// A message, as far as a client that resumes has to read it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The position, if the message has one.
    pub(super) pos: Option<String>,
    pub(super) what: What,
}

/// The kinds of message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The response to `subscribe`.
    Granted {
        /// The granted entries.
        entries: Vec<String>,
        /// Each entry that was resumed, with the reason if it was not recovered; none without
        /// `since`, and of a server without history.
        resumed: Vec<(String, Option<String>)>,
    },
    /// A published message.
    Data(Data),
    /// The state of the bus, as the server told it.
    Status {
        /// The bus is up, and nothing was lost.
        good: bool,
    },
    /// Anything else of a healthy conversation.
    Other,
    /// An error in the words of the server, or no message of the gateway at all.
    Strange,
}

/// A published message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// The entry of the client: a name or a pattern.
    pub(super) entry: String,
    pub(super) name: String,
    /// The number on the name.
    pub(super) n: u64,
    /// The number among the messages of all names.
    pub(super) all: u64,
}

/// The subscribe request for these entries.
pub(super) fn subscribe(gateway: Gateway, entries: &[String], since: Option<&str>) -> String {
    let key = match gateway {
        Gateway::Channels => "channels",
        _ => "symbols",
    };
    let mut request = serde_json::json!({"action": "subscribe", key: entries});
    if let Some(since) = since {
        request["since"] = since.into();
    }
    request.to_string()
}

/// Reads a text of the gateway.
pub(super) fn read(gateway: Gateway, text: &[u8]) -> Heard {
    let message: Value = serde_json::from_slice(text).unwrap_or_default();
    let what = match gateway {
        Gateway::Channels => channels(&message),
        _ => trades(&message),
    };
    Heard {
        pos: text_of(&message["pos"]),
        // A published message without its numbers would be neither lost nor double.
        what: what.unwrap_or(What::Strange),
    }
}

fn trades(message: &Value) -> Option<What> {
    let data = &message["data"];
    match message["type"].as_str()? {
        "trade" => {
            let symbol = text_of(&data["symbol"])?;
            data_of(symbol.clone(), symbol, &data["conditions"])
        }
        "success" if data["subscribed"].is_array() => {
            let entries = texts(&data["subscribed"]);
            // One boolean for all symbols of the request.
            let recovered = data["recovered"].as_bool();
            let why = |recovered: bool| (!recovered).then(|| why_of(&data["why"]));
            let resumed = recovered.map(|recovered| {
                let each = entries.iter().map(|e| (e.clone(), why(recovered)));
                each.collect()
            });
            Some(What::Granted {
                resumed: resumed.unwrap_or_default(),
                entries,
            })
        }
        "success" | "pong" => Some(What::Other),
        "status" => Some(status(message)),
        _ => None,
    }
}

fn channels(message: &Value) -> Option<What> {
    match message["type"].as_str()? {
        "data" => {
            let name = text_of(&message["channel"])?;
            let entry = text_of(&message["pattern"]).unwrap_or_else(|| name.clone());
            data_of(entry, name, &message["data"])
        }
        "subscribed" if message["errors"].as_array().is_none_or(Vec::is_empty) => {
            let recovered = message["recovered"].as_object();
            let each = recovered.into_iter().flatten().map(|(entry, recovered)| {
                let why = (recovered != &Value::Bool(true)).then(|| why_of(&message["why"][entry]));
                (entry.clone(), why)
            });
            Some(What::Granted {
                resumed: each.collect(),
                entries: texts(&message["channels"]),
            })
        }
        "connected" | "pong" => Some(What::Other),
        "status" => Some(status(message)),
        _ => None,
    }
}

fn data_of(entry: String, name: String, numbers: &Value) -> Option<What> {
    Some(What::Data(Data {
        entry,
        name,
        n: numbers["n"].as_u64()?,
        all: numbers["all"].as_u64()?,
    }))
}

fn status(message: &Value) -> What {
    What::Status {
        good: message["bus"] == "up" && message["lost"] != true,
    }
}

fn why_of(value: &Value) -> String {
    text_of(value).unwrap_or_else(|| "no reason".into())
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(text_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(gateway: Gateway, text: &str) -> Heard {
        read(gateway, text.as_bytes())
    }

    fn data(entry: &str, name: &str, n: u64, all: u64) -> What {
        What::Data(Data {
            entry: entry.to_owned(),
            name: name.to_owned(),
            n,
            all,
        })
    }

    fn granted(entries: &[&str], resumed: &[(&str, Option<&str>)]) -> What {
        let of = |(entry, why): &(&str, Option<&str>)| (entry.to_string(), why.map(str::to_owned));
        What::Granted {
            entries: entries.iter().map(ToString::to_string).collect(),
            resumed: resumed.iter().map(of).collect(),
        }
    }

    #[test]
    fn requests_have_the_position_only_when_there_is_one() {
        let entries = ["A".to_owned(), "B".to_owned()];
        assert_eq!(
            subscribe(Gateway::Trades, &entries, None),
            r#"{"action":"subscribe","symbols":["A","B"]}"#
        );
        assert_eq!(
            subscribe(Gateway::Channels, &entries, Some("m1.2")),
            r#"{"action":"subscribe","channels":["A","B"],"since":"m1.2"}"#
        );
    }

    #[test]
    fn trades_are_read() {
        let heard = |text: &str| heard(Gateway::Trades, text);
        let trade = heard(
            r#"{"type":"trade","data":{"symbol":"A","price":1,"conditions":{"n":3,"all":9}},"timestamp":1,"pos":"m1.2"}"#,
        );
        assert_eq!(trade.what, data("A", "A", 3, 9));
        assert_eq!(trade.pos.as_deref(), Some("m1.2"));
        let answer = |more: &str| {
            heard(&format!(
                r#"{{"type":"success","message":"","data":{{"subscribed":["A","B"],"currentSubscriptions":[]{more}}},"timestamp":1}}"#
            ))
            .what
        };
        let both = ["A", "B"];
        assert_eq!(answer(""), granted(&both, &[]));
        let is = |why| [("A", why), ("B", why)];
        assert_eq!(answer(r#","recovered":true"#), granted(&both, &is(None)));
        let gap = answer(r#","recovered":false,"why":"gap""#);
        assert_eq!(gap, granted(&both, &is(Some("gap"))));
        let welcome = heard(r#"{"type":"success","message":"","data":{"connectionId":"x"}}"#);
        assert_eq!((welcome.what, welcome.pos), (What::Other, None));
        assert_eq!(
            heard(r#"{"type":"error","message":"x"}"#).what,
            What::Strange
        );
        assert_eq!(
            heard(r#"{"type":"trade","data":{"symbol":"A"}}"#).what,
            What::Strange
        );
        assert_eq!(heard(r#"{"type":"tra"#).what, What::Strange);
    }

    #[test]
    fn channels_are_read() {
        let heard = |text: &str| heard(Gateway::Channels, text);
        let on = |pattern: &str| {
            heard(&format!(
                r#"{{"type":"data","seq":3,"channel":"a:b","pattern":{pattern},"data":{{"n":1,"all":2}},"timestamp":"","pos":"m1.2"}}"#
            ))
            .what
        };
        assert_eq!(on("null"), data("a:b", "a:b", 1, 2));
        assert_eq!(on(r#""a:*""#), data("a:*", "a:b", 1, 2));
        let answer = heard(
            r#"{"type":"subscribed","seq":2,"channels":["a:*","x"],"errors":[],"requestId":null,"recovered":{"a:*":true,"x":false},"why":{"x":"off"},"timestamp":""}"#,
        );
        let resumed = [("a:*", None), ("x", Some("off"))];
        assert_eq!(answer.what, granted(&["a:*", "x"], &resumed));
        let refused = heard(r#"{"type":"subscribed","channels":[],"errors":["Access denied"]}"#);
        assert_eq!(refused.what, What::Strange);
    }

    #[test]
    fn a_status_tells_of_the_bus() {
        for (text, good) in [
            (r#"{"type":"status","bus":"up","pos":"m1.2"}"#, true),
            (r#"{"type":"status","bus":"away"}"#, false),
            (r#"{"type":"status","bus":"up","lost":true}"#, false),
        ] {
            for gateway in [Gateway::Trades, Gateway::Channels] {
                assert_eq!(heard(gateway, text).what, What::Status { good });
            }
        }
    }
}
