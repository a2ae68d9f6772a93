//! The shared table has every setting that several gateways have. The rows of a gateway are parts of this table, its
//! own rows, and changes.
//!
//! The name, range and default of a shared flag are only here, with a file for each part of the program. Rows are in
//! the order of `--help`, each once, and the rows of a heading stand together. A row of a single gateway is in the
//! folder of the gateway.

mod bus;
mod clients;
mod history;
mod listening;
mod process;
mod tokens;

use super::field::Groups;
use super::groups::{TailSettings, TopSettings};
use super::kind::Kind;
use super::setting::{Defaults, Heading, Setting, TablePart};
use crate::field;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// The rows before a gateway's own rows.
static BEFORE_OWN: &[&[Setting]] = &[listening::LISTENING, listening::TLS, bus::NATS, bus::REDIS];

/// The rows after a gateway's own rows.
static AFTER_OWN: &[&[Setting]] = &[
    process::LOGS,
    process::LIFECYCLE,
    process::MEMORY,
    tokens::TOKENS,
    clients::CLIENTS,
    clients::SEND_QUEUES,
    clients::CONNECTIONS,
    history::HISTORY,
    process::LATENCY,
    bus::BUS,
    TAIL_ROWS,
    TOP_ROWS,
];

/// `weirgate tail`.
static TAIL_ROWS: &[Setting] = &Heading::TAIL.in_part(TablePart::Tail).of([Setting::new(
    "token",
    Kind::Secret,
    field!(TailSettings, token),
    "Token for the gateway, sent as Authorization: Bearer TOKEN",
)
.more("The list of processes shows the flag only for a moment.")]);

/// `weirgate top`.
static TOP_ROWS: &[Setting] = &Heading::TOP.in_part(TablePart::Top).of([Setting::new(
    "authorization",
    Kind::Secret,
    field!(TopSettings, authorization),
    "Header for a proxy with a login: Bearer TOKEN, or Basic BASE64 of USER:PASSWORD",
)
.more("The list of processes shows the flag only for a moment.")]);

/// A change to a shared row on one gateway: the flag, and the function that changes the row. With changes the shared
/// table needs each row only once, though gateways differ.
pub type RowChange = (&'static str, fn(Setting) -> Setting);

/// The rows of one gateway, or of another command.
///
/// ```
/// use weirgate_server::settings::{At, Checked, Groups, Heading, TablePart, Rows, Setting};
///
/// #[derive(Clone)]
/// struct Ticks {
///     interval_ms: u64,
/// }
///
/// impl Default for Ticks {
///     fn default() -> Self {
///         Self { interval_ms: 250 }
///     }
/// }
///
/// const OWN: &[Setting] = &Heading("Ticks").of([Setting::ms(
///     "tick-interval-ms",
///     (1, 60_000),
///     &At(|ticks: &mut Ticks| &mut ticks.interval_ms),
///     "Time between two ticks",
/// )]);
///
/// let rows = Rows::gateway(&[TablePart::Bus]).own(&[OWN]).settings();
/// let ticks = rows.iter().find(|row| row.flag == "tick-interval-ms");
/// assert_eq!(ticks.map(Setting::default).as_deref(), Some("250"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Whether [`TablePart::Every`] is included.
    every: bool,
    parts: &'static [TablePart],
    own: &'static [&'static [Setting]],
    changes: &'static [RowChange],
    defaults: Defaults,
}

impl Rows {
    /// The rows of `weirgate token`: the rules for tokens.
    pub const TOKEN: Self = Self::only(&[TablePart::Tokens]);

    /// The rows of `weirgate tail`, beside the address and the port of the gateway.
    pub const TAIL: Self = Self::only(&[TablePart::Tail]);

    /// The rows of `weirgate top`, besides the admin address.
    pub const TOP: Self = Self::only(&[TablePart::Top]);

    /// The rows of every gateway.
    pub const EVERY: Self = Self::gateway(&[]);

    /// The rows of every gateway, and these parts.
    pub const fn gateway(parts: &'static [TablePart]) -> Self {
        Self {
            every: true,
            ..Self::only(parts)
        }
    }

    /// Returns the rows of these parts alone, without those that every gateway has.
    const fn only(parts: &'static [TablePart]) -> Self {
        Self {
            every: false,
            parts,
            own: &[],
            changes: &[],
            defaults: Defaults(|_| {}),
        }
    }

