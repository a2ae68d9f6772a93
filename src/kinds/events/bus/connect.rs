//! The connection to the bus between instances: Redis or NATS, depending on the URL.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::thread::{Threads, subject_of};
use crate::base::{Clock, QueueBytes, TakenBytes};
use crate::feeds::BusEvent;
use crate::gateways::events::bus::{
    ExchangeSettings, InstanceId, LINE_BYTES_MAX, MESSAGE_BYTES_MAX,
};
use crate::kinds::bus;
use crate::run::{Question, RunError};
use crate::settings::{Checked, SecretUrl, SentinelSettings};
use crate::sources::{Source, SourceLink};

/// Events between a connection and the thread of the bus.
const EVENTS_MAX: usize = 1_024;
/// The bytes of these events. One message of any size has room.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The address of the bus and the login of this instance. Shown without secrets.
pub(super) struct BusAddress {
    urls: SecretUrl,
    /// The sentinels of Redis; with sentinels `urls` has only the login.
    sentinels: Option<SentinelSettings>,
    ca: Option<PathBuf>,
    /// For Redis.
    tls_name: Option<String>,
    client: Option<(PathBuf, PathBuf)>,
    creds: Option<PathBuf>,
    nkey: Option<PathBuf>,
}

/// Publishes bytes on a subject. Returns `false` if too much waits to be written.
pub(super) type Publish = Box<dyn Fn(&Arc<str>, Vec<u8>) -> bool + Send>;

/// The ends of the channels to the connection threads.
pub(super) struct Connection {
    /// The check of the bus for `--check --connect`.
    pub(super) question: Option<Question>,
    pub(super) publish: Publish,
    /// The events of the subscribed connection.
    pub(super) events: Receiver<BusEvent>,
    /// Gives the room of processed events back.
    pub(super) taken: TakenBytes,
    /// The events of the publishing connection, if publishing has a connection of its own.
    pub(super) publishing: Option<Receiver<BusEvent>>,
}

impl BusAddress {
    /// Returns `None` without a bus.
    pub(super) fn of(checked: &Checked) -> Option<Self> {
        let is_set = |urls: &SecretUrl| !urls.expose().is_empty();
        let sentinels = Some(checked.url("events-bus-sentinels")).filter(is_set);
        let master = checked.text("events-bus-sentinel-master");
        let address = Self {
            urls: checked.url("events-bus"),
            sentinels: sentinels.map(|urls| SentinelSettings { urls, master }),
            ca: checked.path("events-bus-ca"),
            tls_name: checked.some_text("events-bus-tls-name"),
            client: checked
                .path("events-bus-cert")
                .zip(checked.path("events-bus-key")),
            creds: checked.path("events-bus-creds"),
            nkey: checked.path("events-bus-nkey"),
        };
        (is_set(&address.urls) || address.sentinels.is_some()).then_some(address)
    }

    /// `redis` or `nats`.
    pub(super) fn kind(&self) -> &'static str {
        match bus::is_redis(&self.urls) || self.sentinels.is_some() {
            true => "redis",
            false => "nats",
        }
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sentinels {
            Some(SentinelSettings { urls, master }) => write!(f, "{master} (sentinels {urls})"),
            None => self.urls.fmt(f),
        }
    }
}

/// Makes the connections. Each has a thread in `threads`, not started yet.
///
/// # Errors
/// The settings are not valid.
pub(super) fn connect(
    address: &BusAddress,
    name: &str,
    me: &InstanceId,
    settings: &ExchangeSettings,
    clock: Clock,
    threads: &mut Threads,
) -> Result<Connection, RunError> {
    let subjects = vec![Arc::from(name), subject_of(name, me)];
    let sent_bytes_max = settings.message_bytes_max + LINE_BYTES_MAX;
    match address.kind() {
        "redis" => redis(address, subjects, clock, threads),
        _ => nats(address, subjects, sent_bytes_max, clock, threads),
    }
}

/// Adds a thread for a connection.
fn run(
    name: &'static str,
    source: impl Source + 'static,
    clock: Clock,
    threads: &mut Threads,
) -> (Receiver<BusEvent>, TakenBytes) {
    let (sender, events) = bounded(EVENTS_MAX);
    let (bytes, taken) = QueueBytes::new(EVENT_BYTES_MAX);
    // No waker: the thread of the bus waits for the channel.
    let link = SourceLink::new(sender, Box::new(|| {}), clock).bounded(bytes);
    threads.add(name, move || Box::new(source).run(link));
    (events, taken)
}

