//! A connection that publishes and waits, for a command in a terminal: every fault is an error, and
//! nothing is tried again.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::RedisError;
use super::handshake::shown;
use super::resp::Value;
use super::settings::RedisSettings;
use super::{connect, tls_config};
use crate::sources::socket::Waiter;

/// How long Redis may take for a message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes on Redis, one message after the other.
pub struct RedisSender {
    connection: Connection<'static>,
}

impl RedisSender {
    /// Connects. What waits for the socket is kept until the process ends: this is for a command.
    ///
    /// # Errors
    /// Redis is away or refuses the login, or the certificates to trust cannot be read.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisError> {
        let tls = tls_config(settings)?;
        let waiter = Waiter::new("weirgate publish");
        let (waiter, _) = waiter.map_err(|source| RedisError::System { source })?;
        let waiter = Box::leak(Box::new(waiter));
        let (connection, _, _) = connect(waiter, settings, tls.as_ref(), &mut 0)?;
        Ok(Self { connection })
    }

    /// Publishes a message. Returns how many connections to Redis got it.
    ///
    /// # Errors
    /// The connection is lost, Redis is silent, or this user may not publish on the channel.
    pub fn publish(&mut self, channel: &str, message: &[u8]) -> Result<i64, RedisError> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let command = [b"PUBLISH", channel.as_bytes(), message];
        let answer = self.connection.ask(&[&command], until)?.pop();
        match answer {
            Some(Value::Integer(receivers)) => Ok(receivers),
            Some(Value::Error(words)) => Err(RedisError::Refused {
                server: self.connection.server().to_owned(),
                command: "PUBLISH",
                reason: shown(&words),
            }),
            _ => Err(self.connection.wrong("no number of receivers".to_owned())),
        }
    }
}
