//! Which servers are tried for a connection, and in which order.

use super::error::NatsError;
use super::settings::{Endpoint, NatsSettings, learn};

/// The servers of a source, beside those of its URL.
#[derive(Default)]
pub(super) struct Servers {
    /// Others of the cluster, tried after those of the URL.
    learned: Vec<Endpoint>,
    /// This one answered while the one in use was silent: the next connection tries it first.
    better: Option<Endpoint>,
}

impl Servers {
    /// Tries every server once; the error is the last one's. `open` returns the connection with the
    /// other servers of its cluster, which are learned.
    pub(super) fn connect<C>(
        &mut self,
        settings: &NatsSettings,
        mut open: impl FnMut(&Endpoint) -> Result<(C, Vec<Endpoint>), NatsError>,
    ) -> Result<(C, Endpoint), NatsError> {
        let mut last = NatsError::Lost;
        let first = self.better.take().into_iter().map(Ok);
        let known = self.learned.clone().into_iter().map(Ok);
        for endpoint in first.chain(settings.endpoints()).chain(known) {
            let opened = endpoint.and_then(|endpoint| Ok((open(&endpoint)?, endpoint)));
            match opened {
                Ok(((connection, told), endpoint)) => {
                    let configured: Vec<_> = settings.endpoints().flatten().collect();
                    learn(&mut self.learned, told, &configured);
                    return Ok((connection, endpoint));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Every server but this one.
    pub(super) fn others(&self, settings: &NatsSettings, used: &Endpoint) -> Vec<Endpoint> {
        let all = settings.endpoints().flatten().chain(self.learned.clone());
        all.filter(|endpoint| !endpoint.is_at(used)).collect()
    }

    /// The next connection tries this server first.
    pub(super) fn prefer(&mut self, better: Option<Endpoint>) {
        self.better = better;
    }
}
