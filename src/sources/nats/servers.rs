//! The order in which servers are tried for a connection. Also the second connection beside a
//! silent connection, to find the server to try first.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::error::NatsError;
use super::settings::{Endpoint, NatsSettings, learn};
use super::wire::{Patience, Wire};
use crate::sources::relay::{Found, Probe, Relay};
use crate::sources::socket::Waiter;

/// The servers of a source beyond the servers of the URL. While a connection lasts, the connection has the newest
/// announcement of its server; the end of the connection adds this announcement here.
#[derive(Default)]
pub(super) struct Servers {
    /// Other servers of the cluster, tried after the servers of the URL.
    learned: Vec<Endpoint>,
    /// The server with an answer while the server in use was silent; tried first for the next
    /// connection.
    better: Option<Endpoint>,
}

impl Servers {
    /// Tries every server once. Returns the first connection, or the error of the last server.
    pub(super) fn connect<C>(
        &mut self,
        settings: &NatsSettings,
        mut open: impl FnMut(&Endpoint) -> Result<C, NatsError>,
    ) -> Result<C, NatsError> {
        let mut last = NatsError::Lost;
        let first = self.better.take().into_iter().map(Ok);
        let known = self.learned.clone().into_iter().map(Ok);
        for endpoint in first.chain(settings.endpoints()).chain(known) {
            match endpoint.and_then(|endpoint| open(&endpoint)) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to the first server that accepts, each tried once.
    pub(super) fn wire(
        &mut self,
        waiter: &mut Waiter,
        settings: &NatsSettings,
        payload_bytes_max: usize,
    ) -> Result<Wire, NatsError> {
        self.connect(settings, |endpoint| {
            let bytes_max = payload_bytes_max;
            Wire::open(waiter, endpoint, settings, bytes_max, Patience::USUAL)
        })
    }

    /// The second connection beside a connection that begins.
    pub(super) fn second(&self, settings: &NatsSettings) -> Second {
        Second {
            probe: Probe::new("NATS", Duration::from_millis(settings.times.silence_max_ms)),
            learned: self.learned.clone(),
            tries: 0,
            better: None,
        }
    }

    /// Notes the end of a connection. The next connection tries `better` first.
    pub(super) fn left(&mut self, settings: &NatsSettings, wire: &Wire, better: Option<Endpoint>) {
        let configured: Vec<_> = settings.endpoints().flatten().collect();
        learn(&mut self.learned, wire.neighbours().collect(), &configured);
        self.better = better;
    }
}

/// Limits on the time for a second connection. The silent connection is not read meanwhile; a
/// working server answers at once on both.
const PATIENCE: Patience = Patience {
    connect: Duration::from_millis(500),
    handshake: Duration::from_secs(1),
};
/// The payload limit of a second connection, read only until the log-in is complete.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The second connection, to decide whether the silent connection is kept; logs in and subscribes
/// to nothing. The tries alternate between another server of the list and the silent server. If the
/// silent server hangs, another server answers; if only the link is dead, the same server answers
/// on a new connection.
pub(super) struct Second {
    probe: Probe,
    /// The servers learned before this connection.
    learned: Vec<Endpoint>,
    tries: usize,
    /// The server with an answer.
    better: Option<Endpoint>,
}

impl Second {
    /// As [`Probe::look`]. `wire` is the silent connection.
    pub(super) fn look(
        &mut self,
        heard: Instant,
        relay: &Relay<NatsError>,
        settings: &NatsSettings,
        wire: &Wire,
    ) -> Option<Instant> {
        let Self {
            probe,
            learned,
            tries,
            better,
        } = self;
        let used = &wire.endpoint;
        probe.look(heard, relay, || {
            let others = others(learned.clone(), settings, wire);
            let another = others.get((*tries / 2) % others.len().max(1));
            let another = another.filter(|_| tries.is_multiple_of(2));
            *tries += 1;
            let found = ask(another.unwrap_or(used), another.is_none(), settings);
            if found == Found::Answer {
                *better = Some(another.unwrap_or(used).clone());
            }
            found
        })
    }

    /// As [`Probe::end`].
    pub(super) fn end(&mut self, relay: &Relay<NatsError>, all_stand: bool) -> bool {
        self.better = None;
        self.probe.end(relay, all_stand)
    }

    /// The server with an answer during the silence, if the silence ended this connection.
    pub(super) fn better(self) -> Option<Endpoint> {
        self.better
    }
}

/// All servers but the server of a connection, in the order of [`Servers::connect`].
fn others(mut learned: Vec<Endpoint>, settings: &NatsSettings, wire: &Wire) -> Vec<Endpoint> {
    let mut others: Vec<_> = settings.endpoints().flatten().collect();
    learn(&mut learned, wire.neighbours().collect(), &others);
    others.append(&mut learned);
    others.retain(|one| !one.is_at(&wire.endpoint));
    others
}

/// Asks a server. From the server of the silent connection, even a refusal is an answer; another server is no better
/// if the server refuses the log-in.
fn ask(endpoint: &Endpoint, is_used: bool, settings: &NatsSettings) -> Found {
    match log_in(endpoint, settings) {
        Ok(()) => Found::Answer,
        Err(NatsError::Refused { .. }) if is_used => Found::Answer,
        Err(NatsError::Unreachable { source, .. })
            if is_used && source.kind() == ErrorKind::ConnectionRefused =>
        {
            Found::Nobody
        }
        Err(_) => Found::Silence,
    }
}

fn log_in(endpoint: &Endpoint, settings: &NatsSettings) -> Result<(), NatsError> {
    let waiter = Waiter::new("the second connection to NATS");
    let (mut waiter, _) = waiter.map_err(|source| NatsError::NoPoll { source })?;
    let opened = Wire::open(&mut waiter, endpoint, settings, PAYLOAD_BYTES_MAX, PATIENCE);
    match opened {
        Ok(wire) => {
            wire.leave(&waiter);
            Ok(())
        }
        Err(error) => {
            tracing::debug!(%error, "a second connection is not answered either");
            Err(error)
        }
    }
}
