//! The names that clients hold, in sums over all clients with a share for each client address.
//!
//! A name counts once in the sums, and for each address with a client that holds it: an address could otherwise get
//! everything by taking over the names of another address. A client holds a name from the grant on, also while it waits
//! to join with an answer.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use slab::Slab;

use super::ChannelsStats;
use super::asked::Asked;
use crate::admission::{Charge, ClientAddr, Holding, address_group};
use crate::auth::NameSyntax;
use crate::hub::TopicName;

/// Limits over all clients. A name of several clients counts once. An address gets more only while it holds less than is
/// left free.
#[derive(Clone, Copy, Debug)]
pub struct AllClientsLimits {
    /// Names, patterns among them.
    pub names_max: usize,
    /// Patterns. Redis compares every publication with each of them.
    pub patterns_max: usize,
    /// Bytes of all names.
    pub name_bytes_max: usize,
}

/// A limit of [`AllClientsLimits`], in the order of the labels of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Names,
    Patterns,
    NameBytes,
}

/// The limits in the order in which they are looked at.
const ALL: [Full; 3] = [Full::Names, Full::Patterns, Full::NameBytes];

/// The names that clients hold.
#[derive(Debug)]
pub(super) struct Names {
    syntax: NameSyntax,
    /// In the order of [`ALL`].
    sums: [Holding; 3],
    /// As much as one client may hold: an address with less gets what other addresses hold already.
    least: [u64; 3],
    entries: Slab<Entry>,
    ids: HashMap<TopicName, u32, RandomState>,
    addresses: HashMap<ClientAddr, OfAddress, RandomState>,
    pub(super) asked: Asked,
}

/// A name that somebody holds.
#[derive(Debug)]
struct Entry {
    name: TopicName,
    clients: u32,
    addresses: u32,
    /// The name is of the kept feed: the bus is not asked.
    is_kept: bool,
}

/// What the clients of an address hold.
#[derive(Debug)]
struct OfAddress {
    /// In the order of [`ALL`].
    charges: [Charge; 3],
    /// The clients of the address that hold a name.
    clients: HashMap<u32, u32, RandomState>,
}

/// The names of a client.
#[derive(Debug)]
pub(super) struct Held {
    /// The address group that the names count for.
    address: ClientAddr,
    /// In ascending order.
    ids: Vec<u32>,
    patterns: usize,
}

impl Held {
    /// A client without names.
    pub(super) fn new(client: ClientAddr) -> Self {
        Self {
            address: address_group(client),
            ids: Vec::new(),
            patterns: 0,
        }
    }

    /// The number of names, patterns among them.
    pub(super) fn count(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn patterns(&self) -> usize {
        self.patterns
    }

    /// The address group of the client.
    pub(super) fn address(&self) -> ClientAddr {
        self.address
    }
}

impl OfAddress {
    fn new(sums: &[Holding; 3], address: ClientAddr) -> Self {
        Self {
            charges: sums.each_ref().map(|sum| sum.hold(address, 0, 0)),
            clients: HashMap::default(),
        }
    }

    /// Charges a name; `least` if other addresses hold it. On an error nothing is charged.
    fn grant(&mut self, amounts: [u64; 3], least: Option<[u64; 3]>) -> Result<(), Full> {
        for (at, full) in ALL.into_iter().enumerate() {
            let least = least.map(|least| least[at]);
            if amounts[at] > 0 && !self.charges[at].grant_more(amounts[at], least) {
                self.give_back(&amounts[..at], least.is_some());
                return Err(full);
            }
        }
        Ok(())
    }

    fn give_back(&mut self, amounts: &[u64], others_hold: bool) {
        for (charge, amount) in self.charges.iter_mut().zip(amounts) {
            charge.give_back(*amount, others_hold);
        }
    }
}

impl Names {
    /// `least` is what one client may hold, in the order of [`ALL`].
    pub(super) fn new(limits: AllClientsLimits, syntax: NameSyntax, least: [usize; 3]) -> Self {
        let sum = |name, max| Holding::new(name, max as u64);
        Self {
            syntax,
            sums: [
                sum("names", limits.names_max),
                sum("patterns", limits.patterns_max),
                sum("name_bytes", limits.name_bytes_max),
            ],
            least: least.map(|least| least as u64),
            entries: Slab::new(),
            ids: HashMap::default(),
            addresses: HashMap::default(),
            asked: Asked::default(),
        }
    }

    /// The sums over all clients.
    pub(super) fn sums(&self) -> &[Holding] {
        &self.sums
    }

    fn amounts(syntax: NameSyntax, name: &str) -> [u64; 3] {
        [1, u64::from(syntax.is_pattern(name)), name.len() as u64]
    }

