//! `weirgate channels`: its start and its pages.

use std::sync::Arc;
use std::time::Duration;

use crate::commands::{GatewayKind, Print, RoleTable, TokenUse};
use crate::gateways::channels::feed::ChannelsFeed;
use crate::gateways::channels::settings::{ChannelsSettings, kept_names, own_flag};
use crate::gateways::channels::{
    ChannelsGateway, ChannelsGatewaySettings, ChannelsOutput, ChannelsStats, RetainedRequest,
    metrics,
};
use crate::gateways::shared::auth::{authenticator, warn_of, warn_of_ignored_tokens};
use crate::gateways::shared::bus::Bus;
use crate::gateways::shared::metrics as shared_metrics;
use crate::gateways::shared::open_bus::{BusReading, open, wrong_history_name};
use crate::gateways::shared::roles::{AclFile, Tokens, check_table, read_acl};
use weirgate_bus::BusInterest;
use weirgate_bus::nats::Settle;
use weirgate_bus::runtime::Clock;
use weirgate_bus::status::BusStatus;
use weirgate_core::{FrameBytes, Limits, Subscription, TopicName};
use weirgate_server::flag;
use weirgate_server::http::{Answer, ClientModule, FrontPage, Route, StatusCode, client_routes};
use weirgate_server::run::{
    CommonSettings, Listening, Parts, Prepared, Reload, RunError, banner, say,
};
use weirgate_server::settings::{Checked, RedisAccess, Rows, StreamSettings, TablePart, has_flag};
use weirgate_server::telemetry::{GatewayMetric, Telemetry, names};
use weirgate_wire::auth::{Acl, Authenticator, NamePatterns, NameSyntax, TokenNameLimits};
use weirgate_wire::json::{ObjectWriter, iso_utc};

/// `weirgate channels`.
pub(in crate::gateways) const CHANNELS: GatewayKind = GatewayKind::new(
    "channels",
    "Relay Redis channels or NATS subjects that clients choose, with roles and limits",
    Rows::gateway(&[
        TablePart::Bus,
        TablePart::BusMessages,
        TablePart::Nats,
        TablePart::Redis,
        TablePart::RedisUrl,
        TablePart::RedisHost,
        TablePart::History,
        TablePart::HistoryMarks,
        TablePart::Stream,
        TablePart::StopCode,
        TablePart::RequireAuth,
        TablePart::Tokens,
    ])
    .own(&[super::settings::OWN])
    .changes(super::settings::CHANGES)
    .defaults(super::settings::defaults),
    start,
)
.check(super::settings::check)
.prints(PRINTS)
.dialect(crate::gateways::shared::dialects::CHANNELS)
.tokens(TokenUse::Roles(|checked| {
    let own: ChannelsSettings = checked.get();
    let of_clients: ChannelsGatewaySettings = checked.get();
    Ok(RoleTable {
        acl: table(&own)?,
        limits: TokenNameLimits {
            names_max: of_clients.channels_max,
            name_bytes_max: of_clients.name_bytes_max,
        },
        default_role: of_clients.default_role,
        file: own.acl,
    })
}));

/// The table of roles.
fn table(own: &ChannelsSettings) -> Result<Acl, RunError> {
    read_acl(own.acl.as_deref(), own.syntax())
}

const PRINTS: &[Print] = &[Print {
    flag: "print-acl",
    help: "Show the table of who may subscribe to what, as JSON, and exit",
    text: |checked| table(&checked.get()).map(|acl| acl.to_json()),
}];

/// The page for browsers.
const FRONT: FrontPage = FrontPage {
    gateway: CHANNELS.name,
    path: ChannelsGateway::PATH,
    status: StatusCode::NOT_FOUND,
    client: "/channels.js",
    tail: "--subscribe NAME",
    documents: &[
        "docs/guides/hello/nats.md",
        "docs/guides/hello/redis.md",
        "docs/guides/channels.md",
        "docs/reference/protocol-channels.md",
    ],
};

