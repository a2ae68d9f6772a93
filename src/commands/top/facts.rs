//! The facts of a process as texts with a tone, from its state alone.

use super::words::{Piece, Tone, count, duration, maybe_bytes, whole};
use crate::listening::tls::{ENDS_SOON_S, ENDS_VERY_SOON_S};
use crate::telemetry::STREAM_LATE_MS;
use crate::telemetry::operator_state::{Numbers, OperatorState, ShownBus, ShownTls};

/// The age from which the newest message of an available bus is marked, milliseconds.
const OLD_MS: u64 = 10_000;

/// The number of users, tokens and addresses that are refused, and the newest of them.
pub(super) fn refused(state: &OperatorState) -> Vec<Piece> {
    let newest = state.revoked_newest.iter().map(|cut| {
        let named = [
            ("user", cut.user.clone()),
            ("jti", cut.jti.clone()),
            ("address", cut.address.map(|ip| ip.to_string())),
            ("role", cut.role.clone()),
            ("token", cut.token.clone()),
        ];
        let named = named
            .into_iter()
            .filter_map(|(name, text)| Some(format!("{name} {}", text?)));
        Piece::plain(named.collect::<Vec<_>>().join(" "))
    });
    std::iter::once(Piece::plain(whole(state.revoked)))
        .chain(newest)
        .collect()
}

/// The broker and the services.
pub(super) fn bus(state: &OperatorState) -> Vec<Piece> {
    let mut pieces = match &state.bus {
        Some(bus) => broker(state, bus),
        None => vec![Piece::plain("none")],
    };
    pieces.extend(state.services.iter().map(|service| match service.away {
        true => Piece::new(format!("{} does not answer", service.name), Tone::Bad),
        false => Piece::new(format!("{} up", service.name), Tone::Good),
    }));
    pieces
}

/// The certificate and the handshakes.
pub(super) fn tls(state: &OperatorState, tls: ShownTls) -> Vec<Piece> {
    let left_ms = tls
        .certificate_ends_unix_ms
        .saturating_sub(state.now_unix_ms);
    let ends = match u64::try_from(left_ms) {
        Ok(ms) if ms > 0 => format!("certificate ends in {}", duration(ms)),
        _ => "certificate has ended".to_owned(),
    };
    let tone = match left_ms {
        ms if ms < ENDS_VERY_SOON_S * 1_000 => Tone::Bad,
        ms if ms < ENDS_SOON_S * 1_000 => Tone::Wait,
        _ => Tone::Plain,
    };
    vec![
        Piece::new(ends, tone),
        Piece::plain(format!("handshakes {}", whole(tls.handshakes_full))),
        Piece::plain(format!("resumed {}", whole(tls.handshakes_resumed))),
        Piece::plain(format!("failed {}", whole(tls.handshakes_failed))),
        Piece::plain(format!("open {}", whole(tls.handshakes_open))),
    ]
}

