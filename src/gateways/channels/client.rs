//! A client: role, rate, waiting answers and patterns; and the count of different patterns among the clients
//! of an address.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::super::access::{RequestRate, TokenEnd};
use super::answer::Answers;
use crate::admission::{ClientAddr, address_group};
use crate::auth::Rights;
use crate::hub::TopicName;

/// The gateway's state of a client. The names that the client holds are its topics in the hub.
#[derive(Debug)]
pub struct Client {
    pub(super) rights: Rights,
    /// The number of the table that the rights are of.
    pub(super) table: u64,
    /// The names that a new token has to be judged for.
    pub(super) again: Option<Box<Again>>,
    pub(super) token_end: TokenEnd,
    /// When the client last sent a new token, microseconds of the monotonic clock.
    pub(super) authenticated_us: Option<u64>,
    /// The patterns among the client's names.
    pub(super) patterns: Patterns,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
    /// Of an event stream that comes back.
    pub(super) last_event_id: Option<Box<str>>,
}

/// The names of a client with a new token that are not judged yet, and the answer to the token.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// In the reverse order of the answer.
    pub(super) names: Vec<String>,
    pub(super) revoked: Vec<String>,
    pub(super) request_id: String,
}

/// The patterns of a client.
#[derive(Debug)]
pub(super) struct Patterns {
    /// The address group that the patterns count for.
    address: ClientAddr,
    names: Vec<TopicName>,
}

impl Patterns {
    /// A client without patterns.
    pub(super) fn new(client: ClientAddr) -> Self {
        Self {
            address: address_group(client),
            names: Vec::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// The address group of the client.
    pub(super) fn address(&self) -> ClientAddr {
        self.address
    }
}

/// Patterns by address, each with the count of clients of the address that hold the pattern. Bounded: an
/// address without patterns is removed.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<ClientAddr, HashMap<TopicName, u32, RandomState>, RandomState>);

impl Shares {
    /// Returns true if the clients of this address hold `max` patterns, `name` not among them.
    pub(super) fn is_full(&self, client: &Patterns, name: &str, max: usize) -> bool {
        let held = self.0.get(&client.address);
        held.is_some_and(|held| held.len() >= max && !held.contains_key(name))
    }

    /// Counts a pattern that the client holds from now on.
    pub(super) fn add(&mut self, client: &mut Patterns, name: &TopicName) {
        let held = self.0.entry(client.address).or_default();
        *held.entry(name.clone()).or_default() += 1;
        client.names.push(name.clone());
    }

    /// Removes a pattern. Does nothing if the client does not hold `name` as a pattern.
    pub(super) fn remove(&mut self, client: &mut Patterns, name: &TopicName) {
        if let Some(at) = client.names.iter().position(|held| held == name) {
            client.names.swap_remove(at);
            self.give_back(client.address, name);
        }
    }

    /// Removes the patterns of a client that has ended.
    pub(super) fn remove_all(&mut self, client: Patterns) {
        for name in &client.names {
            self.give_back(client.address, name);
        }
    }

    fn give_back(&mut self, address: ClientAddr, name: &TopicName) {
        let Some(held) = self.0.get_mut(&address) else {
            return;
        };
        if let Some(clients) = held.get_mut(name) {
            *clients -= 1;
            if *clients == 0 {
                held.remove(name);
            }
        }
        if held.is_empty() {
            self.0.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn client(address: &str) -> Patterns {
        let ip: IpAddr = address.parse().expect("an address");
        Patterns::new(ip.into())
    }

    #[test]
    fn a_pattern_counts_once_for_an_address_until_its_last_client_lets_it_go() {
        let mut shares = Shares::default();
        let [a, b] = ["a*", "b*"].map(TopicName::fixed);
        // The clients of a /64 count as the same client.
        let (mut first, mut second) = (client("2001:db8::1"), client("2001:db8::2"));
        let other = client("2001:db8:0:1::1");
        shares.add(&mut first, &a);
        shares.add(&mut second, &a);
        assert!(!shares.is_full(&first, "b*", 2) && shares.is_full(&second, "b*", 1));
        assert!(!shares.is_full(&second, "a*", 1) && !shares.is_full(&other, "b*", 1));
        shares.remove(&mut first, &b);
        shares.remove(&mut first, &a);
        assert_eq!((first.count(), second.count()), (0, 1));
        assert!(shares.is_full(&first, "b*", 1), "the second one holds it");
        shares.remove_all(second);
        assert!(!shares.is_full(&first, "b*", 1) && shares.0.is_empty());
    }
}
