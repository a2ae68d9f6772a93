//! The tables: their columns, their rows from the state of a process, and their order.

use std::cmp::Ordering;

use super::process::{Piece, Process, Tone, tone_of_end};
use super::state::{Client, End, Limit, State, Survey, Topic};
use super::words::{bytes, decimal, duration, maybe_duration};

/// The shares of a limit from which the colour changes.
const NEAR: f64 = 0.7;
const VERY_NEAR: f64 = 0.9;

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
    fn text(text: impl Into<String>, tone: Tone) -> Self {
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

    fn count(value: f64) -> Self {
        Self::number(decimal(value, 0), value)
    }

    fn size(value: f64) -> Self {
        Self::number(bytes(value), value)
    }

    fn time(ms: Option<f64>) -> Self {
        Self::number(maybe_duration(ms), ms.unwrap_or(-1.0))
    }

    /// A count over the time between two surveys.
    fn rate(value: f64, interval_s: Option<f64>, show: fn(f64) -> String) -> Self {
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
        let survey = state.survey.as_ref();
        let of_clients = |list: fn(&Survey) -> &[Client], row: fn(&Client, &Survey) -> Row| {
            survey.map_or_else(Vec::new, |survey| {
                list(survey)
                    .iter()
                    .map(|client| row(client, survey))
                    .collect()
            })
        };
        let mut rows: Vec<Row> = match self {
            Self::Slowest => of_clients(|survey| &survey.slowest, slow),
            Self::Busiest => of_clients(|survey| &survey.busiest, busy),
            Self::Topics => survey.map_or_else(Vec::new, |survey| {
                let topics = survey.busiest_topics.iter();
                topics.map(|row| topic(row, survey.interval_s)).collect()
            }),
            Self::Ends => state.ends.iter().map(|row| end(row, state)).collect(),
            Self::Limits => limits(process, state),
        };
        if let Some(column) = sort {
            let by = |a: &Row, b: &Row| match (a.get(column), b.get(column)) {
                (Some(a), Some(b)) => a.compare(b),
                _ => Ordering::Equal,
            };
            rows.sort_by(by);
        }
        rows
    }
}

fn who(client: &str, user: &str) -> Cell {
    match user {
        "" => Cell::text(client, Tone::Plain),
        user => Cell::text(format!("{user} ({client})"), Tone::Plain),
    }
}

/// The topic, if known (a device, a symbol), or else the path.
fn what(client: &Client) -> Cell {
    let text = match (client.topic.as_str(), client.topics) {
        ("", topics) if topics > 1.0 => format!("{} topics", decimal(topics, 0)),
        ("", _) => client.path.clone(),
        (topic, _) => topic.to_owned(),
    };
    Cell::text(text, Tone::Plain)
}

fn slow(client: &Client, _: &Survey) -> Row {
    let (state, tone) = match client.state.as_str() {
        "head" => ("request head", Tone::Plain),
        "waiting" => ("sends", Tone::Plain),
        "blocked" => ("blocked", Tone::Wait),
        "conflating" => ("skipping", Tone::Wait),
        "over_soft_limit" => ("over soft limit", Tone::Bad),
        other => (other, Tone::Plain),
    };
    vec![
        who(&client.client, &client.user),
        what(client),
        Cell::text(state, tone),
        Cell::size(client.queue_bytes),
        Cell::time(client.oldest_ms),
        Cell::time(Some(client.age_ms)),
        Cell::count(client.queue_messages),
        Cell::count(client.conflated),
    ]
}

fn busy(client: &Client, survey: &Survey) -> Row {
    vec![
        who(&client.client, &client.user),
        what(client),
        Cell::rate(client.recent_messages, survey.interval_s, |v| decimal(v, 1)),
        Cell::count(client.messages_out),
        Cell::time(Some(client.age_ms)),
        Cell::count(client.messages_in),
    ]
}

fn topic(topic: &Topic, interval_s: Option<f64>) -> Row {
    vec![
        Cell::text(topic.name.clone(), Tone::Plain),
        Cell::count(topic.members),
        Cell::rate(topic.recent_messages, interval_s, |v| decimal(v, 1)),
        Cell::rate(topic.recent_bytes, interval_s, bytes),
    ]
}

fn end(end: &End, state: &State) -> Row {
    let ago_ms = (state.now_unix_ms - end.at_unix_ms).max(0.0);
    let code = end
        .code
        .map_or_else(|| "-".to_owned(), |code| format!("{code:.0}"));
    vec![
        // The newest first, as from the gateway.
        Cell::number(duration(ago_ms), -ago_ms),
        who(&end.client, &end.user),
        Cell::text(end.reason.clone(), tone_of_end(&end.reason)),
        Cell::number(code, end.code.unwrap_or(0.0)),
        Cell::time(Some(end.age_ms)),
        Cell::text(end.path.clone(), Tone::Plain),
        Cell::count(end.messages_out),
        Cell::count(end.conflated),
    ]
}

/// The limits, sorted by nearness.
fn limits(process: &Process, state: &State) -> Vec<Row> {
    let rows = state.limits.iter().filter_map(|row| limit(process, row));
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|a, b| match (a.last(), b.last()) {
        (Some(a), Some(b)) => a.compare(b),
        _ => Ordering::Equal,
    });
    rows
}

fn limit(process: &Process, limit: &Limit) -> Option<Row> {
    let metrics = process.rates.newest()?;
    let label = limit.label.as_ref();
    let label = label.map(|(name, value)| (name.as_str(), value.as_str()));
    let now = match limit.of_one {
        true => metrics.largest(&limit.metric, label),
        false => metrics.sum(&limit.metric, label),
    }?;
    let max = metrics.sum(&limit.max_metric, None).or(limit.max);
    let max = max.filter(|max| *max > 0.0);
    let share = max.map_or(0.0, |max| now / max);
    let show = |value: f64| match limit.is_bytes {
        true => bytes(value),
        false => decimal(value, 0),
    };
    let tone = match share {
        share if share >= VERY_NEAR => Tone::Bad,
        share if share >= NEAR => Tone::Wait,
        _ => Tone::Plain,
    };
    let shown = max.map_or_else(|| "-".to_owned(), |_| format!("{:.0} %", share * 100.0));
    Some(vec![
        Cell::text(limit.name.clone(), Tone::Plain),
        Cell::number(show(now), now),
        Cell::number(
            max.map_or_else(|| "no limit".to_owned(), show),
            max.unwrap_or(f64::MAX),
        ),
        Cell {
            piece: Piece::new(shown, tone),
            rank: share,
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::super::samples::reading;
    use super::*;

    fn column(rows: &[Row], column: usize) -> Vec<&str> {
        rows.iter()
            .map(|row| row[column].piece.text.as_str())
            .collect()
    }

    fn process() -> Process {
        let mut process = Process::new("h:1".to_owned());
        process.take(0, Ok(reading()));
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
