//! Calls of services and their outcome, and the paths between the gateway and its services.

use std::fmt;
use std::sync::Arc;

use super::services::EventsService;
use weirgate_core::Frame;
use weirgate_wire::Trace;

/// A request to a service.
#[derive(Clone, Debug)]
pub struct Call {
    /// The gateway's number of the call; the reply has the same number.
    pub id: u64,
    /// The called service.
    pub service: EventsService,
    /// The request body.
    pub body: Vec<u8>,
    /// The trace of the call.
    pub trace: Trace,
    /// Reads the outcome.
    pub reader: AnswerReader,
}

/// Makes frames from the outcome of a call. The thread of the calls runs it, not the loop: an answer may be large, and
/// only its client should wait. It has no effects, as the whole gateway has none.
#[derive(Clone)]
pub struct AnswerReader(Arc<dyn Fn(Result<ServiceAnswer, CallFailure>) -> ForClient + Send + Sync>);

/// The message for the client of a call: an answer, or an error.
pub(crate) type ForClient = Result<Arc<Frame>, Arc<Frame>>;

impl AnswerReader {
    /// Makes a reader from this function.
    pub fn new(
        read: impl Fn(Result<ServiceAnswer, CallFailure>) -> ForClient + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// Makes the reply of the call `id` for the loop.
    pub fn reply(&self, id: u64, outcome: Result<ServiceAnswer, CallFailure>) -> Reply {
        let failure = outcome.as_ref().err().copied();
        Reply {
            id,
            failure,
            frame: (self.0)(outcome),
        }
    }
}

impl fmt::Debug for AnswerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// The outcome of a [`Call`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// The id of the call.
    pub id: u64,
    /// Why there is no answer, if there is none.
    pub failure: Option<CallFailure>,
    /// The frame from the call's [`AnswerReader`].
    pub frame: ForClient,
}

/// A service's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAnswer {
    /// HTTP status.
    pub status: u16,
    /// Media type, empty if absent.
    pub content_type: String,
    /// The whole body.
    pub body: Vec<u8>,
    /// The content coding that the body still has, because weirgate cannot decode it (RFC 9110 §8.4).
    pub unknown_coding: Option<String>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// No answer in time.
    Timeout,
    /// The connection was refused or cut, or the response was malformed.
    Unreachable,
    /// The answer exceeds the limit.
    TooLarge,
}

/// The path of calls to a service: `POST`, below the path of the service's URL.
pub(crate) const CALL_PATH: &str = "/gateway/handle";

/// The path at which services push events.
pub(crate) const BROADCAST_PATH: &str = "/internal/broadcast";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::events::proxy::ProxiedPath;

    #[test]
    fn the_paths_of_services_are_among_the_inner_ones() {
        for path in [CALL_PATH, BROADCAST_PATH] {
            let first = path.split('/').nth(1).expect("a first part");
            assert!(ProxiedPath::INNER.contains(&first), "{path}");
        }
    }
}
