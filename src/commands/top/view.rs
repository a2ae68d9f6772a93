//! The view, and the effects of keys.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::fetch::FetchError;
use super::process::Process;
use super::readers::Pace;
use super::tables::Table;
use crate::telemetry::operator_state::OperatorState;

/// The intervals of `+` and `-`, milliseconds.
const INTERVALS_MS: [u32; 8] = [250, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// The whole view.
#[derive(Debug)]
pub(super) struct View {
    pub(super) processes: Vec<Process>,
    /// The process with shown facts and tables.
    pub(super) chosen: usize,
    /// The table, as an index of [`Table::ALL`].
    table: usize,
    /// The sort column of each table.
    sorts: [Option<usize>; Table::ALL.len()],
    pub(super) is_paused: bool,
    pub(super) interval_ms: u32,
    pub(super) has_colour: bool,
}

/// The request of a key beyond drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// The interval or the pause has changed.
    Pace,
    End,
}

impl View {
    pub(super) fn new(shown: impl Iterator<Item = String>, interval_ms: u32) -> Self {
        Self {
            processes: shown.map(Process::new).collect(),
            chosen: 0,
            table: 0,
            sorts: [None; Table::ALL.len()],
            is_paused: false,
            interval_ms,
            has_colour: true,
        }
    }

    /// Adds the result of a reading of the process with this index.
    pub(super) fn take(&mut self, of: usize, at_ms: u64, read: Result<OperatorState, FetchError>) {
        if let Some(process) = self.processes.get_mut(of) {
            process.take(at_ms, read);
        }
    }

    /// The process with shown facts and tables.
    pub(super) fn process(&self) -> Option<&Process> {
        self.processes.get(self.chosen)
    }

    /// The pace of readings.
    pub(super) fn pace(&self) -> Pace {
        Pace {
            interval: Duration::from_millis(self.interval_ms.into()),
            is_paused: self.is_paused,
        }
    }

    pub(super) fn table(&self) -> Table {
        Table::ALL
            .get(self.table)
            .copied()
            .unwrap_or(Table::Slowest)
    }

    /// The sort column of the table; `None` for the gateway's order.
    pub(super) fn sort(&self) -> Option<usize> {
        self.sorts.get(self.table).copied().flatten()
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Asked {
        if key.kind == KeyEventKind::Release {
            return Asked::Nothing;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Asked::End,
            KeyCode::Char('q' | 'Q') => return Asked::End,
            KeyCode::Char('p' | ' ') => {
                self.is_paused = !self.is_paused;
                return Asked::Pace;
            }
            KeyCode::Char('+' | '=') => return self.change_interval(1),
            KeyCode::Char('-') => return self.change_interval(-1),
            KeyCode::Char('s') => self.next_sort(),
            KeyCode::Char(digit @ '1'..='5') => self.table = digit as usize - '1' as usize,
            KeyCode::Tab => self.table = (self.table + 1) % Table::ALL.len(),
            KeyCode::BackTab => {
                self.table = (self.table + Table::ALL.len() - 1) % Table::ALL.len();
            }
            KeyCode::Down | KeyCode::Right => {
                self.chosen = (self.chosen + 1).min(self.processes.len().saturating_sub(1));
            }
            KeyCode::Up | KeyCode::Left => self.chosen = self.chosen.saturating_sub(1),
            _ => {}
        }
        Asked::Nothing
    }

    /// Selects the next sort column; the gateway's order follows the last column.
    fn next_sort(&mut self) {
        let columns = self.table().columns().len();
        if let Some(sort) = self.sorts.get_mut(self.table) {
            let next = sort.map_or(0, |column| column + 1);
            *sort = Some(next).filter(|column| *column < columns);
        }
    }

    /// `+` shortens the interval, `-` lengthens the interval.
    fn change_interval(&mut self, more: i8) -> Asked {
        let now = self.interval_ms;
        let found = match more > 0 {
            true => INTERVALS_MS.iter().rev().find(|ms| **ms < now),
            false => INTERVALS_MS.iter().find(|ms| **ms > now),
        };
        self.interval_ms = found.copied().unwrap_or(now);
        Asked::Pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View::new(["a", "b"].into_iter().map(str::to_owned), 1_000)
    }

    fn typed(view: &mut View, keys: &str) -> Vec<Asked> {
        let press = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE);
        keys.chars().map(|c| view.key(press(c))).collect()
    }

    #[test]
    fn keys_choose_tables_sorts_and_processes() {
        let mut view = view();
        typed(&mut view, "2ss");
        assert_eq!((view.table(), view.sort()), (Table::Topics, Some(1)));
        typed(&mut view, "sss");
        assert_eq!(view.sort(), None, "after the last column");
        view.key(KeyCode::BackTab.into());
        view.key(KeyCode::BackTab.into());
        assert_eq!(view.table(), Table::Limits);
        view.key(KeyCode::Tab.into());
        assert_eq!((view.table(), view.sort()), (Table::Slowest, None));
        for (key, chosen) in [(KeyCode::Up, 0), (KeyCode::Down, 1), (KeyCode::Down, 1)] {
            view.key(key.into());
            assert_eq!(view.chosen, chosen);
        }
    }

    #[test]
    fn keys_pause_change_the_interval_and_end() {
        let mut view = view();
        assert_eq!(typed(&mut view, "p+++"), [Asked::Pace; 4]);
        assert_eq!((view.is_paused, view.interval_ms), (true, 250));
        typed(&mut view, "---------");
        assert_eq!(view.interval_ms, 60_000);
        assert_eq!(typed(&mut view, "cq"), [Asked::Nothing, Asked::End]);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.key(control_c), Asked::End);
    }
}
