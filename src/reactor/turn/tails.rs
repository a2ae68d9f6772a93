//! The newest messages of topics that somebody looks at on the operator's page.

use std::sync::Arc;

use super::Reactor;
use crate::hub::{Feed, Gateway};

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Takes what is wanted, and hands over what was kept. Costs nothing while nobody looks.
    pub(super) fn tails(&mut self) {
        if !self.seams.telemetry.tails.is_asked() && !self.hub.has_tails() {
            return;
        }
        let now = self.clock.now();
        let telemetry = Arc::clone(&self.seams.telemetry);
        let hub = &mut self.hub;
        telemetry
            .tails
            .take_asked(|topic, until_us| hub.want_tail(now, topic, until_us));
        if let Some(looks) = hub.look_at_tails(now)
            && !telemetry.tails.put(looks, hub.tail_messages())
        {
            hub.look_was_lost();
        }
    }
}
