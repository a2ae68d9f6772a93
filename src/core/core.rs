//! The state on which a gateway acts: sessions, topics, closes, deadlines. [`super::Hub`] has the gateway beside the
//! core, so that a callback of the gateway may change anything here at once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::addresses::Addresses;
use super::clients::Clients;
use super::deadlines::Deadlines;
use super::deflated::Compressor;
use super::doubts::Doubts;
use super::ends::Drain;
use super::flush::{Laps, Scratch};
use super::history::History;
use super::large_encoding::LargeEncoder;
use super::left::LeftKeys;
use super::losses::Losses;
use super::memory::FrameMemory;
use super::message::payload_alone;
use super::overload::Overload;
use super::publication::Delivery;
use super::queue_rooms::QueueRooms;
use super::refused_names::RefusedNames;
use super::session::{CloseBegun, PendingClose, Received, Session};
use super::shell::{Cuts, Effect};
use super::slow::waits::Waits;
use super::survey::Surveys;
use super::tables::SlotSet;
use super::topics::{Joined, TopicKey, Topics};
use super::turn::Turn;
use super::{
    CloseCode, CloseReason, Closing, Content, Frame, FrameBytes, HubStats, Limits, Now, PhaseKind,
    Publication, Render, SessionKey, TopicName,
};
use weirgate_wire::FrameScratch;
use weirgate_wire::admission::{ClientAddr, ConnectionPermit, FairQueue, Peer, Quota};
use weirgate_wire::auth::TokenMarks;
use weirgate_wire::base::SplitMix64;
use weirgate_wire::deflate::InflateWindows;

/// Connections that get a refusal have memory of their own: one `REFUSED_SHARE`th of that of all connections, but
/// enough for 16 of them without TLS.
const REFUSED_SHARE: u64 = 16;
const REFUSED_BYTES_MIN: u64 = 16 * ConnectionPermit::LOOP_BYTES;

/// For each open client, [`Core::paced_us`] makes its interval this much longer, up to [`PACED_US_MAX`].
const PACED_CLIENT_US: u64 = 400;
const PACED_US_MAX: u64 = 45_000_000;

/// The state of one hub without its gateway. The gateway acts through the core.
///
/// | methods | file |
/// | --- | --- |
/// | what is: `now`, `limits`, `stats`, `peer`, `phase`, members, counts; `send`, `publish`, `close`; `join`, `leave` | here |
/// | a new client: `admit_peer`, `read_head`, `admit_request`, then `open` or `refuse` | `handshake.rs` |
/// | `pause_reading`, `resume_reading`, `probe`; after a loss on the bus `lose`, then `walk` and `take_loss` for each client | `reading.rs`, `losses.rs` |
/// | the kept feed: `keep`, `position`, `render`, `begin_feed` | `kept_feed.rs` |
/// | `missed` or `newest`, then `send_missed`; older messages: `fits`, `replay`, `request_drained`; unread answers: `has_to_take_answers`; a stop: `set_busy`, `set_idle` | `resume.rs`, `replay.rs`, `ends.rs` |
#[derive(Debug)]
pub struct Core {
    pub(super) now: Now,
    pub(super) limits: Limits,
    pub(super) clients: Clients,
    pub(super) topics: Topics,
    pub(super) deadlines: Deadlines,
    /// The path of the last request: the next client shares its text if it has the same path.
    pub(super) last_path: Arc<str>,
    pub(super) effects: VecDeque<Effect>,
    /// Sessions that were open and have ended, for the gateway.
    pub(super) ended: VecDeque<(SessionKey, CloseReason)>,
    pub(super) left: LeftKeys,
    /// Sessions that are still members of topics that they have left, and the reason if the session has ended.
    pub(super) leaving: VecDeque<(SessionKey, Option<CloseReason>)>,
    /// Sessions that a stop closes.
    pub(super) stopping: VecDeque<SessionKey>,
    /// Sessions whose queue is drained, or that have taken their answers, as the gateway has requested.
    pub(super) drained: Vec<SessionKey>,
    /// Sessions whose reading continues after a pause.
    pub(super) resumed: Vec<SessionKey>,
    /// Sessions that have used up their share of this turn. Their addresses take turns when reading continues.
    pub(super) next_turn: FairQueue<SessionKey>,
    /// Sessions whose requests go on once there is memory for the frames of older messages
    /// ([`Core::may_begin_resume`]). Their addresses take turns.
    pub(super) no_frame_room: FairQueue<SessionKey>,
    /// Sessions that are not read because the gateway has no room for a message; their addresses take
    /// turns when room becomes free.
    pub(super) no_room: FairQueue<SessionKey>,
    /// Whether room may have become free since a search in `no_room` last found no session.
    pub(super) room_was_freed: bool,
    /// The history is being filled with stored messages of the bus, which no client gets live. Meanwhile no client
    /// gets a position, and none can resume.
    pub(super) is_filling: bool,
    pub(super) losses: Losses,
    pub(super) doubts: Doubts,
    pub(super) turn: Turn,
    pub(super) received: Received,
    pub(super) drain: Option<Drain>,
    pub(super) cuts: Cuts,
    /// Clients with work under way in the gateway; some of the clients may have ended.
    pub(super) busy: HashSet<SessionKey, RandomState>,
    pub(super) frame_scratch: FrameScratch,
    pub(super) compressor: Compressor,
    pub(super) large_encoder: LargeEncoder,
    pub(super) inflate_windows: InflateWindows,
    pub(super) scratch: Scratch,
    pub(super) laps: Laps,
    /// The receivers of the message that is being published, in the order of their slots, which is their order in
    /// memory; empty between messages.
    ordered: SlotSet,
    pub(super) overload: Overload,
    pub(super) memory: FrameMemory,
    pub(super) rooms: QueueRooms,
    pub(super) surveys: Surveys,
    pub(super) refused_names: RefusedNames,
    pub(super) waits: Waits,
    /// Times from ping to pong, microseconds, since the shell last took the list.
    pub(super) pongs_us: Vec<u32>,
    pub(super) history: Option<Box<History>>,
    pub(super) render: Render,
    /// The name of a topic as operators see it.
    pub(super) shown_topic: fn(&TopicName) -> TopicName,
    /// Missed messages that wait for resuming clients.
    pub(super) resumed_messages: Quota,
    /// Memory of all connections, including connections handed to HTTP.
    pub(super) connections: Quota,
    /// Memory of the connections that get a refusal, or the answer to a probe, for want of room.
    pub(super) refused: Quota,
    pub(super) addresses: Addresses,
    next_generation: u32,
    pub(super) frame_bytes: FrameBytes,
    random: SplitMix64,
}

