//! The errors between this process and Redis, by cause, worded for a log line.

use std::io;

use crate::{relay, server_words};
use weirgate_runtime::tls_roots::ClientTlsError;

/// Why Redis is away or cannot be used. The texts never hold a password.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The settings: the URL cannot be used. The text does not show the URL, because what is wrong with it may be a
    /// misplaced password.
    #[error(
        "no Redis URL: {0}; write redis://[user:password@]host[:6379][/database] or unix:///path"
    )]
    BadUrl(&'static str),
    /// The settings: the certificates to trust, or the client's own, cannot be read.
    #[error(transparent)]
    ClientTls(#[from] ClientTlsError),
    /// The settings: a sentinel has no TLS, so an attacker could name the master.
    #[error(
        "the sentinel {0} has no TLS, so an attacker could name another master with TLS and a \
         certificate of its own"
    )]
    PlainSentinel(String),
    /// The system: no file descriptor is left to wait on.
    #[error("cannot wait for Redis ({0}); check the limit on open files")]
    System(#[source] io::Error),
    /// The network or the server: nobody answers at the address.
    #[error(
        "cannot reach Redis at {server} ({source}); check its address, whether it has TLS, and that it runs"
    )]
    Unreachable {
        /// Host and port.
        server: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The server, the network or the settings: the TLS handshake failed.
    #[error("no TLS with Redis at {server} ({reason}); check that TLS is on there, and the CA")]
    Tls {
        /// Host and port.
        server: String,
        /// The error of the TLS library.
        reason: String,
    },
    /// The settings or the server: Redis answers and refuses a command.
    #[error(
        "Redis at {server} refused {command} ({reason}){}",
        advice(command, reason)
    )]
    Refused {
        /// Host and port.
        server: String,
        /// The refused command.
        command: &'static str,
        /// The server's words.
        reason: String,
    },
    /// The settings or the server: the key of the stream has a value of another type.
    #[error(
        "the key {key} of Redis at {server} is no stream ({reason}); check --stream and the database"
    )]
    NoStream {
        /// Host and port.
        server: String,
        /// The key.
        key: String,
        /// The server's words.
        reason: String,
    },
    /// The server: a response does not fit the command.
    #[error("Redis at {server} answers wrongly: {reason}")]
    Wrong {
        /// Host and port.
        server: String,
        /// The fault in the response.
        reason: String,
    },
    /// The sentinels: none says where the master is.
    #[error("no sentinel knows the master {master:?} (the last one: {reason})")]
    NoMaster {
        /// The master's name.
        master: String,
        /// Why the last sentinel did not help.
        reason: String,
    },
    /// The sentinels: the named server is not a master (yet, or any more).
    #[error("{server} is a {role} and not the master")]
    NotMaster {
        /// Host and port.
        server: String,
        /// The role in the server's response.
        role: String,
    },
    /// The sentinels, or the server: this server (host and port) has another role now, or another server is the master.
    #[error("{0} has another role now, or another server is the master; leaving it")]
    Moved(String),
    /// The server: it lacks entries of the stream that another server had.
    #[error(
        "Redis at {0} lacks entries of the stream that were read before: it is behind another server, or the stream was made \
         anew"
    )]
    Behind(String),
    /// The server: it is a replica that has yet to get entries of the stream that another server had.
    #[error(
        "Redis at {0} is a replica that has not yet got entries of the stream that were read before: waiting until it has \
         them"
    )]
    CatchingUp(String),
    /// The server or the network: a working connection is gone.
    #[error("the connection to Redis was lost ({0})")]
    Lost(#[source] io::Error),
    /// The server or the network: the connection is open, but nothing has come back for this many milliseconds.
    #[error("Redis has not answered for {0} ms; giving this connection up")]
    Silent(u64),
    /// The server or the network: messages come, and a subscription has not been confirmed for this many milliseconds.
    #[error(
        "Redis has not confirmed a subscription for {0} ms, though messages come; giving this connection up"
    )]
    Unconfirmed(u64),
}

impl RedisError {
    /// Whether another attempt may succeed: the server is away, is just starting, or takes no writes now.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) | Self::Silent(_) | Self::Unconfirmed(_) => {
                true
            }
            Self::Refused { reason, .. } => is_temporary(reason) || takes_no_writes_now(reason),
            _ => false,
        }
    }
}

/// Why work on a connection ended.
pub(super) type Stop = relay::Stop<RedisError>;

impl From<RedisError> for Stop {
    fn from(error: RedisError) -> Self {
        Self::Bus(error)
    }
}

