//! The bus between instances in `/health`, `/stats` and the metrics.

use std::sync::Arc;

use crate::gateways::events::bus::{BusStats, InstanceId};
use crate::kinds::bus::Bus;
use crate::telemetry::{GatewayMetric, names};
use crate::wire::object_writer::ObjectWriter;

/// The bus, for pages and metrics.
#[derive(Clone)]
pub(in crate::kinds::events) struct BusPages {
    /// Shown without secrets.
    pub(in crate::kinds::events) address: String,
    kind: &'static str,
    instance: InstanceId,
    stats: Arc<BusStats>,
}

impl BusPages {
    pub(super) fn new(bus: &Bus, instance: &InstanceId, stats: Arc<BusStats>) -> Self {
        Self {
            address: bus.address(),
            kind: bus.name(),
            instance: instance.clone(),
            stats,
        }
    }

    /// The member `events_bus`.
    pub(in crate::kinds::events) fn write(&self, object: &mut ObjectWriter) {
        let mut bus = ObjectWriter::new();
        bus.string("kind", self.kind);
        bus.boolean("up", self.stats.is_up());
        bus.string("instance", self.instance.as_str());
        bus.number("instances", self.stats.instances());
        object.object("events_bus", bus);
    }

    pub(in crate::kinds::events) fn metrics(&self) -> Vec<GatewayMetric> {
        let number = |name, read| GatewayMetric::number(name, &self.stats, read);
        vec![
            number(&names::EVENTS_BUS_UP, |stats| stats.is_up().into()),
            number(&names::EVENTS_BUS_INSTANCES, BusStats::instances),
            number(&names::EVENTS_BUS_PUSHES_WAITING, |s| s.waiting.get()),
            number(&names::EVENTS_BUS_PUSHES_SENT, |s| s.sent.get()),
            number(&names::EVENTS_BUS_PUSHES_RECEIVED, |s| s.received.get()),
            number(&names::EVENTS_BUS_PUSHES_INCOMPLETE, |s| s.incomplete.get()),
            number(&names::EVENTS_BUS_PUSHES_REFUSED, |s| s.refused.get()),
            number(&names::EVENTS_BUS_LOST, |s| s.lost.get()),
            GatewayMetric::by_label(&names::EVENTS_BUS_IGNORED, &self.stats, |stats| {
                stats.ignored().collect()
            }),
        ]
    }
}
