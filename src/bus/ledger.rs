//! The subscriptions of a source: which names are wanted, the state of each name on the server, and the next command.
//! Pure.
//!
//! Each name has at most one command on its way. Later requests only change whether the name is wanted, and the answer
//! to the command shows whether another command is needed. So the last of several quick changes counts, and no memory
//! grows with their number. A subscription may have to settle, until all servers know it, before it counts as
//! confirmed. The ledger forgets names that are neither wanted nor on the server. While the server answers nothing, the
//! ledger holds the wanted names, the subscribed names, and the names of the commands on their way, whose number is
//! bounded.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use weirgate_core::Subscription;

/// A command to subscribe to names of the same kind, or to unsubscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SubscriptionChange {
    /// Subscribe, or unsubscribe.
    pub(super) wanted: bool,
    /// Patterns, or exact names.
    pub(super) patterns: bool,
    /// In the order in which the server answers.
    pub(super) names: VecDeque<Arc<str>>,
}

/// The state of a name.
#[derive(Debug, Default)]
struct NameEntry {
    wanted: bool,
    /// The number of the newest request for the name.
    number: u64,
    server: NameOnServer,
    command: Command,
}

/// The state of a name on the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NameOnServer {
    /// Not subscribed on this connection, or unsubscribed as asked.
    #[default]
    Absent,
    /// The server refused a command with several names, among them this name; or it refused this name, and a newer
    /// request has to have the answer again. The next command has this name alone.
    Suspect,
    /// The server refused the name, and the refusal was reported. The state outlives the connection, so that a refusal
    /// is reported once.
    Refused,
    /// The server has the name, but other servers may not know it yet. The value is the key in `settling`.
    Settling(u64),
    /// Subscribed, for all publishers.
    Confirmed,
}

/// The state of the one command that a name may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Command {
    #[default]
    None,
    /// Waits in the queue under this key.
    Queued(u64),
    /// On its way to the server.
    Sent,
}

/// How many names are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedNames {
    pub(super) all: usize,
    /// Those that the server refuses.
    pub(super) refused: usize,
}

/// How many names wait for the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// Names whose command is not sent yet.
    pub(super) queued: usize,
    /// Names in commands on their way.
    pub(super) asked: usize,
    /// Subscribed names that do not count as confirmed yet.
    pub(super) settling: usize,
}

/// The subscriptions of a source.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    channels: HashMap<Arc<str>, NameEntry>,
    patterns: HashMap<Arc<str>, NameEntry>,
    /// The names that need a command, in the order in which to send; each once. Empty without a connection.
    queue: BTreeMap<u64, Subscription>,
    /// The key of the next entry in `queue` or `settling`.
    next_order: u64,
    has_connection: bool,
    /// The number of names in commands on their way.
    asked: usize,
    /// The bytes of these commands.
    asked_bytes: usize,
    /// The names that were wanted when the connection was made and are not yet answered, or not yet settled.
    restoring: HashSet<Subscription>,
    /// The names that settle, ordered by the end of the wait.
    settling: BTreeMap<u64, Settling>,
    /// Refused names for which the server had no room.
    without_room: HashSet<Subscription>,
    /// The server has refused a name since the refused ones were last queued again.
    has_refused: bool,
}

#[derive(Debug)]
struct Settling {
    subscription: Subscription,
    due: Instant,
}

/// The most names in a command.
const NAMES_MAX: usize = 256;
/// The most bytes of names in a command, not counting the last name.
const COMMAND_BYTES_MAX: usize = 16 * 1024;
/// The most names in commands on their way, so that the answers do not fill the server's output buffer for this
/// connection.
const ASKED_MAX: usize = 8 * 1024;
/// The most bytes of commands on their way, not counting the last name. A busy server reads no commands. If they were
/// more than the server's socket holds, the rest would wait in our socket, and the kernel ends a connection whose peer
/// takes nothing for five seconds: all messages that the server would have sent afterwards would be lost.
const ASKED_BYTES_MAX: usize = 32 * 1024;
/// The most bytes of commands on their way while the names are restored on a new connection: there is little to lose yet,
/// and many names have to be subscribed soon.
const RESTORING_BYTES_MAX: usize = 1024 * 1024;
/// The bytes of a command for a single name, without the name.
const COMMAND_BYTES: usize = 32;

