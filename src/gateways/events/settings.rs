//! The settings of the events gateway: the services, the limits of a device, and the bus between instances.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::gateways::events::bus::{ExchangeSettings, PART_BYTES_MAX};
use crate::gateways::events::proxy::ProxyLimits;
use crate::gateways::events::services::{Events, Services, default_url};
use crate::gateways::events::{EventsGatewaySettings, metrics};
use crate::gateways::shared::bus;
use crate::services::{CALL_CONNECTION_BYTES, CONNECTION_BYTES, Upstream};
use weirgate_core::Limits;
use weirgate_server::settings::{
    Checked, CheckedValue, Form, Groups, Heading, Kind, Milli, RefusedValue, RowChange, SecretText,
    SecretUrl, Setting, SettingsError, Shows, Unit, With, without_secrets,
};
use weirgate_server::telemetry::MetricName;
use weirgate_server::{field, flag, group};
use weirgate_wire::admission::TrustedProxies;

group! {
    /// What the start of `weirgate events` needs: the services, and broadcasts.
    #[derive(Clone)]
    pub(super) struct EventsSettings {
        pub(super) lobby_url: String = default_url("lobby"),
        pub(super) measurement_url: String = default_url("measurement"),
        pub(super) simulation_url: String = default_url("simulation"),
        /// Routes beside those of the contract.
        pub(super) routes: Vec<RouteSettings> = Vec::new(),
        pub(super) upstream_ca_file: Option<PathBuf> = None,
        pub(super) internal_auth_token: Option<SecretText> = None,
        /// The time limit for connecting to a service, and for each silence of it.
        pub(super) http_timeout_ms: i64 = 10_000,
        /// Bytes of the body of a broadcast.
        pub(super) broadcast_bytes_max: usize = 64 * 1024 * 1024,
        /// Bytes of the bodies of all broadcasts.
        pub(super) broadcasts_bytes_max: u64 = 128 * 1024 * 1024,
        /// Bytes of the response of a service to one call.
        pub(super) answer_bytes_max: usize = 64 * 1024 * 1024,
        /// Bytes of the responses of services to all calls.
        pub(super) answers_bytes_max: usize = 128 * 1024 * 1024,
        /// Bytes of the connections for calls, each `CALL_CONNECTION_BYTES`.
        pub(super) call_bytes_max: u64 = 100 * CALL_CONNECTION_BYTES,
    }
}

impl EventsSettings {
    /// The table of services.
    pub(super) fn services(&self) -> Services {
        let urls = [&self.lobby_url, &self.measurement_url, &self.simulation_url];
        let mut table = Services::new(urls.map(Clone::clone));
        for RouteSettings { events, url } in &self.routes {
            if let Err(refusal) = table.route(events.clone(), url) {
                unreachable!("the form of --route has checked it: {refusal}");
            }
        }
        table
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The base URL of a service.
static SERVICE: Form = Form::new("URL", SERVICE_ALLOWED, |text| {
    let upstream = Upstream::parse(text);
    let shown = upstream.map(|upstream| upstream.to_string());
    shown.ok_or_else(|| RefusedValue::new(text, SERVICE_ALLOWED))
})
.url();

const SERVICE_ALLOWED: &str = "http://HOST:PORT/PATH or https://HOST:PORT/PATH";

/// A route beside those of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteSettings {
    events: Events,
    /// The base URL of the service.
    url: String,
}

impl fmt::Display for RouteSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.events, self.url)
    }
}

/// The syntax of one route.
const ROUTE: &str = "EVENTS=URL";

/// The form of `--route`.
static ROUTES: Form = Form::new(ROUTE, ROUTE, |text| {
    parse_routes(text).map(|routes| joined_by_space(&routes))
})
.repeated();

const EVENTS_ALLOWED: &str = "an event such as orders.create, or orders.* for all that begin with orders.; neither \
     identify nor gateway.*";

