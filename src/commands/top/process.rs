//! A process: its readings, its absence, and the lines of facts about the process.

use super::fetch::{FetchError, Reading};
use super::metrics::Rates;
use super::state::{Bus, State};
use super::words::{byte_rate, bytes, count, decimal, duration, rate, safe};

/// The age from which the newest message of an available bus is marked.
const OLD_MS: f64 = 10_000.0;

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
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = text.into();
        Self { text, tone }
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(text, Tone::Plain)
    }

    /// A text with `tone` if the number is more than 0.
    fn if_any(text: String, value: Option<f64>, tone: Tone) -> Self {
        let is_any = value.is_some_and(|value| value > 0.0);
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
    pub(super) state: Option<State>,
    pub(super) rates: Rates,
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
    pub(super) fn take(&mut self, at_ms: u64, read: Result<Reading, FetchError>) {
        match read {
            Ok(reading) => {
                let before = self.state.as_ref().map_or(0.0, |state| state.uptime_s);
                // Another process counts from 0.
                if reading.state.uptime_s < before || self.away.is_some() {
                    self.rates.forget();
                }
                self.away = None;
                self.answered_ms = Some(at_ms);
                self.rates.push(at_ms, reading.metrics);
                self.state = Some(reading.state);
            }
            Err(error) => {
                let since_ms = self.away.as_ref().map_or(at_ms, |away| away.since_ms);
                self.away = Some(Away {
                    since_ms,
                    why: safe(&error.to_string()),
                });
            }
        }
    }

    /// The reason why the process is away.
    pub(super) fn away(&self) -> Option<&str> {
        self.away.as_ref().map(|away| away.why.as_str())
    }

    /// Whether the shown facts may be old.
    pub(super) fn is_old(&self) -> bool {
        self.away.is_some()
    }

    /// The status in one or two words.
    pub(super) fn status(&self, now_ms: u64) -> Piece {
        if let Some(away) = &self.away {
            let since_ms = self.answered_ms.unwrap_or(away.since_ms);
            let age = duration(now_ms.saturating_sub(since_ms) as f64);
            return Piece::new(format!("Away for {age}"), Tone::Bad);
        }
        match &self.state {
            None => Piece::plain("Asking"),
            Some(state) if !state.is_ready => {
                let reasons: Vec<_> = state.reasons.iter().map(|reason| words(reason)).collect();
                Piece::new(format!("Not ready: {}", reasons.join(", ")), Tone::Bad)
            }
            Some(State { bus: Some(bus), .. }) if bus.away_ms.is_some() => {
                Piece::new("Bus away", Tone::Wait)
            }
            Some(_) => Piece::new("Ready", Tone::Good),
        }
    }

    /// Returns name and version.
    pub(super) fn name(&self) -> String {
        let state = self.state.as_ref();
        state.map_or_else(String::new, |state| {
            format!("{} {}", state.gateway, state.version)
        })
    }

    /// The current value of a metric.
    pub(super) fn now(&self, name: &str) -> Option<f64> {
        self.rates.newest()?.sum(name, None)
    }

    fn rate(&self, name: &str) -> Option<f64> {
        self.rates.per_second(name, None)
    }

    /// Returns clients, messages in and out per second, and bytes out per second: a line of the list of
    /// processes.
    pub(super) fn in_short(&self) -> [String; 4] {
        [
            count(self.now("weirgate_clients")),
            rate(self.rate("weirgate_bus_messages_total")),
            rate(self.rate("weirgate_frames_sent_total")),
            byte_rate(self.rate("weirgate_bytes_sent_total")),
        ]
    }

    /// Returns all facts, a line each.
    pub(super) fn lines(&self, now_ms: u64) -> Vec<FactLine> {
        let mut lines = vec![("Process", self.who(now_ms))];
        if let Some(why) = self.away() {
            lines.push(("Why", vec![Piece::new(why, Tone::Bad)]));
        }
        if let Some(state) = &self.state {
            lines.push(("Bus", self.bus(state)));
            lines.push(("Clients", self.clients(state)));
            lines.push(("Queues", self.queues()));
            lines.push(("Rates/s", self.in_and_out()));
            lines.push(("Lost/s", self.lost()));
            lines.push(("Ends", self.ends()));
        }
        lines
    }

    fn who(&self, now_ms: u64) -> Vec<Piece> {
        let mut pieces = vec![Piece::plain(self.name()), self.status(now_ms)];
        if let Some(state) = &self.state {
            let up = duration(state.uptime_s * 1e3).replace(".0 s", " s");
            pieces.push(Piece::plain(format!("up {up}")));
        }
        pieces.push(Piece::plain(self.shown.clone()));
        pieces.retain(|piece| !piece.text.is_empty());
        pieces
    }

    fn bus(&self, state: &State) -> Vec<Piece> {
        let mut pieces = match &state.bus {
            Some(bus) => self.broker(state, bus),
            None => vec![Piece::plain("none")],
        };
        let samples = self
            .rates
            .newest()
            .map(|metrics| metrics.samples("weirgate_service_away"));
        for sample in samples.unwrap_or_default() {
            let service = sample.label("service");
            pieces.push(match sample.value > 0.0 {
                true => Piece::new(format!("{service} does not answer"), Tone::Bad),
                false => Piece::new(format!("{service} up"), Tone::Good),
            });
        }
        pieces
    }

    fn broker(&self, state: &State, bus: &Bus) -> Vec<Piece> {
        let mut pieces = vec![match (bus.away_ms, bus.is_connected, bus.is_subscribed) {
            (Some(ms), _, _) => Piece::new(format!("away for {}", duration(ms)), Tone::Bad),
            (_, _, true) => Piece::new("up", Tone::Good),
            (_, true, _) => Piece::new("connected, not subscribed", Tone::Bad),
            _ => Piece::new("away", Tone::Bad),
        }];
        let at_s = self.now("weirgate_bus_last_message_timestamp_seconds");
        let age_ms = at_s.map(|s| (state.now_unix_ms - s * 1e3).max(0.0));
        let is_old = age_ms.is_some_and(|ms| ms > OLD_MS);
        let newest = age_ms.map_or_else(
            || "none yet".to_owned(),
            |ms| format!("{} ago", duration(ms)),
        );
        let tone = if is_old { Tone::Wait } else { Tone::Plain };
        pieces.push(Piece::new(format!("newest message {newest}"), tone));
        pieces.push(Piece::plain(format!(
            "{} reconnects",
            decimal(bus.reconnects, 0)
        )));
        if bus.refused > 0.0 {
            let text = format!("{} refused subscriptions", decimal(bus.refused, 0));
            pieces.push(Piece::new(text, Tone::Bad));
        }
        for consumer in &bus.consumers {
            let name = &consumer.name;
            pieces.push(
                match (consumer.away_ms, consumer.is_stalled, consumer.lag) {
                    (Some(ms), _, _) => {
                        Piece::new(format!("{name} away for {}", duration(ms)), Tone::Bad)
                    }
                    (_, true, _) => Piece::new(format!("{name} stalled"), Tone::Bad),
                    (_, _, Some(lag)) if lag > 0.0 => {
                        Piece::new(format!("{name} {} behind", decimal(lag, 0)), Tone::Wait)
                    }
                    _ => continue,
                },
            );
        }
        pieces
    }

    fn clients(&self, state: &State) -> Vec<Piece> {
        let now = count(self.now("weirgate_clients"));
        let connections = count(self.now("weirgate_connections"));
        let max = self
            .now("weirgate_connections_max")
            .filter(|max| *max > 0.0);
        let max = max.map_or_else(|| "no limit".to_owned(), |max| decimal(max, 0));
        let mut pieces = vec![
            Piece::plain(now),
            Piece::plain(format!("connections {connections} / {max}")),
        ];
        if let Some(survey) = &state.survey {
            let states = [
                ("waiting", survey.waiting, Tone::Plain),
                ("blocked", survey.blocked, Tone::Wait),
                ("skipping", survey.conflating, Tone::Wait),
            ];
            pieces.extend(states.map(|(name, value, tone)| {
                Piece::if_any(format!("{} {name}", decimal(value, 0)), Some(value), tone)
            }));
        }
        pieces
    }

    fn queues(&self) -> Vec<Piece> {
        let size = |name: &str| bytes(self.now(name).unwrap_or(0.0));
        let number = |name: &str| count(self.now(name));
        vec![
            Piece::plain(format!("{} messages", number("weirgate_messages_waiting"))),
            Piece::plain(size("weirgate_send_queue_bytes")),
            Piece::plain(format!(
                "largest {}",
                size("weirgate_send_queue_peak_bytes")
            )),
            Piece::plain(format!("frames {}", size("weirgate_frame_bytes_alive"))),
            Piece::plain(format!(
                "from bus {}",
                number("weirgate_bus_queue_messages")
            )),
        ]
    }

    fn in_and_out(&self) -> Vec<Piece> {
        let number = |name: &str| rate(self.rate(name));
        vec![
            Piece::plain(format!("in {}", number("weirgate_bus_messages_total"))),
            Piece::plain(format!("out {}", number("weirgate_frames_sent_total"))),
            Piece::plain(format!(
                "sent {}",
                byte_rate(self.rate("weirgate_bytes_sent_total"))
            )),
            Piece::plain(format!(
                "from clients {}",
                number("weirgate_received_messages_total")
            )),
            Piece::plain(format!(
                "accepted {}",
                number("weirgate_connections_accepted_total")
            )),
        ]
    }

    /// Messages that clients did not get, by reason.
    fn lost(&self) -> Vec<Piece> {
        let reasons = [
            ("skipped", "weirgate_messages_conflated_total", Tone::Wait),
            ("shed", "weirgate_messages_shed_total", Tone::Wait),
            (
                "with connection",
                "weirgate_messages_dropped_total",
                Tone::Wait,
            ),
            ("bad", "weirgate_bus_messages_bad_total", Tone::Bad),
            ("gaps", "weirgate_bus_gaps_total", Tone::Bad),
        ];
        let known = reasons.iter().filter_map(|(name, metric, tone)| {
            self.now(metric)?;
            let value = self.rate(metric);
            Some(Piece::if_any(
                format!("{name} {}", rate(value)),
                value,
                *tone,
            ))
        });
        known.collect()
    }

    /// Ended connections since the start, by reason, the most first.
    fn ends(&self) -> Vec<Piece> {
        let samples = self
            .rates
            .newest()
            .map(|metrics| metrics.samples("weirgate_client_closes_total"));
        let mut ends: Vec<_> = samples
            .unwrap_or_default()
            .iter()
            .filter(|s| s.value > 0.0)
            .collect();
        ends.sort_by(|a, b| b.value.total_cmp(&a.value));
        let mut pieces = vec![Piece::plain(format!(
            "{}/s",
            rate(self.rate("weirgate_client_closes_total"))
        ))];
        pieces.extend(ends.iter().map(|sample| {
            let reason = sample.label("reason");
            Piece::new(
                format!("{reason} {}", decimal(sample.value, 0)),
                tone_of_end(reason),
            )
        }));
        pieces
    }
}

