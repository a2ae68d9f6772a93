//! The names with messages of a run, the entries that each client asks for, and the schedule.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::bus::Outlet;
use crate::clock;
use crate::deploy::Gateway;
use crate::fault::Fault;
use crate::payload::append_trade;

/// Names with steady messages.
const BUSY: usize = 8;
/// Names with a message in [`RARE_S`].
const RARE: usize = 3;
/// Seconds between two messages of a rare name.
const RARE_S: f64 = 30.0;
/// Names without any message.
const SILENT: usize = 2;
/// Clients differ by their number modulo this.
const SORTS: usize = 5;

/// The names of a run, with the numbers of their newest messages.
pub(super) struct Topics {
    gateway: Gateway,
    names: Vec<String>,
    numbers: HashMap<String, usize>,
    published: Vec<AtomicU64>,
}

impl Topics {
    pub(super) fn new(gateway: Gateway) -> Self {
        let names: Vec<_> = (0..BUSY + RARE + SILENT)
            .map(|topic| name(gateway, topic))
            .collect();
        let numbered = names.iter().enumerate();
        Self {
            gateway,
            numbers: numbered.map(|(n, name)| (name.clone(), n)).collect(),
            published: names.iter().map(|_| AtomicU64::new(0)).collect(),
            names,
        }
    }

    /// The topic with this name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// The name of a topic.
    pub(super) fn name(&self, topic: usize) -> &str {
        &self.names[topic]
    }

    /// The number of the newest message of a topic. The message may still be on its way to the bus.
    pub(super) fn published(&self, topic: usize) -> u64 {
        self.published[topic].load(Ordering::Acquire)
    }

    /// The topics of an entry: a name, or a pattern that ends with `*`.
    pub(super) fn of_entry(&self, entry: &str) -> Vec<usize> {
        let matches = |name: &str| match entry.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == entry,
        };
        let all = 0..self.names.len();
        all.filter(|topic| matches(&self.names[*topic])).collect()
    }

    /// The entries that a client asks for. One client of five has busy, rare and silent names, one
    /// has many busy names, one has a single name (and a pattern with this name), one has quiet
    /// names alone, and one has no messages at all.
    pub(super) fn entries(&self, client: usize) -> Vec<String> {
        let of = |topic: usize| self.names[topic].clone();
        let busy = |step: usize| of((client / SORTS + step) % BUSY);
        let rare = of(BUSY + client / SORTS % RARE);
        let silent = of(BUSY + RARE + client / SORTS % SILENT);
        let pattern = |start: &str| format!("market:tick:{start}*");
        match (client % SORTS, self.gateway) {
            (0, _) => vec![busy(0), busy(1), busy(2), rare, silent],
            (1, Gateway::Channels) => vec![pattern("B")],
            (1, _) => (0..5).map(busy).collect(),
            (2, Gateway::Channels) => vec![busy(0), pattern("")],
            (2, _) => vec![busy(0)],
            (3, Gateway::Channels) => vec![pattern("Q"), silent],
            (3, _) => vec![rare, silent],
            (_, Gateway::Channels) => vec![pattern("N")],
            (_, _) => vec![silent],
        }
    }

    /// Whether messages of a topic come often enough to measure a gap.
    pub(super) fn is_busy(topic: usize) -> bool {
        topic < BUSY
    }

    /// Publishes `rate` messages a second until `stop`, on their channels or to a stream.
    pub(super) fn publish(
        &self,
        url: &str,
        stream: Option<&str>,
        rate: f64,
        stop: &AtomicBool,
    ) -> Result<(), Fault> {
        let mut outlet = Outlet::connect(url)?;
        clock::sleep_punctually();
        let start = clock::now_us();
        for message in 0u64.. {
            clock::sleep_until(start + clock::due_after_us(message, rate));
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (channel, payload) = self.next(message, rate);
            match stream {
                Some(key) => outlet.add_to_stream(key, &channel, payload.as_bytes()),
                None => outlet.add(&channel, payload.as_bytes()),
            }
            outlet.settle()?;
        }
        Ok(())
    }

    /// The Redis channel and the payload of message `message`, from 0; counts the message as published.
    pub(super) fn next(&self, message: u64, rate: f64) -> (String, String) {
        let topic = topic_of(message, rate);
        let (gateway, name) = (self.gateway, &self.names[topic]);
        let n = self.published[topic].fetch_add(1, Ordering::AcqRel) + 1;
        (
            channel(gateway, name),
            payload(gateway, name, n, message + 1),
        )
    }
}

