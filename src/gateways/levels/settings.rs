//! The settings of the levels gateway, and of the demo's market.
//!
//! `--endpoint` opens another WebSocket path, whose clients get some keys of the payload.

use std::fmt;
use std::net::Ipv4Addr;

use crate::gateways::levels::client::LevelsGateway;
use crate::gateways::levels::feed::{Endpoint, LevelsFeedSettings};
use crate::gateways::levels::relay;
use crate::gateways::levels::relay::{RelaySettings, joined_by_space};
use weirgate_bus::simulated::SimulatedSettings;
use weirgate_core::Limits;
use weirgate_server::settings::{
    Checked, Form, Groups, Heading, Kind, ListenSettings, RefusedValue, RowChange, Setting,
    SettingsError, Unit, With,
};
use weirgate_server::{field, group};

group! {
    /// What the levels gateway reads.
    #[derive(Clone)]
    pub(super) struct LevelsSettings {
        pub(super) relays: Vec<RelaySettings> = Vec::new(),
        /// A word of [`WORDS`].
        market: String = AUTO.to_owned(),
    }
}

group! {
    /// The settings of the simulated market.
    #[derive(Clone)]
    pub(super) struct DemoSettings {
        pub(super) market: SimulatedSettings = SimulatedSettings {
        levels: 10,
        seed: 1,
    },
        pub(super) rate_hz: u32 = 4,
    }
}

/// The defaults of the demo.
pub(super) fn demo_defaults(groups: &mut Groups) {
    groups.get_mut::<Limits>().event_stream = true;
    let listen: &mut ListenSettings = groups.get_mut();
    listen.default_to(Ipv4Addr::LOCALHOST);
}

const RELAYS: Heading = Heading("Relays and endpoints");

/// The words of `--market`, the default first.
const WORDS: [&str; 3] = [AUTO, "on", OFF];
const AUTO: &str = "auto";
const OFF: &str = "off";

pub(super) const OF_LEVELS: &[Setting] = &RELAYS.of([
    Setting::new(
        "relay",
        Kind::Form(&relay::FORM),
        &With::<LevelsSettings, String> {
            // The form has refused a text that does not parse.
            set: |levels, text| levels.relays = relay::parse(&text).unwrap_or_default(),
            get: |levels| joined_by_space(&levels.relays),
        },
        "Relay another NATS subject under KEY; may be repeated",
    )
    .more(
        "A new client gets the last message of the subject. stream names the JetStream stream, by default the one that \
         holds the subject; weirgate never creates it. durable names the durable consumer, by default gateway_KEY.",
    )
    .in_short_help(),
    Setting::new(
        "market",
        Kind::Choice(&WORDS),
        field!(LevelsSettings, market),
        "Whether to read levels.signals and market.flow too",
    )
    .more(
        "on: always; weirgate creates their streams if they are missing. off: never; needs a --relay. auto: without a \
         --relay, like on; with a --relay, as soon as the stream LEVEL_SIGNALS or MARKET_DATA exists.",
    ),
]);

pub(super) const OF_BOTH: &[Setting] = &RELAYS.of([
    Setting::new(
        "endpoint",
        Kind::Form(&ENDPOINTS),
        &With::<LevelsFeedSettings, String> {
            // The form has refused a text that does not parse.
            set: |levels, text| levels.endpoints = parse(&text).unwrap_or_default(),
            get: |levels| joined_by_space(&levels.endpoints),
        },
        "Open another WebSocket path for only the named keys; may be repeated",
    )
    .more("Keys are flow, levels, viewport and, on levels, those of --relay."),
    Setting::new(
        "state-seq",
        Kind::Switch,
        field!(LevelsFeedSettings, is_numbered),
        "Number the messages of each path, under the key seq",
    ),
]);

pub(super) const SESSION: &[Setting] = &Heading("Trading session").of([Setting::new(
    "session-length-min",
    Kind::number(Unit::Minutes, (1, 870)),
    field!(LevelsFeedSettings, session_length_min),
    "Minutes after the open (09:30 New York) when bars_since_open stops rising",
)]);

pub(super) const OF_DEMO: &[Setting] = &Heading("Simulated market").of([
    Setting::count(
        "levels",
        (1, 1000),
        field!(DemoSettings, market.levels),
        "Price levels in each message",
    )
    .in_short_help(),
    Setting::new(
        "rate-hz",
        Kind::number(Unit::Hertz, (1, 10_000)),
        field!(DemoSettings, rate_hz),
        "Messages a second",
    )
    .in_short_help(),
    Setting::count(
        "seed",
        (0, u64::MAX),
        field!(DemoSettings, market.seed),
        "Seed of the random numbers: the same seed gives the same market",
    ),
]);

/// The demo listens on this machine only, and its help of `--listen` says so.
pub(super) const DEMO_CHANGES: &[RowChange] = &[("listen", |row| {
    row.more(
            "May be repeated. By default only this machine reaches the demo, also at [::1]; 0.0.0.0 opens the demo to the \
             network.",
        )
})];

/// Whether `levels.signals` and `market.flow` are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Market {
    /// If one of their streams exists.
    IfThere,
    /// Always; missing streams are made.
    On,
    /// Never.
    Off,
}

/// Whether the market is read, by the settings. Without a relay there is nothing else to read, so `auto` means `on`.
pub(super) fn market(own: &LevelsSettings) -> Market {
    match own.market.as_str() {
        AUTO if !own.relays.is_empty() => Market::IfThere,
        OFF => Market::Off,
        _ => Market::On,
    }
}

