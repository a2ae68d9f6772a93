//! The services behind the events gateway, and the limits of a device.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::admission::TrustedProxies;
use crate::http::services::{CONNECTION_BYTES, Upstream};
use crate::hub::Limits;
use crate::settings::{
    Change, Form, Groups, Heading, Kind, Milli, Refused, SecretText, Setting, Shows, Unit, With,
    field,
};
use crate::telemetry::names;

/// The settings of `weirgate events`.
#[derive(Clone)]
pub(super) struct EventsSettings {
    pub(super) lobby_url: String,
    pub(super) measurement_url: String,
    pub(super) simulation_url: String,
    pub(super) upstream_ca_file: Option<PathBuf>,
    pub(super) internal_auth_token: Option<SecretText>,
    /// For a connect, and for each silence of a service.
    pub(super) http_timeout_ms: i64,
    pub(super) proxy_silence_timeout_ms: u64,
    pub(super) proxy_connections_max: usize,
    pub(super) proxy_bytes_max: u64,
    /// Bytes of the body of a broadcast.
    pub(super) broadcast_bytes_max: usize,
    pub(super) rate_per_second_milli: i64,
    pub(super) rate_burst_milli: i64,
    pub(super) orphans_max: usize,
    pub(super) waiting_bytes_max: usize,
}

impl Default for EventsSettings {
    fn default() -> Self {
        let service = |name| format!("http://{name}:8000");
        Self {
            lobby_url: service("lobby"),
            measurement_url: service("measurement"),
            simulation_url: service("simulation"),
            upstream_ca_file: None,
            internal_auth_token: None,
            http_timeout_ms: 10_000,
            proxy_silence_timeout_ms: 60_000,
            proxy_connections_max: 256,
            proxy_bytes_max: 2 * 256 * CONNECTION_BYTES,
            broadcast_bytes_max: 64 * 1024 * 1024,
            rate_per_second_milli: 10_000,
            rate_burst_milli: 20_000,
            orphans_max: 10_000,
            waiting_bytes_max: 16 * 1024 * 1024,
        }
    }
}

const SERVICES: Heading = Heading("Services");
const DEVICES: Heading = Heading("Devices");
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The base URL of a service.
static SERVICE: Form = Form {
    placeholder: "URL",
    allowed: SERVICE_ALLOWED,
    repeats: false,
    is_url: true,
    read: |text| {
        let upstream = Upstream::parse(text);
        let shown = upstream.map(|upstream| upstream.to_string());
        shown.ok_or_else(|| Refused::new(text, SERVICE_ALLOWED))
    },
};

const SERVICE_ALLOWED: &str = "http://HOST:PORT/PATH or https://HOST:PORT/PATH";

