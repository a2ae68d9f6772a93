//! How far a stream was read: where to begin, what is news, when the reader has caught up or is behind, and what is lost.
//! Judges numbers and times of messages, and what the leader says of the stream. A *look* is the leader's answer about
//! the stream before a consumer is made ([`Progress::begin`]). Pure.

use std::time::Instant;

use super::super::MS_NS;
use super::trims::Trims;
use crate::into_name;
use crate::kept::KeptEvent;
use crate::nats::consumer::{Start, UNSEEN_MAX};
use crate::nats::protocol::Delivery;
use crate::nats::stream_info::{Retention, StreamInfo};
use weirgate_core::StoredId;

/// The head of a stream without any message so far: the first message has the number 1.
const NO_MESSAGE: StoredId = StoredId { major: 0, minor: 0 };

/// The place of this process in a stream.
#[derive(Debug)]
pub(super) struct Progress {
    /// At the start of this process, older messages than this are left out, nanoseconds.
    history_ns: u64,
    /// The start reads no more messages than fit in so many bytes.
    history_bytes: u64,
    /// Older messages of the look are not handed over while no message was handed over; Unix nanoseconds. `None` before
    /// the first look.
    since_ns: Option<u64>,
    /// The newest message of the look, or of a later look if its number is lower. What has a higher number was stored
    /// later, whatever its time says: the clock of the stream's server may have gone back, or another server with another
    /// clock may have made the stream anew.
    look_until: u64,
    /// Where the next consumer begins while no message was handed over.
    start: Start,
    /// The newest message that was handed over.
    last: Option<StoredId>,
    /// How far a stream that leaves out numbers was watched.
    watch: Watch,
    /// Whether messages of such a stream were removed before they were read.
    trims: Trims,
    /// The last [`KeptEvent::InDoubt`].
    has_said_doubt: bool,
    /// The messages of the stream in the first answer after the consumer's delivery with this number.
    /// The pair: that number, and how many messages there were ([`Self::has_unread`]).
    counted: Option<(u64, u64)>,
    /// The state of the stream in the leader's last answer.
    info: Option<StreamInfo>,
    /// The newest message of the stream when nothing was left to read, or [`NO_MESSAGE`]. `None` again once a message is
    /// read.
    empty_at: Option<StoredId>,
    /// The last sequence number from before the start of this process, until the message is read.
    old_until: Option<u64>,
    /// Messages up to this number were stored before the newest loss that was reported to clients.
    reported_until: u64,
    /// The number of messages in the last [`KeptEvent::Lag`] since the bus was away, after which nobody remembers it.
    behind: Option<u64>,
    /// Until the message is read: the newest message of the stream when the reader was first seen to be behind.
    ahead: Option<Ahead>,
    /// Whether [`KeptEvent::CaughtUp`] was said on this connection.
    is_caught_up: bool,
    /// The leader lacks the last message: the next look reports the loss.
    lacks_last: bool,
    /// On this connection, consumers begin at the number of the last message: its time is not that of its place, because the
    /// clock of the stream's server went back.
    is_by_number: bool,
}

/// How far a stream was watched that leaves out numbers of the stream that it copies. A missing number does not say whether a
/// message came and went; but a consumer delivers at once what is there, unless it is behind the stream's beginning
/// ([`Trims`]).
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// When nothing of the stream was unread.
    seen: Option<Instant>,
    /// The newest message that the stream had by then.
    seen_to: u64,
    /// Messages up to this number may have come and gone unseen.
    doubtful_to: u64,
    /// The newest message at the start of this process.
    start: u64,
}

impl Watch {
    /// Of a process that starts now, when this is the newest message.
    const fn since(head: u64, now: Instant) -> Self {
        Self {
            seen: Some(now),
            seen_to: head,
            doubtful_to: head,
            start: head,
        }
    }

    /// Nothing of the stream is unread, and its newest message is at least this one.
    fn note(&mut self, head: u64, now: Instant) {
        // There are newer messages, and meanwhile nobody watched: others may have come and gone.
        if !self.is_fresh(now) && head > self.seen_to {
            self.doubtful_to = head;
        }
        (self.seen, self.seen_to) = (Some(now), head.max(self.seen_to));
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.seen
            .is_some_and(|seen| now.saturating_duration_since(seen) <= UNSEEN_MAX)
    }