/// The error of settings with nothing to read.
pub(super) fn nothing_to_read(checked: &Checked) -> Option<SettingsError> {
    let own: LevelsSettings = checked.get();
    let is_nothing = market(&own) == Market::Off && own.relays.is_empty();
    let allowed = "auto, on, or at least one --relay beside off";
    // The second row is `--market`.
    is_nothing.then(|| checked.refused(OF_LEVELS[1].flag, &RefusedValue::new(OFF, allowed)))
}

/// The syntax of one endpoint.
const ENDPOINT: &str = "PATH=KEY[,KEY…]";

/// The form of `--endpoint`.
static ENDPOINTS: Form = Form::new(ENDPOINT, ENDPOINT, |text| {
    parse(text).map(|endpoints| joined_by_space(&endpoints))
})
.repeated();

/// The paths that plain HTTP uses. A path that ends with `/` includes everything below it, except for `/` itself.
const HTTP_PATHS: [&str; 10] = [
    "/health",
    "/ready",
    "/stats",
    "/metrics",
    "/weirgate.js",
    "/weirgate.d.ts",
    "/event-stream.js",
    "/event-stream.d.ts",
    "/page/",
    "/",
];

/// Whether plain HTTP uses the path.
pub(super) fn is_http_path(path: &str) -> bool {
    let mut taken = HTTP_PATHS.iter();
    taken.any(|taken| {
        path == *taken || (*taken != "/" && taken.ends_with('/') && path.starts_with(taken))
    })
}

/// Parses endpoints separated by spaces, and checks their paths against each other.
///
/// # Errors
/// The first endpoint that is not allowed.
#[cfg_attr(
    not(test),
    allow(
        clippy::disallowed_methods,
        reason = "the text of a setting, not of a message"
    )
)]
fn parse(text: &str) -> Result<Vec<Endpoint>, RefusedValue> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for item in text.split_whitespace() {
        let endpoint = parse_one(item).and_then(|endpoint| {
            match endpoints.iter().any(|other| other.topic == endpoint.topic) {
                true => Err("each path once".into()),
                false => Ok(endpoint),
            }
        });
        endpoints.push(endpoint.map_err(|allowed| RefusedValue::new(item, allowed))?);
    }
    Ok(endpoints)
}

/// Parses an endpoint `PATH=KEY[,KEY…]`. The error says what is allowed.
fn parse_one(item: &str) -> Result<Endpoint, String> {
    let Some((path, keys)) = item.split_once('=') else {
        return Err(format!("{ENDPOINT}, several with space between them"));
    };
    // The characters of a path (RFC 3986 §3.3), without `=`.
    let of_path = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;:@%".contains(c);
    if !path.starts_with('/') || !path.chars().all(of_path) {
        return Err("a path that begins with /, without query".into());
    }
    if path == LevelsGateway::PATH || is_http_path(path) {
        let http = HTTP_PATHS.join(", ");
        let stream = LevelsGateway::PATH;
        return Err(format!("a path other than {stream}, {http}"));
    }
    let keys: Vec<_> = keys.split(',').map(str::to_owned).collect();
    let repeated = (1..keys.len()).any(|i| keys[..i].contains(&keys[i]));
    if repeated || keys.iter().any(String::is_empty) {
        return Err("keys of the payload after the =, each once, with commas between them".into());
    }
    Ok(Endpoint {
        topic: path.into(),
        keys,
    })
}

impl Endpoint {
    /// If a key of this endpoint is not in `known`, returns the refusal of the endpoint.
    pub(super) fn unknown_key(&self, known: &[&str]) -> Option<RefusedValue> {
        let unknown = |key: &String| !known.contains(&key.as_str());
        let allowed = || format!("keys among {}", known.join(", "));
        self.keys
            .iter()
            .any(unknown)
            .then(|| RefusedValue::new(&self.to_string(), allowed()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.topic.as_str(), self.keys.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_they_are_shown() {
        for text in [
            "",
            "/ws/flow=flow",
            "/ws/levels=levels,viewport /a/%20,b=k=l",
        ] {
            assert_eq!((ENDPOINTS.read)(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn the_first_wrong_one_is_told_with_what_would_be_allowed() {
        for (text, item, allowed) in [
            ("/a=flow /b", "/b", "PATH=KEY["),
            ("a=flow", "a=flow", "begins with /"),
            ("/a?b=flow", "/a?b=flow", "without query"),
            ("/a#b=flow", "/a#b=flow", "without query"),
            ("/é=flow", "/é=flow", "without query"),
            (
                "/ws/stream=flow",
                "/ws/stream=flow",
                "other than /ws/stream",
            ),
            ("/=flow", "/=flow", "other than"),
            ("/health=flow", "/health=flow", "other than"),
            ("/metrics=flow", "/metrics=flow", "other than"),
            ("/a=flow /a=levels", "/a=levels", "each path once"),
            ("/a=", "/a=", "keys of the payload"),
            ("/a=flow,", "/a=flow,", "keys of the payload"),
            ("/a=flow,flow", "/a=flow,flow", "each once"),
        ] {
            let refused = parse(text).expect_err(text);
            assert_eq!(refused.item, item);
            assert!(refused.allowed.contains(allowed), "{text}: {refused:?}");
        }
    }

    #[test]
    fn keys_have_to_be_known() {
        let endpoints = parse("/a=flow,news").expect("good");
        assert_eq!(endpoints[0].unknown_key(&["news", "flow"]), None);
        let refused = endpoints[0].unknown_key(&["flow"]).expect("refused");
        assert_eq!(refused.item, "/a=flow,news");
        assert!(refused.allowed.contains("keys among flow"), "{refused:?}");
    }
}
