//! The connection to the bus between instances: Redis or NATS, as the URL says.

#![cfg_attr(
    not(all(feature = "nats", feature = "redis")),
    allow(dead_code, reason = "some of it is for one of the buses only")
)]

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::thread::{start, subject_of};
use crate::clock::Clock;
use crate::feeds::BusEvent;
use crate::gateways::events::bus::{ExchangeSettings, InstanceId};
use crate::kinds::bus_url;
use crate::queue_bytes::{QueueBytes, TakenBytes};
use crate::run::RunError;
use crate::settings::{Checked, SecretUrl};
use crate::sources::{Source, SourceLink};

/// Events between a connection and the thread of the bus.
const EVENTS_MAX: usize = 1_024;
/// Bytes of these. One message of any size has room.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a message beside its part of a push: the line in front.
const LINE_BYTES_MAX: usize = 256;

/// Where the bus is, and who this instance is to it. Shown without secrets.
pub(super) struct BusAddress {
    urls: SecretUrl,
    ca: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
    creds: Option<PathBuf>,
    nkey: Option<PathBuf>,
}

/// Publishes bytes on a subject. Returns `false` if too much waits to be written.
pub(super) type Publish = Box<dyn Fn(&Arc<str>, Vec<u8>) -> bool + Send>;

/// The threads of the connections run, and this is how they are spoken to.
pub(super) struct Connection {
    pub(super) publish: Publish,
    /// Of the subscribed connection.
    pub(super) events: Receiver<BusEvent>,
    /// Gives the room of taken events back.
    pub(super) taken: TakenBytes,
    /// Of the publishing connection, if it is another one.
    pub(super) publishing: Option<Receiver<BusEvent>>,
}

impl BusAddress {
    /// `None`: there is no bus.
    pub(super) fn of(checked: &Checked) -> Option<Self> {
        let address = Self {
            urls: checked.url("events-bus"),
            ca: checked.path("events-bus-ca"),
            client: checked
                .path("events-bus-cert")
                .zip(checked.path("events-bus-key")),
            creds: checked.path("events-bus-creds"),
            nkey: checked.path("events-bus-nkey"),
        };
        (!address.urls.expose().is_empty()).then_some(address)
    }

    /// `redis` or `nats`.
    pub(super) fn kind(&self) -> &'static str {
        match bus_url::is_redis(&self.urls) {
            true => "redis",
            false => "nats",
        }
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.urls.fmt(f)
    }
}

/// Starts the threads of the connections.
///
/// # Errors
/// The settings are no good, this program has no such bus, or the system has no thread left.
pub(super) fn connect(
    address: &BusAddress,
    name: &str,
    me: &InstanceId,
    settings: &ExchangeSettings,
    clock: Clock,
) -> Result<Connection, RunError> {
    let payload_bytes_max = settings.message_bytes_max + LINE_BYTES_MAX;
    let subjects = vec![Arc::from(name), subject_of(name, me)];
    match address.kind() {
        "redis" => redis(address, subjects, payload_bytes_max, clock),
        _ => nats(address, subjects, payload_bytes_max, clock),
    }
}

/// Runs a connection on a thread of its own.
fn run(
    name: &str,
    source: impl Source + 'static,
    clock: Clock,
) -> Result<(Receiver<BusEvent>, TakenBytes), RunError> {
    let (sender, events) = bounded(EVENTS_MAX);
    let (bytes, taken) = QueueBytes::new(EVENT_BYTES_MAX);
    // The thread of the bus waits for the channel itself.
    let link = SourceLink::new(sender, Box::new(|| {}), clock).bounded(bytes);
    start(name, move || Box::new(source).run(link))?;
    Ok((events, taken))
}

#[cfg(feature = "redis")]
fn redis(
    address: &BusAddress,
    subjects: Vec<Arc<str>>,
    payload_bytes_max: usize,
    clock: Clock,
) -> Result<Connection, RunError> {
    use crate::feeds::Subscription;
    use crate::sources::redis::{Endpoint, RedisError, RedisPublisher, RedisSettings, RedisSource};
    use crate::telemetry::BusStatus;

    let wrong = |error: RedisError| RunError::Settings(format!("--events-bus: {error}"));
    let server = Endpoint::parse(address.urls.expose()).map_err(wrong)?;
    let mut settings = RedisSettings::new(server);
    settings.tls_ca_file.clone_from(&address.ca);
    settings.payload_bytes_max = payload_bytes_max;
    settings.needs_all_names = true;
    let status = || Arc::new(BusStatus::new(&[], clock.now().unix_ms));
    let (source, interest) = RedisSource::new(settings.clone(), status()).map_err(wrong)?;
    for subject in subjects {
        interest.subscribe(Subscription::channel(&*subject));
    }
    let (publisher, handle) = RedisPublisher::new(settings, status()).map_err(wrong)?;
    let (events, taken) = run("bus-subscribe", source, clock)?;
    // What it says is short: `Up` and `Down`.
    let (sender, publishing) = bounded(EVENTS_MAX);
    let link = SourceLink::new(sender, Box::new(|| {}), clock);
    start("bus-publish", move || Box::new(publisher).run(link))?;
    Ok(Connection {
        publish: Box::new(move |subject, bytes| handle.publish(subject, bytes)),
        events,
        taken,
        publishing: Some(publishing),
    })
}

#[cfg(feature = "nats")]
fn nats(
    address: &BusAddress,
    subjects: Vec<Arc<str>>,
    payload_bytes_max: usize,
    clock: Clock,
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
    let status = Arc::new(BusStatus::new(&[], clock.now().unix_ms));
    let (source, handle) = NatsPlainSource::new(settings, subjects, payload_bytes_max, status);
    let (events, taken) = run("bus", source, clock)?;
    Ok(Connection {
        publish: Box::new(move |subject, bytes| handle.publish(subject, bytes)),
        events,
        taken,
        publishing: None,
    })
}

#[cfg(not(feature = "redis"))]
fn redis(_: &BusAddress, _: Vec<Arc<str>>, _: usize, _: Clock) -> Result<Connection, RunError> {
    Err(no_such_bus("Redis"))
}

#[cfg(not(feature = "nats"))]
fn nats(_: &BusAddress, _: Vec<Arc<str>>, _: usize, _: Clock) -> Result<Connection, RunError> {
    Err(no_such_bus("NATS"))
}

#[cfg(any(not(feature = "redis"), not(feature = "nats")))]
fn no_such_bus(bus: &str) -> RunError {
    RunError::Settings(format!(
        "--events-bus: this program was built without {bus}"
    ))
}