/// Parses routes separated by spaces, and checks them against each other and those of the contract.
///
/// # Errors
/// The first route that is not allowed.
#[cfg_attr(
    not(test),
    allow(
        clippy::disallowed_methods,
        reason = "the text of a setting, not of a message"
    )
)]
fn parse_routes(text: &str) -> Result<Vec<RouteSettings>, RefusedValue> {
    let mut table = Services::default();
    let routes = text.split_whitespace();
    let route = |item| {
        let route = parse_route(item, &mut table);
        route.map_err(|refused| match text.contains(['@', '?']) {
            // A password may have spaces and equals signs, so any piece of the text may be a piece of one.
            true => RefusedValue::new(
                &without_secrets(text),
                format!("{ROUTE} with {SERVICE_ALLOWED}, without a user and a query"),
            ),
            false => refused,
        })
    };
    routes.map(route).collect()
}

/// Parses a route `EVENTS=URL` and adds it to `table`, which may refuse it. The error has the part that is wrong,
/// without secrets of a URL.
fn parse_route(item: &str, table: &mut Services) -> Result<RouteSettings, RefusedValue> {
    let no_route = || {
        let allowed = format!("{ROUTE}, several with space between them");
        RefusedValue::new(&without_secrets(item), allowed)
    };
    let (events, url) = item.split_once('=').ok_or_else(no_route)?;
    let events = Events::parse(events).ok_or_else(|| RefusedValue::new(events, EVENTS_ALLOWED))?;
    let no_url = |_| {
        let allowed = format!("{SERVICE_ALLOWED} after {events}=");
        RefusedValue::new(&without_secrets(url), allowed)
    };
    let url = (SERVICE.read)(url).map_err(no_url)?;
    let taken = table.route(events.clone(), &url);
    taken.map_err(|why| RefusedValue::new(&events.to_string(), why.to_string()))?;
    Ok(RouteSettings { events, url })
}

/// The routes as text, in the form in which the setting is written.
pub(super) fn joined_by_space(routes: &[RouteSettings]) -> String {
    let routes: Vec<_> = routes.iter().map(ToString::to_string).collect();
    routes.join(" ")
}

