//! The tables of a process: their columns, and their rows from its state.

use super::words::{
    Piece, Tone, bytes, decimal, duration, maybe_bytes, maybe_duration, rate, whole,
};
use crate::telemetry::operator_state::{OperatorState, ShownClient, ShownLimit};

/// The shares of a limit from which the colour changes.
const NEAR: f64 = 0.7;
const VERY_NEAR: f64 = 0.9;
/// The most rows of a table.
const ROWS_MAX: usize = 100;

/// A table. The first column has the name of the table and the other heads are the columns' names; `>` in front
/// aligns a column to the right.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) heads: &'static [&'static str],
    pub(super) rows: Vec<Vec<Piece>>,
    /// The text of an empty table.
    pub(super) none: &'static str,
}

/// Returns the tone of an end. Ends by clients and ends at a stop are normal.
pub(super) fn tone_of_end(reason: &str) -> Tone {
    match reason {
        "peer_closed" | "peer_gone" | "shutting_down" => Tone::Plain,
        _ => Tone::Bad,
    }
}

/// Returns all tables.
pub(super) fn tables(state: &OperatorState) -> Vec<Table> {
    let survey = state.survey.as_ref();
    // Over the time between two surveys.
    let interval_s = survey.and_then(|s| Some(s.interval_ms?.max(1) as f64 / 1e3));
    let per_second = |value: u64| interval_s.map(|s| value as f64 / s);
    let topics = match state.gateway.as_str() {
        "trades" => "Symbols",
        "channels" => "Channels",
        "events" => "Devices",
        _ => "Topics",
    };
    let mut limits: Vec<_> = state.limits.iter().collect();
    limits.sort_by(|a, b| share(b).total_cmp(&share(a)));
    vec![
        Table {
            title: "Slow clients",
            heads: &[
                "Topic or path",
                "State",
                "Why",
                ">Waits",
                ">Oldest",
                ">Connected",
                ">Messages",
                ">Skipped",
                "Session",
            ],
            rows: rows(survey.map(|survey| &*survey.slowest), slow),
            none: "No client waits: every send queue is empty.",
        },
        Table {
            title: topics,
            heads: &[">Members", ">Messages/s", ">Bytes/s"],
            rows: rows(survey.map(|survey| &*survey.busiest_topics), |topic| {
                vec![
                    Piece::plain(topic.name.as_str()),
                    Piece::plain(whole(topic.members)),
                    Piece::plain(rate(per_second(topic.recent_messages))),
                    Piece::plain(maybe_bytes(per_second(topic.recent_bytes))),
                ]
            }),
            none: "No topics.",
        },
        Table {
            title: "Busy clients",
            heads: &[
                "Topic or path",
                ">Messages/s",
                ">To it",
                ">Connected",
                ">From it",
                "Session",
            ],
            rows: rows(survey.map(|survey| &*survey.busiest), |client| {
                vec![
                    who(&client.client, client.user.as_ref(), client.tls.as_ref()),
                    what(client),
                    Piece::plain(rate(per_second(client.recent_messages))),
                    Piece::plain(whole(client.traffic.messages_out)),
                    Piece::plain(duration(client.age_ms)),
                    Piece::plain(whole(client.traffic.messages_in)),
                    Piece::plain(&client.session),
                ]
            }),
            none: "No messages since the last look.",
        },
        Table {
            title: "Ended last",
            heads: &[
                "Reason", ">Code", ">Ago", ">Lived", ">Got", ">Skipped", "Path",
            ],
            rows: rows(Some(&*state.ends), |end| {
                let code = end.code.map(u64::from);
                vec![
                    who(&end.client, end.user.as_ref(), end.tls.as_ref()),
                    Piece::new(end.full_reason(), tone_of_end(&end.reason)),
                    Piece::plain(code.map_or_else(|| "-".to_owned(), |code| code.to_string())),
                    Piece::plain(duration(state.age_ms(end.at_unix_ms))),
                    Piece::plain(duration(end.age_ms)),
                    Piece::plain(whole(end.traffic.messages_out)),
                    Piece::plain(whole(end.traffic.messages_conflated)),
                    Piece::plain(&end.path),
                ]
            }),
            none: "No connection has ended yet.",
        },
        Table {
            title: "Limits",
            heads: &[">Now", ">At most", ">Share"],
            rows: rows(Some(&*limits), |shown| limit(shown)),
            none: "No limits.",
        },
    ]
}

