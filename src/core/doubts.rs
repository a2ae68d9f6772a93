//! Clients that come back while messages of the bus may be lost, which the source is about to find out
//! ([`FeedNotice::InDoubt`](super::FeedNotice::InDoubt)). No client is told that it misses nothing before that is known: it
//! waits for the word of the source, at most [`WAITS_US`]. Without a word, it is not recovered.
//!
//! What the clients that are here get meanwhile has no position ([`super::history`]).
//!
//! Under load, new doubts come all the time, but a client waits only for those from before its request. A later loss it
//! learns of like any other client.

use std::collections::VecDeque;

use super::SessionKey;
use super::core::Core;
use super::session::LossDoubt;

/// How long a client waits, microseconds.
const WAITS_US: u64 = 1_000_000;

/// After so many answers, all doubts from before a client's request are settled: the first may be the answer to a question
/// from before the request.
const ANSWERS: u64 = 2;

/// The clients that wait, in the order of their requests.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    line: VecDeque<WaitsForWord>,
    /// The answers of the source so far.
    answers: u64,
}

/// A client that waits.
#[derive(Clone, Copy, Debug)]
struct WaitsForWord {
    key: SessionKey,
    /// The answers after which it goes on.
    answers: u64,
    /// When it goes on without them, microseconds of the monotonic clock.
    until_us: u64,
}

impl Doubts {
    /// Takes the first client of the line, if it goes on.
    fn pop_if(&mut self, goes_on: impl FnOnce(&WaitsForWord) -> bool) -> Option<WaitsForWord> {
        match self.line.front().is_some_and(goes_on) {
            true => self.line.pop_front(),
            false => None,
        }
    }
}

impl Core {
    /// Whether a client has to wait for the source before it gets older messages. From the first call on it waits, until
    /// it has got them ([`end_doubt`](Self::end_doubt)).
    pub(super) fn waits_for_word(&mut self, key: SessionKey) -> bool {
        if !self.may_have_lost() {
            return false;
        }
        let until_us = self.now.mono_us + WAITS_US;
        let Some(session) = self.clients.session_mut(key) else {
            return false;
        };
        if session.loss_doubt() == LossDoubt::None {
            session.set_loss_doubt(LossDoubt::Waits);
            self.doubts.line.push_back(WaitsForWord {
                key,
                answers: self.doubts.answers + ANSWERS,
                until_us,
            });
        }
        self.is_in_line_for_word(key)
    }

    /// Whether a client waits for the source now.
    pub(super) fn is_in_line_for_word(&self, key: SessionKey) -> bool {
        let session = self.clients.session(key);
        session.is_some_and(|session| session.loss_doubt() == LossDoubt::Waits)
    }

    /// Whether messages may be lost that a client would have to get now: not those from after its request.
    pub(super) fn is_in_doubt_for(&self, key: SessionKey) -> bool {
        let session = self.clients.session(key);
        let is_settled = session.is_some_and(|session| session.loss_doubt() == LossDoubt::Settled);
        self.may_have_lost() && !is_settled
    }

    /// Handles that a client has got its older messages: the next time it waits again.
    pub(super) fn end_doubt(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.set_loss_doubt(LossDoubt::None);
        }
    }

    /// Handles an answer of the source: clients go on that have waited for it, or all if nothing is in doubt any more.
    pub(super) fn take_word(&mut self) {
        self.doubts.answers += 1;
        let answers = match self.may_have_lost() {
            true => self.doubts.answers,
            false => u64::MAX,
        };
        while let Some(first) = self.doubts.pop_if(|first| first.answers <= answers) {
            self.end_wait_for_word(first.key, LossDoubt::Settled);
        }
    }

    /// Lets the clients go on that have waited too long.
    pub(super) fn give_up_waits_for_word(&mut self) {
        let now_us = self.now.mono_us;
        while let Some(first) = self.doubts.pop_if(|first| first.until_us <= now_us) {
            self.end_wait_for_word(first.key, LossDoubt::Unsettled);
        }
    }

    /// The time of the next [`give_up_waits_for_word`](Self::give_up_waits_for_word).
    pub(super) fn word_deadline(&self) -> Option<u64> {
        self.doubts.line.front().map(|first| first.until_us)
    }

    fn end_wait_for_word(&mut self, key: SessionKey, doubt: LossDoubt) {
        let session = self.clients.session_mut(key);
        let Some(session) = session.filter(|s| s.loss_doubt() == LossDoubt::Waits) else {
            return;
        };
        session.set_loss_doubt(doubt);
        if session.has_rest() {
            self.stand_in_line(key);
        }
    }

    /// Whether messages may be lost that were published before the next one.
    pub(super) fn may_have_lost(&self) -> bool {
        let history = self.history.as_ref();
        history.is_some_and(|history| history.is_in_doubt())
    }
}
