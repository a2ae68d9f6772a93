//! The same as text, for a pipe: all facts and all tables of all processes, once.

use super::process::Process;
use super::tables::{Column, Row, Table};
use super::view::View;

/// Everything that there is to show at this millisecond.
pub(super) fn text(view: &View, now_ms: u64) -> String {
    let parts: Vec<String> = view
        .processes
        .iter()
        .map(|process| of(process, now_ms))
        .collect();
    parts.join("\n")
}

fn of(process: &Process, now_ms: u64) -> String {
    let mut text = String::new();
    for (name, pieces) in process.lines(now_ms) {
        let pieces: Vec<_> = pieces.iter().map(|piece| piece.text.as_str()).collect();
        text += &format!("{name:<9}{}\n", pieces.join("  "));
    }
    let Some(state) = &process.state else {
        return text;
    };
    for table in Table::ALL {
        text += &format!("\n{}\n", table.title(&state.gateway));
        match table.rows(process, None) {
            rows if rows.is_empty() => text += &format!("  {}\n", table.none()),
            rows => text += &lines(table.columns(), &rows),
        }
    }
    text
}

/// The rows below their heads, each column as wide as its widest cell.
fn lines(columns: &[Column], rows: &[Row]) -> String {
    let heads: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let cells = rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.piece.text.as_str()).collect());
    let all: Vec<Vec<&str>> = std::iter::once(heads).chain(cells).collect();
    let width = |n: usize| {
        let texts = all.iter().filter_map(|row| row.get(n));
        texts.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
            line += &match column.is_number {
                true => format!("  {cell:>width$}"),
                false => format!("  {cell:<width$}"),
            };
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::fetch::FetchError;
    use super::super::samples::reading;
    use super::*;

    #[test]
    fn all_tables_of_all_processes_are_text() {
        let shown = ["127.0.0.1:9100", "unix:/run/a.sock"].map(str::to_owned);
        let mut view = View::new(shown.into_iter(), 1_000);
        view.take(0, 0, Ok(reading()));
        view.take(0, 1_000, Ok(reading()));
        view.take(1, 1_000, Err(FetchError::NoGateway));
        insta::assert_snapshot!(text(&view, 1_000));
    }
}
