//! How long interest in a subject travels between the servers of NATS.

use std::time::Duration;

/// How long interest may travel from the server of a connection to the other servers. The server confirms a
/// subscription before the other servers know it, and messages published there until then do not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The time between the server's confirmation and weirgate's.
    pub time: Duration,
    /// Whether the operator has set the time: it counts on every server. `false`: only on a server with a cluster name.
    pub always: bool,
}

impl Settle {
    /// Confirmed as soon as the server confirms.
    pub const NEVER: Self = Self {
        time: Duration::ZERO,
        always: false,
    };

    /// Whether the operator says that all publishers are at the server of the connection, and in its account
    /// (`--bus-settle-ms 0`), so interest does not travel. Only then is nothing lost on the way to that server. Links to
    /// other servers (leaf nodes) and other accounts (imports) can break without a sign, and a server does not tell its
    /// clients of either.
    pub const fn says_one_server(self) -> bool {
        self.always && self.time.is_zero()
    }

    /// The time to wait on a server with or without a cluster name.
    pub(super) fn after(self, is_clustered: bool) -> Duration {
        match self.always || is_clustered {
            true => self.time,
            false => Duration::ZERO,
        }
    }
}