    /// Whether no message came and went unseen after the number `before`.
    fn has_seen_all(&self, before: u64, now: Instant) -> bool {
        self.is_fresh(now) && before >= self.doubtful_to
    }
}

/// A message of the stream that was not read yet.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    number: u64,
    seen: Instant,
}

/// The leader's answer to the question for the first message from a number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum LeaderAnswer {
    /// This is the first.
    Message(StoredId),
    /// There is none.
    Nothing,
    /// This user may not ask, or the answer cannot be read.
    Unknown,
}

/// The question whether the leader has a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubted {
    /// The number from which on the leader is asked for the first message.
    pub(super) from: u64,
    /// This message has to be there; `None`: any message of the number `from`.
    pub(super) expected: Option<StoredId>,
    /// A consumer has brought another message in its place, so a newer one is no proof.
    pub(super) is_contradicted: bool,
    pub(super) if_unknown: IfUnknown,
}

/// What to believe of a message if this user may not ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfUnknown {
    Gone,
    There,
}

/// The event for a newest message that is not relayed.
fn head_event(id: StoredId) -> KeptEvent {
    KeptEvent::Head { id, hash: None }
}

/// Whether the newest message of the stream is this one. If it was deleted, nats-server 2.9.10 does not know its time
/// after a restart; what has taken its number since would be gone, too.
fn is_head(head: StoredId, id: StoredId) -> bool {
    head == id || head.minor == 0 && head.major == id.major
}

impl Progress {
    /// Begins with the messages of the last `history_ms` milliseconds, but with no more than fit in `history_bytes` of
    /// memory.
    pub(super) fn new(history_ms: u64, history_bytes: usize) -> Self {
        Self {
            history_ns: history_ms.saturating_mul(MS_NS),
            history_bytes: history_bytes as u64,
            since_ns: None,
            look_until: 0,
            // Until the first look, which sets it ([`Self::begin`]).
            start: Start::Time(0),
            last: None,
            watch: Watch::default(),
            trims: Trims::default(),
            has_said_doubt: false,
            counted: None,
            info: None,
            empty_at: None,
            old_until: None,
            reported_until: 0,
            behind: None,
            ahead: None,
            is_caught_up: false,
            lacks_last: false,
            is_by_number: false,
        }
    }

    /// Handles a new connection, on which the reader has to catch up again.
    pub(super) fn connected(&mut self) {
        self.is_caught_up = false;
        self.behind = None;
        self.is_by_number = false;
        // Without a connection, nobody watched.
        self.watch.seen = None;
    }

    /// Handles that the consumer has delivered all that the stream has.
    pub(super) fn nothing_is_unread(&mut self, now: Instant) {
        let head = self.info.as_ref().map_or(0, StreamInfo::head_number);
        self.watch
            .note(head.max(self.read_until().unwrap_or(0)), now);
    }

    /// Handles a new consumer: messages may have come and gone since the last one was left.
    pub(super) const fn consumer_is_new(&mut self) {
        self.trims.consumer_is_new();
    }

    /// Handles a response to the server's flow control, without which the server stops.
    pub(super) fn flow_is_controlled(&mut self) {
        let read = self.read_until().unwrap_or(0);
        self.trims.flow_is_controlled(read);
    }

    /// Handles that the stream cannot be read, as when it was deleted: the loop hears that the bus is away, until the reader has
    /// caught up again.
    pub(super) fn cannot_read(&mut self) {
        self.is_caught_up = false;
        self.behind = None;
    }

    /// Whether the reader has caught up on this connection, and since the stream could not be read.
    pub(super) const fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// Whether the stream keeps messages after weirgate has acknowledged them.
    pub(super) fn keeps(&self) -> bool {
        let info = self.info.as_ref();
        info.is_none_or(|info| info.retention == Retention::Limits)
    }

    /// Whether messages from before the start of this process are still to be read.
    pub(super) const fn is_at_start(&self) -> bool {
        self.old_until.is_some()
    }

