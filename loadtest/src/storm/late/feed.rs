//! The names and messages of the feed. Some names have many messages and the others few, so that the
//! newest messages of all names are spread over the whole history.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{Gateway, LateArgs};
use crate::bus::Outlet;
use crate::clock;
use crate::fault::Fault;
use crate::launch::BusKind;
use crate::payload::Payload;

/// Symbols of a client of trades: its limit by default.
const SYMBOLS: u64 = 5;
/// Names of a client of channels.
const NAMES: u64 = 50;
/// Names of the pattern of a client of channels.
const PATTERN_NAMES: u64 = 1_000;
/// Names with every second message in turn.
const BUSY: u64 = 10;
/// Messages that are published at once before the clients come.
const BATCH: u64 = 200;

/// The names, and the topic of each message.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    gateway: Gateway,
    /// Between the parts of a name.
    dot: char,
    topics: u64,
    /// Messages that each name has before the clients come.
    first: u64,
    bytes: usize,
}

impl Feed {
    pub(super) fn new(a: &LateArgs) -> Self {
        Self {
            gateway: a.gateway,
            dot: if a.bus == BusKind::Nats { '.' } else { ':' },
            topics: topics(a.gateway),
            first: a.last.unwrap_or(1),
            bytes: a.bytes,
        }
    }

    /// The request for all names.
    pub(super) fn request(&self, since: Option<&str>, last: Option<u64>) -> String {
        let names: Vec<_> = match self.gateway {
            Gateway::Trades => (0..SYMBOLS).map(|n| format!("S{n}")).collect(),
            Gateway::Channels => {
                let pattern = self.name("w", "*");
                (0..NAMES)
                    .map(|n| self.channel(n))
                    .chain([pattern])
                    .collect()
            }
        };
        let key = match self.gateway {
            Gateway::Trades => "symbols",
            Gateway::Channels => "channels",
        };
        let mut request = json!({"action": "subscribe", key: names});
        if let Some(since) = since {
            request["since"] = since.into();
        }
        if let Some(last) = last {
            request["last"] = last.into();
        }
        request.to_string()
    }

    /// The messages of each topic, in order.
    pub(super) fn by_topic(&self, messages: impl Iterator<Item = u64>) -> Vec<Vec<u64>> {
        let mut topics = vec![Vec::new(); self.topics as usize];
        for message in messages {
            topics[self.topic(message) as usize].push(message);
        }
        topics
    }

    /// The topic of message `n`, from 1: first every name in turn, then a busy name and another in turn.
    pub(super) fn topic(&self, n: u64) -> u64 {
        let turn = n / 2;
        if n > self.first * self.topics && n.is_multiple_of(2) {
            turn % BUSY.min(self.topics)
        } else if n > self.first * self.topics {
            turn % self.topics
        } else {
            n % self.topics
        }
    }

    fn channel(&self, topic: u64) -> String {
        match topic.checked_sub(NAMES) {
            _ if self.gateway == Gateway::Trades => format!("channel:trade:S{topic}"),
            None => self.name("s", &topic.to_string()),
            Some(n) => self.name("w", &n.to_string()),
        }
    }

    fn name(&self, sort: &str, n: &str) -> String {
        let dot = self.dot;
        format!("market{dot}tick{dot}{sort}{dot}{n}")
    }

    /// Connects to the bus.
    pub(super) fn connect(&self, url: &str) -> Result<Publisher, Fault> {
        Ok(Publisher {
            feed: self.clone(),
            outlet: Outlet::connect(url)?,
            payload: match self.gateway {
                Gateway::Trades => Payload::trades(),
                Gateway::Channels => Payload::new(self.bytes),
            },
            published: 0,
        })
    }
}

fn topics(gateway: Gateway) -> u64 {
    match gateway {
        Gateway::Trades => SYMBOLS,
        Gateway::Channels => NAMES + PATTERN_NAMES,
    }
}

/// Publishes the messages of a feed, numbered from 1 over all names.
pub(super) struct Publisher {
    feed: Feed,
    outlet: Outlet,
    payload: Payload,
    published: u64,
}

impl Publisher {
    /// Publishes messages of every name, before the clients come.
    pub(super) fn each_name_once(&mut self, times: u64) -> Result<(), Fault> {
        let end = times * self.feed.topics;
        while self.published < end {
            let batch = (end - self.published).min(BATCH);
            self.batch(clock::now_us(), batch)?;
        }
        Ok(())
    }