pub(super) const SERVICES: &[Setting] = &Heading("Services").of([
    Setting::new(
        "lobby-url",
        Kind::Form(&SERVICE),
        field!(EventsSettings, lobby_url),
        "Service for lobby.* and role.*",
    )
    .more(
        "If the URL has a path, it comes before the path of each request.",
    )
    .original_env(&["LOBBY_URL"])
    .in_short_help(),
    Setting::new(
        "measurement-url",
        Kind::Form(&SERVICE),
        field!(EventsSettings, measurement_url),
        "Service for measurement jobs",
    )
    .more("It gets measurement.create_job, measurement.get_job, measurement.get_audio_info and analysis.*.")
    .original_env(&["MEASUREMENT_URL"])
    .in_short_help(),
    Setting::new(
        "simulation-url",
        Kind::Form(&SERVICE),
        field!(EventsSettings, simulation_url),
        "Service for simulation.*",
    )
    .original_env(&["SIMULATION_URL"])
    .in_short_help(),
    Setting::new(
        "route",
        Kind::Form(&ROUTES),
        &With::<EventsSettings, String> {
            // The form has refused a text that does not parse.
            set: |events, text| events.routes = parse_routes(&text).unwrap_or_default(),
            get: |events| joined_by_space(&events.routes),
        },
        "Send further events to a service of your own; may be repeated",
    )
    .more(
        "orders.*=http://orders:8000 sends all events that begin with orders. to this URL; orders.create=URL sends one \
         event. At most 32 routes.",
    ),
    Setting::new(
        "upstream-ca-file",
        Kind::Path,
        field!(EventsSettings, upstream_ca_file),
        "PEM file of certificates to trust instead of the system's, for https:// services",
    ),
    Setting::new(
        "internal-auth-token",
        Kind::Secret,
        field!(EventsSettings, internal_auth_token),
        "Token that /internal/broadcast requires in the header X-Internal-Token",
    )
    .more("If it is empty, nobody can push.")
    .original_env_only(&["INTERNAL_AUTH_TOKEN"])
    .guessable(),
    Setting::new(
        "http-timeout-s",
        Kind::decimal(Unit::Seconds, (1, 86_400_000)),
        &With::<EventsSettings, Milli> {
            set: |events, milli| events.http_timeout_ms = milli.0,
            get: |events| Milli(events.http_timeout_ms),
        },
        "Time limit for connecting to a service, and for each silence during a call",
    )
    .original_env(&["HTTP_TIMEOUT_SECONDS"])
    .limit(
        "`upstream_error`, \"Upstream timeout\"",
        Shows::Metric(metrics::UPSTREAM_CALLS),
        "tests/calls/main.rs::a_service_that_says_nothing_is_given_up",
    ),
    Setting::count(
        "calls",
        (1, 10_000),
        field!(EventsGatewaySettings, calls_max),
        "Calls to all services at the same time",
    )
    .more("Each process has at least two for each service, so that a service that hangs leaves the others one.")
    .counts_all()
    .constant()
    .limit(
        "the call waits; addresses take turns. With little memory, there are [fewer](#connections-to-services): 20 at \
         `--memory-max` 64 MiB",
        Shows::Metric(MetricName::UPSTREAM_CALLS_IN_FLIGHT),
        "src/gateways/events/calls.rs::addresses_whose_calls_take_long_leave_slots_to_the_others",
    ),
    Setting::bytes(
        "call-bytes",
        (CALL_CONNECTION_BYTES, 1024 * 1024 * MIB),
        field!(EventsSettings, call_bytes_max),
        "Calls: memory of their connections to all services, 80 KiB each",
    )
    .more("If it holds fewer connections than the calls at the same time, there are fewer calls.")
    .share(40)
    .limit(
        "the call waits; idle connections are closed for new ones",
        Shows::Metric(MetricName::UPSTREAM_CALLS_IN_FLIGHT),
        "src/gateways/events/start.rs::connections_to_services_fit_in_their_memory_and_their_files",
    ),
    Setting::ms(
        "proxy-silence-timeout-ms",
        (1, 86_400_000),
        field!(ProxyLimits, silence_timeout_ms),
        "Proxy: time limit for connecting to a service, and for each of its silences",
    )
    .more("Time during which the client sends the request body does not count.")
    .limit(
        "504 `Upstream timeout`; after the head of the response is sent, the connection ends",
        Shows::Metric(metrics::PROXY_REQUESTS),
        "tests/http_proxy/faults.rs::a_service_that_says_nothing_is_a_timeout",
    ),
    Setting::count(
        "proxy-connections-max",
        (1, 10_000),
        field!(ProxyLimits, service_connections_max),
        "Proxy: open connections to one service, shared between client addresses",
    )
    .counts_all()
    .limit(
        "a request waits for at most `--proxy-silence-timeout-ms`, then gets 504; slow uploads, and \
         responses that the client reads slowly, are ended to make room",
        Shows::Metric(metrics::PROXY_WAITS),
        "tests/http_proxy/faults.rs::requests_beyond_the_connections_of_a_service_wait_for_one",
    ),
    Setting::bytes(
        "proxy-bytes",
        (CONNECTION_BYTES, 1024 * 1024 * MIB),
        field!(ProxyLimits, bytes_max),
        "Proxy: memory of its connections to all services, 200 KiB each",
    )
    .share(40)
    .limit(
        "as over `--proxy-connections-max`",
        Shows::Metric(metrics::PROXY_WAITS),
        "src/services/permits.rs::the_buffers_of_all_services_are_one_sum",
    ),
    Setting::bytes(
        "broadcast-bytes",
        (KIB, 1024 * MIB),
        field!(EventsSettings, broadcast_bytes_max),
        "Bytes of the body of one request to /internal/broadcast",
    )
    .share(30)
    .counts_each(&["all-broadcast-bytes", "frame-bytes-max"])
    .limit(
        "413",
        Shows::Elsewhere("the response"),
        "tests/blackbox/test_events_broadcast.py::test_a_body_over_its_limit_is_refused",
    ),
    Setting::bytes(
        "all-broadcast-bytes",
        (KIB, 1024 * 1024 * MIB),
        field!(EventsSettings, broadcasts_bytes_max),
        "Bytes of the bodies of all requests to /internal/broadcast in progress",
    )
    .more("A single body has room whatever its size.")
    .share(40)
    .limit(
        "503 with `Retry-After` for the bodies that [held the most for the longest](#shares)",
        Shows::Elsewhere("`weirgate_held_gave_way_total`, `of` `broadcast_bytes`"),
        "tests/blackbox/test_events_broadcast.py::test_bodies_that_are_not_finished_have_one_limit",
    ),
    Setting::bytes(
        "one-answer-bytes",
        (KIB, 64 * MIB),
        field!(EventsSettings, answer_bytes_max),
        "Calls: bytes of one response of a service",
    )
    .share(30)
    .counts_each(&["answer-bytes", "frame-bytes-max"])
    .limit(
        "`upstream_error`, \"Upstream answer too large\"",
        Shows::Metric(metrics::UPSTREAM_CALLS),
        "tests/calls/main.rs::an_answer_over_its_limit_is_not_read_to_its_end",
    ),
    Setting::bytes(
        "answer-bytes",
        (KIB, 1024 * 1024 * MIB),
        field!(EventsSettings, answers_bytes_max),
        "Calls: bytes of all responses of services that are read, decoded or parsed",
    )
    .share(30)
    .limit(
        "`upstream_error`, \"Upstream answer too large\", for the responses that [held the most for the \
         longest](#shares)",
        Shows::Metric(metrics::UPSTREAM_CALLS),
        "tests/calls/main.rs::answers_of_all_calls_have_one_limit",
    ),
]);