impl Ledger {
    /// Records request `number` for a name. Returns true if the bus has confirmed the name already, so that no
    /// confirmation will follow.
    pub(super) fn want(&mut self, subscription: &Subscription, number: u64) -> bool {
        let names = self.names_mut(subscription.is_pattern);
        let entry = names.entry(Arc::clone(&subscription.name)).or_default();
        (entry.wanted, entry.number) = (true, number);
        if entry.server == NameOnServer::Refused {
            // The new request has to have the refusal reported again.
            entry.server = NameOnServer::Suspect;
        }
        // A command on its way is to unsubscribe the name. Its answer leads to another command, and that to a
        // confirmation.
        let is_confirmed =
            entry.server == NameOnServer::Confirmed && entry.command != Command::Sent;
        self.enqueue(subscription);
        is_confirmed
    }

    /// Records that nobody wants the name any more.
    pub(super) fn unwant(&mut self, subscription: &Subscription) {
        let names = self.names_mut(subscription.is_pattern);
        let Some(entry) = names.get_mut(&subscription.name) else {
            return;
        };
        entry.wanted = false;
        self.enqueue(subscription);
        self.forget_if_idle(subscription);
    }

    /// Starts a connection without subscriptions: queues every wanted name.
    pub(super) fn begin_connection(&mut self) {
        debug_assert!(!self.has_connection && self.queue.is_empty() && self.asked == 0);
        self.has_connection = true;
        for is_pattern in [false, true] {
            let names: Vec<_> = self.names(is_pattern).keys().map(Arc::clone).collect();
            for name in names {
                let subscription = Subscription { name, is_pattern };
                self.enqueue(&subscription);
                self.restoring.insert(subscription);
            }
        }
    }

    /// Ends the connection and its subscriptions. Returns whether a wanted name was confirmed.
    pub(super) fn end_connection(&mut self) -> bool {
        self.has_connection = false;
        self.queue.clear();
        self.restoring.clear();
        self.settling.clear();
        self.without_room.clear();
        self.asked = 0;
        self.asked_bytes = 0;
        let mut had_confirmed = false;
        for names in [&mut self.channels, &mut self.patterns] {
            names.retain(|_, entry| entry.wanted);
            for entry in names.values_mut() {
                had_confirmed |= entry.server == NameOnServer::Confirmed;
                entry.command = Command::None;
                if entry.server != NameOnServer::Refused {
                    entry.server = NameOnServer::Absent;
                }
            }
        }
        had_confirmed
    }

    /// Whether all names that were wanted when the connection was made are answered and settled.
    pub(super) fn is_restored(&self) -> bool {
        self.has_connection && self.restoring.is_empty()
    }

    /// Returns the next command; `None` if there is none, or enough commands are on their way.
    pub(super) fn next_change(&mut self) -> Option<SubscriptionChange> {
        let mut change: Option<SubscriptionChange> = None;
        let mut bytes = 0;
        while let Some((_, next)) = self.queue.first_key_value() {
            // Each queued name has an entry.
            let entry = self.names(next.is_pattern).get(&next.name)?;
            debug_assert!(entry.is_due(), "queued for nothing");
            let fits = change.as_ref().is_none_or(|change| {
                change.wanted == entry.wanted
                    && change.patterns == next.is_pattern
                    && !entry.is_asked_alone()
                    && change.names.len() < NAMES_MAX
                    && bytes + next.name.len() <= COMMAND_BYTES_MAX
            });
            if !fits || self.is_enough_asked() {
                break;
            }
            bytes += next.name.len();
            let (wanted, alone) = (entry.wanted, entry.is_asked_alone());
            let name = self.take_first()?;
            let change = change.get_or_insert_with(|| SubscriptionChange {
                wanted,
                patterns: name.is_pattern,
                names: VecDeque::new(),
            });
            change.names.push_back(name.name);
            if alone {
                break;
            }
        }
        change
    }

