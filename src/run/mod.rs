//! Puts source, feed, hub and reactor together from resolved settings, and runs them.
//!
//! | file | has |
//! | --- | --- |
//! | `process` | what every process does first, and says |
//! | `gateway` | from feed, gateway and source to a running loop: the same for all of them |
//! | `auth` | who may connect: keys, and the table of who may subscribe to what |
//! | `bus_away` | the end when the bus stays away, where that is asked for |
//! | `channels` | what `weirgate channels` is made of |
//! | `events` | what `weirgate events` is made of |
//! | `trades` | what `weirgate trades` is made of |
//! | `redis` | the Redis source from settings |
//! | `stats_line` | the numbers that a gateway logs of itself |
//! | `levels` | what `weirgate levels` and `weirgate demo` are made of |
//! | `systemd` | what systemd is told, where it started the process |

mod auth;
mod bus_away;
mod channels;
mod events;
mod gateway;
mod levels;
mod process;
#[cfg(feature = "redis")]
mod redis;
mod stats_line;
mod systemd;
mod trades;

use std::io;
use std::net::SocketAddr;

use crate::telemetry::logging::LoggingError;

pub use self::auth::acl_text;
pub use self::channels::channels;
pub use self::events::events;
pub use self::levels::{demo, levels};
pub use self::trades::trades;

/// Why a gateway ended without a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Us: logging was set up before.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// Settings: the address is taken, or is none of this machine's.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Us: a thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Us: the poll failed.
    #[error("the event loop failed: {0}")]
    Loop(io::Error),
    /// The bus: away for longer than the settings allow.
    #[error("the bus was away for {limit_s} s (--bus-away-exit-s)")]
    BusAway {
        /// What the settings allow.
        limit_s: u64,
    },
    /// Settings: a file that they name, or an address, is no good.
    #[error("{0}")]
    Settings(String),
    /// Settings: the gateway needs a source that is not in this build.
    #[error("this build has no {0} source")]
    NotBuilt(&'static str),
}

impl RunError {
    /// The exit status: 2 for wrong settings, else 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            _ => 1,
        }
    }
}
