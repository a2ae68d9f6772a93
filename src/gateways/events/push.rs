//! Events that services push to devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::broadcast::Broadcast;
use super::{EventsStats, envelope};
use crate::hub::{Core, Frame, FrameBytes, Now, Publication, Retain, TopicName};

/// Devices of one [`Push`]: a broadcast to more comes in parts.
const PUSH_DEVICES_MAX: usize = 500;

/// An event for devices, from a service; or a part of it, for some of the devices.
pub struct Push {
    frame: Arc<Frame>,
    /// Who is named twice gets it twice.
    devices: Vec<TopicName>,
    /// Deliveries of all parts so far.
    total: Arc<AtomicU64>,
    /// Is told the total; the last part has it.
    sent: Option<Box<dyn FnOnce(u64) + Send>>,
}

impl Push {
    /// Encodes an event, so that the loop need not; `alive` counts the frame, `sent` is told the
    /// number of deliveries. The parts are to be handed over in their order.
    pub fn parts(
        broadcast: Broadcast,
        alive: &FrameBytes,
        now: Now,
        sent: Box<dyn FnOnce(u64) + Send>,
    ) -> Vec<Self> {
        let frame = envelope::push(alive, now, &broadcast.event, &broadcast.data);
        let total = Arc::<AtomicU64>::default();
        let part = |devices: Vec<TopicName>| Self {
            frame: Arc::clone(&frame),
            devices,
            total: Arc::clone(&total),
            sent: None,
        };
        let mut devices = broadcast.device_ids.into_iter().map(TopicName::from);
        let mut parts = Vec::new();
        loop {
            parts.push(part(devices.by_ref().take(PUSH_DEVICES_MAX).collect()));
            if devices.len() == 0 {
                break;
            }
        }
        if let Some(last) = parts.last_mut() {
            last.sent = Some(sent);
        }
        parts
    }

    /// Queues the event for the devices, and tells the total if this is the last part.
    pub(super) fn deliver(self, core: &mut Core, stats: &EventsStats) {
        let mut sent = 0;
        for topic in self.devices {
            sent += core.member_count(&topic) as u64;
            core.publish(&Publication {
                topic,
                frame: Arc::clone(&self.frame),
                deliver: true,
                retain: Retain::Keep,
            });
        }
        let total = self.total.fetch_add(sent, Ordering::Relaxed) + sent;
        if let Some(tell) = self.sent {
            stats.count_push();
            tell(total);
        }
    }
}
