//! A connection as a permit: the memory that it takes while it is open, in a sum over all connections.
//!
//! | the connection | takes |
//! | --- | --- |
//! | of the loop: a request head, a WebSocket, an event stream | [`ConnectionPermit::LOOP_BYTES`] |
//! | of plain HTTP | [`ConnectionPermit::HTTP_BYTES`] |
//! | over TLS, from the accept on | [`ConnectionPermit::TLS_BYTES`] more |
//! | with certificates of the client (`--tls-client-ca`) | what they take |
//! | with a token: its user and its marks | what they take |
//! | with names in the token (channels), several symbols (trades), or a long name or trace (events) | what they take |
//!
//! The figures are measured: `tests/client_memory.rs` and `tests/blackbox/test_connection_memory.py` compare them with
//! the allocator and with the process. They do not contain what grows with the input or the output of a client, such as
//! messages, records of TLS and bodies, which is charged as it comes; nor the memory of the kernel.

use std::fmt;
use std::sync::Arc;

use super::{ClientAddr, Full, Permit, Quota, Room, Sharing};

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP.
    Plain,
    /// A handshake of TLS.
    Tls,
}

/// A connection under the limits on connections. Given back when dropped.
pub struct ConnectionPermit {
    held: Permit,
    /// Whether the HTTP thread serves the connection; otherwise the loop does.
    is_http: bool,
    transport: Transport,
    /// Whether the connection ends after the answer to its request. The amount of `held` then stays as it is.
    is_last: bool,
    /// Memory of the client's certificates, of what its token says, and of what the gateway keeps for this client beyond
    /// others.
    certificate_bytes: u32,
    token_bytes: u32,
    client_bytes: u32,
    /// Counts as a connection of the address while it exists ([`Self::count_for_address`]); `None`: of no address.
    _of_address: Option<Arc<()>>,
}

impl ConnectionPermit {
    /// Memory of a connection that the loop serves, bytes: the session, the gateway's client, the socket, their entries
    /// in tables, and the ring of a short queue.
    pub const LOOP_BYTES: u64 = 1_280;

    /// Memory of a connection that the HTTP thread serves, bytes: hyper with its buffers, the task, the socket.
    pub const HTTP_BYTES: u64 = 14 * 1024;

    /// Memory of the TLS of a connection, bytes.
    pub const TLS_BYTES: u64 = 5 * 1024;

    /// Memory of a connection that the loop serves, with or without TLS, bytes.
    pub const fn bytes_of_loop(transport: Transport) -> u64 {
        match transport {
            Transport::Tls => Self::LOOP_BYTES + Self::TLS_BYTES,
            Transport::Plain => Self::LOOP_BYTES,
        }
    }

    /// Memory of a connection that the HTTP thread serves, with or without TLS, bytes.
    pub const fn bytes_of_http(transport: Transport) -> u64 {
        Self::bytes_of_loop(transport) - Self::LOOP_BYTES + Self::HTTP_BYTES
    }

    /// Charges a new connection of the loop to `all`, whatever the limit ([`fit`](Self::fit)).
    ///
    /// ```
    /// use weirgate_wire::admission::{ConnectionPermit, Full, Quota, Rest, RestKind, Sharing, Transport};
    ///
    /// let all = Quota::new("connection_bytes", 3 * ConnectionPermit::LOOP_BYTES);
    /// let client = std::net::IpAddr::from([192, 0, 2, 1]).into();
    /// let permit = || ConnectionPermit::new(&all, client, Transport::Plain, 0);
    /// let mut permits: Vec<_> = (0..3).map(|_| permit()).collect();
    /// permits[0].held().rest(Rest { kind: RestKind::Idle, since_us: 0 });
    /// assert_eq!(permits[2].fit(9, Sharing::Unshared, 1), Ok(()));
    /// assert!(permits[0].held().is_evicted(), "before the sum is full");
    /// permits.push(permit());
    /// assert_eq!(permits[3].fit(9, Sharing::Unshared, 1), Err(Full::Sum), "it has not ended");
    /// drop(permits.remove(0));
    /// assert_eq!(permits[2].fit(9, Sharing::Unshared, 1), Ok(()));
    /// ```
    pub fn new(all: &Quota, client: ClientAddr, transport: Transport, now_us: u64) -> Self {
        let mut permit = Self::of(all.hold(client, 0, now_us));
        permit.transport = transport;
        permit.charge(now_us);
        permit
    }

