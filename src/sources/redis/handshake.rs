//! The log-in on a connection, and the check of the server's role. A second connection beside a silent
//! connection only logs in.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::RedisError;
use super::resp::Value;
use super::settings::RedisEndpoint;
use crate::sources::outage;
use crate::sources::probe::Found;
use crate::sources::socket::Waiter;

/// The name that the server's client list shows.
const CLIENT_NAME: &str = "weirgate";

/// Sends user and password, selects the database, and checks that the server takes commands. All
/// commands are sent at once, for a single round trip.
pub(super) fn log_in(
    connection: &mut Connection<'_>,
    endpoint: &RedisEndpoint,
    until: Instant,
) -> Result<(), RedisError> {
    let password = endpoint.password.as_deref();
    let database = endpoint.database.to_string();
    let mut commands: Vec<&[&str]> = Vec::new();
    let with_user = endpoint
        .username
        .as_deref()
        .map(|user| ["AUTH", user, password.unwrap_or("")]);
    let without_user = password.map(|password| ["AUTH", password]);
    match (&with_user, &without_user) {
        (Some(auth), _) => commands.push(auth),
        (None, Some(auth)) => commands.push(auth),
        (None, None) => {}
    }
    commands.push(&["PING"]);
    let select = ["SELECT", &database];
    if endpoint.database != 0 {
        commands.push(&select);
    }
    commands.push(&["CLIENT", "SETNAME", CLIENT_NAME]);

    let answers = connection.ask(&commands, until)?;
    for (command, answer) in commands.iter().zip(&answers) {
        if let Value::Error(words) = answer {
            judge(connection.server(), command[0], words)?;
        }
    }
    match answers.len() < commands.len() {
        true => Err(ended(connection)),
        false => Ok(()),
    }
}

/// Checks that the server is a master.
pub(super) fn check_role(
    connection: &mut Connection<'_>,
    until: Instant,
) -> Result<(), RedisError> {
    let server = connection.server().to_owned();
    let answers = connection.ask(&[&["ROLE"]], until)?;
    let role = match answers.into_iter().next() {
        Some(Value::Array(items)) => items.into_iter().next(),
        Some(Value::Error(words)) => {
            let reason = shown(&words);
            tracing::warn!(
                server,
                reason,
                "this user may not ask a Redis server for its role (+role)"
            );
            return Ok(());
        }
        _ => None,
    };
    match role {
        Some(Value::Bulk(role)) if role == b"master" => Ok(()),
        Some(Value::Bulk(role)) => Err(RedisError::NotMaster {
            server,
            role: shown(&String::from_utf8_lossy(&role)),
        }),
        _ => Err(connection.wrong("it says no role".into())),
    }
}

/// Returns an error if the refusal of `command` makes the connection useless.
fn judge(server: &str, command: &str, words: &str) -> Result<(), RedisError> {
    let refused = |command, reason| {
        let server = server.to_owned();
        Err(RedisError::Refused {
            server,
            command,
            reason,
        })
    };
    match command {
        "AUTH" if needs_no_password(words) => {
            tracing::warn!(server, "Redis asks for no password, but one is set here");
            Ok(())
        }
        // A server that does not know the command repeats the arguments, which hold the password.
        "AUTH" => refused(
            "AUTH",
            shown(words.split("with args").next().unwrap_or_default()),
        ),
        // A user without the right to ping may still subscribe, and some busy servers take subscriptions too.
        "PING" if is_temporary(words) || words.starts_with("NOPERM") => Ok(()),
        "PING" => refused("the connection", shown(words)),
        "SELECT" => refused("SELECT", shown(words)),
        // The connection works without a name.
        _ => Ok(()),
    }
}

fn needs_no_password(words: &str) -> bool {
    words.contains("without any password configured") || words.contains("no password is set")
}

/// Whether the server takes no commands now, but will later.
pub(super) fn is_temporary(words: &str) -> bool {
    ["LOADING", "BUSY", "MASTERDOWN"]
        .iter()
        .any(|code| words.starts_with(code))
}

/// A server's words, fit for a log line.
pub(super) fn shown(words: &str) -> String {
    outage::shown(words).trim_end_matches([' ', ',']).to_owned()
}

fn ended(connection: &Connection<'_>) -> RedisError {
    RedisError::Unreachable {
        server: connection.server().to_owned(),
        source: io::Error::new(ErrorKind::UnexpectedEof, "it ended the connection"),
    }
}

/// The time that the second connection may take to be made, and again to log in. Meanwhile neither the
/// silent connection nor the watch over the sentinels is read.
const TIMEOUT: Duration = Duration::from_millis(250);

/// The second connection beside a silent connection: the same server, and the means to connect. Logs in,
/// and subscribes to nothing.
pub(super) struct Second<'a> {
    pub(super) waiter: &'a mut Waiter,
    pub(super) tls: Option<&'a Arc<ClientConfig>>,
    pub(super) endpoint: RedisEndpoint,
}

impl Second<'_> {
    pub(super) fn ask(&mut self) -> Found {
        match self.log_in() {
            // A refusal is an answer too.
            Ok(()) | Err(RedisError::Refused { .. }) => Found::Answer,
            Err(RedisError::Unreachable { source, .. })
                if source.kind() == ErrorKind::ConnectionRefused =>
            {
                Found::Nobody
            }
            Err(error) => {
                tracing::debug!(%error, "a second connection is not answered either");
                Found::Silence
            }
        }
    }

    fn log_in(&mut self) -> Result<(), RedisError> {
        let mut connection = Connection::open(self.waiter, &self.endpoint, self.tls, TIMEOUT)?;
        log_in(&mut connection, &self.endpoint, Instant::now() + TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_password_is_not_shown() {
        let words = "ERR unknown command `AUTH`, with args beginning with: `me`, `secret`, ";
        let error = judge("h:1", "AUTH", words).unwrap_err().to_string();
        assert!(
            error.contains("unknown command `AUTH`)") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn only_what_stands_in_the_way_is_an_error() {
        for (command, words, is_good) in [
            ("AUTH", "WRONGPASS invalid username-password pair", false),
            (
                "AUTH",
                "ERR AUTH <password> called without any password configured",
                true,
            ),
            ("PING", "NOAUTH Authentication required.", false),
            ("PING", "DENIED Redis is running in protected mode", false),
            ("PING", "ERR max number of clients reached", false),
            (
                "PING",
                "LOADING Redis is loading the dataset in memory",
                true,
            ),
            (
                "PING",
                "NOPERM this user has no permissions to run 'ping'",
                true,
            ),
            ("SELECT", "ERR DB index is out of range", false),
            ("CLIENT", "NOPERM this user has no permissions", true),
        ] {
            assert_eq!(
                judge("h:1", command, words).is_ok(),
                is_good,
                "{command}: {words}"
            );
        }
    }

    #[test]
    fn a_servers_words_end_without_a_comma() {
        assert_eq!(shown("ERR \u{1b}[31mno\r\n, "), "ERR [31mno");
    }
}
