//! What the gateway says by itself (contract channels: row messages). The number of the message
//! goes before everything but its type: it is known only when the message is queued.
//!
//! An answer waits until the bus has confirmed the names that it speaks of, for a second at the most, or longer
//! on a bus that confirms late. Those of one client go out in their order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::history::Position;
use crate::hub::{Core, Frame, Lead, TopicName};
use crate::wire::object_writer::{ObjectWriter, iso_utc};

/// An answer without its number and its time.
#[derive(Debug)]
pub(super) struct Answer {
    lead: &'static str,
    body: ObjectWriter,
}

impl Answer {
    pub(super) fn connected(client_id: &str, role: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"connected","seq":"#);
        answer.body.string("clientId", client_id);
        answer.body.string("role", role);
        answer
    }

    pub(super) fn subscribed(granted: &[String], errors: &[String], request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"subscribed","seq":"#);
        answer.strings("channels", granted);
        answer.strings("errors", errors);
        answer.to(request_id)
    }

    pub(super) fn unsubscribed(left: &[String], request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"unsubscribed","seq":"#);
        answer.strings("channels", left);
        answer.to(request_id)
    }

    pub(super) fn pong(request_id: &str) -> Self {
        Self::new(r#"{"type":"pong","seq":"#).to(request_id)
    }

    pub(super) fn error(error: &str, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"error","seq":"#);
        answer.body.string("error", error);
        answer.to(request_id)
    }

    fn new(lead: &'static str) -> Self {
        Self {
            lead,
            body: ObjectWriter::new(),
        }
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        self.body.strings(key, values.iter().map(String::as_str));
    }

    fn to(mut self, request_id: &str) -> Self {
        self.body.raw("requestId", request_id);
        self
    }

    /// Where the granted names are.
    pub(super) fn positions<'a>(&mut self, of: impl Iterator<Item = (&'a TopicName, Position)>) {
        let mut positions = ObjectWriter::new();
        for (name, position) in of {
            let mut inner = ObjectWriter::new();
            inner.string("epoch", &position.epoch.text());
            inner.number("offset", position.offset);
            positions.object(name.as_str(), inner);
        }
        self.body.object("positions", positions);
    }

    /// Whether everything that the client missed of a name comes behind the answer.
    pub(super) fn recovered<'a>(&mut self, of: impl Iterator<Item = (&'a TopicName, bool)>) {
        let mut recovered = ObjectWriter::new();
        for (name, is_recovered) in of {
            recovered.boolean(name.as_str(), is_recovered);
        }
        self.body.object("recovered", recovered);
    }

    /// Bytes that it will have, about.
    pub(super) fn bytes(&self) -> usize {
        self.body.bytes()
    }

    /// The frame, with the time of the call.
    pub(super) fn frame(mut self, core: &Core) -> Arc<Frame> {
        let now = core.now();
        self.body.string("timestamp", &iso_utc(now.unix_ms));
        let body = self.body.finish();
        // The lead has opened the object and holds its first members.
        let body = format!(",{}", body.trim_start_matches('{'));
        Frame::text(core.frame_bytes())
            .answer()
            .lead(Lead::Seq(self.lead))
            .received(now)
            .body(body.as_bytes())
            .finish()
    }
}

/// The longest wait for a bus that confirms at once, microseconds (contract channels: "1 s at the
/// most").
pub(super) const BUS_WAIT_US: u64 = 1_000_000;

/// A client with more answers waiting is not read until some have gone out.
pub(super) const ANSWERS_MAX: usize = 64;

/// The same, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What stands before and behind an answer.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Names that the answer waits for.
    pub(super) unconfirmed: BTreeSet<TopicName>,
    /// Names whose last values go to the client behind the answer.
    pub(super) retained: BTreeSet<TopicName>,
    /// Names whose positions are in the answer; `None`: the answer has no positions.
    pub(super) granted: Option<BTreeSet<TopicName>>,
    /// Names that the client asks to resume; `None`: the request does not speak of that.
    pub(super) resumes: Option<BTreeMap<TopicName, Resume>>,
}

/// How a name is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// The client is no member before its answer: what it missed since here goes before what is newer.
    Waits(Position),
    /// The client is a member, and gets nothing of what it missed.
    Lost,
}

impl Behind {
    /// Says how a name is resumed.
    pub(super) fn resume(&mut self, name: &TopicName, how: Resume) {
        self.resumes
            .get_or_insert_default()
            .insert(name.clone(), how);
    }

    /// The client is about to be a member of the name.
    pub(super) fn is_resuming(&self, name: &TopicName) -> bool {
        let resume = self.resumes.as_ref().and_then(|resumes| resumes.get(name));
        matches!(resume, Some(Resume::Waits(_)))
    }

    /// The names with what the client missed behind the answer.
    pub(super) fn waiting_resumes(&self) -> impl Iterator<Item = (&TopicName, Position)> {
        let resumes = self.resumes.iter().flatten();
        resumes.filter_map(|(name, resume)| match resume {
            Resume::Waits(since) => Some((name, *since)),
            Resume::Lost => None,
        })
    }
}

#[derive(Debug)]
struct Waiting {
    answer: Answer,
    behind: Behind,
    due_us: u64,
}

