//! The consumers that are being made. For a wide pattern JetStream looks at every subject of the stream, some 0.2 s for
//! 100,000, and a server carries out the requests of a connection one after the other: a subscription waits for all requests
//! before it. So only a few requests for consumers are on their way at once, and further questions wait in line.
//!
//! With nats-server 2.9, a million subjects take 10 s, in which the server answers nothing else on this connection, not
//! even a ping. A ping behind each request shows when the server is past it; until then, the connection is
//! [held](Making::holds): its silence says nothing, and no question on it is late.
//!
//! A request that nobody waits for any more keeps its slot, because the server works on it all the same: otherwise
//! more requests would go out than the server can work off. The slot is free with the answer, or after
//! [`ANSWER_TIMEOUT`], once the server has answered a ping that went out then: it is past the request, and the answer
//! is lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::ANSWER_TIMEOUT;
use super::question::ReplyNumber;
use crate::nats::consumer::Consumer;

/// The most requests for consumers that are on their way: the server begins the next while the answer to the one before
/// travels, and a subscription waits for no more than these.
pub(super) const MAKING_MAX: usize = 2;

/// The longest time for which a request holds its connection.
const HELD_MAX: Duration = Duration::from_secs(30);

/// The requests for consumers of one connection.
#[derive(Debug, Default)]
pub(super) struct Making {
    /// The questions that wait for their turn.
    line: VecDeque<ReplyNumber>,
    /// The requests, each by the `sid` of its consumer.
    on_way: BTreeMap<u64, CreateRequest>,
}

/// A request for a consumer that is on its way.
#[derive(Debug)]
struct CreateRequest {
    sent: Instant,
    behind: PingBehind,
    state: RequestState,
}

/// The ping right behind a request: its answer shows that the server has read past the request.
#[derive(Debug)]
enum PingBehind {
    NotSent,
    /// The number of the ping.
    Sent(u64),
    Answered,
}

#[derive(Debug)]
enum RequestState {
    /// This question waits for the consumer.
    Awaited(ReplyNumber),
    /// Nobody waits for this consumer any more.
    GivenUp {
        consumer: Consumer,
        /// The number of the ping after the request, once the answer is late.
        ping: Option<u64>,
    },
}

impl CreateRequest {
    /// When a ping has to follow, because the answer to a request that was given up is late. `None`: none has to.
    fn ping_due(&self) -> Option<Instant> {
        match self.state {
            RequestState::GivenUp { ping: None, .. } => Some(self.sent + ANSWER_TIMEOUT),
            RequestState::Awaited(_) | RequestState::GivenUp { ping: Some(_), .. } => None,
        }
    }

    /// Whether a request that was given up is so late that a ping has to follow.
    fn is_late(&self, now: Instant) -> bool {
        self.ping_due().is_some_and(|due| due <= now)
    }

    fn needs_ping(&self, now: Instant) -> bool {
        matches!(self.behind, PingBehind::NotSent) || self.is_late(now)
    }

    /// Notes the number of a ping that goes out after the request.
    fn note_ping(&mut self, number: u64, now: Instant) {
        if matches!(self.behind, PingBehind::NotSent) {
            self.behind = PingBehind::Sent(number);
        }
        if self.is_late(now)
            && let RequestState::GivenUp { ping, .. } = &mut self.state
        {
            *ping = Some(number);
        }
    }

    /// Whether the server may answer nothing else before it has worked off this request.
    fn holds(&self, now: Instant) -> bool {
        !matches!(self.behind, PingBehind::Answered) && now < self.sent + HELD_MAX
    }
}

/// Who waited for the answer to a request for a consumer.
#[derive(Debug)]
pub(super) enum MadeFor {
    Question(ReplyNumber),
    /// Nobody waits for this consumer.
    Nobody(Consumer),
}

impl Making {
    /// A question waits for its turn.
    pub(super) fn join_line(&mut self, number: ReplyNumber) {
        self.line.push_back(number);
    }

    /// The question whose turn it is, if there is a slot; [`Self::note_sent`] follows, unless the question has ended.
    pub(super) fn next(&mut self) -> Option<ReplyNumber> {
        match self.on_way.len() < MAKING_MAX {
            true => self.line.pop_front(),
            false => None,
        }
    }

    /// Notes that the request for the consumer of a question goes out; `sid` is that of the consumer.
    pub(super) fn note_sent(&mut self, sid: u64, number: ReplyNumber, now: Instant) {
        let request = CreateRequest {
            sent: now,
            behind: PingBehind::NotSent,
            state: RequestState::Awaited(number),
        };
        self.on_way.insert(sid, request);
    }

    /// Nobody waits for a consumer any more. Returns it if its request is not on the way.
    pub(super) fn give_up(&mut self, consumer: Consumer) -> Option<Consumer> {
        let Some(request) = self.on_way.get_mut(&consumer.sid) else {
            return Some(consumer);
        };
        request.state = RequestState::GivenUp {
            consumer,
            ping: None,
        };
        None
    }

    /// A question that waits in line has ended.
    pub(super) fn leave_line(&mut self, number: ReplyNumber) {
        self.line.retain(|waits| *waits != number);
    }

    /// Handles the answer to the request for the consumer of this `sid`. `None`: there is no such request.
    pub(super) fn take_answered(&mut self, sid: u64) -> Option<MadeFor> {
        Some(match self.on_way.remove(&sid)?.state {
            RequestState::Awaited(number) => MadeFor::Question(number),
            RequestState::GivenUp { consumer, .. } => MadeFor::Nobody(consumer),
        })
    }

    /// Frees the slot of a question whose request gets no answer.
    pub(super) fn forget(&mut self, number: ReplyNumber) {
        self.on_way.retain(|_, request| match request.state {
            RequestState::Awaited(of) => of != number,
            RequestState::GivenUp { .. } => true,
        });
    }

    /// Whether the server may answer nothing else on this connection, because it works on one of the requests.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.on_way.values().any(|request| request.holds(now))
    }

    /// Whether a ping has to follow: the first one behind a request, or one for requests that were given up and are late.
    pub(super) fn needs_ping(&self, now: Instant) -> bool {
        !self.on_way.is_empty() && self.on_way.values().any(|request| request.needs_ping(now))
    }

    /// Notes the number of a ping that goes out after the requests that [need one](Self::needs_ping).
    pub(super) fn note_ping(&mut self, ping: u64, now: Instant) {
        let requests = self.on_way.values_mut();
        let without = requests.filter(|request| request.needs_ping(now));
        without.for_each(|request| request.note_ping(ping, now));
    }

    /// Notes which requests the server has read past. Frees the slots of those that were given up long before.
    pub(super) fn note_pongs(&mut self, is_answered: impl Fn(u64) -> bool) {
        // After each message, and hardly ever with a request.
        if !self.on_way.is_empty() {
            for request in self.on_way.values_mut() {
                if matches!(request.behind, PingBehind::Sent(ping) if is_answered(ping)) {
                    request.behind = PingBehind::Answered;
                }
            }
            self.on_way.retain(|_, request| match request.state {
                RequestState::GivenUp {
                    ping: Some(ping), ..
                } => !is_answered(ping),
                RequestState::Awaited(_) | RequestState::GivenUp { ping: None, .. } => true,
            });
        }
    }

    /// When [`Self::needs_ping`] is true next, for requests that were given up.
    pub(super) fn due(&self) -> Option<Instant> {
        let requests = self.on_way.values();
        requests.filter_map(CreateRequest::ping_due).min()
    }
}
