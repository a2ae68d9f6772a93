//! What clients of trades get unasked, beside the trades: the status of the bus, and candles.

use super::candles::Interval;
use super::{TradesGateway, answer};
use crate::hub::{Core, Place, Publication, Retain, SessionKey, TopicName};

impl TradesGateway {
    /// Handles the end of a topic's last member.
    pub(super) fn unwatch(&mut self, core: &Core, topic: &TopicName) {
        if let Some(candles) = &mut self.candles
            && let Some((interval, symbol)) = Interval::of_topic(topic)
        {
            candles.unwatch(core.now(), interval, symbol);
        }
    }

    /// Publishes the new candles.
    pub(super) fn publish_updates(&mut self, core: &mut Core) {
        for update in self.updates.drain(..) {
            core.publish(&Publication {
                frame: answer::candle(core, &update),
                topic: update.topic,
                deliver: true,
                retain: Retain::Keep,
                place: Place::Outside,
            });
        }
    }

    /// Sends the running candles to a client that has just subscribed.
    pub(super) fn send_running(
        &self,
        core: &mut Core,
        key: SessionKey,
        interval: Interval,
        symbols: &[TopicName],
    ) {
        let Some(candles) = &self.candles else { return };
        for symbol in symbols {
            if let Some(update) = candles.running(interval, symbol.as_str()) {
                let frame = answer::candle(core, &update);
                core.send(key, &frame);
            }
        }
    }
}
