//! One row of the table: what a setting is called, where it may come from, what it may be.

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
    /// Who may connect, and what a client may send.
    pub const CLIENTS: Self = Self("Clients");
    /// What waits for a client.
    pub const SEND_QUEUE: Self = Self("Send queues");
    /// Pings, closes, compression.
    pub const CONNECTION: Self = Self("Connections");
    /// Budgets of one turn of the loop.
    pub const LOOP: Self = Self("Budgets of one turn of the loop");
    /// How soon a message is taken.
    pub const LATENCY: Self = Self("Latency");
    /// What the bus may send.
    pub const BUS: Self = Self("Messages from the bus");
    /// The health check.
    pub const HEALTH: Self = Self("Health check");
    /// The client in a terminal.
    pub const TAIL: Self = Self("Client in a terminal");
    /// Running gateways in a terminal.
    pub const TOP: Self = Self("Gateways in a terminal");
}

/// A part of the shared table, which a gateway has as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What every gateway has: listening, logs, a stop, clients, send queues, budgets.
    Every,
    /// Who we are to NATS, and what to trust there.
    Nats,
    /// Where NATS is, and how its streams are read.
    JetStream,
    /// The Redis connection.
    Redis,
    /// Host and port of Redis, with defaults; without them Redis has to be named.
    RedisHost,
    /// A bus: how long it may be away, and how much may wait between it and the loop.
    Bus,
    /// The size of a message from the bus.
    BusMessages,
    /// The nesting of JSON.
    Json,
    /// A close code at a stop that may be chosen: the contracts with 1012.
    StopCode,
    /// A deflate window for all clients: topics in which no stranger can cause messages.
    SharedWindow,
    /// Whether clients without a good token are refused.
    RequireAuth,
    /// What tokens are judged with.
    Tokens,
    /// What `weirgate health` has for itself.
    Health,
    /// What `weirgate tail` has for itself.
    Tail,
    /// What `weirgate top` has for itself.
    Top,
}

/// What makes a setting a limit: something grows up to it, and something happens beyond it.
/// `docs/reference/limits.md` is made of these.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// What happens beyond it.
    pub beyond: &'static str,
    /// The close reason, the metric or the place that tells of it.
    pub shows: Shows,
    /// The test that hits it: `FILE::FUNCTION`.
    pub test: &'static str,
}

/// Where it shows that a limit was hit.
#[derive(Clone, Copy, Debug)]
pub enum Shows {
    /// As the end of a connection: `reason` of `weirgate_client_closes_total` and in the log.
    Reason(CloseReason),
    /// In a metric.
    Metric(MetricName),
    /// Somewhere else: what to look at.
    Elsewhere(&'static str),
}

/// One setting. Everything that is shown or read about it is in its row.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag without its dashes: kebab-case, the unit last.
    pub flag: &'static str,
    /// Env names of the gateways that are replaced, in the order in which they are looked at.
    pub original_env: &'static [&'static str],
    /// The default, as it would be typed; empty for "unset".
    pub default: &'static str,
    /// What it may be, and whether it is secret.
    pub kind: Kind,
    /// The group in `--help`.
    pub heading: Heading,
    /// One line, at most 80 characters.
    pub help: &'static str,
    /// What `--help` adds to the line, empty for nothing.
    pub more: &'static str,
    /// What makes it a limit; `None`: nothing grows with it.
    pub limit: Option<Limit>,
    /// `-h` shows it: one of the dozen that most operators of the gateway set.
    pub in_short_help: bool,
    /// The part of the shared table that it belongs to; a gateway's own row is in none.
    pub(super) part: Part,
}

impl Setting {
    /// A row without original env names.
    pub const fn new(
        heading: Heading,
        flag: &'static str,
        kind: Kind,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            flag,
            original_env: &[],
            default,
            kind,
            heading,
            help,
            more: "",
            limit: None,
            in_short_help: false,
            part: Part::Every,
        }
    }

    /// A row for bytes, both ends of the range included.
    pub const fn bytes(
        heading: Heading,
        flag: &'static str,
        range: (u64, u64),
        default: &'static str,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Bytes, range);
        Self::new(heading, flag, kind, default, help)
    }

    /// A row for milliseconds, both ends of the range included.
    pub const fn ms(
        heading: Heading,
        flag: &'static str,
        range: (u64, u64),
        default: &'static str,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Milliseconds, range);
        Self::new(heading, flag, kind, default, help)
    }

    /// A row for a count, both ends of the range included.
    pub const fn count(
        heading: Heading,
        flag: &'static str,
        range: (u64, u64),
        default: &'static str,
        help: &'static str,
    ) -> Self {
        let kind = Kind::number(Unit::Count, range);
        Self::new(heading, flag, kind, default, help)
    }

    /// With another default.
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Of another kind, or with another range.
    pub const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// With another line of help.
    pub const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    /// With more for `--help`.
    pub const fn more(mut self, more: &'static str) -> Self {
        self.more = more;
        self
    }

    /// Among the dozen settings of `-h`. With its default the line has to fit a terminal of 100
    /// columns.
    pub const fn in_short_help(mut self) -> Self {
        self.in_short_help = true;
        self
    }

    /// A limit: what happens beyond it, where that shows, and `FILE::FUNCTION` of a test that hits
    /// it. `beyond` goes on from "beyond it: " and ends without a full stop.
    pub const fn limit(mut self, beyond: &'static str, shows: Shows, test: &'static str) -> Self {
        self.limit = Some(Limit {
            beyond,
            shows,
            test,
        });
        self
    }

    /// A limit beyond which something else happens.
    pub const fn beyond(mut self, beyond: &'static str) -> Self {
        if let Some(limit) = &mut self.limit {
            limit.beyond = beyond;
        }
        self
    }

    /// With the env names of the gateways that are replaced.
    pub const fn original_env(mut self, names: &'static [&'static str]) -> Self {
        self.original_env = names;
        self
    }

    /// In this part of the shared table.
    pub(super) const fn part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }

    /// The flag with the source of its value: `--port (env GATEWAY_PORT)`.
    pub fn named(&self, source: &Source) -> String {
        format!("--{} ({source})", self.flag)
    }

    /// The env name that every setting has: `WEIRGATE_` and the flag in capitals.
    pub fn weirgate_env(&self) -> String {
        format!("WEIRGATE_{}", self.flag.to_uppercase().replace('-', "_"))
    }

    /// All env names, the first that is set counts.
    pub fn env_names(&self) -> Vec<String> {
        let originals = self.original_env.iter().map(|&name| name.to_owned());
        originals.chain([self.weirgate_env()]).collect()
    }
}
