//! A process: readings, absence, and the lines of facts about the process.

use std::cmp::Reverse;

use super::fetch::FetchError;
use super::readers::{Counter, Rates};
use super::words::{count, duration, maybe_bytes, rate, safe, whole};
use crate::listening::tls::{ENDS_SOON_S, ENDS_VERY_SOON_S};
use crate::telemetry::operator_state::{Numbers, OperatorState, ShownBus, ShownTls};

/// The age from which the newest message of an available bus is marked, milliseconds.
const OLD_MS: u64 = 10_000;
/// The most facts of a line.
const PIECES_MAX: usize = 100;

/// The meaning of a text's colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Wait,
    Bad,
}

/// A text with its tone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Piece {
    /// Every text of a server becomes a piece, and is made safe here.
    pub(super) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = safe(text.as_ref());
        Self { text, tone }
    }

    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Tone::Plain)
    }

    /// A text with `tone` if the number is more than 0.
    fn if_any(text: String, is_any: bool, tone: Tone) -> Self {
        Self::new(text, if is_any { tone } else { Tone::Plain })
    }
}

/// A line of facts: the name of the line, and the facts.
pub(super) type FactLine = (&'static str, Vec<Piece>);

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    /// The address as shown.
    pub(super) shown: String,
    /// The last state; kept while the process is away.
    pub(super) state: Option<OperatorState>,
    rates: Rates,
    away: Option<Away>,
    /// The time of the last response, in milliseconds of the view's clock.
    answered_ms: Option<u64>,
}

#[derive(Debug)]
struct Away {
    since_ms: u64,
    why: String,
}

impl Process {
    pub(super) fn new(shown: String) -> Self {
        Self {
            shown,
            state: None,
            rates: Rates::default(),
            away: None,
            answered_ms: None,
        }
    }

    /// Adds the result of a reading.
    pub(super) fn take(&mut self, at_ms: u64, read: Result<OperatorState, FetchError>) {
        match read {
            Ok(state) => {
                let before = self.state.as_ref().map_or(0, |state| state.uptime_seconds);
                // Another process counts from 0.
                if state.uptime_seconds < before || self.away.is_some() {
                    self.rates.forget();
                }
                self.away = None;
                self.answered_ms = Some(at_ms);
                self.rates.push(at_ms, state.numbers);
                self.state = Some(state);
            }
            Err(error) => {
                let since_ms = self.away.as_ref().map_or(at_ms, |away| away.since_ms);
                let why = safe(&error.to_string());
                self.away = Some(Away { since_ms, why });
            }
        }
    }

    /// The reason why the process is away.
    pub(super) fn away(&self) -> Option<&str> {
        self.away.as_ref().map(|away| away.why.as_str())
    }

    /// The status in one or two words.
    pub(super) fn status(&self, now_ms: u64) -> Piece {
        if let Some(away) = &self.away {
            let since_ms = self.answered_ms.unwrap_or(away.since_ms);
            let age = duration(now_ms.saturating_sub(since_ms));
            return Piece::new(format!("Away for {age}"), Tone::Bad);
        }
        let Some(state) = &self.state else {
            return Piece::plain("Asking");
        };
        let is_bus_away = state.bus.as_ref().is_some_and(|bus| bus.away_ms.is_some());
        let tone = match (state.ready, is_bus_away) {
            (false, _) => Tone::Bad,
            (true, true) => Tone::Wait,
            (true, false) => Tone::Good,
        };
        Piece::new(&state.status, tone)
    }

    /// Returns name and version.
    pub(super) fn name(&self) -> String {
        let state = self.state.as_ref();
        state.map_or_else(String::new, |state| {
            safe(&format!("{} {}", state.gateway, state.version))
        })
    }

    fn rate(&self, counter: Counter) -> String {
        rate(self.rates.per_second(counter))
    }

    fn sent_rate(&self) -> String {
        maybe_bytes(self.rates.per_second(|numbers| numbers.sent_bytes))
    }