/// Returns the tone of an end. Ends by clients and ends at a stop are normal.
pub(super) fn tone_of_end(reason: &str) -> Tone {
    match reason {
        "peer_closed" | "peer_gone" | "shutting_down" => Tone::Plain,
        _ => Tone::Bad,
    }
}

/// A reason for "not ready", in words.
fn words(reason: &str) -> &str {
    match reason {
        "draining" => "stopping",
        "loop_stalled" => "the loop hangs",
        "bus_away" => "the bus is away",
        "subject_away" => "a subject is away",
        "subscription_refused" => "a subscription is refused",
        "acks_refused" => "acknowledgements are refused",
        "feed_stalled" => "the feed stalls",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{reading, reading_with};
    use super::*;

    fn text(lines: &[FactLine], about: &str) -> String {
        let line = lines.iter().find(|(name, _)| *name == about).expect(about);
        let texts: Vec<_> = line.1.iter().map(|piece| piece.text.as_str()).collect();
        texts.join(", ")
    }

    #[test]
    fn rates_come_from_two_readings() {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(reading()));
        assert_eq!(process.in_short(), ["3", "-", "-", "-"]);
        process.take(
            2_000,
            Ok(reading_with(&[(
                "weirgate_bus_messages_total{subject=\"a\"}",
                "140",
            )])),
        );
        assert_eq!(process.in_short()[1], "20.0");
        assert!(text(&process.lines(2_000), "Rates/s").starts_with("in 20.0, out 0.0"));
    }

    #[test]
    fn an_unreachable_process_is_away_with_its_age_and_comes_back() {
        let mut process = Process::new("h:1".to_owned());
        assert_eq!(process.status(0).text, "Asking");
        process.take(0, Ok(reading()));
        process.take(1_000, Err(FetchError::Timeout));
        process.take(3_000, Err(FetchError::NoGateway));
        assert_eq!(
            process.status(4_000),
            Piece::new("Away for 4.0 s", Tone::Bad)
        );
        assert!(process.away().is_some_and(|why| why.contains("no gateway")));
        assert_eq!(process.in_short()[0], "3", "what was known stays");
        process.take(5_000, Ok(reading()));
        assert_eq!(
            (process.status(5_000).text.as_str(), process.away()),
            ("Ready", None)
        );
        assert_eq!(process.in_short()[1], "-", "an outage is no interval");
    }

    #[test]
    fn a_restart_begins_new_rates() {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(reading()));
        let mut later = reading();
        later.state.uptime_s = 1.0;
        process.take(1_000, Ok(later));
        assert_eq!(process.in_short()[1], "-");
    }

    #[test]
    fn the_reason_why_a_process_is_not_ready_is_said() {
        let mut process = Process::new("h:1".to_owned());
        let mut away = reading();
        away.state.is_ready = false;
        away.state.reasons = vec!["bus_away".to_owned(), "new_reason".to_owned()];
        if let Some(bus) = &mut away.state.bus {
            bus.away_ms = Some(12_000.0);
        }
        process.take(0, Ok(away.clone()));
        assert_eq!(
            process.status(0).text,
            "Not ready: the bus is away, new_reason"
        );
        assert!(text(&process.lines(0), "Bus").starts_with("away for 12.0 s"));
        away.state.is_ready = true;
        process.take(0, Ok(away));
        assert_eq!(process.status(0), Piece::new("Bus away", Tone::Wait));
    }
}
