//! The order in which servers are tried for a connection.

use std::time::Instant;

use super::connection::{Connection, Patience};
use super::endpoint::{Endpoint, learn};
use super::error::{NatsError, Stop};
use super::protocol::PayloadLimits;
use super::server_search::ServerSearch;
use super::settings::NatsSettings;
use crate::socket::Waiter;
use weirgate_runtime::{FailedAddresses, Wake};

/// The servers of a source beyond the servers of the URL, and why and when each failed. The newest announcement of a
/// server stays with its connection, and is added here when the connection ends.
#[derive(Default)]
pub(super) struct NatsServers {
    /// Other servers of the cluster, tried after the servers of the URL.
    learned: Vec<Endpoint>,
    failed: FailedAddresses,
    /// The server with an answer while the server in use was silent; tried first for the next connection.
    next: Option<Endpoint>,
}

impl NatsServers {
    /// Tries every address of every server once; the addresses that have failed before come last. Returns the first
    /// connection, or the error of the last server.
    pub(super) fn connect<C>(
        &mut self,
        settings: &NatsSettings,
        mut open: impl FnMut(&Endpoint) -> Result<C, NatsError>,
    ) -> Result<C, NatsError> {
        let begun = Instant::now();
        // `Lost` is replaced by the error of each server that is tried; there is at least one.
        let (mut last, mut later) = (NatsError::Lost, Vec::new());
        let first = self.next.take().into_iter().map(Ok);
        let known = self.learned.clone().into_iter().map(Ok);
        // A name is looked up when its turn has come: a lookup can take long.
        for named in first.chain(settings.endpoints()).chain(known) {
            let servers = match named.and_then(|named| named.servers(settings)) {
                Ok(servers) => servers,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for server in servers {
                match server.address.and_then(|at| self.failed.find(at)) {
                    Some(failed) => later.push((failed.at, server)),
                    None => match self.attempt(&server, &mut open) {
                        Ok(connection) => return Ok(connection),
                        Err(error) => last = error,
                    },
                }
            }
        }
        later.sort_by_key(|(failed_at, _)| *failed_at);
        for (_, server) in later {
            // The server may have two names.
            let has_failed = |at| (self.failed.find(at)).is_some_and(|failed| failed.at >= begun);
            if server.address.is_some_and(has_failed) {
                continue;
            }
            match self.attempt(&server, &mut open) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Opens a connection, and records a failure of a server with a known address: the next search tries that server
    /// after the others.
    fn attempt<C>(
        &mut self,
        server: &Endpoint,
        open: &mut impl FnMut(&Endpoint) -> Result<C, NatsError>,
    ) -> Result<C, NatsError> {
        let opened = open(server);
        if let (Err(error), Some(address)) = (&opened, server.address) {
            let why = error.to_string();
            self.failed.note_failure(address, Instant::now(), why);
        }
        opened
    }

    /// Connects to the first server that accepts; each server is tried once.
    pub(super) fn connection(
        &mut self,
        waiter: &mut Waiter,
        settings: &NatsSettings,
        limits: PayloadLimits,
    ) -> Result<Connection, NatsError> {
        self.connect(settings, |endpoint| {
            Connection::open(waiter, endpoint, settings, limits, Patience::USUAL)
        })
    }

    /// The search for the next server, beside a connection that begins.
    pub(super) fn search(&self, settings: &NatsSettings) -> ServerSearch {
        ServerSearch::new(settings, self.learned.clone())
    }

    /// Notes the end of a connection. The next connection tries `next` first, and this server last, unless the
    /// connection was good until its end.
    pub(super) fn note_end(
        &mut self,
        settings: &NatsSettings,
        connection: &Connection,
        next: Option<Endpoint>,
        stop: &Stop,
    ) {
        let configured: Vec<_> = settings.endpoints().flatten().collect();
        learn(
            &mut self.learned,
            connection.neighbours().collect(),
            &configured,
        );
        if let Stop::Bus(error) = stop {
            let (peer, now, why) = (connection.peer, Instant::now(), error.to_string());
            match error {
                NatsError::Lost | NatsError::Ended(_) => {
                    self.failed.note_loss(peer, [connection.opened, now], why);
                }
                _ => self.failed.note_failure(peer, now, why),
            }
        }
        if let Some(address) = next.as_ref().and_then(|next| next.address) {
            self.failed.forget(address);
        }
        self.next = next;
    }
}

/// A poll for a thread, and the waker.
pub(super) fn waiter(sleeper: &'static str) -> Result<(Waiter, Wake), NatsError> {
    Waiter::new(sleeper).map_err(NatsError::NoPoll)
}

#[cfg(test)]
mod tests {
    use super::super::login::{Credentials, Tls};
    use super::*;

    fn settings(urls: &str) -> NatsSettings {
        NatsSettings::plain(urls, Credentials::None, Tls::default())
    }

    /// The ports that one attempt tries, in order. Only the ports in `good` accept.
    fn tried(servers: &mut NatsServers, settings: &NatsSettings, good: &[u16]) -> Vec<u16> {
        let mut tried = Vec::new();
        let _ = servers.connect(settings, |server| {
            let port = server.address.expect("an address").port();
            tried.push(port);
            match good.contains(&port) {
                true => Ok(()),
                false => Err(NatsError::Lost),
            }
        });
        tried
    }

    #[test]
    fn what_failed_is_tried_last_and_all_are_tried_by_turns() {
        let three = settings("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3");
        let mut servers = NatsServers::default();
        assert_eq!(tried(&mut servers, &three, &[2]), [1, 2]);
        assert_eq!(
            tried(&mut servers, &three, &[2]),
            [2],
            "1 has failed before"
        );
        assert_eq!(tried(&mut servers, &three, &[]), [2, 3, 1]);
        assert_eq!(
            tried(&mut servers, &three, &[]),
            [2, 3, 1],
            "in the order of their faults"
        );
        assert_eq!(tried(&mut servers, &three, &[3]), [2, 3]);
        let next = Endpoint::parse("127.0.0.1:1").and_then(|one| one.servers(&three));
        servers.next = next.ok().and_then(|mut servers| servers.pop());
        servers.failed.forget(([127, 0, 0, 1], 1).into());
        assert_eq!(tried(&mut servers, &three, &[]), [1, 3, 2]);
    }

    #[test]
    fn a_server_of_two_names_is_tried_once() {
        let twice = settings("127.0.0.1:1,nats://u:p@127.0.0.1:1,127.0.0.1:2");
        let mut servers = NatsServers::default();
        assert_eq!(tried(&mut servers, &twice, &[]), [1, 2]);
        assert_eq!(tried(&mut servers, &twice, &[]), [1, 2]);
    }
}
