//! From the parts of a gateway to a process that runs until a signal.
//!
//! | file | has |
//! | --- | --- |
//! | `gateway` | the parts of a gateway, and the order of a start: the same for every gateway |
//! | `common` | the settings of every gateway |
//! | `near_limits` | the limits with their present values, for the operator's page |
//! | `prepared` | a gateway just before listening, its run, and the checks before a start |
//! | `notices` | the warnings and errors that a check logs |
//! | `process`, `address_space` | the first steps of every process, and the limits of the system |
//! | `listening` | the addresses of a gateway that listens, for people and for the log |
//! | `cpus` | the CPUs of the loop and of the bus thread |
//! | `reload` | reads files again, at SIGHUP or after a change |
//! | `log_filter_file`, `revoked_file`, `secret_files`, `tls` | the parts that are read again |
//! | `files`, `fingerprints` | reads a file of the settings; detects its changes |
//! | `early_signals` | what signals do before the loop handles them |
//! | `watchdog` | the end of a process whose loop hangs, or does not take a stop signal |
//! | `watches` | other threads beside the loop: the end when the bus stays away, numbers in the log |
//! | `systemd`, `freed_memory` | notifications to systemd; returns memory to the system |
//!
//! Knows no gateway: the gateways of this program are assembled in their folders, and a gateway of another program
//! may be assembled anywhere (`examples/ticker.rs`).

mod address_space;
mod common;
mod cpus;
mod early_signals;
pub mod files;
mod fingerprints;
mod freed_memory;
mod gateway;
mod listening;
mod log_filter_file;
mod near_limits;
mod notices;
mod prepared;
mod process;
mod reload;
mod revoked_file;
mod secret_files;
mod systemd;
mod tls;
mod watchdog;
mod watches;

use std::io;

use crate::listening::ListenAddr;
use crate::reactor::{BindError, ListenError};
use crate::settings::{Checked, ListenSettings, flag};
use crate::telemetry::logging::LoggingError;

pub use self::common::CommonSettings;
pub use self::early_signals::{default_signals, stop_signals_are_taken};
pub use self::fingerprints::Fingerprints;
pub use self::gateway::{Inputs, Parts};
pub use self::listening::Listening;
pub(crate) use self::prepared::alone;
pub use self::prepared::{Prepare, Prepared, StartQuestion};
pub use self::process::{first_steps, room_for_services};
pub(crate) use self::reload::start_reloads_of_supervisor;
pub use self::reload::{Reload, Reloaded};
pub(crate) use self::revoked_file::Cuts;
pub(crate) use self::systemd::notify;
pub use self::tls::ClientTls;
pub use crate::telemetry::logging::say;

/// The reason why the process ends without a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// weirgate: logging was set up before.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// Settings: the address is in use, or not an address of this machine.
    #[error("cannot listen on {addr}: {error}{}{settings}", listen_hint(.error.kind()))]
    Listen {
        /// The address in the settings.
        addr: ListenAddr,
        /// The error of the system.
        error: io::Error,
        /// The settings with the address, after a semicolon; may be empty.
        settings: String,
    },
    /// weirgate: a thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// weirgate: the poll failed.
    #[error("the event loop failed: {0}")]
    Loop(io::Error),
    /// The bus: away for longer than allowed by the settings.
    #[error("the bus was away for {limit_s} s (--bus-away-exit-s)")]
    BusAway {
        /// The allowed time, seconds.
        limit_s: u64,
    },
    /// One of several processes could not start; its log has the reason.
    #[error("a process could not start; its lines in the log say why")]
    Processes {
        /// The exit status of the process.
        status: u8,
    },
    /// Settings: a file or an address in the settings is not valid.
    #[error("{0}")]
    Settings(String),
}

impl From<BindError> for RunError {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Listen(ListenError { addr, error }) => Self::listen(&addr, error),
            BindError::System(error) => Self::Loop(error),
        }
    }
}

/// Explains the error of the system.
fn listen_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "; another process listens there",
        io::ErrorKind::AddrNotAvailable => "; no address of this machine",
        io::ErrorKind::PermissionDenied => "; this user may not listen there",
        _ => "",
    }
}

impl RunError {
    /// The error of an address that cannot be listened on.
    pub(crate) fn listen(addr: &ListenAddr, error: io::Error) -> Self {
        match error.kind() {
            // For example an owner that this machine does not know: a retry cannot help.
            io::ErrorKind::InvalidInput => Self::Settings(format!(
                "cannot listen on {addr}: {error}; see --unix-socket-owner"
            )),
            _ => Self::Listen {
                addr: addr.clone(),
                error,
                settings: String::new(),
            },
        }
    }

    /// Adds the settings to the error of an address that cannot be listened on.
    pub(crate) fn of_settings(self, checked: &Checked) -> Self {
        match self {
            Self::Listen { addr, error, .. } => {
                let admin_addr = checked.get::<ListenSettings>().admin_addr;
                let is_admin = admin_addr.as_ref() == Some(&addr);
                let flags: &[&str] = match addr {
                    _ if is_admin => &[flag!("admin-addr")],
                    ListenAddr::Tcp(_) => &[flag!("listen"), flag!("port")],
                    ListenAddr::Unix(_) => &[flag!("listen")],
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
            Self::Processes { status } => *status,
            _ => 1,
        }
    }
}
