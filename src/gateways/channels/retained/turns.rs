//! The turns of clients for last values, and for how many names at a time the bus is asked.
//!
//! A client has a share of bytes. The gateway asks for names until the share is used up; the size of a value
//! is unknown in advance, so a name counts for the largest value that the client has got. When all of these
//! questions have ended and the client has taken the values, the next names follow. There is a limit for all
//! clients together, a [`Holding`]: an address gets a share only while it holds less than what is left free. Clients
//! without a share wait in a line, and their addresses take turns. A client that takes a byte now and then keeps no
//! client waiting for ever: after a time its share ends, and only the memory of all frames bounds its values.

use std::collections::{BTreeSet, HashMap};

use foldhash::quality::RandomState;

use crate::admission::{Charge, ClientAddr, FairQueue, Holding};
use crate::auth::NameSyntax;
use crate::hub::{SessionKey, TopicName};

/// Bytes of last values that may wait for a client: as many as a pattern may have. A single value may be
/// larger.
pub(super) const CLIENT_BYTES_MAX: usize = 512 * 1024;

/// The label of the bytes of all shares.
const BYTES: &str = "last_values";

/// The least size assumed for the value of an exact name before the value has come.
const VALUE_BYTES: usize = 32 * 1024;

/// After this time a client that has not taken its values no longer counts in the limit of all clients.
const SHARE_US: u64 = 60_000_000;

/// The names and bytes that a client waits for.
#[derive(Debug, Default)]
struct Turn {
    /// Names that the bus is to be asked for.
    ready: BTreeSet<TopicName>,
    /// Names with open questions.
    asked: BTreeSet<TopicName>,
    /// The client's part of the bytes of all clients, and its begin.
    share: Option<(Charge, u64)>,
    /// Known from the first room on.
    address: Option<ClientAddr>,
    /// Bytes sent to the client, perhaps not taken yet.
    sent: usize,
    /// The size of the largest value so far.
    largest: usize,
    /// The client waits for room or in the line, or has open questions.
    is_busy: bool,
}

/// The clients that wait for last values and have their `subscribed`.
#[derive(Debug)]
pub(super) struct Turns {
    syntax: NameSyntax,
    is_up: bool,
    clients: HashMap<SessionKey, Turn, RandomState>,
    /// Clients with room.
    line: FairQueue<SessionKey>,
    /// Clients for which the hub is to report room.
    rooms: Vec<SessionKey>,
    /// The clients with a share, oldest first.
    shares: BTreeSet<(u64, SessionKey)>,
    /// The bytes of all shares.
    bytes: Holding,
}

impl Turns {
    pub(super) fn new(syntax: NameSyntax) -> Self {
        Self {
            syntax,
            is_up: false,
            clients: HashMap::default(),
            line: FairQueue::default(),
            rooms: Vec::new(),
            shares: BTreeSet::new(),
            bytes: Holding::new(BYTES, 0),
        }
    }

    pub(super) fn limit(&mut self, bytes_max: usize) {
        self.bytes = Holding::new(BYTES, bytes_max as u64);
    }

    pub(super) fn is_pattern(&self, name: &TopicName) -> bool {
        self.syntax.is_pattern(name.as_str())
    }

    /// Bytes of values that may wait for all clients, including open questions.
    pub(super) fn bytes(&self) -> &Holding {
        &self.bytes
    }

    /// Takes the clients for which the hub is to report room.
    pub(super) fn take_rooms(&mut self) -> Vec<SessionKey> {
        std::mem::take(&mut self.rooms)
    }

    /// Adds a name to ask for.
    pub(super) fn ready(&mut self, key: SessionKey, name: TopicName) {
        let turn = self.clients.entry(key).or_default();
        turn.ready.insert(name);
        if self.is_up && !turn.is_busy {
            turn.is_busy = true;
            self.rooms.push(key);
        }
    }

