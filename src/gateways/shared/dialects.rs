//! How a client in a terminal (`weirgate tail`) talks to each gateway: the greeting that it recognizes, the subscribe
//! request, and which messages are about the connection. [`Dialect`] explains the members. The contracts are in
//! `docs/reference/protocol-*.md`.

use sonic_rs::Serialize;

use crate::commands::{BusWord, Dialect};
use crate::gateways::channels::ChannelsGateway;
use crate::gateways::events::EventsGateway;
use crate::gateways::levels::client::LevelsGateway;
use crate::gateways::trades::SYMBOLS_PER_REQUEST_MAX;
use weirgate_wire::json::Json;

/// Levels and demo: a client gets the newest state at once, and subscribes to nothing.
pub(in crate::gateways) const LEVELS: Dialect = Dialect {
    path: LevelsGateway::PATH,
    ..Dialect::PLAIN
};

/// Trades: symbols.
pub(in crate::gateways) const TRADES: Dialect = Dialect {
    path: "/",
    names: "symbols",
    example: "AAPL",
    is_greeting: |message| {
        is(message, "type", "success") && is(message, "message", "Connected to WebSocket Gateway")
    },
    subscribe: |names| {
        let symbols = quoted(names);
        format!(r#"{{"action":"subscribe","symbols":{symbols},"status":true}}"#)
    },
    names_per_request: SYMBOLS_PER_REQUEST_MAX,
    refuses_whole: true,
    if_refused: "check the symbols, and how many the gateway (--symbols-max) or the token (maxSymbols) allows",
    status: |message| {
        let words = text(message, &["message"]).unwrap_or_default();
        match text(message, &["type"])?.as_str() {
            "success" => Some(words),
            "error" => Some(format!("the gateway refuses: {words}")),
            _ => None,
        }
    },
    bus: bus_word,
    grants: |message| match text(message, &["type"])?.as_str() {
        "success" if !(TRADES.is_greeting)(message) => Some(true),
        "error" => Some(false),
        _ => None,
    },
};

/// Channels: names and patterns.
pub(in crate::gateways) const CHANNELS: Dialect = Dialect {
    path: ChannelsGateway::PATH,
    names: "channels or patterns",
    example: "'market:tick:*'",
    is_greeting: |message| is(message, "type", "connected"),
    subscribe: |names| {
        let channels = quoted(names);
        format!(r#"{{"action":"subscribe","channels":{channels},"status":true}}"#)
    },
    names_per_request: usize::MAX,
    if_refused: "check the names, and the rights of the token or of DEFAULT_ROLE; --print-acl of weirgate channels shows \
        the table of roles, and --acl FILE replaces the table",
    status: |message| match text(message, &["type"])?.as_str() {
        "connected" => {
            let role = text(message, &["role"]).unwrap_or_default();
            Some(format!("the gateway gives the role {role}"))
        }
        "subscribed" => {
            let refused = texts(message, "errors").into_iter();
            let refused = refused.map(|words| format!("; the gateway refuses: {words}"));
            let granted = match texts(message, "channels").join(", ") {
                none if none.is_empty() => "to nothing".to_owned(),
                names => format!("to {names}"),
            };
            Some(format!(
                "subscribed {granted}{}",
                refused.collect::<String>()
            ))
        }
        "retained" => {
            let (name, count) = (
                text(message, &["channel"])?,
                Json::read(message.as_bytes()).ok()?.number(&["count"])?,
            );
            let missing = text(message, &["cut"]);
            let missing = missing.map(|cut| format!(", and others are missing ({cut})"));
            let missing = missing.unwrap_or_default();
            Some(format!("last values of {name}: {count}{missing}"))
        }
        "error" => {
            let words = text(message, &["error"]).unwrap_or_default();
            Some(format!("the gateway refuses: {words}"))
        }
        _ => None,
    },
    bus: bus_word,
    grants: |message| match text(message, &["type"])?.as_str() {
        "subscribed" => Some(!texts(message, "channels").is_empty()),
        "error" => Some(false),
        _ => None,
    },
    ..Dialect::PLAIN
};

/// Events: the id of a device.
pub(in crate::gateways) const EVENTS: Dialect = Dialect {
    path: EventsGateway::PATH,
    names: "the id of the device",
    example: "DEVICE",
    is_greeting: |message| is(message, "event", "gateway.identify_required"),
    subscribe: |names| {
        let id = names.first().map(quoted).unwrap_or_default();
        format!(r#"{{"event":"identify","data":{{"device_id":{id}}}}}"#)
    },
    if_refused: "check the id of the device, and the token",
    status: |message| {
        let words = || text(message, &["error", "message"]).unwrap_or_default();
        match text(message, &["event"])?.as_str() {
            "gateway.identify_required" => Some("the gateway asks for a device id".to_owned()),
            "identify" if is(message, "type", "error") => {
                Some(format!("the gateway refuses: {}", words()))
            }
            "identify" => {
                let id = text(message, &["data", "device_id"]).unwrap_or_default();
                Some(format!("this is the device {id}"))
            }
            _ => None,
        }
    },
    grants: |message| {
        let is_answer = is(message, "event", "identify");
        is_answer.then(|| !is(message, "type", "error"))
    },
    ..Dialect::PLAIN
};

/// The status of the bus, as `docs/reference/resume.md` describes it.
fn bus_word(message: &str) -> Option<BusWord> {
    let message = Json::read(message.as_bytes()).ok()?;
    let is_status = message.text(&["type"]).as_deref() == Some("status");
    is_status.then(|| BusWord {
        is_up: message.text(&["bus"]).as_deref() != Some("away"),
        has_lost: message
            .get(&["lost"])
            .is_some_and(|lost| Json::of(&lost).parse() == Ok(true)),
    })
}

/// Text or texts as JSON.
fn quoted(value: &(impl Serialize + ?Sized)) -> String {
    sonic_rs::to_string(value).unwrap_or_default()
}

/// The text under a path of keys.
fn text(message: &str, path: &[&str]) -> Option<String> {
    Json::read(message.as_bytes()).ok()?.text(path)
}

/// The texts of a list.
fn texts(message: &str, key: &str) -> Vec<String> {
    let message = Json::read(message.as_bytes()).ok();
    let list = message.and_then(|message| message.get(&[key]));
    list.and_then(|list| Json::of(&list).parse().ok())
        .unwrap_or_default()
}

fn is(message: &str, key: &str, want: &str) -> bool {
    text(message, &[key]).as_deref() == Some(want)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRADE: &str = r#"{"type":"trade","data":{"symbol":"AAPL","price":1.5},"timestamp":1}"#;
    const WELCOME: &str =
        r#"{"type":"success","message":"Connected to WebSocket Gateway","data":{},"timestamp":1}"#;
    const CONNECTED: &str =
        r#"{"type":"connected","seq":1,"clientId":"c","role":"user","timestamp":"t"}"#;
    const WHO: &str =
        r#"{"type":"event","event":"gateway.identify_required","request_id":null,"data":null}"#;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn each_greeting_is_known_by_one_gateway() {
        let all = [LEVELS, TRADES, CHANNELS, EVENTS];
        for (message, want) in [
            (WELCOME, [false, true, false, false]),
            (CONNECTED, [false, false, true, false]),
            (WHO, [false, false, false, true]),
            (TRADE, [false; 4]),
            (r#"{"flow":{"n":1}}"#, [false; 4]),
            ("no JSON", [false; 4]),
            ("", [false; 4]),
        ] {
            assert_eq!(all.map(|one| (one.is_greeting)(message)), want, "{message}");
        }
    }

    #[test]
    fn requests_are_those_of_the_contracts() {
        let symbols = (TRADES.subscribe)(&owned(&["A", "B"]));
        let want = r#"{"action":"subscribe","symbols":["A","B"],"status":true}"#;
        assert_eq!(symbols, want);
        let channels = (CHANNELS.subscribe)(&owned(&["a:*", "\"b\""]));
        let want = r#"{"action":"subscribe","channels":["a:*","\"b\""],"status":true}"#;
        assert_eq!(channels, want);
        let device = (EVENTS.subscribe)(&owned(&["ann"]));
        let want = r#"{"event":"identify","data":{"device_id":"ann"}}"#;
        assert_eq!(device, want);
    }

    #[test]
    fn a_status_is_a_word_about_the_bus() {
        let word = |is_up, has_lost| Some(BusWord { is_up, has_lost });
        for (message, want) in [
            (
                r#"{"type":"status","bus":"away","timestamp":1}"#,
                word(false, false),
            ),
            (
                r#"{"type":"status","seq":3,"bus":"up","lost":true}"#,
                word(true, true),
            ),
            (
                r#"{"type":"status","bus":"up","pos":"a.b.1.0"}"#,
                word(true, false),
            ),
            (TRADE, None),
            (CONNECTED, None),
            ("no JSON", None),
        ] {
            assert_eq!((TRADES.bus)(message), want, "{message}");
            assert_eq!((CHANNELS.bus)(message), want, "{message}");
            assert_eq!((EVENTS.bus)(message), None, "{message}");
        }
    }

    #[test]
    fn each_request_is_granted_or_refused_by_one_message() {
        let identify =
            |kind| format!(r#"{{"type":"{kind}","event":"identify","data":{{"device_id":"a"}}}}"#);
        let (response, error) = (identify("response"), identify("error"));
        for (dialect, message, want) in [
            (TRADES, WELCOME, None),
            (TRADES, TRADE, None),
            (
                TRADES,
                r#"{"type":"success","message":"Successfully subscribed"}"#,
                Some(true),
            ),
            (TRADES, r#"{"type":"error","message":"no"}"#, Some(false)),
            (CHANNELS, CONNECTED, None),
            (CHANNELS, r#"{"type":"data","seq":3,"data":1}"#, None),
            (
                CHANNELS,
                r#"{"type":"subscribed","channels":["a"],"errors":["b"]}"#,
                Some(true),
            ),
            (
                CHANNELS,
                r#"{"type":"subscribed","channels":[],"errors":["b"]}"#,
                Some(false),
            ),
            (CHANNELS, r#"{"type":"error","error":"no"}"#, Some(false)),
            (EVENTS, WHO, None),
            (EVENTS, &response, Some(true)),
            (EVENTS, &error, Some(false)),
        ] {
            assert_eq!((dialect.grants)(message), want, "{message}");
        }
    }

    #[test]
    fn data_is_told_from_what_is_about_the_connection() {
        let status = |dialect: Dialect, message: &str| (dialect.status)(message);
        assert_eq!(status(TRADES, TRADE), None);
        let full = r#"{"type":"error","message":"Cannot subscribe: full","timestamp":1}"#;
        let found = status(TRADES, full).expect("a status");
        assert_eq!(found, "the gateway refuses: Cannot subscribe: full");
        assert_eq!(
            status(CHANNELS, r#"{"type":"data","seq":3,"data":1}"#),
            None
        );
        let some =
            r#"{"type":"subscribed","channels":["a"],"errors":["Access denied to channel: b"]}"#;
        let found = status(CHANNELS, some).expect("a status");
        let want = "subscribed to a; the gateway refuses: Access denied to channel: b";
        assert_eq!(found, want);
        let none = r#"{"type":"subscribed","channels":[],"errors":[]}"#;
        assert_eq!(
            status(CHANNELS, none).as_deref(),
            Some("subscribed to nothing")
        );
        let whole = r#"{"type":"retained","seq":4,"channel":"a.*","count":3}"#;
        let found = status(CHANNELS, whole).expect("a status");
        assert_eq!(found, "last values of a.*: 3");
        let cut = r#"{"type":"retained","seq":4,"channel":"a.*","count":3,"cut":"limit"}"#;
        let found = status(CHANNELS, cut).expect("a status");
        let want = "last values of a.*: 3, and others are missing (limit)";
        assert_eq!(found, want);
        let known = r#"{"type":"response","event":"identify","data":{"device_id":"ann"}}"#;
        let found = status(EVENTS, known).expect("a status");
        assert_eq!(found, "this is the device ann");
        let push = r#"{"type":"event","event":"lobby.updated","data":{}}"#;
        assert_eq!(status(EVENTS, push), None);
        for dialect in [TRADES, CHANNELS, EVENTS] {
            assert_eq!(status(dialect, "no JSON"), None);
        }
    }
}
