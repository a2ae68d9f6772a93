//! The gateways, each in a folder with its feed, its client side, its settings and its start; and the list of them.
//!
//! | file of a folder | has |
//! | --- | --- |
//! | `feed` | from bytes of the bus to publications: the bus side of the contract |
//! | `mod`, or `client` | the client side of the contract: permission to connect, first messages, requests |
//! | `settings` | the rows of the settings table that only this gateway has |
//! | `metrics` | the metrics that only this gateway has |
//! | `start` | joins feed, gateway, source and pages; the entry in the list |
//!
//! `shared` has what several gateways use. Feeds and client sides are pure: they know no socket, broker or HTTP, and the
//! caller passes the time.

#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_macros,
        clippy::disallowed_methods,
        clippy::disallowed_types
    )
)]

/// Makes a constant of each row, and the list of all: metrics whose values come from a gateway.
macro_rules! metric_names {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        use weirgate_server::telemetry::{MetricKind, MetricName};

        $(
            #[doc = $help]
            pub(in crate::gateways) const $id: MetricName =
                MetricName::of_gateway(MetricKind::$kind, $name, &[$($label),*], $help);
        )*

        /// All metrics of this table.
        pub(in crate::gateways) const ALL: &[MetricName] = &[$($id),*];
    };
}

pub mod channels;
pub mod events;
pub mod levels;
mod shared;
#[cfg(test)]
mod tests;
pub mod trades;

pub use shared::access::AccessStats;
pub use shared::counts::Count;
pub use shared::no_feed::NoFeed;

use crate::commands::Program;
use weirgate_server::telemetry::MetricName;

/// The metrics of single contracts, beside those of [`MetricName::ALL`].
pub const METRICS: [&[MetricName]; 4] = [
    shared::metrics::ALL,
    trades::metrics::ALL,
    channels::metrics::ALL,
    events::metrics::ALL,
];

/// The program.
pub static WEIRGATE: Program = Program {
    name: "weirgate",
    about: "One process between a message bus and WebSocket clients",
    start_with: START_WITH,
    most_used: channels::start::CHANNELS.name,
    gateways: &[
        levels::start::LEVELS,
        trades::start::TRADES,
        channels::start::CHANNELS,
        events::start::EVENTS,
        levels::start::DEMO,
    ],
};

const START_WITH: &str = "\
Start with:
  weirgate demo                                  open http://localhost:8000/
  weirgate channels --bus nats://127.0.0.1:4222  or redis://127.0.0.1:6379
  weirgate channels --acl roles.json             the names of each role
  weirgate channels --require-auth               tokens, with JWT_SECRET set
  weirgate channels --check                      check settings and files

Exit status: 0 after a signal, 1 after a failure, 2 for wrong settings.
WEIRGATE_GATEWAY names the subcommand if none is given.";
