//! The page: the facts and tables of all processes as lines of text, whole for a pipe, and cut to the columns and
//! lines of a terminal.

use super::process::Process;
use super::tables::Table;
use super::words::{Piece, Tone};

/// The width of the column with the names of facts.
const FACT_NAME_COLUMNS: usize = 9;
/// A table on a narrow page keeps this many columns at least.
const COLUMNS_MIN: usize = 4;
/// The first column of a table on a narrow page keeps this width at least.
const FIRST_COLUMNS_MIN: usize = 12;
/// The first letter of the wide scripts: a letter after it may take two columns of a terminal.
const WIDE_FROM: char = '\u{1100}';
/// The end of a text that was cut.
const CUT: char = '…';

const LIST: &[&str] = &[
    "Gateway", "Status", ">Clients", ">In/s", ">Out/s", ">Sent/s",
];

/// A line of the page.
type Line = Vec<Piece>;

/// The room of a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) columns: usize,
    pub(super) lines: usize,
    pub(super) has_colour: bool,
}

/// Returns all facts and all tables of all processes, once.
pub(super) fn whole(processes: &[&Process], now_ms: u64) -> String {
    let mut text = String::new();
    for (n, process) in processes.iter().enumerate() {
        if n > 0 {
            text += "\n";
        }
        let mut lines = facts(process, now_ms);
        for table in process.tables() {
            lines.push(Vec::new());
            lines.extend(aligned(&table, usize::MAX, usize::MAX));
        }
        for line in lines {
            let line: String = line.iter().map(|piece| piece.text.as_str()).collect();
            text += line.trim_end();
            text += "\n";
        }
    }
    text
}

/// Returns the page for a terminal, in all its lines but the last: several processes have a list, and share the rest.
pub(super) fn fitting(processes: &[&Process], now_ms: u64, room: Room) -> String {
    let room_lines = room.lines.saturating_sub(1);
    let mut lines = Vec::new();
    if processes.len() > 1 {
        let list = Table {
            title: "Address",
            heads: LIST,
            rows: processes
                .iter()
                .map(|process| process.in_short(now_ms))
                .collect(),
            none: "",
        };
        lines.extend(aligned(&list, room.columns, usize::MAX));
    }
    for (n, process) in processes.iter().enumerate() {
        if !lines.is_empty() {
            lines.push(Vec::new());
        }
        let left = room_lines.saturating_sub(lines.len()) / (processes.len() - n);
        let facts = facts(process, now_ms);
        let for_tables = left.saturating_sub(facts.len() + 1);
        lines.extend(facts);
        lines.push(Vec::new());
        let tables = process.tables();
        let all: usize = tables.iter().map(|table| table.rows.len() + 2).sum();
        for (n, (table, rows)) in tables.iter().zip(shares(&tables, for_tables)).enumerate() {
            lines.extend((n > 0 && all <= for_tables).then(Vec::new));
            lines.extend(aligned(table, room.columns, rows));
        }
    }
    lines.truncate(room_lines);
    let lines = lines.iter().map(|line| drawn(line, room));
    lines.map(|line| line + "\n").collect()
}

/// How many rows each table shows, below its head: as many as all can have, and more where others have fewer.
fn shares(tables: &[Table], lines: usize) -> Vec<usize> {
    let mut left = lines.saturating_sub(tables.len());
    let mut shares = vec![0; tables.len()];
    while left > 0 {
        let before = left;
        for (share, table) in shares.iter_mut().zip(tables) {
            if left > 0 && *share < table.rows.len() {
                *share += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    shares
}

fn facts(process: &Process, now_ms: u64) -> Vec<Line> {
    let line = |(name, pieces): (&str, Vec<Piece>)| {
        let mut line = vec![Piece::new(
            format!("{name:<FACT_NAME_COLUMNS$}"),
            Tone::Name,
        )];
        for (n, piece) in pieces.into_iter().enumerate() {
            line.extend((n > 0).then(|| Piece::plain("  ")));
            line.push(piece);
        }
        line
    };
    process.lines(now_ms).into_iter().map(line).collect()
}

/// Lays the head and `rows_max` rows out in columns as wide as their widest cell. On a narrow page columns at the right
/// are left out, and the first column is cut.
fn aligned(table: &Table, columns_max: usize, rows_max: usize) -> Vec<Line> {
    if table.rows.is_empty() {
        let none = Piece::plain(format!("  {}", table.none));
        return vec![vec![Piece::new(table.title, Tone::Name), none]];
    }
    let is_number: Vec<bool> = table
        .heads
        .iter()
        .map(|head| head.starts_with('>'))
        .collect();
    let names = table.heads.iter().map(|head| head.trim_start_matches('>'));
    let heads = std::iter::once(table.title).chain(names);
    let heads: Line = heads.map(|head| Piece::new(head, Tone::Name)).collect();
    let all: Vec<&Line> = std::iter::once(&heads)
        .chain(table.rows.iter().take(rows_max))
        .collect();
    let widest = |n: usize| {
        let cells = all.iter().filter_map(|row| row.get(n));
        cells.map(|cell| width(&cell.text)).max()
    };
    let widths: Vec<usize> = (0..heads.len()).filter_map(widest).collect();
    let widths = fitted(widths, columns_max);
    let line = |row: &&Line| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(n, (cell, &columns))| {
            let text = cut(&cell.text, columns);
            let gap = " ".repeat(columns.saturating_sub(width(&text)));
            let is_number = n > 0 && is_number.get(n - 1) == Some(&true);
            let text = match is_number {
                true => format!("{gap}{text}"),
                false => format!("{text}{gap}"),
            };
            let between = if n > 0 { "  " } else { "" };
            Piece {
                text: format!("{between}{text}"),
                tone: cell.tone,
            }
        });
        cells.collect()
    };
    all.iter().map(line).collect()
}

/// Makes columns of these widths, with two spaces between, fit.
fn fitted(mut widths: Vec<usize>, columns_max: usize) -> Vec<usize> {
    let first = widths.first().copied().unwrap_or(0);
    let least = first.min(FIRST_COLUMNS_MIN);
    let others = |widths: &[usize]| widths.iter().skip(1).map(|width| width + 2).sum::<usize>();
    while widths.len() > COLUMNS_MIN && least + others(&widths) > columns_max {
        widths.pop();
    }
    let left = columns_max.saturating_sub(others(&widths));
    if let Some(width) = widths.first_mut() {
        *width = first.min(left).max(least);
    }
    widths
}

/// The most columns of a terminal that the text takes.
fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(letter: char) -> usize {
    1 + usize::from(letter >= WIDE_FROM && letter != CUT)
}

/// The text in so many columns; what is too long ends with [`CUT`].
fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |letter: &char| {
        let fits = columns_of(*letter) <= left;
        left = left.saturating_sub(columns_of(*letter));
        fits
    };
    let kept = text.chars().take_while(fits);
    kept.chain((columns > 0).then_some(CUT)).collect()
}

