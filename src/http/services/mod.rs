//! The services behind a gateway: where each one is, and the connections to it.
//!
//! Knows no contract: names, URLs and paths are handed in. `calls` and `proxy` each keep a `Pool`
//! of their own for a service, because they run on threads of their own and have limits of their
//! own.

mod ask;
mod away;
mod link;
mod pool;
mod stats;
mod upstream;

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use self::away::Answering;
pub use self::away::ServicesAway;
pub(super) use self::pool::{Again, Ended, Failure, FailureReason, Lease, Place, Policy, Pool};
pub(super) use self::stats::{ByService, RequestMetrics, RequestStats, numbers, pairs};
pub use self::upstream::Upstream;

/// A service behind the gateway.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    upstream: Upstream,
    /// Only where the service is at `https://`.
    tls: Option<TlsConnector>,
    /// The same for all clones.
    answering: Arc<Answering>,
}

/// Its name, and where it is.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service {} at {}", self.name, self.upstream)
    }
}

impl Service {
    /// A service that metrics and logs call `name`. `tls` is used where it is at `https://`.
    pub fn new(name: &'static str, upstream: Upstream, tls: Option<Arc<ClientConfig>>) -> Self {
        let tls = tls.filter(|_| upstream.wants_tls());
        Self {
            name,
            upstream,
            tls: tls.map(TlsConnector::from),
            answering: Arc::new(Answering::new(name)),
        }
    }

    /// The value of the label `service` in metrics.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Where the service is.
    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }
}