    /// Publishes `rate` messages a second until `enough`, each stamped with its due time.
    pub(super) fn publish(&mut self, rate: f64, enough: &AtomicBool) -> Result<(), Fault> {
        clock::sleep_punctually();
        let start = clock::now_us();
        for message in 0u64.. {
            let due_us = start + clock::due_after_us(message, rate);
            clock::sleep_until(due_us);
            if enough.load(Ordering::Relaxed) {
                break;
            }
            self.batch(due_us, 1)?;
        }
        Ok(())
    }

    fn batch(&mut self, stamp_us: u64, count: u64) -> Result<(), Fault> {
        for n in self.published + 1..=self.published + count {
            let topic = self.feed.topic(n);
            let text = self.payload.stamped_on(topic, stamp_us, n);
            self.outlet.add(&self.feed.channel(topic), text);
        }
        self.published += count;
        self.outlet.settle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Feed {
        /// A feed of trades.
        pub(in super::super) fn of_trades(first: u64) -> Self {
            feed(Gateway::Trades, first)
        }

        /// The messages of the newest `last` of each name when `head` is the newest message, in order.
        pub(in super::super) fn newest(&self, head: u64, last: usize) -> Vec<u64> {
            let topics = self.by_topic(1..=head).into_iter();
            let mut newest: Vec<_> = topics
                .flat_map(|topic| topic[topic.len().saturating_sub(last)..].to_vec())
                .collect();
            newest.sort_unstable();
            newest
        }
    }

    fn feed(gateway: Gateway, first: u64) -> Feed {
        Feed {
            gateway,
            dot: ':',
            topics: topics(gateway),
            first,
            bytes: 128,
        }
    }

    #[test]
    fn every_name_has_its_messages_before_the_clients_come_and_busy_names_more_later() {
        for first in [1, 2] {
            let feed = feed(Gateway::Channels, first);
            let mut count = vec![0; feed.topics as usize];
            for n in 1..=first * feed.topics {
                count[feed.topic(n) as usize] += 1;
            }
            assert!(count.iter().all(|n| *n == first), "{count:?}");
            for n in 1..=400 {
                count[feed.topic(first * feed.topics + n) as usize] += 1;
            }
            assert!(count[..10].iter().all(|n| *n >= first + 20), "{count:?}");
        }
    }

    #[test]
    fn the_newest_are_one_of_each_name_with_the_newest_of_all_at_the_end() {
        let feed = feed(Gateway::Channels, 1);
        for head in [1_050, 1_051, 1_300] {
            let newest = feed.newest(head, 1);
            let topics: std::collections::BTreeSet<_> =
                newest.iter().map(|n| feed.topic(*n)).collect();
            assert_eq!((newest.len(), topics.len()), (1_050, 1_050));
            assert!(newest.is_sorted() && newest.last() == Some(&head));
            for n in &newest {
                let later = (n + 1..=head).any(|later| feed.topic(later) == feed.topic(*n));
                assert!(!later, "{n} is not the newest of its name");
            }
        }
        assert_eq!(feed.newest(1_050, 1), Vec::from_iter(1..=1_050));
    }

    #[test]
    fn names_and_requests_have_the_form_of_the_bus() {
        let redis = feed(Gateway::Channels, 1);
        let nats = Feed {
            dot: '.',
            ..redis.clone()
        };
        let trades = feed(Gateway::Trades, 1);
        assert_eq!(redis.channel(49), "market:tick:s:49");
        assert_eq!(nats.channel(50), "market.tick.w.0");
        assert_eq!(trades.channel(4), "channel:trade:S4");
        let request = redis.request(Some("m1.2"), Some(3));
        assert!(request.contains(r#""market:tick:w:*""#) && request.contains(r#""since":"m1.2""#));
        assert!(request.contains(r#""last":3"#));
        let names = |request: &str| -> usize {
            let request: serde_json::Value = serde_json::from_str(request).unwrap();
            request["channels"].as_array().map_or(0, Vec::len)
        };
        assert_eq!(names(&request), 51);
        assert_eq!(
            trades.request(None, None),
            r#"{"action":"subscribe","symbols":["S0","S1","S2","S3","S4"]}"#
        );
    }
}