    /// Handles a client that no longer waits for the name.
    pub(super) fn left(&mut self, key: SessionKey, name: &TopicName) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        if turn.asked.remove(name) && turn.asked.is_empty() {
            self.answered(key);
        } else {
            turn.ready.remove(name);
            self.forget_if_idle(key);
        }
    }

    /// Handles the end of the client's last open question.
    fn answered(&mut self, key: SessionKey) {
        if let Some(turn) = self.clients.get_mut(&key) {
            if let Some((share, begin_us)) = &mut turn.share {
                share.set(turn.sent as u64, *begin_us);
            }
            self.rooms.push(key);
        }
    }

    /// Handles a client that has taken its values.
    pub(super) fn room(&mut self, key: SessionKey, address: ClientAddr) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        turn.sent = 0;
        turn.address = Some(address);
        if let Some((_, since_us)) = turn.share.take() {
            self.shares.remove(&(since_us, key));
        }
        if self.is_up && !turn.ready.is_empty() {
            self.line.push(address, key);
        } else {
            turn.is_busy = false;
            self.forget_if_idle(key);
        }
    }

    /// Gives a share to the next client in the line. Returns the client and the names of its next questions.
    ///
    /// An address that is passed over holds at least as much as is free, and a share is free: there are no more such
    /// addresses than shares in the limit.
    pub(super) fn next(&mut self, now_us: u64) -> Option<(SessionKey, Vec<TopicName>)> {
        self.end_old_shares(now_us);
        while self.is_up && self.has_share() {
            let bytes = &self.bytes;
            let key = self.line.pop_of(|address| bytes.has_room_for(address))?;
            let names = self.next_names(key, now_us);
            if !names.is_empty() {
                return Some((key, names));
            }
        }
        None
    }

    /// The end of the oldest share, if a client waits in the line.
    pub(super) fn due_us(&self) -> Option<u64> {
        let (since_us, _) = self.shares.first().filter(|_| !self.line.is_empty())?;
        Some(since_us + SHARE_US)
    }

    fn end_old_shares(&mut self, now_us: u64) {
        while let Some((since_us, key)) = self.shares.first().copied()
            && since_us + SHARE_US <= now_us
        {
            self.shares.pop_first();
            if let Some(turn) = self.clients.get_mut(&key) {
                turn.share = None;
            }
        }
    }

    /// Returns true if there is a share for another client.
    fn has_share(&self) -> bool {
        let held = self.bytes.held();
        held == 0 || held + CLIENT_BYTES_MAX as u64 <= self.bytes.max()
    }

    fn next_names(&mut self, key: SessionKey, now_us: u64) -> Vec<TopicName> {
        let (mut names, mut share) = (Vec::new(), 0);
        let Some(turn) = self.clients.get_mut(&key) else {
            return names;
        };
        while let Some(name) = turn.ready.first() {
            let bytes = match self.syntax.is_pattern(name.as_str()) {
                true => CLIENT_BYTES_MAX,
                false => turn.largest.max(VALUE_BYTES),
            };
            if !names.is_empty() && share + bytes > CLIENT_BYTES_MAX {
                break;
            }
            share += bytes;
            names.extend(turn.ready.pop_first());
        }
        turn.is_busy = !names.is_empty();
        if let Some(address) = turn.address.filter(|_| turn.is_busy) {
            turn.asked.extend(names.iter().cloned());
            // Room was found: a single value may be larger than a share.
            let share = self.bytes.hold(address, share as u64, now_us);
            turn.share = Some((share, now_us));
            self.shares.insert((now_us, key));
        }
        self.forget_if_idle(key);
        names
    }

    /// Counts a value for the client. Returns true if the client has room for the value.
    pub(super) fn takes(&mut self, key: SessionKey, name: &TopicName, bytes: usize) -> bool {
        let is_pattern = self.is_pattern(name);
        let Some(turn) = self.clients.get_mut(&key) else {
            return false;
        };
        turn.largest = turn.largest.max(bytes);
        // The values of a pattern come together, and have the whole share.
        if !is_pattern && turn.sent > 0 && turn.sent + bytes > CLIENT_BYTES_MAX {
            return false;
        }
        turn.sent += bytes;
        if let Some((share, begin_us)) = &mut turn.share {
            share.set(share.amount().max(turn.sent as u64), *begin_us);
        }
        true
    }

    /// Queues the name for another question.
    pub(super) fn again(&mut self, key: SessionKey, name: &TopicName) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        turn.ready.insert(name.clone());
        if turn.asked.remove(name) && turn.asked.is_empty() {
            self.answered(key);
        }
    }

    /// Removes a client that has ended. Returns the client's names.
    pub(super) fn remove(&mut self, key: SessionKey) -> BTreeSet<TopicName> {
        let Some(mut turn) = self.clients.remove(&key) else {
            return BTreeSet::new();
        };
        if let Some((_, since_us)) = turn.share {
            self.shares.remove(&(since_us, key));
        }
        self.line.remove(&key);
        turn.ready.append(&mut turn.asked);
        turn.ready
    }

    /// Handles the bus coming back: clients are asked for again with [`Self::client_up`].
    pub(super) fn up(&mut self) {
        self.is_up = true;
    }

    /// Goes on with a client that waits since the bus was away.
    pub(super) fn client_up(&mut self, key: SessionKey) {
        if self.is_up
            && let Some(turn) = self.clients.get_mut(&key)
            && !turn.is_busy
        {
            turn.is_busy = true;
            self.rooms.push(key);
        }
    }

    /// Handles the bus going away: no question is asked.
    pub(super) fn down(&mut self) {
        self.is_up = false;
    }

    fn forget_if_idle(&mut self, key: SessionKey) {
        let turn = self.clients.get(&key);
        if turn.is_some_and(|turn| !turn.is_busy && turn.ready.is_empty()) {
            self.clients.remove(&key);
        }
    }
}
