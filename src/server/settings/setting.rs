//! A row of the table: the name of a setting, where it can be set, and the allowed values.

use std::fmt;

use super::field::{Field, Groups};
use super::kind::{Kind, Unit};
use super::typed::Source;
use crate::telemetry::MetricName;
use weirgate_core::CloseReason;

/// A group of `--help` and of the documents, by its title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading(pub &'static str);

impl Heading {
    /// Addresses, ports, and the options of the sockets.
    pub(crate) const LISTENING: Self = Self("Listening");
    /// TLS towards clients.
    pub const TLS: Self = Self("TLS");
    /// The NATS connection.
    pub const NATS: Self = Self("NATS");
    /// The Redis connection.
    pub const REDIS: Self = Self("Redis");
    /// The log.
    pub(crate) const LOGS: Self = Self("Logs");
    /// Start, readiness and stop.
    pub(crate) const LIFECYCLE: Self = Self("Readiness and stop");
    /// Tokens and their keys.
    pub(crate) const TOKENS: Self = Self("Tokens");
    /// The limits of clients: connections, and messages from clients.
    pub const CLIENTS: Self = Self("Clients");
    /// The send queues of clients.
    pub(crate) const SEND_QUEUE: Self = Self("Send queues");
    /// The messages kept for clients that resume.
    pub(crate) const HISTORY: Self = Self("Missed messages");
    /// Pings, closes, compression.
    pub const CONNECTION: Self = Self("Connections");
    /// The delay until a message is read.
    pub(crate) const LATENCY: Self = Self("Latency");
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
        self.in_part(TablePart::Every).of(rows)
    }

    /// The group in this part of the shared table.
    pub(super) const fn in_part(self, part: TablePart) -> GroupOfPart {
        GroupOfPart(self, part)
    }
}

/// A group of `--help` in a part of the shared table.
pub(super) struct GroupOfPart(Heading, TablePart);

impl GroupOfPart {
    /// Puts the rows into this group, and into this part unless they name a part of their own.
    pub(super) const fn of<const N: usize>(self, mut rows: [Setting; N]) -> [Setting; N] {
        let mut n = 0;
        while n < N {
            rows[n].heading = self.0;
            if matches!(rows[n].part, TablePart::Every) {
                rows[n].part = self.1;
            }
            n += 1;
        }
        rows
    }
}

/// A part of the shared table. A gateway takes a whole part, or none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TablePart {
    /// The rows of every gateway: listening, TLS, logs, stop, memory, clients, send queues.
    Every,
    /// The login at NATS, and the trusted authorities.
    Nats,
    /// The NATS servers, and the reading of streams.
    JetStream,
    /// The Redis connection, beside its URL.
    Redis,
    /// The URL of Redis.
    RedisUrl,
    /// Host and port of Redis. A gateway without a default host needs the URL of Redis.
    RedisHost,
    /// The bus: how long it may be away, and how much may wait between it and the loop.
    Bus,
    /// The size of a message from the bus.
    BusMessages,
    /// The messages kept for clients that resume.
    History,
    /// The marks that make positions valid on all instances.
    HistoryMarks,
    /// The stream that is read in place of pub/sub.
    Stream,
    /// The close code at a stop, for gateways whose contract has 1012.
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

/// The limit that a setting is: something grows up to the value, and has an effect above it.
/// `docs/reference/limits.md` is made from these.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The effect beyond the limit.
    pub beyond: &'static str,
    /// Where an operator sees that the limit was reached.
    pub shows: Shows,
    /// The test that exceeds the limit: `FILE::FUNCTION`.
    pub test: &'static str,
}

/// The evidence of an exceeded limit.
#[derive(Clone, Copy, Debug)]
pub enum Shows {
    /// In the reason for the end of a connection: `reason` of `weirgate_client_closes_total` and in the log.
    Reason(CloseReason),
    /// In a metric.
    Metric(MetricName),
    /// Somewhere else: the place to look at.
    Elsewhere(&'static str),
}

/// A name in the environment that another gateway reads, but this gateway does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct MistakenEnv {
    /// The name.
    pub name: &'static str,
    /// No warning if one of these settings is set: the operator has then chosen a bus.
    pub unless: &'static [&'static str],
}

