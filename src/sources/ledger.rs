//! What is wanted from a bus whose names change while it is used, what stands there, and what to ask
//! for next. Pure.
//!
//! Each name has at most one command on its way. A change of mind meanwhile only changes what is
//! wanted; the answer shows whether there is something left to ask. So quick changes end in the
//! last one, and no memory grows with their number. A name may settle before it counts as confirmed.
//! Names that nobody wants and that do not stand
//! are forgotten: while a server answers nothing, what is kept are the names that are wanted, those
//! that stand, and those in commands on their way, which are bounded.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::feeds::Subscription;

/// One command: what it asks, for names of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Subscribe, or the opposite.
    pub(super) wanted: bool,
    /// Patterns, or exact names.
    pub(super) patterns: bool,
    /// In the order in which the server answers.
    pub(super) names: VecDeque<Arc<str>>,
}

/// What a name has become.
#[derive(Debug, Default)]
struct Entry {
    wanted: bool,
    /// Of the newest wish for it.
    number: u64,
    server: Server,
    command: Command,
}

/// What the server has said of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Server {
    /// Nothing on this connection, or it took the name away as asked.
    #[default]
    Absent,
    /// It refused a command with several names, this one among them: ask for this one alone.
    Suspect,
    /// It refused this name, and that was told. Kept over connections, so that it is told once.
    Refused,
    /// The name stands there, and others that publish may not know of it yet. Its place among those.
    Settling(u64),
    /// The name stands.
    Confirmed,
}

/// Where the command of a name is: there is one at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Command {
    #[default]
    None,
    /// It waits for its turn, at this place of the queue.
    Queued(u64),
    /// It is on its way.
    Sent,
}

/// The subscriptions of one source.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    channels: HashMap<Arc<str>, Entry>,
    patterns: HashMap<Arc<str>, Entry>,
    /// Names that have something to ask, by their place; each once. Empty while there is no
    /// connection.
    queue: BTreeMap<u64, Subscription>,
    /// The place of the next name.
    next_place: u64,
    has_connection: bool,
    /// Names in commands on their way.
    asked: usize,
    /// Bytes of these commands.
    asked_bytes: usize,
    /// Names that were wanted when the connection was made, and have not been answered or not settled.
    restoring: HashSet<Subscription>,
    /// Names that settle, in the order in which their time is over.
    settling: BTreeMap<u64, Settling>,
}

/// A name that settles.
#[derive(Debug)]
struct Settling {
    subscription: Subscription,
    due: Instant,
}

/// The most names in one command.
const NAMES_MAX: usize = 256;
/// The most bytes of names in one command, but for the last name.
const NAME_BYTES_MAX: usize = 16 * 1024;
/// The most names on their way: their answers must not fill the server's buffer for us.
const ASKED_MAX: usize = 8 * 1024;
/// The same in bytes of commands, but for the last name. A busy server does not read its commands.
/// More than its socket takes would stand in ours, and the kernel ends a connection whose peer takes
/// nothing for five seconds, with everything that the server would have sent when it is done.
const ASKED_BYTES_MAX: usize = 32 * 1024;
/// The same while the names of a new connection are restored: there is little to lose yet, and many
/// names are to stand soon.
const RESTORING_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a command of one name, beside the name.
const COMMAND_BYTES: usize = 32;

impl Ledger {
    /// Somebody wants it, with a wish of this number. `true`: it stands already, which is the answer.
    pub(super) fn want(&mut self, subscription: &Subscription, number: u64) -> bool {
        let names = self.names_mut(subscription.is_pattern);
        let entry = names.entry(Arc::clone(&subscription.name)).or_default();
        (entry.wanted, entry.number) = (true, number);
        if entry.server == Server::Refused {
            // Whoever wants it now is told again.
            entry.server = Server::Suspect;
        }
        let stands = entry.server == Server::Confirmed && entry.command != Command::Sent;
        self.enqueue(subscription);
        stands
    }

    /// Nobody wants it any more.
    pub(super) fn unwant(&mut self, subscription: &Subscription) {
        let names = self.names_mut(subscription.is_pattern);
        let Some(entry) = names.get_mut(&subscription.name) else {
            return;
        };
        entry.wanted = false;
        self.enqueue(subscription);
        self.forget_if_idle(subscription);
    }

