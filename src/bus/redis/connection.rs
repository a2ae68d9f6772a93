//! A connection to Redis: connecting, the log-in and the check of the server's role, reading and writing, and commands
//! with their answers.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::error::{RedisError, is_of_connection, shown_trimmed};
use super::resp::{ReadLimits, RespReader, Value, pack};
use super::settings::RedisEndpoint;
use crate::LinkTimes;
use crate::relay::Relay;
use crate::socket::{Buffered, MaybeTlsStream, Waiter, ended};

/// The name that the server's client list shows.
const CLIENT_NAME: &str = "weirgate";
/// The most bytes of a read: after each read the thread does other work that is due.
const READ_BYTES: usize = 64 * 1024;
/// The limits for answers to commands: `ROLE` lists all replicas.
const ANSWER_LIMITS: ReadLimits = ReadLimits {
    bulk_bytes_max: 64 * 1024,
    items_max: 4 * 1024,
    entry_fields: &[],
    singly: false,
};

/// A connection with its server, blocking through the waiter.
pub(super) struct Connection<'w> {
    waiter: &'w mut Waiter,
    io: Buffered,
    pub(super) reader: RespReader,
    /// When the first byte after the last command arrived.
    answer_began: Option<Instant>,
    /// The server, and the user.
    pub(super) endpoint: RedisEndpoint,
    /// The address of the server in use.
    pub(super) address: SocketAddr,
    /// Set once the sentinels name another server.
    pub(super) has_moved: Arc<AtomicBool>,
}

impl<'w> Connection<'w> {
    /// Connects to the server at one of the host's addresses, within `timeout`.
    pub(super) fn open(
        waiter: &'w mut Waiter,
        endpoint: &RedisEndpoint,
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let connected = match &endpoint.socket {
            Some(path) => waiter.connect_unix(path),
            None => waiter.connect_to(address, timeout),
        };
        let opened = connected.and_then(|tcp| match tls {
            Some(config) if endpoint.tls => {
                let name = endpoint.tls_name.as_ref().unwrap_or(&endpoint.host);
                MaybeTlsStream::tls(tcp, name, config)
            }
            _ => Ok(MaybeTlsStream::plain(tcp)),
        });
        match opened {
            Ok(stream) => {
                let io = Buffered::new(stream, READ_BYTES);
                let reader = RespReader::new(ANSWER_LIMITS);
                Ok(Self::from_parts(waiter, (io, reader), endpoint, address))
            }
            Err(source) => Err(RedisError::Unreachable {
                server: endpoint.address_at(address),
                source,
            }),
        }
    }

    /// Makes a connection of the parts of an open one.
    pub(super) fn from_parts(
        waiter: &'w mut Waiter,
        (io, reader): (Buffered, RespReader),
        endpoint: &RedisEndpoint,
        address: SocketAddr,
    ) -> Self {
        Self {
            waiter,
            io,
            reader,
            answer_began: None,
            endpoint: endpoint.clone(),
            address,
            has_moved: Arc::default(),
        }
    }

    /// Takes the connection apart, for [`Self::from_parts`] with another waiter.
    pub(super) fn into_parts(self) -> (Buffered, RespReader) {
        (self.io, self.reader)
    }

    /// Sends user and password, selects the database, and checks that the server takes commands, in a single round
    /// trip.
    pub(super) fn log_in(&mut self, patience: Duration) -> Result<(), RedisError> {
        let endpoint = self.endpoint.clone();
        let password = endpoint.password.as_deref();
        let database = endpoint.database.to_string();
        let mut commands = Vec::new();
        match (&endpoint.username, password) {
            // Without a password here, the user has to be one that accepts any (`nopass`).
            (Some(user), _) => commands.push(vec!["AUTH", user, password.unwrap_or("")]),
            (None, Some(password)) => commands.push(vec!["AUTH", password]),
            (None, None) => {}
        }
        commands.push(vec!["PING"]);
        if endpoint.database != 0 {
            commands.push(vec!["SELECT", &database]);
        }
        commands.push(vec!["CLIENT", "SETNAME", CLIENT_NAME]);

        let answers = self.ask(&commands, patience)?;
        for (command, answer) in commands.iter().zip(&answers) {
            if let Value::Error(words) = answer {
                judge(&self.server(), command[0], words)?;
            }
        }
        match answers.last() {
            _ if answers.len() == commands.len() => Ok(()),
            // The server ended the connection with these words.
            Some(Value::Error(words)) => Err(self.refused("the connection", words)),
            _ => Err(RedisError::Unreachable {
                server: self.server(),
                source: ended(),
            }),
        }
    }

