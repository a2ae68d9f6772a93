//! A process: its readings, and its facts as texts with a tone.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::facts::{bus, clients, latency, queues, refused, tls};
use super::fetch::FetchError;
use super::tables::{Table, tables, tone_of_end};
use super::words::{Piece, Tone, count, duration, maybe_bytes, rate, safe, whole};
use crate::telemetry::operator_state::{Numbers, OperatorState};

/// The period of rates, milliseconds: over a shorter period rates would jump.
const RATE_OVER_MS: u64 = 5_000;
/// The most facts of a line.
const PIECES_MAX: usize = 100;

/// Reads a counter; `None` if the gateway does not send the counter.
type Counter = fn(&Numbers) -> Option<u64>;

/// One process.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// The address as shown.
    pub(super) shown: String,
    /// The last state; kept while the process is away.
    pub(super) state: Option<OperatorState>,
    /// The reason why the process is away.
    pub(super) away: Option<String>,
    /// The numbers of the last seconds, with their time in milliseconds of the view's clock.
    numbers: VecDeque<(u64, Numbers)>,
    /// The time of the last response, or of the first reading without a response.
    answered_ms: Option<u64>,
}

impl Process {
    pub(super) fn new(shown: String) -> Self {
        Self {
            shown,
            ..Self::default()
        }
    }

    /// Adds the result of a reading.
    pub(super) fn take(&mut self, at_ms: u64, read: Result<OperatorState, FetchError>) {
        let state = match read {
            Ok(state) => state,
            Err(error) => {
                self.answered_ms.get_or_insert(at_ms);
                self.away = Some(safe(&error.to_string()));
                return;
            }
        };
        let before = self.state.as_ref().map_or(0, |state| state.uptime_seconds);
        // Another process counts from 0, and an outage is not an interval.
        if state.uptime_seconds < before || self.away.take().is_some() {
            self.numbers.clear();
        }
        self.answered_ms = Some(at_ms);
        self.numbers.push_back((at_ms, state.numbers));
        let is_old = |(at, _): &(u64, Numbers)| at_ms - at >= RATE_OVER_MS;
        while self.numbers.len() > 2 && self.numbers.get(1).is_some_and(is_old) {
            self.numbers.pop_front();
        }
        self.state = Some(state);
    }

    /// Whether there is nothing to wait for: the process is away, or has a survey with rates.
    pub(super) fn is_complete(&self) -> bool {
        let survey = self.state.as_ref().and_then(|state| state.survey.as_ref());
        self.away.is_some() || survey.is_some_and(|survey| survey.interval_ms.is_some())
    }

    /// The growth of a counter per second; `None` before the second reading, and after a restart.
    fn per_second(&self, counter: Counter) -> Option<f64> {
        let ((from_ms, first), (to_ms, last)) = (self.numbers.front()?, self.numbers.back()?);
        let seconds = to_ms.checked_sub(*from_ms).filter(|ms| *ms > 0)? as f64 / 1e3;
        let grown = counter(last)?.checked_sub(counter(first)?)?;
        Some(grown as f64 / seconds)
    }

    fn rate(&self, counter: Counter) -> String {
        rate(self.per_second(counter))
    }

    fn sent_rate(&self) -> String {
        maybe_bytes(self.per_second(|numbers| numbers.sent_bytes))
    }

