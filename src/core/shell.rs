//! The interface between the core and the shell, which owns the sockets: work on sockets, writes, and ended
//! connections.

use std::collections::VecDeque;
use std::{fmt, io};

use super::{CloseReason, Cut, RevokedFull, SessionKey, SlowReason, TcpSample};
use weirgate_wire::admission::{ClientAddr, ConnectionPermit, HeldBytes, Peer};

/// A request to close clients.
pub struct CutRequest {
    /// The clients.
    pub whom: Whom,
    /// Called after the last client.
    pub tell: Box<dyn FnOnce(CutDone) + Send>,
}

/// The clients of a [`CutRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// All that the list of refusals refuses.
    Refused,
    /// Those that meet all conditions.
    Chosen(Cut),
    /// So many, whichever they are, as at a stop: they may come back at once, and do so to any process of the port.
    Any {
        /// The number.
        clients: u64,
        /// The time over which their closes are spread.
        spread_us: u64,
    },
}

/// The outcome of a [`CutRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutDone {
    /// Closed clients.
    pub clients: u64,
    /// The latest end of their tokens, Unix milliseconds; `None` if no token says when it ends.
    pub tokens_end: Option<i64>,
    /// The token that is refused from now on, if the request named a single connection.
    pub refused: Option<Cut>,
    /// The list of refusals had no room for this token.
    pub full: Option<RevokedFull>,
}

impl fmt::Debug for CutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CutRequest").field(&self.whom).finish()
    }
}

/// The requests; the first is under way.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    pub(super) requests: VecDeque<CutRequest>,
    /// The slot at which the walk has begun: not always the first, so that any client may be meant.
    pub(super) first_slot: usize,
    /// How many slots were visited.
    pub(super) looked_at: usize,
    pub(super) done: CutDone,
}

/// How the peer's side of a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerEnd {
    /// In order: the peer may still read.
    Closed,
    /// By an error.
    Failed,
}

/// How weirgate ends a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    /// The kernel still sends the bytes that it holds.
    Close,
    /// The kernel drops the bytes that it holds, because the client does not read.
    Reset,
}

/// Work on a socket that the hub leaves to the shell.
#[derive(Debug)]
pub enum Effect {
    /// The socket's sending side is done: shut down that side, and read on until the peer ends.
    HalfClose(SessionKey),
    /// End the socket, then call [`Hub::handle_released`](super::Hub::handle_released).
    Release {
        /// The socket's key.
        key: SessionKey,
        /// What becomes of the bytes in the kernel.
        socket_end: SocketEnd,
        /// For the log line.
        ended: Ended,
    },
    /// Hand the socket to the HTTP side with the bytes read so far, then call
    /// [`Hub::handle_released`](super::Hub::handle_released).
    ToHttp {
        /// The socket's key.
        key: SessionKey,
        /// Bytes read so far, from the request line on.
        read: HeldBytes,
        /// The connection's permit under the connection limits. The HTTP side keeps it until the connection ends.
        permit: ConnectionPermit,
    },
    /// Reading continues after a pause. The shell has to read without a new event, because bytes may be in the kernel
    /// already.
    ReadOn(SessionKey),
    /// The request head is not whole in time. The shell reads once more what the client has sent, then calls
    /// [`Hub::handle_last_read`](super::Hub::handle_last_read): a client is not late because the loop is.
    ReadLast(SessionKey),
}

/// Counts of the bytes and messages of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes from the client, the request head included.
    pub bytes_in: u64,
    /// Bytes for the client, taken by the kernel.
    pub bytes_out: u64,
    /// Messages from the client.
    pub messages_in: u64,
    /// Messages taken whole by the kernel.
    pub messages_out: u64,
    /// Messages replaced by newer messages.
    pub messages_conflated: u64,
}

/// The state of an ended client, for the log line.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The other end of the socket.
    pub peer: Peer,
    /// The client's address: the peer's address, or the address that a trusted proxy named.
    pub client: ClientAddr,
    /// The user, as the client's token, certificate or message said.
    pub user: Option<Box<str>>,
    /// The version of TLS; `None` for a plain connection.
    pub tls: Option<&'static str>,
    /// The reason of a refusal where a [`CloseReason`] covers several: `origin`, `path`, or the label
    /// of `weirgate_auth_refusals_total`.
    pub refusal: Option<&'static str>,
    /// Path of the request, without its query; empty before a whole head.
    pub path: Box<str>,
    /// The first reason; later events change nothing.
    pub reason: CloseReason,
    /// The code of the first close frame, or the status that refused the handshake.
    pub code: Option<u16>,
    /// How long the connection lived, microseconds.
    pub age_us: u64,
    /// The traffic of the whole connection.
    pub traffic: Traffic,
    /// The losses of a client that weirgate has dropped; `None` for any other end.
    pub dropped: Option<Dropped>,
}

/// The state of an open client when weirgate dropped it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Messages that waited.
    pub messages: u64,
    /// Bytes of these messages.
    pub bytes: u64,
    /// How long the kernel had taken no byte, microseconds; 0 if nothing waited.
    pub untaken_us: u64,
    /// Why the client was slow; `None` if it was not.
    pub why: Option<SlowReason>,
    /// The cause in words for people, with figures; empty if there are no figures.
    pub say: Box<str>,
}

impl Ended {
    /// Adds the last verdict on a slow client, if weirgate dropped the client or its socket failed. For any other end,
    /// removes [`dropped`](Self::dropped).
    pub(super) fn note_slow(&mut self, reported: Option<(SlowReason, Box<str>)>) {
        let reason = self.reason;
        let is_reported = reported
            .as_ref()
            .is_some_and(|(why, _)| *why != SlowReason::Unclear);
        let failed = reason == CloseReason::SocketError && is_reported;
        self.dropped.take_if(|_| !reason.is_drop() && !failed);
        if let (Some(dropped), Some((why, say))) = (&mut self.dropped, reported) {
            (dropped.why, dropped.say) = (Some(why), say);
        }
    }

    /// Whether the peer left without sending a byte, as load balancers do to check whether a port is open.
    pub fn said_nothing(&self) -> bool {
        let has_gone = [CloseReason::PeerGone, CloseReason::SocketError].contains(&self.reason);
        has_gone && self.traffic.bytes_in == 0
    }
}

/// The facts about a client from its TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    /// The version: `1.2` or `1.3`.
    pub version: &'static str,
    /// The name in the client's certificate, if the client has shown one.
    pub user: Option<Box<str>>,
    /// Memory of the client's certificates, which TLS keeps until the connection ends, bytes.
    pub certificate_bytes: usize,
}

/// A write: slices for one client, in order.
#[derive(Debug)]
pub struct Write<'a> {
    /// The socket's key.
    pub key: SessionKey,
    /// At least one slice, none empty.
    pub slices: &'a [io::IoSlice<'a>],
}

/// Writes batches to the sockets. Returns only when no buffer is in use any more.
pub trait Transmit {
    /// Tries each write once and appends the number of bytes taken to `wrote`, in the same order.
    /// `WouldBlock`: none now; the socket will become writable again. Another error: the socket is
    /// dead.
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>);

    /// The numbers of the kernel about a connection; `None` if it has none, as by default. The caller sets the time of
    /// the sample.
    fn sample(&mut self, key: SessionKey) -> Option<TcpSample> {
        let _ = key;
        None
    }
}