    /// A connection stands, with nothing subscribed on it: everything wanted is asked for.
    pub(super) fn connected(&mut self) {
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

    /// The connection is gone, and all that stood on it; `true`: a wanted name did.
    pub(super) fn lost(&mut self) -> bool {
        self.has_connection = false;
        self.queue.clear();
        self.restoring.clear();
        self.settling.clear();
        self.asked = 0;
        self.asked_bytes = 0;
        let mut has_carried = false;
        for names in [&mut self.channels, &mut self.patterns] {
            names.retain(|_, entry| entry.wanted);
            for entry in names.values_mut() {
                has_carried |= entry.server == Server::Confirmed;
                entry.command = Command::None;
                if entry.server != Server::Refused {
                    entry.server = Server::Absent;
                }
            }
        }
        has_carried
    }

    /// Everything that was wanted when the connection was made has been answered, and has settled.
    pub(super) fn is_restored(&self) -> bool {
        self.has_connection && self.restoring.is_empty()
    }

    /// The next command, unless enough is on its way.
    pub(super) fn next_change(&mut self) -> Option<Change> {
        let mut change: Option<Change> = None;
        let mut bytes = 0;
        while let Some((_, next)) = self.queue.first_key_value() {
            let entry = self.names(next.is_pattern).get(&next.name)?;
            debug_assert!(entry.is_due(), "queued for nothing");
            let fits = change.as_ref().is_none_or(|change| {
                change.wanted == entry.wanted
                    && change.patterns == next.is_pattern
                    && !entry.is_asked_alone()
                    && change.names.len() < NAMES_MAX
                    && bytes + next.name.len() <= NAME_BYTES_MAX
            });
            if !fits || self.is_enough_asked() {
                break;
            }
            bytes += next.name.len();
            let (wanted, alone) = (entry.wanted, entry.is_asked_alone());
            let name = self.take_first()?;
            let change = change.get_or_insert_with(|| Change {
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

    /// Enough commands are on their way.
    fn is_enough_asked(&self) -> bool {
        let bytes_max = match self.restoring.is_empty() {
            true => ASKED_BYTES_MAX,
            false => RESTORING_BYTES_MAX,
        };
        self.asked >= ASKED_MAX || self.asked_bytes >= bytes_max
    }

    /// The server did what was asked for this name. If the name stands, and that is wanted: the
    /// number of the newest wish for it.
    pub(super) fn confirmed(&mut self, subscription: &Subscription, stands: bool) -> Option<u64> {
        self.restoring.remove(subscription);
        let entry = self.answered(subscription)?;
        entry.server = match stands {
            true => Server::Confirmed,
            false => Server::Absent,
        };
        let number = (stands && entry.wanted).then_some(entry.number);
        self.enqueue(subscription);
        self.forget_if_idle(subscription);
        number
    }

    /// The server took a name, which counts as confirmed from `due` on. Later calls have later moments.
    pub(super) fn settles(&mut self, subscription: &Subscription, due: Instant) {
        let place = self.next_place;
        let Some(entry) = self.answered(subscription) else {
            return;
        };
        entry.server = Server::Settling(place);
        self.next_place += 1;
        let subscription = subscription.clone();
        self.enqueue(&subscription);
        self.settling.insert(place, Settling { subscription, due });
    }

    /// A name that has settled by now and is wanted, with the number of the newest wish for it.
    pub(super) fn next_settled(&mut self, now: Instant) -> Option<(Subscription, u64)> {
        while self.settle_due().is_some_and(|due| due <= now) {
            let (_, Settling { subscription, .. }) = self.settling.pop_first()?;
            self.restoring.remove(&subscription);
            let names = self.names_mut(subscription.is_pattern);
            let entry = names.get_mut(&subscription.name)?;
            entry.server = Server::Confirmed;
            if entry.wanted && entry.command != Command::Sent {
                let number = entry.number;
                return Some((subscription, number));
            }
        }
        None
    }

    /// When the next name has settled.
    pub(super) fn settle_due(&self) -> Option<Instant> {
        Some(self.settling.first_key_value()?.1.due)
    }

    /// The name was wanted when the connection was made, and has not been answered or not settled.
    pub(super) fn is_restoring(&self, subscription: &Subscription) -> bool {
        self.restoring.contains(subscription)
    }

    /// The server refused a command. If the one name in it is refused, which was not known: the
    /// number of the newest wish for it. One of several names spoils them all, so they are asked for
    /// again, each alone.
    pub(super) fn refused(&mut self, subscription: &Subscription, was_alone: bool) -> Option<u64> {
        if !was_alone {
            let names = self.names_mut(subscription.is_pattern);
            let entry = names.get_mut(&subscription.name)?;
            (entry.server, entry.command) = (Server::Suspect, Command::None);
            self.asked -= 1;
            self.asked_bytes -= command_bytes(subscription);
            self.enqueue(subscription);
            self.forget_if_idle(subscription);
            return None;
        }
        self.restoring.remove(subscription);
        let entry = self.answered(subscription)?;
        let is_news = entry.wanted && entry.server != Server::Refused;
        let number = is_news.then_some(entry.number);
        entry.server = Server::Refused;
        self.forget_if_idle(subscription);
        number
    }

    /// The server has taken a standing name away by itself. If the name is wanted: the number of the
    /// newest wish for it.
    pub(super) fn revoked(&mut self, subscription: &Subscription) -> Option<u64> {
        let names = self.names_mut(subscription.is_pattern);
        let entry = names.get_mut(&subscription.name)?;
        if !entry.stands() {
            return None;
        }
        let before = std::mem::replace(&mut entry.server, Server::Refused);
        let number = entry.wanted.then_some(entry.number);
        if let Command::Queued(place) = entry.command {
            // It was to be given up.
            entry.command = Command::None;
            self.queue.remove(&place);
        }
        if let Server::Settling(place) = before {
            self.settling.remove(&place);
            self.restoring.remove(subscription);
        }
        self.forget_if_idle(subscription);
        number
    }

    /// Asks again for everything that was refused.
    pub(super) fn retry_refused(&mut self) {
        for is_pattern in [false, true] {
            let names = self.names(is_pattern).iter();
            let is_refused = |entry: &Entry| entry.wanted && entry.server == Server::Refused;
            let refused = names.filter(|(_, entry)| is_refused(entry));
            let refused: Vec<_> = refused.map(|(name, _)| Arc::clone(name)).collect();
            for name in refused {
                self.enqueue(&Subscription { name, is_pattern });
            }
        }
    }

    /// A wanted name is refused.
    pub(super) fn has_refused(&self) -> bool {
        let mut entries = self.channels.values().chain(self.patterns.values());
        entries.any(|entry| entry.wanted && entry.server == Server::Refused)
    }

    /// Names that wait for their turn to be asked for, names that were asked for and not answered, and
    /// names that settle.
    pub(super) fn unanswered(&self) -> [usize; 3] {
        [self.queue.len(), self.asked, self.settling.len()]
    }

    /// The name as it is kept here, if it is.
    pub(super) fn name(&self, name: &str, is_pattern: bool) -> Option<Arc<str>> {
        let kept = self.names(is_pattern).get_key_value(name);
        kept.map(|(name, _)| Arc::clone(name))
    }

    fn names(&self, is_pattern: bool) -> &HashMap<Arc<str>, Entry> {
        match is_pattern {
            false => &self.channels,
            true => &self.patterns,
        }
    }

    fn names_mut(&mut self, is_pattern: bool) -> &mut HashMap<Arc<str>, Entry> {
        match is_pattern {
            false => &mut self.channels,
            true => &mut self.patterns,
        }
    }

    /// Gives the name a place in the queue if there is something to ask about it, and takes its
    /// place away if there is nothing any more.
    fn enqueue(&mut self, subscription: &Subscription) {
        if !self.has_connection {
            return;
        }
        let place = self.next_place;
        let names = self.names_mut(subscription.is_pattern);
        let Some(entry) = names.get_mut(&subscription.name) else {
            return;
        };
        match entry.command {
            Command::None if entry.is_due() => {
                entry.command = Command::Queued(place);
                self.queue.insert(place, subscription.clone());
                self.next_place += 1;
            }
            Command::Queued(place) if !entry.is_due() => {
                entry.command = Command::None;
                self.queue.remove(&place);
            }
            Command::None | Command::Queued(_) | Command::Sent => {}
        }
    }

    /// The first name of the queue, which is asked for now.
    fn take_first(&mut self) -> Option<Subscription> {
        let (_, first) = self.queue.pop_first()?;
        let entry = self.names_mut(first.is_pattern).get_mut(&first.name)?;
        entry.command = Command::Sent;
        self.asked += 1;
        self.asked_bytes += command_bytes(&first);
        Some(first)
    }

    /// A command for this name has its answer.
    fn answered(&mut self, subscription: &Subscription) -> Option<&mut Entry> {
        let names = match subscription.is_pattern {
            false => &mut self.channels,
            true => &mut self.patterns,
        };
        let entry = names.get_mut(&subscription.name)?;
        if entry.command == Command::Sent {
            self.asked -= 1;
            self.asked_bytes -= command_bytes(subscription);
        }
        if let Server::Settling(place) = entry.server {
            self.settling.remove(&place);
        }
        entry.command = Command::None;
        Some(entry)
    }

    fn forget_if_idle(&mut self, subscription: &Subscription) {
        let names = self.names_mut(subscription.is_pattern);
        if names.get(&subscription.name).is_some_and(Entry::is_idle) {
            names.remove(&subscription.name);
            self.restoring.remove(subscription);
        }
    }
}

impl Entry {
    /// What stands is not what is wanted, and nothing was sent about it.
    fn is_due(&self) -> bool {
        self.wanted != self.stands() && self.command != Command::Sent
    }

    /// The server has the name.
    fn stands(&self) -> bool {
        matches!(self.server, Server::Settling(_) | Server::Confirmed)
    }

    /// There is nothing to keep it for.
    fn is_idle(&self) -> bool {
        !self.wanted && !self.stands() && self.command == Command::None
    }

    /// Its command has no other name in it.
    fn is_asked_alone(&self) -> bool {
        matches!(self.server, Server::Suspect | Server::Refused)
    }
}

fn command_bytes(subscription: &Subscription) -> usize {
    COMMAND_BYTES + subscription.name.len()
}

#[cfg(test)]
mod tests;