/// The answers of one client that have not gone out.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Names that are resumed, and the client is no member yet.
    resuming: usize,
}

impl Answers {
    /// Too many for more requests to be taken.
    pub(super) fn are_too_many(&self) -> bool {
        self.waiting.len() > ANSWERS_MAX || self.bytes > ANSWER_BYTES_MAX
    }

    /// When the first of them goes out at the latest.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.due_us)
    }

    /// Queues an answer that waits until its names are confirmed, and until `due_us` at the latest.
    pub(super) fn push(&mut self, answer: Answer, behind: Behind, due_us: u64) {
        self.bytes += answer.bytes();
        self.resuming += behind.waiting_resumes().count();
        self.waiting.push_back(Waiting {
            answer,
            behind,
            due_us,
        });
    }

    /// The first answer waits for nothing, or has waited long enough.
    pub(super) fn are_ready(&self, now_us: u64) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|first| first.behind.unconfirmed.is_empty() || first.due_us <= now_us)
    }

    /// What stands behind the first answer.
    pub(super) fn first(&mut self) -> Option<&mut Behind> {
        Some(&mut self.waiting.front_mut()?.behind)
    }

    /// Takes the first answer out.
    pub(super) fn pop(&mut self) -> Option<(Answer, Behind)> {
        let first = self.waiting.pop_front()?;
        self.bytes -= first.answer.bytes();
        self.resuming -= first.behind.waiting_resumes().count();
        Some((first.answer, first.behind))
    }

    /// Names that are resumed, and the client is no member yet.
    pub(super) fn resuming_count(&self) -> usize {
        self.resuming
    }

    /// The same names.
    pub(super) fn resuming(&self) -> impl Iterator<Item = &TopicName> {
        let waiting = self.waiting.iter();
        waiting.flat_map(|waiting| waiting.behind.waiting_resumes().map(|(name, _)| name))
    }

    /// The client is about to be a member of the name, behind an answer that waits.
    pub(super) fn is_resuming(&self, name: &TopicName) -> bool {
        self.resuming > 0 && self.resuming().any(|resuming| resuming == name)
    }

    /// The client no longer wants the name; `false` if it was not about to be a member.
    pub(super) fn forget_resume(&mut self, name: &TopicName) -> bool {
        let is_resuming = self.is_resuming(name);
        if is_resuming {
            let waiting = self.waiting.iter_mut();
            for resumes in waiting.filter_map(|waiting| waiting.behind.resumes.as_mut()) {
                resumes.remove(name);
            }
            self.resuming -= 1;
        }
        is_resuming
    }

    /// The client is a member of a name that the first answer was to resume, and gets nothing of what
    /// it missed.
    pub(super) fn lose_resume(&mut self, name: &TopicName, is_unconfirmed: bool) {
        let Some(first) = self.waiting.front_mut() else {
            return;
        };
        let resume = first.behind.resumes.as_mut().and_then(|r| r.get_mut(name));
        if let Some(resume) = resume.filter(|resume| **resume != Resume::Lost) {
            *resume = Resume::Lost;
            self.resuming -= 1;
        }
        first.behind.retained.insert(name.clone());
        if is_unconfirmed {
            first.behind.unconfirmed.insert(name.clone());
        }
    }

    /// The names whose last values go behind the answers that wait.
    pub(super) fn retained(&self) -> impl Iterator<Item = &TopicName> {
        let waiting = self.waiting.iter();
        waiting.flat_map(|waiting| &waiting.behind.retained)
    }

    /// None of them waits for the name any more.
    pub(super) fn settle(&mut self, name: &TopicName) {
        for waiting in &mut self.waiting {
            waiting.behind.unconfirmed.remove(name);
        }
    }

    /// They wait for nothing: the bus is away, so nothing will be confirmed soon.
    pub(super) fn settle_all(&mut self) {
        for waiting in &mut self.waiting {
            waiting.behind.unconfirmed.clear();
        }
    }

    /// No answer waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&'static str]) -> Behind {
        Behind {
            unconfirmed: names.iter().copied().map(TopicName::fixed).collect(),
            ..Behind::default()
        }
    }

    /// However a wait ends, its answer goes out, and those behind it.
    #[test]
    fn answers_go_out_in_their_order() {
        let pong = || Answer::pong("1");
        for end in 0..3 {
            let mut answers = Answers::default();
            answers.push(pong(), names(&["x", "y"]), BUS_WAIT_US);
            answers.push(pong(), names(&["x"]), BUS_WAIT_US);
            answers.push(pong(), names(&[]), BUS_WAIT_US);
            assert!(!answers.are_ready(0));
            assert_eq!(answers.due_us(), Some(BUS_WAIT_US));
            let now_us = match end {
                0 => {
                    answers.settle(&TopicName::fixed("x"));
                    assert!(!answers.are_ready(0));
                    answers.settle(&TopicName::fixed("y"));
                    0
                }
                1 => BUS_WAIT_US,
                _ => {
                    answers.settle_all();
                    0
                }
            };
            for _ in 0..3 {
                assert!(
                    answers.are_ready(now_us) && answers.pop().is_some(),
                    "{end}"
                );
            }
            assert!(!answers.are_ready(now_us));
            assert_eq!((answers.is_empty(), answers.bytes), (true, 0), "{end}");
        }
    }
}
