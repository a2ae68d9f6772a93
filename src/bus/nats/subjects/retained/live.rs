//! Messages of requested names that were delivered a short time ago: their streams may store them later. Pure.

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

/// A delivered message.
#[derive(Clone, Copy, Debug)]
struct LiveMessage {
    at: Instant,
    sid: u64,
    hash: MessageHash,
}

/// The hashes of a message, which take less memory than its texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageHash {
    subject: u64,
    payload: u64,
}

/// Messages that their streams have perhaps not stored, the newest of each subject: the hash of its payload for the hash
/// of its subject.
#[derive(Debug, Default)]
pub(super) struct Unstored(HashMap<u64, u64>);

impl Unstored {
    /// Takes out a message that has come from its stream.
    pub(super) fn remove(&mut self, message: MessageHash) {
        if self.0.get(&message.subject) == Some(&message.payload) {
            self.0.remove(&message.subject);
        }
    }

    /// Whether a message is in both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let mut all = self.0.iter();
        all.any(|(subject, payload)| other.0.get(subject) == Some(payload))
    }

    /// Whether the payload of a message has another hash than this.
    pub(super) fn has_other_than(&self, payload: u64) -> bool {
        self.0.values().any(|of_message| *of_message != payload)
    }
}

impl Live {
    /// The hash of a payload.
    pub(super) fn payload_hash(&self, payload: &[u8]) -> u64 {
        self.hasher.hash_one(payload)
    }

    pub(super) fn message_hash(&self, delivery: &Delivery) -> MessageHash {
        MessageHash {
            subject: self.hasher.hash_one(&*delivery.subject),
            payload: self.payload_hash(&delivery.payload),
        }
    }

    pub(super) fn note(&mut self, delivery: &Delivery, at: Instant) {
        let is_over = |first: &LiveMessage| first.at + STORED_WITHIN <= at;
        while self.messages.len() >= LIVE_MAX || self.messages.front().is_some_and(is_over) {
            self.messages.pop_front();
        }
        let hash = self.message_hash(delivery);
        self.messages.push_back(LiveMessage {
            at,
            sid: delivery.sid,
            hash,
        });
    }

    /// The messages of a subscription that were delivered before a question, which was asked at `begun`, and perhaps not
    /// stored by then. A subject with a message after the question is left out: the clients have it.
    pub(super) fn unstored(&self, sid: Option<u64>, begun: Instant, now: Instant) -> Unstored {
        let mut newest = HashMap::new();
        for live in &self.messages {
            if Some(live.sid) != sid || now >= live.at + STORED_WITHIN {
                continue;
            }
            match live.at <= begun {
                true => newest.insert(live.hash.subject, live.hash.payload),
                false => newest.remove(&live.hash.subject),
            };
        }
        Unstored(newest)
    }
}