pub(super) const DEVICES: &[Setting] = &Heading("Devices").of([
    Setting::new(
        "rate-limit-rps",
        Kind::decimal(Unit::Count, (-1_000_000_000_000, 1_000_000_000_000)),
        &With::<EventsGatewaySettings, Milli> {
            set: |events, milli| events.rate_per_second_milli = milli.0.max(0).unsigned_abs(),
            get: |events| Milli(events.rate_per_second_milli as i64),
        },
        "Messages per second of one connection; 0 or less allows only the burst",
    )
    .original_env_only(&["RATE_LIMIT_RPS"])
    .limit(
        "`rate_limited`, and the message is dropped",
        Shows::Metric(metrics::EVENT_ERRORS),
        "tests/events_gateway.rs::size_comes_before_rate_and_rate_before_everything_else",
    ),
    Setting::new(
        "rate-limit-burst",
        Kind::decimal(Unit::Count, (-1_000_000_000_000, 1_000_000_000_000)),
        &With::<EventsGatewaySettings, Milli> {
            // A fraction of a message does not count.
            set: |events, milli| {
                let whole = milli.0.max(1_000) / 1_000;
                events.rate_burst = u32::try_from(whole).unwrap_or(u32::MAX);
            },
            get: |events| Milli(i64::from(events.rate_burst) * 1_000),
        },
        "Messages that one connection may send in a burst; at least 1",
    )
    .original_env_only(&["RATE_LIMIT_BURST"])
    .limit(
        "`RATE_LIMIT_RPS` applies",
        Shows::Metric(metrics::EVENT_ERRORS),
        "tests/events_gateway.rs::size_comes_before_rate_and_rate_before_everything_else",
    ),
    Setting::count(
        "orphans",
        (0, 1_000_000),
        field!(EventsGatewaySettings, orphans_max),
        "Messages of disconnected devices that wait to be forwarded",
    )
    .more(
        "A client address may leave messages while it has left fewer than are free, so the devices \
        of one address fill half of the limit, and those of each further address half of the rest.",
    )
    .counts_all()
    .constant()
    .limit(
        "the newest messages of the disconnecting device are dropped",
        Shows::Metric(metrics::MESSAGES_FORGOTTEN),
        "tests/events_gateway/waiting.rs::devices_that_have_gone_leave_room_for_the_messages_of_other_addresses",
    ),
    Setting::bytes(
        "waiting-bytes",
        (MIB, 1024 * 1024 * MIB),
        field!(EventsGatewaySettings, waiting_bytes_max),
        "Memory of messages without a response, from all devices together",
    )
    .more(
        "A client address has room while its messages take less than is free, so one address fills \
        half of the limit, and each further address half of the rest. The last message may exceed \
        the limit.",
    )
    .share(30)
    .limit(
        "messages stay unread in the sockets, and client addresses take turns; unread messages of a disconnecting \
         device are dropped",
        Shows::Metric(MetricName::EVENT_WAITING_BYTES),
        "tests/events_gateway/waiting.rs::what_waits_is_bounded_over_all_connections",
    ),
]);

