//! `weirgate channels`: assembles the gateway from its settings.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Acl, Authenticator, TokenNameLimits};
use crate::commands::{GatewayKind, Print, RoleTable, TokenUse};
use crate::gateways::channels::feed::ChannelsFeed;
use crate::gateways::channels::metrics::gateway_metrics;
use crate::gateways::channels::outputs::{carry_out, subscription_of};
use crate::gateways::channels::pages::{self, FRONT};
use crate::gateways::channels::settings::{ChannelsSettings, kept_names, own_flag};
use crate::gateways::channels::{ChannelsGateway, ChannelsGatewaySettings, ChannelsStats};
use crate::gateways::shared::auth::{authenticator, warn_of, warn_of_ignored_tokens};
use crate::gateways::shared::bus::Bus;
use crate::gateways::shared::open_bus::{BusReading, open, wrong_history_name};
use crate::gateways::shared::roles::{AclFile, Tokens, check_table, read_acl};
use weirgate_bus::nats::Settle;
use weirgate_core::FrameBytes;
use weirgate_runtime::Clock;
use weirgate_server::flag;
use weirgate_server::run::{
    CommonSettings, Inputs, Listening, Parts, Prepared, Reload, RunError, say,
};
use weirgate_server::settings::{Checked, RedisAccess, Rows, TablePart};
use weirgate_wire::auth::{NamePatterns, NameSyntax};

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

/// Assembles the gateway from its settings.
fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let own: ChannelsSettings = checked.get();
    let bus = bus(checked, &own)?;
    let (title, address) = (bus.title(), bus.address());
    let conflated = conflated_names(&own)?;
    let (authenticator, keys) = authenticator(&checked.auth(), clock)?;
    let gateway_settings = gateway_settings(checked, &own, &common, authenticator)?;
    let (acl_file, tables) = roles(checked, &own, &gateway_settings).unzip();
    let old_tables = acl_file.as_ref().map(AclFile::old_tables);

    let open_bus = open(
        bus,
        bus_reading(checked, &own, &gateway_settings.acl),
        clock,
    )?;
    let interest = open_bus.interest.clone();
    let stats = Arc::new(ChannelsStats::default());
    let metrics = gateway_metrics(&stats, own.retained_bytes_max, interest.as_ref());
    let frame_bytes = FrameBytes::default();
    let feed = ChannelsFeed::new(checked.get(), frame_bytes.clone());
    let gateway = gateway(checked, &own, gateway_settings, &stats)?;
    let (feed, gateway) = with_conflated(feed, gateway, conflated);
    let syntax = own.syntax();
    let parts = Parts::new(CHANNELS.name, common, feed, gateway)
        .frame_bytes(frame_bytes)
        .routes(move |telemetry| pages::routes(telemetry, clock, syntax))
        .front(FRONT)
        .stats_head(Box::new(move |telemetry, object| {
            pages::stats_head(object, telemetry, &stats, clock, syntax);
        }))
        .metrics(metrics)
        .reloads(acl_file.map(|file| Box::new(file) as Box<dyn Reload>))
        .output(move |output| carry_out(interest.as_ref(), old_tables.as_ref(), syntax, output));
    let parts = keys.add_to(open_bus.add_to(parts));
    let parts = match tables {
        Some(tables) => parts.inputs(tables),
        None => parts,
    };
    let announce = move |listening: &Listening| announce(title, &address, listening);
    parts.prepare(clock, announce)
}

/// Checks the table of roles and warns of tokens and roles that do not fit. Returns the file of the table and the input with
/// its later contents, if there is a file.
fn roles(
    checked: &Checked,
    own: &ChannelsSettings,
    settings: &ChannelsGatewaySettings,
) -> Option<(AclFile, Inputs<Acl>)> {
    let auth = checked.auth();
    let tokens = Tokens::of(&auth);
    let (acl, role) = (&settings.acl, &settings.default_role);
    let path = own.acl.as_deref();
    let file = path.map(|path| AclFile::new(path, acl, role, tokens));
    warn_of(&settings.authenticator);
    check_table(acl, role, tokens);
    warn_of_ignored_tokens(&settings.authenticator, role);
    file
}

/// The client side, with what the bus has beside live messages.
fn gateway(
    checked: &Checked,
    own: &ChannelsSettings,
    settings: ChannelsGatewaySettings,
    stats: &Arc<ChannelsStats>,
) -> Result<ChannelsGateway, RunError> {
    let bus_wait = match own.syntax() {
        // Redis confirms at once.
        NameSyntax::Redis => Duration::ZERO,
        NameSyntax::Nats => settle(checked, own).time,
    };
    let gateway = ChannelsGateway::new(settings, Arc::clone(stats));
    let gateway = gateway.with_slow_bus(bus_wait.as_micros() as u64);
    let gateway = match own.retained {
        true => gateway.with_retained(own.retained_bytes_max),
        false => gateway,
    };
    with_kept_feed(gateway, checked, own)
}

/// Says where the gateway listens, and to which bus it connects.
fn announce(bus: &'static str, address: &str, listening: &Listening) {
    let websocket = listening.url("ws", ChannelsGateway::PATH);
    let as_json = || tracing::info!(bus, address, websocket, "weirgate channels");
    let mut lines = vec![(bus, address.to_owned()), ("WebSocket", websocket.clone())];
    lines.extend(listening.pages());
    say(&Listening::banner("weirgate channels", &lines), as_json);
}

/// What to read: the names of the history from the start, and later those that clients request, as the table permits.
fn bus_reading<'a>(checked: &Checked, own: &ChannelsSettings, acl: &'a Acl) -> BusReading<'a> {
    let history_names = own.history_names.iter();
    let subscription = |name: &String| subscription_of(own.syntax(), &name.as_str().into());
    BusReading {
        names: history_names.map(subscription).collect(),
        keeps_names: !own.history_names.is_empty(),
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

/// Adds the names of the kept feed to the gateway; nothing without a history. Warns if nobody will be able to resume.
fn with_kept_feed(
    gateway: ChannelsGateway,
    checked: &Checked,
    own: &ChannelsSettings,
) -> Result<ChannelsGateway, RunError> {
    let syntax = own.syntax();
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
        gateway = gateway.with_pages(own.retained_bytes_max);
    }
    if is_stream && syntax == NameSyntax::Nats {
        return Ok(gateway.with_past());
    }
    if !is_stream && syntax == NameSyntax::Nats {
        match settle(checked, own).says_one_server() {
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

/// How long a subscription settles (`--bus-settle-ms`).
fn settle(checked: &Checked, own: &ChannelsSettings) -> Settle {
    Settle {
        time: Duration::from_millis(own.settle_ms),
        always: checked.is_set(own_flag!("bus-settle-ms")),
    }
}

/// The channel of the marks if clients must not get a permission for it: on Redis, where it is a channel like those of
/// clients. Other instances on the same Redis may publish marks also if this one keeps nothing.
fn reserved_channel(checked: &Checked, own: &ChannelsSettings) -> Option<String> {
    (own.syntax() == NameSyntax::Redis).then(|| checked.marks_channel())
}

/// The settings of the client side.
///
/// # Errors
/// The table of roles cannot be read.
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
