//! The messages to clients (contract channels: row messages): the gateway's own, and the messages of the bus. The
//! number of a message is known only when it is queued, so it is the first member after the type.
//!
//! An answer waits until the bus has confirmed its names: for at most a second, or longer on a bus that confirms late.
//! The answers to a client go out in order.
//!
//! A client gets a message of the bus as text; or, if it asks for binary messages, as a line of text and the bytes of the
//! payload. It gets a copy for its exact name and a copy for each of its patterns. Each is rendered from the message of the
//! feed, once for all clients of the kind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use foldhash::fast::FixedState;

use super::leaving::DropLater;
use super::past::{PAST_CLIENT_BYTES, PAST_NAME_BYTES, PastEnd, PastWait};
use super::raw_text::{raw_text, raw_text_bytes};
use super::replay::Last;
use super::retained::RetainedEnd;
use crate::gateways::shared::feed::write_stamp;
use crate::gateways::shared::history::{END_BYTES_MAX, append_end};
use crate::gateways::shared::members::max_hz;
use crate::gateways::shared::statuses::Status;
use weirgate_core::{
    Brings, ConflationKey, Content, CopyFor, CopyRank, Core, Frame, FrameBuilder, FrameBytes,
    MaxRate, Message, OnBus, Outcome, Part, Position, Prefix, RetainedCut, TopicName,
};
use weirgate_wire::admission::{ClientAddr, Permit, Quota};
use weirgate_wire::base::allocated_bytes;
use weirgate_wire::json::{ListWriter, ObjectWriter, quoted};

/// An answer without its number and its time.
#[derive(Debug)]
pub(super) struct Answer {
    prefix: &'static str,
    /// The first members of `subscribed`; `None` for other answers.
    entries: Option<Box<Entries>>,
    body: ObjectWriter,
    /// The frame, while it is put together.
    assembled: Option<Box<Assembled>>,
}

/// A frame with the first bytes of an answer.
#[derive(Debug)]
struct Assembled {
    frame: FrameBuilder,
    /// The bytes of [`Answer::parts`] that the frame has.
    bytes: usize,
}

/// The outcome of the entries of a `subscribe`.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) granted: ListWriter,
    pub(super) errors: ListWriter,
    /// The granted names, if the answer says what each of them brings.
    pub(super) names: Option<Vec<TopicName>>,
    /// What the granted names bring, added name by name.
    brings: Option<ObjectWriter>,
    /// For a request with `since`: whether all missed messages of each name follow.
    recovered: Option<ObjectWriter>,
    /// Why messages of a name are missing; `None` if none are.
    why: Option<ObjectWriter>,
}

impl Entries {
    /// The entries of an answer that says what each granted name brings.
    pub(super) fn with_brings() -> Self {
        Self {
            names: Some(Vec::new()),
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let names = self.names.as_ref().map_or(0, Vec::len);
        let objects: usize = self.objects().map(|(_, object)| object.bytes()).sum();
        self.granted.bytes() + self.errors.bytes() + NAME_BYTES * names + objects
    }

    /// The members after those of the request.
    fn objects(&self) -> impl Iterator<Item = (&'static str, &ObjectWriter)> {
        let recovered = self.recovered.iter().map(|object| ("recovered", object));
        let why = self.why.iter().map(|object| ("why", object));
        let brings = self.brings.iter().map(|object| ("brings", object));
        recovered.chain(why).chain(brings)
    }
}

/// For each name of a request with `since`, whether all missed messages follow the answer, and why not.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    recovered: ObjectWriter,
    why: ObjectWriter,
}

impl Recovered {
    pub(super) fn push(&mut self, name: &TopicName, outcome: Outcome) {
        self.recovered.boolean(name.as_str(), outcome.is_ok());
        if let Err(why) = outcome {
            self.why.string(name.as_str(), why.label());
        }
    }

    /// As [`push`](Self::push), for a name of which not all of the newest messages follow, for this reason.
    pub(super) fn push_cut(&mut self, name: &TopicName, cut: RetainedCut) {
        self.recovered.boolean(name.as_str(), false);
        self.why.string(name.as_str(), cut.label());
    }

    pub(super) fn bytes(&self) -> usize {
        self.recovered.bytes() + self.why.bytes()
    }
}

impl Answer {
    pub(super) fn connected(client_id: &str, role: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"connected","seq":"#);
        answer.body.string("clientId", client_id);
        answer.body.string("role", role);
        answer
    }

    pub(super) fn subscribed(entries: Entries, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"subscribed","seq":"#);
        answer.entries = Some(Box::new(entries));
        answer.to(request_id)
    }

    pub(super) fn unsubscribed(gone: &ListWriter, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"unsubscribed","seq":"#);
        answer.body.raw("channels", &gone.finish());
        answer.to(request_id)
    }