fn rows<T>(list: Option<&[T]>, row: impl Fn(&T) -> Vec<Piece>) -> Vec<Vec<Piece>> {
    let list = list.unwrap_or_default();
    list.iter().take(ROWS_MAX).map(row).collect()
}

fn who(client: &str, user: Option<&String>, tls: Option<&String>) -> Piece {
    let who = user.map_or_else(|| client.to_owned(), |user| format!("{user} ({client})"));
    let tls = tls.map_or_else(String::new, |version| format!(" TLS {version}"));
    Piece::plain(who + &tls)
}

/// The topic, if known (a device, a symbol), or else the path.
fn what(client: &ShownClient) -> Piece {
    match (&client.topic, client.topics) {
        (Some(topic), _) => Piece::plain(topic),
        (None, 2..) => Piece::plain(format!("{} topics", whole(client.topics))),
        (None, _) => Piece::plain(&client.path),
    }
}

fn slow(client: &ShownClient) -> Vec<Piece> {
    let (state, tone) = match client.state.as_str() {
        "head" => ("request head", Tone::Plain),
        "waiting" => ("sends", Tone::Plain),
        "blocked" => ("blocked", Tone::Wait),
        "conflating" => ("skipping", Tone::Wait),
        "over_soft_limit" => ("over soft limit", Tone::Bad),
        other => (other, Tone::Plain),
    };
    vec![
        who(&client.client, client.user.as_ref(), client.tls.as_ref()),
        what(client),
        Piece::new(state, tone),
        Piece::plain(client.why.as_deref().unwrap_or("-")),
        Piece::plain(bytes(client.queue_bytes as f64)),
        Piece::plain(maybe_duration(client.oldest_ms)),
        Piece::plain(duration(client.age_ms)),
        Piece::plain(whole(client.queue_messages)),
        Piece::plain(whole(client.traffic.messages_conflated)),
        Piece::plain(&client.session),
    ]
}

/// The share of a limit that is in use; 0 without a limit.
fn share(limit: &ShownLimit) -> f64 {
    let max = limit.max.filter(|max| *max > 0);
    max.map_or(0.0, |max| limit.now as f64 / max as f64)
}

fn limit(limit: &ShownLimit) -> Vec<Piece> {
    let show = match limit.is_bytes {
        true => |value: u64| bytes(value as f64),
        false => whole,
    };
    let (max, share) = (limit.max.filter(|max| *max > 0), share(limit));
    let tone = match share {
        share if share >= VERY_NEAR => Tone::Bad,
        share if share >= NEAR => Tone::Wait,
        _ => Tone::Plain,
    };
    let shown = max.map_or_else(
        || "-".to_owned(),
        |_| format!("{} %", decimal(share * 100.0, 0)),
    );
    vec![
        Piece::plain(&limit.name),
        Piece::plain(show(limit.now)),
        Piece::plain(max.map_or_else(|| "no limit".to_owned(), show)),
        Piece::new(shown, tone),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::fetch::samples::state;
    use super::*;

    #[test]
    fn rows_have_a_cell_for_each_column_and_limits_are_in_the_order_of_nearness() {
        let tables = tables(&state());
        for table in &tables {
            assert!(!table.rows.is_empty(), "{}", table.title);
            let is_whole = |row: &Vec<Piece>| row.len() == table.heads.len() + 1;
            assert!(table.rows.iter().all(is_whole), "{}", table.title);
        }
        let limits = &tables[4].rows;
        let names = limits.iter().map(|row| row[0].text.as_str());
        let nearest = [
            "--connections-max",
            "--frame-bytes-max",
            "--all-wildcards-max",
        ];
        assert_eq!(names.collect::<Vec<_>>(), nearest);
        let shares = limits.iter().map(|row| row[3].text.as_str());
        assert_eq!(shares.collect::<Vec<_>>(), ["95 %", "50 %", "-"]);
        assert_eq!(limits[0][3].tone, Tone::Bad);
    }
}
