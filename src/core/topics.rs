//! Topics, their members, and the retained frames for new clients.
//!
//! Both directions are kept, so that a client leaves all its topics without a search: a member has the
//! index of the topic in the session's list, and the list has the index of the member. Publish is O(1)
//! per member; join and leave search the client's topics or the topic's members, whichever are fewer.

use std::num::NonZeroU64;
use std::sync::Arc;

use serde::Serialize;
use smallvec::SmallVec;
use weirgate_wire::base::{ChunkedSlab, ExtendibleMap};

use super::gaps::Gaps;
use super::losses::{Active, Times};
use super::publication::Delivery;
use super::{ConflationKey, Content, Frame, Now, Retain, SessionKey, TopicName, tables};

/// From this many members on, the order of their sessions in memory matters.
const SCATTERED_MEMBERS_MIN: usize = 32;

/// The most conflation keys that are remembered for a topic. A pattern may have any number of keys: waiting frames of
/// the other keys are sent to a client that leaves, like frames without a key.
pub(super) const KEYS_MAX: usize = 64;

/// Only a name with a message at least once a second is watched: people would notice its silence. The silence of
/// others, such as the orders of a user, says nothing.
const BUSY_GAP_MAX_US: u64 = 1_000_000;

/// The index of a topic in the table, valid until the topic is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicKey(u32);

/// A session in a topic.
#[derive(Clone, Copy, Debug)]
struct Member {
    session: SessionKey,
    /// Index in `joined[session.slot]`.
    joined_at: u32,
    /// The number of the retained frame that the member got on joining.
    retained: u32,
    content: Content,
}

/// A topic in a session's list.
#[derive(Clone, Copy, Debug)]
struct Membership {
    topic: TopicKey,
    /// Index in the topic's members.
    member_at: u32,
}

#[derive(Debug, Default)]
struct Topic {
    name: TopicName,
    members: Vec<Member>,
    /// Members that get binary frames.
    binary: u32,
    /// Whether a member is or was in front of a member with a smaller slot.
    out_of_order: bool,
    /// Slot of the client that joined last.
    last_slot: u32,
    retained: Option<Arc<Frame>>,
    /// Counts the retained frames.
    retained_number: u32,
    /// Conflation keys seen on the topic, at most [`KEYS_MAX`]: waiting frames of these keys are
    /// removed when a client leaves.
    keys: Vec<ConflationKey>,
    /// Between which losses of the bus it delivered the topic's messages ([`super::losses`]); `None`: never.
    active: Option<Times>,
    /// Messages to members, each counted once.
    counts: Counts,
    /// The counts at the last survey.
    surveyed: Counts,
    /// When the last message to members was published, microseconds of the monotonic clock; `None`: never.
    last_us: Option<NonZeroU64>,
    gaps: Gaps,
}

/// Messages and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    messages: u64,
    bytes: u64,
}

/// The messages to the members of a topic so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TopicTraffic {
    pub(super) members: u64,
    pub(super) messages: u64,
    /// When the last of the messages was published, microseconds of the monotonic clock.
    pub(super) last_us: Option<u64>,
    /// The usual gap between two messages, if it is silent for longer than usual.
    pub(super) usual_gap_us: Option<u64>,
}

/// One topic at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TopicSnapshot {
    /// The name: a path of levels, a symbol, a channel, the hash of a device.
    pub name: TopicName,
    /// Members.
    pub members: u64,
    /// Messages published since the last survey, each counted once.
    pub recent_messages: u64,
    /// Bytes of these messages, each counted once.
    pub recent_bytes: u64,
    /// For how long nothing was published, milliseconds, if the topic is a busy one and that is longer than usual.
    #[serde(skip)]
    pub quiet_ms: Option<u64>,
    /// The usual gap between two messages, milliseconds.
    #[serde(skip)]
    pub usual_gap_ms: u64,
}