pub(super) const OWN: &[Setting] = &[
    Setting::new(
        SERVICES,
        "lobby-url",
        Kind::Form(&SERVICE),
        field!(EventsSettings, lobby_url),
        "Service for lobby.* and role.*",
    )
    .more(
        "Also for sessions of measurement.*. A path in the URL of a service is kept, without \
         slashes at the end.",
    )
    .original_env(&["LOBBY_URL"])
    .in_short_help(),
    Setting::new(
        SERVICES,
        "measurement-url",
        Kind::Form(&SERVICE),
        field!(EventsSettings, measurement_url),
        "Service for measurement jobs",
    )
    .more("For jobs and audio of measurement.*, and for analysis.*.")
    .original_env(&["MEASUREMENT_URL"])
    .in_short_help(),
    Setting::new(
        SERVICES,
        "simulation-url",
        Kind::Form(&SERVICE),
        field!(EventsSettings, simulation_url),
        "Service for simulation.*",
    )
    .original_env(&["SIMULATION_URL"])
    .in_short_help(),
    Setting::new(
        SERVICES,
        "upstream-ca-file",
        Kind::Path,
        field!(EventsSettings, upstream_ca_file),
        "Certificates (PEM) to trust in place of the system's, for https:// services",
    ),
    Setting::new(
        SERVICES,
        "internal-auth-token",
        Kind::Secret,
        field!(EventsSettings, internal_auth_token),
        "Required value of X-Internal-Token for /internal/broadcast",
    )
    .more("Empty: nobody can push.")
    .original_env_only(&["INTERNAL_AUTH_TOKEN"]),
    Setting::new(
        SERVICES,
        "http-timeout-s",
        Kind::decimal(Unit::Seconds, (1, 86_400_000)),
        &With::<EventsSettings, Milli> {
            set: |events, milli| events.http_timeout_ms = milli.0,
            get: |events| Milli(events.http_timeout_ms),
        },
        "Time limit for the connect to a service, and for each silence of a service",
    )
    .more("The whole call may take six times as long.")
    .original_env(&["HTTP_TIMEOUT_SECONDS"])
    .limit(
        "`upstream_error`, \"Upstream timeout\"",
        Shows::Metric(names::UPSTREAM_CALLS),
        "tests/calls/main.rs::a_service_that_says_nothing_is_given_up",
    ),
    Setting::ms(
        SERVICES,
        "proxy-silence-timeout-ms",
        (1, 86_400_000),
        field!(EventsSettings, proxy_silence_timeout_ms),
        "Time limit for a connect of the proxy, and for each silence of a service",
    )
    .more("Time during which the client sends the request body does not count.")
    .limit(
        "504 `Upstream timeout`; after the head of the response is sent, the connection ends",
        Shows::Metric(names::PROXY_REQUESTS),
        "tests/http_proxy/faults.rs::a_service_that_says_nothing_is_a_timeout",
    ),
    Setting::count(
        SERVICES,
        "proxy-connections-max",
        (1, 10_000),
        field!(EventsSettings, proxy_connections_max),
        "Connections of the proxy to one service at once, shared between addresses",
    )
    .more(
        "An address gets another one only while it holds fewer than are free: half of all alone, a third beside \
         another. The clients of one IPv6 /64 count as one, and so do all clients behind a proxy that \
         `--trusted-proxies` does not name. Each counts with 200 KiB for the bytes on their way, in the share `proxy-bytes` of \
         `--memory-max`: more connections need more memory.",
    )
    .limit(
        "a request waits for a connection, at most `--proxy-silence-timeout-ms`, then 504; uploads that crawl and answers that \
         their clients do not take give way",
        Shows::Metric(names::PROXY_WAITS),
        "tests/http_proxy/faults.rs::requests_beyond_the_connections_of_a_service_wait_for_one",
    ),
    Setting::bytes(
        SERVICES,
        "proxy-bytes",
        (CONNECTION_BYTES, 1024 * 1024 * MIB),
        field!(EventsSettings, proxy_bytes_max),
        "Buffers of the connections of the proxy to all services: 200 KiB each",
    )
    .share(40)
    .limit(
        "as `--proxy-connections-max`",
        Shows::Metric(names::PROXY_WAITS),
        "src/http/services/places.rs::the_buffers_of_all_services_are_one_sum",
    ),
    Setting::bytes(
        SERVICES,
        "broadcast-bytes",
        (KIB, 1024 * MIB),
        field!(EventsSettings, broadcast_bytes_max),
        "The body of one /internal/broadcast",
    )
    .share(30)
    .limit(
        "413",
        Shows::Elsewhere("the response"),
        "tests/blackbox/test_events_broadcast.py::test_a_body_over_its_limit_is_refused",
    ),
    Setting::new(
        DEVICES,
        "rate-limit-rps",
        Kind::decimal(Unit::Count, (-1_000_000_000_000, 1_000_000_000_000)),
        &With::<EventsSettings, Milli> {
            set: |events, milli| events.rate_per_second_milli = milli.0,
            get: |events| Milli(events.rate_per_second_milli),
        },
        "Messages per second of one connection; 0 or less allows only the burst",
    )
    .original_env_only(&["RATE_LIMIT_RPS"])
    .limit(
        "`rate_limited`, and the message is dropped",
        Shows::Metric(names::EVENT_ERRORS),
        "tests/events_gateway.rs::size_comes_before_rate_and_rate_before_everything_else",
    ),
    Setting::new(
        DEVICES,
        "rate-limit-burst",
        Kind::decimal(Unit::Count, (-1_000_000_000_000, 1_000_000_000_000)),
        &With::<EventsSettings, Milli> {
            set: |events, milli| events.rate_burst_milli = milli.0,
            get: |events| Milli(events.rate_burst_milli),
        },
        "Burst of messages of one connection; at least 1",
    )
    .original_env_only(&["RATE_LIMIT_BURST"])
    .limit(
        "`RATE_LIMIT_RPS` applies",
        Shows::Metric(names::EVENT_ERRORS),
        "tests/events_gateway.rs::size_comes_before_rate_and_rate_before_everything_else",
    ),
    Setting::count(
        DEVICES,
        "orphans",
        (0, 1_000_000),
        field!(EventsSettings, orphans_max),
        "Waiting messages of disconnected devices, still to be forwarded",
    )
    .more(
        "A client address may leave messages while it has left fewer than are free, so the devices \
        of one address fill half of the limit, and those of each further address half of the rest.",
    )
    .constant()
    .limit(
        "the newest messages of the disconnecting device are dropped",
        Shows::Metric(names::MESSAGES_FORGOTTEN),
        "tests/events_gateway/waiting.rs::devices_that_have_gone_leave_room_for_the_messages_of_other_addresses",
    ),
    Setting::bytes(
        DEVICES,
        "waiting-bytes",
        (MIB, 1024 * 1024 * MIB),
        field!(EventsSettings, waiting_bytes_max),
        "Bytes of unanswered messages of all devices together",
    )
    .more(
        "A client address has room while its messages take less than is free, so one address fills \
        half of the limit, and each further address half of the rest. The last message may exceed \
        the limit.",
    )
    .share(30)
    .limit(
        "messages stay in the sockets of the devices, and client addresses take turns; unread messages of a disconnecting device are dropped",
        Shows::Metric(names::EVENT_WAITING_BYTES),
        "tests/events_gateway/waiting.rs::what_waits_is_bounded_over_all_connections",
    ),
];

