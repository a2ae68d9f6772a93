//! Connections that pass between the reactor and the HTTP thread, in both directions.

use crate::listening::tls::TlsSession;
use std::net::TcpStream;
use std::sync::Arc;
use weirgate_wire::admission::{ConnectionPermit, HeldBytes, Peer};

/// A connection in transfer: from the reactor with a plain request, or back to the reactor with a request for
/// a WebSocket or an event stream.
#[derive(Debug)]
pub struct Handover {
    /// The socket, nonblocking.
    pub stream: TcpStream,
    /// The connection's TLS; `None` for a plain connection.
    pub tls: Option<Box<TlsSession>>,
    /// The bytes read so far, from the start of the request line on.
    pub read: HeldBytes,
    /// The other end.
    pub peer: Peer,
    /// Counts the connection towards the limit. Dropped when the connection has ended.
    pub permit: ConnectionPermit,
}

/// Returns a connection with a request for a WebSocket or an event stream to the reactor. Called on the HTTP thread, so
/// it must not block.
pub(crate) type ReturnToReactor = Arc<dyn Fn(Handover) + Send + Sync>;
