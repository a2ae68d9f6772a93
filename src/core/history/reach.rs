//! How far back in time the history reaches, for metrics and for clients that want to know what they can get.

use super::History;
use crate::brings::Reach;
use crate::{HistoryStats, ShortHistory, TopicName};

/// Since when no message is missing, but for messages that were left out.
#[derive(Debug, Default)]
pub(super) struct WholeSince(Option<Since>);

#[derive(Clone, Copy, Debug)]
struct Since {
    unix_us: i64,
    /// Why nothing older is there.
    short: ShortHistory,
}

impl WholeSince {
    /// Nothing from before is known, or messages before are missing.
    pub(super) fn begin(&mut self, unix_us: i64) {
        let short = ShortHistory::Start;
        self.0 = Some(Since { unix_us, short });
    }

    /// Messages have no positions any more.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// A message is kept, which arrived or was stored at this time.
    pub(super) fn keep(&mut self, unix_us: i64) {
        if self.0.is_none() {
            self.begin(unix_us);
        }
    }

    /// The oldest message of the list is forgotten, so the list begins after it from now on. `gone_us`: when the message
    /// arrived or was stored, if that is known.
    pub(super) fn forget(&mut self, gone_us: Option<i64>, short: ShortHistory) {
        if let Some(since) = &mut self.0 {
            let unix_us = gone_us.map_or(since.unix_us, |gone_us| gone_us.max(since.unix_us));
            *since = Since { unix_us, short };
        }
    }
}

impl History {
    /// The gauges.
    pub(crate) fn stats(&self) -> HistoryStats {
        let since = self.whole_since.0;
        HistoryStats {
            messages: (self.list.entries.len() + self.newest_only.count()) as u64,
            bytes: self.memory() as u64,
            bytes_max: self.limits.bytes_max as u64,
            keep_us: self.limits.keep_us,
            since_unix_us: since.map(|since| since.unix_us),
            short: since.map_or(ShortHistory::Start, |since| since.short),
        }
    }

    /// How far back the kept messages of a name reach: not over a message that was left out.
    pub(crate) fn reach(&self, name: &TopicName, unix_us: i64) -> Option<Reach> {
        let known = self.known_topics.get(name);
        // A name that is not known may be a pattern.
        let of_all = self.missing.left_out_us();
        let left_out_us = known.map_or(of_all, |known| known.left_out_us);
        let mut stats = self.stats();
        if stats.since_unix_us.is_some_and(|since| since < left_out_us) {
            (stats.since_unix_us, stats.short) = (Some(left_out_us), ShortHistory::LeftOut);
        }
        stats.reach(unix_us)
    }

    /// When the newest message of a topic arrived, or was stored in the stream, Unix microseconds; `None` if the topic is
    /// not known here, or is a pattern.
    pub(crate) fn newest_unix_us(&self, topic: &TopicName) -> Option<i64> {
        self.known_topics.get(topic).map(|name| name.newest_unix_us)
    }
}
