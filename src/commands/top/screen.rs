//! The view, drawn into the buffer of a frame or as text. Every screen size works: rows at the bottom and
//! columns at the right without room are left out.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{self, Paragraph};

use super::process::{FactLine, Piece, Process, Tone};
use super::tables::{Column, Row, Table};
use super::view::View;
use super::words::duration;

/// The width of screens from which tables have their extra columns.
const WIDE_COLUMNS: u16 = 110;
/// The width of the column with the names of facts.
const FACT_NAME_COLUMNS: usize = 9;
const KEYS: &str = "q quit  Tab 1-5 table  s sort  p pause  + - interval";
const KEYS_OF_SEVERAL: &str = "  ↑ ↓ process";

/// Draws the view at this millisecond.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, now_ms: u64) {
    let listed = match view.processes.len() {
        0 | 1 => 0,
        // Leaves most of the screen to the chosen process and its tables.
        processes => (processes as u16 + 2).min(frame.area().height / 4),
    };
    let facts = view
        .process()
        .map(|process| process.lines(now_ms))
        .unwrap_or_default();
    let [head, list, about, _, tabs, table, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(listed),
        Constraint::Length(facts.len() as u16),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let palette = Palette {
        has_colour: view.has_colour,
    };
    draw_head(frame, head, view);
    if listed > 0 {
        draw_processes(frame, list, view, now_ms, palette);
    }
    let lines: Vec<Line<'_>> = facts.iter().map(|line| fact_line(line, palette)).collect();
    frame.render_widget(Paragraph::new(lines), about);
    draw_tabs(frame, tabs, view);
    if let Some(process) = view.process() {
        draw_table(frame, table, view, process, palette);
    }
    let several = if listed > 0 { KEYS_OF_SEVERAL } else { "" };
    let keys_line = Line::from(format!("{KEYS}{several}")).style(Modifier::DIM);
    frame.render_widget(keys_line, keys);
}

/// Colours, or no colours.
#[derive(Clone, Copy)]
struct Palette {
    has_colour: bool,
}

impl Palette {
    fn of(self, tone: Tone) -> Style {
        let colour = match tone {
            Tone::Plain => return Style::new(),
            Tone::Good => Color::Green,
            Tone::Wait => Color::Yellow,
            Tone::Bad => Color::Red,
        };
        match (self.has_colour, tone) {
            (true, _) => Style::new().fg(colour),
            (false, Tone::Bad) => Style::new().add_modifier(Modifier::BOLD),
            (false, _) => Style::new(),
        }
    }

    fn span(self, piece: &Piece) -> Span<'_> {
        Span::styled(piece.text.as_str(), self.of(piece.tone))
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let every = duration(view.interval_ms.into()).replace(".0 s", " s");
    let right = match view.is_paused {
        true => Line::from("Paused").style(Modifier::BOLD),
        false => Line::from(format!("every {every}")),
    };
    frame.render_widget(Line::from("weirgate top").style(Modifier::BOLD), area);
    frame.render_widget(right.right_aligned(), area);
}

/// Draws a line for each process, and scrolls to the chosen process.
fn draw_processes(frame: &mut Frame<'_>, area: Rect, view: &View, now_ms: u64, palette: Palette) {
    let heads = [
        "Address", "Gateway", "Status", "Clients", "In/s", "Out/s", "Sent/s",
    ];
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(15),
        Constraint::Length(18),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let head = heads
        .iter()
        .enumerate()
        .map(|(n, name)| right_if(Line::from(*name), n > 2));
    let room = usize::from(area.height.saturating_sub(2)).max(1);
    let first = (view.chosen + 1).saturating_sub(room);
    let shown = view.processes.iter().enumerate().skip(first).take(room);
    let rows = shown.map(|(n, process)| {
        let status = process.status(now_ms);
        let mut cells = vec![
            Line::from(process.shown.clone()),
            Line::from(process.name()),
            Line::styled(status.text, palette.of(status.tone)),
        ];
        let numbers = process.in_short();
        cells.extend(numbers.map(|text| Line::from(text).right_aligned()));
        let is_chosen = n == view.chosen;
        let style = only_if(is_chosen, Modifier::REVERSED);
        widgets::Row::new(cells).style(style)
    });
    let head = widgets::Row::new(head).style(Modifier::DIM);
    frame.render_widget(widgets::Table::new(rows, widths).header(head), area);
}

fn fact_line<'a>((name, pieces): &'a FactLine, palette: Palette) -> Line<'a> {
    let name = format!("{name:<FACT_NAME_COLUMNS$}");
    let mut spans = vec![Span::styled(name, Modifier::DIM)];
    for (n, piece) in pieces.iter().enumerate() {
        if n > 0 {
            spans.push(Span::raw("  "));
        }
        spans.push(palette.span(piece));
    }
    Line::from(spans)
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let state = view.process().and_then(|process| process.state.as_ref());
    let gateway = state.map_or("", |state| state.gateway.as_str());
    let mut spans = Vec::new();
    for (n, table) in Table::ALL.into_iter().enumerate() {
        let is_chosen = table == view.table();
        let style = only_if(is_chosen, Modifier::REVERSED);
        let title = format!(" {} {} ", n + 1, table.title(gateway));
        spans.push(Span::styled(title, style));
    }
    frame.render_widget(Line::from(spans), area);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, view: &View, process: &Process, palette: Palette) {
    let table = view.table();
    let rows = table.rows(process, view.sort());
    let columns: Vec<(usize, &Column)> = table
        .columns()
        .iter()
        .enumerate()
        .filter(|(_, column)| !column.is_extra || area.width >= WIDE_COLUMNS)
        .collect();
    if rows.is_empty() {
        let text = match process.state.is_some() {
            true => table.none(),
            false => "",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let widths = columns.iter().map(|(_, column)| match column.width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(width),
    });
    let head = columns.iter().map(|(n, column)| {
        let mark = if view.sort() == Some(*n) { "▾" } else { "" };
        right_if(
            Line::from(format!("{mark}{}", column.name)),
            column.is_number,
        )
    });
    let head = widgets::Row::new(head).style(Modifier::DIM);
    let rows = rows.iter().map(|row| cells(row, &columns, palette));
    // The facts of a process that is away may be old.
    let style = only_if(process.away().is_some(), Modifier::DIM);
    let table = widgets::Table::new(rows, widths).header(head).style(style);
    frame.render_widget(table, area);
}

fn cells<'a>(row: &'a Row, columns: &[(usize, &Column)], palette: Palette) -> widgets::Row<'a> {
    let cells = columns.iter().filter_map(|(n, column)| {
        let cell = row.get(*n)?;
        Some(right_if(
            Line::from(palette.span(&cell.piece)),
            column.is_number,
        ))
    });
    widgets::Row::new(cells)
}