impl Core {
    /// Makes a core. `frame_bytes` counts the frames of feed and gateways together; `seed` determines
    /// the jitter.
    pub fn new(limits: Limits, frame_bytes: FrameBytes, seed: u64) -> Self {
        Self {
            compressor: Compressor::new(&limits),
            large_encoder: LargeEncoder::new(&limits),
            inflate_windows: InflateWindows::new(limits.inflate_windows_bytes_max),
            addresses: Addresses::new(limits.per_ip),
            now: Now::default(),
            clients: Clients::new(limits.gather_us),
            topics: Topics::default(),
            last_path: Arc::default(),
            deadlines: Deadlines::default(),
            effects: VecDeque::new(),
            ended: VecDeque::new(),
            left: LeftKeys::default(),
            leaving: VecDeque::new(),
            stopping: VecDeque::new(),
            drained: Vec::new(),
            resumed: Vec::new(),
            next_turn: FairQueue::default(),
            no_frame_room: FairQueue::default(),
            no_room: FairQueue::default(),
            room_was_freed: false,
            is_filling: false,
            losses: Losses::default(),
            doubts: Doubts::default(),
            turn: Turn::default(),
            received: Received::new(limits.unfinished_bytes_max),
            drain: None,
            cuts: Cuts::default(),
            busy: HashSet::default(),
            frame_scratch: FrameScratch::new(),
            scratch: Scratch::default(),
            laps: Laps::default(),
            ordered: SlotSet::default(),
            overload: Overload::default(),
            memory: FrameMemory::default(),
            rooms: QueueRooms::default(),
            surveys: Surveys::default(),
            refused_names: RefusedNames::default(),
            render: payload_alone,
            shown_topic: TopicName::clone,
            waits: Waits::default(),
            pongs_us: Vec::new(),
            history: History::new(limits.history, limits.kept_stream, &frame_bytes).map(Box::new),
            resumed_messages: Quota::new("resumed_messages", limits.resume_messages_max),
            connections: Quota::new("connection_bytes", limits.connection_bytes_max),
            refused: Quota::new(
                "refused_bytes",
                (limits.connection_bytes_max / REFUSED_SHARE).max(REFUSED_BYTES_MIN),
            ),
            limits,
            next_generation: 0,
            frame_bytes,
            random: SplitMix64::new(seed),
        }
    }

