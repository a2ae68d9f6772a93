//! Whose last values the bus is asked for, and of how many names at a time.
//!
//! A client has a share of bytes. Names are asked for until the share is used up; values have sizes
//! that nobody knows before, so a name counts for the largest value that the client has got. When all
//! of these questions have ended and the client has taken the values, the next names are asked for.
//! All clients have a limit together. Beyond it clients wait in a line, and their addresses take turns. A
//! client that takes a byte now and then keeps nobody waiting for ever: after a time it counts no more,
//! and what waits for it is bounded by the memory of all frames alone.

use std::collections::{BTreeSet, HashMap};

use foldhash::quality::RandomState;

use crate::admission::{ClientAddr, FairQueue};
use crate::auth::NameSyntax;
use crate::hub::{SessionKey, TopicName};

/// Bytes of last values that may wait for one client: as many as a pattern may have. One value may be
/// larger.
pub(super) const CLIENT_BYTES_MAX: usize = 512 * 1024;

/// What the value of an exact name counts for before it has come, at least.
const VALUE_BYTES: usize = 32 * 1024;

/// A client that has not taken its values for so long counts no more in the limit of all.
const SHARE_US: u64 = 60_000_000;

/// What a client waits for.
#[derive(Debug, Default)]
struct Turn {
    /// Names that the bus is to be asked for.
    ready: BTreeSet<TopicName>,
    /// Names whose questions have not ended.
    asked: BTreeSet<TopicName>,
    /// What the client counts for in the bytes of all clients, and since when; `None`: nothing.
    share: Option<(usize, u64)>,
    /// Bytes that it was sent, and may not have taken.
    sent: usize,
    /// Of the values that have come.
    largest: usize,
    /// Its room is awaited, it stands in the line, or some of its questions have not ended.
    is_busy: bool,
}

/// The clients that wait for last values, without those whose `subscribed` has not gone out.
#[derive(Debug)]
pub(super) struct Turns {
    syntax: NameSyntax,
    is_up: bool,
    clients: HashMap<SessionKey, Turn, RandomState>,
    /// Clients that have room.
    line: FairQueue<SessionKey>,
    /// Clients whose room the hub is to tell.
    rooms: Vec<SessionKey>,
    /// The clients that have a share, oldest first.
    shares: BTreeSet<(u64, SessionKey)>,
    /// Of all shares.
    bytes: usize,
    bytes_max: usize,
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
            bytes: 0,
            bytes_max: 0,
        }
    }

    pub(super) fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    pub(super) fn is_pattern(&self, name: &TopicName) -> bool {
        self.syntax.is_pattern(name.as_str())
    }

    /// Bytes of values that may wait for all clients, those of questions on their way included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The clients whose room the hub is to tell from here on.
    pub(super) fn take_rooms(&mut self) -> Vec<SessionKey> {
        std::mem::take(&mut self.rooms)
    }

    /// The bus is to be asked for this name of the client.
    pub(super) fn ready(&mut self, key: SessionKey, name: TopicName) {
        let turn = self.clients.entry(key).or_default();
        turn.ready.insert(name);
        if self.is_up && !turn.is_busy {
            turn.is_busy = true;
            self.rooms.push(key);
        }
    }

    /// The client does not wait for the name any more.
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

    /// Every question of the client has ended.
    fn answered(&mut self, key: SessionKey) {
        if let Some(turn) = self.clients.get_mut(&key) {
            if let Some((share, _)) = &mut turn.share {
                self.bytes = self.bytes - *share + turn.sent;
                *share = turn.sent;
            }
            self.rooms.push(key);
        }
    }

    /// The client has taken what it was sent.
    pub(super) fn room(&mut self, key: SessionKey, address: ClientAddr) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        turn.sent = 0;
        if let Some((share, since_us)) = turn.share.take() {
            self.bytes -= share;
            self.shares.remove(&(since_us, key));
        }
        if self.is_up && !turn.ready.is_empty() {
            self.line.push(address, key);
        } else {
            turn.is_busy = false;
            self.forget_if_idle(key);
        }
    }

    /// The next client that has a share, and the names of its next questions.
    pub(super) fn next(&mut self, now_us: u64) -> Option<(SessionKey, Vec<TopicName>)> {
        self.end_old_shares(now_us);
        while self.is_up && self.has_share() {
            let key = self.line.pop()?;
            let names = self.next_names(key, now_us);
            if !names.is_empty() {
                return Some((key, names));
            }
        }
        None
    }

    /// When the oldest share ends though its client has not taken its values, if somebody waits for that.
    pub(super) fn due_us(&self) -> Option<u64> {
        let (since_us, _) = self.shares.first().filter(|_| !self.line.is_empty())?;
        Some(since_us + SHARE_US)
    }

    fn end_old_shares(&mut self, now_us: u64) {
        while let Some((since_us, key)) = self.shares.first().copied()
            && since_us + SHARE_US <= now_us
        {
            self.shares.pop_first();
            let turn = self.clients.get_mut(&key);
            if let Some((share, _)) = turn.and_then(|turn| turn.share.take()) {
                self.bytes -= share;
            }
        }
    }

    /// There is a share for one more client.
    fn has_share(&self) -> bool {
        self.bytes == 0 || self.bytes + CLIENT_BYTES_MAX <= self.bytes_max
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
        if turn.is_busy {
            turn.asked.extend(names.iter().cloned());
            turn.share = Some((share, now_us));
            self.shares.insert((now_us, key));
            self.bytes += share;
        }
        self.forget_if_idle(key);
        names
    }

    /// A value of the name has come for the client. Returns whether the client has room for it.
    pub(super) fn takes(&mut self, key: SessionKey, name: &TopicName, bytes: usize) -> bool {
        let is_pattern = self.is_pattern(name);
        let Some(turn) = self.clients.get_mut(&key) else {
            return false;
        };
        turn.largest = turn.largest.max(bytes);
        // The values of a pattern come together, and were given the whole share.
        if !is_pattern && turn.sent > 0 && turn.sent + bytes > CLIENT_BYTES_MAX {
            return false;
        }
        turn.sent += bytes;
        if let Some((share, _)) = &mut turn.share {
            let more = turn.sent.saturating_sub(*share);
            *share += more;
            self.bytes += more;
        }
        true
    }

    /// The name is asked for again.
    pub(super) fn again(&mut self, key: SessionKey, name: &TopicName) {
        let Some(turn) = self.clients.get_mut(&key) else {
            return;
        };
        turn.ready.insert(name.clone());
        if turn.asked.remove(name) && turn.asked.is_empty() {
            self.answered(key);
        }
    }

    /// The client has ended. Returns the names that it waited for.
    pub(super) fn remove(&mut self, key: SessionKey) -> BTreeSet<TopicName> {
        let Some(mut turn) = self.clients.remove(&key) else {
            return BTreeSet::new();
        };
        if let Some((share, since_us)) = turn.share {
            self.bytes -= share;
            self.shares.remove(&(since_us, key));
        }
        self.line.remove(&key);
        turn.ready.append(&mut turn.asked);
        turn.ready
    }

    /// The bus is there.
    pub(super) fn up(&mut self) {
        self.is_up = true;
        for (key, turn) in &mut self.clients {
            if !turn.is_busy {
                turn.is_busy = true;
                self.rooms.push(*key);
            }
        }
    }

    /// The bus is away: nothing is asked.
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