/// The shared rows with the defaults of the contract.
pub(super) const CHANGES: &[Change] = &[
    ("trusted-proxies", |row| {
        row.more(
            "Addresses and networks, separated by commas: 10.0.0.7,10.1.0.0/16. The client's \
                address, for the limits by address, in the log and for services, is the \
                right-most address in X-Forwarded-For outside of this list. With * the client's \
                address is the right-most of all; use * only if no other program reaches the \
                port.",
        )
    }),
    ("message-bytes-max", |row| {
        row.kind(Kind::number(Unit::Bytes, (1, 64 * MIB)))
            .more(
                "If a message is over four times this number and over 1 MiB, the connection \
                is closed with 1009.",
            )
            .original_env(&["MAX_MESSAGE_BYTES"])
            .limit(
                "`message_too_large`, and the message is dropped",
                Shows::Metric(names::EVENT_ERRORS),
                "tests/events_gateway.rs::size_comes_before_rate_and_rate_before_everything_else",
            )
    }),
    ("history-ms", |row| {
        row.help("How long pushes are kept for devices that resume; 0 for none")
                .more(
                    "At least 20000. Pushes then have a position, \"pos\". A device that comes back to the same \
                    instance sends its last position as \"since\" and gets the pushes that it missed; another \
                    instance tells the device that it cannot know.",
                )
    }),
    ("redis-sentinels", |row| {
        row.more(
            "HOST:PORT each, or redis://USER:PASSWORD@HOST:PORT. Then only user, password and TLS of --events-bus \
             are used.",
        )
    }),
    ("redis-tls-name", |row| {
        row.more(
            "Default: the host of --events-bus, or the address that sentinels name over TLS. Required for a master \
             with TLS behind sentinels without TLS. Not for the certificates of sentinels.",
        )
    }),
];

/// The defaults of the contract.
pub(super) fn defaults(groups: &mut Groups) {
    let limits: &mut Limits = groups.of();
    limits.message_bytes_max = 65_536;
    let loopback = Ipv4Addr::LOCALHOST.to_string().parse();
    limits.trusted_proxies = TrustedProxies::Networks(loopback.into_iter().collect());
}