    pub(super) fn authenticated(role: &str, revoked: &ListWriter, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"authenticated","seq":"#);
        answer.body.string("role", role);
        answer.body.raw("revoked", &revoked.finish());
        answer.to(request_id)
    }

    /// Returns the frame of a status of the bus.
    pub(super) fn status(core: &Core, status: Status) -> Arc<Frame> {
        let mut answer = Self::new(r#"{"type":"status","seq":"#);
        answer.body.string("bus", status.bus());
        if status.has_lost {
            answer.body.boolean("lost", true);
        }
        answer.frame(core, status.position)
    }

    /// Returns the frame of the end of a name's last values: how many were sent, and why not all.
    pub(super) fn retained(core: &Core, end: &RetainedEnd) -> Arc<Frame> {
        let mut answer = Self::new(r#"{"type":"retained","seq":"#);
        answer.body.string("channel", end.name.as_str());
        answer.body.number("count", end.count);
        if let Some(cut) = end.cut {
            answer.body.string("cut", cut.label());
        }
        answer.frame(core, None)
    }

    /// Returns the frame of the end of a name's kept messages: how many were sent, and why not all.
    pub(super) fn last(
        core: &Core,
        name: &TopicName,
        count: u64,
        cut: Option<RetainedCut>,
        position: Option<Position>,
    ) -> Arc<Frame> {
        let mut answer = Self::new(r#"{"type":"last","seq":"#);
        answer.body.string("channel", name.as_str());
        answer.body.number("count", count);
        if let Some(cut) = cut {
            answer.body.string("cut", cut.label());
        }
        answer.frame(core, position)
    }

    pub(super) fn pong(request_id: &str) -> Self {
        Self::new(r#"{"type":"pong","seq":"#).to(request_id)
    }

    pub(super) fn rate(rate: Option<MaxRate>, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"rate","seq":"#);
        answer.body.raw("max_hz", &max_hz(rate));
        answer.to(request_id)
    }

    pub(super) fn error(error: &str, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"error","seq":"#);
        answer.body.string("error", error);
        answer.to(request_id)
    }

    fn new(prefix: &'static str) -> Self {
        Self {
            prefix,
            entries: None,
            body: ObjectWriter::new(),
            assembled: None,
        }
    }

    fn to(mut self, request_id: &str) -> Self {
        self.body.raw("requestId", request_id);
        self
    }

    /// Adds the outcomes of a request with `since`.
    pub(super) fn set_recovered(&mut self, recovered: Recovered) {
        if let Some(entries) = &mut self.entries {
            entries.recovered = Some(recovered.recovered);
            entries.why = Some(recovered.why).filter(|why| !why.is_empty());
        }
    }

    /// Adds why messages are missing, for a request with `last` alone.
    pub(super) fn set_why(&mut self, recovered: Recovered) {
        if let Some(entries) = &mut self.entries {
            entries.why = Some(recovered.why).filter(|why| !why.is_empty());
        }
    }

    /// Returns the granted names, if the client asks what they bring: the caller then calls
    /// [`push_brings`](Self::push_brings) for each.
    pub(super) fn take_names(&mut self) -> Vec<TopicName> {
        let entries = self.entries.as_mut();
        let Some(entries) = entries else {
            return Vec::new();
        };
        let names = entries.names.take();
        entries.brings = names.as_ref().map(|names| {
            // Room for all at once: text that outgrows its room is moved, and this one may be very long.
            ObjectWriter::with_capacity(entries.granted.bytes() + BRINGS_BYTES * names.len())
        });
        names.unwrap_or_default()
    }

    /// Adds what a granted name brings. A name that the bus refuses brings nothing: an error about it follows.
    pub(super) fn push_brings(&mut self, name: &TopicName, brings: &Brings) {
        let Some(entries) = &mut self.entries else {
            return;
        };
        if brings.on_bus == OnBus::Refused {
            return;
        }
        let ms = |us: u64| us / 1_000;
        let mut one = ObjectWriter::new();
        one.string("from", brings.from.label());
        if let Some(reach) = brings.reach {
            one.number("reach_ms", ms(reach.us));
            if let Some(short) = reach.short {
                one.string("why", short.label());
            }
        }
        if let Some(newest_us) = brings.newest_us {
            one.number("newest_age_ms", ms(newest_us));
        }
        if let Some(all) = &mut entries.brings {
            all.object(name.as_str(), one);
        }
    }

    /// Returns the memory of the answer: the bytes of the finished one, approximately, and those of the frame so far.
    pub(super) fn bytes(&self) -> usize {
        let assembled = self.assembled.as_ref();
        self.text_bytes() + assembled.map_or(0, |assembled| assembled.bytes)
    }

    fn text_bytes(&self) -> usize {
        let entries = self.entries.as_ref();
        entries.map_or(0, |entries| entries.bytes()) + self.body.bytes()
    }

    /// The parts of the answer before its time and position. The prefix has opened the object and has its first members.
    fn parts(&self) -> Vec<&str> {
        let mut parts = Vec::new();
        if let Some(entries) = &self.entries {
            let (granted, errors) = (entries.granted.texts(), entries.errors.texts());
            parts.extend([r#","channels":["#, granted, r#"],"errors":["#, errors, "]"]);
        }
        parts.extend([",", self.body.members()]);
        let objects = self.entries.iter().flat_map(|entries| entries.objects());
        for (key, object) in objects {
            parts.extend([",\"", key, "\":{", object.members(), "}"]);
        }
        parts
    }

    /// Copies the next [`ASSEMBLED_AT_ONCE`] bytes of a complete answer into its frame: an answer may have many
    /// megabytes. Returns whether bytes may be left.
    pub(super) fn assemble_next(&mut self, core: &Core) -> bool {
        let assembled = self.assembled.take();
        let mut assembled = assembled.unwrap_or_else(|| self.begin_frame(core));
        // `before`: bytes from the next part on that the frame has already.
        let (mut before, mut room) = (assembled.bytes, ASSEMBLED_AT_ONCE);
        for part in self.parts() {
            let rest = &part.as_bytes()[before.min(part.len())..];
            before -= part.len() - rest.len();
            let some = &rest[..rest.len().min(room)];
            assembled.frame.payload().extend_from_slice(some);
            assembled.bytes += some.len();
            room -= some.len();
        }
        self.assembled = Some(assembled);
        room == 0
    }

    fn begin_frame(&self, core: &Core) -> Box<Assembled> {
        let frame = Frame::text(core.frame_bytes())
            .with_capacity(self.text_bytes() + MEMBERS_BYTES_MAX + END_BYTES_MAX)
            .answer()
            .prefix(Prefix::Seq(self.prefix));
        Box::new(Assembled { frame, bytes: 0 })
    }

    /// Begins the frame again, because the answer has changed.
    pub(super) fn assemble_again(&mut self) {
        self.assembled = None;
    }

    /// Builds the frame, with the present time and the position that the client has reached.
    pub(super) fn frame(&mut self, core: &Core, position: Option<Position>) -> Arc<Frame> {
        while self.assemble_next(core) {}
        let now = core.now();
        let timestamp = quoted(&iso_utc(now.unix_ms()));
        let assembled = self.assembled.take();
        let assembled = assembled.unwrap_or_else(|| self.begin_frame(core));
        let mut frame = assembled.frame.received(now);
        let parts = [br#","timestamp":"#, timestamp.as_bytes()];
        append_all(frame.payload(), &parts);
        append_end(&mut frame, position, CopyRank::LAST);
        frame.finish()
    }
}

/// Bytes that a step puts into the frame of an answer.
const ASSEMBLED_AT_ONCE: usize = 512 * 1024;

/// Usual bytes of what a name brings, beside the name.
const BRINGS_BYTES: usize = 96;

/// The most bytes of an answer beside those of [`Answer::bytes`] and its position.
const MEMBERS_BYTES_MAX: usize = 160;

/// The longest wait for a bus that confirms at once, microseconds (contract channels: "1 s at the most").
pub(super) const BUS_WAIT_US: u64 = 1_000_000;

/// The most answers that may wait for a client. If more wait, the gateway stops reading the client.
pub(super) const ANSWERS_MAX: usize = 64;

/// The most bytes of these answers.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The names that an answer waits for, and the messages that follow it.
#[derive(Debug, Default)]
pub(super) struct FollowUp {
    /// Names that the answer waits for.
    pub(super) unconfirmed: BTreeSet<TopicName>,
    /// The number of the answer, if last values of its names go to the client after it.
    pub(super) retained: Option<u64>,
    /// The client gets a message when the last values of a name have ended.
    pub(super) wants_end: bool,
    /// `None`: none of the names wants what the stream has and the history may lack.
    pub(super) past: Option<Box<WantedPast>>,
    /// `None`: the request has no `since` and no `last`.
    pub(super) resumed: Option<Resumed>,
}

/// The names of an answer whose newest messages the history lacks, or may lack by the time of the answer.
#[derive(Debug, Default)]
pub(super) struct WantedPast {
    /// The names that the answer waits for.
    pub(super) waits: BTreeMap<TopicName, PastWait>,
    /// What is known of names that the answer does not wait for, or no longer.
    pub(super) found: BTreeMap<TopicName, PastFound>,
    /// How many newest messages the history had forgotten ([`Core::newest_forgotten_count`]) when the first name was
    /// asked for: what it has forgotten since may be missing. `None`: no name was asked for.
    forgotten: Option<u64>,
}

/// What is known of the newest messages of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PastFound {
    /// Some are missing, for this reason.
    Cut(RetainedCut),
    /// The history has all of them, but for those that it has forgotten since its count of forgotten newest messages
    /// was this one, which is above [`WantedPast::forgotten`].
    Since(u64),
}

impl WantedPast {
    /// Notes that a name is asked for when the history has forgotten so many newest messages.
    pub(super) fn note_forgotten(&mut self, forgotten: u64) {
        let first = self.forgotten.unwrap_or(forgotten);
        self.forgotten = Some(first.min(forgotten));
    }

    pub(super) fn note_cut(&mut self, name: TopicName, cut: RetainedCut) {
        self.found.insert(name, PastFound::Cut(cut));
    }

    /// Notes why messages of a name are missing, or that it was asked for when the history had forgotten so many newest
    /// messages: only what it has forgotten since may be missing.
    pub(super) fn note_found(&mut self, name: TopicName, cut: Option<RetainedCut>, forgotten: u64) {
        match cut {
            Some(cut) => self.note_cut(name, cut),
            None if self.forgotten.is_some_and(|first| first < forgotten) => {
                self.found.insert(name, PastFound::Since(forgotten));
            }
            None => {}
        }
    }

    /// Notes why the newest messages of a name that the history has are not whole, unless more is known to be missing.
    pub(super) fn note_found_cut(&mut self, name: TopicName, cut: RetainedCut) {
        let cut = PastFound::Cut(cut);
        let found = self.found.entry(name).or_insert(cut);
        if let PastFound::Since(_) = found {
            *found = cut;
        }
    }

    /// Why messages of a name are missing; `None` if none are. `has_forgotten` returns whether the history has
    /// forgotten a newest message of the name since its count of forgotten newest messages was the given one.
    pub(super) fn cut(
        &self,
        name: &TopicName,
        has_forgotten: impl FnOnce(u64) -> bool,
    ) -> Option<RetainedCut> {
        let forgotten = match self.found.get(name) {
            Some(PastFound::Cut(cut)) => return Some(*cut),
            Some(PastFound::Since(forgotten)) => Some(*forgotten),
            None => self.forgotten,
        };
        let is_gone = forgotten.is_some_and(has_forgotten);
        is_gone.then_some(RetainedCut::Limit)
    }
}

/// A request with `since` or `last`.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// The position, as the client sent it.
    pub(super) since: Option<String>,
    /// The messages of each name that the client gets, if it does not get the missed messages.
    pub(super) last: Option<Last>,
    /// Names of the kept feed, joined with the answer.
    pub(super) names: BTreeSet<TopicName>,
    /// The names among `names` that the client has joined before, and of which it asks for the newest messages.
    pub(super) held: BTreeSet<TopicName>,
    /// All of `names` are in `held`. Decided when the answer is queued, because the client may give names up while it
    /// waits.
    pub(super) has_held_alone: bool,
    /// Granted names that this request does not resume.
    pub(super) off: BTreeSet<TopicName>,
}

impl Resumed {
    /// `None` for a request with neither `since` nor `last`, because the client joins at once.
    pub(super) fn new(since: Option<String>, last: Option<Last>) -> Option<Self> {
        (since.is_some() || last.is_some()).then(|| Self::of_stream(since, last))
    }

    /// For any request of an event stream, because the client joins the names of every request with the common answer.
    pub(super) fn of_stream(since: Option<String>, last: Option<Last>) -> Self {
        Self {
            since,
            last,
            ..Self::default()
        }
    }

    /// Whether the client asks for the newest messages, whatever it has missed.
    pub(super) fn asks_newest_alone(&self) -> bool {
        self.since.is_none() && matches!(self.last, Some(Last::Newest(_)))
    }

    /// Whether the client asks for the newest messages of this name, which it holds, and not only since this request.
    pub(super) fn asks_again(&self, name: &TopicName) -> bool {
        let is_new = self.names.contains(name) && !self.held.contains(name);
        !is_new && self.asks_newest_alone()
    }
}

impl FollowUp {
    /// Moves all names to `to_drop`, which drops them over several turns: very many at once would take too long.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        let resumed = self.resumed.into_iter();
        let resumed = resumed.flat_map(|resumed| [resumed.names, resumed.held, resumed.off]);
        let sets = resumed.chain([self.unconfirmed]);
        sets.for_each(|set| to_drop.add_set(set));
        if let Some(past) = self.past {
            to_drop.add_past(*past);
        }
    }

    /// How many names are joined with this answer.
    fn resuming(&self) -> usize {
        let resumed = self.resumed.as_ref();
        resumed.map_or(0, |resumed| resumed.names.len())
    }

    fn waits(&self) -> bool {
        !self.unconfirmed.is_empty() || self.waits_for_past()
    }

    pub(super) fn waits_for_past(&self) -> bool {
        let past = self.past.as_ref();
        past.is_some_and(|past| !past.waits.is_empty())
    }

    pub(super) fn waits_for_past_of(&self, name: &TopicName) -> bool {
        let past = self.past.as_ref();
        past.is_some_and(|past| past.waits.contains_key(name))
    }

    /// Ends the wait for the newest messages of a name from the stream, unless the answer waits for the name anew.
    pub(super) fn settle_past(&mut self, name: &TopicName, end: PastEnd) {
        if let Some(past) = &mut self.past
            && past.waits.get(name) == Some(&end.wait)
            && let Some((name, _)) = past.waits.remove_entry(name)
        {
            past.note_found(name, end.cut, end.forgotten);
        }
    }
}

#[derive(Debug)]
struct WaitingAnswer {
    answer: Answer,
    follow_up: FollowUp,
    due: AnswerDue,
}

/// The latest times at which an answer goes out, microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnswerDue {
    /// Of an answer that waits only for the bus to confirm its names.
    pub(super) confirmed_us: u64,
    /// Of an answer that waits for the stream, too.
    pub(super) past_us: u64,
}

impl WaitingAnswer {
    fn due_us(&self) -> u64 {
        match self.follow_up.waits_for_past() {
            true => self.due.past_us,
            false => self.due.confirmed_us,
        }
    }
}

/// The waiting answers of a client. While none wait, they take no memory.
#[derive(Debug, Default)]
pub(super) struct Answers(Option<Box<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<WaitingAnswer>,
    /// The sum of [`Answer::bytes`].
    bytes: usize,
    /// The permit for the memory of the answers in the sum over all clients.
    permit: Option<Permit>,
    /// How many names the client joins with a waiting answer.
    resuming: usize,
}

/// The answers of a client that go out next.
#[derive(Clone, Copy, Debug)]
pub(super) enum NextAnswers {
    /// The first one.
    First,
    /// All of them, as on an event stream, whose requests are all in its URL.
    All,
}

impl NextAnswers {
    fn count(self) -> usize {
        match self {
            Self::First => 1,
            Self::All => usize::MAX,
        }
    }
}

/// Memory of a name that an answer waits for, or that follows it.
pub(super) const NAME_BYTES: usize = 64;

impl Queue {
    /// Memory of the waiting answers.
    fn memory_bytes(&self) -> u64 {
        let of_answer = |waiting: &WaitingAnswer| {
            let follow_up = &waiting.follow_up;
            let names = follow_up.unconfirmed.len();
            let past = follow_up.past.as_ref();
            let past = past.map_or(0, |past| {
                let of_client = PAST_CLIENT_BYTES * usize::from(!past.waits.is_empty());
                of_client + PAST_NAME_BYTES * past.waits.len() + NAME_BYTES * past.found.len()
            });
            let resumed = follow_up.resumed.as_ref();
            let resumed = resumed.map_or(0, |resumed| {
                resumed.names.len() + resumed.held.len() + resumed.off.len()
            });
            allocated_bytes(waiting.answer.bytes()) + NAME_BYTES * (names + resumed) + past
        };
        let answers: usize = self.waiting.iter().map(of_answer).sum();
        (answers + self.waiting.capacity() * size_of::<WaitingAnswer>()) as u64
    }
}

impl Answers {
    /// Returns true if so many answers wait that the client must not send more requests.
    pub(super) fn are_too_many(&self) -> bool {
        let queue = self.0.as_ref();
        queue.is_some_and(|q| q.waiting.len() > ANSWERS_MAX || q.bytes > ANSWER_BYTES_MAX)
    }

    fn waiting(&self) -> impl Iterator<Item = &WaitingAnswer> {
        self.0.iter().flat_map(|queue| &queue.waiting)
    }

    fn waiting_mut(&mut self) -> impl Iterator<Item = &mut WaitingAnswer> {
        self.0.iter_mut().flat_map(|queue| &mut queue.waiting)
    }

    /// The latest time at which the next answers go out; `None` if none of them waits for anything.
    pub(super) fn due_us(&self, next: NextAnswers) -> Option<u64> {
        let waiting = self.waiting().take(next.count());
        let waiting = waiting.filter(|waiting| waiting.follow_up.waits());
        waiting.map(WaitingAnswer::due_us).max()
    }

    /// Queues an answer. It waits until its names are confirmed, but not longer than until it is due.
    pub(super) fn push(&mut self, answer: Answer, mut follow_up: FollowUp, due: AnswerDue) {
        if let Some(resumed) = &mut follow_up.resumed {
            let held = resumed.held.len();
            resumed.has_held_alone = held > 0 && held == resumed.names.len();
        }
        let queue = self.0.get_or_insert_default();
        queue.bytes += answer.bytes();
        queue.resuming += follow_up.resuming();
        // Most clients have a single answer. A larger block would be free again before the next client connects, whose memory
        // would take a part of it: the rest would stay unused, for each client some hundred bytes.
        if queue.waiting.is_empty() {
            queue.waiting.reserve_exact(1);
        }
        queue.waiting.push_back(WaitingAnswer {
            answer,
            follow_up,
            due,
        });
    }

    /// Charges the waiting answers, because each may be as large as its request. Returns false if there is no room for
    /// them.
    pub(super) fn charge(&mut self, name_bytes: &Quota, client: ClientAddr, now_us: u64) -> bool {
        let Some(queue) = &mut self.0 else {
            return true;
        };
        let bytes = queue.memory_bytes();
        match &mut queue.permit {
            None => queue.permit = Some(name_bytes.hold(client, bytes, now_us)),
            Some(permit) => permit.set(bytes, now_us),
        }
        name_bytes.has_room_for(client)
    }

    /// Removes and returns the next answers, once they wait for no name or have waited long enough.
    pub(super) fn pop_ready(
        &mut self,
        next: NextAnswers,
        now_us: u64,
    ) -> Option<Vec<(Answer, FollowUp)>> {
        if self.due_us(next).is_some_and(|due_us| now_us < due_us) {
            return None;
        }
        let queue = self.0.as_mut()?;
        let count = next.count().min(queue.waiting.len());
        let mut ready = Vec::with_capacity(count);
        let drained = queue.waiting.drain(..count);
        ready.extend(drained.map(|ready| (ready.answer, ready.follow_up)));
        for (answer, follow_up) in &ready {
            queue.bytes -= answer.bytes();
            queue.resuming -= follow_up.resuming();
        }
        let bytes = queue.memory_bytes();
        if let Some(permit) = &mut queue.permit {
            permit.set(bytes, now_us);
        }
        if queue.waiting.is_empty() {
            self.0 = None;
        }
        Some(ready)
    }

    /// Cancels the resume of a name. Returns false if no waiting answer resumes the name.
    pub(super) fn forget_resume(&mut self, name: &TopicName) -> bool {
        let Some(queue) = self.0.as_mut().filter(|queue| queue.resuming > 0) else {
            return false;
        };
        let resumed = queue
            .waiting
            .iter_mut()
            .filter_map(|waiting| waiting.follow_up.resumed.as_mut());
        // A name that the client holds may be in several.
        let forgotten = resumed
            .filter_map(|resumed| resumed.names.take(name))
            .count();
        queue.resuming -= forgotten;
        forgotten > 0
    }

    /// Ends the wait of all answers for the name.
    pub(super) fn settle(&mut self, name: &TopicName) {
        for waiting in self.waiting_mut() {
            waiting.follow_up.unconfirmed.remove(name);
        }
    }

    /// Ends a wait of all answers for the newest messages of a name from the stream.
    pub(super) fn settle_past(&mut self, name: &TopicName, end: PastEnd) {
        for waiting in self.waiting_mut() {
            waiting.follow_up.settle_past(name, end);
        }
    }

    /// Lets no answer wait for the newest messages of a name, which the client has given up.
    pub(super) fn forget_past(&mut self, name: &TopicName) {
        for waiting in self.waiting_mut() {
            if let Some(past) = &mut waiting.follow_up.past {
                past.waits.remove(name);
            }
        }
    }

    /// Whether an answer waits for the newest messages of a name from the stream.
    pub(super) fn waits_for_past_of(&self, name: &TopicName) -> bool {
        let mut waiting = self.waiting();
        waiting.any(|waiting| waiting.follow_up.waits_for_past_of(name))
    }

    /// Lets all answers wait for no name any more.
    pub(super) fn wait_no_longer(&mut self) {
        for waiting in self.waiting_mut() {
            waiting.due = AnswerDue::default();
        }
    }

    /// Lets all answers wait for no confirmation any more. Their names stay until they are sent: very many are not dropped in
    /// one step.
    pub(super) fn wait_not_for_bus(&mut self) {
        for waiting in self.waiting_mut() {
            waiting.due.confirmed_us = 0;
        }
    }

    /// Ends the wait of all answers for the names that are settled.
    pub(super) fn settle_if(&mut self, is_settled: impl Fn(&TopicName) -> bool) {
        for waiting in self.waiting_mut() {
            waiting
                .follow_up
                .unconfirmed
                .retain(|name| !is_settled(name));
        }
    }

    /// Moves all names of the answers to `to_drop`, as [`FollowUp::drop_later`] does. Returns the permit for them.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) -> Option<Permit> {
        let mut queue = self.0?;
        for waiting in queue.waiting.drain(..) {
            waiting.follow_up.drop_later(to_drop);
        }
        queue.permit.take()
    }

    /// Returns true if no answer waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// The text before the number of a message of the bus.
const PREFIX: Prefix = Prefix::Seq(r#"{"type":"data","seq":"#);

/// `{"type":"data","seq":n,"channel":…,"pattern":…,"data":…,"timestamp":…,"pos":…}`, or the same without `data`, a line
/// feed and the payload. After `data`, a deletion has `"deleted":true`, a last value `"retained":true`; after the time
/// comes `"recv_us":…` with `--stamp`. Each copy has its own position, because a client may lose its connection between
/// two copies. For a slow client, only a newer copy for the same name or pattern replaces a copy.
pub(super) fn render(copy: &CopyFor<'_>, alive: &FrameBytes) -> Arc<Frame> {
    let (message, content) = (copy.message, copy.content);
    let pattern = copy.pattern.map(TopicName::as_str);
    let (name, pattern_text) = (quoted(copy.name), pattern.map(quoted));
    let time = iso_utc(message.unix_ms);
    let mut stamp = Vec::new();
    if message.is_stamped {
        stamp.push(b',');
        write_stamp(message.received, &mut stamp);
    }
    let (frame, data_name, part) = match content {
        Content::Text => (Frame::text(alive), &br#","data":"#[..], text_of(message)),
        Content::Binary => (Frame::binary(alive), &b""[..], Some(Part::Payload)),
    };
    let if_so = |is_so: bool, member: &'static [u8]| if is_so { member } else { b"" };
    let before = [
        br#","channel":"#,
        name.as_bytes(),
        br#","pattern":"#,
        pattern_text.as_deref().unwrap_or("null").as_bytes(),
        data_name,
    ];
    let after = [
        if_so(message.is_deletion, br#","deleted":true"#),
        if_so(message.is_last_value, br#","retained":true"#),
        br#","timestamp":""#,
        time.as_bytes(),
        b"\"",
        &stamp,
    ];
    let bytes: usize = before.iter().chain(&after).map(|part| part.len()).sum();
    let copied = part.map_or(0, |part| message.copied_bytes(part));
    let mut frame = frame
        .with_capacity(bytes + END_BYTES_MAX + NULL.len() + copied)
        .prefix(PREFIX)
        .received(message.received)
        .common(message.is_common())
        .of_feed(message.is_of_feed);
    if let Some(ConflationKey(key)) = message.key {
        let key = FixedState::default().hash_one((key, pattern, content == Content::Text));
        frame = frame.key(ConflationKey(key));
    }
    append_all(frame.payload(), &before);
    match (content, part) {
        (Content::Text, Some(part)) => frame.share(message, part),
        (Content::Text, None) => frame.payload().extend_from_slice(NULL),
        (Content::Binary, _) => {}
    }
    append_all(frame.payload(), &after);
    let rank = pattern.map_or(CopyRank::LAST, CopyRank::of_pattern);
    append_end(&mut frame, copy.position, rank);
    if content == Content::Binary {
        frame.payload().push(b'\n');
        frame.share(message, Part::Payload);
    }
    frame.finish()
}

/// Appends the parts of a payload, one after another.
fn append_all(payload: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        payload.extend_from_slice(part);
    }
}

/// A time in ISO 8601, UTC, with milliseconds: `2026-01-09T10:30:00.000Z`. A time out of range becomes 1970.
pub(super) fn iso_utc(unix_ms: i64) -> String {
    let date = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    date.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The data of a deletion, which has no payload.
const NULL: &[u8] = b"null";

/// Which part of the message has the payload as a JSON value; `None` without a payload. Makes the text of a payload
/// that is not JSON, unless it was made before.
fn text_of(message: &Message) -> Option<Part> {
    match message.content {
        _ if message.payload().is_empty() => None,
        Content::Text => Some(Part::Payload),
        Content::Binary => {
            message.text_with(|payload| raw_text(payload, raw_text_bytes(payload)));
            Some(Part::Text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_to_the_millisecond_in_utc() {
        assert_eq!(iso_utc(1_767_954_600_007), "2026-01-09T10:30:00.007Z");
        assert_eq!(iso_utc(i64::MAX), "1970-01-01T00:00:00.000Z");
    }

    fn names(names: &[&'static str]) -> FollowUp {
        FollowUp {
            unconfirmed: names.iter().copied().map(TopicName::fixed).collect(),
            ..FollowUp::default()
        }
    }

    /// The frame of a message for clients of its name or of a pattern, with the prefix of the first message.
    fn rendered(message: &Arc<Message>, pattern: Option<&str>, content: Content) -> String {
        let pattern = pattern.map(|pattern| TopicName::from(pattern.to_owned()));
        let copy = CopyFor {
            message,
            name: "a\"b",
            pattern: pattern.as_ref(),
            position: None,
            content,
        };
        let frame = render(&copy, &FrameBytes::default());
        assert_eq!((frame.content(), frame.prefix()), (content, PREFIX));
        String::from_utf8_lossy(frame.body()).into_owned()
    }

    #[test]
    fn each_kind_of_client_gets_its_frame_of_the_same_message() {
        let now = weirgate_wire::base::Now {
            mono_us: 5,
            unix_us: 1_767_954_600_006_999,
        };
        let made = |payload: &[u8], set: fn(&mut Message)| {
            let mut message = Message::new(payload.to_vec(), now, &FrameBytes::default());
            message.unix_ms += 1;
            set(&mut message);
            Arc::new(message)
        };
        let time = "\"timestamp\":\"2026-01-09T10:30:00.007Z\"";
        let json = made(b"{\"p\": 1.50}", |message| message.content = Content::Text);
        let bytes = made(b"\n\xff", |_| {});
        let deleted = made(b"", |message| message.is_deletion = true);
        let value = made(b"", |message| {
            (message.is_deletion, message.is_last_value) = (true, true);
        });
        let stamped = made(b"1", |message| {
            (message.content, message.is_stamped) = (Content::Text, true);
        });
        for (message, text, members) in [
            (&json, "{\"p\": 1.50}", ""),
            (&bytes, "{\"raw\":\"\\n\u{fffd}\"}", ""),
            (&deleted, "null", ",\"deleted\":true"),
            (&value, "null", ",\"deleted\":true,\"retained\":true"),
        ] {
            for (pattern, shown) in [(None, "null"), (Some("a*"), "\"a*\"")] {
                let head = format!(",\"channel\":\"a\\\"b\",\"pattern\":{shown}");
                let got = rendered(message, pattern, Content::Text);
                assert_eq!(got, format!("{head},\"data\":{text}{members},{time}}}"));
                let payload = String::from_utf8_lossy(message.payload());
                let got = rendered(message, pattern, Content::Binary);
                assert_eq!(got, format!("{head}{members},{time}}}\n{payload}"));
            }
        }
        let got = rendered(&stamped, None, Content::Text);
        assert!(
            got.ends_with(&format!("{time},\"recv_us\":1767954600006999}}")),
            "{got}"
        );
    }

    fn due(confirmed_us: u64) -> AnswerDue {
        AnswerDue {
            confirmed_us,
            past_us: 6_000_000,
        }
    }

    /// Once the stream has answered, an answer waits for the bus no longer than others do.
    #[test]
    fn an_answer_for_which_the_stream_has_answered_is_due_as_others_are() {
        let (mut answers, name) = (Answers::default(), TopicName::fixed("s"));
        let mut follow_up = names(&["x"]);
        let past = follow_up.past.get_or_insert_default();
        past.waits.insert(name.clone(), PastWait::default());
        answers.push(Answer::pong("1"), follow_up, due(BUS_WAIT_US));
        assert_eq!(answers.due_us(NextAnswers::First), Some(6_000_000));
        answers.settle_past(&name, PastEnd::default());
        assert_eq!(answers.due_us(NextAnswers::First), Some(BUS_WAIT_US));
    }

    /// However the wait of an answer ends, it is sent, and so are the later answers.
    #[test]
    fn answers_go_out_in_their_order() {
        let pong = || Answer::pong("1");
        for end in 0..3 {
            let mut answers = Answers::default();
            answers.push(pong(), names(&["x", "y"]), due(BUS_WAIT_US));
            answers.push(pong(), names(&["x"]), due(BUS_WAIT_US));
            answers.push(pong(), names(&[]), due(BUS_WAIT_US));
            assert!(answers.pop_ready(NextAnswers::First, 0).is_none());
            assert_eq!(answers.due_us(NextAnswers::First), Some(BUS_WAIT_US));
            let now_us = match end {
                0 => {
                    answers.settle(&TopicName::fixed("x"));
                    assert!(answers.pop_ready(NextAnswers::First, 0).is_none());
                    answers.settle(&TopicName::fixed("y"));
                    0
                }
                1 => BUS_WAIT_US,
                _ => {
                    answers.wait_no_longer();
                    0
                }
            };
            for _ in 0..3 {
                let ready = answers
                    .pop_ready(NextAnswers::First, now_us)
                    .expect("an answer");
                assert_eq!(ready.len(), 1, "{end}");
            }
            assert!(answers.pop_ready(NextAnswers::First, now_us).is_none());
            assert!(answers.is_empty(), "{end}");
        }
    }

    /// The answers of an event stream go out together: one that waits for longer is not cut short by the others.
    #[test]
    fn answers_that_go_out_together_wait_for_the_longest() {
        let mut answers = Answers::default();
        answers.push(Answer::pong("1"), names(&["x"]), due(1_000));
        answers.push(Answer::pong("2"), names(&["y"]), due(6_000));
        assert_eq!(answers.due_us(NextAnswers::All), Some(6_000));
        assert!(answers.pop_ready(NextAnswers::All, 5_999).is_none());
        let ready = answers.pop_ready(NextAnswers::All, 6_000);
        assert_eq!(ready.expect("both answers").len(), 2);
        assert!(answers.is_empty());
    }
}
