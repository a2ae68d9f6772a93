//! The gateways of this program: each in a file or folder of its own, and the list of all.
//!
//! | module | has |
//! | --- | --- |
//! | `levels` | `weirgate levels`, and `weirgate demo`: the same on a simulated market |
//! | `trades`, `channels` | the gateways with tokens, on Redis; `channels` on NATS too; common code in `auth` |
//! | `events` | the gateway between devices and HTTP services |
//! | `bus`, `reading` | the bus of several gateways: its kind and address, and its source |
//!
//! `dialects` has the protocol of each gateway for a client in a terminal.
//!
//! A module has the gateway's settings and pages, and the function that joins feed, gateway, source and
//! pages; the list has its [`GatewayKind`]. Called by `main`.

mod auth;
mod bus;
mod channels;
mod dialects;
mod events;
mod levels;
mod reading;
#[cfg(test)]
mod tests;
mod trades;

use crate::run::{GatewayKind, Program};

/// Every gateway, in the order of `--help`. `weirgate health` asks the first unless told otherwise.
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
  weirgate demo                                  then open http://localhost:8000/
  weirgate channels --bus nats://127.0.0.1:4222  or redis://127.0.0.1:6379
  weirgate channels --acl roles.json             with the names of each role
  weirgate channels --require-auth               with JWT_SECRET set, for clients with a token
  weirgate channels --check                      to check the settings and their files

Exit status: 0 after a signal, 1 after a failure, 2 for wrong settings.
WEIRGATE_GATEWAY names the subcommand if none is given.";