/// The line in the columns of the terminal, with the colours of its tones.
fn drawn(line: &Line, room: Room) -> String {
    let (mut text, mut left) = (String::new(), room.columns);
    for piece in line {
        let shown = cut(&piece.text, left);
        left -= width(&shown).min(left);
        let style = match (piece.tone, room.has_colour) {
            (Tone::Name, _) => "2",
            (Tone::Good, true) => "32",
            (Tone::Wait, true) => "33",
            (Tone::Bad, true) => "31",
            (Tone::Bad, false) => "1",
            _ => "",
        };
        text += &match style {
            "" => shown,
            style => format!("\x1b[{style}m{shown}\x1b[0m"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::fetch::FetchError;
    use super::super::fetch::samples::{state, state_with};
    use super::*;
    use crate::hub::TopicName;

    /// A process with two readings, and one without a response.
    fn processes() -> [Process; 2] {
        let mut here = Process::new("127.0.0.1:9100".to_owned());
        here.take(0, Ok(state()));
        let later = state_with(|numbers| {
            numbers.bus_messages = Some(162);
            numbers.messages_sent = Some(7_469);
            numbers.sent_bytes = Some(11_400_000);
            numbers.messages_conflated = Some(103);
        });
        here.take(2_000, Ok(later));
        let mut away = Process::new("unix:/run/a.sock".to_owned());
        away.take(1_000, Err(FetchError::Timeout));
        [here, away]
    }

    fn drawn_in(processes: &[&Process], columns: usize, lines: usize) -> String {
        let room = Room {
            columns,
            lines,
            has_colour: false,
        };
        let page = fitting(processes, 2_000, room);
        let styles = ["\x1b[0m", "\x1b[1m", "\x1b[2m"];
        let page = styles
            .iter()
            .fold(page, |page, style| page.replace(style, ""));
        let lines: Vec<_> = page.lines().map(str::trim_end).collect();
        lines.join("\n")
    }

    #[test]
    fn a_terminal_of_80_columns_and_24_lines_has_the_essentials() {
        let [here, _] = processes();
        insta::assert_snapshot!(drawn_in(&[&here], 80, 24));
    }

    #[test]
    fn several_processes_have_a_list_and_a_large_terminal_has_more_columns() {
        let [here, away] = processes();
        insta::assert_snapshot!(drawn_in(&[&here, &away], 120, 40));
    }

    #[test]
    fn in_a_pipe_is_everything() {
        let [here, away] = processes();
        insta::assert_snapshot!(whole(&[&here, &away], 2_000));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_page_is_longer() {
        let mut state = state();
        let survey = state.survey.as_mut().expect("a survey");
        survey.slowest[0].user = Some("\u{4f60}\u{597d}\x1b[2J\u{1f600}".repeat(30));
        survey.busiest_topics[0].name = TopicName::from("x".repeat(5_000));
        let mut hostile = Process::new("h:1".to_owned());
        hostile.take(0, Ok(state));
        let [here, away] = processes();
        for processes in [&[&hostile][..], &[&hostile, &here, &away], &[]] {
            for (columns, lines) in [(1, 1), (2, 40), (20, 5), (79, 23), (300, 3), (0, 0)] {
                let page = drawn_in(processes, columns, lines);
                assert!(page.lines().count() <= lines, "{columns} {lines}: {page}");
                let widest = page.lines().map(width).max().unwrap_or(0);
                assert!(widest <= columns, "{columns} {lines}: {page}");
                assert!(!page.contains('\x1b'), "{page}");
            }
        }
    }

    #[test]
    fn colours_are_for_those_who_want_them() {
        let [here, _] = processes();
        let page = |has_colour| {
            let room = Room {
                columns: 80,
                lines: 24,
                has_colour,
            };
            fitting(&[&here], 2_000, room)
        };
        assert!(page(true).contains("\x1b[31m") && !page(false).contains("\x1b[3"));
    }
}
