//! What the gateway asks of services, and what comes of it.

use std::fmt;
use std::sync::Arc;

use super::Service;
use crate::hub::Frame;
use crate::wire::traceparent::Trace;

/// A request to a service.
#[derive(Clone, Debug)]
pub struct Call {
    /// Chosen by the gateway, comes back with the reply.
    pub id: u64,
    /// Which service is called.
    pub service: Service,
    /// The request body.
    pub body: Vec<u8>,
    /// Which trace it belongs to.
    pub trace: Trace,
    /// Reads what comes of it.
    pub reader: Reader,
}

/// Makes frames of what comes of a call. Whoever makes the call reads, and not the loop: an answer
/// may be large, and nobody but its client should wait for it. Pure, as all of a gateway is.
#[derive(Clone)]
pub struct Reader(Arc<dyn Fn(Result<Answer, CallFailure>) -> ForClient + Send + Sync>);

/// What the client of a call gets: an answer, or an error in its place.
pub type ForClient = Result<Arc<Frame>, Arc<Frame>>;

impl Reader {
    /// One that reads like this.
    pub fn new(
        read: impl Fn(Result<Answer, CallFailure>) -> ForClient + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// What comes back to the loop of the call `id`.
    pub fn read(&self, id: u64, outcome: Result<Answer, CallFailure>) -> Reply {
        let failure = outcome.as_ref().err().copied();
        Reply {
            id,
            failure,
            frame: (self.0)(outcome),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// What came of a [`Call`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// Of the call.
    pub id: u64,
    /// Why there is no answer, where there is none.
    pub failure: Option<CallFailure>,
    /// What the call's [`Reader`] made of it.
    pub frame: ForClient,
}

/// A service's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Media type, empty if none was given.
    pub content_type: String,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// No answer in time.
    Timeout,
    /// Refused, cut, or nonsense.
    Unreachable,
    /// The answer is over its limit.
    TooLarge,
}
