//! Makes the source of a bus from what a gateway reads there. All gateways use this, except for the streams of levels
//! and the exchange of events. Begin at [`open`]. Nothing is connected here: the source does that on its thread.

use std::sync::Arc;

use crate::gateways::shared::bus::{Bus, nats_error, nats_question, redis_error, redis_question};
use weirgate_bus::nats::{
    NatsNeeds, NatsSettings, NatsStreamSource, NatsSubjectsSettings, NatsSubjectsSource, Settle,
};
use weirgate_bus::redis::{
    RedisNeeds, RedisSettings, RedisSource, RedisStreamPages, RedisStreamSource, WithPages,
};
use weirgate_bus::runtime::Clock;
use weirgate_bus::status::BusStatus;
use weirgate_bus::{BusInterest, KeptFeed, Source, StreamSettings, WithBeside};
use weirgate_core::{BusEvent, Feed, FeedSettings, Gateway, Limits, NameSource, Subscription};
use weirgate_server::run::{Parts, Question, RunError};
use weirgate_server::settings::Checked;
use weirgate_wire::auth::{Acl, NameError, NameSyntax, is_pattern};

/// The messages that a gateway reads from its bus.
pub(in crate::gateways) struct Reading<'a> {
    /// Bytes of a message; a larger message is cut.
    pub(in crate::gateways) payload_bytes_max: usize,
    /// The stream that is read: in place of pub/sub; on NATS, names that it does not hold are read beside it.
    pub(in crate::gateways) stream: Option<StreamSettings>,
    /// Names that are read from the start.
    pub(in crate::gateways) names: Vec<Subscription>,
    /// Whether the gateway cannot work without these names.
    pub(in crate::gateways) needs_names: bool,
    /// The channel of the marks; `None` if the messages of these names are not kept.
    pub(in crate::gateways) kept: Option<String>,
    /// The table of what clients may request.
    pub(in crate::gateways) acl: Option<&'a Acl>,
    /// Whether clients may ask for last values.
    pub(in crate::gateways) is_retained: bool,
    /// When a name counts as confirmed on NATS.
    pub(in crate::gateways) settle: Settle,
}

impl Reading<'_> {
    /// Where the messages of the names come from that are read from the start.
    pub(in crate::gateways) fn source(&self) -> NameSource {
        match (&self.stream, &self.kept) {
            (Some(_), _) => NameSource::Stream,
            (None, Some(_)) => NameSource::Kept,
            (None, None) => NameSource::Live,
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
                only: None,
            }),
            names: Vec::new(),
            needs_names: false,
            kept: None,
            acl: None,
            is_retained: false,
            settle: Settle::NEVER,
        }
    }
}

/// A source that does not run yet.
pub(in crate::gateways) struct OpenBus {
    source: Box<dyn Source>,
    status: Arc<BusStatus>,
    /// By this the source learns which names clients want. `None` for a stream with nothing beside it.
    pub(in crate::gateways) interest: Option<BusInterest>,
    /// The check of the bus for `--check --connect`.
    question: Question,
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
    reading: Reading<'_>,
    clock: Clock,
) -> Result<OpenBus, RunError> {
    let started_us = clock.mono_us();
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
        Bus::Nats(settings) => open_nats(settings, reading, (status, started_us)),
    }
}

/// Makes the source of a Redis stream, with its pages if clients may ask for all its messages.
fn open_redis_stream(
    settings: RedisSettings,
    stream: StreamSettings,
    has_pages: bool,
    status: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    let needs = RedisNeeds {
        stream: Some(stream.name.clone()),
        ..RedisNeeds::default()
    };
    let question = redis_question(&settings, needs);
    let pages = has_pages
        .then(|| RedisStreamPages::new(settings.clone(), &stream.name, Arc::clone(&status)));
    let pages = pages.transpose().map_err(redis_error)?;
    let source =
        RedisStreamSource::new(settings, stream, Arc::clone(&status)).map_err(redis_error)?;
    let (source, interest): (Box<dyn Source>, _) = match pages {
        Some((pages, interest)) => (Box::new(WithPages::new(source, pages)), Some(interest)),
        None => (Box::new(source), None),
    };
    Ok(OpenBus {
        source,
        status,
        interest,
        question,
    })
}