/// Assembles the gateway from its settings.
fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let auth = checked.auth();
    let own: ChannelsSettings = checked.get();
    let bus = bus(checked, &own)?;
    let conflated = conflated_names(&own)?;
    let (authenticator, keys) = authenticator(&auth, clock)?;
    let gateway_settings = gateway_settings(checked, &own, &common, authenticator)?;
    let tokens = Tokens::of(&auth);
    let acl_file = own.acl.as_deref().map(|path| {
        let settings = &gateway_settings;
        AclFile::new(path, settings.acl.clone(), &settings.default_role, tokens)
    });
    let (acl_file, tables) = acl_file.unzip();
    warn_of(&auth, &gateway_settings.authenticator);
    let (acl, role) = (&gateway_settings.acl, &gateway_settings.default_role);
    check_table(acl, role, tokens);
    warn_of_ignored_tokens(&gateway_settings.authenticator, role);

    let bus_name = bus.name();
    let syntax = own.syntax();
    let (title, address) = (bus.title(), bus.address());
    let settle = settle(checked, &own);
    let bus_wait = match syntax {
        NameSyntax::Redis => Duration::ZERO,
        NameSyntax::Nats => settle.time,
    };
    let open_bus = open(bus, reading(checked, &own, &gateway_settings.acl), clock)?;
    let interest = open_bus.interest.clone();
    let stats = Arc::new(ChannelsStats::default());
    let frame_bytes = FrameBytes::default();
    let feed = ChannelsFeed::new(checked.get(), frame_bytes.clone());
    let retained_bytes_max = own.retained_bytes_max;
    let metrics = gateway_metrics(&stats, retained_bytes_max, interest.as_ref());
    let gateway = ChannelsGateway::new(gateway_settings, Arc::clone(&stats));
    let gateway = gateway.with_slow_bus(bus_wait.as_micros() as u64);
    let (feed, gateway) = with_conflated(feed, gateway, conflated);
    let gateway = match own.retained {
        true => gateway.with_retained(retained_bytes_max),
        false => gateway,
    };
    let gateway = with_kept_feed(gateway, checked, syntax, retained_bytes_max, settle)?;
    let for_stats = Arc::clone(&stats);
    let parts = Parts::new(CHANNELS.name, common, feed, gateway)
        .frame_bytes(frame_bytes)
        .routes(move |telemetry| routes(telemetry, clock, bus_name))
        .front(FRONT)
        .stats_head(Box::new(move |telemetry, object| {
            stats_head(object, telemetry, &for_stats, clock, bus_name);
        }))
        .metrics(metrics)
        .reloads(acl_file.map(|file| Box::new(file) as Box<dyn Reload>))
        .output(move |output| carry_out(interest.as_ref(), syntax, output));
    let parts = keys.add_to(open_bus.add_to(parts));
    let parts = match tables {
        Some(tables) => parts.inputs(tables),
        None => parts,
    };
    let announce = move |listening: &Listening| announce(title, &address, listening);
    parts.prepare(clock, announce)
}

/// Says where the gateway listens, and to which bus it connects.
fn announce(bus: &'static str, address: &str, listening: &Listening) {
    let websocket = listening.url("ws", ChannelsGateway::PATH);
    let as_json = || tracing::info!(bus, address, websocket, "weirgate channels");
    let mut lines = vec![(bus, address.to_owned()), ("WebSocket", websocket.clone())];
    lines.extend(listening.pages());
    say(&banner("weirgate channels", &lines), as_json);
}

/// The names that clients choose, and those of the history.
fn reading<'a>(checked: &Checked, own: &ChannelsSettings, acl: &'a Acl) -> BusReading<'a> {
    let history_names = own.history_names.iter();
    let named = |name: &String| named(own.syntax(), &TopicName::from(name.as_str()));
    BusReading {
        names: history_names.map(named).collect(),
        marks_channel: marks_channel(checked, own),
        acl: Some(acl),
        has_last_values: own.retained,
        settle: settle(checked, own),
        ..BusReading::of(checked)
    }
}

/// Names whose messages are conflated for slow clients.
fn conflated_names(own: &ChannelsSettings) -> Result<Option<NamePatterns>, RunError> {
    if own.conflated.is_empty() {
        return Ok(None);
    }
    let patterns = NamePatterns::new(own.syntax(), &own.conflated);
    let wrong = |(name, error)| RunError::Settings(format!("--conflate {name}: {error}"));
    patterns.map(Some).map_err(wrong)
}

/// Lets the feed and the gateway conflate the messages of these names, if any.
fn with_conflated(
    feed: ChannelsFeed,
    gateway: ChannelsGateway,
    names: Option<NamePatterns>,
) -> (ChannelsFeed, ChannelsGateway) {
    match names {
        Some(names) => {
            let gateway = gateway.with_conflated(names.clone());
            (feed.conflating(move |name| names.matches(name)), gateway)
        }
        None => (feed, gateway),
    }
}

