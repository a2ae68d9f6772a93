//! From the first byte to the response to the request head: the protocol's greeting, a refusal, or the
//! handover to the HTTP side.

use super::addresses::AddressRefusal;
use super::connections::{WithoutRoom, is_probe};
use super::core::Core;
use super::gateway::{Admission, Entrance, Gateway};
use super::hub::Hub;
use super::protocol::{Request, RequestRefusal, Speaks, event_stream};
use super::session::Session;
use super::shell::Effect;
use super::slow::waits::is_proxy;
use super::{Accepted, CloseCode, CloseReason, Closing, Content, Limits, SessionKey};
use weirgate_wire::UpgradeError;
use weirgate_wire::admission::{ClientAddr, HeldBytes, Peer};
use weirgate_wire::auth::Refusal;
use weirgate_wire::deflate::InflateWindows;
use weirgate_wire::{HeadError, RequestHead, write_refusal};

/// The refusal of a client that offered subprotocols, got none, and left at once: the WebSocket of a browser fails then.
pub(crate) const UNCONFIRMED_SUBPROTOCOL: &str = "subprotocol";

/// The detail for a client whose request for a WebSocket came without its upgrade.
const LOST: &str = "This WebSocket request came without Upgrade and Connection, or as HTTP/1.0: a proxy on the way took them off";

/// The detail for a client that asks for binary messages where the gateway has none: it could not read text.
const NO_BINARY: &str = "payload=binary is for weirgate channels only";
/// The detail for a client that asks for payloads alone elsewhere: it would read messages around them as payloads.
const NO_RAW: &str = "payload=raw is for event streams of weirgate channels only";
/// The most times of pongs that are kept for the shell, which takes the list in each turn.
const PONGS_MAX: usize = 4_096;

/// The kind of frames that a client asks for: binary with `?payload=binary`, and on an event stream with `?payload=raw`;
/// otherwise text. Refuses binary unless the gateway `has_binary` frames. The first `payload` counts; other values are
/// ignored.
fn content(
    head: &RequestHead<'_>,
    speaks: Speaks,
    has_binary: bool,
) -> Result<Content, RequestRefusal> {
    if event_stream::asks_raw(head) {
        return match speaks {
            Speaks::EventStream if has_binary => Ok(Content::Binary),
            _ => Err(RequestRefusal::new(400, NO_RAW)),
        };
    }
    match head.parameters("payload").next().as_deref() {
        Some("binary") if has_binary => Ok(Content::Binary),
        Some("binary") => Err(RequestRefusal::new(400, NO_BINARY)),
        _ => Ok(Content::Text),
    }
}

/// The protocol of a client that sends this request; `None`: the request is not of a client.
fn protocol_of(head: &RequestHead<'_>, entrance: &Entrance<'_>, limits: &Limits) -> Option<Speaks> {
    let asks_stream = limits.event_stream && head.asks_event_stream();
    if head.asks_upgrade() && head.lost_upgrade().is_none() {
        Some(Speaks::WebSocket)
    } else if asks_stream && matches!(entrance, Entrance::Clients(_)) {
        Some(Speaks::EventStream)
    } else {
        None
    }
}

/// Whether a refusal may be sent as an event stream, which makes the client reconnect. Only a client that may connect later
/// gets such a stream: no page of a wrong origin, and no monitor.
fn may_return_to_stream(
    head: &RequestHead<'_>,
    speaks: Option<Speaks>,
    entrance: &Entrance<'_>,
) -> bool {
    match (speaks, entrance) {
        (Some(Speaks::EventStream), Entrance::Clients(origins)) => {
            head.method() == "GET" && origins.allow(head)
        }
        _ => false,
    }
}

impl Core {
    /// The windows to which compressed messages of clients may refer.
    pub fn inflate_windows(&self) -> &InflateWindows {
        &self.inflate_windows
    }

    /// Collects the request head; returns the head once complete, and leaves the bytes after the head
    /// in `input`. A head over the limit is refused here.
    pub(super) fn read_head(&mut self, key: SessionKey, input: &mut &[u8]) -> Option<Vec<u8>> {
        let bytes_max = self.limits.head_bytes_max;
        let read = self.clients.session_mut(key)?.read_head(input, bytes_max);
        read.unwrap_or_else(|error| {
            self.refuse_head(key, error);
            None
        })
    }

