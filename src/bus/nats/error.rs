//! The errors between this process and NATS, each with its cause and a text for the log.

use std::io;

use crate::relay;
use crate::server_words::shown;
use weirgate_wire::base::{LogBudget, Now};

/// What to do if JetStream does not answer, or gives no other reason to do something.
pub(super) const JETSTREAM_ADVICE: &str =
    "check that nats-server runs with JetStream (-js) and that this user may use it";

/// What JetStream does not do while it is silent about a subject.
pub(super) const ANSWER: &str = "answer about the stream of a subject";

/// The reason why NATS is away or cannot be used. The doc of each variant begins with the party at fault. The texts
/// never hold a password or a token.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The settings: the URL cannot be used.
    #[error("{url} is not a NATS URL: {reason}; write nats://host:4222")]
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
    #[error("no connection with NATS at {url} ({reason}){}", advice(reason))]
    Refused {
        /// The URL, secrets hidden.
        url: String,
        /// The server's words, or what is wrong with its answer.
        reason: String,
    },
    /// The server, the network or the settings: the TLS library refuses the server, or the server refuses the client's
    /// certificate.
    #[error(
        "no TLS with NATS at {url} ({reason}); check that TLS is on there, the CA and the certificates"
    )]
    Tls {
        /// The URL, secrets hidden.
        url: String,
        /// The error of the TLS library.
        reason: String,
    },
    /// The settings or the server: a message is larger than the server accepts.
    #[error(
        "NATS at {url} takes messages of at most {bytes_max} bytes (max_payload), and {what} {bytes} bytes"
    )]
    TooLarge {
        /// The URL, secrets hidden.
        url: String,
        /// The limit of the server, bytes.
        bytes_max: usize,
        /// What is larger, with its verb.
        what: &'static str,
        /// Its size, bytes.
        bytes: usize,
    },
    /// The settings: a file with credentials or certificates.
    #[error("cannot go to NATS: {0}; check the setting that names this file")]
    File(#[source] io::Error),
    /// The server or the network: an established connection is gone, as a request without an answer shows. The reason is not
    /// known there.
    #[error("the connection to NATS was lost")]
    Lost,
    /// The server or the network: an established connection has ended, with the error of the system or the server's last
    /// words.
    #[error("the connection to NATS was lost ({0})")]
    Ended(String),
    /// The server or the network: the connection is open, and nothing has come back for this number of milliseconds.
    #[error("NATS has not answered for {0} ms; giving this connection up")]
    Silent(u64),
    /// The server or the network: messages come, and a subscription has not been confirmed for this number of milliseconds.
    #[error(
        "NATS has not confirmed a subscription for {0} ms, though messages come; giving this connection up"
    )]
    Unconfirmed(u64),
    /// The server: JetStream does not answer there, and answers at another server.
    #[error(
        "JetStream does not answer at this NATS server, and answers at another one; going there"
    )]
    ElsewhereOnly,
    /// The server: it is about to stop, and another server answers.
    #[error("this NATS server is about to stop (lame duck mode); going to another one")]
    LameDuck,
    /// The system: nothing to wait for NATS with.
    #[error("no poll to wait for NATS with ({0}); check the limit on open files")]
    NoPoll(#[source] io::Error),
    /// The server: this user lacks a permission needed for the relay.
    #[error(
        "NATS does not let this user {what}; change the permissions of this user (refused by the server)"
    )]
    NotPermitted {
        /// The refused action: to publish or to subscribe, and the subject.
        what: String,
        /// Whether every other request on this connection would fail too, so that no subject can be relayed.
        fails_all_requests: bool,
    },
    /// The server: JetStream refused or did not answer.
    #[error("JetStream did not {action} ({reason}); {advice}")]
    JetStream {
        /// The request.
        action: String,
        /// JetStream's error, or the lack of an answer.
        reason: String,
        /// What an operator can do.
        advice: &'static str,
        /// Whether every other request on this connection would fail too, so that no subject can be relayed.
        fails_all_requests: bool,
    },
    /// An administrator: the stream changes the subject before it stores messages.
    #[error(
        "the stream {stream} stores {subject} under another subject ({stored}): relay that one, with stream={stream}"
    )]
    StoredElsewhere {
        /// The stream.
        stream: String,
        /// The subject that is relayed.
        subject: String,
        /// The subjects of the stream's transform.
        stored: String,
    },
    /// An administrator: the stream has not, or no longer, a subject that is to be read from it.
    #[error(
        "the stream {stream} does not take the subject {subject}: add the subject to the stream"
    )]
    NotTaken {
        /// The stream.
        stream: String,
        /// The subject that is relayed.
        subject: String,
    },
    /// The server: most servers of a stream are away, or this server is cut off from them.
    #[error(
        "JetStream did not {action}: the stream {stream} has no leader that reaches most of its servers"
    )]
    NoLeader {
        /// The request.
        action: String,
        /// The stream.
        stream: String,
    },
    /// The settings or the server: there is no stream of this name. The connection is well.
    #[error("the stream {0} does not exist; make it: nats stream add {0} --subjects 'SUBJECT.>'")]
    NoSuchStream(String),
    /// The settings or the server: the messages of this stream are for one reader each. The connection is well.
    #[error(
        "the stream {0} is a work queue (retention: workqueue), where each message is for one reader; read a stream \
         with the retention limits that has it as a source"
    )]
    WorkQueue(String),
    /// The server: nobody confirmed a message, which may be stored.
    #[error(
        "nobody confirmed the message on {0}; it may be stored: a stream with no_ack confirms nothing, and no stream may \
         have the subject"
    )]
    NotConfirmed(String),
    /// The server: the stream of a subject refused a message.
    #[error("JetStream did not store the message on {subject} ({reason})")]
    NotStored {
        /// The subject.
        subject: String,
        /// JetStream's error.
        reason: String,
    },
    /// The server: no stream stores messages of a subject.
    #[error(
        "JetStream did not store the message on {subject} ({reason}); check that nats-server runs \
         with JetStream (-js) and that this user may use it"
    )]
    NoStream {
        /// The subject.
        subject: String,
        /// Why not.
        reason: &'static str,
    },
}

