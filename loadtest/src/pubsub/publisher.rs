//! Publishes stamped messages on channels or subjects in turn, by an absolute schedule.

use std::sync::atomic::{AtomicBool, Ordering};

use hdrhistogram::Histogram;

use crate::bus::Outlet;
use crate::clock;
use crate::fault::Fault;
use crate::fleet::histogram;
use crate::payload::Payload;

/// Most messages in a batch; all due messages are sent together.
const BATCH_MAX: u64 = 256;
/// The grid of the schedule: a message is due at the first tick at or after the time by the rate.
const TICK_US: u64 = 500;

/// The due times and topics of the messages: message `i` is on topic `i % topics`.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Messages in all.
    pub(super) count: u64,
    /// Messages per second.
    pub(super) rate: f64,
    /// Channels.
    pub(super) topics: usize,
}

impl Schedule {
    /// Number of messages of a topic.
    pub(super) fn of_topic(&self, topic: usize) -> u64 {
        let topics = self.topics as u64;
        self.count / topics + u64::from((topic as u64) < self.count % topics)
    }

    /// The topic of a message, and the number of the message on this topic, from 1.
    fn place(&self, message: u64) -> (usize, u64) {
        let topics = self.topics as u64;
        ((message % topics) as usize, message / topics + 1)
    }

    /// The due time of a message, microseconds after the first.
    fn due_us(&self, message: u64) -> u64 {
        clock::due_after_us(message, self.rate).next_multiple_of(TICK_US)
    }

    /// The number of messages due after `after_us`.
    fn due(&self, after_us: u64) -> u64 {
        let whole_ticks_us = after_us - after_us % TICK_US;
        let due = (whole_ticks_us as f64 * self.rate / 1e6) as u64 + 1;
        due.min(self.count)
    }
}

/// A connection for publishing.
pub(super) struct Publisher {
    outlet: Outlet,
    channels: Vec<String>,
    payload: Payload,
}

impl Publisher {
    /// Connects to the bus.
    pub(super) fn connect(
        url: &str,
        channel: fn(usize) -> String,
        topics: usize,
        payload: Payload,
    ) -> Result<Self, Fault> {
        Ok(Self {
            outlet: Outlet::connect(url)?,
            channels: (0..topics).map(channel).collect(),
            payload,
        })
    }

    /// Publishes by the schedule, each message stamped with the due time.
    pub(super) fn publish(
        &mut self,
        schedule: &Schedule,
        stop: &AtomicBool,
    ) -> Result<Published, Fault> {
        clock::sleep_punctually();
        let start = clock::now_us();
        let (mut count, mut late) = (0, histogram());
        while count < schedule.count && !stop.load(Ordering::Relaxed) {
            clock::sleep_until(start + schedule.due_us(count));
            let after_us = clock::now_us() - start;
            let due = schedule.due(after_us).min(count + BATCH_MAX);
            for message in count..due {
                late.saturating_record(after_us.saturating_sub(schedule.due_us(message)));
            }
            self.batch(schedule, start, count..due)?;
            count = due;
        }
        Ok(Published {
            count,
            took_us: clock::now_us() - start,
            late,
        })
    }

    fn batch(
        &mut self,
        schedule: &Schedule,
        start_us: u64,
        messages: std::ops::Range<u64>,
    ) -> Result<(), Fault> {
        for message in messages {
            let (topic, n) = schedule.place(message);
            let stamp_us = start_us + schedule.due_us(message);
            let text = self.payload.stamped_on(topic as u64, stamp_us, n);
            self.outlet.add(&self.channels[topic], text);
        }
        self.outlet.settle()
    }
}

/// The figures of publishing.
pub(super) struct Published {
    /// Messages.
    pub(super) count: u64,
    /// Time from the first to the last, microseconds.
    pub(super) took_us: u64,
    /// Delays of messages after the due times, microseconds.
    pub(super) late: Histogram<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_its_place_and_topics_their_share() {
        let schedule = Schedule {
            count: 10,
            rate: 2.0,
            topics: 4,
        };
        let mut newest = [0; 4];
        for message in 0..schedule.count {
            let (topic, n) = schedule.place(message);
            newest[topic] += 1;
            assert_eq!(n, newest[topic], "numbers rise by one on each topic");
        }
        assert_eq!(newest, [3, 3, 2, 2]);
        assert_eq!([0, 1, 2, 3].map(|topic| schedule.of_topic(topic)), newest);
        let due = [0, 499_999, 500_000, 60_000_000].map(|us| schedule.due(us));
        assert_eq!(due, [1, 1, 2, 10]);
        // Ticks of 0.5 ms: the exact time by the rate, or the next tick.
        let fast = Schedule {
            count: 9_000,
            rate: 3_000.0,
            topics: 1,
        };
        assert_eq!(
            [0, 1, 2, 3, 4].map(|m| fast.due_us(m)),
            [0, 500, 1_000, 1_000, 1_500]
        );
        for message in 0..fast.count {
            let at_us = fast.due_us(message);
            assert!(fast.due(at_us) > message, "{message}");
            assert!(at_us == 0 || fast.due(at_us - 1) <= message, "{message}");
        }
    }
}