impl Topic {
    /// Members that get frames with this content.
    fn count(&self, content: Content) -> usize {
        match content {
            Content::Text => self.members.len() - self.binary as usize,
            Content::Binary => self.binary as usize,
        }
    }

    /// For how long nothing was published, microseconds, if the topic is a busy one and that is longer than usual.
    fn quiet_us(&self, now: Now) -> Option<u64> {
        let silent_us = now.mono_us.saturating_sub(self.last_us?.get());
        let is_busy = self.gaps.usual_us() <= BUSY_GAP_MAX_US;
        self.gaps.quiet_us(silent_us).filter(|_| is_busy)
    }

    fn holds(&self, frame: &Arc<Frame>) -> bool {
        self.retained
            .as_ref()
            .is_some_and(|r| Arc::ptr_eq(r, frame))
    }
}

/// All topics. A topic exists while it has members or a retained frame.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: ChunkedSlab<Topic>,
    by_name: ExtendibleMap<TopicName, TopicKey>,
    /// Most clients are members of a topic or two.
    joined: Vec<SmallVec<[Membership; 2]>>,
    /// The memberships of all topics together.
    memberships: usize,
    /// Whether a member has ever had binary frames. A held binary frame may be sent after the last of them has left.
    has_had_binary: bool,
}

/// The result of [`Core::join`](super::Core::join).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The client is the first member.
    First,
    /// The client is one more member.
    Another,
    /// Nothing has changed: the client was a member already.
    Already,
    /// Nothing has changed: the client is not open.
    NotOpen,
}

/// The result of [`Core::leave`](super::Core::leave).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The client was the last member.
    Last,
    /// The topic has other members.
    Others,
    /// Nothing has changed: the client was no member.
    NoMember,
}

impl Topics {
    /// Joins a topic; returns the retained frame for a new member.
    pub(super) fn join(
        &mut self,
        session: SessionKey,
        name: &TopicName,
        content: Content,
    ) -> (Joined, Option<Arc<Frame>>) {
        let key = self.key_or_insert(name);
        let slot = session.slot as usize;
        if self.joined.len() <= slot {
            self.joined.resize_with(slot + 1, SmallVec::new);
        }
        if self.place(session, key).is_some() {
            return (Joined::Already, None);
        }
        let joined = &mut self.joined[slot];
        let topic = &mut self.topics[key.0];
        topic.out_of_order |= session.slot < topic.last_slot;
        topic.last_slot = session.slot;
        joined.push(Membership {
            topic: key,
            member_at: topic.members.len() as u32,
        });
        topic.members.push(Member {
            session,
            joined_at: joined.len() as u32 - 1,
            retained: topic.retained_number,
            content,
        });
        topic.binary += u32::from(content == Content::Binary);
        self.has_had_binary |= content == Content::Binary;
        self.memberships += 1;
        let joined = match topic.members.len() {
            1 => Joined::First,
            _ => Joined::Another,
        };
        (joined, topic.retained.clone())
    }

    /// Leaves a topic. Adds the topic's conflation keys to `keys`. Returns the number of these keys, and whether the
    /// client was the last member; `None` if the client was no member.
    pub(super) fn leave(
        &mut self,
        session: SessionKey,
        name: &TopicName,
        keys: &mut Vec<ConflationKey>,
    ) -> Option<(usize, bool)> {
        let key = *self.by_name.get(name)?;
        let at = self.place(session, key)?;
        let of_topic = &self.topics[key.0].keys;
        keys.extend_from_slice(of_topic);
        let count = of_topic.len();
        Some((count, self.remove(session.slot, at)))
    }

    /// Leaves one of the client's topics: the last of its list, which costs least to remove. Returns false if the client is a
    /// member of no topic; its list then holds no memory any more.
    pub(super) fn leave_last(&mut self, slot: u32) -> bool {
        let Some(joined) = self.joined.get_mut(slot as usize) else {
            return false;
        };
        let count = joined.len();
        if count > 0 {
            self.remove(slot, count - 1);
        } else {
            *joined = SmallVec::new();
            tables::trim_slots(&mut self.joined, SmallVec::is_empty);
        }
        count > 0
    }

