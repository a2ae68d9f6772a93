//! The tickets of TLS for clients that come back.

use std::sync::{Arc, OnceLock};

use rustls::server::ProducesTickets;

use weirgate_runtime::Clock;

/// Makes the tickets of clients that come back; the key is replaced every six hours. None are made while the clock is before
/// 1970, because the library panics then, nor if the system has no random numbers.
pub(crate) fn tickets(clock: Clock) -> Arc<dyn ProducesTickets> {
    Arc::new(Tickets {
        clock,
        inner: OnceLock::new(),
    })
}

#[derive(Debug)]
struct Tickets {
    clock: Clock,
    /// Made at the first use. `None`: the system had no random numbers.
    inner: OnceLock<Option<Arc<dyn ProducesTickets>>>,
}

impl Tickets {
    fn inner(&self) -> Option<&dyn ProducesTickets> {
        let made = || rustls::crypto::aws_lc_rs::Ticketer::new().ok();
        let is_set = self.clock.now().unix_ms() > 0;
        is_set.then(|| self.inner.get_or_init(made).as_deref())?
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.inner().is_some()
    }

    fn lifetime(&self) -> u32 {
        self.inner().map_or(0, ProducesTickets::lifetime)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.inner()?.decrypt(cipher)
    }
}
