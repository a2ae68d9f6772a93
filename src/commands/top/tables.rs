//! The tables: their columns, their rows from the state of a process, and their order.

use std::cmp::Ordering;

use super::process::{Piece, Process, Tone, tone_of_end};
use super::words::{bytes, decimal, duration, maybe_duration, whole};
use crate::telemetry::operator_state::{
    OperatorState, ShownClient, ShownEnd, ShownLimit, ShownSurvey,
};

/// The shares of a limit from which the colour changes.
const NEAR: f64 = 0.7;
const VERY_NEAR: f64 = 0.9;
/// The most rows of a table.
const ROWS_MAX: usize = 100;

/// A table of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Slowest,
    Topics,
    Busiest,
    Ends,
    Limits,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// The width in characters; 0 for the remaining width.
    pub(super) width: u16,
    /// Whether the column has numbers, aligned to the right.
    pub(super) is_number: bool,
    /// Whether only wide screens have the column.
    pub(super) is_extra: bool,
}

/// A cell, and its rank for sorting.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) piece: Piece,
    rank: f64,
}

/// The cells of a row, one for each column.
pub(super) type Row = Vec<Cell>;

const fn text(name: &'static str, width: u16) -> Column {
    Column {
        name,
        width,
        is_number: false,
        is_extra: false,
    }
}

const fn number(name: &'static str, width: u16) -> Column {
    Column {
        is_number: true,
        ..text(name, width)
    }
}

const fn extra(column: Column) -> Column {
    Column {
        is_extra: true,
        ..column
    }
}

const SLOWEST: &[Column] = &[
    text("Client", 0),
    text("Topic or path", 16),
    text("State", 15),
    number("Waits", 9),
    number("Oldest", 9),
    number("Connected", 11),
    extra(number("Messages", 10)),
    extra(number("Skipped", 10)),
];
const TOPICS: &[Column] = &[
    text("Name", 0),
    number("Members", 10),
    number("Messages/s", 12),
    number("Bytes/s", 10),
];
const BUSIEST: &[Column] = &[
    text("Client", 0),
    text("Topic or path", 16),
    number("Messages/s", 12),
    number("To it", 11),
    number("Connected", 11),
    extra(number("From it", 11)),
];
const ENDS: &[Column] = &[
    number("Ago", 11),
    text("Client", 0),
    text("Reason", 22),
    number("Code", 5),
    number("Lived", 11),
    extra(text("Path", 16)),
    extra(number("Got", 10)),
    extra(number("Skipped", 10)),
];
const LIMITS: &[Column] = &[
    text("Limit", 0),
    number("Now", 14),
    number("At most", 14),
    number("Share", 7),
];

impl Cell {
    fn text(text: impl AsRef<str>, tone: Tone) -> Self {
        Self {
            piece: Piece::new(text, tone),
            rank: f64::NAN,
        }
    }

    fn number(text: String, rank: f64) -> Self {
        Self {
            piece: Piece::plain(text),
            rank,
        }
    }

    fn count(value: u64) -> Self {
        Self::number(whole(value), value as f64)
    }

    fn size(value: u64) -> Self {
        Self::number(bytes(value as f64), value as f64)
    }

    fn time(ms: Option<u64>) -> Self {
        Self::number(maybe_duration(ms), ms.map_or(-1.0, |ms| ms as f64))
    }

    /// A count over the time between two surveys.
    fn rate(value: u64, survey: &ShownSurvey, show: fn(f64) -> String) -> Self {
        let interval_s = survey.interval_ms.map(|ms| ms.max(1) as f64 / 1e3);
        let value = value as f64;
        let text = interval_s.map_or_else(|| "-".to_owned(), |s| show(value / s));
        Self::number(text, value)
    }

    /// Compares for sorting: the largest number first, texts in alphabetical order.
    fn compare(&self, other: &Self) -> Ordering {
        match self.rank.is_nan() || other.rank.is_nan() {
            true => self.piece.text.cmp(&other.piece.text),
            false => other.rank.total_cmp(&self.rank),
        }
    }
}

impl Table {
    pub(super) const ALL: [Self; 5] = [
        Self::Slowest,
        Self::Topics,
        Self::Busiest,
        Self::Ends,
        Self::Limits,
    ];

