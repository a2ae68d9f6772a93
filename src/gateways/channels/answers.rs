//! Answers to clients, until they are ready to be sent: after earlier answers, and once their names are confirmed and the
//! stream has given what the history lacks ([`super::sending`] sends them). An answer waits for the bus at most a second, or
//! longer on a bus that confirms late. The answers to a client go out in order.

use std::collections::VecDeque;

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::follow_up::FollowUp;
use super::leaving::DropLater;
use super::messages::Answer;
use super::past::{PAST_WAIT_US, PastEnd};
use super::sending::Sending;
use weirgate_core::{Core, SessionKey, TopicName};
use weirgate_wire::admission::{ClientAddr, Permit, Quota};
use weirgate_wire::base::allocated_bytes;

/// The longest wait for a bus that confirms at once, microseconds (protocol-channels.md, "Names and patterns").
pub(super) const BUS_WAIT_US: u64 = 1_000_000;

/// The most answers that may wait for a client. If more wait, the gateway stops reading the client.
const ANSWERS_MAX: usize = 64;

/// The most bytes of these answers.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

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

impl Queue {
    /// Memory of the waiting answers.
    fn memory_bytes(&self) -> u64 {
        let of_answer = |waiting: &WaitingAnswer| {
            allocated_bytes(waiting.answer.bytes()) + waiting.follow_up.bytes()
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
        if let Some(resume) = &mut follow_up.resume {
            resume.note_queued();
        }
        let queue = self.0.get_or_insert_default();
        queue.bytes += answer.bytes();
        queue.resuming += follow_up.joined_later();
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
            queue.resuming -= follow_up.joined_later();
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
        let resumes = queue
            .waiting
            .iter_mut()
            .filter_map(|waiting| waiting.follow_up.resume.as_mut());
        // A name that the client holds may be in several.
        let forgotten = resumes.filter_map(|resume| resume.names.take(name)).count();
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

impl ChannelsGateway {
    /// Sends an answer, or queues it after earlier answers and until its names are confirmed.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        answer: Answer,
        follow_up: FollowUp,
    ) {
        let confirmed_us = core.now().mono_us + self.bus_wait_us;
        let past_us = confirmed_us.max(core.now().mono_us + PAST_WAIT_US);
        let due = AnswerDue {
            confirmed_us,
            past_us,
        };
        client.answers.push(answer, follow_up, due);
        self.send_ready(core, key, client);
        // Most answers are sent by now; only waiting answers are charged.
        let (bytes, address) = (self.names.bytes(), client.held.address());
        if !client.answers.charge(bytes, address, core.now().mono_us) {
            client.answers.wait_no_longer();
            self.send_ready(core, key, client);
        }
        if client.answers.are_too_many() && !core.has_requests(key) {
            core.pause_reading(key);
        }
    }

    /// Sends the ready answers, and sets the next deadline.
    pub(super) fn send_ready(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
    ) {
        let now = core.now();
        // The answers of an event stream go out together, after the last request.
        let (next, has_rest) = match client.is_stream() {
            true => (NextAnswers::All, client.has_rest()),
            // The answers to earlier requests do not wait for the rest of a later one.
            false => (NextAnswers::First, false),
        };
        let has_more = core.has_requests(key) || has_rest;
        while !has_more
            && !client.is_sending()
            && let Some(ready) = client.answers.pop_ready(next, now.mono_us)
        {
            self.continue_sending(core, key, client, Sending::new(ready));
        }
        if !client.answers.are_too_many() {
            core.resume_reading(key);
        }
        let end = client.token_end.due_us(now);
        let due = client.answers.due_us(next);
        let due = due.filter(|_| !client.is_sending());
        core.set_deadline(key, due.into_iter().chain(end).min());
    }
}

#[cfg(test)]
mod tests {
    use super::super::past::PastWait;
    use super::*;

    fn names(names: &[&'static str]) -> FollowUp {
        FollowUp {
            unconfirmed: names.iter().copied().map(TopicName::fixed).collect(),
            ..FollowUp::default()
        }
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
