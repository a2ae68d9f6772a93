//! The seam between the core and the client side of a contract.

use super::protocol::{Incoming, Speaks};
use super::{
    BusNotice, ByClient, CloseCode, CloseReason, Core, Limits, Publication, SessionKey, TopicName,
};
use crate::admission::ClientAddr;
use crate::auth::Origins;
use crate::wire::head::RequestHead;

/// What a gateway decides about a client's request; `C` is what the gateway keeps of the
/// client.
#[derive(Debug)]
pub enum Admission<C> {
    /// The upgrade is accepted.
    Accept(Accepted, C),
    /// Accepted, then closed at once with this code: browsers cannot see an HTTP status.
    AcceptThenClose(Accepted, CloseCode),
}

/// What a gateway has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance<'a> {
    /// Clients, for pages of these origins; others are refused with 403.
    Clients(&'a Origins),
    /// Pages: whatever the request asks for, the HTTP side answers it.
    Http,
    /// Nothing that a client could be connected to: 403.
    None,
}

/// How an upgrade is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// `Sec-WebSocket-Protocol` of the answer: one of those offered.
    pub protocol: Option<String>,
    /// Outbound messages a second; over it data is shed. `None`: no limit.
    pub outbound_per_second: Option<u32>,
    /// Who it is, for the log line at its end.
    pub user: Option<Box<str>>,
    /// Why the client is closed at once, for the same line: the label of a metric.
    pub refusal: Option<&'static str>,
}

/// The client side of a contract. It acts on the core at once; what other threads have to do goes
/// out through [`poll_output`](Self::poll_output). Pure: no socket, no clock (`core.now()`), no
/// thread.
///
/// A callback about one client gets what the gateway keeps of that client; inputs and notices come
/// with what the gateway keeps of all clients. By default a callback does nothing, and a
/// publication goes to the members of its topic.
///
/// # Examples
/// Every client is a member of one topic:
/// ```
/// use std::convert::Infallible;
/// use weirgate::hub::{Accepted, Admission, ByClient, Core, Gateway, SessionKey, TopicName};
/// use weirgate::wire::head::RequestHead;
///
/// struct News;
///
/// impl Gateway for News {
///     type Client = ();
///     type In = Infallible;
///     type Out = Infallible;
///
///     fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
///         Admission::Accept(Accepted::default(), ())
///     }
///
///     fn handle_opened(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
///         core.join(key, &TopicName::fixed("news"));
///     }
///
///     fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
///         match never {}
///     }
/// }
/// ```
pub trait Gateway {
    /// What the gateway keeps of one client. The hub holds it from the 101 until
    /// [`handle_closed`](Self::handle_closed), which is given it back.
    type Client;

    /// What other threads tell the gateway; [`Infallible`](std::convert::Infallible) for nothing.
    type In: Send;

    /// What other threads do for the gateway; [`Infallible`](std::convert::Infallible) for nothing.
    type Out;

    /// The protocol that a client with this request speaks; `None`: the request is one for the HTTP
    /// side. By default WebSocket for a request that asks for an upgrade.
    fn speaks(&self, head: &RequestHead<'_>) -> Option<Speaks> {
        head.asks_upgrade().then_some(Speaks::WEBSOCKET)
    }

    /// What the request of a client finds at `path`, which is as the client sent it. By default
    /// clients at every path, for pages of any origin. Requests of which [`speaks`](Self::speaks)
    /// returns `None` go to the HTTP side unasked.
    fn entrance(&self, path: &str) -> Entrance<'_> {
        let _ = path;
        Entrance::Clients(Origins::any())
    }

    /// Whether clients may ask for an event stream at `path`, if
    /// [`Limits::event_stream`] allows event streams. By default
    /// wherever [`entrance`](Self::entrance) has clients.
    fn streams_at(&self, path: &str) -> bool {
        matches!(self.entrance(path), Entrance::Clients(_))
    }

    /// A whole request, valid in its protocol, that [`entrance`](Self::entrance) lets in.
    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Self::Client>;

    /// The answer to the request, as a 101, is queued: the first frames may follow.
    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// Whether there is room for another message of the clients at this address. Without room, what the
    /// clients send stays in their sockets, and the addresses take turns in what becomes free. Asked
    /// before each message. By default there is always room.
    fn has_room_for(&self, client: ClientAddr) -> bool {
        let _ = client;
        true
    }

    /// The client has ended its side, and what it sent before was not read: the client is not read for
    /// now. `true`: the client is to be read to its end first, if nothing but its next share of a turn
    /// is missing. By default the client ends at once: nobody hears an answer.
    fn reads_to_the_end(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Self::Client,
    ) -> bool {
        let _ = (core, key, client);
        false
    }

    /// A whole message. After a close nothing more comes.
    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Self::Client,
        message: Incoming<'_>,
    ) {
        let _ = (core, key, client, message);
    }

    /// The deadline that was set with [`Core::set_deadline`].
    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, in microseconds of the monotonic clock:
    /// for work that belongs to no client. `None`: not by itself.
    fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// The moment of [`poll_timeout`](Self::poll_timeout) has come.
    fn handle_timeout(&mut self, core: &mut Core, clients: &mut ByClient<Self::Client>) {
        let _ = (core, clients);
    }

    /// The room that was asked for with [`Core::tell_room`] is there.
    fn handle_room(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// The connection of a client has ended. The client is a member of nothing, and nothing more
    /// can be sent to it.
    fn handle_closed(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: Self::Client,
        reason: CloseReason,
    ) {
        let _ = (core, key, client, reason);
    }

    /// The last member of a topic has ended, and no client has joined the topic since. Not called
    /// when the last member leaves: then [`Core::leave`] returns
    /// [`Left::Last`](super::Left::Last).
    fn handle_emptied(&mut self, core: &mut Core, topic: &TopicName) {
        let _ = (core, topic);
    }

    /// A publication of the feed. Most gateways hand it to the topic's members.
    fn handle_publication(&mut self, core: &mut Core, publication: &Publication) {
        core.publish(publication);
    }

    /// What the bus says of itself.
    fn handle_notice(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Self::Client>,
        notice: &BusNotice,
    ) {
        let _ = (core, clients, notice);
    }

    /// What another thread tells the gateway.
    fn handle_input(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Self::Client>,
        input: Self::In,
    );

    /// The next thing that another thread has to do. The shell asks after every input until there
    /// is nothing left.
    fn poll_output(&mut self) -> Option<Self::Out> {
        None
    }

    /// The close at a stop of the process. By default [`Limits::stop_code`] without a text.
    fn stop_code(&self, limits: &Limits) -> CloseCode {
        CloseCode::bare(limits.stop_code)
    }

    /// The close for a missing pong.
    fn pong_timeout_code(&self) -> CloseCode {
        CloseCode::new(1011, "keepalive ping timeout")
    }
}