/// Adds the names of the kept feed to the gateway; nothing without a history.
fn with_kept_feed(
    gateway: ChannelsGateway,
    checked: &Checked,
    syntax: NameSyntax,
    retained_bytes_max: usize,
    settle: Settle,
) -> Result<ChannelsGateway, RunError> {
    let (names, is_stream) = (kept_names(checked), checked.stream().is_some());
    if names.is_empty() {
        return Ok(gateway);
    }
    let gateway = match is_stream {
        true => gateway.with_kept_stream(names),
        false => gateway.with_kept(names),
    };
    let mut gateway = gateway.map_err(wrong_history_name)?;
    if is_stream {
        gateway = gateway.with_pages(retained_bytes_max);
    }
    if is_stream && syntax == NameSyntax::Nats {
        return Ok(gateway.with_past());
    }
    if !is_stream && syntax == NameSyntax::Nats {
        match settle.is_whole() {
            true => tracing::warn!(
                "core NATS gives each instance positions of its own: nobody resumes on another instance or after a \
                 restart. Let a JetStream stream store the subjects, and read it with --stream"
            ),
            false => tracing::warn!(
                "on core NATS messages can be lost unseen, on the route from other servers (cluster, leaf nodes) and other \
                 accounts (imports): messages have no position, and nobody resumes (`off`). Let a JetStream stream store \
                 the subjects, and read it with --stream; or, if all publishers are on one server and in the account of \
                 weirgate, set --bus-settle-ms 0"
            ),
        }
    }
    Ok(gateway)
}

/// The bus: `--bus`, or Redis at `--redis-url`.
fn bus(checked: &Checked, own: &ChannelsSettings) -> Result<Bus, RunError> {
    match own.bus.expose().is_empty() {
        true => Bus::at(
            checked,
            flag!("redis-url"),
            &checked.get::<RedisAccess>().url,
        ),
        false => Bus::at(checked, own_flag!("bus"), &own.bus),
    }
}

fn settle(checked: &Checked, own: &ChannelsSettings) -> Settle {
    Settle {
        time: Duration::from_millis(own.settle_ms),
        always: checked.is_set(own_flag!("bus-settle-ms")),
    }
}

/// The channel on which the instances number kept messages (the marks of `--history-names`); `None` if the messages of no
/// names are kept.
fn marks_channel(checked: &Checked, own: &ChannelsSettings) -> Option<String> {
    let has_names = !own.history_names.is_empty();
    has_names.then(|| checked.get::<StreamSettings>().marks_channel)
}

/// The channel of the marks if clients must not get a permission for it: on Redis, where it is a channel like those of
/// clients. `None` if there are no marks.
fn reserved_channel(checked: &Checked, own: &ChannelsSettings) -> Option<String> {
    let keeps = checked.get::<Limits>().history.keep_us > 0;
    marks_channel(checked, own).filter(|_| keeps && own.syntax() == NameSyntax::Redis)
}

fn gateway_settings(
    checked: &Checked,
    own: &ChannelsSettings,
    common: &CommonSettings,
    authenticator: Authenticator,
) -> Result<ChannelsGatewaySettings, RunError> {
    let of_rows: ChannelsGatewaySettings = checked.get();
    let has_rate = checked.is_set(own_flag!("messages-per-second-max"));
    Ok(ChannelsGatewaySettings {
        // Unlimited by default.
        outbound_per_second: has_rate.then_some(of_rows.inbound_per_second),
        origins: common.origins(),
        authenticator,
        acl: table(own)?,
        marks_channel: reserved_channel(checked, own),
        ..of_rows
    })
}

/// Carries out an output of the gateway: tells the bus which names clients want. If a whole stream is read, the bus
/// needs no names.
fn carry_out(interest: Option<&BusInterest>, syntax: NameSyntax, output: ChannelsOutput) {
    let ask = |name: &TopicName| named(syntax, name);
    match (output, interest) {
        (ChannelsOutput::GapTold { clients }, _) => {
            tracing::warn!(
                clients,
                "bus messages were lost: each affected client sees one gap in seq"
            );
        }
        (_, None) => {}
        (ChannelsOutput::Retained(request), Some(interest)) => match request {
            RetainedRequest::Ask {
                name,
                number,
                after,
            } => interest.ask_retained(ask(&name), number, after),
            RetainedRequest::All {
                name,
                number,
                after,
                names,
            } => {
                let name = match (name.as_str(), syntax) {
                    ("", NameSyntax::Redis) => TopicName::fixed("*"),
                    ("", NameSyntax::Nats) => TopicName::fixed(">"),
                    _ => name,
                };
                interest.ask_all(ask(&name), number, (after, names));
            }
            RetainedRequest::Newest { name, number } => interest.ask_newest(ask(&name), number),
            RetainedRequest::More { number, .. } => interest.ask_more_retained(number),
            RetainedRequest::Forget { number, .. } => interest.forget_retained(number),
        },
        (ChannelsOutput::Interest(change), Some(interest)) => match change.wanted {
            true => interest.subscribe_numbered(ask(&change.name), change.number),
            false => interest.unsubscribe(ask(&change.name)),
        },
    }
}

