//! `weirgate channels`: its start and its pages.

mod bus;
mod rows;

use std::sync::Arc;

use self::bus::{ChannelsBus, OpenBus, wrong_history_name};
use self::rows::{conflated, kept_names, syntax};
use super::auth::{
    AclFile, access_metrics, acl, authenticator, check_table, warn_of, warn_of_ignored_tokens,
};
use crate::auth::{Authenticator, NamePatterns, NameSyntax};
use crate::base::Clock;
use crate::feeds::Subscription;
use crate::feeds::channels::{ChannelsFeed, ChannelsFeedSettings};
use crate::gateways::channels::{
    AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings, ChannelsOutput, ChannelsStats,
    KeptNames,
};
use crate::http::{Answer, ClientModule, FrontPage, Route, StatusCode, client_routes};
use crate::hub::{FrameBytes, TopicName};
use crate::run::{
    CommonSettings, GatewayKind, Parts, Prepared, Print, Reload, RunError, TokenUse, say,
};
use crate::settings::{Checked, Part, Rows};
use crate::sources::BusInterest;
use crate::telemetry::{BusStatus, GatewayMetric, Telemetry, names};
use crate::wire::object_writer::{ObjectWriter, iso_utc};

/// `weirgate channels`.
pub(super) const CHANNELS: GatewayKind = GatewayKind::new(
    "channels",
    "Relay Redis channels or NATS subjects that clients choose, with roles and limits",
    Rows::gateway(&[
        Part::Bus,
        Part::BusMessages,
        Part::Nats,
        Part::Redis,
        Part::RedisHost,
        Part::Json,
        Part::History,
        Part::HistoryMarks,
        Part::Stream,
        Part::StopCode,
        Part::RequireAuth,
        Part::Tokens,
    ])
    .own(&[rows::OWN])
    .changes(rows::CHANGES),
    start,
)
.check(rows::check)
.prints(PRINTS)
.dialect(super::dialects::CHANNELS)
.tokens(TokenUse::Roles(|checked| {
    acl(checked.path("acl").as_deref(), rows::syntax(checked))
}));

const PRINTS: &[Print] = &[Print {
    flag: "print-acl",
    help: "Show the table of who may subscribe to what, as JSON, and exit",
    text: |checked| {
        let file = checked.path("acl");
        acl(file.as_deref(), rows::syntax(checked)).map(|acl| acl.to_json())
    },
}];

fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let auth = checked.auth();
    let bus = ChannelsBus::of(checked)?;
    let retained = checked.switch("retained");
    let conflated = conflated_names(checked)?;
    let (authenticator, keys) = authenticator(&auth, clock)?;
    let gateway_settings = gateway_settings(checked, &common, authenticator)?;
    let acl_file = checked.path("acl").map(|path| {
        let settings = &gateway_settings;
        let default = (settings.default_role.as_str(), auth.required);
        AclFile::new(&path, settings.acl.clone(), default)
    });
    let (acl_file, tables) = acl_file.unzip();
    warn_of(&auth, &gateway_settings.authenticator);
    let (acl, role) = (&gateway_settings.acl, &gateway_settings.default_role);
    check_table(acl, role, auth.required);
    warn_of_ignored_tokens(&gateway_settings.authenticator, role);

    let status = Arc::new(BusStatus::new(&[], clock.mono_us()));
    let bus_name = bus.name();
    let syntax = gateway_settings.acl.syntax();
    let OpenBus {
        source,
        interest,
        question,
    } = bus.open(Arc::clone(&status), &gateway_settings.acl)?;
    let shown = bus.shown();
    let stats = Arc::new(ChannelsStats::default());
    let frame_bytes = FrameBytes::default();
    let feed_settings = ChannelsFeedSettings {
        json_depth_max: checked.number("json-depth-max"),
        bus_message_bytes_max: checked.number("bus-message-bytes-max"),
    };
    let feed = ChannelsFeed::new(feed_settings, frame_bytes.clone());
    let feed = match conflated {
        Some(names) => feed.conflating(move |name| names.matches(name)),
        None => feed,
    };
    let retained_bytes_max = checked.number("retained-bytes-max");
    let metrics = metrics(&stats, retained_bytes_max, interest.as_ref());
    let gateway = ChannelsGateway::new(gateway_settings, Arc::clone(&stats));
    let gateway = gateway.with_slow_bus(bus.settle().as_micros() as u64);
    let gateway = match retained {
        true => gateway.with_retained(retained_bytes_max),
        false => gateway,
    };
    let gateway = match kept_feed(checked)? {
        Some(names) => gateway.with_kept(names),
        None => gateway,
    };
    let for_stats = Arc::clone(&stats);
    let parts = Parts::new(CHANNELS.name, common, feed, gateway)
        .frame_bytes(frame_bytes)
        .boxed_source(source, status)
        .asks([question])
        .routes(move |telemetry| {
            let mut routes = client_routes(ClientModule::Channels);
            routes.push(health_route(telemetry, clock, bus_name));
            routes
        })
        .front(FrontPage {
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
        })
        .stats_head(Box::new(move |telemetry, object| {
            stats_head(object, telemetry, &for_stats, clock, bus_name);
        }))
        .metrics(metrics)
        .reloads(acl_file.map(|file| Box::new(file) as Box<dyn Reload>))
        .output(move |output| carry_out(interest.as_ref(), syntax, output));
    let parts = keys.add_to(parts);
    let parts = match tables {
        Some(tables) => parts.inputs(tables),
        None => parts,
    };
    parts.prepare(clock, move |listening| {
        let websocket = listening.url("ws", ChannelsGateway::PATH);
        let (bus, address) = &shown;
        let as_json = || tracing::info!(bus, address, websocket, "weirgate channels");
        let bus_line = format!("{:<11}{address}", format!("{bus}:"));
        let pages = listening.page_lines(11);
        let text = format!("weirgate channels\n  {bus_line}\n  WebSocket: {websocket}{pages}");
        say(&text, as_json);
    })
}

/// Names whose messages are conflated for slow clients.
fn conflated_names(checked: &Checked) -> Result<Option<NamePatterns>, RunError> {
    let names = conflated(checked);
    if names.is_empty() {
        return Ok(None);
    }
    let patterns = NamePatterns::new(syntax(checked), &names);
    let wrong = |(name, error)| RunError::Settings(format!("--conflate {name}: {error}"));
    patterns.map(Some).map_err(wrong)
}

/// The names of the kept feed; `None` without a history.
fn kept_feed(checked: &Checked) -> Result<Option<KeptNames>, RunError> {
    let names = kept_names(checked);
    if names.is_empty() {
        return Ok(None);
    }
    let kept = KeptNames::new(syntax(checked), names);
    let kept = kept.map_err(wrong_history_name)?;
    Ok(Some(match checked.stream() {
        Some(_) => kept.of_stream(),
        None => kept,
    }))
}

/// The channel of the marks; `None` if there are none.
fn marks_channel(checked: &Checked) -> Option<String> {
    let keeps = checked.number::<u64>("history-ms") > 0 && checked.stream().is_none();
    let has_marks = keeps && syntax(checked) == NameSyntax::Redis;
    has_marks.then(|| checked.text("history-channel"))
}

fn gateway_settings(
    checked: &Checked,
    common: &CommonSettings,
    authenticator: Authenticator,
) -> Result<ChannelsGatewaySettings, RunError> {
    let per_second = "messages-per-second-max";
    let rate = checked.number(per_second);
    Ok(ChannelsGatewaySettings {
        channels_max: checked.number("channels-max"),
        name_bytes_max: checked.number("channel-name-bytes-max"),
        patterns_max: checked.number("wildcards-max"),
        all_clients: AllClientsLimits {
            names_max: checked.number("all-channels-max"),
            patterns_max: checked.number("all-wildcards-max"),
            name_bytes_max: checked.number("all-channel-name-bytes-max"),
        },
        inbound_per_second: rate,
        renewals_per_second: checked.number("renewals-per-second-max"),
        // Unlimited by default.
        outbound_per_second: checked.is_set(per_second).then_some(rate),
        default_role: checked.text("default-role"),
        json_depth_max: checked.number("json-depth-max"),
        origins: common.origins(),
        authenticator,
        acl: acl(checked.path("acl").as_deref(), syntax(checked))?,
        marks_channel: marks_channel(checked),
    })
}

