//! Which rows a gateway has: parts of the shared table, its own, and where it differs.

use super::setting::{Part, Setting};
use super::table::{AFTER_OWN, BEFORE_OWN};

/// How a row of the shared table differs on one gateway: the flag, and the row made into another.
/// So a row stands once, however many defaults it has.
pub type Change = (&'static str, fn(Setting) -> Setting);

/// The rows of one gateway, or of another command.
///
/// ```
/// use weirgate::settings::{Change, Heading, Part, Rows, Setting};
///
/// const OWN: &[Setting] = &[Setting::ms(
///     Heading("Ticks"),
///     "tick-interval-ms",
///     (1, 60_000),
///     "250",
///     "Time between two ticks",
/// )];
/// const CHANGES: &[Change] = &[("port", |row| row.default("8090"))];
///
/// let rows = Rows::gateway(&[Part::Bus]).own(&[OWN]).changes(CHANGES).settings();
/// let port = rows.iter().find(|row| row.flag == "port");
/// assert_eq!(port.map(|row| row.default), Some("8090"));
/// assert!(rows.iter().any(|row| row.flag == "tick-interval-ms"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// [`Part::Every`] too.
    every: bool,
    parts: &'static [Part],
    own: &'static [&'static [Setting]],
    changes: &'static [Change],
}

impl Rows {
    /// What `weirgate token` has: what tokens are judged with.
    pub const TOKEN: Self = Self::only(&[Part::Tokens]);

    /// What `weirgate health` has, besides the address and the port of the gateway that it asks.
    pub const HEALTH: Self = Self::only(&[Part::Health]);

    /// What `weirgate tail` has, besides the address and the port of the gateway.
    pub const TAIL: Self = Self::only(&[Part::Tail]);

    /// What `weirgate top` has, besides the admin address.
    pub const TOP: Self = Self::only(&[Part::Top]);

    /// What every gateway has.
    pub const EVERY: Self = Self::gateway(&[]);

    /// The rows of a gateway: what every gateway has, and these parts.
    pub const fn gateway(parts: &'static [Part]) -> Self {
        Self {
            every: true,
            ..Self::only(parts)
        }
    }

    const fn only(parts: &'static [Part]) -> Self {
        Self {
            every: false,
            parts,
            own: &[],
            changes: &[],
        }
    }

    /// With rows that only this gateway has, or that it shares with another one as a whole.
    #[must_use]
    pub const fn own(mut self, own: &'static [&'static [Setting]]) -> Self {
        self.own = own;
        self
    }

    /// With shared rows that differ here.
    #[must_use]
    pub const fn changes(mut self, changes: &'static [Change]) -> Self {
        self.changes = changes;
        self
    }

    /// The rows, in the order of `--help`.
    pub fn settings(&self) -> Vec<Setting> {
        let before = shared(BEFORE_OWN).filter_map(|row| self.shared(row));
        let after = shared(AFTER_OWN).filter_map(|row| self.shared(row));
        before.chain(self.own_rows()).chain(after).collect()
    }

    fn own_rows(&self) -> impl Iterator<Item = Setting> {
        self.own.iter().copied().flatten().copied()
    }

    /// A row of the shared table as it is here, if it is.
    fn shared(&self, row: &Setting) -> Option<Setting> {
        let here = self.every && row.part == Part::Every || self.parts.contains(&row.part);
        let of_row = |change: &&Change| change.0 == row.flag;
        let changed = |row, change: &Change| change.1(row);
        here.then(|| self.changes.iter().filter(of_row).fold(*row, changed))
    }

    /// Flags that [`changes`](Self::changes) names and no shared row here has.
    #[cfg(test)]
    pub(crate) fn changes_of_nothing(&self) -> Vec<&'static str> {
        let rows = self.settings();
        let names = self.changes.iter().map(|change| change.0);
        names
            .filter(|flag| rows.iter().all(|row| row.flag != *flag))
            .collect()
    }
}

fn shared(parts: &'static [&'static [Setting]]) -> impl Iterator<Item = &'static Setting> {
    parts.iter().copied().flatten()
}

/// All rows of several gateways as one table, for the documents: a shared row that differs between
/// them stands there once for each form, in the order of `of`.
pub fn table(of: &[Rows]) -> Vec<Setting> {
    let forms = |row: &'static Setting| of.iter().filter_map(move |rows| rows.shared(row));
    let before = shared(BEFORE_OWN).flat_map(forms);
    let own = of.iter().flat_map(Rows::own_rows);
    let all = before.chain(own).chain(shared(AFTER_OWN).flat_map(forms));
    let mut table: Vec<Setting> = Vec::new();
    for row in all {
        if table.iter().all(|known| !known.is_same(&row)) {
            table.push(row);
        }
    }
    table
}

impl Setting {
    /// The same row, in everything that is said of it.
    pub fn is_same(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}