    fn is_enough_asked(&self) -> bool {
        let bytes_max = match self.restoring.is_empty() {
            true => ASKED_BYTES_MAX,
            false => RESTORING_BYTES_MAX,
        };
        self.asked >= ASKED_MAX || self.asked_bytes >= bytes_max
    }

    /// Records that the server has subscribed the name. If the name is wanted, returns the number of its newest request.
    pub(super) fn subscribed(&mut self, subscription: &Subscription) -> Option<u64> {
        self.restoring.remove(subscription);
        let entry = self.answered(subscription)?;
        entry.server = NameOnServer::Confirmed;
        let number = entry.wanted.then_some(entry.number);
        self.enqueue(subscription);
        number
    }

    /// Records that the server has unsubscribed the name.
    pub(super) fn unsubscribed(&mut self, subscription: &Subscription) {
        self.restoring.remove(subscription);
        if let Some(entry) = self.answered(subscription) {
            entry.server = NameOnServer::Absent;
            self.enqueue(subscription);
            self.forget_if_idle(subscription);
        }
    }

    /// Records that the server has subscribed a name that counts as confirmed only from `due` on. `due` must not be
    /// earlier than in the calls before.
    pub(super) fn subscribed_from(&mut self, subscription: &Subscription, due: Instant) {
        let order = self.next_order;
        let Some(entry) = self.answered(subscription) else {
            return;
        };
        entry.server = NameOnServer::Settling(order);
        self.next_order += 1;
        let subscription = subscription.clone();
        self.enqueue(&subscription);
        self.settling.insert(order, Settling { subscription, due });
    }

    /// Returns a wanted name that has settled by `now`, with the number of its newest request.
    pub(super) fn next_settled(&mut self, now: Instant) -> Option<(Subscription, u64)> {
        while self.settle_due().is_some_and(|due| due <= now) {
            let (_, Settling { subscription, .. }) = self.settling.pop_first()?;
            self.restoring.remove(&subscription);
            let names = self.names_mut(subscription.is_pattern);
            let entry = names.get_mut(&subscription.name)?;
            entry.server = NameOnServer::Confirmed;
            // A command on its way is to unsubscribe the name, so no confirmation may be reported before its answer.
            if entry.wanted && entry.command != Command::Sent {
                let number = entry.number;
                return Some((subscription, number));
            }
        }
        None
    }

    /// The time at which the next name has settled.
    pub(super) fn settle_due(&self) -> Option<Instant> {
        Some(self.settling.first_key_value()?.1.due)
    }

    /// Whether the name was wanted when the connection was made and is not yet answered, or not yet settled.
    pub(super) fn is_restoring(&self, subscription: &Subscription) -> bool {
        self.restoring.contains(subscription)
    }

    /// Records that the server refused a command with several names, of which this is one. A single bad name makes the
    /// server refuse a whole command, so its names are sent again one by one.
    pub(super) fn refused_with_others(&mut self, subscription: &Subscription) {
        let names = self.names_mut(subscription.is_pattern);
        let Some(entry) = names.get_mut(&subscription.name) else {
            return;
        };
        (entry.server, entry.command) = (NameOnServer::Suspect, Command::None);
        self.asked -= 1;
        self.asked_bytes -= command_bytes(subscription);
        self.enqueue(subscription);
        self.forget_if_idle(subscription);
    }

    /// Records that the server refused the name itself. If this was not reported before, returns the number of the name's
    /// newest request.
    pub(super) fn refused(&mut self, subscription: &Subscription) -> Option<u64> {
        self.restoring.remove(subscription);
        let entry = self.answered(subscription)?;
        let is_news = entry.wanted && entry.server != NameOnServer::Refused;
        let number = is_news.then_some(entry.number);
        entry.server = NameOnServer::Refused;
        self.has_refused = true;
        self.forget_if_idle(subscription);
        number
    }