    /// Checks that the server is a master.
    pub(super) fn check_role(&mut self, patience: Duration) -> Result<(), RedisError> {
        let role = match self.ask_one(&["ROLE"], patience)? {
            Value::Array(items) => items.into_iter().next(),
            Value::Error(words) => {
                tracing::warn!(
                    server = self.server(),
                    reason = shown_trimmed(&words),
                    "this user may not ask a Redis server for its role (+role)"
                );
                return Ok(());
            }
            _ => None,
        };
        match role {
            Some(Value::Bulk(role)) if role == b"master" => Ok(()),
            Some(Value::Bulk(role)) => Err(RedisError::NotMaster {
                server: self.server(),
                role: shown_trimmed(&String::from_utf8_lossy(&role)),
            }),
            _ => Err(self.wrong("it says no role")),
        }
    }

    /// Host and port, for people.
    pub(super) fn server(&self) -> String {
        self.endpoint.address_at(self.address)
    }

    /// Appends a command to the bytes that wait to be written.
    pub(super) fn queue<T: AsRef<[u8]>>(&mut self, command: &[T]) {
        pack(self.io.out(), command.iter());
        self.answer_began = None;
    }

    /// The number of bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.io.queued_bytes()
    }

    /// Writes as much as the socket takes.
    #[inline]
    pub(super) fn flush(&mut self) -> Result<(), RedisError> {
        self.io.flush(self.waiter).map_err(RedisError::Lost)
    }

    /// Reads once. Returns false if there is nothing to read. The caller must take all values with [`Self::next_value`]
    /// before the next read.
    #[inline]
    pub(super) fn read(&mut self) -> Result<bool, RedisError> {
        let has_read = self.io.read(self.waiter).map_err(RedisError::Lost)?;
        if has_read {
            self.answer_began.get_or_insert(self.io.last_received);
        }
        Ok(has_read)
    }

    /// The time of the last bytes that were read; at first, the time of the connect.
    pub(super) fn last_received(&self) -> Instant {
        self.io.last_received
    }

    /// As [`Buffered::watch`]. Calls `pings` when it sends a ping.
    pub(super) fn watch(
        &mut self,
        times: &LinkTimes,
        is_silent: bool,
        pings: impl FnOnce(),
    ) -> Option<Instant> {
        self.io.watch(times, is_silent, |out| {
            pack(out, ["PING"].iter());
            pings();
        })
    }

    /// Takes the next complete value.
    pub(super) fn next_value(&mut self) -> Result<Option<Value>, RedisError> {
        let value = self.io.take(|input| self.reader.next(input));
        let why = |fault| format!("what it sends is not the Redis protocol ({fault})");
        value.map_err(|fault| self.wrong(&why(fault)))
    }

    /// Whether there may be something to read.
    pub(super) fn has_input(&mut self) -> Result<bool, RedisError> {
        // Only looks: the time is over at once.
        self.waiter.wait(Instant::now()).map_err(RedisError::Lost)?;
        Ok(self.waiter.readable)
    }

    /// Waits until the socket may be read or written, the waker was used, or the time is over. For some time after the
    /// last messages, polls without sleeping.
    #[inline]
    pub(super) fn wait(
        &mut self,
        relay: &mut Relay<RedisError>,
        until: Instant,
    ) -> Result<(), RedisError> {
        let waited = self.waiter.wait_or_spin(relay, until);
        waited.map_err(RedisError::Lost)
    }

    /// Waits for the next value: at most `patience` after `asked`, or after the last byte if that is later. With a `relay`,
    /// polls without sleeping after messages ([`Self::wait`]), and notes there for how long the answer has been arriving.
    ///
    /// # Errors
    /// The server is silent for too long, is not the master any more, as the sentinels say, or does not speak the Redis
    /// protocol; or the connection is lost.
    pub(super) fn next_answer(
        &mut self,
        mut relay: Option<&mut Relay<RedisError>>,
        asked: Instant,
        patience: Duration,
    ) -> Result<Value, RedisError> {
        loop {
            if let Some(value) = self.next_value()? {
                return Ok(value);
            }
            self.flush()?;
            if self.read()? {
                if let (Some(relay), Some(began)) = (&mut relay, self.answer_began) {
                    relay.lag.answer_comes_for(&relay.status, began.elapsed());
                }
                continue;
            }
            // TLS may have produced bytes to send during the read.
            self.flush()?;
            self.check_master()?;
            let silent_since = self.io.last_received.max(asked);
            if silent_since.elapsed() >= patience {
                let silent_ms = silent_since.elapsed().as_millis() as u64;
                return Err(RedisError::Silent(silent_ms));
            }
            let until = silent_since + patience;
            match &mut relay {
                Some(relay) => self.wait(relay, until)?,
                None => self.waiter.wait(until).map_err(RedisError::Lost)?,
            }
        }
    }

    /// Sends commands and waits for an answer to each, for `patience` since the last byte. Returns fewer answers if the
    /// server ended the connection after some.
    pub(super) fn ask<T: AsRef<[u8]>>(
        &mut self,
        commands: &[impl AsRef<[T]>],
        patience: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        self.ask_for(commands, patience, |_| true)
    }

    /// Sends a command and waits for the answer.
    pub(super) fn ask_one<T: AsRef<[u8]>>(
        &mut self,
        command: &[T],
        patience: Duration,
    ) -> Result<Value, RedisError> {
        let answers = self.ask(&[command], patience)?;
        // There is an answer: without any, `ask` returns an error.
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    /// Like [`Self::ask`], but skips the values that are not an answer.
    pub(super) fn ask_for<T: AsRef<[u8]>>(
        &mut self,
        commands: &[impl AsRef<[T]>],
        patience: Duration,
        is_answer: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>, RedisError> {
        for command in commands {
            self.queue(command.as_ref());
        }
        let asked = Instant::now();
        let mut answers = Vec::with_capacity(commands.len());
        while answers.len() < commands.len() {
            match self.next_answer(None, asked, patience) {
                Ok(value) if is_answer(&value) => answers.push(value),
                Ok(_) => {}
                Err(RedisError::Lost(_)) if !answers.is_empty() => break,
                Err(RedisError::Lost(source)) => return Err(self.no_answer(source)),
                Err(RedisError::Silent(_)) => {
                    let silent = "it accepted the connection and says nothing";
                    let error = io::Error::new(ErrorKind::TimedOut, silent);
                    return Err(self.no_answer(error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Returns an error if the sentinels name another server.
    #[inline]
    pub(super) fn check_master(&self) -> Result<(), RedisError> {
        match self.has_moved.load(Relaxed) {
            true => Err(self.moved()),
            false => Ok(()),
        }
    }

    /// The error for a server that is not a master any more.
    pub(super) fn moved(&self) -> RedisError {
        RedisError::Moved(self.server())
    }

    /// The error for a value that the server should not have sent.
    pub(super) fn wrong(&self, reason: &str) -> RedisError {
        let (server, reason) = (self.server(), shown_trimmed(reason));
        RedisError::Wrong { server, reason }
    }

    /// The error for a command that the server refused with these words.
    pub(super) fn refused(&self, command: &'static str, words: &str) -> RedisError {
        RedisError::Refused {
            server: self.server(),
            command,
            reason: shown_trimmed(words),
        }
    }

    /// The error for a server that has not answered: of TLS, if the handshake is not over.
    fn no_answer(&self, source: io::Error) -> RedisError {
        let server = self.server();
        match self.io.stream.is_handshaking() {
            true => RedisError::Tls {
                server,
                reason: source.to_string(),
            },
            false => RedisError::Unreachable { server, source },
        }
    }
}

/// Judges the refusal of a command of the log-in: an error if the connection is of no use without the command.
fn judge(server: &str, command: &str, words: &str) -> Result<(), RedisError> {
    let refused = |command, words| {
        Err(RedisError::Refused {
            server: server.to_owned(),
            command,
            reason: shown_trimmed(words),
        })
    };
    match command {
        "AUTH" if needs_no_password(words) => {
            tracing::warn!(server, "Redis asks for no password, but one is set here");
            Ok(())
        }
        // A server that does not know the command repeats its arguments in the error, and with them the password.
        "AUTH" => refused("AUTH", words.split("with args").next().unwrap_or_default()),
        "SELECT" => refused("SELECT", words),
        // The connection works without a name and without pings: a server or user that refuses those may still take the
        // commands that are needed.
        _ if is_of_connection(words) => refused("the connection", words),
        _ => Ok(()),
    }
}

fn needs_no_password(words: &str) -> bool {
    words.contains("without any password configured") || words.contains("no password is set")
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
            (
                "PING",
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
                true,
            ),
            (
                "PING",
                "MISCONF Errors writing to the AOF file: No space left on device",
                true,
            ),
            ("PING", "ERR unknown command 'PING'", true),
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
}
