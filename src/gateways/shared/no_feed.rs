//! The feed of a gateway without a bus.

use weirgate_core::{BusEvent, Feed, FeedStats, Publication};
use weirgate_wire::base::Now;

/// A feed without publications, caught up from the start.
#[derive(Debug)]
pub struct NoFeed {
    stats: FeedStats,
}

impl Default for NoFeed {
    fn default() -> Self {
        Self {
            stats: FeedStats {
                caught_up: true,
                ..FeedStats::default()
            },
        }
    }
}

impl Feed for NoFeed {
    type Event = BusEvent;

    fn event(&mut self, _: Now, _: BusEvent, _: &mut Vec<Publication>) {}

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}