impl NatsError {
    /// Whether another attempt may succeed: the server is away, or starts.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Lost
                | Self::Ended(_)
                | Self::Silent(_)
                | Self::Unconfirmed(_)
        )
    }

    /// The error for a silence of JetStream about a subject.
    pub(super) fn unanswered() -> Self {
        Self::JetStream {
            action: ANSWER.to_owned(),
            reason: "no answer".to_owned(),
            advice: JETSTREAM_ADVICE,
            fails_all_requests: false,
        }
    }

    /// The error for a refused permission without which nothing works; `verb` is `publish` or `subscribe`.
    pub(super) fn not_permitted(verb: &str, subject: &str) -> Self {
        Self::NotPermitted {
            what: format!("{verb} to {subject}"),
            fails_all_requests: true,
        }
    }

    /// The error for a refused subscription to the deliver subject of a consumer.
    pub(super) fn refused(subject: &str) -> Self {
        Self::NotPermitted {
            what: format!("subscribe to {subject}"),
            fails_all_requests: false,
        }
    }

    /// Whether every other request on this connection would fail too, so that no subject can be relayed.
    pub(super) fn fails_all_requests(&self) -> bool {
        match self {
            Self::JetStream {
                fails_all_requests, ..
            }
            | Self::NotPermitted {
                fails_all_requests, ..
            } => *fails_all_requests,
            Self::NoLeader { .. } | Self::StoredElsewhere { .. } | Self::NotTaken { .. } => false,
            _ => true,
        }
    }

    /// Whether the connection is kept: another one would find the same.
    pub(super) fn keeps_connection(&self) -> bool {
        matches!(self, Self::NoSuchStream(_) | Self::WorkQueue(_))
    }
}

/// The reason for the end of work on a connection.
pub(super) type Stop = relay::Stop<NatsError>;

impl From<NatsError> for Stop {
    fn from(error: NatsError) -> Self {
        Self::Bus(error)
    }
}

/// The limit on log lines of a source, a second.
pub(super) const LINES_PER_SECOND: u32 = 5;

/// What an operator can do about a connection that the server refuses in these words; of most, the words say it.
fn advice(words: &str) -> &'static str {
    let words = words.to_ascii_lowercase();
    let has = |part| words.contains(part);
    if has("maximum") && has("connections") {
        "; raise max_connections, or end other connections"
    } else if words.ends_with(" port") {
        "; check the port of the URL: clients have another one (4222)"
    } else if has("timeout") {
        // `Authentication Timeout`: the server gave up a slow log-in.
        ""
    } else if has("authorization") || has("authentication") {
        "; check user, password, token and credentials"
    } else {
        ""
    }
}

/// Logs an error of the server that belongs to nothing else.
pub(super) fn log_error(lines: &mut LogBudget, now: Now, words: &str) {
    if let Some(lines_left_out) = lines.line(now) {
        tracing::warn!(
            error = shown(words),
            lines_left_out,
            "nats-server reported an error"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_fits_the_refusal() {
        let login = "; check user, password, token and credentials";
        let connections = "; raise max_connections, or end other connections";
        let port = "; check the port of the URL: clients have another one (4222)";
        for (words, expected) in [
            ("Authorization Violation", login),
            ("User Authentication Expired", login),
            ("Account Authentication Expired", login),
            ("maximum connections exceeded", connections),
            ("Maximum Account Active Connections Exceeded", connections),
            ("attempted to connect to leaf node port", port),
            ("Attempted To Connect To Route Port", port),
            ("Authentication Timeout", ""),
            (
                "Connection throttling is active. Please try again later.",
                "",
            ),
            ("it did not finish the handshake in time", ""),
            ("what answers there is not a NATS server", ""),
        ] {
            let refused = NatsError::Refused {
                url: "nats://h:1".to_owned(),
                reason: words.to_owned(),
            };
            let text = format!("no connection with NATS at nats://h:1 ({words}){expected}");
            assert_eq!(refused.to_string(), text);
        }
    }
}
