//! How many connections there may be, and how much memory they may take together: of the loop and of the HTTP side.
//!
//! Each connection is a permit in one sum ([`ConnectionPermit`]). Over a limit, connections of plain HTTP without a request under
//! way end for a new connection. Only if there is none, the new connection is refused, with the limit that counted. A
//! refused connection is in another sum until it ends, so that it takes no room of others. Over that sum a connection is
//! closed without a response.

use super::core::Core;
use super::protocol::RequestRefusal;
use super::{CloseReason, SessionKey};
use weirgate_wire::admission::{ConnectionPermit, Full, LOOP_BYTES, Peer, Quota, address_group};
use weirgate_wire::head::RequestHead;

impl Core {
    /// The sum of all connections.
    pub fn connections_held(&self) -> &Quota {
        &self.connections
    }

    /// The sum of the connections that get a refusal.
    pub(super) fn refused_held(&self) -> &Quota {
        &self.refused
    }

    /// Connections, including those handed to HTTP, those that end to make room, and those that get a refusal.
    pub fn connections(&self) -> usize {
        self.connections.holders() + self.refused.holders()
    }

    /// Charges a new connection.
    pub(super) fn permit(&self, peer: &Peer, is_tls: bool) -> ConnectionPermit {
        ConnectionPermit::new(&self.connections, peer.client(), is_tls, self.now.mono_us)
    }

    /// Makes room for a connection that is new or has grown. Returns false if there is none: the connection is refused,
    /// or ends. `stream` is as for [`refuse`](Self::refuse).
    pub(super) fn fit_connection(
        &mut self,
        key: SessionKey,
        stream: Option<&RequestHead<'_>>,
    ) -> bool {
        let limits = &self.limits;
        let session = self.clients.session(key);
        let Some((session, permit)) = session.and_then(|s| Some((s, s.permit()?))) else {
            return false;
        };
        // A trusted proxy brings the clients of many addresses, so it has no share.
        let peer = session.peer();
        let is_of_proxy = limits.trusted_proxies.trusts_peer(&peer)
            && permit.held().address() == address_group(peer.client());
        let fitted = permit.fit(limits.connections_max, !is_of_proxy, self.now.mono_us);
        let Err(full) = fitted else {
            return true;
        };
        let reason = match full {
            Full::Holders => limits.connections_max_is,
            Full::Sum | Full::Share => CloseReason::ConnectionMemory,
        };
        let detail = match (full, reason) {
            (Full::Share, _) => {
                "Too many connections from this address for the memory of all connections"
            }
            (_, CloseReason::ConnectionMemory) => "Too many connections for their memory",
            (_, CloseReason::OpenFiles) => "Too many connections for the limit on open files",
            _ => "Too many connections",
        };
        let client = permit.held().address();
        match self.refused.grant(client, LOOP_BYTES) {
            Some(charge) => {
                if let Some(session) = self.clients.session_mut(key) {
                    session.set_permit(ConnectionPermit::of(charge));
                }
                let refusal = RequestRefusal::for_now(503, detail);
                self.refuse(key, refusal, reason, stream);
            }
            None => self.end(key, reason, true),
        }
        false
    }
}