    /// Adds rows that only this gateway has, or that it shares as a whole with another gateway.
    #[must_use]
    pub const fn own(mut self, own: &'static [&'static [Setting]]) -> Self {
        self.own = own;
        self
    }

    /// Adds changes to shared rows.
    #[must_use]
    pub const fn changes(mut self, changes: &'static [RowChange]) -> Self {
        self.changes = changes;
        self
    }

    /// Writes defaults that differ from those of the groups.
    #[must_use]
    pub const fn defaults(mut self, defaults: fn(&mut Groups)) -> Self {
        self.defaults = Defaults(defaults);
        self
    }

    /// Returns the rows, in the order of `--help`.
    pub fn settings(&self) -> Vec<Setting> {
        let before = rows_of(BEFORE_OWN).filter_map(|row| self.of_this_gateway(row));
        let after = rows_of(AFTER_OWN).filter_map(|row| self.of_this_gateway(row));
        before.chain(self.own_rows()).chain(after).collect()
    }

    fn own_rows(&self) -> impl Iterator<Item = Setting> {
        let own = self.own.iter().copied().flatten();
        own.map(|row| self.with_defaults(*row))
    }

    fn with_defaults(&self, row: Setting) -> Setting {
        let defaults = self.defaults;
        Setting { defaults, ..row }
    }

    /// Returns a shared row with the gateway's changes, or `None` if the gateway does not have the row.
    fn of_this_gateway(&self, row: &Setting) -> Option<Setting> {
        let here = self.every && row.part == TablePart::Every || self.parts.contains(&row.part);
        let of_row = |change: &&RowChange| change.0 == row.flag;
        let changed = |row, change: &RowChange| change.1(row);
        let all = self.changes.iter().filter(of_row);
        here.then(|| self.with_defaults(all.fold(*row, changed)))
    }

    /// The flags of [`changes`](Self::changes) that no included row has.
    pub fn unknown_changes(&self) -> Vec<&'static str> {
        let rows = self.settings();
        let names = self.changes.iter().map(|change| change.0);
        names
            .filter(|flag| rows.iter().all(|row| row.flag != *flag))
            .collect()
    }

    /// Returns the name of a row of the shared table. For another name, the compilation fails.
    pub const fn shared_flag(name: &'static str) -> &'static str {
        assert!(
            Setting::any_has_flag(BEFORE_OWN, name) || Setting::any_has_flag(AFTER_OWN, name),
            "no row of the shared table has this name"
        );
        name
    }

    /// Returns the rows of several gateways as one table, for the documents. If gateways change a shared row, the table has
    /// it in each of its forms, in the order of `gateways`.
    pub fn table(gateways: &[Self]) -> Vec<Setting> {
        let forms = |row: &'static Setting| {
            gateways
                .iter()
                .filter_map(move |rows| rows.of_this_gateway(row))
        };
        let before = rows_of(BEFORE_OWN).flat_map(forms);
        let own = gateways.iter().flat_map(Self::own_rows);
        let all = before.chain(own).chain(rows_of(AFTER_OWN).flat_map(forms));
        let mut table: Vec<Setting> = Vec::new();
        for row in all {
            if table.iter().all(|known| !known.is_same(&row)) {
                table.push(row);
            }
        }
        table
    }
}

const fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// The rows of all parts.
fn rows_of(parts: &'static [&'static [Setting]]) -> impl Iterator<Item = &'static Setting> {
    parts.iter().copied().flatten()
}

impl Setting {
    /// Whether one of the rows has this name.
    pub const fn any_has_flag(parts: &[&[Self]], name: &str) -> bool {
        let mut part = 0;
        while part < parts.len() {
            let mut row = 0;
            while row < parts[part].len() {
                if is_equal(parts[part][row].flag.as_bytes(), name.as_bytes()) {
                    return true;
                }
                row += 1;
            }
            part += 1;
        }
        false
    }

    /// Whether nothing that is shown differs between the rows.
    // Compares the debug texts, because functions cannot be compared. Fields and changed defaults have empty ones.
    pub fn is_same(&self, other: &Self) -> bool {
        self.flag == other.flag
            && format!("{self:?}") == format!("{other:?}")
            && self.default() == other.default()
    }
}