    /// Where the next consumer begins: at the last message, if the stream keeps it as a proof, otherwise after it.
    pub(super) fn next_start(&self) -> Start {
        match self.last {
            None => self.start,
            Some(last) if self.is_by_time() => Start::Time(last.minor),
            Some(last) => Start::Sequence(last.major + u64::from(!self.keeps())),
        }
    }

    /// Whether consumers begin at the time of the last message, not at its number: a newer message may have replaced
    /// it, so it cannot be the proof. In another epoch of the stream, messages with lower numbers come then.
    fn is_by_time(&self) -> bool {
        let info = self.info.as_ref();
        let can_start_at_time = info.is_some_and(StreamInfo::can_start_at_time);
        can_start_at_time && self.keeps() && self.overwrites() && !self.is_by_number
    }

    /// Whether a message that comes before the proof is one of the same epoch of the stream, which was read.
    pub(super) fn is_before(&self, id: StoredId, expected: StoredId) -> bool {
        id.major < expected.major && (id.minor <= expected.minor || !self.is_by_time())
    }

    /// The message that the next consumer has to deliver first, as a proof that the stream is the same as before.
    /// `None`: there is no such message, or the leader has just named it as the newest.
    pub(super) fn proof(&self) -> Option<StoredId> {
        let last = self.last.filter(|_| self.keeps())?;
        let is_head = self.head().is_some_and(|head| is_head(head, last));
        (!is_head).then_some(last)
    }

    /// Whether the stream still is the one with the message `expected`, if this one is found in its place, or at its time.
    pub(super) fn proves(&self, found: StoredId, expected: StoredId) -> bool {
        found == expected || self.overwrites() && found.major > expected.major
    }

