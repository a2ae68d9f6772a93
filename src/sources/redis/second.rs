//! The connection beside one that is silent: it logs in, and subscribes to nothing.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::RedisError;
use super::handshake::log_in;
use super::settings::Endpoint;
use crate::sources::probe::Found;
use crate::sources::socket::Waiter;

/// The time that the connection may take to be made, and again to log in. The silent connection is not
/// read meanwhile, and sentinels are not heard.
const TIMEOUT: Duration = Duration::from_millis(250);

/// Where the silent connection leads, and what another one is made with.
pub(super) struct Second<'a> {
    pub(super) waiter: &'a mut Waiter,
    pub(super) tls: Option<&'a Arc<ClientConfig>>,
    pub(super) endpoint: Endpoint,
}

impl Second<'_> {
    /// Asks the server on another connection.
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
