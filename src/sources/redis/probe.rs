//! A second connection beside one that is silent: is the server busy, or is only the link dead?

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::RedisError;
use super::handshake::log_in;
use super::settings::{Endpoint, RedisSettings};
use crate::sources::socket::Waiter;

/// The time between two probes.
const INTERVAL: Duration = Duration::from_millis(500);
/// The time that a probe may take to connect, and again to log in. The silent connection is not
/// read meanwhile, and sentinels are not heard.
const TIMEOUT: Duration = Duration::from_millis(250);
/// The silent connection has this long to say something after a probe had its answer. A busy server
/// that is done answers on both at about the same time.
const GRACE: Duration = Duration::from_secs(1);

/// Probes the server of one connection while that connection is silent.
pub(super) struct Probe<'a> {
    waiter: &'a mut Waiter,
    settings: &'a RedisSettings,
    tls: Option<&'a Arc<ClientConfig>>,
    endpoint: Endpoint,
    /// When the next probe is due; `None` while the connection is not silent.
    due: Option<Instant>,
    /// When a probe had its answer for the first time in this silence.
    answered: Option<Instant>,
}

impl<'a> Probe<'a> {
    pub(super) fn new(
        waiter: &'a mut Waiter,
        settings: &'a RedisSettings,
        tls: Option<&'a Arc<ClientConfig>>,
        endpoint: Endpoint,
    ) -> Self {
        Self {
            waiter,
            settings,
            tls,
            endpoint,
            due: None,
            answered: None,
        }
    }

    /// The connection said something. `true`: it had been silent for so long that it was probed.
    pub(super) fn end(&mut self) -> bool {
        self.answered = None;
        self.due.take().is_some()
    }

    /// No probe was made in this silence yet.
    pub(super) fn is_first(&self) -> bool {
        self.due.is_none()
    }

    /// Probes if a probe is due. Returns the moment of the next look; `None`: the silent connection
    /// is dead.
    pub(super) fn look(&mut self, heard: Instant) -> Option<Instant> {
        let give_up = heard + Duration::from_millis(self.settings.silence_max_ms);
        let give_up = self
            .answered
            .map_or(give_up, |answered| give_up.min(answered + GRACE));
        if Instant::now() >= give_up {
            return None;
        }
        if self.answered.is_some() {
            return Some(give_up);
        }
        if self.due.is_none_or(|due| Instant::now() >= due) {
            match self.ask() {
                Ok(()) => self.answered = Some(Instant::now()),
                Err(error) if nobody_is_there(&error) => return None,
                // It answers, if only with a refusal.
                Err(RedisError::Refused { .. }) => self.answered = Some(Instant::now()),
                Err(error) => tracing::debug!(%error, "a second connection is not answered either"),
            }
            self.due = Some(Instant::now() + INTERVAL);
        }
        self.due.map(|due| due.min(give_up))
    }

    fn ask(&mut self) -> Result<(), RedisError> {
        let mut connection = Connection::open(self.waiter, &self.endpoint, self.tls, TIMEOUT)?;
        log_in(&mut connection, &self.endpoint, Instant::now() + TIMEOUT)
    }
}

/// The host answers that no server listens there.
fn nobody_is_there(error: &RedisError) -> bool {
    match error {
        RedisError::Unreachable { source, .. } => source.kind() == ErrorKind::ConnectionRefused,
        _ => false,
    }
}