    /// A connection whose permit was granted elsewhere: `held` stays as it is, and the connection is charged nothing more
    /// so far.
    pub fn of(held: Permit) -> Self {
        // Not evicted for others until its owner says that it rests.
        held.work();
        Self {
            held,
            is_http: false,
            transport: Transport::Plain,
            is_last: false,
            certificate_bytes: 0,
            token_bytes: 0,
            client_bytes: 0,
            _of_address: None,
        }
    }

    /// A connection for which there is no room: it ends after the answer to its request. Its permit stays as it was granted,
    /// because nothing of it may take the room of others.
    pub fn of_last_request(held: Permit, transport: Transport) -> Self {
        Self {
            is_last: true,
            transport,
            ..Self::of(held)
        }
    }

    /// What the connection has begun with.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether the connection ends after the answer to its request.
    pub fn is_last_request(&self) -> bool {
        self.is_last
    }

    /// Charges what the connection takes as plain HTTP.
    pub fn move_to_http(&mut self, now_us: u64) {
        self.is_http = true;
        self.charge(now_us);
    }

    /// Charges what the connection takes as one of the loop.
    pub fn move_to_loop(&mut self, now_us: u64) {
        self.is_http = false;
        self.charge(now_us);
    }

    /// Charges the certificates that the client has sent, its own and the others of its chain: TLS keeps all of them.
    pub fn set_certificate_bytes(&mut self, bytes: usize, now_us: u64) {
        self.set(|permit| &mut permit.certificate_bytes, bytes, now_us);
    }

    /// Charges what the client's token says.
    pub fn set_token_bytes(&mut self, bytes: usize, now_us: u64) {
        self.set(|permit| &mut permit.token_bytes, bytes, now_us);
    }

    /// Charges what the gateway keeps for this client beyond others.
    pub fn set_client_bytes(&mut self, bytes: usize, now_us: u64) {
        self.set(|permit| &mut permit.client_bytes, bytes, now_us);
    }

    /// Sets one of the parts, and charges the sum if that changes it.
    fn set(&mut self, part: fn(&mut Self) -> &mut u32, bytes: usize, now_us: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if std::mem::replace(part(self), bytes) != bytes {
            self.charge(now_us);
        }
    }

    /// Charges the sum of all that the connection takes.
    fn charge(&mut self, now_us: u64) {
        if self.is_last {
            return;
        }
        let of_kind = match self.is_http {
            true => Self::bytes_of_http(self.transport),
            false => Self::bytes_of_loop(self.transport),
        };
        let more = [self.certificate_bytes, self.token_bytes, self.client_bytes];
        let more: u64 = more.map(u64::from).iter().sum();
        self.held.set(of_kind + more, now_us);
        // A connection is evicted for others only while its owner says that it rests.
        self.held.work();
    }

    /// Makes room for the connection ([`Permit::fit`]).
    ///
    /// # Errors
    /// A limit leaves no room, and no other connection can end for this one.
    pub fn fit(&self, connections_max: usize, sharing: Sharing, now_us: u64) -> Result<(), Full> {
        let room = Room {
            holders_max: connections_max,
            sharing,
            // The HTTP thread ends resting connections, so they still count for a while.
            early: true,
        };
        self.held.fit(room, now_us)
    }

    /// The permit of the connection: its owner says whether the connection rests, and ends it if it has to be evicted.
    pub fn held(&self) -> &Permit {
        &self.held
    }

    /// Counts the connection for no address.
    pub fn leave_address(&mut self) {
        self._of_address = None;
    }

    /// Counts the connection for an address, and no longer for the previous address. All connections of an address have
    /// clones of `of_address`.
    pub fn count_for_address(&mut self, of_address: Arc<()>) {
        self._of_address = Some(of_address);
    }
}

impl fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.fmt(f)
    }
}
