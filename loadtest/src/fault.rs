//! What can go wrong in a measurement, split by whose fault it is.

use std::io;

/// A failed command: the exit code is 2 for [`Fault::Usage`], else 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The caller asked for something that makes no measurement.
    #[error("{0}")]
    Usage(String),
    /// A program that the measurement needs is not installed.
    #[error("{program} is missing: apt-get install {package}")]
    Missing {
        /// Its name on the search path.
        program: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// The server under test (or the limit) did not start, refused clients, or ended.
    #[error("server: {0}")]
    Server(String),
    /// NATS or Redis could not be reached or refused an operation.
    #[error("bus: {0}")]
    Bus(String),
    /// A system call of our own failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// SIGINT or SIGTERM came; child processes are ended on the way out.
    #[error("interrupted")]
    Interrupted,
    /// The measurement ran, and what was measured is wrong (a loss, a dropped reader).
    #[error("failed: {0}")]
    Failed(String),
}

/// Adds what was tried to an I/O error.
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