    /// The status in one or two words.
    fn status(&self, now_ms: u64) -> Piece {
        if self.away.is_some() {
            let age = now_ms.saturating_sub(self.answered_ms.unwrap_or(now_ms));
            return Piece::new(format!("Away for {}", duration(age)), Tone::Bad);
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
    fn name(&self) -> Piece {
        let name = |state: &OperatorState| format!("{} {}", state.gateway, state.version);
        Piece::plain(self.state.as_ref().map_or_else(String::new, name))
    }

    /// Returns a line of the list of processes.
    pub(super) fn in_short(&self, now_ms: u64) -> Vec<Piece> {
        let clients = self.state.as_ref().and_then(|state| state.numbers.clients);
        let mut line = vec![Piece::plain(&self.shown), self.name(), self.status(now_ms)];
        line.extend(
            [
                count(clients),
                self.rate(|numbers| numbers.bus_messages),
                self.rate(|numbers| numbers.messages_sent),
                self.sent_rate(),
            ]
            .map(Piece::plain),
        );
        line
    }

    /// Returns all facts, a line each: the name of the line, and the facts.
    pub(super) fn lines(&self, now_ms: u64) -> Vec<(&'static str, Vec<Piece>)> {
        let mut who = vec![self.name(), self.status(now_ms)];
        if let Some(state) = &self.state {
            let up = duration(state.uptime_seconds.saturating_mul(1_000)).replace(".0 s", " s");
            who.push(Piece::plain(format!("up {up}")));
        }
        who.push(Piece::plain(&self.shown));
        who.retain(|piece| !piece.text.is_empty());
        let mut lines = vec![("Process", who)];
        lines.extend(
            self.away
                .iter()
                .map(|why| ("Why", vec![Piece::new(why, Tone::Bad)])),
        );
        if let Some(state) = &self.state {
            lines.push(("Bus", bus(state)));
            lines.push(("Clients", clients(state)));
            lines.push(("Latency", latency(state)));
            lines.extend(state.tls.map(|shown| ("TLS", tls(state, shown))));
            lines.push(("Queues", queues(&state.numbers)));
            lines.push(("Rates/s", self.in_and_out()));
            lines.push(("Lost", self.lost(&state.numbers)));
            lines.push(("Ends", self.ends(state)));
            lines.extend((state.revoked > 0).then(|| ("Refused", refused(state))));
        }
        for (_, pieces) in &mut lines {
            pieces.truncate(PIECES_MAX);
        }
        lines
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

    /// Messages that clients did not get since the start, by reason.
    fn lost(&self, numbers: &Numbers) -> Vec<Piece> {
        let reasons: [(&str, Counter, Tone); 5] = [
            ("skipped", |n| n.messages_conflated, Tone::Wait),
            ("shed", |n| n.messages_shed, Tone::Wait),
            ("with connection", |n| n.messages_dropped, Tone::Wait),
            ("bad", |n| n.bus_messages_bad, Tone::Bad),
            ("gaps", |n| n.bus_gaps, Tone::Bad),
        ];
        let known = reasons.into_iter().filter_map(|(name, counter, tone)| {
            let all = format!("{name} {}", whole(counter(numbers)?));
            let grows = self.per_second(counter).filter(|value| *value > 0.0);
            Some(match grows {
                Some(_) => Piece::new(format!("{all} (+{}/s)", rate(grows)), tone),
                None => Piece::plain(all),
            })
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

    /// Returns all tables.
    pub(super) fn tables(&self) -> Vec<Table> {
        self.state.as_ref().map(tables).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fetch::samples::{state, state_with};
    use super::*;
    use crate::telemetry::operator_state::ShownService;

    fn text(lines: &[(&str, Vec<Piece>)], about: &str) -> String {
        let line = lines.iter().find(|(name, _)| *name == about).expect(about);
        let texts: Vec<_> = line.1.iter().map(|piece| piece.text.as_str()).collect();
        texts.join(", ")
    }

    /// The numbers of the line in the list of processes.
    fn short(process: &Process) -> Vec<String> {
        let line = process.in_short(0).into_iter().skip(3);
        line.map(|piece| piece.text).collect()
    }

    #[test]
    fn rates_come_from_two_readings() {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(state()));
        assert_eq!(short(&process), ["3", "-", "-", "-"]);
        process.take(
            2_000,
            Ok(state_with(|numbers| numbers.bus_messages = Some(160))),
        );
        assert_eq!(short(&process)[1], "20.0");
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
        assert!(
            process
                .away
                .as_ref()
                .is_some_and(|why| why.contains("is not a gateway"))
        );
        assert_eq!(short(&process)[0], "3", "what was known stays");
        process.take(5_000, Ok(state()));
        assert_eq!(
            (process.status(5_000).text.as_str(), &process.away),
            ("Ready", &None)
        );
        assert_eq!(short(&process)[1], "-", "an outage is no interval");
    }

    #[test]
    fn a_restart_begins_new_rates() {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(state()));
        let mut later = state();
        later.uptime_seconds = 1;
        process.take(1_000, Ok(later));
        assert_eq!(short(&process)[1], "-");
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

    #[test]
    fn rates_are_over_the_last_seconds() {
        let mut process = Process::new("h:1".to_owned());
        for second in 0..=20 {
            let grown = 100 + 10 * second.min(1);
            process.take(
                second * 1_000,
                Ok(state_with(|n| n.bus_messages = Some(grown))),
            );
        }
        assert_eq!(short(&process)[1], "0.0");
        assert!(
            process.numbers.len() < 8,
            "{} readings are kept",
            process.numbers.len()
        );
        process.take(
            21_000,
            Ok(state_with(|numbers| numbers.bus_messages = None)),
        );
        assert_eq!(short(&process)[1], "-", "a gateway without this number");
    }
}