    /// Counts a new connection for the peer's address. A connection of a trusted proxy is counted once its request head
    /// names the client.
    pub(super) fn admit_peer(&mut self, key: SessionKey) {
        if let Some(peer) = self.peer(key)
            && !self.limits.trusted_proxies.trusts_peer(&peer)
        {
            self.count_connection(key, peer.client(), None);
        }
    }

    /// Records the path and the client's address. Returns false if the address has reached its limit; the refusal is
    /// queued then. `stream` is as for [`refuse`](Self::refuse).
    fn admit_request(
        &mut self,
        key: SessionKey,
        head: &RequestHead<'_>,
        stream: Option<&RequestHead<'_>>,
    ) -> bool {
        let Some(session) = self.clients.session_mut(key) else {
            return false;
        };
        session.record().set_path(head.path(), &mut self.last_path);
        let peer = session.peer();
        let trusted = &self.limits.trusted_proxies;
        if !trusted.trusts_peer(&peer) {
            return true;
        }
        let client = trusted.client(&peer, |name| head.raw_values(name));
        session.record().client = client;
        // From the address of the proxy to that of the client.
        session.move_permit();
        let without = match is_probe(head) {
            true => WithoutRoom::Probe,
            false => WithoutRoom::Refused(stream),
        };
        self.fit_connection(key, without) && self.count_connection(key, client, stream)
    }

    /// Counts the connection for the address. Returns false if the address has reached its limit.
    fn count_connection(
        &mut self,
        key: SessionKey,
        client: ClientAddr,
        stream: Option<&RequestHead<'_>>,
    ) -> bool {
        let session = self.clients.session_mut(key);
        let Some(permit) = session.and_then(Session::permit_mut) else {
            return true;
        };
        let Err(refusal) = self.addresses.admit(client, permit, self.now.mono_us) else {
            return true;
        };
        // `TooMany` lasts until another connection ends, as over `connections_max`: 503. `TooFast` is caused by the
        // client, and passes by waiting: 429 (RFC 6585 §4).
        let (status, detail, reason) = match refusal {
            AddressRefusal::TooMany => (
                503,
                "Too many connections from this address",
                CloseReason::ConnectionsPerIp,
            ),
            AddressRefusal::TooFast => (
                429,
                "Too many new connections from this address",
                CloseReason::ConnectionRatePerIp,
            ),
        };
        let refusal = RequestRefusal::for_now(status, detail);
        self.refuse(key, refusal, reason, stream);
        false
    }

    /// Responds with a status and a `{"detail":…}` body, then closes. `stream`: the head of a request for an event
    /// stream that is valid apart from this refusal. If the refusal is temporary, such a client gets a stream that ends
    /// at once.
    pub(super) fn refuse(
        &mut self,
        key: SessionKey,
        refusal: RequestRefusal,
        reason: CloseReason,
        stream: Option<&RequestHead<'_>>,
    ) {
        let now = self.now;
        let stream = stream.filter(|_| refusal.passes());
        let stream = stream.map(|head| (head, self.random()));
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        if let Some((head, random)) = stream {
            session.record().code = Some(200);
            event_stream::refuse(head, &self.limits, random, session.control(now));
        } else {
            let (status, headers) = (refusal.status, refusal.headers);
            session.record().code = Some(status);
            write_refusal(session.control(now), status, headers, refusal.detail);
        }
        self.clients.stats.refused += 1;
        self.start_closing(key, reason);
    }

    fn refuse_head(&mut self, key: SessionKey, error: HeadError) {
        if let Some(protocol) = error.other_protocol() {
            self.set_refusal(key, protocol);
        }
        self.refuse_request(key, RequestRefusal::new(error.status(), error.reason()));
    }

    fn refuse_request(&mut self, key: SessionKey, refusal: RequestRefusal) {
        self.refuse(key, refusal, CloseReason::BadRequest, None);
    }

    /// Responds to a `HEAD` request for an event stream, which monitors send, and closes.
    fn answer_head(&mut self, key: SessionKey, head: &RequestHead<'_>) {
        let now = self.now;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        session.record().code = Some(200);
        event_stream::answer_head(head, &self.limits, session.control(now));
        // Nothing went wrong: the end counts as that of a client that leaves by itself.
        self.start_closing(key, CloseReason::PeerGone);
    }

