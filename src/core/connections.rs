//! How many connections there may be, and how much memory they may take together: of the loop and of the HTTP side.
//!
//! Each connection is a permit in one sum ([`ConnectionPermit`]). Over a limit, connections of plain HTTP without a
//! request under way end for a new connection. Only if there is none, the request of the new connection is refused,
//! and the response names the limit. A refused connection is in another sum until it ends, so that it takes no room of
//! others. Over that sum a connection is closed without a response.
//!
//! A probe is answered although there is no room: a load balancer would take the instance out of service, and an
//! orchestrator restart it, because its clients are many.

use super::core::Core;
use super::protocol::RequestRefusal;
use super::session::Session;
use super::{CloseReason, SessionKey, SocketEnd};
use weirgate_wire::RequestHead;
use weirgate_wire::admission::{ConnectionPermit, Full, Peer, Quota, Sharing, Transport};

/// The paths at which load balancers and orchestrators ask whether the process lives.
const PROBES: [&str; 3] = ["/health", "/healthz", "/ready"];

/// Whether a request asks whether the process lives.
pub(super) fn is_probe(head: &RequestHead<'_>) -> bool {
    matches!(head.method(), "GET" | "HEAD") && PROBES.contains(&head.path())
}

/// What becomes of a connection for which there is no room.
#[derive(Clone, Copy, Debug)]
pub(super) enum WithoutRoom<'a> {
    /// Its request has yet to come. It is refused then, unless it is a probe.
    Waits,
    /// Its request is a probe, which is answered. Then the connection ends.
    Probe,
    /// Its request is refused now; the head is as for [`Core::refuse`].
    Refused(Option<&'a RequestHead<'a>>),
}

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
    pub(super) fn permit(&self, peer: &Peer, transport: Transport) -> ConnectionPermit {
        ConnectionPermit::new(
            &self.connections,
            peer.client(),
            transport,
            self.now.mono_us,
        )
    }

    /// Makes room for a connection that is new or has grown. Returns false if there is none: the connection gets a
    /// refusal now or later, or ends.
    pub(super) fn fit_connection(&mut self, key: SessionKey, without: WithoutRoom<'_>) -> bool {
        let limits = &self.limits;
        let session = self.clients.session(key);
        let Some((session, permit)) = session.and_then(|s| Some((s, s.permit()?))) else {
            return false;
        };
        // There was no room before: only a probe is answered, and charged what its response takes.
        if permit.is_last_request() {
            let later = session.later_refusal();
            return match (without, later) {
                (WithoutRoom::Probe, Some(later)) => self.fit_refused(key, later, without),
                _ => false,
            };
        }
        // A trusted proxy brings the clients of many addresses, so it has no share.
        let peer = session.peer();
        let is_of_proxy = limits.trusted_proxies.trusts_peer(&peer)
            && permit.held().address() == peer.client().group();
        let sharing = match is_of_proxy {
            true => Sharing::Unshared,
            false => Sharing::ByAddress,
        };
        let fitted = permit.fit(limits.connections_max, sharing, self.now.mono_us);
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
        self.fit_refused(key, (RequestRefusal::for_now(503, detail), reason), without)
    }

    /// Makes room for a connection among those that get a refusal, or ends it. Returns whether its request is answered.
    fn fit_refused(
        &mut self,
        key: SessionKey,
        (refusal, reason): (RequestRefusal, CloseReason),
        without: WithoutRoom<'_>,
    ) -> bool {
        let Some(session) = self.clients.session_mut(key) else {
            return false;
        };
        let Some((client, transport)) = session
            .permit()
            .map(|permit| (permit.held().address(), permit.transport()))
        else {
            return false;
        };
        let bytes = match without {
            // Its answer is plain HTTP.
            WithoutRoom::Probe => ConnectionPermit::bytes_of_http(transport),
            WithoutRoom::Waits | WithoutRoom::Refused(_) => {
                ConnectionPermit::bytes_of_loop(transport)
            }
        };
        let Some(held) = self.refused.grant(client, bytes) else {
            self.end(key, reason, SocketEnd::Reset);
            return false;
        };
        session.set_permit(ConnectionPermit::of_last_request(held, transport));
        session.refuse_later(refusal, reason);
        if let WithoutRoom::Refused(stream) = without {
            self.refuse(key, refusal, reason, stream);
        }
        matches!(without, WithoutRoom::Probe)
    }

    /// Refuses a request that came without room for its connection. Returns false if there is room.
    pub(super) fn refuse_without_room(&mut self, key: SessionKey) -> bool {
        let session = self.clients.session(key);
        let refusal = session.and_then(Session::later_refusal);
        if let Some((refusal, reason)) = refusal {
            // `None`: even a client of an event stream gets the status alone.
            self.refuse(key, refusal, reason, None);
        }
        refusal.is_some()
    }
}
