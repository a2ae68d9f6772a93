//! From the parts of a gateway to a process that runs until a signal.
//!
//! | file | has |
//! | --- | --- |
//! | `kind` | a gateway as one value, with what a client in a terminal has to know of it |
//! | `gateway` | from feed, gateway and source to a running loop: the same for all of them |
//! | `common` | what every gateway is told, from its settings; which metric each limit is compared with |
//! | `prepared` | a gateway just before it listens, what can be asked before a start, and what a start would log |
//! | `process` | what every process does first, and says |
//! | `reload` | what is read again at SIGHUP, the log filter among it, and key files when they change |
//! | `systemd` | what systemd is told, where it started the process |
//! | `watches` | threads beside the loop: the end when the bus stays away, numbers in the log, freed memory |
//!
//! Knows no gateway: those of this program are put together in `kinds`, others may be anywhere
//! (`examples/ticker.rs`).

mod common;
mod gateway;
mod kind;
mod prepared;
mod process;
mod reload;
mod systemd;
mod watches;

use std::io;

use crate::listening::ListenAddr;
use crate::reactor::{BindError, ListenError};
use crate::settings::Checked;
use crate::telemetry::logging::LoggingError;

pub use self::common::CommonSettings;
pub use self::gateway::{Inputs, Listening, Parts};
pub use self::kind::{Dialect, GatewayKind, Print, TokenUse};
pub use self::prepared::{Prepared, Question, TIMEOUT_FLAG};
pub use self::process::say;
pub use self::reload::{Reload, Reloaded};
pub use self::watches::StatsLine;

/// Why a gateway ended without a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Us: logging was set up before.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// Settings: the address is taken, or is none of this machine's.
    #[error("cannot listen on {addr}: {error}{}{settings}", listen_hint(.error.kind()))]
    Listen {
        /// What was asked for.
        addr: ListenAddr,
        /// What the system said.
        error: io::Error,
        /// The settings that ask for it, behind a semicolon; may be empty.
        settings: String,
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
}

impl From<BindError> for RunError {
    fn from(error: BindError) -> Self {
        match error {
            // Such as an owner that this machine does not know: it stays so.
            BindError::Listen(ListenError { addr, error })
                if error.kind() == io::ErrorKind::InvalidInput =>
            {
                Self::Settings(format!(
                    "cannot listen on {addr}: {error}; see --unix-socket-owner"
                ))
            }
            BindError::Listen(ListenError { addr, error }) => Self::Listen {
                addr,
                error,
                settings: String::new(),
            },
            BindError::System(error) => Self::Loop(error),
        }
    }
}

/// What the system means.
fn listen_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "; another process listens there",
        io::ErrorKind::AddrNotAvailable => "; no address of this machine",
        io::ErrorKind::PermissionDenied => "; this user may not listen there",
        _ => "",
    }
}

impl RunError {
    /// Says which settings asked for an address that cannot be listened on.
    pub(crate) fn of_settings(self, checked: &Checked) -> Self {
        match self {
            Self::Listen { addr, error, .. } => {
                let is_admin = checked.admin_addr().as_ref() == Some(&addr);
                let flags: &[&str] = match addr {
                    _ if is_admin => &["admin-addr"],
                    ListenAddr::Tcp(_) => &["listen", "port"],
                    ListenAddr::Unix(_) => &["listen"],
                };
                let named: Vec<_> = flags.iter().map(|flag| checked.named(flag)).collect();
                let settings = format!("; see {}", named.join(" and "));
                Self::Listen {
                    addr,
                    error,
                    settings,
                }
            }
            error => error,
        }
    }

    /// The exit status: 2 for wrong settings, else 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            _ => 1,
        }
    }
}