fn only_if(is_so: bool, modifier: Modifier) -> Modifier {
    match is_so {
        true => modifier,
        false => Modifier::empty(),
    }
}

fn right_if(line: Line<'_>, is_right: bool) -> Line<'_> {
    match is_right {
        true => line.alignment(Alignment::Right),
        false => line,
    }
}

/// Returns the whole view at this millisecond as text, for a pipe: all facts and all tables of all processes,
/// once.
pub(super) fn as_text(view: &View, now_ms: u64) -> String {
    let parts: Vec<String> = view
        .processes
        .iter()
        .map(|process| text_of(process, now_ms))
        .collect();
    parts.join("\n")
}

fn text_of(process: &Process, now_ms: u64) -> String {
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
            rows => text += &table_text(table.columns(), &rows),
        }
    }
    text
}

/// Formats the rows below their heads, each column as wide as its widest cell.
fn table_text(columns: &[Column], rows: &[Row]) -> String {
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
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;
    use ratatui::crossterm::event::KeyCode;

    use super::super::fetch::FetchError;
    use super::super::fetch::samples::{state, state_with};
    use super::*;

    fn drawn(view: &View, columns: u16, lines: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| draw(frame, view, 2_000)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn text(view: &View, columns: u16, lines: u16) -> String {
        let buffer = drawn(view, columns, lines);
        let rows = buffer.content().chunks(usize::from(columns));
        let rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        rows.map(|row| row.trim_end().to_owned() + "\n").collect()
    }

    /// A process with two readings; with `several`, also a process without a response.
    fn view(several: bool) -> View {
        let shown = ["127.0.0.1:9100", "10.0.0.7:9100"];
        let shown = shown.iter().take(if several { 2 } else { 1 });
        let mut view = View::new(shown.map(|text| (*text).to_owned()), 1_000);
        view.take(0, 0, Ok(state()));
        let later = state_with(|numbers| {
            numbers.bus_messages = Some(162);
            numbers.messages_sent = Some(7_469);
            numbers.sent_bytes = Some(11_400_000);
            numbers.messages_conflated = Some(103);
        });
        view.take(0, 2_000, Ok(later));
        view.take(1, 1_000, Err(FetchError::Timeout));
        view
    }

    #[test]
    fn a_terminal_of_80_columns_and_24_lines_has_the_essentials() {
        insta::assert_snapshot!(text(&view(false), 80, 24));
    }

    #[test]
    fn a_large_terminal_has_more_columns_and_several_processes_have_a_list() {
        insta::assert_snapshot!(text(&view(true), 120, 40));
    }

    #[test]
    fn each_table_is_drawn() {
        let mut view = view(false);
        let mut all = String::new();
        for _ in 1..Table::ALL.len() {
            view.key(KeyCode::Tab.into());
            let text = text(&view, 80, 24);
            all += &text.lines().skip(8).take(6).collect::<Vec<_>>().join("\n");
            all += "\n";
        }
        insta::assert_snapshot!(all);
    }

    #[test]
    fn an_unreachable_process_says_why() {
        let mut view = view(true);
        view.key(KeyCode::Down.into());
        let text = text(&view, 80, 24);
        assert!(
            text.contains("Away for 1.0 s") && text.contains("no answer within 5 s"),
            "{text}"
        );
    }

    #[test]
    fn without_colour_there_is_none_and_with_colour_there_is() {
        let mut view = view(false);
        let has_colour = |view: &View| {
            let buffer = drawn(view, 80, 24);
            buffer
                .content()
                .iter()
                .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
        };
        assert!(has_colour(&view));
        view.has_colour = false;
        assert!(!has_colour(&view));
    }

    #[test]
    fn any_size_is_drawn() {
        let view = view(true);
        for (columns, lines) in [(1, 1), (2, 40), (20, 5), (79, 23), (300, 3)] {
            drawn(&view, columns, lines);
        }
        drawn(&View::new(std::iter::empty(), 1_000), 80, 24);
    }

    #[test]
    fn all_tables_of_all_processes_are_text() {
        let shown = ["127.0.0.1:9100", "unix:/run/a.sock"].map(str::to_owned);
        let mut view = View::new(shown.into_iter(), 1_000);
        view.take(0, 0, Ok(state()));
        view.take(0, 1_000, Ok(state()));
        view.take(1, 1_000, Err(FetchError::NoGateway));
        insta::assert_snapshot!(as_text(&view, 1_000));
    }
}
