//! A client that waits for last values, or for all kept messages of names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::replay::ClientReplays;
use super::questions::QuestionCursor;
use super::shares::CLIENT_BYTES_MAX;
use weirgate_core::{RetainedCut, TopicName};
use weirgate_wire::admission::{ClientAddr, Permit};

/// The names whose values a client waits for.
pub(in super::super) type WaitedNames = BTreeMap<TopicName, WaitedName>;

/// A name whose values a client waits for.
#[derive(Clone, Debug)]
pub(in super::super) struct WaitedName {
    pub(in super::super) state: ValuesState,
    /// From where the next question for the client reads.
    pub(in super::super) cursor: QuestionCursor,
    /// The number of the newest live message when the client asked.
    pub(in super::super) since: u64,
    /// The values sent so far.
    pub(in super::super) count: u64,
    /// Whether the client wants a message at the end of the values.
    pub(in super::super) wants_end: bool,
    /// Why some values have not come.
    pub(in super::super) cut: Option<RetainedCut>,
    /// Whether the client knows that the bus did not give the values, and that others may come later.
    pub(in super::super) is_notified: bool,
}

impl WaitedName {
    /// Returns the end for the client: how many values it has got so far, and why others are missing.
    pub(super) fn end(&self, name: &TopicName, cut: Option<RetainedCut>) -> RetainedEnd {
        RetainedEnd {
            answer: match self.state {
                ValuesState::Waits(answer) => answer,
                // Names are asked for only after their answer was sent.
                ValuesState::Asked(_) | ValuesState::Takes(_) => None,
            },
            name: name.clone(),
            count: self.count,
            cut: cut.or(self.cut),
        }
    }

    /// A name whose values come after the answer with this number, or at once. `since`: the number of the newest live message.
    pub(in super::super) fn new(answer: Option<u64>, since: u64) -> Self {
        Self {
            state: ValuesState::Waits(answer),
            cursor: QuestionCursor::default(),
            since,
            count: 0,
            wants_end: false,
            cut: None,
            is_notified: false,
        }
    }
}

/// The end of a name's values for a client.
#[derive(Debug)]
pub(in super::super) struct RetainedEnd {
    /// The number of the answer that must be sent before; `None` if it was sent.
    pub(super) answer: Option<u64>,
    pub(in super::super) name: TopicName,
    /// The values sent.
    pub(in super::super) count: u64,
    /// Why values are missing.
    pub(in super::super) cut: Option<RetainedCut>,
}

/// The progress of a client's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum ValuesState {
    /// The client's turn has not come, or the answer with this number has not been sent; `None`: no answer has to be sent
    /// first.
    Waits(Option<u64>),
    /// The name is in the question with this number, and the bus brings a page of values, or gets the question next.
    Asked(u64),
    /// The name is in the question with this number, and the client takes the values of a page.
    Takes(u64),
}

/// A client's part of the bytes of all clients.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) permit: Permit,
    /// When the share was given, microseconds of the monotonic clock.
    pub(super) since_us: u64,
}

/// A client that waits for last values, or for all kept messages of names.
#[derive(Debug, Default)]
pub(in super::super) struct RetainedClient {
    pub(in super::super) names: WaitedNames,
    /// All kept messages of names that the client gets.
    pub(in super::super) replays: ClientReplays,
    /// The names of which the client takes a page.
    pub(super) taking: BTreeSet<TopicName>,
    /// The ends that are still to be sent to the client.
    pub(super) ends: VecDeque<RetainedEnd>,
    /// The number of the last answer that was sent.
    pub(super) answered: u64,
    /// Names in questions.
    pub(super) asked: usize,
    /// The client's part of the bytes of all clients.
    pub(super) share: Option<Share>,
    /// The client's address; known once the client has had room.
    pub(super) address: Option<ClientAddr>,
    /// Bytes sent to the client, perhaps not taken yet.
    pub(super) sent: usize,
    /// The size of the largest value so far.
    pub(super) largest: usize,
    /// The client waits for room or in the line, or the bus has a question for one of its names.
    pub(in super::super) is_busy: bool,
}

impl RetainedClient {
    /// Whether the answer with this number was sent; answers are sent in order.
    fn has_sent(&self, answer: Option<u64>) -> bool {
        answer.is_none_or(|answer| answer <= self.answered)
    }

    /// The names that the bus may be asked for.
    pub(super) fn ready(&self) -> impl Iterator<Item = &TopicName> {
        let is_ready = |wanted: &WaitedName| match wanted.state {
            ValuesState::Waits(answer) => self.has_sent(answer),
            ValuesState::Asked(_) | ValuesState::Takes(_) => false,
        };
        let names = self.names.iter();
        let may_ask = |scope: &TopicName, wanted: &WaitedName| {
            !wanted.cursor.reads_all() || self.replays.may_ask_bus(scope)
        };
        let ready = names.filter(move |(name, wanted)| is_ready(wanted) && may_ask(name, wanted));
        ready.map(|(name, _)| name)
    }

    /// Whether room in the client's send queue would be used: it takes a page of values, or the bus may be asked for one of
    /// its names.
    pub(super) fn can_use_room(&self) -> bool {
        !self.taking.is_empty() || self.ready().next().is_some()
    }

    /// Whether the name is in this question, and the client does not take a page of it now.
    pub(in super::super) fn is_asked(&self, name: &TopicName, number: u64) -> bool {
        let wanted = self.names.get(name);
        wanted.is_some_and(|wanted| wanted.state == ValuesState::Asked(number))
    }

    /// Adds an end that is to be sent. Returns true if its answer was sent before.
    pub(super) fn push_end(&mut self, end: RetainedEnd) -> bool {
        let is_due = self.has_sent(end.answer);
        self.ends.push_back(end);
        is_due
    }

    /// Takes the next end whose answer was sent.
    pub(super) fn next_end(&mut self) -> Option<RetainedEnd> {
        let is_due = |end: &RetainedEnd| self.has_sent(end.answer);
        let at = self.ends.iter().position(is_due)?;
        self.ends.remove(at)
    }

    /// Counts the value of a name for the client. Returns false if the client has no room for it.
    pub(super) fn take_room(&mut self, bytes: usize) -> bool {
        self.largest = self.largest.max(bytes);
        // A single value may be larger than the share.
        let has_room = self.sent == 0 || self.sent + bytes <= CLIENT_BYTES_MAX;
        if has_room {
            self.count_sent(bytes);
        }
        has_room
    }

    /// Counts a value that comes in a page with others: of a pattern, or one of all kept messages. These come together,
    /// so they may use the whole share.
    pub(in super::super) fn take_room_in_page(&mut self, bytes: usize) {
        self.largest = self.largest.max(bytes);
        self.count_sent(bytes);
    }

    fn count_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if let Some(Share { permit, since_us }) = &mut self.share {
            permit.set(permit.amount().max(self.sent as u64), *since_us);
        }
    }
}
