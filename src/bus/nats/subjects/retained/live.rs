//! Messages of requested names that were delivered a short time ago: their streams may store them later.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::super::super::protocol::Delivery;
use super::STORED_WITHIN;

/// The most delivered messages that are remembered, the newest.
const LIVE_MAX: usize = 32_768;

/// Messages of requested names that were delivered within [`STORED_WITHIN`].
#[derive(Debug, Default)]
pub(super) struct Live {
    hasher: RandomState,
    messages: VecDeque<LiveMessage>,
}

/// A delivered message; hashes take less memory than texts.
#[derive(Clone, Copy, Debug)]
struct LiveMessage {
    at: Instant,
    sid: u64,
    subject: u64,
    payload: u64,
}

impl Live {
    /// The hash of a payload.
    pub(super) fn hash(&self, payload: &[u8]) -> u64 {
        self.hasher.hash_one(payload)
    }

    /// The hashes of subject and payload.
    pub(super) fn hashes(&self, delivery: &Delivery) -> (u64, u64) {
        let payload = self.hash(&delivery.payload);
        (self.hasher.hash_one(&*delivery.subject), payload)
    }

    pub(super) fn note(&mut self, delivery: &Delivery, at: Instant) {
        let is_over = |first: &LiveMessage| first.at + STORED_WITHIN <= at;
        while self.messages.len() >= LIVE_MAX || self.messages.front().is_some_and(is_over) {
            self.messages.pop_front();
        }
        let (subject, payload) = self.hashes(delivery);
        self.messages.push_back(LiveMessage {
            at,
            sid: delivery.sid,
            subject,
            payload,
        });
    }

    /// The newest messages of the subjects of a subscription, as hashes, that were perhaps not stored yet.
    pub(super) fn before(&self, sid: Option<u64>, now: Instant) -> HashMap<u64, u64> {
        self.unstored(sid, now, now)
    }

    /// The newest messages of the subjects of a subscription, as hashes, that were delivered before a question and
    /// perhaps not stored by then. A subject with a message after the question is left out: the clients have it.
    pub(super) fn unstored(
        &self,
        sid: Option<u64>,
        begun: Instant,
        now: Instant,
    ) -> HashMap<u64, u64> {
        let mut newest = HashMap::new();
        for live in &self.messages {
            if Some(live.sid) != sid || now >= live.at + STORED_WITHIN {
                continue;
            }
            match live.at <= begun {
                true => newest.insert(live.subject, live.payload),
                false => newest.remove(&live.subject),
            };
        }
        newest
    }
}
