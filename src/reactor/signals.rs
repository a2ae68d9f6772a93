//! SIGTERM and SIGINT as events of the poll.

use std::io;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

/// What the process was asked to do since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StopRequests(pub(super) u32);

pub(super) struct StopSignals {
    inner: Signals,
}

impl StopSignals {
    pub(super) fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        let mut inner = Signals::new([SIGTERM, SIGINT])?;
        registry.register(&mut inner, token, Interest::READABLE)?;
        Ok(Self { inner })
    }

    /// How many stop signals came.
    pub(super) fn pending(&mut self) -> StopRequests {
        StopRequests(self.inner.pending().count() as u32)
    }
}