fn redis(
    address: &BusAddress,
    subjects: Vec<Arc<str>>,
    clock: Clock,
    threads: &mut Threads,
) -> Result<Connection, RunError> {
    use crate::feeds::Subscription;
    use crate::kinds::bus::{plain_sentinel, set_sentinels, set_tls_name};
    use crate::sources::redis::{
        Endpoint, REDIS_PORT, RedisError, RedisPublisher, RedisSettings, RedisSource,
    };
    use crate::telemetry::BusStatus;

    let wrong = |error: RedisError| {
        RunError::Settings(match error {
            RedisError::NobodyTrusted(_) => format!("--events-bus-ca: {error}"),
            RedisError::PlainSentinel { .. } => plain_sentinel(&error, "events-bus"),
            _ => format!("--events-bus: {error}"),
        })
    };
    let server = match address.urls.expose() {
        "" => Endpoint::new("localhost", REDIS_PORT),
        url => Endpoint::parse(url).map_err(wrong)?,
    };
    let mut settings = RedisSettings::new(server);
    if let Some(sentinels) = address.sentinels.clone() {
        set_sentinels(&mut settings, sentinels, "events-bus-sentinels")?;
    }
    settings.tls_ca_file.clone_from(&address.ca);
    set_tls_name(
        &mut settings,
        address.tls_name.clone(),
        "events-bus-tls-name",
    )?;
    // Other instances may be set to longer parts.
    settings.payload_bytes_max = MESSAGE_BYTES_MAX;
    settings.needs_all_names = true;
    let status = || Arc::new(BusStatus::new(&[], clock.now().unix_ms));
    let question = redis_question(&settings, &subjects);
    let (source, interest) = RedisSource::new(settings.clone(), status()).map_err(wrong)?;
    for subject in subjects {
        interest.subscribe(Subscription::channel(&*subject));
    }
    let (publisher, handle) = RedisPublisher::new(settings, status()).map_err(wrong)?;
    let (events, taken) = run("bus-subscribe", source, clock, threads);
    // The publisher's events are short: `Up` and `Down`.
    let (sender, publishing) = bounded(EVENTS_MAX);
    let link = SourceLink::new(sender, Box::new(|| {}), clock);
    threads.add("bus-publish", move || Box::new(publisher).run(link));
    Ok(Connection {
        question: Some(question),
        publish: Box::new(move |subject, bytes| handle.publish(subject, bytes)),
        events,
        taken,
        publishing: Some(publishing),
    })
}

/// The check of Redis. Publishes to the last subject: the subject of this instance, without subscribers.
fn redis_question(
    settings: &crate::sources::redis::RedisSettings,
    subjects: &[Arc<str>],
) -> Question {
    use crate::feeds::Subscription;
    use crate::kinds::bus::shown_redis;
    use crate::sources::redis::{RedisNeeds, ask};

    let channels = subjects.iter().map(|one| Subscription::channel(&**one));
    let needs = RedisNeeds {
        subscriptions: channels.collect(),
        published: subjects.last().iter().map(|one| one.to_string()).collect(),
        ..RedisNeeds::default()
    };
    let asked = format!("Redis at {}", shown_redis(settings));
    let settings = settings.clone();
    Question::new(asked, move || ask(&settings, &needs))
}

fn nats(
    address: &BusAddress,
    subjects: Vec<Arc<str>>,
    sent_bytes_max: usize,
    clock: Clock,
    threads: &mut Threads,
) -> Result<Connection, RunError> {
    use crate::sources::nats::{Credentials, NatsPlainSource, NatsSettings, Tls};
    use crate::telemetry::BusStatus;

    let credentials = match (&address.creds, &address.nkey) {
        (Some(creds), _) => Credentials::CredsFile(creds.clone()),
        (None, Some(nkey)) => Credentials::NkeyFile(nkey.clone()),
        (None, None) => Credentials::None,
    };
    let tls = Tls {
        ca: address.ca.clone(),
        client: address.client.clone(),
    };
    let settings = NatsSettings::plain(address.urls.expose(), credentials, tls);
    let checked_files = settings.check_files("events-bus");
    checked_files.map_err(RunError::Settings)?;
    let question = nats_question(&settings, address, &subjects, sent_bytes_max);
    let status = Arc::new(BusStatus::new(&[], clock.now().unix_ms));
    let (source, handle) = NatsPlainSource::new(settings, subjects, sent_bytes_max, status);
    let (events, taken) = run("bus", source, clock, threads);
    Ok(Connection {
        question: Some(question),
        publish: Box::new(move |subject, bytes| handle.publish(subject, bytes)),
        events,
        taken,
        publishing: None,
    })
}

/// The check of NATS; see [`redis_question`].
fn nats_question(
    settings: &crate::sources::nats::NatsSettings,
    address: &BusAddress,
    subjects: &[Arc<str>],
    payload_bytes_max: usize,
) -> Question {
    use crate::sources::nats::{NatsNeeds, ask_plain};

    let needs = NatsNeeds {
        subscriptions: subjects.iter().map(|one| one.to_string()).collect(),
        published: subjects.last().iter().map(|one| one.to_string()).collect(),
        payload_bytes_max,
        ..NatsNeeds::default()
    };
    let settings = settings.clone();
    Question::new(format!("NATS at {address}"), move || {
        ask_plain(&settings, &needs)
    })
}