/// What a limit counts if several processes share a port (`--processes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counts {
    /// A client, a message, a request, a name, or something that each process has whole.
    #[default]
    Each,
    /// All clients: each process has its part.
    All,
    /// An address, whose connections are spread over the processes.
    Address,
}

/// The fewest bytes of a secret with which a client can log in or sign: a shorter one can be guessed faster than a signature
/// (RFC 7518 §3.2), with one try for each connection.
const SECRET_BYTES_MIN: usize = 32;

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

/// Writes a gateway's own defaults over the defaults of the groups.
#[derive(Clone, Copy)]
pub(super) struct Defaults(pub(super) fn(&mut Groups));

/// Nothing: [`Setting::is_same`] compares the defaults as text.
impl fmt::Debug for Defaults {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A setting: its row has everything that is shown or read about it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag without its dashes: kebab-case, the unit last. Rows that are not flags have such a name too.
    pub flag: &'static str,
    /// Where the setting can be set.
    pub given: Given,
    /// The environment names of the replaced gateways, in order of precedence.
    pub original_env: &'static [&'static str],
    /// The field of a group to which the value is written.
    pub field: &'static dyn Field,
    /// Other defaults of the gateway of the row.
    pub(super) defaults: Defaults,
    /// The allowed values, and whether they are secret.
    pub kind: Kind,
    /// Whether clients can try values of the secret, so that a short one is a mistake.
    pub(super) is_guessable: bool,
    /// The group in `--help`.
    pub heading: Heading,
    /// One line, at most 80 characters.
    pub help: &'static str,
    /// What `--help` adds to the line; may be empty.
    pub more: &'static str,
    /// The limit; `None` if nothing grows with the setting.
    pub limit: Option<Limit>,
    /// Whether `-h` shows the setting: `-h` has the dozen settings that most operators use.
    pub in_short_help: bool,
    /// Whether `-h` shows the setting before the others. The README's examples use these settings.
    pub leads_short_help: bool,
    /// A name in the environment that people may set in place of this setting.
    pub(super) mistaken_env: Option<MistakenEnv>,
    /// For a limit of bytes over all clients: its part of `--memory-max`, in thousandths.
    pub memory_thousandths: Option<u16>,
    /// What the limit counts over several processes; `None` for the default ([`Self::counts`]).
    pub(super) counts: Option<Counts>,
    /// Limits over all clients into which a single thing of this size must fit, also if several processes divide them.
    pub(super) fits_into: &'static [&'static str],
    /// The part of the shared table. A gateway's own rows do not use it.
    pub(super) part: TablePart,
}

