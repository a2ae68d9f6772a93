//! The seam between the core and the client side of a contract.

use std::fmt;
use std::sync::Arc;

use super::protocol::Speaks;
use super::{BusNotice, CloseCode, CloseReason, Core, Ended, Frame, Publication, SessionKey};
use crate::admission::AddressPlace;
use crate::wire::head::RequestHead;
use crate::wire::traceparent::Trace;

/// What a gateway says of a request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The upgrade is accepted.
    Accept(Accepted),
    /// Accepted, then closed at once with this code: browsers cannot see an HTTP status.
    AcceptThenClose(Accepted, CloseCode),
    /// Refused with a status and a `{"detail":…}` body.
    Refuse {
        /// HTTP status.
        status: u16,
        /// For the body.
        detail: &'static str,
    },
    /// Not for the reactor: the socket and what was read go to the HTTP side.
    ToHttp,
}

/// How an upgrade is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// `Sec-WebSocket-Protocol` of the answer: one of those offered.
    pub protocol: Option<String>,
    /// Outbound messages a second; over it data is shed. `None`: no limit.
    pub outbound_per_second: Option<u32>,
    /// What the client speaks from here on: WebSocket, where nothing else is said.
    pub speaks: Speaks,
    /// Who it is, for the log line at its end.
    pub user: Option<Box<str>>,
}

/// A whole message from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Text, checked to be UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

/// A request to a service outside, carried out by the shell.
#[derive(Clone, Debug)]
pub struct Call {
    /// Chosen by the gateway, comes back with the reply.
    pub id: u64,
    /// Index in the gateway's table of services.
    pub service: u16,
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

/// The client side of a contract. It acts on the core at once; what needs the shell goes through
/// the core's effects. Pure: no socket, no clock (`core.now()`), no thread.
pub trait Gateway {
    /// What the HTTP side or `main` may ask for.
    type Command: Send;

    /// A whole, well-formed request head; WebSocket upgrade or not.
    fn upgrade(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission;

    /// The 101 is queued: the first frames may follow. Comes right after the
    /// [`upgrade`](Self::upgrade) that accepted it, or, when the request was no good, never.
    fn opened(&mut self, core: &mut Core, key: SessionKey);

    /// A whole message. After a close nothing more comes.
    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>);

    /// A publication of the feed. Most gateways hand it to the topic's members.
    fn published(&mut self, core: &mut Core, publication: &Publication) {
        core.publish(publication);
    }

    /// What the bus says of itself.
    fn noticed(&mut self, core: &mut Core, notice: &BusNotice) {
        let _ = (core, notice);
    }

    /// The answer to a [`Call`].
    fn reply(&mut self, core: &mut Core, reply: Reply) {
        let _ = (core, reply);
    }

    /// A command from outside.
    fn command(&mut self, core: &mut Core, command: Self::Command);

    /// The deadline that was set with [`Core::set_deadline`].
    fn deadline(&mut self, core: &mut Core, key: SessionKey) {
        let _ = (core, key);
    }

    /// A connection that was [`opened`](Self::opened) has ended; it is a member of nothing.
    fn closed(&mut self, core: &mut Core, key: SessionKey, reason: CloseReason);

    /// Nothing is under way for clients that have gone: a stop waits for it.
    fn is_idle(&self) -> bool {
        true
    }

    /// The close at a stop of the process.
    fn stop_code(&self) -> CloseCode {
        CloseCode::bare(1012)
    }

    /// The close for a missing pong.
    fn pong_timeout_code(&self) -> CloseCode {
        CloseCode {
            code: 1011,
            text: "keepalive ping timeout",
        }
    }
}

/// The little that leaves the core.
#[derive(Debug)]
pub enum Effect {
    /// The socket's sending side is done: shut it down, go on reading until the peer ends.
    HalfClose(SessionKey),
    /// End the socket, then say `released`.
    Release {
        /// Which.
        key: SessionKey,
        /// Drop what the kernel still holds (a client that does not read), instead of letting it
        /// drain.
        reset: bool,
        /// For the log line.
        ended: Ended,
    },
    /// Hand the socket to the HTTP side with the bytes read so far, then say `released`.
    ToHttp {
        /// Which.
        key: SessionKey,
        /// What was read, from the request line on.
        read: Vec<u8>,
        /// Its place in the connection limits; dropped when the connection ends.
        permit: Permit,
    },
    /// Reading was paused and goes on: what the kernel holds comes with no new event.
    Resume(SessionKey),
    /// Ask a service.
    Call(Call),
    /// A topic got its first member, or lost its last.
    Interest {
        /// The topic's name.
        topic: super::TopicName,
        /// Somebody wants it.
        wanted: bool,
    },
}

/// A place in the connection limits, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    /// Held for its count alone.
    _place: Arc<()>,
    /// Among the connections of its address, once that is known.
    _of_address: Option<AddressPlace>,
}

impl Permit {
    /// Takes one of `places`.
    pub fn new(places: &Arc<()>) -> Self {
        Self {
            _place: Arc::clone(places),
            _of_address: None,
        }
    }

    /// Counts it for an address; for the one before no more.
    pub(super) fn hold(&mut self, place: Option<AddressPlace>) {
        self._of_address = place;
    }

    /// How many are out. `places` itself is one holder.
    pub fn taken(places: &Arc<()>) -> usize {
        Arc::strong_count(places) - 1
    }
}

/// One write: slices that go to one client, in order.
#[derive(Debug)]
pub struct Write<'a> {
    /// Whose socket.
    pub key: SessionKey,
    /// At least one, none empty.
    pub slices: &'a [std::io::IoSlice<'a>],
}

/// Takes batches of writes to the sockets. Returns only when no buffer is in use any more.
pub trait Transmit {
    /// Tries each write once and says in `wrote`, in the same order, how many bytes were taken.
    /// `WouldBlock`: none now; a `writable` event will come. Another error: the socket is dead.
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<std::io::Result<usize>>);
}
