//! Puts source, feed, hub and reactor together from resolved settings, and runs them.
//!
//! | file | has |
//! | --- | --- |
//! | `process` | what every process does first, and says |
//! | `gateway` | from feed, gateway and source to a running loop: the same for all of them |
//! | `levels` | what `weirgate levels` and `weirgate demo` are made of |

mod gateway;
mod levels;
mod process;

use std::io;
use std::net::SocketAddr;

use crate::telemetry::logging::LoggingError;

pub use self::levels::{demo, levels};

/// Why a gateway ended without a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Settings: `RUST_LOG` cannot be read.
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
    /// Settings: the gateway needs a source that is not in this build.
    #[error("this build has no {0} source")]
    NotBuilt(&'static str),
}
