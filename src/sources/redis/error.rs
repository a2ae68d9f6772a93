//! What can go wrong between this process and Redis, by whose fault it is, in words for a log line.

use std::io;

use crate::base::tls_roots::TrustError;
use crate::sources::relay;

/// Why Redis is away or cannot be used. The texts never hold a password.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The settings: the URL cannot be used. It is not shown, for what is wrong with it may be a
    /// password that stands in the wrong place.
    #[error("no Redis URL: {reason}; write redis://[user:password@]host[:6379][/database]")]
    BadUrl {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The settings: the certificates to trust cannot be read.
    #[error(transparent)]
    NobodyTrusted(#[from] TrustError),
    /// The settings: an attacker could name the master.
    #[error(
        "the sentinel {sentinel} has no TLS, so an attacker could name another master with TLS and a \
         certificate of its own"
    )]
    PlainSentinel {
        /// Host and port.
        sentinel: String,
    },
    /// The system: it gives no descriptor to wait on.
    #[error("cannot wait for Redis ({source}); check the limit on open files")]
    System {
        /// What the system said.
        source: io::Error,
    },
    /// The network or the server: nobody answers there.
    #[error(
        "cannot reach Redis at {server} ({source}); check its address, whether it has TLS, and that it runs"
    )]
    Unreachable {
        /// Host and port.
        server: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server, the network or the settings: TLS does not come about.
    #[error("no TLS with Redis at {server} ({reason}); check that TLS is on there, and the CA")]
    Tls {
        /// Host and port.
        server: String,
        /// What the TLS library said.
        reason: String,
    },
    /// The settings or the server: it answers and does not let us in.
    #[error("Redis at {server} refused {command} ({reason}); check user, password and database")]
    Refused {
        /// Host and port.
        server: String,
        /// What was asked.
        command: &'static str,
        /// The server's words.
        reason: String,
    },
    /// The server: what came is not what was asked for.
    #[error("Redis at {server} answers wrongly: {reason}")]
    Wrong {
        /// Host and port.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The sentinels: none of them says where the master is.
    #[error("no sentinel knows the master {master:?} (the last one: {reason})")]
    NoMaster {
        /// The master's name.
        master: String,
        /// Why the last one did not help.
        reason: String,
    },
    /// The sentinels: the server that they name is no master (yet, or any more).
    #[error("{server} is a {role} and not the master")]
    NotMaster {
        /// Host and port.
        server: String,
        /// What it says that it is.
        role: String,
    },
    /// The sentinels: another server is the master now.
    #[error("the sentinels name another master; leaving {server}")]
    Moved {
        /// Host and port of the one that was.
        server: String,
    },
    /// The server or the network: a connection that stood is gone.
    #[error("the connection to Redis was lost ({source})")]
    Lost {
        /// What the system said.
        source: io::Error,
    },
    /// The server or the network: a connection stands, and nothing comes back.
    #[error("Redis has not answered for {silent_ms} ms; giving this connection up")]
    Silent {
        /// For how long, milliseconds.
        silent_ms: u64,
    },
}

/// Why work on a connection ended.
pub(super) type Stop = relay::Stop<RedisError>;

impl From<RedisError> for Stop {
    fn from(error: RedisError) -> Self {
        Self::Bus(error)
    }
}
