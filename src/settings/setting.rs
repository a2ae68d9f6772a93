//! A row of the table: the name of a setting, the sources, the allowed values.

use std::fmt;

use super::field::{Field, Groups};
use super::kind::{Kind, Unit};
use super::typed::Source;
use crate::hub::CloseReason;
use crate::telemetry::names::MetricName;

/// A group of `--help` and of the documents, by its title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading(pub &'static str);

impl Heading {
    /// Address, port, backlog.
    pub const LISTENING: Self = Self("Listening");
    /// TLS towards clients.
    pub const TLS: Self = Self("TLS");
    /// The NATS connection.
    pub const NATS: Self = Self("NATS");
    /// The Redis connection.
    pub const REDIS: Self = Self("Redis");
    /// The log.
    pub const LOGS: Self = Self("Logs");
    /// Start, readiness and stop.
    pub const LIFECYCLE: Self = Self("Readiness and stop");
    /// Tokens and their keys.
    pub const TOKENS: Self = Self("Tokens");
    /// The limits of clients: connections, and messages from clients.
    pub const CLIENTS: Self = Self("Clients");
    /// The send queues of clients.
    pub const SEND_QUEUE: Self = Self("Send queues");
    /// The messages kept for clients that resume.
    pub const HISTORY: Self = Self("Missed messages");
    /// Pings, closes, compression.
    pub const CONNECTION: Self = Self("Connections");
    /// The delay until a message is read.
    pub const LATENCY: Self = Self("Latency");
    /// Messages from the bus.
    pub const BUS: Self = Self("Messages from the bus");
    /// The memory of all that is held for clients.
    pub const MEMORY: Self = Self("Memory");
    /// The client in a terminal.
    pub const TAIL: Self = Self("Client in a terminal");
    /// Running gateways in a terminal.
    pub const TOP: Self = Self("Gateways in a terminal");

    /// Returns the rows as rows of this group.
    pub const fn of<const N: usize>(self, rows: [Setting; N]) -> [Setting; N] {
        self.in_part(Part::Every).of(rows)
    }

    /// The group in this part of the shared table.
    pub(super) const fn in_part(self, part: Part) -> GroupOfPart {
        GroupOfPart(self, part)
    }
}

/// A group of `--help` in a part of the shared table.
pub(super) struct GroupOfPart(Heading, Part);

impl GroupOfPart {
    /// Returns the rows as rows of this group, and of this part if they have no other.
    pub(super) const fn of<const N: usize>(self, mut rows: [Setting; N]) -> [Setting; N] {
        let mut n = 0;
        while n < N {
            rows[n].heading = self.0;
            if matches!(rows[n].part, Part::Every) {
                rows[n].part = self.1;
            }
            n += 1;
        }
        rows
    }
}

/// A part of the shared table; a gateway includes a part as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The rows of every gateway: listening, logs, a stop, clients, send queues, budgets.
    Every,
    /// The login at NATS, and the trusted authorities.
    Nats,
    /// The NATS servers, and the reading of streams.
    JetStream,
    /// The Redis connection, beside its URL.
    Redis,
    /// The URL of Redis.
    RedisUrl,
    /// Host and port of Redis. Without a default host the address of Redis is required.
    RedisHost,
    /// A bus: how long the bus may be away, and how much may wait between bus and loop.
    Bus,
    /// The size of a message from the bus.
    BusMessages,
    /// The messages kept for clients that resume.
    History,
    /// The marks that make positions valid on all instances.
    HistoryMarks,
    /// The stream that is read in place of pub/sub.
    Stream,
    /// The choice of the close code at a stop: for the contracts with 1012.
    StopCode,
    /// Whether clients without a valid token are refused.
    RequireAuth,
    /// The rules for tokens.
    Tokens,
    /// The rows of `weirgate tail`.
    Tail,
    /// The rows of `weirgate top`.
    Top,
}

/// The limit of a setting: something grows up to the value, with an effect beyond. `docs/reference/limits.md`
/// is made of these.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The effect beyond the limit.
    pub beyond: &'static str,
    /// The close reason, the metric or the place with the evidence.
    pub shows: Shows,
    /// The test that exceeds the limit: `FILE::FUNCTION`.
    pub test: &'static str,
}

