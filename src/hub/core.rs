//! What a gateway acts on: sessions, topics, closes, deadlines. The gateway itself is beside it in
//! [`super::Hub`], so that a callback may change anything here at once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::clients::Clients;
use super::deadlines::Deadlines;
use super::deflated::Compressor;
use super::drain::Drain;
use super::flush::Scratch;
use super::memory::FrameMemory;
use super::session::{self, CloseBegun, Pauses, PendingClose, Session};
use super::shell::{Effect, Permit};
use super::slot_set::SlotSet;
use super::survey::Surveys;
use super::tail::Tails;
use super::topics::{Joined, Left, Topics};
use super::window::Windows;
use super::{
    CloseCode, CloseReason, Closing, DeflateWindow, Frame, FrameBytes, HubStats, Lead, Limits, Now,
    PhaseKind, Publication, Retain, SessionKey, TopicName,
};
use crate::admission::{Addresses, ClientAddr, FairQueue, Peer};
use crate::base::SplitMix64;
use crate::wire::deflate::InflateWindows;
use crate::wire::frame_reader::FrameScratch;

/// The state of one hub without its gateway.
#[derive(Debug)]
pub struct Core {
    pub(super) now: Now,
    pub(super) limits: Limits,
    pub(super) clients: Clients,
    pub(super) topics: Topics,
    pub(super) deadlines: Deadlines,
    pub(super) effects: VecDeque<Effect>,
    /// Topics that lost their last member because it ended, for the gateway.
    pub(super) emptied: VecDeque<TopicName>,
    /// Sessions that were open and have ended, for the gateway.
    pub(super) ended: VecDeque<(SessionKey, CloseReason)>,
    /// Sessions that have room for which the gateway waits.
    pub(super) roomy: Vec<SessionKey>,
    /// Sessions whose reading goes on.
    pub(super) resumed: Vec<SessionKey>,
    /// Sessions that had their share of this turn; their addresses take turns in going on.
    pub(super) next_turn: FairQueue<SessionKey>,
    /// Sessions that are not read because the gateway has no room for a message; their addresses take
    /// turns in what becomes free.
    pub(super) no_room: FairQueue<SessionKey>,
    /// Room may have become free since the last session of that line was looked for in vain.
    pub(super) room_was_freed: bool,
    /// Message bytes of all clients since [`super::Hub::renew_reading`].
    pub(super) message_bytes: usize,
    pub(super) drain: Option<Drain>,
    /// Clients for which the gateway has something under way, some of which may have ended.
    pub(super) busy: HashSet<SessionKey, RandomState>,
    pub(super) frame_scratch: FrameScratch,
    pub(super) compressor: Compressor,
    pub(super) windows: Windows,
    pub(super) inflate_windows: InflateWindows,
    pub(super) scratch: Scratch,
    /// Receivers of the message that is published, in the order of their memory; empty otherwise.
    ordered: SlotSet,
    pub(super) memory: FrameMemory,
    pub(super) surveys: Surveys,
    pub(super) tails: Tails,
    /// One count per connection, those handed to HTTP included.
    pub(super) places: Arc<()>,
    pub(super) addresses: Addresses,
    next_generation: u32,
    frame_bytes: FrameBytes,
    random: SplitMix64,
}

impl Core {
    /// `frame_bytes` counts the frames of feed and gateways together; `seed` decides the jitter.
    pub fn new(limits: Limits, frame_bytes: FrameBytes, seed: u64) -> Self {
        Self {
            compressor: Compressor::new(&limits),
            windows: Windows::default(),
            inflate_windows: InflateWindows::new(limits.inflate_windows_bytes_max),
            addresses: Addresses::new(limits.per_ip),
            limits,
            now: Now::default(),
            clients: Clients::default(),
            topics: Topics::default(),
            deadlines: Deadlines::default(),
            effects: VecDeque::new(),
            emptied: VecDeque::new(),
            ended: VecDeque::new(),
            roomy: Vec::new(),
            resumed: Vec::new(),
            next_turn: FairQueue::default(),
            no_room: FairQueue::default(),
            room_was_freed: false,
            message_bytes: 0,
            drain: None,
            busy: HashSet::default(),
            frame_scratch: FrameScratch::new(),
            scratch: Scratch::default(),
            ordered: SlotSet::default(),
            memory: FrameMemory::default(),
            surveys: Surveys::default(),
            tails: Tails::default(),
            places: Arc::new(()),
            next_generation: 0,
            frame_bytes,
            random: SplitMix64::new(seed),
        }
    }

