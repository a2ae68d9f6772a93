//! Makes the source of a bus from what a gateway reads there ([`BusReading`]). All gateways use this, except for the streams
//! of levels and the exchange of events. Begin at [`open`]. Nothing is connected here: the source does that on its thread.

use std::sync::Arc;

use crate::auth::Acl;
use crate::gateways::shared::bus::{Bus, nats_error, nats_question, redis_error, redis_question};
use weirgate_bus::nats::{
    NatsNeeds, NatsSettings, NatsStreamSource, NatsSubjectsSettings, NatsSubjectsSource, Settle,
};
use weirgate_bus::redis::{RedisNeeds, RedisSettings, RedisSource, RedisStreamSource};
use weirgate_bus::{BusInterest, CountedFeed, StreamSettings};
use weirgate_core::{BusEvent, Feed, FeedSettings, Gateway, Limits, NameSource, Subscription};
use weirgate_runtime::{BusStatus, Clock, Source};
use weirgate_server::run::{Parts, RunError, StartQuestion};
use weirgate_server::settings::Checked;
use weirgate_wire::auth::{NameError, NameSyntax};

/// The messages that a gateway reads from its bus.
pub(in crate::gateways) struct BusReading<'a> {
    /// Bytes of a message; a larger message is cut.
    pub(in crate::gateways) payload_bytes_max: usize,
    /// The stream that is read instead of pub/sub. On NATS, names that the stream does not hold are read beside it.
    pub(in crate::gateways) stream: Option<StreamSettings>,
    /// Names that are read from the start.
    pub(in crate::gateways) names: Vec<Subscription>,
    /// Whether the gateway cannot work without these names.
    pub(in crate::gateways) needs_names: bool,
    /// Whether the messages of these names are kept.
    pub(in crate::gateways) keeps_names: bool,
    /// The channel of the marks on Redis: its messages are for instances, also if this one keeps nothing.
    pub(in crate::gateways) marks_channel: String,
    /// The table of what clients may request. `None`: clients choose no names.
    pub(in crate::gateways) acl: Option<&'a Acl>,
    /// Whether clients get last values (`--retained`).
    pub(in crate::gateways) has_last_values: bool,
    /// When a name counts as confirmed on NATS.
    pub(in crate::gateways) settle: Settle,
}

impl BusReading<'_> {
    /// Where the messages of the names come from that are read from the start.
    pub(in crate::gateways) fn source(&self) -> NameSource {
        match (&self.stream, self.keeps_names) {
            (Some(_), _) => NameSource::Stream,
            (None, true) => NameSource::Kept,
            (None, false) => NameSource::Live,
        }
    }

    /// What to read by the settings: the whole stream, or else the names that clients subscribe to.
    pub(in crate::gateways) fn of(checked: &Checked) -> Self {
        Self {
            payload_bytes_max: checked.get::<FeedSettings>().bus_message_bytes_max,
            stream: checked.stream().map(|name| StreamSettings {
                name,
                history_ms: checked.get::<Limits>().history.keep_us / 1000,
                history_bytes_max: checked.get::<Limits>().history.bytes_max,
                answer_bytes_max: checked.stream_answer_bytes_max(),
                only: None,
            }),
            names: Vec::new(),
            needs_names: false,
            keeps_names: false,
            marks_channel: checked.marks_channel(),
            acl: None,
            has_last_values: false,
            // As soon as the server confirms it.
            settle: Settle::NEVER,
        }
    }
}

/// A source that does not run yet.
pub(in crate::gateways) struct OpenBus {
    source: Box<dyn Source>,
    status: Arc<BusStatus>,
    /// Tells the source which names clients want. `None` for a stream with nothing beside it.
    pub(in crate::gateways) interest: Option<BusInterest>,
    /// The check of the bus for `--check --connect`.
    question: StartQuestion,
}

impl OpenBus {
    /// Adds the source and the check to the parts of a gateway.
    pub(in crate::gateways) fn add_to<G: Gateway, F: Feed<Event = BusEvent>>(
        self,
        parts: Parts<G, F>,
    ) -> Parts<G, F> {
        let parts = parts.boxed_source(self.source, self.status);
        parts.asks([self.question])
    }
}

