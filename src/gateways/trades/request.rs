//! The parser of client messages.

use std::fmt;

use sonic_rs::LazyValue;

use super::candles::Interval;
use super::client::Content;
use crate::gateways::shared::access::RATE_LIMIT_EXCEEDED;
use crate::gateways::shared::history::{Since, read_last, read_since};
use crate::gateways::shared::members::{members_of_request, text_of};
use crate::gateways::shared::statuses::read_status;
use weirgate_wire::json::{Json, JsonError, TextList};

/// The most symbols in a request.
pub(in crate::gateways) const SYMBOLS_PER_REQUEST_MAX: usize = 5;
/// The longest symbol, in UTF-16 code units, as the replaced gateway counted.
const SYMBOL_UNITS_MAX: usize = 10;

/// A well-formed request. Symbols are in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TradesRequest {
    Subscribe(Content, Subscribe),
    /// Symbols as the client wrote them, none of them checked: they may be too many for one turn. The content counts
    /// only if all symbols are right.
    Unsubscribe(&'static str, TextList, Result<Content, BadRequest>),
    /// Asks for a `pong`.
    Ping,
}

/// A `subscribe`, and the messages that follow the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscribe {
    /// One to five symbols.
    pub(super) symbols: Vec<String>,
    /// The position after which the client resumes.
    pub(super) since: Since,
    /// How many of the newest trades of each symbol the client gets, if it does not resume.
    pub(super) last: Option<usize>,
    /// Whether the client wants the status of the bus from now on.
    pub(super) status: bool,
}

impl Subscribe {
    /// Whether the client wants trades from before the request. `last_event_id`: the position of its event stream.
    pub(super) fn wants_earlier(&self, last_event_id: Option<&str>) -> bool {
        self.last.is_some() || self.since.resumes(last_event_id)
    }
}

/// Why a message is not a request; the text is for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadRequest {
    /// Not JSON.
    NotJson(JsonError),
    /// Not an object, or `action` is not a string.
    NoAction,
    /// An unknown action.
    Unknown(String),
    /// Wrong `symbols` for the action.
    Symbols {
        /// The action.
        action: &'static str,
        /// The error in `symbols`.
        why: BadSymbols,
    },
    /// An unknown `interval`; the value is the action.
    Interval(&'static str),
    /// A `last` out of range, with the reason.
    Last(&'static str),
    /// A request for the client's own rate: no trade may be left out, and running candles have a rate of their own.
    Rate,
    /// The client sends more than its rate.
    RateLimit,
}

/// The limits and features of a gateway.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepts {
    /// Whether requests for candles are known.
    pub(super) candles: bool,
    /// Whether `last` is read; otherwise `last` is an unknown member.
    pub(super) last: bool,
}

/// The error in `symbols`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadSymbols {
    Missing,
    NotAList,
    Empty,
    TooMany(usize),
    NotText(usize),
    EmptyText(usize),
    TooLong(usize),
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(error) => write!(f, "Invalid message: {error}"),
            Self::Rate => f.write_str("No rate: every trade is delivered"),
            Self::RateLimit => f.write_str(RATE_LIMIT_EXCEEDED),
            Self::NoAction => f.write_str("Invalid message format: missing action field"),
            Self::Unknown(action) => write!(f, "Unknown action: {action}"),
            Self::Symbols { action, why } => write!(f, "Invalid {action} message: {why}"),
            Self::Last(why) => write!(f, "Invalid subscribe message: {why}"),
            Self::Interval(action) => {
                write!(f, "Invalid {action} message: interval is not 1s, 1m or 5m")
            }
        }
    }
}

impl fmt::Display for BadSymbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("symbols is missing"),
            Self::NotAList => f.write_str("symbols is not a list"),
            Self::Empty => f.write_str("symbols is empty"),
            Self::TooMany(n) => {
                write!(
                    f,
                    "symbols has {n} entries, at most {SYMBOLS_PER_REQUEST_MAX} are allowed"
                )
            }
            Self::NotText(at) => write!(f, "symbols[{at}] is not a string"),
            Self::EmptyText(at) => write!(f, "symbols[{at}] is empty"),
            Self::TooLong(at) => {
                write!(
                    f,
                    "symbols[{at}] is longer than {SYMBOL_UNITS_MAX} characters"
                )
            }
        }
    }
}

