//! Names that wait until the stream is asked for their newest messages: whose turn is next, and how many are asked for
//! at once.
//!
//! A name that several clients wait for has a turn for each of them, so it does not wait for a client whose address
//! wants very many names. A name that was asked for meanwhile is skipped. The permits are a [`Quota`]: an address
//! without a permit gets the next free permit before an address that has some. Patterns have few permits of their own,
//! because the server reads for each.

use std::collections::BTreeSet;

use weirgate_core::{Core, SessionKey, TopicName};
use weirgate_wire::admission::{ClientAddr, FairQueue, Permit, Quota};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::ExtendibleMap;

/// The most exact names, and the most patterns, that the stream is asked for at once: about twice as many as the bus has on
/// its way.
const EXACT_MAX: u64 = 128;
const PATTERNS_MAX: u64 = 8;

/// Names that wait for their turn.
#[derive(Debug)]
pub(super) struct Waiting {
    syntax: NameSyntax,
    exact: Turns,
    patterns: Turns,
}

/// The names of one kind, exact names or patterns, that wait for their turn.
#[derive(Debug)]
struct Turns {
    /// The clients of `names`.
    clients: FairQueue<SessionKey>,
    names: ExtendibleMap<SessionKey, BTreeSet<TopicName>>,
    /// How many names the stream is asked for at once, with a share for each address.
    permits: Quota,
    /// While so many permits are held, no address in the queue has room for another.
    full: Option<u64>,
}

/// A name whose turn it is, with the permit for the client that wants it.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) name: TopicName,
    pub(super) client: ClientAddr,
    pub(super) permit: Permit,
}

impl Default for Waiting {
    fn default() -> Self {
        Self::new(NameSyntax::default())
    }
}

impl Waiting {
    pub(super) fn new(syntax: NameSyntax) -> Self {
        Self {
            syntax,
            exact: Turns::new(EXACT_MAX),
            patterns: Turns::new(PATTERNS_MAX),
        }
    }

    fn turns_of(&mut self, name: &TopicName) -> &mut Turns {
        match self.syntax.is_pattern(name.as_str()) {
            true => &mut self.patterns,
            false => &mut self.exact,
        }
    }

    pub(super) fn add(&mut self, core: &Core, key: SessionKey, name: TopicName) {
        self.turns_of(&name).add(core, key, name);
    }

    pub(super) fn remove(&mut self, key: SessionKey, name: &TopicName) {
        self.turns_of(name).remove(key, name);
    }

    /// Removes and returns the next name of the client whose turn is next.
    pub(super) fn next(&mut self, core: &Core) -> Option<Turn> {
        self.exact.next(core).or_else(|| self.patterns.next(core))
    }

    /// Whether a name waits for which there is a permit.
    pub(super) fn has_next(&self) -> bool {
        self.exact.has_next() || self.patterns.has_next()
    }
}

impl Turns {
    fn new(permits: u64) -> Self {
        Self {
            clients: FairQueue::default(),
            names: ExtendibleMap::default(),
            permits: Quota::new("newest_messages", permits),
            full: None,
        }
    }

    fn add(&mut self, core: &Core, key: SessionKey, name: TopicName) {
        self.names.get_or_insert_default(key).insert(name);
        self.clients.push(address_of(core, key), key);
        self.full = None;
    }

    /// Removes a name of a client. A client without a further name loses its turn.
    fn remove(&mut self, key: SessionKey, name: &TopicName) {
        if let Some(names) = self.names.get_mut(&key) {
            names.remove(name);
            if names.is_empty() {
                self.names.remove(&key);
                self.clients.remove(&key);
            }
        }
    }

    /// Returns whether [`Self::next`] may find a name: a client waits, and a permit is free for an address that waits,
    /// as far as known.
    fn has_next(&self) -> bool {
        if self.clients.is_empty() {
            return false;
        }
        // Without a free permit the addresses are not searched: a thousand may wait.
        let held = self.permits.held();
        held < self.permits.max() && self.full.is_none_or(|full| held < full)
    }

    /// Takes the first name of the next client whose address has room, and a permit for it. The client is queued again
    /// if it has more names. `None`: none waits, or no address has room.
    fn next(&mut self, core: &Core) -> Option<Turn> {
        if !self.has_next() {
            return None;
        }
        let permits = &self.permits;
        let Some(key) = self.clients.pop_of(|client| permits.has_room_for(client)) else {
            self.full = Some(self.permits.held());
            return None;
        };
        // Others may have room since.
        self.full = None;
        let client = address_of(core, key);
        let names = self.names.get_mut(&key)?;
        let name = names.pop_first();
        if names.is_empty() {
            self.names.remove(&key);
        } else {
            self.clients.push(client, key);
        }
        // One question; the time does not matter, because these permits are not evicted.
        let (name, permit) = (name?, self.permits.hold(client, 1, 0));
        Some(Turn {
            name,
            client,
            permit,
        })
    }
}

/// The address of a client. Clients that have ended share turns until their names are released.
pub(super) fn address_of(core: &Core, key: SessionKey) -> ClientAddr {
    core.client_addr(key).unwrap_or(ClientAddr::Unix)
}
