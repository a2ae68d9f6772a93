//! `/operator/state` as values. A missing member, or a member of another type, counts as absent: a newer
//! gateway may send more, an older gateway less.

use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use super::words::safe;
use crate::wire::json::check_depth;

/// Nesting of the JSON; a gateway needs five levels.
const DEPTH_MAX: usize = 32;
/// The most rows kept of each list.
const ROWS_MAX: usize = 100;

/// The state of a gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) gateway: String,
    pub(super) version: String,
    pub(super) now_unix_ms: f64,
    pub(super) uptime_s: f64,
    pub(super) is_ready: bool,
    pub(super) reasons: Vec<String>,
    /// `None` for a gateway without a bus.
    pub(super) bus: Option<Bus>,
    /// `None` before the first survey.
    pub(super) survey: Option<Survey>,
    pub(super) ends: Vec<End>,
    pub(super) limits: Vec<Limit>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bus {
    pub(super) is_connected: bool,
    pub(super) is_subscribed: bool,
    pub(super) away_ms: Option<f64>,
    pub(super) reconnects: f64,
    pub(super) refused: f64,
    pub(super) consumers: Vec<Consumer>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) lag: Option<f64>,
    pub(super) away_ms: Option<f64>,
    pub(super) is_stalled: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Survey {
    /// Between this survey and the one before, seconds; `None` for the first.
    pub(super) interval_s: Option<f64>,
    pub(super) clients: f64,
    pub(super) waiting: f64,
    pub(super) blocked: f64,
    pub(super) conflating: f64,
    pub(super) slowest: Vec<Client>,
    pub(super) busiest: Vec<Client>,
    pub(super) topics: f64,
    pub(super) busiest_topics: Vec<Topic>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Client {
    pub(super) client: String,
    pub(super) user: String,
    pub(super) path: String,
    pub(super) state: String,
    pub(super) age_ms: f64,
    pub(super) queue_messages: f64,
    pub(super) queue_bytes: f64,
    pub(super) oldest_ms: Option<f64>,
    pub(super) conflated: f64,
    pub(super) messages_in: f64,
    pub(super) messages_out: f64,
    pub(super) topics: f64,
    pub(super) topic: String,
    pub(super) recent_messages: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) members: f64,
    pub(super) recent_messages: f64,
    pub(super) recent_bytes: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct End {
    pub(super) at_unix_ms: f64,
    pub(super) client: String,
    pub(super) user: String,
    pub(super) path: String,
    pub(super) reason: String,
    pub(super) code: Option<f64>,
    pub(super) age_ms: f64,
    pub(super) messages_out: f64,
    pub(super) conflated: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) is_bytes: bool,
    pub(super) max: Option<f64>,
    pub(super) metric: String,
    pub(super) label: Option<(String, String)>,
    pub(super) of_one: bool,
    pub(super) max_metric: String,
}

impl State {
    /// Returns `None` if the text is not the JSON object of a gateway.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        check_depth(text, DEPTH_MAX).ok()?;
        let json: Value = sonic_rs::from_slice(text).ok()?;
        let json = Json(&json);
        let gateway = json.text("gateway");
        if gateway.is_empty() || json.find("ready").is_none() {
            return None;
        }
        Some(Self {
            gateway,
            version: json.text("version"),
            now_unix_ms: json.number("now_unix_ms"),
            uptime_s: json.number("uptime_seconds"),
            is_ready: json.is("ready"),
            reasons: json.texts("reasons"),
            bus: json.object("bus", bus),
            survey: json.object("survey", survey),
            ends: json.list("ends", end),
            limits: json.list("limits", limit),
        })
    }
}

/// A JSON object, and its members by type.
struct Json<'a>(&'a Value);

