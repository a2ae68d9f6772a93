//! Tails: the newest messages of a few topics, as text, for operators who look at the topics on the
//! operator's page.
//!
//! Without a tail a publication costs one look at an empty list. With tails every publication costs a
//! comparison of names, and at most [`TAIL_LINES_PER_SECOND`] messages a second a bounded copy. A tail
//! ends by itself some seconds after the last request.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use super::core::Core;
use super::gateway::Gateway;
use super::{Frame, Hub, Lead, Now, Publication};
use crate::admission::TokenBucket;

/// Topics with a tail at once.
pub const TAILS_MAX: usize = 4;
/// Messages kept of a topic.
pub const TAIL_LINES_MAX: usize = 50;
/// Messages copied of a topic in a second; the others are counted.
pub const TAIL_LINES_PER_SECOND: u32 = 10;
/// Bytes copied of a message.
pub const TAIL_LINE_BYTES_MAX: usize = 2_048;

/// The interval of looks while only the count of messages has changed.
const LOOK_EVERY_US: u64 = 200_000;

/// A message for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TailLine {
    /// The number of the message since the tail began, from 1.
    pub number: u64,
    /// The time of the publication, Unix milliseconds.
    pub at_unix_ms: i64,
    /// Bytes of the whole message.
    pub bytes: usize,
    /// The beginning of the message, at most [`TAIL_LINE_BYTES_MAX`] bytes. Bytes that are no UTF-8 are
    /// replaced.
    pub text: Box<str>,
    /// Whether the message is longer.
    pub is_cut: bool,
}

/// A tail at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailLook {
    /// The topic.
    pub topic: Box<str>,
    /// The time at which the tail began, Unix milliseconds.
    pub began_unix_ms: i64,
    /// Messages since then.
    pub messages: u64,
    /// Messages that were not copied.
    pub left_out: u64,
    /// The newest of the copied messages, the oldest first.
    pub lines: Vec<Arc<TailLine>>,
}

#[derive(Debug)]
struct Tail {
    topic: Box<str>,
    until_us: u64,
    began_unix_ms: i64,
    messages: u64,
    copied: u64,
    lines: VecDeque<Arc<TailLine>>,
    rate: TokenBucket,
}

#[derive(Debug, Default)]
pub(super) struct Tails {
    tails: Vec<Tail>,
    /// A tail has begun or ended, or a message was copied.
    is_changed: bool,
    /// Messages were counted.
    is_counted: bool,
    looked_us: u64,
    /// Messages copied, of all tails.
    copied: u64,
}

impl Tail {
    fn take(&mut self, now: Now, frame: &Frame) -> bool {
        self.messages += 1;
        if !self.rate.take(now.mono_us) {
            return false;
        }
        self.copied += 1;
        if self.lines.len() == TAIL_LINES_MAX {
            self.lines.pop_front();
        }
        let body = frame.body();
        let is_cut = body.len() > TAIL_LINE_BYTES_MAX;
        let body_text = String::from_utf8_lossy(&body[..body.len().min(TAIL_LINE_BYTES_MAX)]);
        // Half a character at the end is removed.
        let body_text = match is_cut {
            true => body_text.trim_end_matches('\u{fffd}'),
            false => &body_text,
        };
        let text = match frame.lead() {
            Lead::None => body_text.into(),
            // The number of the lead differs between clients.
            Lead::Seq(lead) => format!("{lead}…{body_text}").into(),
        };
        self.lines.push_back(Arc::new(TailLine {
            number: self.messages,
            at_unix_ms: now.unix_ms,
            bytes: body.len(),
            text,
            is_cut,
        }));
        true
    }

    fn look(&self) -> TailLook {
        TailLook {
            topic: self.topic.clone(),
            began_unix_ms: self.began_unix_ms,
            messages: self.messages,
            left_out: self.messages - self.copied,
            lines: self.lines.iter().map(Arc::clone).collect(),
        }
    }
}

impl Tails {
    /// Keeps the message if its topic has a tail.
    pub(super) fn take(&mut self, now: Now, publication: &Publication) {
        let name = publication.topic.as_str();
        let found = self.tails.iter_mut().find(|tail| &*tail.topic == name);
        let Some(tail) = found.filter(|_| publication.deliver) else {
            return;
        };
        self.is_counted = true;
        if tail.take(now, &publication.frame) {
            self.is_changed = true;
            self.copied += 1;
        }
    }

    fn want(&mut self, now: Now, topic: &str, until_us: u64) {
        if let Some(tail) = self.tails.iter_mut().find(|tail| &*tail.topic == topic) {
            tail.until_us = tail.until_us.max(until_us);
            return;
        }
        self.end(now);
        if self.tails.len() == TAILS_MAX || until_us <= now.mono_us {
            return;
        }
        self.is_changed = true;
        self.tails.push(Tail {
            topic: topic.into(),
            until_us,
            began_unix_ms: now.unix_ms,
            messages: 0,
            copied: 0,
            lines: VecDeque::new(),
            rate: TokenBucket::new(TAIL_LINES_PER_SECOND, now.mono_us),
        });
    }

    /// Ends the tails whose time is over.
    fn end(&mut self, now: Now) {
        let before = self.tails.len();
        self.tails.retain(|tail| now.mono_us < tail.until_us);
        self.is_changed |= self.tails.len() < before;
    }

    fn look(&mut self, now: Now) -> Option<Vec<TailLook>> {
        self.end(now);
        let is_due = self.is_counted && now.mono_us >= self.looked_us + LOOK_EVERY_US;
        if !self.is_changed && !is_due {
            return None;
        }
        (self.is_changed, self.is_counted) = (false, false);
        self.looked_us = now.mono_us;
        Some(self.tails.iter().map(Tail::look).collect())
    }
}

impl Core {
    /// Keeps a message for the operator's page, if its topic has a tail.
    pub(super) fn tail(&mut self, publication: &Publication) {
        if !self.tails.tails.is_empty() {
            self.tails.take(self.now, publication);
        }
    }
}

impl<G: Gateway> Hub<G> {
    /// Keeps the newest messages of the topic until `until_us`, microseconds of the monotonic clock.
    /// Nothing happens if there are [`TAILS_MAX`] other tails.
    pub fn want_tail(&mut self, now: Now, topic: &str, until_us: u64) {
        self.core.tails.want(now, topic, until_us);
    }

    /// Whether some topic has a tail.
    pub fn has_tails(&self) -> bool {
        !self.core.tails.tails.is_empty()
    }

    /// Returns all tails, if anything has changed since the last look. Ends the tails whose time is
    /// over.
    pub fn look_at_tails(&mut self, now: Now) -> Option<Vec<TailLook>> {
        self.core.tails.look(now)
    }

    /// Makes the next look due at once, because the last look was lost.
    pub fn look_was_lost(&mut self) {
        self.core.tails.is_changed = true;
    }

    /// Messages copied for tails so far.
    pub fn tail_messages(&self) -> u64 {
        self.core.tails.copied
    }
}