/// Whether a refusal in these words is temporary: the server takes no commands now, but will later.
pub(super) fn is_temporary(words: &str) -> bool {
    ["LOADING", "BUSY", "MASTERDOWN"]
        .iter()
        .any(|code| words.starts_with(code))
}

/// Whether a refusal in these words is of writes alone, and passes without a change of the command: the disk or the memory of
/// the server is full, or its place among the others is changing.
fn takes_no_writes_now(words: &str) -> bool {
    let codes = ["MISCONF", "OOM", "READONLY", "NOREPLICAS", "CLUSTERDOWN"];
    codes.contains(&code_of(words))
}

/// Whether a server that refuses a command in these words refuses every command on this connection. All other refusals are of
/// the one command: if the disk is full, Redis refuses writes and `PING` (`MISCONF`), and goes on with the rest.
pub(super) fn is_of_connection(words: &str) -> bool {
    ["NOAUTH", "WRONGPASS", "DENIED", "ERR max number of clients"]
        .iter()
        .any(|code| words.starts_with(code))
}

/// Whether a refusal in these words is of the user or of the key, and not of a server that is not ready.
pub(super) fn is_of_user_or_key(words: &str) -> bool {
    let is_of_connection = is_of_connection(words);
    is_of_connection || ["NOPERM", "WRONGTYPE", "ERR"].contains(&code_of(words))
}

/// What an operator can do about a refusal of a command in these words; of most, the words say it.
pub(super) fn advice(command: &str, words: &str) -> &'static str {
    match (command, code_of(words)) {
        (_, "NOAUTH" | "WRONGPASS" | "NOPERM") | ("AUTH" | "SELECT", _) => {
            "; check user, password and database"
        }
        (_, "WRONGTYPE") => "; check the key and the database",
        (_, "MOVED" | "ASK") => "; the URL must name the node of the cluster that has the key",
        _ => "",
    }
}

/// The first of a server's words, which names the kind of an error.
fn code_of(words: &str) -> &str {
    words.split(' ').next().unwrap_or_default()
}

/// A server's words as [`server_words::shown`] cuts them, without a comma or blanks at the end: the text of an error goes on
/// after them.
pub(super) fn shown_trimmed(words: &str) -> String {
    server_words::shown(words)
        .trim_end_matches([' ', ','])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_writes_may_pass_and_one_of_the_user_or_the_command_does_not() {
        for (words, may_pass) in [
            ("LOADING Redis is loading the dataset in memory", true),
            ("MISCONF Errors writing to the AOF file", true),
            ("OOM command not allowed", true),
            (
                "READONLY You can't write against a read only replica.",
                true,
            ),
            ("NOREPLICAS Not enough good replicas to write.", true),
            ("CLUSTERDOWN Hash slot not served", true),
            ("MOVED 15891 h:7001", false),
            ("NOPERM this user has no permissions", false),
            ("WRONGTYPE Operation against a key", false),
            ("ERR The stream has exhausted the last possible ID", false),
        ] {
            let refused = RedisError::Refused {
                server: "h:1".into(),
                command: "XADD",
                reason: words.into(),
            };
            assert_eq!(refused.may_pass(), may_pass, "{words}");
        }
    }

    #[test]
    fn the_advice_fits_the_refusal() {
        let login = "; check user, password and database";
        let node = "; the URL must name the node of the cluster that has the key";
        for (command, words, expected) in [
            ("AUTH", "WRONGPASS invalid username-password pair", login),
            ("AUTH", "ERR invalid password", login),
            ("SELECT", "ERR DB index is out of range", login),
            ("the connection", "NOAUTH Authentication required.", login),
            ("XADD", "NOPERM this user has no permissions", login),
            ("the connection", "ERR max number of clients reached", ""),
            ("XADD", "OOM command not allowed", ""),
            ("XADD", "READONLY You can't write against a replica.", ""),
            ("XADD", "MISCONF Errors writing to the AOF file", ""),
            ("XADD", "NOREPLICAS Not enough good replicas to write.", ""),
            ("XADD", "CLUSTERDOWN Hash slot not served", ""),
            (
                "XADD",
                "ERR The stream has exhausted the last possible ID",
                "",
            ),
            (
                "XADD",
                "WRONGTYPE Operation against a key",
                "; check the key and the database",
            ),
            ("to read the stream", "MOVED 15891 h:7001", node),
        ] {
            assert_eq!(advice(command, words), expected, "{command}: {words}");
        }
    }

    #[test]
    fn a_servers_words_end_without_a_comma() {
        assert_eq!(shown_trimmed("ERR \u{1b}[31mno, \r\n"), r"ERR \u001b[31mno");
    }
}
