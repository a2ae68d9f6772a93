//! The connection beside one that is silent: it logs in, and subscribes to nothing.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::error::NatsError;
use super::settings::{Endpoint, NatsSettings};
use super::subjects::wire::{Patience, Wire};
use crate::sources::probe::{Found, Probe};
use crate::sources::relay::Relay;
use crate::sources::socket::Waiter;

/// How long a server may take for a second connection. The silent one is not read meanwhile; a server
/// that goes on answers at once on both.
const PATIENCE: Patience = Patience {
    connect: Duration::from_millis(500),
    handshake: Duration::from_secs(1),
};
/// A second connection is read until it is let in.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Whether a connection is kept while it is silent. Another server of the list is tried, then the
/// silent one again, and so on: a server that stands still has another one do better, and so has a
/// server whose link alone is dead.
pub(super) struct Second {
    probe: Probe,
    /// Where the silent connection leads.
    used: Endpoint,
    others: Vec<Endpoint>,
    tries: usize,
    /// The server that answered.
    better: Option<Endpoint>,
}

impl Second {
    pub(super) fn new(settings: &NatsSettings, used: Endpoint, others: Vec<Endpoint>) -> Self {
        Self {
            probe: Probe::new("NATS", Duration::from_millis(settings.silence_max_ms)),
            used,
            others,
            tries: 0,
            better: None,
        }
    }

    /// As [`Probe::look`].
    pub(super) fn look(
        &mut self,
        heard: Instant,
        relay: &Relay<NatsError>,
        settings: &NatsSettings,
    ) -> Option<Instant> {
        let Self {
            probe,
            used,
            others,
            tries,
            better,
        } = self;
        probe.look(heard, relay, || {
            let another = others.get((*tries / 2) % others.len().max(1));
            let another = another.filter(|_| tries.is_multiple_of(2));
            *tries += 1;
            let found = match another {
                Some(another) => ask_another(another, settings),
                None => ask_again(used, settings),
            };
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

    /// The server that answered while this connection was silent, if that was its end.
    pub(super) fn better(self) -> Option<Endpoint> {
        self.better
    }
}

/// A server that lets nobody in is no better.
fn ask_another(endpoint: &Endpoint, settings: &NatsSettings) -> Found {
    match log_in(endpoint, settings) {
        Ok(()) => Found::Answer,
        Err(_) => Found::Silence,
    }
}

/// The server of the silent connection: one that refuses goes on.
fn ask_again(endpoint: &Endpoint, settings: &NatsSettings) -> Found {
    match log_in(endpoint, settings) {
        Ok(()) | Err(NatsError::Refused { .. }) => Found::Answer,
        Err(NatsError::Unreachable { source, .. })
            if source.kind() == ErrorKind::ConnectionRefused =>
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