/// Carries out an output of the gateway: passes the interest of the clients to the bus, unless the whole
/// stream is read.
fn carry_out(interest: Option<&BusInterest>, syntax: NameSyntax, output: ChannelsOutput) {
    let ask = |name: &TopicName| subscription(syntax, name);
    match (output, interest) {
        (ChannelsOutput::GapTold { clients }, _) => {
            tracing::warn!(
                clients,
                "bus messages were lost: each affected client sees one gap in seq"
            );
        }
        (_, None) => {}
        (ChannelsOutput::Retained(request), Some(interest)) => match request.wanted {
            true => interest.ask_retained(ask(&request.name), request.number),
            false => interest.forget_retained(&ask(&request.name)),
        },
        (ChannelsOutput::Interest(change), Some(interest)) => match change.wanted {
            true => interest.subscribe_numbered(ask(&change.name), change.number),
            false => interest.unsubscribe(ask(&change.name)),
        },
    }
}

fn subscription(syntax: NameSyntax, name: &TopicName) -> Subscription {
    match syntax.is_pattern(name.as_str()) {
        true => Subscription::pattern(name.as_str()),
        false => Subscription::channel(name.as_str()),
    }
}

fn metrics(
    stats: &Arc<ChannelsStats>,
    retained_bytes_max: usize,
    interest: Option<&BusInterest>,
) -> Vec<GatewayMetric> {
    let number = |name, read| GatewayMetric::number(name, stats, read);
    let by_label = |name, read| GatewayMetric::by_label(name, stats, read);
    let (changes, questions) = (interest.cloned(), interest.cloned());
    let own = [
        number(&names::SUBSCRIPTIONS, |s| s.subscriptions.get()),
        by_label(&names::SUBSCRIBED_NAMES, |s| {
            vec![("channel", s.channels.get()), ("pattern", s.patterns.get())]
        }),
        number(&names::SUBSCRIBED_NAME_BYTES, |s| s.name_bytes.get()),
        by_label(&names::SUBSCRIPTIONS_LIMITED, |s| s.limited().collect()),
        number(&names::TOKENS_WITHOUT_ROLE, |s| s.access.without_role.get()),
        number(&names::GAPS_TOLD, |s| s.gaps_told.get()),
        by_label(&names::RENEWALS, |s| s.renewals().collect()),
        GatewayMetric::ByLabel(
            &names::SUBSCRIPTION_CHANGES,
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
        number(&names::RETAINED_WAITING, |s| s.retained_waiting.get()),
        GatewayMetric::ByLabel(
            &names::RETAINED_QUESTIONS,
            Box::new(move || {
                let questions = questions.as_ref().map(BusInterest::unanswered_questions);
                let questions = questions.unwrap_or_default();
                vec![("waiting", questions.waiting), ("asked", questions.asked)]
            }),
        ),
        number(&names::RETAINED_BYTES, |s| s.retained_bytes.get()),
        GatewayMetric::fixed(&names::RETAINED_BYTES_MAX, retained_bytes_max),
        number(&names::RETAINED_GIVEN_UP, |s| s.retained_given_up.get()),
    ];
    own.into_iter()
        .chain(access_metrics(&stats.access))
        .collect()
}

/// Writes whether the bus is there. `bus` is `redis` or `nats`; with Redis the pages follow the contract.
fn write_connected(object: &mut ObjectWriter, telemetry: &Telemetry, bus: &str) {
    let is_connected = telemetry.bus().is_some_and(BusStatus::connected);
    object.boolean(&format!("{bus}_connected"), is_connected);
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
        object.string("timestamp", &iso_utc(clock.now().unix_ms));
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
    object.string("timestamp", &iso_utc(clock.now().unix_ms));
}