impl TradesRequest {
    /// Reads a message. Members outside the contract are ignored; the last of repeated members counts.
    pub(super) fn parse(text: &str, accepts: Accepts) -> Result<Self, BadRequest> {
        let names = ["action", "symbols", "interval", "since", "last", "status"];
        // 0: no more values than the limit that all gateways have.
        let read = members_of_request(text, 0, names);
        let [action, symbols, interval, since, last, status] =
            read.map_err(|error| match error {
                // Another JSON value is not a request, but it is JSON.
                JsonError::NotAnObject => Json::check(text.as_bytes())
                    .map_or_else(BadRequest::NotJson, |_| BadRequest::NoAction),
                error => BadRequest::NotJson(error),
            })?;
        let status = read_status(status.as_ref());
        let action = action.as_ref().and_then(text_of);
        match action.as_deref() {
            None => Err(BadRequest::NoAction),
            Some("ping") => Ok(Self::Ping),
            Some("rate") => Err(BadRequest::Rate),
            Some("subscribe") => {
                let symbols = read_symbols("subscribe", symbols, SYMBOLS_PER_REQUEST_MAX)?;
                let last = last.as_ref().filter(|_| accepts.last);
                let asked = Subscribe {
                    symbols,
                    since: read_since(since.as_ref()),
                    last: read_last(last).map_err(BadRequest::Last)?,
                    status,
                };
                Ok(Self::Subscribe(Content::Trades, asked))
            }
            Some("unsubscribe") => {
                let action = "unsubscribe";
                let symbols = read_unchecked(action, symbols)?;
                Ok(Self::Unsubscribe(action, symbols, Ok(Content::Trades)))
            }
            Some("subscribe_candles") if accepts.candles => {
                let action = "subscribe_candles";
                let asked = Subscribe {
                    symbols: read_symbols(action, symbols, SYMBOLS_PER_REQUEST_MAX)?,
                    // Candles are not resumed, not even by an event stream.
                    since: Since::Null,
                    last: None,
                    status,
                };
                Ok(Self::Subscribe(read_interval(action, interval)?, asked))
            }
            Some("unsubscribe_candles") if accepts.candles => {
                let action = "unsubscribe_candles";
                let symbols = read_unchecked(action, symbols)?;
                let content = read_interval(action, interval);
                Ok(Self::Unsubscribe(action, symbols, content))
            }
            Some(other) => Err(BadRequest::Unknown(other.to_owned())),
        }
    }
}

/// Reads the interval of candles. A missing or unknown one is an error, which names the `action`.
fn read_interval(
    action: &'static str,
    value: Option<LazyValue<'_>>,
) -> Result<Content, BadRequest> {
    let label = value.as_ref().and_then(text_of);
    let interval = label.and_then(|label| Interval::named(&label));
    let candles = interval.map(Content::Candles);
    candles.ok_or(BadRequest::Interval(action))
}

fn read_symbols(
    action: &'static str,
    value: Option<LazyValue<'_>>,
    count_max: usize,
) -> Result<Vec<String>, BadRequest> {
    list_of_symbols(value, count_max).map_err(|why| BadRequest::Symbols { action, why })
}

/// Reads any number of symbols, which are texts but not checked further. A list with another value is an error, whose
/// first wrong entry is looked for at once.
fn read_unchecked(
    action: &'static str,
    value: Option<LazyValue<'_>>,
) -> Result<TextList, BadRequest> {
    match read_list(value.as_ref()) {
        Some(symbols) if symbols.len() > 0 => Ok(symbols),
        _ => {
            read_symbols(action, value, usize::MAX)?;
            // Does not occur: what the first reader refuses, the second refuses with the reason.
            let why = BadSymbols::NotAList;
            Err(BadRequest::Symbols { action, why })
        }
    }
}

/// Reads a list of texts of any length.
fn read_list(value: Option<&LazyValue<'_>>) -> Option<TextList> {
    TextList::read(value?, usize::MAX).ok()
}

/// Checks the length of a symbol, the entry `at` of its list.
pub(super) fn check_symbol(at: usize, symbol: &str) -> Result<(), BadSymbols> {
    match symbol.encode_utf16().take(SYMBOL_UNITS_MAX + 1).count() {
        0 => Err(BadSymbols::EmptyText(at)),
        n if n > SYMBOL_UNITS_MAX => Err(BadSymbols::TooLong(at)),
        _ => Ok(()),
    }
}

