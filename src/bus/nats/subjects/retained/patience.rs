//! How long a question may go on without a new message, whatever JetStream answers. Pure.

use std::time::{Duration, Instant};

/// How long the answers to a question may bring no new message. Longer than the wait for a silent server, so a question on a
/// dead link is asked again on the next link.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time without progress, a question does not count as one whose answer is awaited: the leader of its stream
/// may be away, and the other questions must not wait for it.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(2);
/// The most consumers on other servers than the leader, of which each counts as progress: one comes to the leader of three
/// servers at the third attempt on average.
const PLACEMENTS_MAX: u32 = 32;
const NO_ANSWER: &str = "no answer";

/// The progress of a question. New messages are progress, and each step that the question takes for the first time. After a
/// step that failed, only a new message is: otherwise steps that fail each time would go on for ever.
#[derive(Debug)]
pub(super) struct Patience {
    /// When the question last made progress.
    progressed: Instant,
    /// When the consumer was made, or brought its last message.
    heard: Instant,
    /// When the question joined the line for a consumer, of which the time does not count.
    lined_up: Option<Instant>,
    /// Why a step has failed since the newest message.
    failure: Option<String>,
    /// Whether a stream was given up: what fails from then on is not tried again.
    has_given_up: bool,
    /// Consumers on other servers than the leader since the newest message.
    placements: u32,
    /// Messages since the last failure. A consumer that is made again first brings what was read before.
    brought: u64,
    /// The most messages that were read before and came between two failures, since the newest message.
    brought_again: u64,
}

impl Patience {
    /// Of a question that is asked now, or goes on with another page.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            progressed: now,
            heard: now,
            lined_up: None,
            failure: None,
            has_given_up: false,
            placements: 0,
            brought: 0,
            brought_again: 0,
        }
    }

    /// Notes a step to the next message.
    pub(super) fn note_step(&mut self, now: Instant) {
        self.heard = now;
        if self.failure.is_none() {
            self.progressed = now;
        }
    }

    pub(super) const fn join_line(&mut self, now: Instant) {
        self.lined_up = Some(now);
    }

    pub(super) fn leave_line(&mut self, now: Instant) {
        if let Some(since) = self.lined_up.take() {
            self.progressed += now.saturating_duration_since(since);
        }
        self.note_step(now);
    }

    /// Notes a message; `is_new`: it was not read before.
    pub(super) fn note_message(&mut self, is_new: bool, now: Instant) {
        (self.heard, self.brought) = (now, self.brought + 1);
        if is_new {
            (self.failure, self.placements, self.brought_again) = (None, 0, 0);
            self.progressed = now;
        } else if self.brought > self.brought_again {
            (self.brought_again, self.progressed) = (self.brought, now);
        }
    }

    /// The server may work on a request before: the time until now does not count.
    pub(super) fn note_held(&mut self, now: Instant) {
        self.progressed = now;
    }

    /// Notes that a step has failed, and is taken again. The first time since the newest message there is as much time as for
    /// a new question.
    pub(super) fn note_failure(&mut self, why: &str, now: Instant) {
        if self.failure.replace(why.to_owned()).is_none() {
            self.progressed = now;
        }
        self.brought = 0;
    }

    /// Notes that a consumer was put on another server than the leader.
    pub(super) fn note_placement(&mut self, now: Instant) {
        self.placements += 1;
        match self.placements <= PLACEMENTS_MAX {
            true => self.progressed = now,
            false => self.note_failure("its consumers are on other servers than the leader", now),
        }
    }

    /// Gives up the stream that is read: the next one has as much time as a new question.
    pub(super) fn give_up(&mut self, now: Instant) {
        *self = Self {
            has_given_up: true,
            ..Self::new(now)
        };
    }

    pub(super) const fn has_given_up(&self) -> bool {
        self.has_given_up
    }

    /// When the time is over.
    pub(super) fn end(&self) -> Instant {
        self.progressed + ANSWER_TIMEOUT
    }

    /// Whether the question has had no answer for a while.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.progressed + SILENT_AFTER <= now
    }

    /// For how long the consumer has brought nothing.
    pub(super) fn quiet_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// Why there is no new message.
    pub(super) fn words(&self) -> String {
        let failure = self.failure.as_deref();
        failure.unwrap_or(NO_ANSWER).to_owned()
    }
}