    /// The title of the table on a gateway of this name.
    pub(super) fn title(self, gateway: &str) -> &'static str {
        match (self, gateway) {
            (Self::Slowest, _) => "Slow clients",
            (Self::Topics, "trades") => "Symbols",
            (Self::Topics, "channels") => "Channels",
            (Self::Topics, "events") => "Devices",
            (Self::Topics, _) => "Topics",
            (Self::Busiest, _) => "Busy clients",
            (Self::Ends, _) => "Ended last",
            (Self::Limits, _) => "Limits",
        }
    }

    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Slowest => SLOWEST,
            Self::Topics => TOPICS,
            Self::Busiest => BUSIEST,
            Self::Ends => ENDS,
            Self::Limits => LIMITS,
        }
    }

    /// The text of an empty table.
    pub(super) fn none(self) -> &'static str {
        match self {
            Self::Slowest => "No client waits: every send queue is empty.",
            Self::Topics => "No topics.",
            Self::Busiest => "No messages since the last look.",
            Self::Ends => "No connection has ended yet.",
            Self::Limits => "No limits.",
        }
    }

    /// The rows, in the gateway's order or sorted by a column.
    pub(super) fn rows(self, process: &Process, sort: Option<usize>) -> Vec<Row> {
        let Some(state) = &process.state else {
            return Vec::new();
        };
        let mut rows: Vec<Row> = match (self, &state.survey) {
            (Self::Slowest, Some(survey)) => rows(&survey.slowest, slow),
            (Self::Busiest, Some(survey)) => rows(&survey.busiest, |client| busy(client, survey)),
            (Self::Topics, Some(survey)) => topics(survey),
            (Self::Slowest | Self::Busiest | Self::Topics, None) => Vec::new(),
            (Self::Ends, _) => rows(&state.ends, |row| end(row, state)),
            (Self::Limits, _) => limits(state),
        };
        if let Some(column) = sort {
            sort_by_column(&mut rows, column);
        }
        rows
    }
}

fn sort_by_column(rows: &mut [Row], column: usize) {
    rows.sort_by(|a, b| match (a.get(column), b.get(column)) {
        (Some(a), Some(b)) => a.compare(b),
        _ => Ordering::Equal,
    });
}

fn rows<T>(list: &[T], row: impl Fn(&T) -> Row) -> Vec<Row> {
    list.iter().take(ROWS_MAX).map(row).collect()
}

fn who(client: &str, user: Option<&str>, tls: Option<&str>) -> Cell {
    let who = match user {
        None => client.to_owned(),
        Some(user) => format!("{user} ({client})"),
    };
    let tls = tls.map_or_else(String::new, |version| format!(" TLS {version}"));
    Cell::text(who + &tls, Tone::Plain)
}

/// The client, and the topic, if known (a device, a symbol), or else the path.
fn who_and_what(client: &ShownClient) -> [Cell; 2] {
    let what = match (&client.topic, client.topics) {
        (Some(topic), _) => topic.clone(),
        (None, 2..) => format!("{} topics", whole(client.topics)),
        (None, _) => client.path.clone(),
    };
    let (user, tls) = (client.user.as_deref(), client.tls.as_deref());
    [
        who(&client.client, user, tls),
        Cell::text(what, Tone::Plain),
    ]
}

fn slow(client: &ShownClient) -> Row {
    let (state, tone) = match client.state.as_str() {
        "head" => ("request head", Tone::Plain),
        "waiting" => ("sends", Tone::Plain),
        "blocked" => ("blocked", Tone::Wait),
        "conflating" => ("skipping", Tone::Wait),
        "over_soft_limit" => ("over soft limit", Tone::Bad),
        other => (other, Tone::Plain),
    };
    let [who, what] = who_and_what(client);
    vec![
        who,
        what,
        Cell::text(state, tone),
        Cell::size(client.queue_bytes),
        Cell::time(client.oldest_ms),
        Cell::time(Some(client.age_ms)),
        Cell::count(client.queue_messages),
        Cell::count(client.traffic.messages_conflated),
    ]
}

fn busy(client: &ShownClient, survey: &ShownSurvey) -> Row {
    let [who, what] = who_and_what(client);
    vec![
        who,
        what,
        Cell::rate(client.recent_messages, survey, |v| decimal(v, 1)),
        Cell::count(client.traffic.messages_out),
        Cell::time(Some(client.age_ms)),
        Cell::count(client.traffic.messages_in),
    ]
}