    /// Whether newer messages of the stream replace older ones, so that numbers go missing without a loss.
    fn overwrites(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.overwrites)
    }

    /// Whether the stream leaves out numbers of the stream that it copies, so that numbers are missing without a loss.
    fn leaves_out(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.leaves_out)
    }

    /// The number of the newest message that was read, or that is older than what is read.
    pub(super) fn read_until(&self) -> Option<u64> {
        let read = self.last.max(self.empty_at).map(|id| id.major);
        read.or_else(|| match self.start {
            Start::Sequence(first) => Some(first.saturating_sub(1)),
            Start::Time(_) | Start::LastPerSubject => None,
        })
    }

    fn head(&self) -> Option<StoredId> {
        self.info.as_ref()?.head
    }

    /// Takes what the leader says of the stream before a consumer is made: where to begin, or whether what was read is
    /// lost.
    pub(super) fn begin(
        &mut self,
        info: StreamInfo,
        now: Instant,
        unix_ns: u64,
        events: &mut Vec<KeptEvent>,
    ) {
        // The numbers may be those of other messages by now.
        self.reported_until = 0;
        let head = info.head.unwrap_or(NO_MESSAGE);
        self.report_subjects(&info, events);
        let lacks_last = std::mem::take(&mut self.lacks_last);
        let is_other = lacks_last || self.is_other(&info) || self.is_refilled(head);
        let made_ns = self.made_since_ns(&info);
        // `u64::MAX`: nothing was read since the question.
        self.judge_trims(&info, u64::MAX, events);
        self.look_until = self.look_until.min(head.major);
        self.info = Some(info);
        if self.since_ns.is_none() {
            // The server's clock may be behind.
            let newest_ns = match head {
                NO_MESSAGE => unix_ns,
                head => head.minor.min(unix_ns),
            };
            self.since_ns = Some(newest_ns.saturating_sub(self.history_ns));
            self.begin_at(head);
            self.watch = Watch::since(head.major, now);
        } else if is_other && self.old_until.is_some() && self.last.is_none() {
            // Nothing was handed over, so nothing is missing.
            self.begin_at(head);
        } else if is_other {
            self.lost(events);
            self.look_until = head.major;
            // A stream that was made since then has nothing that was read, even if its clock is behind.
            let since_ns = self.since_ns.unwrap_or(0);
            let since_ns = since_ns.min(made_ns.unwrap_or(u64::MAX));
            self.since_ns = Some(since_ns);
            self.start = Start::Time(since_ns);
        }
        self.avoid_time();
    }

    /// Takes what the leader says of the stream once a consumer was made. When the leader was asked, the message `read` had
    /// been read; `u64::MAX`: nothing was read since the question.
    pub(super) fn note_info(&mut self, info: StreamInfo, read: u64, events: &mut Vec<KeptEvent>) {
        self.report_subjects(&info, events);
        self.judge_trims(&info, read, events);
        self.look_until = self.look_until.min(info.head_number());
        self.info = Some(info);
    }

    /// Reports what was removed before it was read, if the numbers alone did not say so.
    fn judge_trims(&mut self, info: &StreamInfo, read: u64, events: &mut Vec<KeptEvent>) {
        match self.trims.judge(info.first, read) {
            // As for the holes of a backlog.
            Some(until) if until <= self.reported_until => events.push(KeptEvent::Hole),
            Some(_) => {
                events.push(KeptEvent::Lost);
                self.reported_until = info.head_number();
            }
            None => {}
        }
        // Also if later messages are in doubt: clients wait for an answer about those before their requests.
        if self.has_said_doubt {
            self.has_said_doubt = self.is_in_doubt();
            events.push(KeptEvent::InDoubt(self.has_said_doubt));
        }
    }

    /// Whether the leader is to be asked soon about the stream: messages may have been removed before they were read.
    pub(super) const fn is_in_doubt(&self) -> bool {
        self.trims.is_in_doubt()
    }

    /// Says which subjects the stream has, if that is news.
    fn report_subjects(&self, info: &StreamInfo, events: &mut Vec<KeptEvent>) {
        let known = self.info.as_ref().map(|known| known.subjects.clone());
        if info.subjects != known.unwrap_or_default() {
            events.push(KeptEvent::Subjects(info.subjects.clone()));
        }
    }

    /// When the stream was made, if that was after the known stream was made; Unix nanoseconds. An older one was restored,
    /// perhaps with what was read.
    fn made_since_ns(&self, info: &StreamInfo) -> Option<u64> {
        let known_ns = self.info.as_ref()?.created_ns;
        Some(info.created_ns).filter(|made_ns| *made_ns > known_ns)
    }

    /// Begins with the messages that were stored since [`Self::since_ns`].
    fn begin_at(&mut self, head: StoredId) {
        self.look_until = head.major;
        self.start = Start::Time(self.since_ns.unwrap_or(0));
        self.old_until = Some(head.major).filter(|head| *head > 0);
        self.empty_at = (head == NO_MESSAGE).then_some(NO_MESSAGE);
    }

    /// Begins at a number instead of a time if the server must not look for a time. Then all messages are read that fit
    /// in the history, and the older ones are passed over.
    fn avoid_time(&mut self) {
        let info = self.info.as_ref();
        let info = info.filter(|info| !info.can_start_at_time() && info.has_holes());
        if let (Some(info), Start::Time(_)) = (info, self.start) {
            self.start = Start::Sequence(info.first.max(self.first_that_fits()));
        }
    }

    /// Turns a start by time into a start by number. `begins` is where a consumer from that time on begins. Returns
    /// whether another consumer is needed: because not all messages of this one fit in the history; because it leaves
    /// out messages that were stored after the look; or because it may leave out messages that were stored after the
    /// last one, but at an earlier time.
    pub(super) fn fix_start(&mut self, begins: u64) -> bool {
        if let Some(last) = self.last {
            let is_late = self.is_by_time() && begins > last.major.saturating_add(1);
            self.is_by_number |= is_late;
            return is_late;
        }
        let Start::Time(_) = self.start else {
            return false;
        };
        let after_look = self.look_until.saturating_add(1);
        let first = begins.max(self.first_that_fits()).min(after_look);
        self.start = Start::Sequence(first);
        first != begins
    }

    /// The number from which on the messages of a start fit in the history. After the start every message is read.
    fn first_that_fits(&self) -> u64 {
        let info = self.info.as_ref().filter(|_| self.old_until.is_some());
        info.map_or(0, |info| {
            let fitting = info.messages_in(self.history_bytes);
            (info.head_number() + 1).saturating_sub(fitting)
        })
    }

    /// Whether the stream was empty up to the number of its head, and now has another message of that number.
    fn is_refilled(&self, head: StoredId) -> bool {
        let empty_at = self.empty_at;
        empty_at.is_some_and(|at| at.major == head.major && !is_head(head, at))
    }

    /// When the stream was made, as far as is known; Unix nanoseconds.
    pub(super) fn made_ns(&self) -> Option<u64> {
        self.info.as_ref().map(|info| info.created_ns)
    }

    /// Whether this is another stream than before, or lacks what was read of it.
    pub(super) fn is_other(&self, info: &StreamInfo) -> bool {
        self.is_other_than_read(info, self.read_until().unwrap_or(0))
    }

    /// Whether this is another stream than before, or lacks the message `read`.
    pub(super) fn is_other_than_read(&self, info: &StreamInfo, read: u64) -> bool {
        let known = self.info.as_ref();
        known.is_some_and(|known| known.created_ns != info.created_ns) || info.head_number() < read
    }

    /// Handles a new consumer that has nothing to deliver. Returns false if the leader has newer messages than what was
    /// read, so that the leader has to be asked for the next one.
    pub(super) fn begin_empty(&mut self, events: &mut Vec<KeptEvent>) -> bool {
        let head = self.head().unwrap_or(NO_MESSAGE);
        let read = self.read_until().unwrap_or(0);
        if head.major > read && !self.leaves_out() {
            let info = self.info.as_ref();
            if info.is_none_or(|info| info.first <= head.major) {
                return false;
            }
            self.nothing_left(events);
        } else if self.last.or(self.empty_at).is_none() {
            // The messages of the stream are older than what is read.
            self.nothing_left(events);
        }
        true
    }

    /// Whether the stream has messages that were not read, by the leader's answer. Where the stream leaves out numbers, its
    /// newest number says nothing: its messages have to have become more since the consumer has delivered the last one, or all
    /// of them are behind it. `sequence`: the number of that delivery.
    pub(super) fn has_unread(&mut self, info: &StreamInfo, sequence: u64) -> bool {
        let read = self.read_until().unwrap_or(0);
        if !info.leaves_out {
            return info.head_number() > read;
        }
        let before = self.counted.filter(|(of, _)| *of == sequence);
        let (_, messages) = *self
            .counted
            .insert(before.unwrap_or((sequence, info.messages)));
        info.messages > messages || info.messages > 0 && info.first > read + 1
    }

    /// Reports that the reader has caught up, once nothing of the start is left to read.
    pub(super) fn report_caught_up(&mut self, events: &mut Vec<KeptEvent>) {
        let read = self.read_until().unwrap_or(0);
        self.old_until = self.old_until.filter(|until| read < *until);
        if self.old_until.is_none() && !std::mem::replace(&mut self.is_caught_up, true) {
            events.push(KeptEvent::CaughtUp);
        }
    }

    /// Whether a message is to be handed over: not delivered again because its acknowledgement was late, and not older
    /// than what is read, as from a server that catches up.
    pub(super) fn is_news(&self, id: StoredId) -> bool {
        match self.last {
            Some(last) => id.major > last.major,
            None => !self.was_read(id) && !self.is_early(id),
        }
    }

    /// Passes over a message that is not handed over. If it is older than what is read, the next consumer begins after
    /// it. If it is the newest message of the start, what follows is new.
    pub(super) fn pass_over(&mut self, id: StoredId, events: &mut Vec<KeptEvent>) {
        if self.last.is_some() || !self.is_early(id) || self.was_read(id) {
            return;
        }
        self.start = Start::Sequence(id.major + 1);
        if self.old_until == Some(id.major) {
            self.empty_at = Some(id);
            events.push(head_event(id));
        }
    }

    fn was_read(&self, id: StoredId) -> bool {
        self.read_until().is_some_and(|read| id.major <= read)
    }

    /// Whether a message was stored before the look, and before the time from which on messages are read.
    fn is_early(&self, id: StoredId) -> bool {
        let is_before = self.since_ns.is_some_and(|since_ns| id.minor < since_ns);
        is_before && id.major <= self.look_until
    }

    /// Hands a message over. `pending`: so many more were on the server of the consumer when the server sent it; `may_stop`: it
    /// may have sent no more after it.
    pub(super) fn hand_over(
        &mut self,
        id: StoredId,
        delivery: Delivery,
        (pending, may_stop): (u64, bool),
        now: Instant,
        events: &mut Vec<KeptEvent>,
    ) {
        self.report_hole(id, pending, now, events);
        self.trims.read(pending, may_stop);
        self.empty_at = None;
        self.last = Some(id);
        if pending == 0 {
            self.nothing_is_unread(now);
        }
        let is_old = self.old_until.is_some_and(|until| id.major <= until);
        if !is_old {
            // Nothing is left of the start: its end was removed.
            self.report_caught_up(events);
        }
        events.push(match into_name(delivery.subject) {
            Ok(subject) => KeptEvent::Message {
                id,
                hash: None,
                subject,
                payload: delivery.payload,
                is_deletion: delivery.is_deletion,
                is_old,
            },
            Err(why) => KeptEvent::Bad { id, why },
        });
        self.report_caught_up(events);
        self.report_lag(pending, now, events);
    }

    /// Reports messages that were deleted before they were read: those between the last message and this one. At the start,
    /// those before the first message are no loss.
    fn report_hole(
        &mut self,
        id: StoredId,
        pending: u64,
        now: Instant,
        events: &mut Vec<KeptEvent>,
    ) {
        let before = match self.last {
            Some(last) => Some(last.major),
            None => self.read_until().filter(|_| self.old_until.is_none()),
        };
        let Some(before) = before.filter(|before| id.major != before + 1) else {
            return;
        };
        if self.leaves_out_after(before, now) {
            if let Some(info) = &self.info {
                let has_seen_all = self.watch.has_seen_all(before, now);
                let unseen_max = has_seen_all.then_some(UNSEEN_MAX);
                self.trims
                    .missing((before, id.major), info, pending, unseen_max);
                if self.is_in_doubt() && !std::mem::replace(&mut self.has_said_doubt, true) {
                    events.push(KeptEvent::InDoubt(true));
                }
            }
            return;
        }
        // The first hole of a backlog is reported as a loss. The later holes were there by then, so they are no further
        // losses. Where newer messages replace older ones, nothing is lost. A hole among messages from before the
        // start, or at their end, ends positions, but this process has lost nothing.
        let is_old = self.old_until.is_some_and(|until| id.major <= until)
            || self.empty_at.is_some_and(|at| id.major == at.major + 1)
            || self.leaves_out_after(before.max(self.watch.start), now);
        if id.major <= self.reported_until || is_old || self.overwrites() {
            events.push(KeptEvent::Hole);
        } else {
            events.push(KeptEvent::Lost);
            let stored = self.info.as_ref().map_or(0, StreamInfo::head_number);
            self.reported_until = stored.max(id.major.saturating_add(pending));
        }
    }

    /// Whether the stream itself leaves out all numbers that are missing behind `before`, unless it has removed its first
    /// messages ([`Trims`]).
    fn leaves_out_after(&self, before: u64, now: Instant) -> bool {
        self.info.as_ref().is_some_and(|info| {
            let has_seen_all = self.watch.has_seen_all(before, now) && !info.overwrites;
            info.leaves_out && (info.keeps_within || has_seen_all)
        })
    }

    /// Says how far the reader is behind, if that is news. `pending`: so many messages are on the server of the consumer.
    pub(super) fn report_lag(&mut self, pending: u64, now: Instant, events: &mut Vec<KeptEvent>) {
        let read = self.read_until().unwrap_or(0);
        let head = self.head();
        // Where numbers are left out, they do not say how many messages there are.
        let head_number = head
            .filter(|_| !self.leaves_out())
            .map_or(0, |head| head.major);
        let messages = pending.max(head_number.saturating_sub(read));
        let newest = Ahead {
            number: read.saturating_add(messages),
            seen: now,
        };
        let ahead = self.ahead.filter(|ahead| ahead.number > read);
        self.ahead = (messages > 0).then_some(ahead.unwrap_or(newest));
        // The loop knows already that nothing is left.
        if messages == 0 && self.behind.replace(0) == Some(0) {
            return;
        }
        self.behind = Some(messages);
        let ms = self.ahead.map_or(0, |ahead| {
            let between = head.zip(self.last);
            let stored_ns = between.map_or(0, |(head, last)| head.minor.saturating_sub(last.minor));
            let seen = now.saturating_duration_since(ahead.seen);
            (stored_ns / MS_NS).max(u64::try_from(seen.as_millis()).unwrap_or(u64::MAX))
        });
        let messages = Some(messages);
        events.push(KeptEvent::Lag { messages, ms });
    }

    /// Takes the leader's answer about a message. Returns whether the message is there, so that another consumer may bring
    /// it; otherwise what is lost was reported, or the next look reports it, and the next consumer begins elsewhere.
    pub(super) fn take_leaders_answer(
        &mut self,
        found: LeaderAnswer,
        doubted: Doubted,
        events: &mut Vec<KeptEvent>,
    ) -> bool {
        let is_it = |id: StoredId| match (doubted.expected, self.old_until) {
            (Some(expected), _) if doubted.is_contradicted => id == expected,
            (Some(expected), _) => self.proves(id, expected),
            // Holes among the messages from before the start are no loss.
            (None, Some(until)) => id.major <= until,
            (None, None) => id.major == doubted.from || self.overwrites() || self.leaves_out(),
        };
        match found {
            LeaderAnswer::Message(id) if is_it(id) => {
                self.is_by_number |= doubted.is_contradicted;
                return true;
            }
            LeaderAnswer::Unknown if doubted.if_unknown == IfUnknown::There => return true,
            // Not even the last message is the same, so the numbers mean nothing.
            _ if doubted.expected.is_some() => self.lacks_last = true,
            LeaderAnswer::Message(id) => self.go_on_at(id.major, events),
            LeaderAnswer::Nothing | LeaderAnswer::Unknown => self.nothing_left(events),
        }
        false
    }

    /// Goes on at the first message that is left. Those before it are a loss, unless they are from before the start.
    fn go_on_at(&mut self, first: u64, events: &mut Vec<KeptEvent>) {
        let was_at_start = self.old_until.take().is_some();
        if was_at_start && self.last.is_some() {
            // The next consumer begins at the last message anyway.
            return;
        }
        if !was_at_start {
            self.lost(events);
            // All that is left is handed over, whatever its time says ([`Self::is_early`]).
            self.look_until = 0;
        }
        self.start = Start::Sequence(first);
    }

    /// Handles a stream in which there is nothing to read up to its newest message. Messages that came and went since
    /// this process has started are a loss.
    fn nothing_left(&mut self, events: &mut Vec<KeptEvent>) {
        let head = self.head().unwrap_or(NO_MESSAGE);
        let is_start = self.old_until.take().is_some();
        // Also before the first message was handed over: a reader that has caught up stands at a number.
        let is_behind = self.read_until().is_some_and(|read| head.major > read);
        if !is_start && is_behind && self.leaves_out() {
            self.watch.doubtful_to = head.major;
        } else if !is_start && is_behind {
            self.lost(events);
            // As in [`Self::go_on_at`].
            self.look_until = 0;
        }
        self.empty_at = Some(head);
        if self.last.is_none() {
            self.start = Start::Sequence(head.major + 1);
            events.extend(self.head().map(head_event));
        }
    }

    /// Reports a loss. The caller says where to go on, and with which look.
    fn lost(&mut self, events: &mut Vec<KeptEvent>) {
        events.push(KeptEvent::Lost);
        self.reported_until = self.head().map_or(0, |head| head.major);
        self.old_until = None;
        self.is_by_number = false;
        // What comes next is newer.
        let read = self.last.take().max(self.empty_at.take());
        let since_ns = self.since_ns.unwrap_or(0);
        self.since_ns = Some(read.map_or(since_ns, |read| since_ns.max(read.minor + 1)));
    }
}
