//! The bus between instances of the events gateway.

use crate::gateways::events::bus::PART_BYTES_MAX;
use crate::kinds::bus;
use crate::settings::{
    Checked, Form, Heading, Kind, Refused, SecretUrl, Setting, SettingsError, Shows, Source, field,
    flag,
};
use crate::telemetry::names;

const BUS: Heading = Heading("Bus between instances");
const KIB: u64 = 1024;

/// The bus between instances.
#[derive(Clone)]
pub(in crate::kinds::events) struct EventsBusSettings {
    /// The bus; empty for none.
    pub(super) urls: SecretUrl,
    /// The channel or subject of all instances.
    pub(super) name: String,
    /// How long a push waits for the counts of other instances.
    pub(super) wait_ms: u64,
    /// Bytes of a push in one message.
    pub(super) message_bytes_max: usize,
}

impl Default for EventsBusSettings {
    fn default() -> Self {
        Self {
            urls: SecretUrl::new(""),
            name: "weirgate.events".to_owned(),
            wait_ms: 250,
            message_bytes_max: 1_000_000,
        }
    }
}

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
        field!(EventsBusSettings, urls),
        "Redis or NATS through which several instances share pushes",
    )
    .more(
        "redis://USER:PASSWORD@HOST:PORT, rediss:// for TLS, or unix://USER:PASSWORD@/PATH; nats://USER:PASSWORD@HOST:PORT, tls:// \
         for TLS, several NATS servers with commas between them; shown without the secret. The settings \
         redis-* or nats-* add sentinels, certificates and logins. Empty: a push reaches the devices of this \
         instance only.",
    )
    .in_short_help(),
    Setting::new(
        BUS,
        "events-bus-name",
        Kind::Form(&NAME),
        field!(EventsBusSettings, name),
        "Channel or subject of the instances that belong together",
    )
    .more("Each instance also listens on this name with its id after a dot."),
    Setting::ms(
        BUS,
        "events-bus-wait-ms",
        (1, 60_000),
        field!(EventsBusSettings, wait_ms),
        "Time that a push waits for the counts of the other instances",
    )
    .limit(
        "the response names the instances in `missing`; the devices there may have got the push",
        Shows::Metric(names::EVENTS_BUS_PUSHES_INCOMPLETE),
        "tests/events_gateway/bus.rs::an_instance_that_does_not_answer_is_missing_and_then_forgotten",
    ),
    Setting::bytes(
        BUS,
        "events-bus-message-bytes-max",
        (KIB, PART_BYTES_MAX as u64),
        field!(EventsBusSettings, message_bytes_max),
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

/// Checks these settings against each other: the bus is one, and what is set for a bus has a bus.
pub(in crate::kinds::events) fn check(checked: &Checked) -> Vec<SettingsError> {
    const URLS: &str = ROWS[0].flag;
    let urls = checked.get::<EventsBusSettings>().urls;
    if bus::is_wrong(&urls) {
        return vec![checked.refused(URLS, &Refused::new(urls.expose(), bus::ALLOWED))];
    }
    // Env names of the replaced gateways may be there for other gateways.
    let sentinels = checked.values().iter().find(|value| {
        let is_meant = match &value.source {
            Source::Flag => true,
            Source::Env(name) => *name == value.setting.weirgate_env(),
            _ => false,
        };
        is_meant && value.setting.flag == flag!("redis-sentinels")
    });
    match urls.expose().is_empty() && sentinels.is_some() {
        true => vec![SettingsError::Missing {
            flag: URLS,
            env: ROWS[0].weirgate_env(),
            allowed: "redis:// or rediss://, beside --redis-sentinels".to_owned(),
        }],
        false => Vec::new(),
    }
}
