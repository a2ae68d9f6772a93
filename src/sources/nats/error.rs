//! The errors between this process and NATS, each with its cause and a text for the log.

use std::io;

use crate::sources::relay;

/// The reason why NATS is away or cannot be used. The texts never hold a password or a token.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The settings: the URL cannot be used.
    #[error("{url} is no NATS URL: {reason}; write nats://host:4222")]
    BadUrl {
        /// The URL, secrets hidden.
        url: String,
        /// The fault of the URL.
        reason: &'static str,
    },
    /// The network or the server: nobody answers there.
    #[error("cannot reach NATS at {url} ({source}); check {setting}, and that the server runs")]
    Unreachable {
        /// The URL, secrets hidden.
        url: String,
        /// The setting of the URL.
        setting: String,
        /// The system's error.
        source: io::Error,
    },
    /// The settings or the server: the server answers and refuses the connection.
    #[error(
        "no connection with NATS at {url} ({reason}); check user, password, token, credentials \
         and certificates"
    )]
    Refused {
        /// The URL, secrets hidden.
        url: String,
        /// The error of the server or of the TLS library.
        reason: String,
    },
    /// The settings: a file with credentials or certificates.
    #[error("cannot go to NATS: {source}; check the setting that names this file")]
    File {
        /// The file, and its fault.
        source: io::Error,
    },
    /// The server or the network: an established connection is gone.
    #[error("the connection to NATS was lost")]
    Lost,
    /// The server or the network: an established connection has ended.
    #[error("the connection to NATS was lost ({reason})")]
    Ended {
        /// The error of the system or of the server.
        reason: String,
    },
    /// The server or the network: the connection is open, and nothing comes back.
    #[error("NATS has not answered for {silent_ms} ms; giving this connection up")]
    Silent {
        /// The length of the silence, milliseconds.
        silent_ms: u64,
    },
    /// The system: no thread to ask the server from.
    #[error("no thread to watch NATS with ({source}); check the limit on processes")]
    NoThread {
        /// The system's error.
        source: io::Error,
    },
    /// The system: nothing to wait for NATS with.
    #[error("no poll to wait for NATS with ({source}); check the limit on open files")]
    NoPoll {
        /// The system's error.
        source: io::Error,
    },
    /// The server: this user lacks a permission needed for the relay.
    #[error("NATS does not let this user {what}; change the permissions of this user")]
    NotPermitted {
        /// The refused action: to publish or to subscribe, and the subject.
        what: String,
        /// Whether no subject can be relayed without the permission.
        is_of_all: bool,
    },
    /// The server: JetStream refused or did not answer.
    #[error(
        "JetStream did not {action} ({reason}); check that nats-server runs with JetStream (-js) \
         and that this user may use it"
    )]
    JetStream {
        /// The request.
        action: String,
        /// JetStream's error, or the lack of an answer.
        reason: String,
        /// Whether no subject can be relayed; `false`: a single subject is known to be affected.
        is_of_all: bool,
    },
    /// The server: no stream stores messages of a subject, or the stream does not answer.
    #[error(
        "JetStream did not store the message on {subject} ({reason}); check that nats-server runs \
         with JetStream (-js) and that this user may use it"
    )]
    NoStream {
        /// The subject.
        subject: String,
        /// Which of the two.
        reason: &'static str,
    },
}

impl NatsError {
    /// Whether another attempt may succeed: the server is away, or starts.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Lost | Self::Ended { .. } | Self::Silent { .. }
        )
    }

    /// The error for a silence of JetStream about a subject.
    pub(super) fn unanswered() -> Self {
        Self::JetStream {
            action: "answer about the stream of a subject".to_owned(),
            reason: "no answer".to_owned(),
            is_of_all: false,
        }
    }

    /// The error for a refused permission without which nothing works; `verb` is `publish` or
    /// `subscribe`.
    pub(super) fn not_permitted(verb: &str, subject: &str) -> Self {
        Self::NotPermitted {
            what: format!("{verb} to {subject}"),
            is_of_all: true,
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

/// The reason for the end of work on a connection.
pub(super) type Stop = relay::Stop<NatsError>;

impl From<NatsError> for Stop {
    fn from(error: NatsError) -> Self {
        Self::Bus(error)
    }
}