/// The name of a topic; a symbol has at most 10 characters.
fn name(gateway: Gateway, topic: usize) -> String {
    let short = match topic {
        _ if topic < BUSY => format!("B{topic}"),
        _ if topic < BUSY + RARE => format!("Q{}", topic - BUSY),
        _ => format!("N{}", topic - BUSY - RARE),
    };
    match gateway {
        Gateway::Channels => format!("market:tick:{short}"),
        _ => short,
    }
}

/// The Redis channel of a name.
fn channel(gateway: Gateway, name: &str) -> String {
    match gateway {
        Gateway::Channels => name.to_owned(),
        _ => format!("channel:trade:{name}"),
    }
}

/// The topic of message `message`, from 0: the busy names in turn, and each rare name every 30 s.
fn topic_of(message: u64, rate: f64) -> usize {
    let round = ((rate * RARE_S) as u64).max(RARE as u64 + 1);
    let place = message % round;
    let rare = (0..RARE).find(|k| (*k as u64 + 1) * round / (RARE as u64 + 1) == place);
    rare.map_or((message % BUSY as u64) as usize, |k| BUSY + k)
}

/// Message `n` of a name, and message `all` of all names.
fn payload(gateway: Gateway, name: &str, n: u64, all: u64) -> String {
    match gateway {
        Gateway::Channels => format!(r#"{{"n":{n},"all":{all},"ltp":22150.50}}"#),
        _ => {
            let mut text = String::new();
            let numbers = format!(r#""n":{n},"all":{all}"#);
            append_trade(&mut text, name, all, |text| text.push_str(&numbers));
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_asked_for_and_requests_keep_the_limits_of_the_gateways() {
        for gateway in [Gateway::Trades, Gateway::Channels] {
            let topics = Topics::new(gateway);
            let mut asked = vec![0; topics.names.len()];
            for client in 0..SORTS * BUSY * RARE {
                let entries = topics.entries(client);
                assert!((1..=5).contains(&entries.len()));
                for entry in &entries {
                    let of_entry = topics.of_entry(entry);
                    assert!(!of_entry.is_empty(), "{entry}");
                    of_entry.iter().for_each(|topic| asked[*topic] += 1);
                    let is_symbol = entry.len() <= 10 && entry.to_uppercase() == *entry;
                    assert!(gateway == Gateway::Channels || is_symbol, "{entry}");
                }
            }
            assert!(asked.iter().all(|clients| *clients > 0), "{asked:?}");
        }
    }

    #[test]
    fn rare_names_have_a_message_in_thirty_seconds_and_silent_names_none() {
        let mut count = [0; BUSY + RARE + SILENT];
        for message in 0..20 * 60 {
            count[topic_of(message, 20.0)] += 1;
        }
        assert_eq!(count[BUSY..], [2, 2, 2, 0, 0]);
        assert_eq!(count.iter().sum::<i32>(), 1_200);
        assert!(
            count[..BUSY].iter().all(|n| (148..=150).contains(n)),
            "{count:?}"
        );
    }

    #[test]
    fn a_pattern_has_the_names_that_begin_alike() {
        let topics = Topics::new(Gateway::Channels);
        assert_eq!(topics.of_entry("market:tick:Q*"), [8, 9, 10]);
        assert_eq!(topics.of_entry("market:tick:N1"), [12]);
        assert_eq!(topics.find("market:tick:N1"), Some(12));
        assert_eq!(topics.of_entry("market:tick:*").len(), 13);
    }
}