    /// Refuses a request for a WebSocket from which a proxy on the way has removed this header, or that it has sent as
    /// HTTP/1.0.
    fn refuse_lost(&mut self, key: SessionKey, header: &'static str) {
        self.set_refusal(key, header);
        let refusal = RequestRefusal {
            detail: LOST,
            ..UpgradeError::NotAsked.into()
        };
        self.refuse(key, refusal, CloseReason::UpgradeLost, None);
    }

    /// Gives a connection whose request is plain HTTP to the HTTP thread, with the bytes that were read of it. If it
    /// has no room there, it ends as `without` says.
    fn hand_to_http(
        &mut self,
        key: SessionKey,
        without: WithoutRoom<'_>,
        (mut read, input): (Vec<u8>, &mut &[u8]),
    ) {
        read.extend_from_slice(input);
        *input = &[];
        let now = self.now;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        let client = session.client_addr();
        if self.limits.trusted_proxies.trusts_peer(&session.peer()) {
            // A proxy keeps its connections and sends the requests of other clients over them, so this connection no
            // longer counts for the address.
            session.leave_address();
            session.give_permit_to_peer();
        }
        session.count_as_http(now);
        if !self.fit_connection(key, without) {
            return;
        }
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        // It may have another permit now.
        session.count_as_http(now);
        let (moved, permit) = session.hand_over();
        self.clients.stats.count_move(moved);
        self.clients.stats.to_http += 1;
        if let Some(permit) = permit {
            let read = HeldBytes::new(&self.limits.http_held, client, read, self.now.mono_us);
            self.effects.push_back(Effect::ToHttp { key, read, permit });
        }
    }

    /// Responds to the request in the client's protocol, and opens the session. Returns false if the session is gone, or the
    /// request was refused.
    fn open(
        &mut self,
        key: SessionKey,
        head: &RequestHead<'_>,
        speaks: Speaks,
        accepted: Accepted,
    ) -> bool {
        let now = self.now;
        let random = self.random();
        let Some(session) = self.clients.session_mut(key) else {
            return false;
        };
        let request = Request {
            head,
            subprotocol: accepted.protocol.as_deref(),
            limits: &self.limits,
            random,
            inflate_windows: &self.inflate_windows,
        };
        let greeted = match speaks.greet(&request, session.control(now)) {
            Ok(greeted) => greeted,
            Err(refusal) => {
                self.refuse_request(key, refusal);
                return false;
            }
        };
        let is_offered = head.header("sec-websocket-protocol").is_some();
        let is_unconfirmed =
            is_offered && accepted.protocol.is_none() && accepted.refusal.is_none();
        let ping_us = self.limits.ping_interval_us;
        // The first ping comes after half an interval to a whole interval, so that ten thousand clients
        // of the same second do not all get a ping in the same millisecond.
        let jitter = random % (ping_us / 2).max(1);
        let first_ping_at = (ping_us > 0).then_some(now.mono_us + ping_us / 2 + jitter);
        let moved = session.open(now, greeted, accepted, first_ping_at);
        let peer = session.peer();
        // What was lost before the client came does not concern it.
        session.know_losses(self.losses.count);
        let stats = &mut self.clients.stats;
        stats.count_move(moved);
        stats.opened += 1;
        self.count_opened_by_proxy(peer);
        self.clients.mark_dirty(self.now, key);
        self.arm(key);
        // A browser fails such a WebSocket. If the client then leaves, the log line says why.
        if is_unconfirmed {
            self.set_refusal(key, UNCONFIRMED_SUBPROTOCOL);
        }
        true
    }
}

impl Core {
    /// Notes the time of a pong that was just read.
    pub(super) fn note_pong(&mut self, key: SessionKey) {
        let session = self.clients.session_mut(key);
        let after_us = session.and_then(|session| session.take_pong_us());
        if self.pongs_us.len() < PONGS_MAX {
            self.pongs_us.extend(after_us);
        }
        self.check_gate(key);
        self.clients.mark_dirty(self.now, key);
        self.arm(key);
    }

    /// Notes that weirgate itself holds a client's bytes back, after the session has written them: the demo shows slow
    /// clients so.
    pub fn set_paced(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.set_paced();
        }
    }

    /// Counts a client that has opened, if it is behind a trusted proxy.
    fn count_opened_by_proxy(&mut self, peer: Peer) {
        if is_proxy(&peer, &self.limits.trusted_proxies) {
            self.waits.count_opened_by_proxy(peer.client());
        }
    }

    /// Counts the end of an open client, if it is behind a trusted proxy.
    pub(super) fn count_ended_by_proxy(&mut self, peer: Peer) {
        if is_proxy(&peer, &self.limits.trusted_proxies) {
            self.waits.count_ended_by_proxy(peer.client());
        }
    }
}