    /// Removes membership `at`. In the lists of the session and of the topic, the last entry fills the gap, and its
    /// index is corrected. Returns true if the topic has no member left.
    fn remove(&mut self, slot: u32, at: usize) -> bool {
        let gone = self.joined[slot as usize].swap_remove(at);
        self.memberships -= 1;
        if let Some(moved) = self.joined[slot as usize].get(at) {
            let members = &mut self.topics[moved.topic.0].members;
            members[moved.member_at as usize].joined_at = at as u32;
        }
        let topic = &mut self.topics[gone.topic.0];
        let member = topic.members.swap_remove(gone.member_at as usize);
        topic.binary -= u32::from(member.content == Content::Binary);
        if let Some(moved) = topic.members.get(gone.member_at as usize) {
            let list = &mut self.joined[moved.session.slot as usize];
            list[moved.joined_at as usize].member_at = gone.member_at;
            topic.out_of_order = true;
        }
        tables::shrink(&mut topic.members);
        if !topic.members.is_empty() {
            return false;
        }
        topic.out_of_order = false;
        topic.last_slot = 0;
        self.forget_if_unused(gone.topic);
        true
    }

    /// The topic of a frame, for the next calls about the frame; `None`: no members, and nothing to retain.
    pub(super) fn key_for(&mut self, delivery: Delivery<'_>) -> Option<TopicKey> {
        match delivery.retain {
            Retain::Set => Some(self.key_or_insert(delivery.topic)),
            Retain::Keep | Retain::Clear => self.key(delivery.topic),
        }
    }

    /// The topic of a name with members, or with something to retain.
    pub(super) fn key(&self, name: &TopicName) -> Option<TopicKey> {
        self.by_name.get(name).copied()
    }

    /// Counts a frame, sets or clears the retained frame, and remembers the conflation key. Returns false for a topic
    /// without members, which may be gone.
    pub(super) fn retain(&mut self, key: TopicKey, delivery: Delivery<'_>, now: Now) -> bool {
        let topic = &mut self.topics[key.0];
        // A message that is published as text and as binary counts once, as text.
        let is_second = delivery.frame.content() == Content::Binary && topic.binary > 0;
        if delivery.deliver && !(is_second && topic.count(Content::Text) > 0) {
            let last = std::mem::replace(&mut topic.last_us, NonZeroU64::new(now.mono_us));
            if let Some(last) = last {
                topic.gaps.record(now.mono_us.saturating_sub(last.get()));
            }
            topic.counts.messages += 1;
            topic.counts.bytes += delivery.frame.queue_bytes() as u64;
        }
        match delivery.retain {
            Retain::Keep => {}
            // The same frame keeps its number: members that got it on joining have that number.
            Retain::Set if topic.holds(delivery.frame) => {}
            Retain::Set => {
                topic.retained = Some(Arc::clone(delivery.frame));
                topic.retained_number = topic.retained_number.wrapping_add(1);
            }
            Retain::Clear => topic.retained = None,
        }
        if let Some(conflation) = delivery.frame.key()
            && topic.keys.len() < KEYS_MAX
            && !topic.keys.contains(&conflation)
        {
            topic.keys.push(conflation);
        }
        let has_members = !topic.members.is_empty();
        self.forget_if_unused(key);
        has_members
    }

    /// Whether the members are many, with sessions scattered in memory.
    pub(super) fn is_scattered(&self, key: TopicKey) -> bool {
        let topic = &self.topics[key.0];
        topic.out_of_order && topic.members.len() >= SCATTERED_MEMBERS_MIN
    }