    // ---- getters

    /// The time of the current call to the gateway.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// An interval at which each open client gets something. It is at least `least_us`, and grows with the number of
    /// clients, so that all clients together get at most 2,500 a second. It grows up to 45 s only, because many proxies
    /// end a connection that is silent for a minute.
    pub fn paced_us(&self, least_us: u64) -> u64 {
        least_us.max((self.stats().open * PACED_CLIENT_US).min(PACED_US_MAX))
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &HubStats {
        &self.clients.stats
    }

    /// The counter for new frames.
    pub fn frame_bytes(&self) -> &FrameBytes {
        &self.frame_bytes
    }

    /// The peer's address, while the session exists.
    pub fn peer(&self, key: SessionKey) -> Option<Peer> {
        self.clients.session(key).map(Session::peer)
    }

    /// The client's address, while the session exists: the peer's address, or the address that a trusted proxy names.
    pub fn client_addr(&self, key: SessionKey) -> Option<ClientAddr> {
        self.clients.session(key).map(Session::client_addr)
    }

    /// The kind of frames in which the client gets the messages of the feed.
    pub fn content(&self, key: SessionKey) -> Content {
        let session = self.clients.session(key);
        session.map_or_else(Content::default, Session::content)
    }

    /// Whether the session is open and takes data.
    pub fn is_open(&self, key: SessionKey) -> bool {
        self.clients.session(key).is_some_and(Session::takes_data)
    }

    /// The phase of the session, while its socket exists.
    pub fn phase(&self, key: SessionKey) -> Option<PhaseKind> {
        self.clients.session(key).map(Session::phase)
    }

    /// Bytes of the frames that wait for the client; a partly written frame counts whole.
    pub fn unsent_bytes(&self, key: SessionKey) -> usize {
        self.clients
            .session(key)
            .map_or(0, Session::queued_and_held_bytes)
    }

    /// Members of a topic.
    pub fn member_count(&self, topic: &TopicName) -> usize {
        self.topics.member_count(topic)
    }

    /// Members of a topic, in no particular order.
    pub fn members(&self, topic: &TopicName) -> impl Iterator<Item = SessionKey> {
        self.topics.members(topic)
    }

    /// Whether the client is a member of the topic.
    pub fn is_member(&self, key: SessionKey, topic: &TopicName) -> bool {
        self.topics.has(key, topic)
    }

    /// The memberships of all topics together.
    pub fn memberships(&self) -> usize {
        self.topics.memberships()
    }

    /// Topics with members or a retained frame.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Topics of one session.
    pub fn joined_count(&self, key: SessionKey) -> usize {
        self.topics.joined_count(key.slot)
    }

    /// The topics of one session, in no particular order.
    pub fn joined(&self, key: SessionKey) -> impl Iterator<Item = &TopicName> {
        self.topics.joined(key.slot)
    }

    /// Addresses with current or recent connections, if connections are limited by address.
    pub fn known_addresses(&self) -> usize {
        self.addresses.known()
    }

    /// Entries among the deadlines: at most one for each session.
    pub fn deadline_entries(&self) -> usize {
        self.deadlines.len()
    }

    /// Returns a number of the seeded generator ([`SplitMix64`]): jitter, identifiers in tests.
    pub fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    // ---- commands

    /// Puts a frame in one client's queue. Nothing happens if the client is gone or closing.
    pub fn send(&mut self, key: SessionKey, frame: &Arc<Frame>) {
        self.notify_loss(key);
        self.send_unknown_left_frames(key);
        self.clients.deliver(self.now, &self.limits, key, frame);
        if frame.class().is_answer()
            && let Some(session) = self.clients.session_mut(key)
        {
            session.note_answer(frame);
        }
        // Only publications wait for more; what is for one client goes out at once, and what waits goes with it.
        self.clients.end_gathering(self.now, key);
    }

    /// Whether `frames` data frames of `bytes` bytes together would be queued for the client now: the send queue stays
    /// within its soft limit, and the client's rate allows the frames.
    pub fn fits(&mut self, key: SessionKey, frames: usize, bytes: usize) -> bool {
        let (now, soft_bytes) = (self.now, self.limits.send_queue.soft_bytes);
        let session = self.clients.session_mut(key);
        session.is_some_and(|session| session.fits(now, frames, bytes, soft_bytes))
    }

    /// Puts the frame in the queue of every member, and keeps the frame for new clients if so
    /// requested.
    pub fn publish(&mut self, publication: &Publication) {
        self.keep(publication);
        // No pattern: to the members of the publication's own topic.
        self.publish_copy(publication, None);
    }

    /// Sends a frame to the members of its topic, or holds it while the loop is behind (`overload.rs`).
    pub(super) fn publish_frame(&mut self, delivery: Delivery<'_>) {
        if self.hold_back(delivery) {
            return;
        }
        if let Some(topic) = self.topics.key_for(delivery) {
            self.publish_to(topic, delivery);
        }
    }

    /// Sends a frame that does not wait to the members of its topic.
    pub(super) fn publish_to(&mut self, topic: TopicKey, delivery: Delivery<'_>) {
        let has_members = self.topics.retain(topic, delivery, self.now);
        if has_members && delivery.deliver {
            self.deliver(topic, delivery);
            self.begin_overload_if_behind();
        }
    }

    /// Puts the frame in the queue of every member.
    pub(super) fn deliver(&mut self, topic: TopicKey, delivery: Delivery<'_>) {
        self.deliver_counted(delivery, |core| core.deliver_to_members(topic, delivery));
    }

    /// Notes a publication if `deliver` puts it in a queue.
    #[inline]
    pub(super) fn deliver_counted(
        &mut self,
        delivery: Delivery<'_>,
        deliver: impl FnOnce(&mut Self),
    ) {
        self.remove_left_frames();
        let queued = self.clients.stats.messages_queued;
        deliver(self);
        if self.clients.stats.messages_queued > queued {
            self.laps.count_published(delivery.frame);
            self.note_gathered(delivery.frame);
        }
    }

    /// Delivers to the receivers of a topic, in the order of their slots if they are many and scattered: neighbours in
    /// memory are then visited one after the other.
    fn deliver_to_members(&mut self, topic: TopicKey, delivery: Delivery<'_>) {
        let frame = delivery.frame;
        self.notify_members(delivery.topic);
        let receivers = self.topics.receivers(topic, frame);
        if !self.topics.is_scattered(topic) {
            for key in receivers {
                self.clients.deliver(self.now, &self.limits, key, frame);
            }
            return;
        }
        receivers.for_each(|key| self.ordered.insert(key.slot));
        self.deliver_in_order(frame);
    }

    /// Delivers a held state with this number to the receivers that have to get it.
    pub(super) fn deliver_held_to_members(
        &mut self,
        topic: TopicKey,
        delivery: Delivery<'_>,
        number: u64,
    ) {
        self.notify_members(delivery.topic);
        let is_for = self.overload.receives(delivery.topic, number);
        let receivers = self.topics.receivers(topic, delivery.frame);
        let receivers = receivers.filter(move |key| is_for(*key));
        receivers.for_each(|key| self.ordered.insert(key.slot));
        self.deliver_in_order(delivery.frame);
    }

    /// Puts a frame in the queues of the clients in `ordered`, in the order of their slots, and empties that set.
    fn deliver_in_order(&mut self, frame: &Arc<Frame>) {
        let mut next = 0;
        while let Some(slot) = self.ordered.take_from(next) {
            next = slot + 1;
            if let Some(key) = self.clients.key_at(slot) {
                self.clients.deliver(self.now, &self.limits, key, frame);
            }
        }
        debug_assert!(self.ordered.is_empty(), "receivers that got nothing");
    }

    /// Makes the client a member; the topic's retained frame is the client's first frame.
    pub fn join(&mut self, key: SessionKey, topic: &TopicName) -> Joined {
        if !self.is_open(key) {
            return Joined::NotOpen;
        }
        // The losses so far concern only the topics joined so far, so the client is notified of them before it joins
        // this topic.
        self.notify_loss(key);
        self.remove_left_frames();
        let (joined, retained) = self.topics.join(key, topic, self.content(key));
        if joined != Joined::Already {
            // States that are held from before the join are not for this client: it gets the retained frame.
            self.overload.note_seen(topic, key);
        }
        if let Some(frame) = retained {
            self.send(key, &frame);
        }
        joined
    }

    /// Closes an open client. If it is closed more than once, the first close counts.
    pub fn close(&mut self, key: SessionKey, code: CloseCode, reason: CloseReason, how: Closing) {
        let due = self.now.mono_us + self.limits.close_timeout_us;
        let now = self.now;
        let code = self.with_retry_after(code, reason);
        if how != Closing::Bare {
            // Frames that the throttle holds are sent before the close.
            self.clients.open_throttle(now, &self.limits, key);
        }
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        match session.begin_close(now, PendingClose { code, reason, how }, due) {
            CloseBegun::Ignored => {}
            CloseBegun::Waits => {
                self.clients.end_gathering(self.now, key);
                // The session has not ended: there is no end to report yet.
                self.leave_all(key, None);
                self.arm(key);
            }
            CloseBegun::Written => self.start_closing(key, reason),
        }
    }

    /// Requests one call of [`super::Gateway::handle_deadline`] at `at_us`; a later call replaces the
    /// time, and `None` cancels the request.
    pub fn set_deadline(&mut self, key: SessionKey, at_us: Option<u64>) {
        if let Some(session) = self.clients.session_mut(key) {
            session.set_gateway_deadline(at_us);
            self.arm(key);
        }
    }

    /// Sets the hash of a name that the client has chosen itself: its user, for the log and the operator's page, unless
    /// it has shown a certificate.
    pub fn set_own_name(&mut self, key: SessionKey, name: Box<str>) {
        if let Some(session) = self.clients.session_mut(key) {
            session.record().set_own_name(Some(name));
        }
    }

    /// Sets the user and the marks of a new token: all by which an operator can find its connection.
    pub fn set_token(&mut self, key: SessionKey, user: Option<Box<str>>, marks: Arc<TokenMarks>) {
        if let Some(session) = self.clients.session_mut(key) {
            let record = session.record();
            record.set_user(user);
            record.marks = Some(marks);
            // `None`: what the gateway keeps for the client has not changed.
            session.count_client(None, self.now);
        }
    }

    /// Sets the role that counts for a client's token from now on.
    pub fn set_role(&mut self, key: SessionKey, role: &str) {
        if let Some(session) = self.clients.session_mut(key) {
            let record = session.record();
            let marks = record.marks.as_deref().cloned().unwrap_or_default();
            let roles = [role.into()].into();
            record.marks = Some(Arc::new(TokenMarks { roles, ..marks }));
            // As in `set_token`.
            session.count_client(None, self.now);
        }
    }

    /// Lets no later compressed message to the client refer to an earlier message, until the connection ends.
    pub fn leave_window(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.leave_window();
        }
    }