/// Makes the source of Redis: a stream, or else names of pub/sub.
fn open_redis(
    settings: RedisSettings,
    mut reading: Reading<'_>,
    status: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    if let Some(stream) = reading.stream.take() {
        return open_redis_stream(settings, stream, reading.acl.is_some(), status);
    }
    let mut needs = reading.acl.map_or_else(RedisNeeds::default, redis_needs);
    let wanted = match reading.needs_names {
        true => &mut needs.subscriptions,
        false => &mut needs.requests,
    };
    wanted.extend(reading.names.iter().cloned());
    // An instance subscribes to the marks and publishes them too: both rights are checked.
    let marks = reading.kept.as_deref().map(Subscription::channel);
    needs.requests.extend(marks);
    needs.marks.clone_from(&reading.kept);
    let question = redis_question(&settings, needs);
    let (mut source, interest) =
        RedisSource::new(settings, Arc::clone(&status)).map_err(redis_error)?;
    if let Some(feed) = subscribed(NameSyntax::Redis, &reading, &interest)? {
        let marks = reading.kept.unwrap_or_default();
        source = source.with_kept(feed, &marks).map_err(redis_error)?;
    }
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
    reading: &Reading<'_>,
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
    reading: Reading<'_>,
    (status, started_us): (Arc<BusStatus>, u64),
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

/// The names that clients choose, and what the start needs to read them.
fn chosen_names(nats: NatsSettings, reading: &Reading<'_>) -> (NatsSubjectsSettings, NatsNeeds) {
    let settings = NatsSubjectsSettings {
        nats,
        payload_bytes_max: reading.payload_bytes_max,
        is_retained: reading.is_retained,
        stream: reading.stream.as_ref().map(|stream| stream.name.clone()),
        settle: reading.settle,
    };
    let requests = reading.acl.into_iter().flat_map(Acl::all_names);
    let requests = requests.map(str::to_owned).collect();
    let needs = NatsSubjectsSource::needs(&settings, requests, reading.kept.is_some());
    (settings, needs)
}

/// A stream, and beside it the names that clients choose.
fn open_stream_and_names(
    nats: NatsSettings,
    reading: &Reading<'_>,
    stream: &StreamSettings,
    of_names: Arc<BusStatus>,
    both: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    let (settings, mut needs) = chosen_names(nats.clone(), reading);
    needs.add_stream(NatsStreamSource::needs(stream));
    let roles = reading.acl.into_iter().flat_map(Acl::names_by_role);
    needs.roles = roles
        .map(|(role, names)| (role.to_owned(), names.to_vec()))
        .collect();
    let question = nats_question(&nats, needs);
    let (beside, interest) = NatsSubjectsSource::new(settings, of_names).map_err(nats_error)?;
    let source = stream_source(nats, reading, stream, Arc::clone(&both))?;
    Ok(OpenBus {
        source: Box::new(WithBeside::new(Box::new(source), Box::new(beside))),
        status: both,
        interest: Some(interest),
        question,
    })
}

/// The names that clients choose, without a stream.
fn open_names(
    nats: NatsSettings,
    reading: Reading<'_>,
    status: Arc<BusStatus>,
) -> Result<OpenBus, RunError> {
    let (settings, needs) = chosen_names(nats.clone(), &reading);
    let question = nats_question(&nats, needs);
    let opened = NatsSubjectsSource::new(settings, Arc::clone(&status));
    let (mut source, interest) = opened.map_err(nats_error)?;
    if let Some(feed) = subscribed(NameSyntax::Nats, &reading, &interest)? {
        source = source.with_kept(feed);
    }
    Ok(OpenBus {
        source: Box::new(source),
        status,
        interest: Some(interest),
        question,
    })
}

/// Subscribes to the names that are read from the start. If their messages are kept, returns the feed of kept messages.
fn subscribed(
    syntax: NameSyntax,
    reading: &Reading<'_>,
    interest: &BusInterest,
) -> Result<Option<KeptFeed>, RunError> {
    for name in &reading.names {
        interest.subscribe(name.clone());
    }
    if reading.kept.is_none() {
        return Ok(None);
    }
    let feed = KeptFeed::new(syntax, reading.names.clone());
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
        if !is_pattern(name) {
            requests.push(Subscription::channel(name));
            continue;
        }
        requests.push(Subscription::pattern(name));
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