impl<'a> Json<'a> {
    fn find(&self, key: &str) -> Option<&'a Value> {
        self.0.as_object()?.get(&key)
    }

    fn maybe_number(&self, key: &str) -> Option<f64> {
        self.find(key)?.as_f64().filter(|value| value.is_finite())
    }

    fn number(&self, key: &str) -> f64 {
        self.maybe_number(key).unwrap_or(0.0)
    }

    fn is(&self, key: &str) -> bool {
        self.find(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, key: &str) -> String {
        let text = self.find(key).and_then(|value| value.as_str());
        safe(text.unwrap_or_default())
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let list = self.find(key).and_then(|value| value.as_array());
        list.into_iter().flat_map(|list| list.iter()).take(ROWS_MAX)
    }

    fn texts(&self, key: &str) -> Vec<String> {
        self.values(key)
            .filter_map(|value| value.as_str())
            .map(safe)
            .collect()
    }

    fn object<T>(&self, key: &str, read: impl Fn(&Json<'_>) -> T) -> Option<T> {
        let value = self.find(key).filter(|value| value.is_object())?;
        Some(read(&Json(value)))
    }

    fn list<T>(&self, key: &str, read: impl Fn(&Json<'_>) -> T) -> Vec<T> {
        let objects = self.values(key).filter(|value| value.is_object());
        objects.map(|value| read(&Json(value))).collect()
    }
}

fn bus(json: &Json<'_>) -> Bus {
    Bus {
        is_connected: json.is("connected"),
        is_subscribed: json.is("subscribed"),
        away_ms: json.maybe_number("away_ms"),
        reconnects: json.number("reconnects"),
        refused: json.number("refused"),
        consumers: json.list("consumers", |json| Consumer {
            name: json.text("name"),
            lag: json.maybe_number("lag"),
            away_ms: json.maybe_number("away_ms"),
            is_stalled: json.is("stalled"),
        }),
    }
}

fn survey(json: &Json<'_>) -> Survey {
    let interval_ms = json.maybe_number("interval_ms").filter(|ms| *ms > 0.0);
    Survey {
        interval_s: interval_ms.map(|ms| ms / 1e3),
        clients: json.number("clients"),
        waiting: json.number("clients_waiting"),
        blocked: json.number("clients_blocked"),
        conflating: json.number("clients_conflating"),
        slowest: json.list("slowest", client),
        busiest: json.list("busiest", client),
        topics: json.number("topics"),
        busiest_topics: json.list("busiest_topics", |json| Topic {
            name: json.text("name"),
            members: json.number("members"),
            recent_messages: json.number("recent_messages"),
            recent_bytes: json.number("recent_bytes"),
        }),
    }
}

fn client(json: &Json<'_>) -> Client {
    Client {
        client: json.text("client"),
        user: json.text("user"),
        path: json.text("path"),
        state: json.text("state"),
        age_ms: json.number("age_ms"),
        queue_messages: json.number("queue_messages"),
        queue_bytes: json.number("queue_bytes"),
        oldest_ms: json.maybe_number("oldest_ms"),
        conflated: json.number("conflated"),
        messages_in: json.number("messages_in"),
        messages_out: json.number("messages_out"),
        topics: json.number("topics"),
        topic: json.text("topic"),
        recent_messages: json.number("recent_messages"),
    }
}

fn end(json: &Json<'_>) -> End {
    End {
        at_unix_ms: json.number("at_unix_ms"),
        client: json.text("client"),
        user: json.text("user"),
        path: json.text("path"),
        reason: json.text("reason"),
        code: json.maybe_number("code"),
        age_ms: json.number("age_ms"),
        messages_out: json.number("messages_out"),
        conflated: json.number("conflated"),
    }
}

fn limit(json: &Json<'_>) -> Limit {
    let label = json.find("label").and_then(|label| label.as_object());
    let label = label.and_then(|label| label.iter().next());
    let label = label.and_then(|(name, value)| Some((safe(name), safe(value.as_str()?))));
    Limit {
        name: json.text("name"),
        is_bytes: json.is("is_bytes"),
        max: json.maybe_number("max"),
        metric: json.text("metric"),
        label,
        of_one: json.is("largest"),
        max_metric: json.text("max_metric"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::STATE;
    use super::*;

    #[test]
    fn the_state_of_a_gateway_is_read() {
        let state = State::parse(STATE.as_bytes()).expect("it is that of a gateway");
        assert_eq!((state.gateway.as_str(), state.is_ready), ("levels", true));
        let survey = state.survey.expect("somebody asked");
        assert_eq!((survey.clients, survey.slowest.len()), (3.0, 2));
        assert_eq!(survey.slowest[0].user, "ann");
        assert_eq!(survey.interval_s, Some(1.0));
        assert_eq!(survey.busiest_topics[0].recent_messages, 14.0);
        assert_eq!(state.bus.map(|bus| bus.consumers.len()), Some(1));
        assert_eq!(state.ends[0].code, Some(1013.0));
        assert_eq!(state.limits[0].max_metric, "weirgate_connections_max");
        let label = state.limits[2].label.as_ref();
        assert_eq!(
            label.map(|(name, value)| (name.as_str(), value.as_str())),
            Some(("kind", "pattern"))
        );
    }

    #[test]
    fn anything_else_is_no_state() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{}",
            "[1]",
            "null",
            "<html>",
            r#"{"gateway":1,"ready":true}"#,
            &deep,
        ] {
            assert_eq!(State::parse(text.as_bytes()), None, "{text:.20}");
        }
        assert_eq!(State::parse(b"{\"gateway\":\"\xff\",\"ready\":true}"), None);
    }

    #[test]
    fn members_of_other_types_are_absent() {
        let text = r#"{"gateway":"x","ready":1,"bus":[],"survey":{"slowest":[1,{"client":7}]},"ends":{},"limits":null,"uptime_seconds":"x"}"#;
        let state = State::parse(text.as_bytes()).expect("a gateway");
        assert_eq!(
            (state.is_ready, state.bus, state.ends.len()),
            (false, None, 0)
        );
        assert_eq!(
            state.survey.map(|survey| survey.slowest),
            Some(vec![Client::default()])
        );
    }
}