    /// Returns clients, messages in and out per second, and bytes out per second: a line of the list of
    /// processes.
    pub(super) fn in_short(&self) -> [String; 4] {
        [
            count(self.state.as_ref().and_then(|state| state.numbers.clients)),
            self.rate(|numbers| numbers.bus_messages),
            self.rate(|numbers| numbers.messages_sent),
            self.sent_rate(),
        ]
    }

    /// Returns all facts, a line each.
    pub(super) fn lines(&self, now_ms: u64) -> Vec<FactLine> {
        let mut lines = vec![("Process", self.who(now_ms))];
        if let Some(why) = self.away() {
            lines.push(("Why", vec![Piece::new(why, Tone::Bad)]));
        }
        if let Some(state) = &self.state {
            lines.push(("Bus", bus(state)));
            lines.push(("Clients", clients(state)));
            lines.extend(state.tls.map(|shown| ("TLS", tls(state, shown))));
            lines.push(("Queues", queues(&state.numbers)));
            lines.push(("Rates/s", self.in_and_out()));
            lines.push(("Lost/s", self.lost(&state.numbers)));
            lines.push(("Ends", self.ends(state)));
        }
        for (_, pieces) in &mut lines {
            pieces.truncate(PIECES_MAX);
        }
        lines
    }

    fn who(&self, now_ms: u64) -> Vec<Piece> {
        let mut pieces = vec![Piece::plain(self.name()), self.status(now_ms)];
        if let Some(state) = &self.state {
            let up = duration(state.uptime_seconds.saturating_mul(1_000)).replace(".0 s", " s");
            pieces.push(Piece::plain(format!("up {up}")));
        }
        pieces.push(Piece::plain(self.shown.clone()));
        pieces.retain(|piece| !piece.text.is_empty());
        pieces
    }

    fn in_and_out(&self) -> Vec<Piece> {
        [
            format!("in {}", self.rate(|numbers| numbers.bus_messages)),
            format!("out {}", self.rate(|numbers| numbers.messages_sent)),
            format!("sent {}", self.sent_rate()),
            format!("from clients {}", self.rate(|n| n.received_messages)),
            format!("accepted {}", self.rate(|n| n.connections_accepted)),
        ]
        .map(Piece::plain)
        .into()
    }

    /// Messages that clients did not get, by reason.
    fn lost(&self, numbers: &Numbers) -> Vec<Piece> {
        let reasons: [(&str, Counter, Tone); 5] = [
            ("skipped", |n| n.messages_conflated, Tone::Wait),
            ("shed", |n| n.messages_shed, Tone::Wait),
            ("with connection", |n| n.messages_dropped, Tone::Wait),
            ("bad", |n| n.bus_messages_bad, Tone::Bad),
            ("gaps", |n| n.bus_gaps, Tone::Bad),
        ];
        let known = reasons.into_iter().filter_map(|(name, counter, tone)| {
            counter(numbers)?;
            let value = self.rates.per_second(counter);
            let is_any = value.is_some_and(|value| value > 0.0);
            Some(Piece::if_any(
                format!("{name} {}", rate(value)),
                is_any,
                tone,
            ))
        });
        known.collect()
    }

    /// Ended connections since the start, by reason, the most first.
    fn ends(&self, state: &OperatorState) -> Vec<Piece> {
        let mut ends: Vec<_> = state.closes.iter().collect();
        ends.sort_by_key(|(_, count)| Reverse(**count));
        let rate = self.rate(|numbers| numbers.connections_ended);
        let mut pieces = vec![Piece::plain(format!("{rate}/s"))];
        pieces.extend(ends.into_iter().map(|(reason, count)| {
            Piece::new(format!("{reason} {}", whole(*count)), tone_of_end(reason))
        }));
        pieces
    }
}

