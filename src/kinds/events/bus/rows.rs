//! The bus between instances of the events gateway.

use crate::gateways::events::bus::PART_BYTES_MAX;
use crate::kinds::bus;
use crate::settings::{
    Checked, Form, Heading, Kind, Refused, Setting, SettingsError, Shows, TLS_NAME,
};
use crate::telemetry::names;

const BUS: Heading = Heading("Bus between instances");
const SENTINELS: &str = "events-bus-sentinels";
const KIB: u64 = 1024;

/// Part of a subject, so without spaces and wildcards.
static NAME: Form = Form {
    placeholder: "NAME",
    allowed: NAME_ALLOWED,
    repeats: false,
    is_url: false,
    read: |text| {
        let word = |word: &str| {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:".contains(&byte);
            !word.is_empty() && word.bytes().all(is_good)
        };
        match text.len() <= 100 && text.split('.').all(word) {
            true => Ok(text.to_owned()),
            false => Err(Refused::new(text, NAME_ALLOWED)),
        }
    },
};

const NAME_ALLOWED: &str = "up to 100 letters, digits, - _ : and single dots between them";

pub(in crate::kinds::events) const ROWS: &[Setting] = &[
    Setting::new(
        BUS,
        "events-bus",
        Kind::OptionalUrls(bus::SCHEMES),
        "",
        "Redis or NATS through which several instances share pushes",
    )
    .more(
        "redis://USER:PASSWORD@HOST:PORT, rediss:// for TLS; nats://USER:PASSWORD@HOST:PORT, tls:// \
         for TLS, several NATS servers with commas between them; shown without the secret. Empty: \
         a push reaches the devices of this instance only.",
    )
    .in_short_help(),
    Setting::new(
        BUS,
        SENTINELS,
        Kind::OptionalUrls(&["redis", "rediss"]),
        "",
        "Sentinels, separated by commas: they name the Redis master of the bus",
    )
    .more(
        "HOST:PORT each, or redis://USER:PASSWORD@HOST:PORT. Then only user, password and TLS of \
         --events-bus are used, which may be empty.",
    ),
    Setting::new(
        BUS,
        "events-bus-sentinel-master",
        Kind::Text,
        "",
        "Name of the bus's Redis master in the configuration of the sentinels",
    ),
    Setting::new(
        BUS,
        "events-bus-name",
        Kind::Form(&NAME),
        "weirgate.events",
        "Channel or subject of the instances that belong together",
    )
    .more("Each instance also listens on this name with its id behind a dot."),
    Setting::new(
        BUS,
        "events-bus-ca",
        Kind::Path,
        "",
        "PEM file of the certificate authorities to trust for the bus",
    )
    .more("Replaces the certificate authorities of the system."),
    Setting::new(
        BUS,
        "events-bus-tls-name",
        Kind::Form(&TLS_NAME),
        "",
        "Name that the certificate of the Redis server of the bus must have",
    )
    .more(
        "Default: the host of --events-bus, or the address that sentinels name over TLS. Required \
         for a master with TLS behind sentinels without TLS.",
    ),
    Setting::new(
        BUS,
        "events-bus-cert",
        Kind::Path,
        "",
        "PEM file of the client certificate, for NATS with mutual TLS",
    ),
    Setting::new(
        BUS,
        "events-bus-key",
        Kind::Path,
        "",
        "PEM file of the key of --events-bus-cert",
    ),
    Setting::new(
        BUS,
        "events-bus-creds",
        Kind::Path,
        "",
        "NATS credentials file with the user's JWT and the seed of the user's key",
    ),
    Setting::new(
        BUS,
        "events-bus-nkey",
        Kind::Path,
        "",
        "File with the seed of the NATS user's nkey",
    ),
    Setting::ms(
        BUS,
        "events-bus-wait-ms",
        (1, 60_000),
        "250",
        "Time that a push waits for the counts of the other instances",
    )
    .limit(
        "the response names the instances in `missing`; the devices there may have got the push",
        Shows::Metric(names::EVENTS_BUS_PUSHES_INCOMPLETE),
        "tests/events_gateway/bus.rs::an_instance_that_does_not_answer_is_missing_and_then_forgotten",
    ),
    Setting::count(
        BUS,
        "events-bus-waiting-max",
        (1, 100_000),
        "1000",
        "Pushes that may wait for the counts of other instances at once",
    )
    .more("Their bodies may have 64 MiB together; a single body of any size has room.")
    .limit(
        "503 `Too many pushes wait for other instances`, and no device gets the push",
        Shows::Metric(names::EVENTS_BUS_PUSHES_REFUSED),
        "tests/blackbox/test_events_bus_limits.py::test_pushes_that_wait_are_bounded",
    ),
    Setting::count(
        BUS,
        "events-bus-instances-max",
        (2, 1_000),
        "64",
        "Instances on the bus, this one included",
    )
    .limit(
        "the messages of a further instance are ignored and counted",
        Shows::Metric(names::EVENTS_BUS_IGNORED),
        "tests/events_gateway/bus.rs::one_instance_too_many_is_ignored",
    ),
    Setting::bytes(
        BUS,
        "events-bus-message-bytes-max",
        (KIB, PART_BYTES_MAX as u64),
        "1000000",
        "Bytes of a push in one message on the bus",
    )
    .more(
        "At most max_payload of a NATS server (1 MiB by default), less 256 bytes. Instances may \
         differ: each receives messages of the largest allowed value.",
    )
    .limit(
        "a larger push is sent in several messages",
        Shows::Metric(names::EVENTS_BUS_PUSHES_SENT),
        "tests/events_gateway/bus.rs::a_large_push_goes_in_parts",
    ),
];

/// Checks these settings against each other: the bus is one, and only its own settings are set.
pub(in crate::kinds::events) fn check(checked: &Checked) -> Vec<SettingsError> {
    let urls = checked.url("events-bus");
    let mut wrong = Vec::new();
    let mut refuse = |flag, value: &str, allowed| {
        wrong.push(checked.refused(flag, &Refused::new(value, allowed)));
    };
    if bus::is_wrong(&urls) {
        refuse("events-bus", urls.expose(), bus::ALLOWED);
    }
    let sentinels = checked.url(SENTINELS);
    let has_sentinels = !sentinels.expose().is_empty();
    let is_redis = bus::is_redis(&urls) || has_sentinels;
    if has_sentinels && !urls.expose().is_empty() && !bus::is_redis(&urls) {
        refuse(SENTINELS, sentinels.expose(), "none, for NATS");
    }
    for (flag, is_allowed, allowed) in [
        (
            "events-bus-tls-name",
            is_redis,
            "none without a bus on Redis",
        ),
        ("events-bus-cert", !is_redis, "none, for Redis"),
        ("events-bus-key", !is_redis, "none, for Redis"),
        ("events-bus-creds", !is_redis, "none, for Redis"),
        ("events-bus-nkey", !is_redis, "none, for Redis"),
    ] {
        let value = checked.text(flag);
        if !is_allowed && !value.is_empty() {
            refuse(flag, &value, allowed);
        }
    }
    wrong
}
