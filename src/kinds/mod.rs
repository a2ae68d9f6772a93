//! The gateways of this program: each put together in a folder of its own, and the list of them.
//!
//! | folder | has |
//! | --- | --- |
//! | `levels` | `weirgate levels`, and `weirgate demo`: the same on a simulated market |
//! | `trades`, `channels` | the gateways with tokens, on Redis; `channels` on NATS too; what both need is in `auth` and `reload` |
//! | `events` | the gateway between devices and HTTP services |
//! | `bus` | what several gateways need of a bus: which it is, and the settings of its source |
//!
//! `dialects` has what a client in a terminal knows of each.
//!
//! A folder has the gateway's rows of settings, its pages, and the function that puts feed, gateway,
//! source and pages together; the list has its [`GatewayKind`]. Called by `main`.

mod auth;
mod bus;
mod channels;
mod dialects;
mod events;
mod levels;
mod reload;
#[cfg(test)]
mod tests;
mod trades;

use crate::commands::Program;
use crate::run::GatewayKind;

/// Every gateway, in the order of `--help`; the first is the one that `weirgate health` asks where
/// none is named.
pub static GATEWAYS: &[GatewayKind] = &[
    levels::LEVELS,
    trades::TRADES,
    channels::CHANNELS,
    events::EVENTS,
    levels::DEMO,
];

/// The program.
pub static WEIRGATE: Program = Program {
    name: "weirgate",
    about: "One process between a message bus and WebSocket clients",
    start_with: START_WITH,
    gateways: GATEWAYS,
};

const START_WITH: &str = "\
Start with:
  weirgate demo            then open http://localhost:8000/
  weirgate levels          with NATS_URL set
  weirgate levels --check  to check the settings and the files that they name

Exit status: 0 after a signal, 1 after a failure, 2 for wrong settings.
WEIRGATE_GATEWAY names the subcommand if none is given.";