/// Makes the source of a bus.
///
/// # Errors
/// The settings are not valid, or no file descriptor is left.
pub(in crate::gateways) fn open(
    bus: Bus,
    reading: BusReading<'_>,
    clock: Clock,
) -> Result<OpenBus, RunError> {
    let started_us = clock.mono_us();
    // Without consumers to show: only levels has some.
    let status = Arc::new(BusStatus::new(&[], started_us));
    match bus {
        Bus::Redis(settings) => open_redis(
            RedisSettings {
                payload_bytes_max: reading.payload_bytes_max,
                needs_all_names: reading.needs_names,
                ..settings
            },
            reading,
            status,
        ),
        Bus::Nats(settings) => open_nats(settings, reading, status, started_us),
    }
}

/// Makes the source of a Redis stream. If clients choose names (there is a table), they may ask for all its messages, which
/// come in pages.
fn open_redis_stream(
    settings: RedisSettings,
    stream: StreamSettings,
    acl: Option<&Acl>,
    status: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    let needs = RedisNeeds {
        stream: Some(stream.name.clone()),
        ..RedisNeeds::default()
    };
    let question = redis_question(&settings, needs);
    let source =
        RedisStreamSource::new(settings, stream, Arc::clone(&status)).map_err(redis_error)?;
    let (source, interest) = match acl {
        Some(_) => {
            let (source, interest) = source.with_pages().map_err(redis_error)?;
            (source, Some(interest))
        }
        None => (source, None),
    };
    Ok(OpenBus {
        source: Box::new(source),
        status,
        interest,
        question,
    })
}

/// Makes the source of Redis: a stream, or else names of pub/sub.
fn open_redis(
    settings: RedisSettings,
    mut reading: BusReading<'_>,
    status: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    if let Some(stream) = reading.stream.take() {
        return open_redis_stream(settings, stream, reading.acl, status);
    }
    let mut needs = reading.acl.map_or_else(RedisNeeds::default, redis_needs);
    // A name that is refused is an error of the check only if the gateway cannot work without it.
    let wanted = match reading.needs_names {
        true => &mut needs.subscriptions,
        false => &mut needs.requests,
    };
    wanted.extend(reading.names.iter().cloned());
    // An instance subscribes to the marks and publishes them too: both rights are checked.
    if reading.keeps_names {
        let marks = reading.marks_channel.clone();
        needs.requests.push(Subscription::channel(&*marks));
        needs.marks = Some(marks);
    }
    let question = redis_question(&settings, needs);
    let (source, interest) =
        RedisSource::new(settings, Arc::clone(&status)).map_err(redis_error)?;
    let feed = subscribe_names(NameSyntax::Redis, &reading, &interest)?;
    let source = source.with_marks(reading.marks_channel, feed);
    let source = source.map_err(redis_error)?;
    Ok(OpenBus {
        source: Box::new(source),
        status,
        interest: Some(interest),
        question,
    })
}

/// The source of a stream that is read whole.
fn stream_source(
    nats: NatsSettings,
    reading: &BusReading<'_>,
    stream: &StreamSettings,
    status: Arc<BusStatus>,
) -> Result<NatsStreamSource, RunError> {
    NatsStreamSource::new(nats, reading.payload_bytes_max, stream.clone(), status)
        .map_err(nats_error)
}

/// Makes the source of NATS. A gateway whose clients choose names reads a stream and, beside it, the names that the stream
/// does not hold. `status` is away since `started_us`.
fn open_nats(
    nats: NatsSettings,
    reading: BusReading<'_>,
    status: Arc<BusStatus>,
    started_us: u64,
) -> Result<OpenBus, RunError> {
    match &reading.stream {
        Some(stream) if reading.acl.is_none() => {
            let question = nats_question(&nats, NatsStreamSource::needs(stream));
            let source = stream_source(nats, &reading, stream, Arc::clone(&status))?;
            Ok(OpenBus {
                source: Box::new(source),
                status,
                interest: None,
                question,
            })
        }
        Some(stream) => {
            let both = BusStatus::new(&[], started_us).with_beside(Arc::clone(&status));
            open_stream_and_names(nats, &reading, stream, status, Arc::new(both))
        }
        None => open_names(nats, reading, status),
    }
}

