//! Inputs of the gateway, and events of the bus: as many in a turn as the send queues and the time allow.

use super::Reactor;
use crate::hub::{Feed, Gateway, Now};
use crate::reactor::report::log_lines;
use crate::telemetry::{Budget, Stage};

/// The most time in one turn for events of the bus, including the delivery into the send queues: small messages to
/// thousands of clients take long before they add up to many bytes.
const BUS_US_MAX: u64 = 4_000;

/// The most inputs of the gateway in one turn; the rest waits for the next turn.
const INPUTS_MAX: usize = 64;

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Handles input of other threads for the gateway, publications included.
    pub(super) fn take_inputs(&mut self, now: Now) {
        while let Ok(request) = self.seams.cuts.try_recv() {
            self.hub.cut(now, request);
        }
        let inputs = self.seams.inputs.len().min(INPUTS_MAX);
        let most = self.hub.message_bytes() + self.hub.core().limits().turn_all_message_bytes_max;
        for _ in 0..inputs {
            if !self.hub.takes_publications() || self.hub.message_bytes() > most {
                self.report.spent(Budget::Publications);
                return;
            }
            let Ok(input) = self.seams.inputs.try_recv() else {
                return;
            };
            self.hub.handle_input(now, input);
        }
    }

    /// Takes bus events from the channel, up to a part that the send queues can take; the rest follows after a flush. A
    /// refused message adds no bytes, but its time counts.
    pub(super) fn take_bus(&mut self, began: Now) {
        let budget = self.settings.budgets.publication_bytes_max;
        let (mut bytes, mut is_late) = (0, false);
        let mut first_us = None;
        for _ in 0..self.seams.bus.len() {
            if bytes >= budget || is_late || !self.hub.takes_publications() {
                self.report.spent(Budget::Publications);
                return;
            }
            let Ok(event) = self.seams.bus.try_recv() else {
                return;
            };
            let payload_bytes = (self.seams.event_bytes)(&event);
            self.seams.bus_bytes.give_back(payload_bytes);
            let (event_bytes, at_us) = self.take_event(began, event);
            bytes += event_bytes;
            is_late = at_us >= *first_us.get_or_insert(at_us) + BUS_US_MAX;
        }
    }

    /// Processes a bus event up to the send queues. Returns the bytes that each member of its topics got, and the time
    /// at the end, microseconds of the monotonic clock.
    fn take_event(&mut self, began: Now, event: F::Event) -> (usize, u64) {
        let now = self.since(began);
        if let Some(notice) = self.feed.notice(&event) {
            self.hub.handle_notice(now, &notice);
        }
        self.feed.event(now, event, &mut self.publications);
        log_lines(&mut self.feed);
        if self.publications.is_empty() {
            return (0, now.mono_us);
        }
        let made_us = self.clock.mono_us();
        let mut bytes = 0;
        for publication in self.publications.drain(..) {
            if publication.deliver {
                let received_us = publication.frame.received().mono_us;
                self.report.taken(received_us, now.mono_us);
            }
            self.hub.handle_publication(now, &publication);
            // A held state is in no send queue.
            if !self.hub.core().holds_states() {
                bytes += publication.frame.queue_bytes();
            }
        }
        self.report.stage(Stage::Feed, now.mono_us, made_us);
        let queued_us = self.clock.mono_us();
        self.report.stage(Stage::Queue, made_us, queued_us);
        (bytes, queued_us)
    }
}