/// Reads symbols, in upper case. The error is the first fault among the first `count_max`; otherwise, if there are
/// more, their number.
fn list_of_symbols(
    value: Option<LazyValue<'_>>,
    count_max: usize,
) -> Result<Vec<String>, BadSymbols> {
    let value = value.ok_or(BadSymbols::Missing)?;
    let entries = value.into_array_iter().ok_or(BadSymbols::NotAList)?;
    let mut symbols = Vec::new();
    let mut count = 0;
    for (at, entry) in entries.enumerate() {
        count += 1;
        // The remaining symbols are only counted, for the error.
        if count > count_max {
            continue;
        }
        let symbol = entry.ok().and_then(|value| text_of(&value));
        let symbol = symbol.ok_or(BadSymbols::NotText(at))?;
        check_symbol(at, &symbol)?;
        symbols.push(symbol.to_uppercase());
    }
    match count {
        0 => Err(BadSymbols::Empty),
        n if n > count_max => Err(BadSymbols::TooMany(n)),
        _ => Ok(symbols),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::shared::members::members;

    fn parsed(text: &str) -> Result<TradesRequest, String> {
        parsed_with(text, false)
    }

    fn parsed_with(text: &str, candles: bool) -> Result<TradesRequest, String> {
        let accepts = Accepts {
            candles,
            last: true,
        };
        let read = match TradesRequest::parse(text, accepts) {
            Ok(TradesRequest::Unsubscribe(_, _, Err(bad))) => Err(bad),
            read => read,
        };
        read.map_err(|bad| bad.to_string())
    }

    fn symbols(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    fn subscribe(content: Content, since: Since, symbols: Vec<String>) -> TradesRequest {
        let asked = Subscribe {
            symbols,
            since,
            last: None,
            status: false,
        };
        TradesRequest::Subscribe(content, asked)
    }

    fn unsubscribe(action: &'static str, content: Content) -> TradesRequest {
        let list = br#"{"symbols":["A","B","C","D","E","F"]}"#;
        let [symbols] = members(list, ["symbols"]).expect("JSON");
        let symbols = read_list(symbols.as_ref()).expect("texts");
        TradesRequest::Unsubscribe(action, symbols, Ok(content))
    }

    fn subscribe_trades(list: &[&str]) -> TradesRequest {
        subscribe(Content::Trades, Since::Absent, symbols(list))
    }

    #[test]
    fn requests_are_read_and_symbols_upper_cased() {
        let cases = [
            (r#"{"action":"ping"}"#, TradesRequest::Ping),
            (
                r#" {"x":{"action":1},"action":"ping","symbols":5} "#,
                TradesRequest::Ping,
            ),
            (r#"{"action":"x","action":"ping"}"#, TradesRequest::Ping),
            (
                r#"{"symbols":["aapl"," b","stra\u00dfe"],"action":"subscribe"}"#,
                subscribe_trades(&["AAPL", " B", "STRASSE"]),
            ),
            (
                r#"{"action":"unsubscribe","symbols":["A","B","C","D","E","F"]}"#,
                unsubscribe("unsubscribe", Content::Trades),
            ),
            (
                r#"{"action":"subscribe","symbols":["ABCDEFGHIJ","\ud83d\ude00\ud83d\ude00\ud83d\ude00\ud83d\ude00\ud83d\ude00"]}"#,
                subscribe_trades(&["ABCDEFGHIJ", "😀😀😀😀😀"]),
            ),
        ];
        for (text, want) in cases {
            assert_eq!(parsed(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let subscribe = |symbols: &str| format!(r#"{{"action":"subscribe","symbols":{symbols}}}"#);
        let cases = [
            (
                "[1]".to_owned(),
                "Invalid message format: missing action field",
            ),
            (
                "null".to_owned(),
                "Invalid message format: missing action field",
            ),
            (
                r#""ping""#.to_owned(),
                "Invalid message format: missing action field",
            ),
            (
                r#"{"action":7}"#.to_owned(),
                "Invalid message format: missing action field",
            ),
            (
                r#"{"symbols":["A"]}"#.to_owned(),
                "Invalid message format: missing action field",
            ),
            (r#"{"action":"PING"}"#.to_owned(), "Unknown action: PING"),
            (
                r#"{"action":"rate","max_hz":2}"#.to_owned(),
                "No rate: every trade is delivered",
            ),
            (
                r#"{"action":"subscribe"}"#.to_owned(),
                "Invalid subscribe message: symbols is missing",
            ),
            (
                r#"{"action":"unsubscribe"}"#.to_owned(),
                "Invalid unsubscribe message: symbols is missing",
            ),
            (
                subscribe("\"A\""),
                "Invalid subscribe message: symbols is not a list",
            ),
            (
                subscribe("[]"),
                "Invalid subscribe message: symbols is empty",
            ),
            (
                subscribe("[1]"),
                "Invalid subscribe message: symbols[0] is not a string",
            ),
            (
                subscribe(r#"["A",""]"#),
                "Invalid subscribe message: symbols[1] is empty",
            ),
            (
                subscribe(r#"["A","ABCDEFGHIJK"]"#),
                "Invalid subscribe message: symbols[1] is longer than 10 characters",
            ),
            (
                subscribe(r#"["A","B","C","D","E","F","G"]"#),
                "Invalid subscribe message: symbols has 7 entries, at most 5 are allowed",
            ),
        ];
        for (text, want) in cases {
            assert_eq!(parsed(&text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn candles_have_a_symbol_and_an_interval() {
        let asked = |action: &str, rest: &str| format!(r#"{{"action":"{action}",{rest}}}"#);
        let good = r#""symbols":["aapl"],"interval":"5m""#;
        let text = asked("subscribe_candles", good);
        let candles = Content::Candles(Interval::FiveMinutes);
        let want = subscribe(candles, Since::Null, symbols(&["AAPL"]));
        assert_eq!(parsed_with(&text, true), Ok(want));
        let many = r#""interval":"1s","symbols":["A","B","C","D","E","F"]"#;
        let text = asked("unsubscribe_candles", many);
        let content = Content::Candles(Interval::Second);
        let want = unsubscribe("unsubscribe_candles", content);
        assert_eq!(parsed_with(&text, true), Ok(want));
        for (rest, why) in [
            (r#""interval":"1m""#, "symbols is missing"),
            (r#""symbols":["A"]"#, "interval is not 1s, 1m or 5m"),
            (
                r#""symbols":["A"],"interval":"2m""#,
                "interval is not 1s, 1m or 5m",
            ),
            (
                r#""symbols":["A"],"interval":["1m"]"#,
                "interval is not 1s, 1m or 5m",
            ),
        ] {
            for action in ["subscribe_candles", "unsubscribe_candles"] {
                let want = Err(format!("Invalid {action} message: {why}"));
                assert_eq!(parsed_with(&asked(action, rest), true), want, "{rest}");
            }
        }
        let want = Err(
            "Invalid subscribe_candles message: symbols has 6 entries, at most 5 are \
                        allowed"
                .to_owned(),
        );
        assert_eq!(parsed_with(&asked("subscribe_candles", many), true), want);
    }

    #[test]
    fn without_candles_there_are_no_such_actions() {
        for action in ["subscribe_candles", "unsubscribe_candles"] {
            let text = format!(r#"{{"action":"{action}","symbols":["A"],"interval":"1m"}}"#);
            assert_eq!(parsed(&text), Err(format!("Unknown action: {action}")));
        }
    }

    #[test]
    fn what_would_take_long_to_read_is_refused_unread() {
        let list = |count: usize| format!(r#"{{"x":[0{}]}}"#, ",0".repeat(count));
        let missing = Err("Invalid message format: missing action field".to_owned());
        assert_eq!(parsed(&list(131_071)), missing);
        let dense = Err("Invalid message: JSON has too many values or escapes".to_owned());
        assert_eq!(parsed(&list(131_072)), dense);
    }

    #[test]
    fn what_is_no_json_is_told_where() {
        for text in [
            "hello",
            "",
            r#"{"action":"ping""#,
            r#"{"action":"ping"} x"#,
            "NaN",
            r#"{"action":"\ud800"}"#,
            "\u{feff}{}",
        ] {
            let said = parsed(text).expect_err("no JSON");
            assert!(
                said.starts_with("Invalid message: not JSON at byte "),
                "{text}: {said}"
            );
        }
        let deep = "[".repeat(600);
        let said = parsed(&deep).expect_err("too deep");
        assert!(said.contains("deeper than 512"), "{said}");
    }
}