    /// The receivers of a publication, in no particular order: the members, or if some of them get binary frames, the
    /// members for the frame's content. A frame that was retained quietly and is delivered now does not go again to
    /// members that got the frame on joining.
    pub(super) fn receivers(
        &self,
        key: TopicKey,
        frame: &Arc<Frame>,
    ) -> impl Iterator<Item = SessionKey> {
        let topic = &self.topics[key.0];
        let got = topic.holds(frame).then_some(topic.retained_number);
        let content = self.kind_of_members(topic, frame);
        let members = topic.members.iter();
        members
            .filter(move |m| {
                got != Some(m.retained) && content.is_none_or(|content| content == m.content)
            })
            .map(|m| m.session)
    }

    /// Whether the session is a member of the topic.
    pub(super) fn has(&self, session: SessionKey, name: &TopicName) -> bool {
        let key = self.by_name.get(name);
        key.is_some_and(|key| self.place(session, *key).is_some())
    }

    /// The index of a topic in the session's list. Searches the list or the topic's members, whichever are fewer: a
    /// client may hold very many names, and a name may have very many members.
    fn place(&self, session: SessionKey, key: TopicKey) -> Option<usize> {
        let joined = self.joined.get(session.slot as usize)?;
        let members = &self.topics[key.0].members;
        if members.len() < joined.len() {
            let own = members.iter().find(|member| member.session == session)?;
            return Some(own.joined_at as usize);
        }
        joined.iter().position(|joined| joined.topic == key)
    }

    /// A topic's members, in no particular order.
    pub(super) fn members(&self, name: &TopicName) -> impl Iterator<Item = SessionKey> {
        let topic = self.find(name);
        let members = topic.into_iter().flat_map(|t| &t.members);
        members.map(|m| m.session)
    }

    pub(super) fn member_count(&self, name: &TopicName) -> usize {
        self.find(name).map_or(0, |topic| topic.members.len())
    }

    /// The number of [`Self::receivers`], including members that got the frame on joining.
    pub(super) fn receiver_count(&self, key: TopicKey, frame: &Frame) -> usize {
        let topic = &self.topics[key.0];
        let content = self.kind_of_members(topic, frame);
        content.map_or(topic.members.len(), |content| topic.count(content))
    }

    /// The kind of frames of the members that get this frame; `None` for all members: where no member has asked for
    /// binary frames, a frame is for all, whatever its kind.
    fn kind_of_members(&self, topic: &Topic, frame: &Frame) -> Option<Content> {
        let content = frame.content();
        let is_of_some = topic.binary > 0 || self.has_had_binary && content == Content::Binary;
        is_of_some.then_some(content)
    }

    /// The members that get this kind of content, in no particular order.
    pub(super) fn members_with(
        &self,
        key: TopicKey,
        content: Content,
    ) -> impl Iterator<Item = SessionKey> {
        let members = self.topics[key.0].members.iter();
        members
            .filter(move |member| member.content == content)
            .map(|member| member.session)
    }

    /// Members by the content of the frames that they get, as in [`Content::ALL`].
    pub(super) fn counts(&self, key: TopicKey) -> [usize; 2] {
        Content::ALL.map(|content| self.topics[key.0].count(content))
    }

    /// Slots of the table, including empty slots.
    pub(super) fn slots(&self) -> usize {
        self.topics.numbers()
    }

    /// The topic in a slot, with the counts since the last survey; the snapshot has no name yet.
    pub(super) fn snapshot(&mut self, slot: usize, at: Now) -> Option<(&TopicName, TopicSnapshot)> {
        let topic = self.topics.get_mut(slot as u32)?;
        let quiet_us = topic.quiet_us(at);
        let (now, before) = (topic.counts, topic.surveyed);
        topic.surveyed = now;
        let snapshot = TopicSnapshot {
            name: TopicName::default(),
            members: topic.members.len() as u64,
            recent_messages: now.messages - before.messages,
            recent_bytes: now.bytes - before.bytes,
            quiet_ms: quiet_us.map(|us| us / 1_000),
            usual_gap_ms: topic.gaps.usual_us() / 1_000,
        };
        Some((&topic.name, snapshot))
    }