/// The shared rows with the defaults of the contract.
pub(super) const CHANGES: &[RowChange] = &[
    ("require-auth", |row| {
        row.more("The user of a token is then the device; requests to the proxy need a token too.")
    }),
    ("gateway-api-key", |row| {
        row.help("API key; a client with this key as token names its device itself")
    }),
    ("message-bytes-max", |row| {
        row.kind(Kind::number(Unit::Bytes, (1, 64 * MIB)))
            .original_env(&["MAX_MESSAGE_BYTES"])
            .limit(
                "`message_too_large`, and the message is dropped",
                Shows::Metric(metrics::EVENT_ERRORS),
                "tests/events_gateway.rs::size_comes_before_rate_and_rate_before_everything_else",
            )
    }),
    ("history-ms", |row| {
        row.help("How long pushes are kept for devices that resume; 0 for none")
                .more(
                    "If not 0, at least 20000. A device that reconnects to the same instance with its last position as \"since\" \
                     gets the pushes that it missed.",
                )
    }),
];

/// The defaults of the contract.
pub(super) fn defaults(groups: &mut Groups) {
    let limits: &mut Limits = groups.get_mut();
    limits.message_bytes_max = 65_536;
    let loopback = Ipv4Addr::LOCALHOST.to_string().parse();
    limits.trusted_proxies = TrustedProxies::Networks(loopback.into_iter().collect());
}

group! {
    /// The bus between instances.
    #[derive(Clone)]
    pub(super) struct EventsBusSettings {
        /// The bus; empty for none.
        pub(super) urls: SecretUrl = SecretUrl::new(""),
        /// The channel or subject of all instances.
        pub(super) name: String = "weirgate.events".to_owned(),
    }
}

/// Part of a subject, so without spaces and wildcards.
static NAME: Form = Form::new("NAME", NAME_ALLOWED, |text| {
    let word = |word: &str| {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:".contains(&byte);
        !word.is_empty() && word.bytes().all(is_good)
    };
    match text.len() <= 100 && text.split('.').all(word) {
        true => Ok(text.to_owned()),
        false => Err(RefusedValue::new(text, NAME_ALLOWED)),
    }
});

const NAME_ALLOWED: &str = "up to 100 letters, digits, - _ : and single dots between them";

pub(super) const BUS: &[Setting] = &Heading("Bus between instances").of([
    Setting::new(
        "events-bus",
        Kind::OptionalUrls(bus::SCHEMES),
        field!(EventsBusSettings, urls),
        "Redis or NATS through which several instances share pushes",
    )
    .more(
        "Redis: redis://USER:PASSWORD@HOST:PORT, rediss:// for TLS, or unix://USER:PASSWORD@/PATH. NATS: \
         nats://USER:PASSWORD@HOST:PORT, or tls:// for TLS; several servers are separated by commas. The settings \
         redis-* or nats-* add sentinels, certificates and logins. If it is empty, a push reaches only the devices of \
         this instance.",
    )
    .in_short_help(),
    Setting::new(
        "events-bus-name",
        Kind::Form(&NAME),
        field!(EventsBusSettings, name),
        "Redis channel or NATS subject that the instances share",
    )
    .more("Each instance also listens on this name followed by a dot and its id."),
    Setting::ms(
        "events-bus-wait-ms",
        (1, 60_000),
        field!(us ExchangeSettings, wait_us),
        "Time that a push waits for the counts of the other instances",
    )
    .limit(
        "the response names the instances in `missing`; the devices there may have got the push",
        Shows::Metric(metrics::EVENTS_BUS_PUSHES_INCOMPLETE),
        "tests/events_gateway/bus.rs::an_instance_that_does_not_answer_is_missing_and_then_forgotten",
    ),
    Setting::bytes(
        "events-bus-message-bytes-max",
        (KIB, PART_BYTES_MAX as u64),
        field!(ExchangeSettings, message_bytes_max),
        "Bytes of a push in one message on the bus between instances",
    )
    .more(
        "Set it to at most max_payload of the NATS server (1 MiB by default) less 256 bytes. Each instance accepts \
         messages of up to 16 MiB.",
    )
    .limit(
        "a larger push is sent in several messages",
        Shows::Metric(metrics::EVENTS_BUS_PUSHES_SENT),
        "tests/events_gateway/bus.rs::a_large_push_goes_in_parts",
    ),
]);