/// The evidence of an exceeded limit.
#[derive(Clone, Copy, Debug)]
pub enum Shows {
    /// As the end of a connection: `reason` of `weirgate_client_closes_total` and in the log.
    Reason(CloseReason),
    /// In a metric.
    Metric(MetricName),
    /// Somewhere else: the place to look at.
    Elsewhere(&'static str),
}

/// A name in the environment that another gateway reads and that has no effect on this one.
#[derive(Clone, Copy, Debug)]
pub struct MistakenEnv {
    /// The name.
    pub name: &'static str,
    /// No warning if one of these settings is set: then the bus was chosen deliberately.
    pub unless: &'static [&'static str],
}

/// Where a setting can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// As a flag, and in the environment.
    Anywhere,
    /// Only by the env names of the replaced gateways.
    OriginalEnv,
    /// Nowhere: a constant, or a share of `--memory-max`.
    Nowhere,
}

/// Writes the defaults of a gateway over those of the groups.
#[derive(Clone, Copy)]
pub(super) struct Defaults(pub(super) fn(&mut Groups));

/// Rows are compared by the texts of their defaults.
impl fmt::Debug for Defaults {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A setting. The row has everything shown or read about the setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag without its dashes: kebab-case, the unit last. The name of a row that is not a flag.
    pub flag: &'static str,
    /// Where the setting can be set.
    pub given: Given,
    /// Env names of the replaced gateways, in order of precedence.
    pub original_env: &'static [&'static str],
    /// The field of the group that the value is written to.
    pub field: &'static dyn Field,
    /// Other defaults of the gateway of the row.
    pub(super) defaults: Defaults,
    /// The allowed values, and whether they are secret.
    pub kind: Kind,
    /// The group in `--help`.
    pub heading: Heading,
    /// One line, at most 80 characters.
    pub help: &'static str,
    /// The addition of `--help` to the line; may be empty.
    pub more: &'static str,
    /// The limit; `None` if nothing grows with the setting.
    pub limit: Option<Limit>,
    /// Whether `-h` shows the setting: one of the dozen settings of most operators.
    pub in_short_help: bool,
    /// Whether `-h` shows the setting before the others: the settings of the README's examples.
    pub leads_short_help: bool,
    /// The names in the environment that people set in place of this setting.
    pub mistaken_env: Option<MistakenEnv>,
    /// The part of `--memory-max` in thousandths, for a limit of bytes over all clients.
    pub memory_part: Option<u16>,
    /// The part of the shared table; without meaning for a gateway's own row.
    pub(super) part: Part,
}

impl Setting {
    /// A row without original env names, outside of any group of `--help`: see [`Heading::of`].
    pub const fn new(
        flag: &'static str,
        kind: Kind,
        field: &'static dyn Field,
        help: &'static str,
    ) -> Self {
        Self {
            flag,
            given: Given::Anywhere,
            original_env: &[],
            field,
            defaults: Defaults(|_| {}),
            kind,
            heading: Heading(""),
            help,
            more: "",
            limit: None,
            in_short_help: false,
            leads_short_help: false,
            mistaken_env: None,
            memory_part: None,
            part: Part::Every,
        }
    }

    /// A row for bytes, both ends of the range included.
    pub const fn bytes(
        flag: &'static str,
        range: (u64, u64),
        field: &'static dyn Field,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Bytes, range);
        Self::new(flag, kind, field, help)
    }

    /// A row for milliseconds, both ends of the range included.
    pub const fn ms(
        flag: &'static str,
        range: (u64, u64),
        field: &'static dyn Field,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Milliseconds, range);
        Self::new(flag, kind, field, help)
    }

    /// A row for a count, both ends of the range included.
    pub const fn count(
        flag: &'static str,
        range: (u64, u64),
        field: &'static dyn Field,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Count, range);
        Self::new(flag, kind, field, help)
    }

    /// Sets another kind, or another range.
    pub const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets another line of help.
    pub const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    /// Sets the addition for `--help`.
    pub const fn more(mut self, more: &'static str) -> Self {
        self.more = more;
        self
    }