    /// Charges the client's connection for `bytes`: what the gateway keeps for this client in addition to what it keeps
    /// for every client. Replaces the earlier number.
    pub fn set_client_bytes(&mut self, key: SessionKey, bytes: usize) {
        if let Some(session) = self.clients.session_mut(key) {
            session.count_client(Some(bytes), self.now);
        }
    }

    /// Sets the reason of a refusal for the log line at the client's end. `refusal` is the label of the metric for it.
    pub fn set_refusal(&mut self, key: SessionKey, refusal: &'static str) {
        if let Some(session) = self.clients.session_mut(key) {
            session.record().refusal = Some(refusal);
        }
    }

    // ---- inside

    /// Adds a session for a new connection, whose request head is to be read.
    pub(super) fn insert(&mut self, peer: Peer, permit: ConnectionPermit) -> SessionKey {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let session = Session::new(generation, peer, self.now, permit, &self.limits);
        let slot = self.clients.insert(session);
        let key = SessionKey { slot, generation };
        self.clients.stats.heads += 1;
        self.arm(key);
        key
    }

    /// Moves the session's entry in `deadlines` to the session's earliest deadline, unless the entry has an earlier
    /// time already.
    pub(super) fn arm(&mut self, key: SessionKey) {
        let (now, limits) = (self.now, &self.limits);
        let session = self.clients.session_mut(key);
        if let Some((before, at)) = session.and_then(|session| session.arm(now, limits)) {
            self.deadlines.arm(key, before, at);
        }
    }

    /// A client that is closed at a stop or a move, or with 1013 ("try again later", the registry of RFC 6455 §11.7), will
    /// reconnect. Adds the time for which the client should wait before that.
    fn with_retry_after(&self, code: CloseCode, reason: CloseReason) -> CloseCode {
        let is_sent_away = matches!(reason, CloseReason::ShuttingDown | CloseReason::Moved);
        match is_sent_away || code.code == 1013 {
            true => CloseCode {
                retry_after_ms: self.limits.close_retry_after_ms.max(code.retry_after_ms),
                ..code
            },
            false => code,
        }
    }
}
