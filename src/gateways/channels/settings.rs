//! The settings of `weirgate channels`: the bus, and the limits of a client.

use std::path::PathBuf;

use crate::gateways::channels::{ChannelsGatewaySettings, metrics};
use crate::gateways::shared::{bus, metrics as shared_metrics};
use weirgate_core::Limits;
use weirgate_server::settings::{
    Checked, Form, Groups, Heading, Kind, ListenSettings, RedisAccess, RefusedValue, RowChange,
    SecretUrl, Setting, SettingsError, Shows, With,
};
use weirgate_server::telemetry::MetricName;
use weirgate_server::{field, flag, group};
use weirgate_wire::auth::{NamePatterns, NameSyntax};

group! {
    /// What the start of `weirgate channels` needs; the limits of clients are in [`ChannelsGatewaySettings`].
    #[derive(Clone)]
    pub(super) struct ChannelsSettings {
        /// The bus; empty: Redis at `--redis-url`.
        pub(super) bus: SecretUrl = SecretUrl::new(""),
        pub(super) settle_ms: u64 = 300,
        pub(super) retained: bool = false,
        pub(super) retained_bytes_max: usize = 64 * 1024 * 1024,
        pub(super) history_names: Vec<String> = Vec::new(),
        pub(super) conflated: Vec<String> = Vec::new(),
        pub(super) acl: Option<PathBuf> = None,
    }
}

impl ChannelsSettings {
    /// The syntax of names on the bus.
    pub(super) fn syntax(&self) -> NameSyntax {
        match self.bus.expose().is_empty() || bus::is_redis(&self.bus) {
            true => NameSyntax::Redis,
            false => NameSyntax::Nats,
        }
    }
}

/// The defaults of the contract.
pub(super) fn defaults(groups: &mut Groups) {
    groups.get_mut::<ListenSettings>().port = Some(8889);
    groups.get_mut::<Limits>().message_bytes_max = 2 * 1024 * 1024;
    groups.get_mut::<RedisAccess>().host = Some("localhost".to_owned());
}

/// The name of a row of this gateway. A name that no row has does not compile.
macro_rules! own_flag {
    ($name:literal) => {
        const {
            assert!(weirgate_server::settings::Setting::any_has_flag(
                &[$crate::gateways::channels::settings::OWN],
                $name
            ));
            $name
        }
    };
}
pub(super) use own_flag;

/// Names and patterns with space between them.
static NAMES: Form = Form::new("NAME", NAMES_ALLOWED, |text| Ok(words(text).join(" "))).repeated();

const NAMES_ALLOWED: &str = "names and patterns of the bus";

