//! One row of the table: what a setting is called, where it may come from, what it may be.

use super::kind::{Kind, Unit};
use super::limit::{Limit, Shows};

/// A subcommand that has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subcommand {
    /// `weirgate levels`.
    Levels,
    /// `weirgate trades`.
    Trades,
    /// `weirgate channels`.
    Channels,
    /// `weirgate events`.
    Events,
    /// `weirgate demo`.
    Demo,
    /// `weirgate health`, which also takes the address and the port of the gateway it asks.
    Health,
    /// `weirgate token`.
    Token,
}

impl Subcommand {
    /// The subcommands that run a gateway: what `WEIRGATE_GATEWAY` may name.
    pub const GATEWAYS: [Self; 5] = [
        Self::Levels,
        Self::Trades,
        Self::Channels,
        Self::Events,
        Self::Demo,
    ];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Levels => "levels",
            Self::Trades => "trades",
            Self::Channels => "channels",
            Self::Events => "events",
            Self::Demo => "demo",
            Self::Health => "health",
            Self::Token => "token",
        }
    }

    /// One line for the list of subcommands.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Levels => "Relay level signals and market flow from NATS JetStream",
            Self::Trades => "Relay trades from Redis to those who hold their symbols",
            Self::Channels => "Relay Redis channels and patterns, with roles and limits",
            Self::Events => "Route devices' requests to HTTP services, and push events to devices",
            Self::Demo => "Try it: the levels gateway on a simulated market, no broker needed",
            Self::Health => "Ask a running gateway for /health: exit 0 when it answers 200, else 1",
            Self::Token => "Make a token for trying out, or see what a gateway would say of one",
        }
    }

    /// The gateway of that name.
    pub fn gateway(name: &str) -> Option<Self> {
        Self::GATEWAYS.into_iter().find(|g| g.name() == name)
    }
}

/// The groups of `--help`, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heading {
    /// Address, port, backlog.
    Listening,
    /// The NATS connection.
    Nats,
    /// The Redis connection.
    Redis,
    /// What the levels gateway relays, and where to.
    Relays,
    /// What the levels gateway computes.
    Session,
    /// The simulated market.
    Market,
    /// What a client of the channels gateway may do.
    Channels,
    /// What a client of the trades gateway may do.
    Trades,
    /// The services of the events gateway.
    Services,
    /// What a device of the events gateway may do.
    Devices,
    /// The log.
    Logs,
    /// Start, readiness and stop.
    Lifecycle,
    /// Tokens and their keys.
    Auth,
    /// Who may connect, and what a client may send.
    Clients,
    /// What waits for a client.
    SendQueue,
    /// Pings, closes, compression.
    Connection,
    /// Budgets of one turn of the loop.
    Loop,
    /// What the bus may send.
    Bus,
    /// The health check.
    Health,
}

impl Heading {
    /// The words of `--help`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Listening => "Listening",
            Self::Nats => "NATS",
            Self::Redis => "Redis",
            Self::Relays => "Relays and endpoints",
            Self::Session => "Trading session",
            Self::Market => "Simulated market",
            Self::Trades => "Trades",
            Self::Channels => "Channels",
            Self::Services => "Services",
            Self::Devices => "Devices",
            Self::Logs => "Logs",
            Self::Lifecycle => "Readiness and stop",
            Self::Auth => "Tokens",
            Self::Clients => "Clients",
            Self::SendQueue => "Send queues",
            Self::Connection => "Connections",
            Self::Loop => "Budgets of one turn of the loop",
            Self::Bus => "Messages from the bus",
            Self::Health => "Health check",
        }
    }
}

/// One setting. Everything that is shown or read about it is in its row.
#[derive(Debug)]
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
    /// The subcommands that have it.
    pub on: &'static [Subcommand],
    /// What makes it a limit; `None`: nothing grows with it.
    pub limit: Option<Limit>,
}

const GATEWAYS: &[Subcommand] = &Subcommand::GATEWAYS;

/// The gateways that have a bus.
pub(super) const WITH_BUS: &[Subcommand] = &[
    Subcommand::Levels,
    Subcommand::Trades,
    Subcommand::Channels,
    Subcommand::Demo,
];

impl Setting {
    /// A row of every gateway, without original env names.
    pub(super) const fn new(
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
            on: GATEWAYS,
            limit: None,
        }
    }

    /// A row for bytes, both ends of the range included.
    pub(super) const fn bytes(
        heading: Heading,
        flag: &'static str,
        range: (u64, u64),
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(
            heading,
            flag,
            Kind::number(Unit::Bytes, range),
            default,
            help,
        )
    }

    /// A row for milliseconds, both ends of the range included.
    pub(super) const fn ms(
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
    pub(super) const fn count(
        heading: Heading,
        flag: &'static str,
        range: (u64, u64),
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(
            heading,
            flag,
            Kind::number(Unit::Count, range),
            default,
            help,
        )
    }

    /// With more for `--help`.
    pub(super) const fn more(mut self, more: &'static str) -> Self {
        self.more = more;
        self
    }

    /// A limit: what happens beyond it, where that shows, and `FILE::FUNCTION` of a test that hits
    /// it. `beyond` goes on from "beyond it: " and ends without a full stop.
    pub(super) const fn limit(
        mut self,
        beyond: &'static str,
        shows: Shows,
        test: &'static str,
    ) -> Self {
        self.limit = Some(Limit {
            beyond,
            shows,
            test,
        });
        self
    }

    /// Only on these subcommands.
    pub(super) const fn on(mut self, on: &'static [Subcommand]) -> Self {
        self.on = on;
        self
    }

    /// With the env names of the gateways that are replaced.
    pub(super) const fn original_env(mut self, names: &'static [&'static str]) -> Self {
        self.original_env = names;
        self
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