    /// Puts the setting among the dozen settings that `-h` shows. The line with the default must fit a terminal of
    /// 100 columns.
    pub const fn in_short_help(mut self) -> Self {
        self.in_short_help = true;
        self
    }

    /// Puts the setting among the dozen of `-h`, before the others.
    pub const fn leads_short_help(mut self) -> Self {
        self.leads_short_help = true;
        self.in_short_help()
    }

    /// Adds a limit: the effect beyond the limit, the evidence, and `FILE::FUNCTION` of a test that exceeds
    /// the limit. `beyond` continues the phrase `Over the limit: ` and ends without a full stop.
    pub const fn limit(mut self, beyond: &'static str, shows: Shows, test: &'static str) -> Self {
        self.limit = Some(Limit {
            beyond,
            shows,
            test,
        });
        self
    }

    /// Replaces the effect beyond the limit.
    pub const fn beyond(mut self, beyond: &'static str) -> Self {
        if let Some(limit) = &mut self.limit {
            limit.beyond = beyond;
        }
        self
    }

    /// Sets the env names of the replaced gateways.
    pub const fn original_env(mut self, names: &'static [&'static str]) -> Self {
        self.original_env = names;
        self
    }

    /// Warns of a name in the environment that people set in place of this setting.
    pub const fn mistaken_env(mut self, mistaken: MistakenEnv) -> Self {
        self.mistaken_env = Some(mistaken);
        self
    }

    /// Gives the setting so many thousandths of `--memory-max`, unless somebody sets the setting.
    pub const fn memory_part(mut self, thousandths: u16) -> Self {
        self.memory_part = Some(thousandths);
        self
    }

    /// Makes the row one without a flag, set only by the env names of the replaced gateways.
    pub const fn original_env_only(mut self, names: &'static [&'static str]) -> Self {
        self.given = Given::OriginalEnv;
        self.original_env(names)
    }

    /// Makes the row a share of so many thousandths of `--memory-max`, which nobody sets by itself.
    pub const fn share(mut self, thousandths: u16) -> Self {
        self.given = Given::Nowhere;
        self.memory_part(thousandths)
    }

    /// Makes the row a constant: a limit that is documented, and that nobody sets.
    pub const fn constant(mut self) -> Self {
        self.given = Given::Nowhere;
        self
    }

    /// Sets the part of the shared table.
    pub(super) const fn part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }

    /// Returns the default, as on the command line; empty for "unset".
    pub fn default(&self) -> String {
        self.field.text(&mut self.groups())
    }

    /// Returns groups with the defaults of the gateway of this row.
    pub(crate) fn groups(&self) -> Groups {
        let mut groups = Groups::default();
        (self.defaults.0)(&mut groups);
        groups
    }

    /// Returns the name for people: the flag, an env name, or the name of a constant or a share.
    pub fn name(&self) -> String {
        match (self.given, self.original_env) {
            (Given::OriginalEnv, [name, ..]) => (*name).to_owned(),
            (Given::Nowhere, _) => self.flag.to_owned(),
            _ => format!("--{}", self.flag),
        }
    }

    /// Whether the setting is a flag.
    pub fn is_flag(&self) -> bool {
        self.given == Given::Anywhere
    }

    /// Returns the name with the source of its value, where that is another name: `--port (env GATEWAY_PORT)`.
    pub fn named(&self, source: &Source) -> String {
        match source {
            Source::Env(name) if *name == self.name() => self.name(),
            _ => format!("{} ({source})", self.name()),
        }
    }

    /// Returns the env name of every setting: `WEIRGATE_` and the flag in capitals.
    pub fn weirgate_env(&self) -> String {
        format!("WEIRGATE_{}", self.flag.to_uppercase().replace('-', "_"))
    }

    /// Returns all env names, in order of precedence.
    pub fn env_names(&self) -> Vec<String> {
        let originals = self.original_env.iter().map(|&name| name.to_owned());
        let own = self.is_flag().then(|| self.weirgate_env());
        originals.chain(own).collect()
    }
}
