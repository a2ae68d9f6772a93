//! The faults of a measurement, by cause.

use std::io;

/// A failed command: the exit code is 2 for [`Fault::Usage`], else 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The caller requested an impossible measurement.
    #[error("{0}")]
    Usage(String),
    /// A necessary program is not installed.
    #[error("{program} is missing: apt-get install {package}")]
    Missing {
        /// The name on the search path.
        program: &'static str,
        /// The Debian package of the program.
        package: &'static str,
    },
    /// The server under test (or the limit) did not start, refused clients, or ended.
    #[error("server: {0}")]
    Server(String),
    /// NATS or Redis could not be reached or refused an operation.
    #[error("bus: {0}")]
    Bus(String),
    /// A system call of loadtest failed.
    #[error("{what}: {source}")]
    Io {
        /// The attempted operation.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// SIGINT or SIGTERM came; child processes are ended on the way out.
    #[error("interrupted")]
    Interrupted,
    /// The measurement ran with a wrong result (a loss, a dropped reader).
    #[error("failed: {0}")]
    Failed(String),
}

/// Adds the attempted operation to an I/O error.
pub(crate) trait Tried<T> {
    /// Turns the error into [`Fault::Io`] with `what` in front.
    fn tried(self, what: impl Into<String>) -> Result<T, Fault>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl Into<String>) -> Result<T, Fault> {
        self.map_err(|source| Fault::Io {
            what: what.into(),
            source,
        })
    }
}
