//! The interface between the core and the client side of a contract.

use std::sync::Arc;

use super::message::payload_alone;
use super::protocol::{Incoming, RequestRefusal};
use super::{
    Accepted, BusNotice, ByClient, CloseCode, CloseReason, CopyFor, Core, Frame, FrameBytes,
    Limits, NameSource, OnBus, Publication, SessionKey, TopicName,
};
use weirgate_wire::RequestHead;
use weirgate_wire::admission::{ClientAddr, Quota};
use weirgate_wire::auth::Origins;

/// A gateway's decision about a client's request; `C` is the gateway's state of the client.
#[derive(Debug)]
pub enum Admission<C> {
    /// The upgrade is accepted.
    Accept(Accepted, C),
    /// The upgrade is accepted, then closed at once with this code: browsers cannot see an HTTP status.
    AcceptThenClose(Accepted, CloseCode),
    /// The request is refused with a status.
    Refuse(RequestRefusal),
}

/// The gateway's state of a client whose connection has ended. The state is inside, so that no gateway can go on with
/// the client's work without handling a cut.
#[derive(Debug)]
pub enum Closed<C> {
    /// The client, the network, a limit or a stop has ended the connection: what the client has asked for may go on.
    Ended(C, CloseReason),
    /// An operator has cut the client off ([`CloseReason::Revoked`]): nothing more is done for it. What waits is dropped
    /// and counted.
    Cut(C),
}

impl<C> Closed<C> {
    /// Why the connection has ended.
    pub const fn reason(&self) -> CloseReason {
        match self {
            Self::Ended(_, reason) => *reason,
            Self::Cut(_) => CloseReason::Revoked,
        }
    }
}