impl Setting {
    /// A row without names of replaced gateways, and not yet in a group of `--help`: see [`Heading::of`].
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
            is_guessable: false,
            heading: Heading(""),
            help,
            more: "",
            limit: None,
            in_short_help: false,
            leads_short_help: false,
            mistaken_env: None,
            memory_thousandths: None,
            counts: None,
            fits_into: &[],
            part: TablePart::Every,
        }
    }

    /// A row for a number of bytes. The range includes both ends.
    pub const fn bytes(
        flag: &'static str,
        range: (u64, u64),
        field: &'static dyn Field,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Bytes, range);
        Self::new(flag, kind, field, help)
    }

    /// A row for milliseconds. The range includes both ends.
    pub const fn ms(
        flag: &'static str,
        range: (u64, u64),
        field: &'static dyn Field,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Milliseconds, range);
        Self::new(flag, kind, field, help)
    }

    /// A row for a count. The range includes both ends.
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

    /// Makes a short secret a mistake that start and reload warn of: clients can try its values.
    pub const fn guessable(mut self) -> Self {
        self.is_guessable = true;
        self
    }

    /// What an operator should know of a secret that is allowed and can be guessed, at the start and when its file has
    /// changed.
    pub(crate) fn weakness(&self, secret: &str) -> Option<String> {
        let is_weak = self.is_guessable && (1..SECRET_BYTES_MIN).contains(&secret.len());
        let name = self.original_env.first().copied().unwrap_or(self.flag);
        is_weak.then(|| format!("{name} has less than {SECRET_BYTES_MIN} bytes and can be guessed"))
    }

    /// Adds the setting to the dozen that `-h` shows. The line with the default must fit into 100 columns.
    pub const fn in_short_help(mut self) -> Self {
        self.in_short_help = true;
        self
    }

    /// Adds the setting to the dozen of `-h`, before the others.
    pub const fn leads_short_help(mut self) -> Self {
        self.leads_short_help = true;
        self.in_short_help()
    }

    /// Adds a limit: the effect over the limit, where an operator sees that, and `FILE::FUNCTION` of a test that exceeds it.
    /// `beyond` continues the phrase `Over the limit: ` and ends without a full stop.
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

    /// Makes the start warn of a name in the environment that people may set in place of this setting. There is no warning
    /// if one of the settings `unless` is set: the operator has then chosen a bus.
    pub const fn mistaken_env(
        mut self,
        name: &'static str,
        unless: &'static [&'static str],
    ) -> Self {
        self.mistaken_env = Some(MistakenEnv { name, unless });
        self
    }

    /// Unless an operator sets the setting, its value is `thousandths` of `--memory-max`.
    pub const fn memory_thousandths(mut self, thousandths: u16) -> Self {
        self.memory_thousandths = Some(thousandths);
        self
    }

    /// Makes the limit one of all processes of a port together.
    pub const fn counts_all(mut self) -> Self {
        self.counts = Some(Counts::All);
        self
    }

    /// Makes a part of `--memory-max` the limit of one thing, such as a request: each process has it whole. Each of several
    /// processes has at least as much of the limits `sums`, into which one such thing must fit.
    pub const fn counts_each(mut self, sums: &'static [&'static str]) -> Self {
        self.counts = Some(Counts::Each);
        self.fits_into = sums;
        self
    }

    /// Makes the limit one by address, over all processes of a port.
    pub(crate) const fn counts_address(mut self) -> Self {
        self.counts = Some(Counts::Address);
        self
    }

    /// What the limit counts over several processes. A part of `--memory-max` counts all clients unless its row says
    /// otherwise.
    pub fn counts(&self) -> Counts {
        let of_memory = self.memory_thousandths.map(|_| Counts::All);
        self.counts.or(of_memory).unwrap_or_default()
    }

    /// The limits over all clients into which one thing of this size must fit.
    pub fn fits_into(&self) -> &'static [&'static str] {
        self.fits_into
    }

    /// Makes the row a setting without a flag. It can be set only in the environment, by the names of the replaced
    /// gateways.
    pub const fn original_env_only(mut self, names: &'static [&'static str]) -> Self {
        self.given = Given::OriginalEnv;
        self.original_env(names)
    }

    /// Makes the row a fixed share of `--memory-max`, in thousandths. Operators cannot set it.
    pub const fn share(mut self, thousandths: u16) -> Self {
        self.given = Given::Nowhere;
        self.memory_thousandths(thousandths)
    }

    /// Makes the row a constant: a documented limit that operators cannot set.
    pub const fn constant(mut self) -> Self {
        self.given = Given::Nowhere;
        self
    }

    /// Sets the part of the shared table.
    pub(super) const fn part(mut self, part: TablePart) -> Self {
        self.part = part;
        self
    }

    /// Returns the default as it is typed on the command line; empty for "unset".
    pub fn default(&self) -> String {
        self.field.text(&mut self.groups())
    }

    /// Returns groups with the defaults of this row's gateway.
    pub fn groups(&self) -> Groups {
        let mut groups = Groups::default();
        (self.defaults.0)(&mut groups);
        groups
    }

    /// Returns the name that people see: the flag, a name in the environment, or the name of a constant or share.
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

    /// Returns the name and the source of the value, such as `--port (env GATEWAY_PORT)`. If both are the same name, it
    /// is shown once.
    pub fn named(&self, source: &Source) -> String {
        match source {
            Source::Env(name) if *name == self.name() => self.name(),
            _ => format!("{} ({source})", self.name()),
        }
    }

    /// Returns the name that each setting has in the environment: `WEIRGATE_` and the flag in capitals.
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