fn bus(state: &OperatorState) -> Vec<Piece> {
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

fn tls(state: &OperatorState, tls: ShownTls) -> Vec<Piece> {
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
    let is_old = age_ms.is_some_and(|ms| ms > OLD_MS);
    let newest = age_ms.map_or_else(
        || "none yet".to_owned(),
        |ms| format!("{} ago", duration(ms)),
    );
    let newest = format!("newest message {newest}");
    pieces.push(Piece::if_any(newest, is_old, Tone::Wait));
    let reconnects = whole(bus.reconnects);
    pieces.push(Piece::plain(format!("{reconnects} reconnects")));
    if bus.refused > 0 {
        let text = format!("{} refused subscriptions", whole(bus.refused));
        pieces.push(Piece::new(text, Tone::Bad));
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

fn clients(state: &OperatorState) -> Vec<Piece> {
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
    pieces
}

fn queues(numbers: &Numbers) -> Vec<Piece> {
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

/// Returns the tone of an end. Ends by clients and ends at a stop are normal.
pub(super) fn tone_of_end(reason: &str) -> Tone {
    match reason {
        "peer_closed" | "peer_gone" | "shutting_down" => Tone::Plain,
        _ => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fetch::samples::{state, state_with};
    use super::*;
    use crate::telemetry::operator_state::ShownService;

    fn text(lines: &[FactLine], about: &str) -> String {
        let line = lines.iter().find(|(name, _)| *name == about).expect(about);
        let texts: Vec<_> = line.1.iter().map(|piece| piece.text.as_str()).collect();
        texts.join(", ")
    }

    #[test]
    fn rates_come_from_two_readings() {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(state()));
        assert_eq!(process.in_short(), ["3", "-", "-", "-"]);
        process.take(
            2_000,
            Ok(state_with(|numbers| numbers.bus_messages = Some(160))),
        );
        assert_eq!(process.in_short()[1], "20.0");
        assert!(text(&process.lines(2_000), "Rates/s").starts_with("in 20.0, out 0.0"));
    }

    #[test]
    fn an_unreachable_process_is_away_with_its_age_and_comes_back() {
        let mut process = Process::new("h:1".to_owned());
        assert_eq!(process.status(0).text, "Asking");
        process.take(0, Ok(state()));
        process.take(1_000, Err(FetchError::Timeout));
        process.take(3_000, Err(FetchError::NoGateway));
        assert_eq!(
            process.status(4_000),
            Piece::new("Away for 4.0 s", Tone::Bad)
        );
        assert!(process.away().is_some_and(|why| why.contains("no gateway")));
        assert_eq!(process.in_short()[0], "3", "what was known stays");
        process.take(5_000, Ok(state()));
        assert_eq!(
            (process.status(5_000).text.as_str(), process.away()),
            ("Ready", None)
        );
        assert_eq!(process.in_short()[1], "-", "an outage is no interval");
    }

    #[test]
    fn a_restart_begins_new_rates() {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(state()));
        let mut later = state();
        later.uptime_seconds = 1;
        process.take(1_000, Ok(later));
        assert_eq!(process.in_short()[1], "-");
    }

    #[test]
    fn services_have_their_own_facts() {
        let mut process = Process::new("h:1".to_owned());
        let mut events = state();
        events.bus = None;
        events.services = [("lobby", false), ("game\x07", true)]
            .map(|(name, away)| ShownService {
                name: name.to_owned(),
                away,
            })
            .into();
        process.take(0, Ok(events));
        let shown = text(&process.lines(0), "Bus");
        assert_eq!(shown, r"none, lobby up, game\u0007 does not answer");
    }

    #[test]
    fn the_status_and_the_bus_are_in_words() {
        let mut process = Process::new("h:1".to_owned());
        let mut away = state();
        away.ready = false;
        away.status = "Not ready: the bus is away\x1b[2J".to_owned();
        if let Some(bus) = &mut away.bus {
            bus.away_ms = Some(12_000);
        }
        process.take(0, Ok(away.clone()));
        let safe = r"Not ready: the bus is away\u001b[2J";
        assert_eq!(process.status(0), Piece::new(safe, Tone::Bad));
        assert!(text(&process.lines(0), "Bus").starts_with("away for 12.0 s"));
        away.ready = true;
        process.take(0, Ok(away));
        assert_eq!(process.status(0).tone, Tone::Wait);
    }
}
