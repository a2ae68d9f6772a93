//! The inputs of a turn that are not of clients: requests of operators, inputs of the gateway and events of the bus, as
//! many as the send queues and the time allow.

use crossbeam_channel::Receiver;

use super::Reactor;
use crate::reactor::feed_lines::log_lines;
use crate::reactor::seams::Seams;
use crate::telemetry::{Budget, Stage};
use weirgate_core::{Feed, Gateway};
use weirgate_wire::base::Now;

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Handles input of other threads for the gateway, publications included.
    pub(super) fn take_inputs(&mut self, now: Now) {
        while let Ok(request) = self.seams.cuts.try_recv() {
            self.hub.cut(now, request);
        }
        let (urgent, others) = (self.seams.urgent.len(), self.seams.inputs.len());
        if urgent + others == 0 {
            return;
        }
        self.hub.begin_part(self.settings.budgets.inputs_us);
        let took_urgent = self.take_from(now, urgent, |seams| &seams.urgent);
        let took_others = self.take_from(now, others, |seams| &seams.inputs);
        if !took_urgent || !took_others {
            self.report.count_spent(Budget::Publications);
        }
    }

    /// Handles up to `inputs` of a channel: one, and more while there is time. Returns false if some are left.
    fn take_from(
        &mut self,
        now: Now,
        inputs: usize,
        channel: fn(&Seams<G, F>) -> &Receiver<G::In>,
    ) -> bool {
        for taken in 0..inputs {
            if !self.hub.takes_publications() || taken > 0 && !self.hub.has_time() {
                return false;
            }
            let Ok(input) = channel(&self.seams).try_recv() else {
                return true;
            };
            self.hub.handle_input(now, input);
        }
        true
    }

    /// Takes bus events from the channel, up to a part that the send queues can take; the rest follows after a flush. A
    /// refused message adds no bytes, but its time counts.
    pub(super) fn take_bus(&mut self, began: Now) {
        let events = self.seams.bus.len();
        if events == 0 {
            return;
        }
        let budget = self.settings.budgets.publication_bytes_max;
        let (mut bytes, mut at_us) = (0, self.clock.mono_us());
        self.hub.begin_part_at(at_us, self.settings.budgets.bus_us);
        for taken in 0..events {
            let may_go_on = taken == 0 || bytes < budget && self.hub.has_time_at(at_us);
            if !may_go_on || !self.hub.takes_publications() {
                self.report.count_spent(Budget::Publications);
                return;
            }
            let Ok(event) = self.seams.bus.try_recv() else {
                return;
            };
            let message_bytes = (self.seams.event_bytes)(&event);
            self.seams.bus_bytes.give_back(message_bytes);
            let now = began.plus_us(at_us.saturating_sub(began.mono_us));
            let (event_bytes, ended_us) = self.take_event(now, event);
            bytes += event_bytes;
            at_us = ended_us;
        }
    }

    /// Processes a bus event up to the send queues. Returns the bytes that each member of its topics got, and the time
    /// at the end, microseconds of the monotonic clock.
    fn take_event(&mut self, now: Now, event: F::Event) -> (usize, u64) {
        if let Some(notice) = self.feed.notice(&event) {
            self.hub.handle_notice(now, &notice);
        }
        self.feed.event(now, event, &mut self.publications);
        log_lines(&mut self.feed);
        if self.publications.is_empty() {
            return (0, self.clock.mono_us());
        }
        let made_us = self.clock.mono_us();
        let mut bytes = 0;
        for publication in self.publications.drain(..) {
            if publication.deliver {
                let received_us = publication.body.received().mono_us;
                self.report.note_taken(received_us, now.mono_us);
            }
            self.hub.handle_publication(now, &publication);
            // A held state is in no send queue.
            if !self.hub.core().holds_states() {
                bytes += publication.body.queue_bytes();
            }
        }
        self.report.note_stage(Stage::Feed, now.mono_us, made_us);
        let queued_us = self.clock.mono_us();
        self.report.note_stage(Stage::Queue, made_us, queued_us);
        (bytes, queued_us)
    }
}