/// Who may send requests to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance<'a> {
    /// Clients, for pages of these origins; requests from other origins are refused with 403.
    Clients(&'a Origins),
    /// Clients, for pages of these origins, but no event streams, which [`Limits::event_stream`] allows elsewhere.
    WebSockets(&'a Origins),
    /// Pages: the HTTP side handles any request.
    Http,
    /// Nothing for clients: 403.
    None,
}

/// The client side of a contract. A gateway acts on the core at once; work for other threads goes out
/// through [`poll_output`](Self::poll_output). Pure: no socket, no clock (`core.now()`), no thread.
///
/// A callback about a client gets the gateway's state of that client; inputs and notices come with the
/// states of all clients. By default a callback does nothing, and a publication goes to the members of
/// its topic.
///
/// # Which call is which
/// | calls | methods |
/// | --- | --- |
/// | questions, which change nothing | [`entrance`](Self::entrance), [`has_room_for`](Self::has_room_for), [`poll_timeout`](Self::poll_timeout), [`holdings`](Self::holdings), [`pong_timeout_code`](Self::pong_timeout_code), [`stop_code`](Self::stop_code), [`shown_topic`](Self::shown_topic), [`source_of`](Self::source_of), [`subjects_of`](Self::subjects_of), [`asks_for_newest`](Self::asks_for_newest), [`render`](Self::render) |
/// | of one client | [`admit`](Self::admit), [`handle_opened`](Self::handle_opened), [`handle_message`](Self::handle_message), [`handle_rest`](Self::handle_rest), [`handle_answered`](Self::handle_answered), [`handle_deadline`](Self::handle_deadline), [`handle_drained`](Self::handle_drained), [`reads_to_the_end`](Self::reads_to_the_end), [`handle_stopping`](Self::handle_stopping), [`handle_closed`](Self::handle_closed) |
/// | of the bus and of other threads | [`handle_publication`](Self::handle_publication), [`handle_notice`](Self::handle_notice), [`handle_input`](Self::handle_input), [`handle_timeout`](Self::handle_timeout) |
/// | work for other threads | [`poll_output`](Self::poll_output) |
///
/// The order for one client: `entrance`, `admit`, and `handle_opened` if the client was accepted and stays; then the
/// others in any order; at a stop `handle_stopping`; at last `handle_closed`. If a call ends a client, `handle_closed`
/// follows after that call.
///
/// # Examples
/// Every client is a member of one topic:
/// ```
/// use std::convert::Infallible;
/// use weirgate_core::{Accepted, Admission, ByClient, Core, Gateway, SessionKey, TopicName};
/// use weirgate_wire::RequestHead;
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
    /// The gateway's state of a client. The hub keeps the state from the 101 until
    /// [`handle_closed`](Self::handle_closed), which gets the state back.
    type Client;

    /// Input from other threads; [`Infallible`](std::convert::Infallible) for none.
    type In: Send;

    /// Work for other threads; [`Infallible`](std::convert::Infallible) for none.
    type Out;

    /// Whether [`render`](Self::render) makes binary frames too, for clients that ask for them with `?payload=binary`.
    const HAS_BINARY: bool = false;

    /// Whether clients can ask for the newest messages ([`Core::newest`]). Without, the history keeps none of them for
    /// longer than other messages.
    const HAS_LAST: bool = false;

    /// Whether the gateway asks the stream that is the kept feed for newest messages ([`Core::keep_newest`]). If so, the
    /// history gives no message from before a loss as the newest: the stream may have a newer one.
    fn asks_for_newest(&self) -> bool {
        false
    }

    /// The kind of a request's path, which is as the client sent it. By default clients at every path, for pages of any
    /// origin. Called for every request, but it decides only about upgrades and requests for event streams: other
    /// requests go to the HTTP side.
    fn entrance(&self, path: &str) -> Entrance<'_> {
        let _ = path;
        Entrance::Clients(Origins::any())
    }

    /// Decides on a whole request, valid in its protocol, that [`entrance`](Self::entrance) accepts.
    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Self::Client>;

    /// Called when the response to the request, such as a 101, is queued: the first frames may follow.
    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// Whether there is room for another message from the clients at this address. Without room, the
    /// clients' data stays in the sockets, and the addresses take turns when room becomes free. Called
    /// before each message. By default there is always room.
    fn has_room_for(&self, client: ClientAddr) -> bool {
        let _ = client;
        true
    }

    /// Called when a client has ended its side while the hub has paused reading it: data may be unread. Returns whether
    /// the gateway wants that data. The hub then reads the data before it ends the client, but only if the client waits
    /// for nothing else than its share of the next turn. By default the client ends at once, because it would not read
    /// a response.
    fn reads_to_the_end(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Self::Client,
    ) -> bool {
        let _ = (core, key, client);
        false
    }

    /// Handles a whole message. No message comes after a close. A message that takes long, such as a request with very
    /// many names, is handled in steps, while [`Core::has_share`].
    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Self::Client,
        message: Incoming<'_>,
    ) {
        let _ = (core, key, client, message);
    }

    /// Goes on with the request for which the gateway has called [`Core::go_on_later`].
    fn handle_rest(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// Called at the first sign of life of a client after [`Core::probe`]: a message, a ping or a pong.
    fn handle_answered(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// Called at the deadline of [`Core::set_deadline`].
    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// The time of the next [`handle_timeout`](Self::handle_timeout), in microseconds of the monotonic
    /// clock, for work that belongs to no client. `None`: no timeout.
    fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// Called at the time of [`poll_timeout`](Self::poll_timeout).
    fn handle_timeout(&mut self, core: &mut Core, clients: &mut ByClient<Self::Client>) {
        let _ = (core, clients);
    }

    /// Called when the send queue is drained, after [`Core::request_drained`], or when the client has taken its answers,
    /// after [`Core::has_to_take_answers`]. Mostly during the flush: a gateway leaves work that takes long for a later part
    /// of the turn.
    fn handle_drained(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// Called when the connection of a client has ended. The client is a member of no topic and can
    /// receive nothing more. [`Core::member_count`] says whether others hold its topics. By default nothing more is done
    /// for the client.
    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<Self::Client>) {
        let _ = (core, key, closed);
    }

    /// The frame of a message of the feed for the members of its own name, or of a pattern. Called for each of these
    /// and each kind of content when a live client or a resume first needs the frame; the history keeps it. `alive`
    /// counts the memory of the frame. By default the payload alone.
    fn render(copy: &CopyFor<'_>, alive: &FrameBytes) -> Arc<Frame> {
        payload_alone(copy, alive)
    }

    /// Handles a publication of the feed. Most gateways pass the publication to the topic's members.
    fn handle_publication(&mut self, core: &mut Core, publication: &Publication) {
        core.publish(publication);
    }

    /// Handles a notice of the bus.
    fn handle_notice(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Self::Client>,
        notice: &BusNotice,
    ) {
        let _ = (core, clients, notice);
    }

    /// Handles an input from another thread.
    fn handle_input(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Self::Client>,
        input: Self::In,
    );

    /// The next work for another thread. The shell calls this at the end of each turn until it returns `None`.
    fn poll_output(&mut self) -> Option<Self::Out> {
        None
    }

    /// Called before a stop closes the client, so that the gateway can send its last frames.
    fn handle_stopping(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        let _ = (core, key, client);
    }

    /// All that the gateway holds for clients, for the metrics.
    fn holdings(&self) -> Vec<Quota> {
        Vec::new()
    }

    /// The name of a topic for operators. By default the name itself; where a name alone opens a client's messages, a
    /// hash of it.
    fn shown_topic(name: &TopicName) -> TopicName {
        name.clone()
    }

    /// Where the messages of a name that a client holds come from, and the bus's word on it. By default the messages
    /// are live.
    fn source_of(&self, name: &TopicName) -> (NameSource, OnBus) {
        let _ = name;
        (NameSource::Live, OnBus::Confirmed)
    }

    /// The subjects of the bus that a name brings. By default, and if the gateway does not know them, `None`: any subject.
    fn subjects_of(&self, name: &TopicName) -> Option<&[String]> {
        let _ = name;
        None
    }

    /// The close code for a missing pong; by default 1011.
    fn pong_timeout_code(&self) -> CloseCode {
        CloseCode::new(1011, "keepalive ping timeout")
    }

    /// The close code at a stop of the process; by default [`Limits::stop_code`] without a text.
    fn stop_code(&self, limits: &Limits) -> CloseCode {
        CloseCode::bare(limits.stop_code)
    }
}
