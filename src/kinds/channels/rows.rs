//! The settings of `weirgate channels`: the bus, and the limits of a client.

use crate::auth::{NamePatterns, NameSyntax, SUBJECT_BYTES_MAX};
use crate::kinds::bus;
use crate::settings::{
    Change, Checked, Form, Heading, Kind, MistakenEnv, Refused, Setting, SettingsError, Shows,
};
use crate::telemetry::names;

/// Names and patterns with space between them.
static NAMES: Form = Form {
    placeholder: "NAME",
    allowed: NAMES_ALLOWED,
    repeats: true,
    is_url: false,
    read: |text| Ok(words(text).join(" ")),
};

const NAMES_ALLOWED: &str = "names and patterns of the bus";

fn words(text: &str) -> Vec<String> {
    let separators = |c: char| c.is_whitespace() || c == ',';
    let words = text.split(separators).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// The names and patterns of `--conflate`.
pub(super) fn conflated(checked: &Checked) -> Vec<String> {
    words(&checked.text("conflate"))
}

/// The names and patterns of `--history-names`.
pub(super) fn history_names(checked: &Checked) -> Vec<String> {
    words(&checked.text("history-names"))
}

const HEADING: Heading = Heading("Channels");

/// The effect of the limits over all clients, and the test of these limits.
const ALL_BEYOND: &str = "an error in the response, and the next entry is checked; an address gets more only while it holds \
    less than is left free, or less than one client may hold of names that others hold";
const ALL_TEST: &str = "tests/channels_gateway/requests.rs::names_of_all_clients_together_are_bounded_and_an_address_leaves_room_for_others";

pub(super) const OWN: &[Setting] = &[
    Setting::new(
        HEADING,
        "bus",
        Kind::OptionalUrls(bus::SCHEMES),
        "",
        "NATS or Redis to relay; empty: Redis at --redis-url",
    )
    .more(
        "redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS; nats://USER:PASSWORD@HOST:PORT, \
         tls:// for TLS, several NATS servers with commas between them; shown without the secret.",
    )
    // Without a URL the bus is the Redis of this machine, which may well be there.
    .mistaken_env(MistakenEnv {
        name: "NATS_URL",
        unless: &["redis-url", "redis-host", "redis-sentinels"],
    })
    .leads_short_help(),
    Setting::ms(
        HEADING,
        "bus-settle-ms",
        (0, 60_000),
        "300",
        "How long `subscribed` waits until all servers of a NATS cluster know of it",
    )
    .more(
        "A server confirms before the others know. The default counts for servers that name a cluster; a \
         value that is set counts for every NATS server, for leaf nodes.",
    ),
    Setting::new(
        HEADING,
        "retained",
        Kind::Switch,
        "false",
        "Send the last value of each name behind `subscribed`; NATS with JetStream only",
    )
    .more(
        "The value is the last message of the stream that holds the subject; a pattern has one for each \
         subject. Subjects in no stream have none.",
    ),
    Setting::count(
        HEADING,
        "retained-subjects-max",
        (1, 10_000),
        "1000",
        "Last values that are sent for one pattern",
    )
    .more("With --retained. They have at most 512 KiB together.")
    .limit(
        "the further values are not sent; a log line",
        Shows::Metric(names::BUS_RETAINED_LIMITED),
        "tests/blackbox/test_channels_nats.py::test_last_values_of_a_pattern",
    ),
    Setting::bytes(
        HEADING,
        "retained-bytes-max",
        (1_048_576, 17_179_869_184),
        "67108864",
        "Bytes of last values that wait for all clients",
    )
    .more(
        "With --retained. A client has 512 KiB of them at most, or one larger value, and counts from the \
         question until it has taken the values, for 60 s at most.",
    )
    .memory_part(50)
    .limit(
        "the client gets its values later; an address gets more only while it holds less than is left free",
        Shows::Metric(names::RETAINED_BYTES),
        "tests/channels_gateway/retained.rs::values_of_all_clients_together_are_bounded_and_an_address_leaves_room_for_others",
    ),
    Setting::new(
        HEADING,
        "history-names",
        Kind::Form(&NAMES),
        "",
        "Names and patterns of which messages are kept; may be repeated",
    )
    .more(
        "With --history-ms; read from the start. A client resumes these names, and names and patterns within them. All instances \
        need the same list. Names on the bus; several with commas or spaces between them.",
    ),
    Setting::new(
        HEADING,
        "conflate",
        Kind::Form(&NAMES),
        "",
        "Names of which slow clients get the newest message only; may be repeated",
    )
    .more(
        "A name or a pattern of the bus; several with commas or spaces between them. Skipped messages are gaps in seq.",
    ),
    Setting::count(
        HEADING,
        "channels-max",
        (0, 100_000),
        "50",
        "Names that a client may hold, including patterns; 0 allows none",
    )
    .original_env(&["MAX_CHANNELS_PER_CLIENT"])
    .limit(
        "an error in the response, and no further entry is checked",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    ),
    Setting::bytes(
        HEADING,
        "channel-name-bytes-max",
        (1, 65_536),
        "512",
        "Bytes of a name or pattern that a client subscribes to",
    )
    .limit(
        "an error in the response, and the next entry is checked",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::a_name_that_is_too_long_is_refused_without_a_copy",
    ),
    Setting::count(
        HEADING,
        "wildcards-max",
        (0, 100_000),
        "5",
        "Patterns (names with wildcards) that a client may hold; 0 allows none",
    )
    .original_env(&["MAX_WILDCARD_SUBSCRIPTIONS"])
    .limit(
        "an error in the response, and the next entry is checked",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    ),
    Setting::count(
        HEADING,
        "all-channels-max",
        (1, 10_000_000),
        "100000",
        "Different names that all clients together may hold, including patterns",
    )
    .more(
        "A name held by several clients counts once. The clients of one IPv6 /64 count as one address. Behind a proxy that \
         `--trusted-proxies` does not name all clients count as one.",
    )
    .limit(
        ALL_BEYOND,
        Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::bytes(
        HEADING,
        "all-channel-name-bytes-max",
        (1_024, 1_073_741_824),
        "16777216",
        "Bytes of the different names and patterns that all clients together hold",
    )
    .memory_part(10)
    .limit(
        ALL_BEYOND,
        Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::count(
        HEADING,
        "all-wildcards-max",
        (0, 1_000_000),
        "1000",
        "Different patterns that all clients together may hold",
    )
    .more(
        "Redis compares every publication with each pattern: 1,000 patterns cost 0.05 to 0.6 ms \
        per publication. weirgate compares each name of --history-names with each pattern once.",
    )
    .limit(
        ALL_BEYOND,
        Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::count(
        HEADING,
        "messages-per-second-max",
        (1, 1_000_000),
        "1000",
        "Messages per second from a client",
    )
    .more(
        "If set, a client also gets at most this number of data messages per second; further \
        data messages are shed.",
    )
    .original_env(&["MAX_MESSAGES_PER_SECOND"])
    .limit(
        "the message is dropped, and the client gets an error once a second",
        Shows::Metric(names::REQUESTS_LIMITED),
        "tests/channels_gateway/requests.rs::who_sends_too_much_is_told_once_a_second",
    ),
    Setting::count(
        HEADING,
        "renewals-per-second-max",
        (1, 1_000_000),
        "500",
        "New tokens per second of all clients, on open connections",
    )
    .more(
        "A client may send a new token once a second. Clients of one address leave a part for the clients of others: in each second \
        an address has as many as are left for all.",
    )
    .limit(
        "an error in the response; the old token stays",
        Shows::Metric(names::RENEWALS),
        "tests/channels_gateway/rights.rs::new_tokens_are_bounded_for_one_client_and_for_all",
    ),
    Setting::new(
        HEADING,
        "default-role",
        Kind::Text,
        "user",
        "Role of clients without a role in the token, or without --require-auth",
    )
    .original_env(&["DEFAULT_ROLE"]),
    Setting::new(
        HEADING,
        "acl",
        Kind::Text,
        "",
        "JSON file with the names and patterns of each role",
    )
    .more(
        "Replaces the built-in table. A name may have places for claims of the token: {sub}, \
        {claim:NAME}. --print-acl prints the table in force, in the same form. SIGHUP reads the file again; a broken file leaves \
        the table unchanged.",
    )
    .leads_short_help(),
];

/// The shared rows with the defaults and names of the contract.
pub(super) const CHANGES: &[Change] = &[
    ("listen", |row| row.original_env(&["REDIS_WS_GATEWAY_HOST"])),
    ("port", |row| {
        let row = row.original_env(&["REDIS_WS_GATEWAY_PORT"]);
        row.default("8889").more("")
    }),
    ("message-bytes-max", |row| row.default("2097152")),
    ("require-auth", |row| row.leads_short_help()),
    ("jwt-secret", |row| row.leads_short_help()),
];

/// Checks the settings against each other: the bus, names on the bus.
pub(super) fn check(checked: &Checked) -> Vec<SettingsError> {
    let urls = checked.url("bus");
    let mut wrong = Vec::new();
    let mut refuse = |flag, value: &str, allowed| {
        wrong.push(checked.refused(flag, &Refused::new(value, allowed)));
    };
    if checked.switch("retained") && syntax(checked) != NameSyntax::Nats {
        refuse("retained", "true", "false, unless --bus names NATS");
    }
    if let Some(allowed) = wrong_names(checked) {
        refuse("history-names", &checked.text("history-names"), allowed);
    }
    if let Some(stream) = checked.stream() {
        if checked.switch("retained") {
            refuse("retained", "true", "false, with --stream");
        }
        if syntax(checked) == NameSyntax::Nats && !is_stream_name(&stream) {
            refuse("stream", &stream, STREAM_ALLOWED);
        }
    }
    if let Err((name, _)) = NamePatterns::new(syntax(checked), &history_names(checked)) {
        refuse("history-names", &name, NAMES_ALLOWED);
    }
    if let Err((name, _)) = NamePatterns::new(syntax(checked), &conflated(checked)) {
        refuse("conflate", &name, NAMES_ALLOWED);
    }
    if urls.expose().is_empty() {
        return wrong;
    }
    if bus::is_wrong(&urls) {
        refuse("bus", urls.expose(), bus::ALLOWED);
    }
    let name_bytes_max: usize = checked.number("channel-name-bytes-max");
    if bus::is_redis(&urls) {
        let is_set = |flag| checked.is_set(flag);
        if is_set("redis-url") || is_set("redis-sentinels") {
            let allowed = "no URL of Redis, beside --redis-url and --redis-sentinels";
            refuse("bus", urls.expose(), allowed);
        }
    } else if name_bytes_max > SUBJECT_BYTES_MAX {
        let allowed = "at most 3072, for NATS";
        refuse(
            "channel-name-bytes-max",
            &name_bytes_max.to_string(),
            allowed,
        );
    }
    wrong
}

/// What `--history-names` may be, if it is wrong beside the other settings.
fn wrong_names(checked: &Checked) -> Option<&'static str> {
    let has_names = !history_names(checked).is_empty();
    let keeps = checked.number::<u64>("history-ms") > 0;
    match (checked.stream(), keeps, has_names) {
        (Some(_), _, true) => Some("nothing, with --stream: all names of the stream are kept"),
        (None, true, false) => Some("at least one name, with --history-ms"),
        (None, false, true) => Some("nothing, without --history-ms"),
        _ => None,
    }
}

/// The allowed names of a JetStream stream, for an error (NATS ADR-6).
const STREAM_ALLOWED: &str = "the name of a JetStream stream, without spaces and . * > / \\";

fn is_stream_name(name: &str) -> bool {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    !name.contains(is_wrong) && name.len() <= 255
}

/// The names and patterns of the kept feed; with `--stream` all names.
pub(super) fn kept_names(checked: &Checked) -> Vec<String> {
    let all = match syntax(checked) {
        NameSyntax::Redis => "*",
        NameSyntax::Nats => ">",
    };
    match checked.stream() {
        Some(_) => vec![all.to_owned()],
        None => history_names(checked),
    }
}

/// The syntax of names on the bus.
pub(super) fn syntax(checked: &Checked) -> NameSyntax {
    let urls = checked.url("bus");
    match urls.expose().is_empty() || bus::is_redis(&urls) {
        true => NameSyntax::Redis,
        false => NameSyntax::Nats,
    }
}