/// Checks these settings against each other: the URLs name one bus, and settings for a bus need a bus.
pub(super) fn check(checked: &Checked) -> Vec<SettingsError> {
    const URLS: &str = BUS[0].flag;
    let urls = checked.get::<EventsBusSettings>().urls;
    if checked.processes().is_supervisor() && urls.expose().is_empty() {
        let allowed =
            "1, unless --events-bus is set: a push would reach the devices of one process only";
        return vec![checked.refused_whole(flag!("processes"), allowed)];
    }
    if bus::are_ambiguous(&urls) {
        return vec![checked.refused(URLS, &RefusedValue::new(&urls.expose(), bus::ALLOWED))];
    }
    // Names of the replaced gateways may be in the environment for another gateway, so they do not count.
    let mut sentinels = checked.values().iter();
    let sentinels = sentinels.find(|value| value.setting.flag == flag!("redis-sentinels"));
    match urls.expose().is_empty() && sentinels.is_some_and(CheckedValue::is_meant) {
        true => {
            let allowed = "redis:// or rediss://, beside --redis-sentinels";
            vec![SettingsError::missing(&BUS[0], allowed)]
        }
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_read_back_as_they_are_shown() {
        assert_eq!(parse_routes(" "), Ok(Vec::new()));
        let text =
            "orders.*=http://orders:8000 orders.get=https://h/base lobby.chat.*=http://[::1]:9";
        assert_eq!((ROUTES.read)(text).as_deref(), Ok(text));
        let read = (ROUTES.read)("a=HTTP://H:80/x//\n\tb=http://b?".trim_end_matches('?'));
        assert_eq!(read.as_deref(), Ok("a=http://h/x b=http://b"));
    }

    #[test]
    fn the_first_wrong_route_is_named_without_a_secret() {
        for (text, item, allowed) in [
            ("s3cret", "***", "EVENTS=URL, several"),
            ("http://u:s3cret@h", "http://***", "EVENTS=URL with http"),
            ("a=http://a b", "***", "EVENTS=URL, several"),
            ("*=http://h", "*", "orders.* for all"),
            ("=http://h", "", "orders.* for all"),
            ("identify=http://h", "identify", "neither identify"),
            ("gateway.*=http://h", "gateway.*", "nor gateway.*"),
            ("a.*=s3cret", "***", "after a.*="),
            ("a.*=http://u:s3cret@h", "***", "EVENTS=URL with http"),
            ("a.*=http://u:p s3cret=x@h", "***", "without a user"),
            ("a.*=http://h?k=s3cret b", "***", "without a user"),
            ("a.*=ftp://h:1", "ftp://h:1", "http://HOST:PORT/PATH"),
            ("a.*=http://h a.*=http://h", "a.*", "these go to a.*"),
            ("role.*=http://h", "role.*", "these go to lobby"),
        ] {
            let refused = parse_routes(text).expect_err(text);
            assert_eq!(refused.item, item, "{text}");
            assert!(refused.allowed.contains(allowed), "{text}: {refused:?}");
            let shown = Kind::Form(&ROUTES).shown_when_wrong(&refused.item);
            assert!(!shown.contains("s3cret"), "{text}: {shown}");
        }
        let many: String = (0..33).map(|n| format!("r{n}=http://h ")).collect();
        let refused = parse_routes(&many).expect_err("too many");
        assert_eq!(
            (&*refused.item, &*refused.allowed),
            ("r32", "at most 32 routes")
        );
    }
}
