//! The consumers that are being made. For a wide pattern JetStream looks at every subject of the stream, some 0.2 s for
//! 100,000, and a server carries out the requests of a connection one after the other: a subscription waits for all requests
//! before it. So only a few requests for consumers are on their way at once, and further questions wait in line.
//!
//! A request that nobody waits for any more keeps its slot, because the server works on it all the same: otherwise
//! more requests would go out than the server can work off. The slot is free with the answer, or after
//! [`ANSWER_TIMEOUT`], once the server has answered a ping that went out then: it is past the request, and the answer
//! is lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::super::super::consumer::Consumer;
use super::ANSWER_TIMEOUT;

/// The most requests for consumers that are on their way: the server begins the next while the answer to the one before
/// travels, and a subscription waits for no more than these.
pub(super) const MAKING_MAX: usize = 2;

/// The requests for consumers of one connection, by the numbers of their questions.
#[derive(Debug, Default)]
pub(super) struct Making {
    line: VecDeque<u64>,
    on_way: BTreeMap<u64, Request>,
}

#[derive(Debug)]
struct Request {
    sent: Instant,
    /// The consumer that nobody waits for any more.
    given_up: Option<Consumer>,
    /// The ping after the request, if the answer is late.
    ping: Option<u64>,
}

impl Request {
    /// Whether the answer to a request that was given up is late, and no ping has gone out.
    fn needs_ping(&self, now: Instant) -> bool {
        self.given_up.is_some() && self.ping.is_none() && self.sent + ANSWER_TIMEOUT <= now
    }
}

impl Making {
    /// A question waits for its turn.
    pub(super) fn join_line(&mut self, number: u64) {
        self.line.push_back(number);
    }

    /// The question whose turn it is, if there is a slot; [`Self::note_sent`] follows, unless the question has ended.
    pub(super) fn next(&mut self) -> Option<u64> {
        match self.on_way.len() < MAKING_MAX {
            true => self.line.pop_front(),
            false => None,
        }
    }

    /// Notes that the request for the consumer of a question goes out.
    pub(super) fn note_sent(&mut self, number: u64, now: Instant) {
        let request = Request {
            sent: now,
            given_up: None,
            ping: None,
        };
        self.on_way.insert(number, request);
    }

    /// Nobody waits for the consumer of a question any more. Returns it if its request is not on the way.
    pub(super) fn give_up(&mut self, number: u64, consumer: Consumer) -> Option<Consumer> {
        let Some(request) = self.on_way.get_mut(&number) else {
            return Some(consumer);
        };
        request.given_up = Some(consumer);
        None
    }

    /// A question that waits in line has ended.
    pub(super) fn leave_line(&mut self, number: u64) {
        self.line.retain(|waits| *waits != number);
    }

    /// Handles the answer to a question, if it is to such a request. Returns the consumer if nobody waits for it.
    pub(super) fn take_answered(&mut self, number: u64) -> Option<Consumer> {
        self.on_way.remove(&number)?.given_up
    }

    /// Whether the server is to be asked if it is past requests that were given up.
    pub(super) fn needs_ping(&self, now: Instant) -> bool {
        !self.on_way.is_empty() && self.on_way.values().any(|request| request.needs_ping(now))
    }

    /// Notes the number of a ping that goes out after the requests that [need one](Self::needs_ping).
    pub(super) fn note_ping(&mut self, ping: u64, now: Instant) {
        let mut requests = self.on_way.values_mut();
        while let Some(request) = requests.find(|request| request.needs_ping(now)) {
            request.ping = Some(ping);
        }
    }

    /// Frees the slots of requests that the server is past.
    pub(super) fn note_pongs(&mut self, is_answered: impl Fn(u64) -> bool) {
        // After each message, and hardly ever with a request.
        if !self.on_way.is_empty() {
            self.on_way
                .retain(|_, request| !request.ping.is_some_and(&is_answered));
        }
    }

    /// When [`Self::needs_ping`] is true next.
    pub(super) fn due(&self) -> Option<Instant> {
        let waits = |request: &&Request| request.given_up.is_some() && request.ping.is_none();
        let requests = self.on_way.values().filter(waits);
        requests.map(|request| request.sent + ANSWER_TIMEOUT).min()
    }
}