    /// Whether a client holds the name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.ids.contains_key(name)
    }

    /// Grants the name to the client, which may hold it already. A name that nobody holds is requested from the bus
    /// unless it `is_kept`.
    ///
    /// # Errors
    /// The limit that leaves no room for the name, with its value.
    pub(super) fn hold(
        &mut self,
        client: &mut Held,
        name: &str,
        is_kept: bool,
    ) -> Result<(), (Full, u64)> {
        let known = self.ids.get(name).copied();
        let place = known.map_or(Err(0), |id| client.ids.binary_search(&id));
        if place.is_ok() {
            return Ok(());
        }
        let amounts = Self::amounts(self.syntax, name);
        let entry = self.addresses.entry(client.address);
        let of = entry.or_insert_with(|| OfAddress::new(&self.sums, client.address));
        let is_new_there = known.is_none_or(|id| !of.clients.contains_key(&id));
        if is_new_there && let Err(full) = of.grant(amounts, known.map(|_| self.least)) {
            if of.clients.is_empty() {
                self.addresses.remove(&client.address);
            }
            return Err((full, self.sums[full as usize].max()));
        }
        let id = known.unwrap_or_else(|| {
            let name = TopicName::from(name.to_owned());
            if !is_kept {
                self.asked.want(&name);
            }
            let id = self.entries.insert(Entry {
                name: name.clone(),
                clients: 0,
                addresses: 0,
                is_kept,
            }) as u32;
            self.ids.insert(name, id);
            id
        });
        *of.clients.entry(id).or_default() += 1;
        let entry = &mut self.entries[id as usize];
        entry.clients += 1;
        entry.addresses += u32::from(is_new_there);
        let at = client.ids.partition_point(|held| *held < id);
        client.ids.insert(at, id);
        client.patterns += amounts[Full::Patterns as usize] as usize;
        Ok(())
    }

    /// Handles a client that lets a name go. Returns true if no client holds the name any more.
    pub(super) fn let_go(&mut self, client: &mut Held, name: &TopicName) -> bool {
        let Some(id) = self.ids.get(name).copied() else {
            return false;
        };
        let Ok(at) = client.ids.binary_search(&id) else {
            return false;
        };
        client.ids.remove(at);
        client.patterns -= usize::from(self.syntax.is_pattern(name.as_str()));
        self.release(client.address, id).is_some()
    }

    /// Handles a client that has ended. Returns the names that no client holds any more.
    pub(super) fn let_all_go(&mut self, client: Held) -> Vec<TopicName> {
        let ids = client.ids.into_iter();
        ids.filter_map(|id| self.release(client.address, id))
            .collect()
    }

    /// Returns the name if no client holds it any more.
    fn release(&mut self, address: ClientAddr, id: u32) -> Option<TopicName> {
        let entry = &mut self.entries[id as usize];
        let of = self.addresses.get_mut(&address)?;
        let clients = of.clients.get_mut(&id)?;
        *clients -= 1;
        if *clients == 0 {
            of.clients.remove(&id);
            entry.addresses -= 1;
            let amounts = Self::amounts(self.syntax, entry.name.as_str());
            of.give_back(&amounts, entry.addresses > 0);
            if of.clients.is_empty() {
                self.addresses.remove(&address);
            }
        }
        entry.clients -= 1;
        if entry.clients > 0 {
            return None;
        }
        let Entry { name, is_kept, .. } = self.entries.remove(id as usize);
        self.ids.remove(&name);
        if !is_kept {
            self.asked.give_up(&name);
        }
        Some(name)
    }

    fn entry(&self, name: &TopicName) -> Option<&Entry> {
        Some(&self.entries[*self.ids.get(name)? as usize])
    }

    /// Returns true if the messages of the name come, while the bus is there.
    pub(super) fn stands(&self, name: &TopicName) -> bool {
        let entry = self.entry(name);
        entry.is_some_and(|entry| entry.is_kept || self.asked.stands(name))
    }

    /// Returns true if the bus has confirmed or refused the newest request for the name.
    pub(super) fn is_settled(&self, name: &TopicName) -> bool {
        let entry = self.entry(name);
        entry.is_some_and(|entry| entry.is_kept || self.asked.is_settled(name))
    }

    /// Updates the counts; `subscriptions` are clients times names.
    pub(super) fn store(&self, stats: &ChannelsStats, subscriptions: usize) {
        let [names, patterns, bytes] = self.sums.each_ref().map(|sum| sum.held() as usize);
        stats.subscriptions.set(subscriptions);
        stats.channels.set(names - patterns);
        stats.patterns.set(patterns);
        stats.name_bytes.set(bytes);
    }
}