impl<G: Gateway> Hub<G> {
    /// Handles a whole request head; `input` has the bytes after the head.
    pub(super) fn handle_head(&mut self, key: SessionKey, read: Vec<u8>, input: &mut &[u8]) {
        let core = &mut self.core;
        let head = match RequestHead::parse(&read, core.limits.head_headers_max) {
            Ok(head) => head,
            Err(error) => {
                core.refuse_head(key, error);
                return;
            }
        };
        let entrance = self.gateway.entrance(head.path());
        let draining = core.drain.is_some_and(|d| d.closing);
        let lost = head.lost_upgrade();
        let speaks = protocol_of(&head, &entrance, &core.limits);
        let stream = Some(&head).filter(|_| may_return_to_stream(&head, speaks, &entrance));
        if draining && speaks.is_some() {
            let stops = RequestRefusal::for_now(503, "Shutting down");
            core.refuse(key, stops, CloseReason::ShuttingDown, stream);
            return;
        }
        let is_probe = speaks.is_none() && is_probe(&head);
        if !is_probe && core.refuse_without_room(key) {
            return;
        }
        if !core.admit_request(key, &head, stream) {
            return;
        }
        let without_room = match is_probe {
            true => WithoutRoom::Probe,
            false => WithoutRoom::Refused(None),
        };
        let Some(speaks) = speaks else {
            match lost {
                Some(header) if !matches!(entrance, Entrance::Http | Entrance::None) => {
                    core.refuse_lost(key, header);
                }
                _ => core.hand_to_http(key, without_room, (read, input)),
            }
            return;
        };
        let (refusal, text) = match entrance {
            Entrance::Clients(origins) | Entrance::WebSockets(origins) if origins.allow(&head) => {
                self.answer_request(key, &head, speaks);
                return;
            }
            Entrance::Http => {
                core.hand_to_http(key, without_room, (read, input));
                return;
            }
            Entrance::None => ("path", "No WebSocket here"),
            _ => ("origin", "Origin not allowed"),
        };
        core.set_refusal(key, refusal);
        let forbidden = RequestRefusal::new(403, text);
        core.refuse(key, forbidden, CloseReason::Policy, None);
    }

    /// Answers a client's request for a path that has clients: opens the client, or refuses the request.
    fn answer_request(&mut self, key: SessionKey, head: &RequestHead<'_>, speaks: Speaks) {
        let core = &mut self.core;
        let checked = speaks.check(head, &core.limits);
        let has_key = head
            .header("sec-websocket-key")
            .is_some_and(|key| !key.is_empty());
        if checked.is_err() && matches!(speaks, Speaks::WebSocket) && !has_key {
            // A proxy has made a request of HTTP/1.1 of a WebSocket over HTTP/2 (RFC 8441), which has no key.
            core.set_refusal(key, "no_key");
        }
        let content = match checked.and_then(|()| content(head, speaks, G::HAS_BINARY)) {
            Ok(content) => content,
            Err(refusal) => return core.refuse_request(key, refusal),
        };
        if let Some(session) = core.clients.session_mut(key) {
            session.set_content(content);
        }
        if head.method() == "HEAD" {
            core.answer_head(key, head);
            return;
        }
        match self.gateway.admit(core, key, head) {
            Admission::Accept(mut accepted, client) => {
                let (user, marks) = (accepted.user.as_deref(), accepted.marks.as_deref());
                let checked = core.check_not_cut_off(key, user, marks);
                accepted.refusal = checked.err().map(Refusal::label).or(accepted.refusal);
                // Opened in any case: only an open client can be given the code of the close.
                if !core.open(key, head, speaks, accepted) {
                    return;
                }
                if checked.is_err() {
                    core.close(key, CloseCode::REVOKED, CloseReason::Revoked, Closing::Bare);
                    return;
                }
                let client = self.clients.insert(key, client);
                self.gateway.handle_opened(core, key, client);
            }
            Admission::AcceptThenClose(accepted, code) => {
                if core.open(key, head, speaks, accepted) {
                    core.close(key, code, CloseReason::Policy, Closing::Now);
                }
            }
            Admission::Refuse(refusal) => core.refuse_request(key, refusal),
        }
    }
}
