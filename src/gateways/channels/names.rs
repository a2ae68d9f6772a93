//! What clients hold, all together: which names Redis has confirmed, and how many there are.

use std::collections::BTreeMap;

use super::ChannelsStats;
use crate::auth::is_pattern;
use crate::hub::TopicName;

#[derive(Debug, Default)]
struct Name {
    /// Clients that hold it.
    holders: u32,
    /// Redis has confirmed it (or refused it) since it was wanted.
    settled: bool,
}

/// Every name that somebody holds. The topics of the hub are the same but for clients that are
/// about to end, which are members of nothing already.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: BTreeMap<TopicName, Name>,
    channels: u64,
    patterns: u64,
    subscriptions: u64,
}

impl Names {
    /// One more holds it. `first`: nobody was a member, so Redis is asked for it (again).
    pub(super) fn hold(&mut self, topic: &TopicName, first: bool) {
        let name = self.names.entry(topic.clone()).or_default();
        name.settled &= !first;
        name.holders += 1;
        self.subscriptions += 1;
        if name.holders == 1 {
            *self.kind(topic) += 1;
        }
    }

    /// One less holds it.
    pub(super) fn let_go(&mut self, topic: &TopicName) {
        let Some(name) = self.names.get_mut(topic) else {
            return;
        };
        name.holders -= 1;
        self.subscriptions -= 1;
        if name.holders == 0 {
            self.names.remove(topic);
            *self.kind(topic) -= 1;
        }
    }

    fn kind(&mut self, topic: &TopicName) -> &mut u64 {
        match is_pattern(topic.as_str()) {
            true => &mut self.patterns,
            false => &mut self.channels,
        }
    }

    /// The bus has answered for it.
    pub(super) fn settle(&mut self, topic: &TopicName) {
        if let Some(name) = self.names.get_mut(topic) {
            name.settled = true;
        }
    }

    pub(super) fn is_settled(&self, topic: &TopicName) -> bool {
        self.names.get(topic).is_some_and(|name| name.settled)
    }

    /// Shows the counts.
    pub(super) fn store(&self, stats: &ChannelsStats) {
        stats.store_names(self.subscriptions, self.channels, self.patterns);
    }
}
