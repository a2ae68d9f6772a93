//! What can go wrong between this process and NATS, by whose fault it is, in words for a log line.

use std::io;

use crate::sources::relay;

/// Why NATS is away or cannot be used. The texts never hold a password or a token.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The settings: the URL cannot be used.
    #[error("{url} is no NATS URL: {reason}; write nats://host:4222 in NATS_URL")]
    BadUrl {
        /// The URL, secrets hidden.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The network or the server: nobody answers there.
    #[error("cannot reach NATS at {url} ({source}); check NATS_URL, and that the server runs")]
    Unreachable {
        /// The URL, secrets hidden.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// The settings or the server: it answers and lets us not in.
    #[error(
        "no connection with NATS at {url} ({reason}); check user, password, token, credentials \
         and certificates"
    )]
    Refused {
        /// The URL, secrets hidden.
        url: String,
        /// What the server or the TLS library said.
        reason: String,
    },
    /// The settings: a file with credentials or certificates.
    #[error("cannot go to NATS: {source}; check the setting that names this file")]
    File {
        /// Which file, and what is wrong with it.
        source: io::Error,
    },
    /// The server or the network: a connection that stood is gone.
    #[error("the connection to NATS was lost")]
    Lost,
    /// The server or the network: a connection that stood has ended.
    #[error("the connection to NATS was lost ({reason})")]
    Ended {
        /// What the system or the server said.
        reason: String,
    },
    /// The server or the network: a connection stands, and nothing comes back.
    #[error("NATS has not answered for {silent_ms} ms; giving this connection up")]
    Silent {
        /// For how long, milliseconds.
        silent_ms: u64,
    },
    /// The system: no thread to ask the server from.
    #[error("no thread to watch NATS with ({source}); check the limit on processes")]
    NoThread {
        /// What the system said.
        source: io::Error,
    },
    /// The system: nothing to wait for NATS with.
    #[error("no poll to wait for NATS with ({source}); check the limit on open files")]
    NoPoll {
        /// What the system said.
        source: io::Error,
    },
    /// The server: this user may not do what a relay cannot do without.
    #[error("NATS does not let this user {what}; change the permissions of this user")]
    NotPermitted {
        /// What: to publish or to subscribe, and the subject.
        what: String,
        /// Whether no subject can be relayed without that.
        is_of_all: bool,
    },
    /// The server: JetStream said no, or nothing.
    #[error(
        "JetStream did not {action} ({reason}); check that nats-server runs with JetStream (-js) \
         and that this user may use it"
    )]
    JetStream {
        /// What was asked of it.
        action: String,
        /// What came back, or that nothing did.
        reason: String,
        /// Whether no subject can be relayed; `false`: that is known of one.
        is_of_all: bool,
    },
}

impl NatsError {
    /// JetStream is silent about one subject.
    pub(super) fn unanswered() -> Self {
        Self::JetStream {
            action: "answer about the stream of a subject".to_owned(),
            reason: "no answer".to_owned(),
            is_of_all: false,
        }
    }

    /// Whether no subject can be relayed on this connection.
    pub(super) fn is_of_all(&self) -> bool {
        match self {
            Self::JetStream { is_of_all, .. } | Self::NotPermitted { is_of_all, .. } => *is_of_all,
            _ => true,
        }
    }
}

/// Why work on a connection ended.
pub(super) type Stop = relay::Stop<NatsError>;

impl From<NatsError> for Stop {
    fn from(error: NatsError) -> Self {
        Self::Bus(error)
    }
}