fn topics(survey: &ShownSurvey) -> Vec<Row> {
    rows(&survey.busiest_topics, |topic| {
        vec![
            Cell::text(topic.name.as_str(), Tone::Plain),
            Cell::count(topic.members),
            Cell::rate(topic.recent_messages, survey, |v| decimal(v, 1)),
            Cell::rate(topic.recent_bytes, survey, bytes),
        ]
    })
}

fn end(end: &ShownEnd, state: &OperatorState) -> Row {
    let ago_ms = state.age_ms(end.at_unix_ms);
    let code = end
        .code
        .map_or_else(|| "-".to_owned(), |code| code.to_string());
    vec![
        // The newest first, as from the gateway.
        Cell::number(duration(ago_ms), -(ago_ms as f64)),
        who(&end.client, end.user.as_deref(), end.tls.as_deref()),
        Cell::text(end.full_reason(), tone_of_end(&end.reason)),
        Cell::number(code, end.code.unwrap_or(0).into()),
        Cell::time(Some(end.age_ms)),
        Cell::text(&end.path, Tone::Plain),
        Cell::count(end.traffic.messages_out),
        Cell::count(end.traffic.messages_conflated),
    ]
}

/// The limits, sorted by nearness.
fn limits(state: &OperatorState) -> Vec<Row> {
    let mut rows = rows(&state.limits, limit);
    sort_by_column(&mut rows, LIMITS.len() - 1);
    rows
}

fn limit(limit: &ShownLimit) -> Row {
    let show = match limit.is_bytes {
        true => |value: u64| bytes(value as f64),
        false => whole,
    };
    let max = limit.max.filter(|max| *max > 0);
    let share = max.map_or(0.0, |max| limit.now as f64 / max as f64);
    let tone = match share {
        share if share >= VERY_NEAR => Tone::Bad,
        share if share >= NEAR => Tone::Wait,
        _ => Tone::Plain,
    };
    let shown = max.map_or_else(|| "-".to_owned(), |_| format!("{:.0} %", share * 100.0));
    vec![
        Cell::text(&limit.name, Tone::Plain),
        Cell::number(show(limit.now), limit.now as f64),
        Cell::number(
            max.map_or_else(|| "no limit".to_owned(), show),
            max.map_or(f64::MAX, |max| max as f64),
        ),
        Cell {
            piece: Piece::new(shown, tone),
            rank: share,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::fetch::samples::state;
    use super::*;

    fn column(rows: &[Row], column: usize) -> Vec<&str> {
        rows.iter()
            .map(|row| row[column].piece.text.as_str())
            .collect()
    }

    fn process() -> Process {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(state()));
        process
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let process = process();
        for table in Table::ALL {
            let rows = table.rows(&process, None);
            assert!(!rows.is_empty(), "{table:?}");
            assert!(
                rows.iter().all(|row| row.len() == table.columns().len()),
                "{table:?}"
            );
        }
    }

    #[test]
    fn rows_are_sorted_by_any_column() {
        let process = process();
        let by = |sort| {
            let rows = Table::Slowest.rows(&process, sort);
            column(&rows, 0).join(" ")
        };
        assert_eq!(by(None), "ann (10.0.0.1) 10.0.0.2");
        assert_eq!(by(Some(0)), "10.0.0.2 ann (10.0.0.1)");
        assert_eq!(
            by(Some(3)),
            "ann (10.0.0.1) 10.0.0.2",
            "the largest number first"
        );
        assert_eq!(by(Some(5)), "10.0.0.2 ann (10.0.0.1)");
        assert_eq!(by(Some(99)), by(None));
    }

    #[test]
    fn limits_are_in_the_order_of_nearness() {
        let process = process();
        let rows = Table::Limits.rows(&process, None);
        assert_eq!(
            column(&rows, 0),
            [
                "--connections-max",
                "--frame-bytes-max",
                "--all-wildcards-max"
            ]
        );
        assert_eq!(column(&rows, 3), ["95 %", "50 %", "-"]);
        assert_eq!(rows[0][3].piece.tone, Tone::Bad);
    }
}