    /// Records that the server refused the name for want of room.
    pub(super) fn refused_for_room(&mut self, subscription: Subscription) {
        let entry = self.names(subscription.is_pattern).get(&subscription.name);
        if entry.is_some_and(NameEntry::is_refused) {
            self.without_room.insert(subscription);
        }
    }

    /// Queues a name that had no room, because another subscription has ended.
    pub(super) fn retry_without_room(&mut self) {
        let next = self.without_room.iter().next().cloned();
        if let Some(next) = next.and_then(|next| self.without_room.take(&next)) {
            self.enqueue(&next);
        }
    }

    /// Records that the server ended a subscription by itself. If the name is wanted, returns the number of its newest
    /// request.
    pub(super) fn revoked(&mut self, subscription: &Subscription) -> Option<u64> {
        let names = self.names_mut(subscription.is_pattern);
        let entry = names.get_mut(&subscription.name)?;
        if !entry.is_on_server() {
            return None;
        }
        let before = std::mem::replace(&mut entry.server, NameOnServer::Refused);
        let number = entry.wanted.then_some(entry.number);
        if let Command::Queued(order) = entry.command {
            // The queued command was to unsubscribe.
            entry.command = Command::None;
            self.queue.remove(&order);
        }
        if let NameOnServer::Settling(order) = before {
            self.settling.remove(&order);
            self.restoring.remove(subscription);
        }
        self.has_refused = true;
        self.forget_if_idle(subscription);
        number
    }

    /// Whether the server has refused a name since [`Self::retry_refused`] was last called.
    pub(super) fn has_refused(&self) -> bool {
        self.has_refused
    }

    /// Queues all refused names again.
    pub(super) fn retry_refused(&mut self) {
        self.has_refused = false;
        for is_pattern in [false, true] {
            let names = self.names(is_pattern).iter();
            let refused = names.filter(|(_, entry)| entry.is_refused());
            let refused: Vec<_> = refused.map(|(name, _)| Arc::clone(name)).collect();
            for name in refused {
                self.enqueue(&Subscription { name, is_pattern });
            }
        }
    }

    /// The wanted names that are confirmed, each with the number of its newest request.
    pub(super) fn confirmed_names(&self) -> impl Iterator<Item = (Subscription, u64)> {
        let all = [(&self.channels, false), (&self.patterns, true)];
        let all = all.into_iter().flat_map(|(names, is_pattern)| {
            let is_confirmed =
                |entry: &NameEntry| entry.wanted && entry.server == NameOnServer::Confirmed;
            let names = names.iter().filter(move |(_, entry)| is_confirmed(entry));
            names.map(move |(name, entry)| (Arc::clone(name), is_pattern, entry.number))
        });
        all.map(|(name, is_pattern, number)| (Subscription { name, is_pattern }, number))
    }

    /// Counts the wanted names.
    pub(super) fn wanted_names(&self) -> WantedNames {
        let refused = self.wanted().filter(|entry| entry.is_refused());
        WantedNames {
            all: self.wanted().count(),
            refused: refused.count(),
        }
    }

    fn wanted(&self) -> impl Iterator<Item = &NameEntry> {
        let entries = self.channels.values().chain(self.patterns.values());
        entries.filter(|entry| entry.wanted)
    }

    /// Counts the names that wait for the server.
    pub(super) fn unanswered(&self) -> Unanswered {
        Unanswered {
            queued: self.queue.len(),
            asked: self.asked,
            settling: self.settling.len(),
        }
    }

    /// The ledger's copy of the name of a channel, if there is a copy.
    pub(super) fn channel(&self, name: &str) -> Option<Arc<str>> {
        let kept = self.channels.get_key_value(name);
        kept.map(|(name, _)| Arc::clone(name))
    }