/// The source of the names that clients choose, and what it needs of NATS.
fn names_settings(
    nats: NatsSettings,
    reading: &BusReading<'_>,
) -> (NatsSubjectsSettings, NatsNeeds) {
    let settings = NatsSubjectsSettings {
        nats,
        payload_bytes_max: reading.payload_bytes_max,
        is_retained: reading.has_last_values,
        stream: reading.stream.as_ref().map(|stream| stream.name.clone()),
        settle: reading.settle,
    };
    let requests = reading.acl.into_iter().flat_map(Acl::all_names);
    let requests = requests.map(str::to_owned).collect();
    let needs = NatsSubjectsSource::needs(&settings, requests, reading.keeps_names);
    (settings, needs)
}

/// A stream, and beside it the names that clients choose. `both` is the status of both, with that of the names in it.
fn open_stream_and_names(
    nats: NatsSettings,
    reading: &BusReading<'_>,
    stream: &StreamSettings,
    names_status: Arc<BusStatus>,
    both: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    let (settings, mut needs) = names_settings(nats.clone(), reading);
    needs.merge_stream_source(NatsStreamSource::needs(stream));
    let roles = reading.acl.into_iter().flat_map(Acl::names_by_role);
    needs.roles = roles
        .map(|(role, names)| (role.to_owned(), names.to_vec()))
        .collect();
    let question = nats_question(&nats, needs);
    let (beside, interest) = NatsSubjectsSource::new(settings, names_status).map_err(nats_error)?;
    let source = stream_source(nats, reading, stream, Arc::clone(&both))?;
    let beside = beside.beside(&source);
    Ok(OpenBus {
        source: source.with_beside(beside),
        status: both,
        interest: Some(interest),
        question,
    })
}

/// The names that clients choose, without a stream.
fn open_names(
    nats: NatsSettings,
    reading: BusReading<'_>,
    status: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    let (settings, needs) = names_settings(nats.clone(), &reading);
    let question = nats_question(&nats, needs);
    let opened = NatsSubjectsSource::new(settings, Arc::clone(&status));
    let (mut source, interest) = opened.map_err(nats_error)?;
    if let Some(feed) = subscribe_names(NameSyntax::Nats, &reading, &interest)? {
        source = source.with_kept(feed);
    }
    Ok(OpenBus {
        source: Box::new(source),
        status,
        interest: Some(interest),
        question,
    })
}

/// Subscribes to the names that are read from the start. If their messages are kept, returns the kept feed.
fn subscribe_names(
    syntax: NameSyntax,
    reading: &BusReading<'_>,
    interest: &BusInterest,
) -> Result<Option<CountedFeed>, RunError> {
    for name in &reading.names {
        interest.subscribe(name.clone());
    }
    if !reading.keeps_names {
        return Ok(None);
    }
    let feed = CountedFeed::new(syntax, reading.names.clone());
    feed.map(Some).map_err(wrong_history_name)
}

/// The error of a name in `--history-names`.
pub(in crate::gateways) fn wrong_history_name((name, error): (String, NameError)) -> RunError {
    RunError::Settings(format!("--history-names {name}: {error}"))
}

/// All subscriptions that the table of roles permits, for the check of the rights at Redis: names, patterns, and for
/// each pattern an example of a name, because Redis has separate rules for patterns.
fn redis_needs(acl: &Acl) -> RedisNeeds {
    let mut requests = Vec::new();
    for name in acl.all_names() {
        if !NameSyntax::Redis.is_pattern(name) {
            requests.push(Subscription::channel(name));
            continue;
        }
        requests.push(Subscription::pattern(name));
        // In a pattern with a class or an escape, the replacement would give no name that it matches.
        if !name.contains(['[', '\\']) {
            let example = name.replace('*', "example").replace('?', "x");
            requests.push(Subscription::channel(example));
        }
    }
    RedisNeeds {
        requests,
        ..RedisNeeds::default()
    }
}