fn named(syntax: NameSyntax, name: &TopicName) -> Subscription {
    Subscription {
        name: name.shared(),
        is_pattern: syntax.is_pattern(name.as_str()),
    }
}

/// The metrics of the gateway.
fn gateway_metrics(
    stats: &Arc<ChannelsStats>,
    retained_bytes_max: usize,
    interest: Option<&BusInterest>,
) -> Vec<GatewayMetric> {
    let number = |name, read| GatewayMetric::number(name, stats, read);
    let by_label = |name, read| GatewayMetric::by_label(name, stats, read);
    let (changes, questions) = (interest.cloned(), interest.cloned());
    let own = [
        number(&shared_metrics::SUBSCRIPTIONS, |s| s.subscriptions.get()),
        by_label(&names::SUBSCRIBED_NAMES, |s| {
            vec![("channel", s.channels.get()), ("pattern", s.patterns.get())]
        }),
        number(&metrics::SUBSCRIBED_NAME_BYTES, |s| s.name_bytes.get()),
        by_label(&shared_metrics::SUBSCRIPTIONS_LIMITED, |s| {
            s.limited().collect()
        }),
        number(&metrics::TOKENS_WITHOUT_ROLE, |s| {
            s.access.without_role.get()
        }),
        number(&metrics::GAPS_TOLD, |s| s.gaps_notified.get()),
        by_label(&metrics::RENEWALS, |s| s.renewals().collect()),
        GatewayMetric::ByLabel(
            &metrics::SUBSCRIPTION_CHANGES,
            Box::new(move || {
                let changes = changes.as_ref().map(BusInterest::unanswered);
                let changes = changes.unwrap_or_default();
                vec![
                    ("waiting", changes.waiting),
                    ("queued", changes.queued),
                    ("asked", changes.asked),
                    ("settling", changes.settling),
                ]
            }),
        ),
        number(&metrics::RETAINED_WAITING, |s| s.retained_waiting.get()),
        GatewayMetric::ByLabel(
            &metrics::RETAINED_QUESTIONS,
            Box::new(move || {
                let questions = questions.as_ref().map(BusInterest::unanswered_questions);
                let questions = questions.unwrap_or_default();
                vec![
                    ("waiting", questions.waiting),
                    ("asked", questions.asked),
                    ("paused", questions.paused),
                ]
            }),
        ),
        number(&names::RETAINED_BYTES, |s| s.retained_bytes.get()),
        GatewayMetric::fixed(&metrics::RETAINED_BYTES_MAX, retained_bytes_max),
        number(&metrics::RETAINED_GIVEN_UP, |s| s.retained_given_up.get()),
    ];
    own.into_iter()
        .chain(shared_metrics::access(&stats.access))
        .collect()
}

/// Writes whether the bus is connected. `bus` is `redis` or `nats`; for Redis, the member is that of the contract.
fn write_connected(object: &mut ObjectWriter, telemetry: &Telemetry, bus: &str) {
    let is_connected = telemetry.bus().is_some_and(BusStatus::connected);
    object.boolean(&format!("{bus}_connected"), is_connected);
}

/// The pages of the gateway.
fn routes(telemetry: &Arc<Telemetry>, clock: Clock, bus: &'static str) -> Vec<Route> {
    let mut routes = client_routes(ClientModule::Channels);
    routes.push(health_route(telemetry, clock, bus));
    routes
}

/// `/health` (contract channels, row HTTP).
fn health_route(telemetry: &Arc<Telemetry>, clock: Clock, bus: &'static str) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("status", "healthy");
        let service = match bus {
            "redis" => "redis-ws-gateway",
            _ => "weirgate-channels",
        };
        object.string("service", service);
        write_connected(&mut object, &telemetry, bus);
        object.number("clients_connected", telemetry.event_loop.clients());
        object.string("timestamp", &iso_utc(clock.now().unix_ms()));
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// Writes the head of `/stats` (contract channels, row HTTP).
fn stats_head(
    object: &mut ObjectWriter,
    telemetry: &Telemetry,
    stats: &ChannelsStats,
    clock: Clock,
    bus: &str,
) {
    object.number("clients_connected", telemetry.event_loop.clients());
    object.number("total_subscriptions", stats.subscriptions.get());
    object.number("channels_subscribed", stats.channels.get());
    object.number("patterns_subscribed", stats.patterns.get());
    write_connected(object, telemetry, bus);
    object.string("timestamp", &iso_utc(clock.now().unix_ms()));
}
