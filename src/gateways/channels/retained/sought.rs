//! What the members of a question for all messages wait for. On a bus that reads the whole stream for any name, a
//! question is for many names, and a message of the stream goes to the few members that wait for its name, however many
//! members there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::super::replay::Replay;
use weirgate_core::{SessionKey, TopicName};

/// A client, and which of its replays may want a message.
pub(in super::super) type Receiver = (SessionKey, TopicName);

/// The names and patterns that the members of a question wait for.
#[derive(Debug, Default)]
pub(in super::super) struct Sought {
    exact: HashMap<TopicName, Vec<Receiver>, RandomState>,
    /// The receivers that wait for a pattern.
    matching: Vec<Receiver>,
    /// The names and patterns of these receivers.
    patterns: BTreeSet<TopicName>,
}

impl Sought {
    /// Adds a replay of a client; `replay_key` is its name among the client's replays.
    pub(in super::super) fn add(
        &mut self,
        key: SessionKey,
        replay_key: &TopicName,
        replay: &Replay,
    ) {
        let receiver = || (key, replay_key.clone());
        if replay.has_patterns() {
            self.patterns.extend(replay.names().cloned());
            return self.matching.push(receiver());
        }
        for name in replay.names() {
            self.exact.entry(name.clone()).or_default().push(receiver());
        }
    }

    /// All names and patterns.
    pub(super) fn names(&self) -> Arc<[TopicName]> {
        let exact = self.exact.keys();
        let exact = exact.filter(|name| !self.patterns.contains(*name));
        exact.chain(&self.patterns).cloned().collect()
    }

    /// The receivers that may want a message of this name.
    pub(super) fn receivers(&self, name: &str) -> Vec<Receiver> {
        let exact = self.exact.get(name).into_iter().flatten();
        self.matching.iter().chain(exact).cloned().collect()
    }
}
