//! The connection of the pages. It is made for the first question, kept for the next ones, and replaced if the source has another
//! one: then it may have another server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::range::RangeSize;
use super::PAGE_BYTES;
use crate::redis::connection::Connection;
use crate::redis::error::{RedisError, Stop};
use crate::redis::resp::RespReader;
use crate::redis::servers::RedisServers;
use crate::redis::settings::RedisEndpoint;
use crate::socket::{Buffered, Waiter};

/// Finds the server of the pages, and keeps the connection to it.
pub(super) struct PagesConnection {
    servers: RedisServers,
    waiter: Waiter,
    kept: Option<Kept>,
    /// When the last connection was made.
    made: Instant,
    /// The number of connections that the source had then.
    source_connections: u64,
}

/// A connection without its waiter, and the size of its answers.
struct Kept {
    parts: (Buffered, RespReader),
    endpoint: RedisEndpoint,
    address: SocketAddr,
    range: RangeSize,
}

impl PagesConnection {
    /// Does not connect.
    pub(super) fn new(servers: RedisServers, waiter: Waiter) -> Self {
        Self {
            servers,
            waiter,
            kept: None,
            made: Instant::now(),
            // No connection yet; the first connection of the source has the number 1.
            source_connections: 0,
        }
    }

    /// The longest silence of a server that has to answer.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.servers.settings.times.ping_timeout_ms)
    }

    /// The longest payload, bytes.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.servers.settings.payload_bytes_max
    }

    /// Asks on the kept connection. Asks on a new one if none is kept, if the kept one fails, or if the source has had more
    /// connections since it was made. Keeps the connection after an answer.
    ///
    /// # Errors
    /// No server answers.
    pub(super) fn ask<T>(
        &mut self,
        source_connections: u64,
        mut ask: impl FnMut(&mut Connection<'_>, &mut RangeSize) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let is_current = self.source_connections == source_connections;
        if let Some(kept) = self.kept.take().filter(|_| is_current) {
            let Kept {
                parts,
                endpoint,
                address,
                mut range,
            } = kept;
            let waiter = &mut self.waiter;
            let mut connection = Connection::from_parts(waiter, parts, &endpoint, address);
            // If this fails, a new connection is made.
            if let Ok(answer) = ask(&mut connection, &mut range) {
                self.kept = Some(Kept::new(connection, range));
                return Ok(answer);
            }
        }
        (self.made, self.source_connections) = (Instant::now(), source_connections);
        let mut connection = self.servers.connect(&mut self.waiter)?;
        let mut range = RangeSize::aiming_at(PAGE_BYTES);
        let answer = ask(&mut connection, &mut range)?;
        self.kept = Some(Kept::new(connection, range));
        Ok(answer)
    }

    /// Ends the connection.
    pub(super) fn close(&mut self) {
        self.kept = None;
    }

    /// How long ago the last connection was made.
    pub(super) fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// The error that the server of the connection is behind.
    pub(super) fn behind(&self) -> RedisError {
        let server = |kept: &Kept| kept.endpoint.address_at(kept.address);
        RedisError::Behind(self.kept.as_ref().map_or_else(String::new, server))
    }

    /// Ends the connection after an error of its server, so that another server is tried.
    pub(super) fn leave_server(&mut self, error: RedisError) {
        self.close();
        self.servers.note_end(&Stop::Bus(error));
    }

    /// Waits so long, or until a request comes.
    pub(super) fn wait(&mut self, time: Duration) {
        // An error of the poll is that of the next connection.
        drop(self.waiter.wait(Instant::now() + time));
    }
}

impl Kept {
    fn new(connection: Connection<'_>, range: RangeSize) -> Self {
        let (endpoint, address) = (connection.endpoint.clone(), connection.address);
        Self {
            parts: connection.into_parts(),
            endpoint,
            address,
            range,
        }
    }
}