    // ---- getters

    /// The instant of the call that the gateway is in.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &HubStats {
        &self.clients.stats
    }

    /// What new frames are counted in.
    pub fn frame_bytes(&self) -> &FrameBytes {
        &self.frame_bytes
    }

    /// The peer's address, while the session exists.
    pub fn peer(&self, key: SessionKey) -> Option<Peer> {
        self.clients.session(key).map(Session::peer)
    }

    /// The client's address, while the session exists: the peer's, or what a trusted proxy says.
    pub fn client_addr(&self, key: SessionKey) -> Option<ClientAddr> {
        self.clients.session(key).map(Session::client_addr)
    }

    /// The session is open and takes data.
    pub fn is_open(&self, key: SessionKey) -> bool {
        self.clients.session(key).is_some_and(Session::takes_data)
    }

    /// Where the session stands, while its socket exists.
    pub fn phase(&self, key: SessionKey) -> Option<PhaseKind> {
        self.clients.session(key).map(Session::phase)
    }

    /// Bytes of frames that wait for the client; one that is half out counts whole.
    pub fn unsent_bytes(&self, key: SessionKey) -> usize {
        self.clients.session(key).map_or(0, Session::queued_bytes)
    }

    /// Members of a topic.
    pub fn member_count(&self, topic: &TopicName) -> usize {
        self.topics.member_count(topic)
    }

    /// Members of a topic, in no order that anyone may lean on.
    pub fn members(&self, topic: &TopicName) -> impl Iterator<Item = SessionKey> {
        self.topics.members(topic)
    }

    /// Members, over all topics.
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

    /// The topics of one session, in no order that anyone may lean on.
    pub fn joined(&self, key: SessionKey) -> impl Iterator<Item = &TopicName> {
        self.topics.joined(key.slot)
    }

    /// Connections, those handed to HTTP included.
    pub fn connections(&self) -> usize {
        Permit::taken(&self.places)
    }

    /// Addresses that have connections or had some lately, where they are limited by address.
    pub fn known_addresses(&self) -> usize {
        self.addresses.known()
    }

    /// Entries in the heap of deadlines: a few for each session.
    pub fn deadline_entries(&self) -> usize {
        self.deadlines.len()
    }

    /// A number from the seeded generator ([`SplitMix64`]): jitter, identifiers in tests.
    pub fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    // ---- commands

    /// Puts a frame in one client's queue. Nothing happens if the client is gone or closing.
    pub fn send(&mut self, key: SessionKey, frame: &Arc<Frame>) {
        self.clients.deliver(self.now, &self.limits, key, frame);
    }

    /// Whether so many data frames of so many bytes together would go to the client: below the soft
    /// limit of its send queue, and within its rate.
    pub fn fits(&mut self, key: SessionKey, frames: usize, bytes: usize) -> bool {
        let (now, soft_bytes) = (self.now, self.limits.send_queue.soft_bytes);
        let session = self.clients.session_mut(key);
        session.is_some_and(|session| session.fits(now, frames, bytes, soft_bytes))
    }

    /// Puts the same frame in the queue of every member, and keeps it for newcomers if it says so.
    pub fn publish(&mut self, publication: &Publication) {
        self.clients.stats.publications += 1;
        self.tail(publication);
        if self.limits.deflate_window == DeflateWindow::Shared {
            self.link(publication);
        }
        self.topics.retain(publication);
        if !publication.deliver {
            return;
        }
        let queued = self.clients.stats.messages_queued;
        self.deliver_to_members(publication);
        if self.clients.stats.messages_queued > queued {
            self.scratch.published(&publication.frame);
        }
    }

    fn deliver_to_members(&mut self, publication: &Publication) {
        let frame = &publication.frame;
        let receivers = self.topics.receivers(publication);
        if !receivers.scattered {
            for key in receivers.keys {
                self.clients.deliver(self.now, &self.limits, key, frame);
            }
            return;
        }
        receivers.keys.for_each(|key| self.ordered.insert(key.slot));
        let mut next = 0;
        while let Some(slot) = self.ordered.take_from(next) {
            next = slot + 1;
            if let Some(key) = self.clients.key_at(slot) {
                self.clients.deliver(self.now, &self.limits, key, frame);
            }
        }
        debug_assert!(self.ordered.is_empty(), "receivers that got nothing");
    }

    /// Makes the client a member; the topic's retained frame is the first thing that it gets.
    pub fn join(&mut self, key: SessionKey, topic: &TopicName) -> Joined {
        if !self.is_open(key) {
            return Joined::NotOpen;
        }
        let (joined, retained) = self.topics.join(key, topic);
        if let Some(frame) = retained {
            self.send(key, &frame);
        }
        joined
    }

    /// The client is no member any more; keyed frames of the topic that wait for it go.
    pub fn leave(&mut self, key: SessionKey, topic: &TopicName) -> Left {
        let current = self.clients.session(key).is_some();
        let Some((keys, last)) = current.then(|| self.topics.leave(key, topic)).flatten() else {
            return Left::NoMember;
        };
        if let Some(session) = self.clients.session_mut(key) {
            let (frames, bytes) = session.forget(&keys);
            self.clients.stats.messages_conflated += u64::from(frames);
            self.clients.stats.count_removed(frames, bytes);
            self.note_room(key);
        }
        match last {
            true => Left::Last,
            false => Left::Others,
        }
    }

    /// Closes an open client. The first close counts.
    pub fn close(&mut self, key: SessionKey, code: CloseCode, reason: CloseReason, how: Closing) {
        self.begin_close(key, code, reason, how);
    }

    /// Lets the shell write to this client no more than so many bytes a second, as a slow line would
    /// take them; `None`: as much as the kernel takes. For demonstrations.
    pub fn pace(&mut self, key: SessionKey, bytes_per_second: Option<u32>) {
        if self.is_open(key) {
            self.effects.push_back(Effect::Pace {
                key,
                bytes_per_second,
            });
        }
    }

    /// Gives the client's next number ([`super::Lead::Seq`]) to nothing, so that the client sees a gap.
    pub fn skip_number(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.skip_number();
        }
    }

    /// Asks for one call of [`super::Gateway::handle_deadline`] at `at_us`; a later `at_us` replaces
    /// it.
    pub fn set_deadline(&mut self, key: SessionKey, at_us: Option<u64>) {
        if let Some(session) = self.clients.session_mut(key) {
            session.set_gateway_deadline(at_us);
            self.arm(key);
        }
    }

    /// Says who the client is, for the log and the operator's page.
    pub fn set_user(&mut self, key: SessionKey, user: Box<str>) {
        if let Some(session) = self.clients.session_mut(key) {
            session.set_user(user);
        }
    }

    /// Says why the client is refused, for the log line at its end: the label of a metric.
    pub fn set_refusal(&mut self, key: SessionKey, refusal: &'static str) {
        if let Some(session) = self.clients.session_mut(key) {
            session.set_refusal(refusal);
        }
    }

    // ---- inside

    /// Lets later frames of the topic refer to this one.
    fn link(&mut self, publication: &Publication) {
        let frame = &publication.frame;
        // A lead would stand between the bodies of two frames, and has another length for each client.
        if frame.lead() != Lead::None || !self.compressor.may_refer(frame.body().len()) {
            return;
        }
        let Some(newest) = self.topics.newest(publication) else {
            return;
        };
        let is_retained = publication.retain == Retain::Set;
        if self.windows.link(newest, frame, is_retained) {
            for (_, session) in &mut self.clients.sessions {
                session.forget_window();
            }
        }
    }

    pub(super) fn insert(&mut self, peer: Peer, permit: Permit) -> SessionKey {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let (session, moved) = Session::new(generation, peer, self.now, permit, &self.limits);
        let slot = self.clients.insert(session);
        let key = SessionKey { slot, generation };
        self.clients.stats.moved(moved);
        self.arm(key);
        key
    }

    /// Puts the session's earliest deadline in the heap, if it is earlier than the one there.
    pub(super) fn arm(&mut self, key: SessionKey) {
        let limits = &self.limits;
        let session = self.clients.session_mut(key);
        if let Some(at) = session.and_then(|session| session.arm(limits)) {
            self.deadlines.arm(at, key);
            if self.deadlines.is_overfull(self.clients.sessions.len()) {
                let clients = &self.clients;
                self.deadlines.sweep(|at, key| {
                    let session = clients.session(key);
                    session.is_some_and(|session| session.is_armed_at(at))
                });
            }
        }
    }

    fn leave_topics(&mut self, key: SessionKey) {
        self.emptied.extend(self.topics.leave_all(key.slot));
    }

    pub(super) fn begin_close(
        &mut self,
        key: SessionKey,
        code: CloseCode,
        reason: CloseReason,
        how: Closing,
    ) {
        let due = self.now.mono_us + self.limits.close_timeout_us;
        let now = self.now;
        let code = self.with_retry_after(code, reason);
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        match session.begin_close(now, PendingClose { code, reason, how }, due) {
            CloseBegun::Ignored => {}
            CloseBegun::Waits => {
                self.leave_topics(key);
                self.arm(key);
            }
            CloseBegun::Written => self.start_closing(key, reason),
        }
    }

    /// A client that is closed at a stop, or with 1013 ("try again later", the registry of RFC 6455
    /// §11.7), comes back: the close says when.
    fn with_retry_after(&self, code: CloseCode, reason: CloseReason) -> CloseCode {
        match reason == CloseReason::ShuttingDown || code.code == 1013 {
            true => CloseCode {
                retry_after_ms: self.limits.close_retry_after_ms,
                ..code
            },
            false => code,
        }
    }

    /// The last control bytes are in the queue: the session only lives until they are out and the
    /// peer has ended.
    pub(super) fn start_closing(&mut self, key: SessionKey, reason: CloseReason) {
        let due = self.now.mono_us + self.limits.close_timeout_us;
        let Some(session) = self.clients.session_mut(key) else {
            return;
        };
        let left = session.start_closing(due, reason);
        if left.pauses != Pauses::default() {
            self.effects.push_back(Effect::Resume(key));
        }
        self.count_left(key, left);
        self.clients.mark_dirty(key);
        self.arm(key);
    }

    /// Ends a session at once, whatever waits: tells the shell to end the socket. The slot stays
    /// taken until it has.
    pub(super) fn end(&mut self, key: SessionKey, reason: CloseReason, reset: bool) {
        let now = self.now;
        let session = self.clients.session_mut(key);
        let Some((left, ended)) = session.and_then(|session| session.end(now, reason)) else {
            return;
        };
        self.count_left(key, left);
        self.effects
            .push_back(Effect::Release { key, reset, ended });
    }

    /// What a session left is counted; one that was open is no member any more, and its gateway is
    /// told.
    fn count_left(&mut self, key: SessionKey, left: session::Departed) {
        if left.moved.from == Some(PhaseKind::Open) {
            self.leave_topics(key);
            self.ended.push_back((key, left.reason));
        }
        self.no_room.remove(&key);
        let stats = &mut self.clients.stats;
        stats.moved(left.moved);
        stats.count_pauses(left.pauses, Pauses::default());
        if left.was_open {
            stats.count_leaving(left.moved);
        }
        stats.messages_dropped += u64::from(left.frames);
        stats.count_removed(left.frames, left.bytes);
        if left.is_first {
            stats.count_close(left.reason);
        }
    }

    /// Drops those that are over a limit of their queue.
    pub(super) fn reap(&mut self) {
        while let Some(key) = self.clients.over_soft.pop() {
            self.arm(key);
        }
        while let Some((key, reason)) = self.clients.over.pop() {
            self.end(key, reason, true);
        }
    }
}
