//! Clients of names whose messages were lost for a while: the names have left the stream, or the bus had withdrawn them. A
//! client may hold very many of these names, so it is told at once of the first, and at most once a second of all others.

use std::collections::BTreeSet;
use std::mem;

use super::ChannelsGateway;
use super::client::ChannelsClient;
use weirgate_core::{ByClient, Core, SessionKey, TopicName};

/// The time between two rounds, microseconds.
const ROUND_US: u64 = 1_000_000;

/// The clients that are still to be notified of a loss.
#[derive(Debug, Default)]
pub(super) struct LostNames {
    /// The clients of the round under way.
    round: BTreeSet<SessionKey>,
    /// The clients of the next round.
    next: BTreeSet<SessionKey>,
    /// The time of the next round, microseconds.
    from_us: u64,
}

impl LostNames {
    /// The time of the next [`ChannelsGateway::tell_lost_names`].
    pub(super) fn due_us(&self) -> Option<u64> {
        match (self.round.is_empty(), self.next.is_empty()) {
            (false, _) => Some(0),
            (true, false) => Some(self.from_us),
            (true, true) => None,
        }
    }

    fn pop(&mut self, now_us: u64) -> Option<SessionKey> {
        if self.round.is_empty() && !self.next.is_empty() && self.from_us <= now_us {
            self.round = mem::take(&mut self.next);
            self.from_us = now_us + ROUND_US;
        }
        self.round.pop_first()
    }
}

impl ChannelsGateway {
    /// Notes that messages of this name alone are lost.
    pub(super) fn note_lost_name(&mut self, core: &Core, name: &TopicName) {
        self.lost_names.next.extend(core.members(name));
    }

    /// Notifies clients of the loss, as many as there is time for: each misses a number.
    pub(super) fn tell_lost_names(&mut self, core: &mut Core, clients: &ByClient<ChannelsClient>) {
        let now_us = core.now().mono_us;
        while let Some(key) = self.lost_names.pop(now_us) {
            if let Some(client) = clients.get(key) {
                self.statuses.send_loss(core, key, client.held.has_kept());
                self.skip_numbers(core, &[key]);
            }
            if !core.has_time() {
                return;
            }
        }
    }
}
