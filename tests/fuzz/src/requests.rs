//! Requests of clients and services to each gateway, through a hub, against the contracts in Python.

use std::cell::RefCell;
use std::sync::Arc;

use weirgate::auth::{Acl, Authenticator};
use weirgate::gateways::channels::{AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings};
use weirgate::gateways::events::broadcast::{Broadcast, Wrong};
use weirgate::gateways::events::{EventsGateway, EventsGatewaySettings, EventsStats, Services};
use weirgate::gateways::trades::{CandleSettings, TradesGateway, TradesGatewaySettings};
use weirgate_wire::auth::Origins;
use weirgate_wire::json::ObjectWriter;

use super::client::Bench;
use super::{choices, oracle, outcome};

/// Messages of one client.
const MESSAGES_MAX: usize = 6;

fn channels_gateway() -> Bench<ChannelsGateway> {
    // Redis is away: subscriptions get their response at once.
    let settings = ChannelsGatewaySettings {
        channels_max: 5,
        name_bytes_max: 40,
        patterns_max: 2,
        all_clients: AllClientsLimits {
            names_max: 100_000,
            patterns_max: 1_000,
            name_bytes_max: 1 << 28,
        },
        inbound_per_second: 1_000,
        renewals_per_second: 1_000,
        default_role: "internal".to_owned(),
        authenticator: Authenticator::default(),
        acl: Acl::default(),
        ..ChannelsGatewaySettings::default()
    };
    Bench::new(ChannelsGateway::new(settings, Arc::default()))
}

fn trades_gateway() -> Bench<TradesGateway> {
    let settings = TradesGatewaySettings {
        server_id: "ws-gateway-0a1b2c3d".to_owned(),
        symbols_max: 5,
        authenticator: Authenticator::default(),
        candles: Some(CandleSettings {
            grace_ms: 500,
            pairs_max: 100,
        }),
        ..TradesGatewaySettings::default()
    };
    Bench::new(TradesGateway::new(settings, Arc::default()))
}

fn events_gateway() -> Bench<EventsGateway> {
    let settings = EventsGatewaySettings {
        message_bytes_max: 2_000,
        rate_burst: 1_000,
        rate_per_second_milli: 0,
        calls_max: 100_000,
        orphans_max: 1_000,
        waiting_bytes_max: 1 << 30,
        ..EventsGatewaySettings::default()
    };
    Bench::new(EventsGateway::new(
        settings,
        Origins::default(),
        Arc::<EventsStats>::default(),
    ))
}

thread_local! {
    static CHANNELS: RefCell<Bench<ChannelsGateway>> = RefCell::new(channels_gateway());
    static TRADES: RefCell<Bench<TradesGateway>> = RefCell::new(trades_gateway());
}

/// Messages of a client, with a NUL between two; a text frame is UTF-8.
fn messages(data: &[u8]) -> Option<Vec<&str>> {
    let text = std::str::from_utf8(data).ok()?;
    Some(text.split('\0').take(MESSAGES_MAX).collect())
}

/// Asks Python to compare messages and responses.
fn compare(contract: &str, messages: &[&str], answers: &[Vec<String>]) -> u64 {
    let joined: Vec<String> = answers.iter().map(|texts| texts.join("\n")).collect();
    let mut parts = vec![contract.as_bytes()];
    for (message, answer) in messages.iter().zip(&joined) {
        parts.extend([message.as_bytes(), answer.as_bytes()]);
    }
    oracle::python_agrees(&parts);
    let shape = |answer: &String| -> String {
        // Without the part that the client chose.
        let start: String = answer
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .take(60)
            .collect();
        start
            .split("not JSON")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let shapes: Vec<String> = joined.iter().map(shape).collect();
    outcome(shapes)
}

pub(crate) fn channels(data: &[u8]) -> u64 {
    let Some(messages) = messages(data) else {
        return 0;
    };
    let answers = CHANNELS.with_borrow_mut(|bench| bench.talk("/ws", &messages));
    compare("channels_requests", &messages, &answers[1..])
}

pub(crate) fn trades(data: &[u8]) -> u64 {
    let Some(messages) = messages(data) else {
        return 0;
    };
    let answers = TRADES.with_borrow_mut(|bench| bench.talk("/", &messages));
    compare("trades_requests", &messages, &answers[1..])
}

pub(crate) fn events(data: &[u8]) -> u64 {
    let ([named], data) = choices(data);
    let Some(mut messages) = messages(data) else {
        return 0;
    };
    // A call never gets a response here, and would block all later calls: so each input has its own gateway,
    // and the requests to the services count as the responses.
    let mut bench = events_gateway();
    let is_named = named & 1 == 1;
    let answers = bench.talk(if is_named { "/ws?device_id=d" } else { "/ws" }, &messages);
    let services = Services::default();
    let calls: Vec<String> = bench
        .outputs
        .iter()
        .map(|call| {
            format!(
                "{} {}",
                services.row(call.service).name,
                String::from_utf8_lossy(&call.body)
            )
        })
        .collect();
    let calls = [calls.join("\n")];
    messages.insert(0, if is_named { "named" } else { "" });
    let mut all = vec![calls.to_vec()];
    all.extend(answers[1..].iter().cloned());
    compare("events_requests", &messages, &all)
}

pub(crate) fn broadcasts(data: &[u8]) -> u64 {
    let read = Broadcast::parse(data);
    let ours = match &read {
        Ok(broadcast) => {
            let mut object = ObjectWriter::new();
            object.raw("event", &broadcast.event);
            object.raw("data", &broadcast.data);
            object.strings(
                "device_ids",
                broadcast.device_ids.iter().map(String::as_str),
            );
            object.finish()
        }
        Err(wrong) => Wrong::response(wrong),
    };
    oracle::python_agrees(&[b"broadcasts", data, ours.as_bytes()]);
    outcome(match read {
        Ok(broadcast) => format!(
            "{} {}",
            broadcast.device_ids.len().min(3),
            broadcast.data.len().min(3)
        ),
        Err(_) => ours.chars().filter(|c| !c.is_ascii_digit()).collect(),
    })
}
