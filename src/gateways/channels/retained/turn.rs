//! A client that waits for last values.

use std::collections::BTreeMap;

use super::CLIENT_BYTES_MAX;
use weirgate_core::TopicName;
use weirgate_wire::admission::{ClientAddr, Permit};

/// The names whose values a client waits for, each with its progress, and the number of the newest live message when the
/// client asked.
pub(in super::super) type Wants = BTreeMap<TopicName, (State, u64)>;

/// The progress of a client's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum State {
    /// The client's turn has not come, or the answer with this number has not gone out.
    Waits(u64),
    /// The name is in the question with this number, which the bus has or gets next.
    BusRequests(u64),
}

/// A client that waits for last values.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) names: Wants,
    /// The number of the last answer that has gone out.
    pub(super) answered: u64,
    /// Names in questions.
    pub(super) asked: usize,
    /// The client's part of the bytes of all clients, and the time when it began.
    pub(super) share: Option<(Permit, u64)>,
    /// Known once the client has had room.
    pub(super) address: Option<ClientAddr>,
    /// Bytes sent to the client, perhaps not taken yet.
    pub(super) sent: usize,
    /// The size of the largest value so far.
    pub(super) largest: usize,
    /// The client waits for room or in the line, or the bus has a question for one of its names.
    pub(super) is_busy: bool,
}

impl Turn {
    /// The names that the bus may be asked for.
    pub(super) fn ready(&mut self) -> impl Iterator<Item = (&TopicName, &mut State)> {
        let answered = self.answered;
        let names = self
            .names
            .iter_mut()
            .map(|(name, (state, _))| (name, state));
        names.filter(move |(_, state)| matches!(state, State::Waits(answer) if *answer <= answered))
    }

    pub(super) fn is_asked(&self, name: &TopicName, number: u64) -> bool {
        let waiter = self.names.get(name);
        waiter.is_some_and(|(state, _)| *state == State::BusRequests(number))
    }

    /// Counts a value for the client. Returns true if the client has room for the value.
    pub(super) fn has_room(&mut self, is_pattern: bool, bytes: usize) -> bool {
        self.largest = self.largest.max(bytes);
        // The values of a pattern come together, so they may use the whole share.
        if !is_pattern && self.sent > 0 && self.sent + bytes > CLIENT_BYTES_MAX {
            return false;
        }
        self.sent += bytes;
        if let Some((share, begin_us)) = &mut self.share {
            share.set(share.amount().max(self.sent as u64), *begin_us);
        }
        true
    }
}