fn broker(state: &OperatorState, bus: &ShownBus) -> Vec<Piece> {
    let mut pieces = vec![match (bus.away_ms, bus.connected, bus.subscribed) {
        (Some(ms), _, _) => Piece::new(format!("away for {}", duration(ms)), Tone::Bad),
        (_, _, true) => Piece::new("up", Tone::Good),
        (_, true, _) => Piece::new("connected, not subscribed", Tone::Bad),
        _ => Piece::new("away", Tone::Bad),
    }];
    let at_unix_ms = state.numbers.bus_last_message_unix_ms;
    let age_ms = at_unix_ms.map(|at| state.age_ms(at));
    let newest = age_ms.map_or_else(
        || "none yet".to_owned(),
        |ms| format!("{} ago", duration(ms)),
    );
    let is_old = age_ms.is_some_and(|ms| ms > OLD_MS);
    pieces.push(Piece::if_any(
        format!("newest message {newest}"),
        is_old,
        Tone::Wait,
    ));
    pieces.push(Piece::plain(format!(
        "{} reconnects",
        whole(bus.reconnects)
    )));
    if bus.refused > 0 {
        let text = format!("{} refused subscriptions", whole(bus.refused));
        pieces.push(Piece::new(text, Tone::Bad));
    }
    if let Some(ms) = bus.stream_behind_ms.filter(|ms| *ms > 0) {
        let messages = bus.stream_behind.filter(|messages| *messages > 0);
        let messages = messages.map_or_else(String::new, |n| format!("{} messages, ", whole(n)));
        let tone = if ms > STREAM_LATE_MS {
            Tone::Bad
        } else {
            Tone::Wait
        };
        let text = format!("stream {messages}{} behind", duration(ms));
        pieces.push(Piece::new(text, tone));
    }
    for consumer in &bus.consumers {
        let name = &consumer.name;
        pieces.push(match (consumer.away_ms, consumer.stalled, consumer.lag) {
            (Some(ms), _, _) => Piece::new(format!("{name} away for {}", duration(ms)), Tone::Bad),
            (_, true, _) => Piece::new(format!("{name} stalled"), Tone::Bad),
            (_, _, Some(lag)) if lag > 0 => {
                Piece::new(format!("{name} {} behind", whole(lag)), Tone::Wait)
            }
            _ => continue,
        });
    }
    pieces
}

/// Clients and connections, the states of clients, and slow clients by cause.
pub(super) fn clients(state: &OperatorState) -> Vec<Piece> {
    let numbers = &state.numbers;
    let max = numbers
        .connections_max
        .map_or_else(|| "no limit".to_owned(), whole);
    let connections = count(numbers.connections);
    let mut pieces = vec![
        Piece::plain(count(numbers.clients)),
        Piece::plain(format!("connections {connections} / {max}")),
    ];
    if let Some(survey) = &state.survey {
        let states = [
            ("waiting", survey.clients_waiting, Tone::Plain),
            ("blocked", survey.clients_blocked, Tone::Wait),
            ("skipping", survey.clients_conflating, Tone::Wait),
        ];
        pieces.extend(states.map(|(name, value, tone)| {
            Piece::if_any(format!("{} {name}", whole(value)), value > 0, tone)
        }));
    }
    let causes = state.slow.iter().filter(|(_, count)| **count > 0);
    let slow = |(why, count): (&String, &u64)| format!("{} slow: {why}", whole(*count));
    pieces.extend(causes.map(|cause| Piece::new(slow(cause), Tone::Wait)));
    pieces
}

/// What waits for clients.
pub(super) fn queues(numbers: &Numbers) -> Vec<Piece> {
    let size = |value: Option<u64>| maybe_bytes(value.map(|value| value as f64));
    [
        format!("{} messages", count(numbers.messages_waiting)),
        size(numbers.send_queue_bytes),
        format!("largest {}", size(numbers.send_queue_peak_bytes)),
        format!("frames {}", size(numbers.frame_bytes)),
        format!("from bus {}", count(numbers.bus_queue_messages)),
    ]
    .map(Piece::plain)
    .into()
}

/// From the arrival of a message until the write to the last client, and the lateness of the loop.
pub(super) fn latency(state: &OperatorState) -> Vec<Piece> {
    let mut pieces = match &state.latency {
        Some(latency) => vec![
            Piece::plain(format!("p50 {:.1} ms", latency.p50_ms)),
            Piece::plain(format!("p99 {:.1} ms", latency.p99_ms)),
            Piece::plain(format!(
                "p99.9 {:.1} ms of the last minute",
                latency.p999_ms
            )),
        ],
        None => vec![Piece::plain("no messages in the last minute")],
    };
    let late = [
        ("loop late", state.late_ms, Tone::Wait),
        ("loop late since the start", state.late_all_ms, Tone::Plain),
    ];
    let late = late.into_iter().filter(|(_, ms, _)| *ms > 0);
    pieces
        .extend(late.map(|(name, ms, tone)| Piece::new(format!("{name} {}", duration(ms)), tone)));
    pieces
}