    /// The members of a topic, and the messages to them.
    pub(super) fn traffic(&self, name: &TopicName, now: Now) -> TopicTraffic {
        let topic = self.find(name);
        topic.map_or_else(TopicTraffic::default, |topic| TopicTraffic {
            members: topic.members.len() as u64,
            messages: topic.counts.messages,
            last_us: topic.last_us.map(NonZeroU64::get),
            usual_gap_us: topic.quiet_us(now).map(|_| topic.gaps.usual_us()),
        })
    }

    /// Topics with at least one member or a retained frame.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// The memberships of all topics together.
    pub(super) fn memberships(&self) -> usize {
        self.memberships
    }

    /// The names of the topics of a session.
    pub(super) fn joined(&self, slot: u32) -> impl Iterator<Item = &TopicName> {
        let joined = self.joined.get(slot as usize).into_iter().flatten();
        joined.map(|membership| &self.topics[membership.topic.0].name)
    }

    /// The number of topics of a session.
    pub(super) fn joined_count(&self, slot: u32) -> usize {
        self.joined.get(slot as usize).map_or(0, SmallVec::len)
    }

    /// Notes whether the bus delivers the topic's messages, after `losses` losses.
    pub(super) fn set_active(&mut self, name: &TopicName, losses: u64, active: Active) {
        let Some(key) = self.by_name.get(name) else {
            return;
        };
        let topic = &mut self.topics[key.0];
        topic.active = Times::add(topic.active, losses, active);
    }

    /// Whether a topic of the session was active at a loss after the first `known` losses; `of_kept` as in
    /// [`Times::meet_loss`](super::losses::Times::meet_loss).
    pub(super) fn was_active(&self, slot: u32, known: u64, losses: u64, of_kept: u64) -> bool {
        let own = self.joined.get(slot as usize).into_iter().flatten();
        let mut active = own.filter_map(|joined| self.topics[joined.topic.0].active);
        active.any(|times| times.meet_loss(known, losses, of_kept))
    }

    fn find(&self, name: &TopicName) -> Option<&Topic> {
        let key = self.by_name.get(name)?;
        Some(&self.topics[key.0])
    }

    fn key_or_insert(&mut self, name: &TopicName) -> TopicKey {
        if let Some(key) = self.by_name.get(name) {
            return *key;
        }
        let key = TopicKey(self.topics.insert(Topic {
            name: name.clone(),
            // Most topics of channels have a single member.
            members: Vec::with_capacity(1),
            ..Topic::default()
        }));
        self.by_name.insert(name.clone(), key);
        key
    }

    fn forget_if_unused(&mut self, key: TopicKey) {
        let topic = &self.topics[key.0];
        if topic.members.is_empty() && topic.retained.is_none() {
            let topic = self.topics.remove(key.0);
            self.by_name.remove(&topic.name);
        }
    }

    /// Panics unless both directions agree everywhere.
    pub(super) fn check_invariants(&self) {
        for (key, topic) in self.topics.iter() {
            assert!(!topic.members.is_empty() || topic.retained.is_some());
            let binary = topic
                .members
                .iter()
                .filter(|m| m.content == Content::Binary);
            assert_eq!(topic.binary as usize, binary.count());
            assert_eq!(self.by_name.get(&topic.name).map(|key| key.0), Some(key));
            for (at, member) in topic.members.iter().enumerate() {
                let joined = self.joined[member.session.slot as usize][member.joined_at as usize];
                assert_eq!((joined.topic.0, joined.member_at as usize), (key, at));
            }
        }
        let members: usize = self.topics.iter().map(|(_, t)| t.members.len()).sum();
        let joined: usize = self.joined.iter().map(SmallVec::len).sum();
        assert_eq!((members, members), (joined, self.memberships));
    }
}
