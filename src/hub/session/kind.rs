//! The names of the phases, for those who count them.

/// Where a connection stands in its life (docs/contributing/lifecycle.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseKind {
    /// The request head is on its way.
    Head,
    /// The client gets messages, or a close waits for the last of them.
    Open,
    /// The last bytes are on their way; what the client sends is discarded.
    Closing,
    /// The shell was told to end the socket, or has it for HTTP.
    Gone,
}

/// A session has changed its phase: the gauges follow
/// ([`HubStats::moved`](crate::hub::HubStats)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(in crate::hub) struct Moved {
    /// `None`: the session is new.
    pub(in crate::hub) from: Option<PhaseKind>,
    pub(in crate::hub) to: PhaseKind,
    /// Open, before or now, with another protocol than WebSocket.
    pub(in crate::hub) is_other: bool,
}
