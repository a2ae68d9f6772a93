//! The way to the server: the address from the settings or from the sentinels, a connection there, a watch over
//! the sentinels, and a second connection beside a silent connection.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::RedisError;
use super::resp::Value;
use super::settings::{RedisEndpoint, RedisSettings};
use crate::base::{Wake, detached, tls_roots};
use crate::sources::relay::Found;
use crate::sources::socket::Waiter;

/// The silence at which TLS, the log-in or a question beside it is given up.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval at which the sentinels are asked while a connection exists.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The time for making the second connection, and again for the log-in there. Meanwhile neither the
/// silent connection nor the watch over the sentinels is read.
const SECOND_TIMEOUT: Duration = Duration::from_millis(250);

/// A poll for a thread, and the waker.
pub(super) fn waiter(sleeper: &'static str) -> Result<(Waiter, Wake), RedisError> {
    Waiter::new(sleeper).map_err(|source| RedisError::System { source })
}

/// The way to the server, over all connections.
#[derive(Clone)]
pub(super) struct Servers {
    pub(super) settings: RedisSettings,
    /// If the server or a sentinel has TLS.
    tls: Option<Arc<ClientConfig>>,
    /// The sentinel of the last answer.
    first_sentinel: usize,
}

impl Servers {
    /// Reads the certificates to trust. Does not connect.
    ///
    /// # Errors
    /// The certificates cannot be read, or the name in the master's certificate is not certain.
    pub(super) fn new(settings: RedisSettings) -> Result<Self, RedisError> {
        let sentinels_tls = settings.sentinels.iter().any(|sentinel| sentinel.tls);
        let tls = match settings.server.tls || sentinels_tls {
            true => {
                settings.check_tls_name()?;
                let trusting = tls_roots::client_config(settings.tls_ca_file.as_deref())?;
                Some(Arc::new(trusting.with_no_client_auth()))
            }
            false => None,
        };
        Ok(Self {
            settings,
            tls,
            first_sentinel: 0,
        })
    }

    fn has_sentinels(&self) -> bool {
        !self.settings.sentinels.is_empty()
    }

    /// Connects to the server, or to the master in the answer of a sentinel.
    pub(super) fn connect<'w>(
        &mut self,
        waiter: &'w mut Waiter,
    ) -> Result<Connection<'w>, RedisError> {
        let endpoint = match self.has_sentinels() {
            true => self.find_master(waiter)?,
            false => self.settings.server.clone(),
        };
        self.connect_to(waiter, &endpoint)
    }

    /// Connects to this server. If there are sentinels, the server has to be the master.
    pub(super) fn connect_to<'w>(
        &self,
        waiter: &'w mut Waiter,
        endpoint: &RedisEndpoint,
    ) -> Result<Connection<'w>, RedisError> {
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let mut connection = Connection::open(waiter, endpoint, self.tls.as_ref(), timeout)?;
        connection.log_in(HANDSHAKE_TIMEOUT)?;
        if self.has_sentinels() {
            connection.check_role(HANDSHAKE_TIMEOUT)?;
        }
        Ok(connection)
    }

    /// As [`Self::connect`]. If there are sentinels, a thread asks the sentinels until the connection is dropped
    /// whether the master has moved: sentinels disconnect the subscribers of a replaced master only ten seconds after
    /// a requested failover, and meanwhile nothing is published there any more.
    pub(super) fn connect_and_watch<'w>(
        &mut self,
        waiter: &'w mut Waiter,
    ) -> Result<Connection<'w>, RedisError> {
        let connection = self.connect(waiter)?;
        if self.has_sentinels() {
            self.clone().watch(&connection)?;
        }
        Ok(connection)
    }

    fn watch(mut self, connection: &Connection<'_>) -> Result<(), RedisError> {
        let (mut waiter, _) = waiter("the watch over sentinels")?;
        let server = connection.server();
        let has_moved = Arc::clone(&connection.has_moved);
        let watch = move || {
            // The other reference is dropped with the connection.
            while Arc::strong_count(&has_moved) > 1 {
                thread::sleep(WATCH_INTERVAL);
                // Absent sentinels say nothing about the master.
                let found = self.find_master(&mut waiter);
                if found.is_ok_and(|found| found.address() != server) {
                    has_moved.store(true, Relaxed);
                    return;
                }
            }
        };
        detached("redis-sentinel", watch).map_err(|source| RedisError::System { source })
    }

    /// The first answer of a sentinel, beginning with the sentinel of the last answer.
    fn find_master(&mut self, waiter: &mut Waiter) -> Result<RedisEndpoint, RedisError> {
        let sentinels = self.settings.sentinels.len();
        let mut reason = None;
        for index in (0..sentinels).map(|n| (self.first_sentinel + n) % sentinels) {
            match self.ask_sentinel(waiter, &self.settings.sentinels[index]) {
                Ok(master) => {
                    self.first_sentinel = index;
                    return Ok(master);
                }
                Err(error) => reason = Some(error),
            }
        }
        Err(self.no_master(reason))
    }

    /// The error where no sentinel names the master, with the error of the last sentinel.
    pub(super) fn no_master(&self, last: Option<RedisError>) -> RedisError {
        RedisError::NoMaster {
            master: self.settings.master_name.clone(),
            reason: last.map_or_else(
                || "there is none to ask".to_owned(),
                |error| error.to_string(),
            ),
        }
    }

    /// Asks a sentinel for the master: an endpoint with the user, password, TLS and TLS name of the settings'
    /// server.
    pub(super) fn ask_sentinel(
        &self,
        waiter: &mut Waiter,
        sentinel: &RedisEndpoint,
    ) -> Result<RedisEndpoint, RedisError> {
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let mut connection = Connection::open(waiter, sentinel, self.tls.as_ref(), timeout)?;
        connection.log_in(timeout)?;
        let name = &self.settings.master_name;
        let answer = connection.ask_one(&["SENTINEL", "get-master-addr-by-name", name], timeout)?;
        Err(match answer {
            Value::Array(items) => match address(&items) {
                Some((host, port)) => {
                    return Ok(RedisEndpoint {
                        host,
                        port,
                        ..self.settings.server.clone()
                    });
                }
                None => connection.wrong("its answer is no address"),
            },
            Value::Error(words) => connection.wrong(&words),
            Value::Nil => connection.wrong("it knows no master of this name"),
            _ => connection.wrong("it does not answer like a sentinel"),
        })
    }

    /// Connects to the server of a silent connection, and logs in.
    pub(super) fn try_second(&self, waiter: &mut Waiter, endpoint: &RedisEndpoint) -> Found {
        let connected = Connection::open(waiter, endpoint, self.tls.as_ref(), SECOND_TIMEOUT);
        match connected.and_then(|mut connection| connection.log_in(SECOND_TIMEOUT)) {
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
}

fn address(items: &[Value]) -> Option<(String, u16)> {
    match items {
        [Value::Bulk(host), Value::Bulk(port)] => {
            let host = String::from_utf8(host.clone()).ok()?;
            let port = std::str::from_utf8(port).ok()?.parse().ok()?;
            Some((host, port))
        }
        _ => None,
    }
}