fn words(text: &str) -> Vec<String> {
    let separators = |c: char| c.is_whitespace() || c == ',';
    let words = text.split(separators).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// For the limits over all clients: the effect over the limit, and the test.
const ALL_BEYOND: &str = "an error for this entry ([shares](#shares))";
const ALL_TEST: &str = "tests/channels_gateway/requests.rs::names_of_all_clients_together_are_bounded_and_an_address_leaves_room_for_others";

pub(super) const OWN: &[Setting] = &Heading("Channels").of([
    Setting::new(
        "bus",
        Kind::OptionalUrls(bus::SCHEMES),
        field!(ChannelsSettings, bus),
        "NATS or Redis to relay; empty: Redis at --redis-url",
    )
    .more(
        "Redis: redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or \
         unix://USER:PASSWORD@/PATH?db=DATABASE. NATS: nats://USER:PASSWORD@HOST:PORT, or tls:// for TLS; several \
         servers are separated by commas.",
    )
    // Without a URL the gateway uses Redis on this machine. If Redis runs there, nobody would notice the mistake.
    .mistaken_env(
        "NATS_URL",
        &[
            flag!("redis-url"),
            flag!("redis-host"),
            flag!("redis-sentinels"),
        ],
    )
    .leads_short_help(),
    Setting::ms(
        "bus-settle-ms",
        (0, 60_000),
        field!(ChannelsSettings, settle_ms),
        "How long `subscribed` waits so that all servers of a NATS cluster know the name",
    )
    .more(
        "The default applies only to servers of a cluster; a value that you set applies to every NATS server. With 0 \
         you state that all publishers use the same server and account as weirgate; only then do messages of \
         --history-names have a position.",
    ),
    Setting::new(
        "retained",
        Kind::Switch,
        field!(ChannelsSettings, retained),
        "Send the last value of each name after `subscribed`; NATS with JetStream only",
    )
    .more(
        "For names of --stream, clients request `last` instead.",
    ),
    Setting::bytes(
        "retained-bytes",
        (1_048_576, 17_179_869_184),
        field!(ChannelsSettings, retained_bytes_max),
        "Bytes of last values that wait to be sent, for all clients together",
    )
    .more(
        "With --retained. A client has 512 KiB of them at most, or one larger value, and counts from the \
         question until it has taken the values, for 2 s at most.",
    )
    .share(50)
    .limit(
        "the client gets its values later ([shares](#shares))",
        Shows::Metric(MetricName::RETAINED_BYTES),
        "tests/channels_gateway/retained.rs::values_of_all_clients_together_are_bounded_and_an_address_leaves_room_for_others",
    ),
    Setting::new(
        "history-names",
        Kind::Form(&NAMES),
        &With::<ChannelsSettings, String> {
            set: |channels, text| channels.history_names = words(&text),
            get: |channels| channels.history_names.join(" "),
        },
        "Names and patterns whose messages are kept for clients that resume; repeatable",
    )
    .more(
        "Needs --history-ms. All instances need the same list in the same order. Several are separated by commas or \
         spaces.",
    ),
    Setting::new(
        "conflate",
        Kind::Form(&NAMES),
        &With::<ChannelsSettings, String> {
            set: |channels, text| channels.conflated = words(&text),
            get: |channels| channels.conflated.join(" "),
        },
        "Names and patterns of which slow clients get only the newest message; repeatable",
    )
    .more(
        "Several are separated by commas or spaces. A skipped message is a gap in seq.",
    ),
    Setting::count(
        "channels-max",
        (0, 100_000),
        field!(ChannelsGatewaySettings, channels_max),
        "Names that a client may hold, including patterns; 0 allows none",
    )
    .original_env(&["MAX_CHANNELS_PER_CLIENT"])
    .limit(
        "an error for this entry and all later entries",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    ),
    Setting::count(
        "wildcards-max",
        (0, 100_000),
        field!(ChannelsGatewaySettings, patterns_max),
        "Patterns (names with wildcards) that a client may hold; 0 allows none",
    )
    .original_env_only(&["MAX_WILDCARD_SUBSCRIPTIONS"])
    .limit(
        "an error for this entry",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    ),
    Setting::count(
        "all-channels-max",
        (1, 10_000_000),
        field!(ChannelsGatewaySettings, all_clients.names_max),
        "Different names that all clients together may hold, including patterns",
    )
    .more(
        "A name that several clients hold counts once.",
    )
    .limit(
        ALL_BEYOND,
        Shows::Metric(shared_metrics::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::count(
        "all-wildcards-max",
        (1, 10_000),
        field!(ChannelsGatewaySettings, all_clients.patterns_max),
        "Different patterns that all clients together may hold",
    )
    .more(
        "A pattern that several clients hold counts once. Each takes at least 1,064 bytes of all-channel-name-bytes. \
         weirgate compares a new name with the patterns: 10,000 take 0.1 to 0.9 ms, costly ones of an attacker up to 10 ms.",
    )
    .limit(
        ALL_BEYOND,
        Shows::Metric(shared_metrics::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::bytes(
        "all-channel-name-bytes",
        (1_024, 1_073_741_824),
        field!(ChannelsGatewaySettings, all_clients.name_bytes_max),
        "Memory of the names and patterns that clients hold",
    )
    .more("640 bytes and the text for each different name, 104 bytes for each client that holds a name, 736 bytes for each name whose kept messages a client waits for (a pattern: 32 bytes more for each byte), and answers that wait for the bus.")
    .share(40)
    .limit(
        ALL_BEYOND,
        Shows::Metric(shared_metrics::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::count(
        "messages-per-second-max",
        (1, 1_000_000),
        field!(ChannelsGatewaySettings, inbound_per_second),
        "Messages per second from a client",
    )
    .more(
        "If you set it, it also limits the data messages that a client gets per second; further ones are not sent to \
         the client.",
    )
    .original_env(&["MAX_MESSAGES_PER_SECOND"])
    .limit(
        "the message is dropped, and the client gets an error once a second",
        Shows::Metric(shared_metrics::REQUESTS_LIMITED),
        "tests/channels_gateway/requests.rs::who_sends_too_much_is_told_once_a_second",
    ),
    Setting::count(
        "renewals-per-second",
        (1, 1_000_000),
        field!(ChannelsGatewaySettings, renewals_per_second),
        "New tokens per second that all clients send on open connections",
    )
    .more(
        "A client may send a new token once a second. Clients of one address leave a part for the clients of others: in each second \
        an address has as many as are left for all.",
    )
    .counts_all()
    .constant()
    .limit(
        "an error in the response; the old token stays",
        Shows::Metric(metrics::RENEWALS),
        "tests/channels_gateway/rights.rs::new_tokens_are_bounded_for_one_client_and_for_all",
    ),
    Setting::new(
        "default-role",
        Kind::Text,
        field!(ChannelsGatewaySettings, default_role),
        "Role of clients without a role in the token, or without --require-auth",
    )
    .original_env_only(&["DEFAULT_ROLE"]),
    Setting::new(
        "acl",
        Kind::Path,
        field!(ChannelsSettings, acl),
        "JSON file with the names and patterns of each role",
    )
    .more(
        "It replaces the built-in table. {sub} and {claim:NAME} in a name are claims of the token. --print-acl \
         prints the table in force. weirgate reads the file again at SIGHUP.",
    )
    .leads_short_help(),
]);

/// Changes to shared rows, by the contract.
pub(super) const CHANGES: &[RowChange] = &[
    ("listen", |row| row.original_env(&["REDIS_WS_GATEWAY_HOST"])),
    ("port", |row| {
        let row = row.original_env(&["REDIS_WS_GATEWAY_PORT"]);
        // `PORT`, which the shared addition names, is not read here.
        row.more("")
    }),
    ("require-auth", |row| row.leads_short_help()),
];

/// Checks the settings against each other: the bus, and the names on it.
pub(super) fn check(checked: &Checked) -> Vec<SettingsError> {
    let own: ChannelsSettings = checked.get();
    let syntax = own.syntax();
    let mut wrong = Vec::from_iter(patterns_error(checked));
    let mut refuse = |flag, value: &str, allowed| {
        wrong.push(checked.refused(flag, &RefusedValue::new(value, allowed)));
    };
    let retained = own_flag!("retained");
    let history_names = own_flag!("history-names");
    if own.retained && syntax != NameSyntax::Nats {
        refuse(retained, "true", "false, unless --bus names NATS");
    }
    if let Some(allowed) = wrong_names(checked, &own) {
        refuse(history_names, &own.history_names.join(" "), allowed);
    }
    if let Some(stream) = checked.stream()
        && syntax == NameSyntax::Nats
        && !is_stream_name(&stream)
    {
        refuse(flag!("stream"), &stream, STREAM_ALLOWED);
    }
    if let Err((name, _)) = NamePatterns::new(syntax, &own.history_names) {
        refuse(history_names, &name, NAMES_ALLOWED);
    }
    if let Err((name, _)) = NamePatterns::new(syntax, &own.conflated) {
        refuse(own_flag!("conflate"), &name, NAMES_ALLOWED);
    }
    let (bus, urls) = (own_flag!("bus"), own.bus.expose());
    if bus::are_ambiguous(&own.bus) {
        refuse(bus, &urls, bus::ALLOWED);
    }
    let redis = [flag!("redis-url"), flag!("redis-sentinels")];
    if bus::is_redis(&own.bus) && redis.iter().any(|flag| checked.is_set(flag)) {
        let allowed = "no URL of Redis, beside --redis-url and --redis-sentinels";
        refuse(bus, &urls, allowed);
    }
    wrong
}

/// The error of more patterns than the memory of names has room for.
fn patterns_error(checked: &Checked) -> Option<SettingsError> {
    let limits = checked.get::<ChannelsGatewaySettings>().all_clients;
    let most = limits.patterns_with_memory();
    let allowed = format!("at most {most}, the patterns that fit into all-channel-name-bytes");
    (limits.patterns_max > most)
        .then(|| checked.refused_whole(own_flag!("all-wildcards-max"), allowed))
}

/// If `--history-names` contradicts other settings, returns what it may be.
fn wrong_names(checked: &Checked, own: &ChannelsSettings) -> Option<&'static str> {
    let has_names = !own.history_names.is_empty();
    let keeps = checked.get::<Limits>().history.keep_us > 0;
    match (checked.stream(), keeps, has_names) {
        (Some(_), _, true) => Some("nothing, with --stream: all names of the stream are kept"),
        (None, true, false) => Some("at least one name, with --history-ms"),
        (None, false, true) => Some("nothing, without --history-ms"),
        _ => None,
    }
}

/// What an error says of the name of a JetStream stream (NATS ADR-6).
const STREAM_ALLOWED: &str = "the name of a JetStream stream, without spaces and . * > / \\";

fn is_stream_name(name: &str) -> bool {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    !name.contains(is_wrong) && name.len() <= 255
}

/// The names and patterns whose messages are kept. With `--stream` these are all names.
pub(super) fn kept_names(checked: &Checked) -> Vec<String> {
    let own: ChannelsSettings = checked.get();
    match checked.stream() {
        Some(_) => vec![own.syntax().everything().to_owned()],
        None => own.history_names,
    }
}
