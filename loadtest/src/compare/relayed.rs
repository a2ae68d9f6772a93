//! The common task of the contestants: the gateway, the bus, the subject of the messages, and the requests of clients.

use crate::bus::Bus;
use crate::fault::Fault;
use crate::launch::{self, BusKind, LimitSettings, Program};
use crate::limit::Gateway;
use crate::publish::Publisher;

use super::CompareArgs;

/// What a gateway without endpoints is asked, and the channel or subject that answers.
struct Words {
    /// Path of the WebSocket.
    path: &'static str,
    subscribe: &'static str,
    subject: &'static str,
}

/// The trades gateway.
const TRADES: Words = Words {
    path: "/",
    subscribe: r#"{"action":"subscribe","symbols":["S0"]}"#,
    subject: "channel:trade:S0",
};

/// The channels gateway on Redis.
const CHANNELS: Words = Words {
    path: "/ws",
    subscribe: r#"{"action":"subscribe","channels":["market:tick:S0"]}"#,
    subject: "market:tick:S0",
};

/// The channels gateway on NATS.
const SUBJECTS: Words = Words {
    path: "/ws",
    subscribe: r#"{"action":"subscribe","channels":["market.tick.S0"]}"#,
    subject: "market.tick.S0",
};

/// A gateway on a bus.
#[derive(Clone, Debug)]
pub(super) struct Relayed {
    pub(super) gateway: Gateway,
    pub(super) bus: Bus,
    /// Path of the WebSocket.
    pub(super) path: String,
    /// Subject or channel of all messages.
    pub(super) subject: String,
    /// The request of a client, and the number of messages up to the response.
    pub(super) subscribe: Option<(String, u64)>,
}

/// Welcome and response.
const ANSWERS_PER_CLIENT: u64 = 2;

impl Relayed {
    /// By the arguments; a [`Fault::Usage`] if the gateway does not read from the bus.
    pub(super) fn of(args: &CompareArgs) -> Result<Self, Fault> {
        let bus = args.bus.unwrap_or(match args.gateway {
            Gateway::Levels => Bus::Nats,
            Gateway::Channels | Gateway::Trades => Bus::Redis,
        });
        let words = match (args.gateway, bus) {
            (Gateway::Levels, Bus::Nats | Bus::Jetstream) => None,
            (Gateway::Channels, Bus::Nats) => Some(&SUBJECTS),
            (Gateway::Channels, Bus::Redis) => Some(&CHANNELS),
            (Gateway::Trades, Bus::Redis) => Some(&TRADES),
            (gateway, bus) => {
                return Err(Fault::Usage(format!(
                    "a gateway of {gateway:?} does not read from {bus:?}"
                )));
            }
        };
        let of = |part: fn(&Words) -> &'static str, usual| words.map_or(usual, part).to_owned();
        let path = args.path.clone();
        let subject = args.subject.clone();
        if subject.is_some() && words.is_some() {
            return Err(Fault::Usage("--subject is for levels".into()));
        }
        let subject = subject.unwrap_or_else(|| of(|w| w.subject, "market.flow"));
        Ok(Self {
            gateway: args.gateway,
            bus,
            path: path.unwrap_or_else(|| of(|w| w.path, "/ws/stream")),
            subject,
            subscribe: words.map(|words| (words.subscribe.to_owned(), ANSWERS_PER_CLIENT)),
        })
    }

    /// Starts a server on a bus.
    pub(super) fn server(&self, command: &str, url: &str) -> Result<Program, Fault> {
        match self.gateway {
            Gateway::Levels => launch::server(command, url),
            Gateway::Channels | Gateway::Trades => launch::server_on(command, self.bus.kind(), url),
        }
    }

    /// Starts a limit on a bus.
    pub(super) fn limit(
        &self,
        url: &str,
        threads: u8,
        batched: bool,
        tls: bool,
    ) -> Result<Program, Fault> {
        let subject = match self.gateway {
            // As weirgate: a pattern for all symbols.
            Gateway::Trades => "channel:trade:*",
            Gateway::Levels | Gateway::Channels => &self.subject,
        };
        launch::limit(&LimitSettings {
            bus: self.bus,
            url,
            subject,
            gateway: self.gateway,
            threads,
            batched,
            tls,
        })
    }

    /// Connects a publisher of the gateway's messages.
    pub(super) fn publisher(&self, url: &str, bytes: usize) -> Result<Publisher, Fault> {
        let publisher = Publisher::connect(url, &self.subject, bytes)?;
        Ok(match self.gateway {
            Gateway::Trades => publisher.of_trades(),
            Gateway::Levels | Gateway::Channels => publisher,
        })
    }

    /// Starts a bus; returns the program and the URL.
    pub(super) fn start_bus(&self) -> Result<(Program, String), Fault> {
        BusKind::start(self.bus.kind())
    }
}