    /// The ledger's copy of a pattern, if there is a copy.
    pub(super) fn pattern(&self, name: &str) -> Option<Arc<str>> {
        let kept = self.patterns.get_key_value(name);
        kept.map(|(name, _)| Arc::clone(name))
    }

    fn names(&self, is_pattern: bool) -> &HashMap<Arc<str>, NameEntry> {
        match is_pattern {
            false => &self.channels,
            true => &self.patterns,
        }
    }

    fn names_mut(&mut self, is_pattern: bool) -> &mut HashMap<Arc<str>, NameEntry> {
        match is_pattern {
            false => &mut self.channels,
            true => &mut self.patterns,
        }
    }

    /// Queues the name if a command is needed, and removes the name from the queue otherwise.
    fn enqueue(&mut self, subscription: &Subscription) {
        if !self.has_connection {
            return;
        }
        let order = self.next_order;
        let names = self.names_mut(subscription.is_pattern);
        let Some(entry) = names.get_mut(&subscription.name) else {
            return;
        };
        match entry.command {
            Command::None if entry.is_due() => {
                entry.command = Command::Queued(order);
                self.queue.insert(order, subscription.clone());
                self.next_order += 1;
            }
            Command::Queued(order) if !entry.is_due() => {
                entry.command = Command::None;
                self.queue.remove(&order);
            }
            Command::None | Command::Queued(_) | Command::Sent => {}
        }
    }

    /// Takes the first name of the queue, to send its command.
    fn take_first(&mut self) -> Option<Subscription> {
        let (_, first) = self.queue.pop_first()?;
        let entry = self.names_mut(first.is_pattern).get_mut(&first.name)?;
        entry.command = Command::Sent;
        self.asked += 1;
        self.asked_bytes += command_bytes(&first);
        Some(first)
    }

    /// Records the answer to the command for a name.
    fn answered(&mut self, subscription: &Subscription) -> Option<&mut NameEntry> {
        let names = match subscription.is_pattern {
            false => &mut self.channels,
            true => &mut self.patterns,
        };
        let entry = names.get_mut(&subscription.name)?;
        if entry.command == Command::Sent {
            self.asked -= 1;
            self.asked_bytes -= command_bytes(subscription);
        }
        if let NameOnServer::Settling(order) = entry.server {
            self.settling.remove(&order);
        }
        entry.command = Command::None;
        Some(entry)
    }

    /// Removes a name that is not wanted and not on the server, and for which no command is queued or under way.
    fn forget_if_idle(&mut self, subscription: &Subscription) {
        let names = self.names_mut(subscription.is_pattern);
        if names
            .get(&subscription.name)
            .is_some_and(NameEntry::is_idle)
        {
            names.remove(&subscription.name);
            self.restoring.remove(subscription);
            self.without_room.remove(subscription);
        }
    }
}

impl NameEntry {
    /// Whether the name needs a command, and none is on its way.
    fn is_due(&self) -> bool {
        self.wanted != self.is_on_server() && self.command != Command::Sent
    }

    /// Whether the server has the name.
    fn is_on_server(&self) -> bool {
        matches!(
            self.server,
            NameOnServer::Settling(_) | NameOnServer::Confirmed
        )
    }

    /// Whether the server refuses a name that is wanted.
    fn is_refused(&self) -> bool {
        self.wanted && self.server == NameOnServer::Refused
    }

    /// Whether the ledger can forget the name.
    fn is_idle(&self) -> bool {
        !self.wanted && !self.is_on_server() && self.command == Command::None
    }

    /// Whether the command may have no other name.
    fn is_asked_alone(&self) -> bool {
        matches!(self.server, NameOnServer::Suspect | NameOnServer::Refused)
    }
}

fn command_bytes(subscription: &Subscription) -> usize {
    COMMAND_BYTES + subscription.name.len()
}

#[cfg(test)]
mod tests;
