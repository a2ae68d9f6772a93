//! A Redis that executes one command after another, and a replica of it: one order of all messages, of
//! which each connection gets a contiguous run.

use std::collections::BTreeMap;

use weirgate_wire::auth::{NamePatterns, NameSyntax};

use super::instance::Tag;
use super::stream::Stream;

/// What an instance is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Master,
    /// With everything of the master, and with messages that somebody publishes there.
    Replica,
    /// The master, which says that it is of a cluster.
    Cluster,
    /// The master, in a version without `HELLO`.
    Old,
}

/// A message that was published, a mark or not.
#[derive(Debug, Default)]
pub(crate) struct Item {
    pub(crate) channel: String,
    pub(crate) payload: Vec<u8>,
    /// Published on the replica, where it stays.
    pub(crate) is_on_replica: bool,
    /// What no instance relays, whatever its version.
    pub(crate) is_junk: bool,
    /// In a stream: lost by the bus itself, in a failover.
    pub(crate) is_gone: bool,
    /// In a stream: the processes that have read the message and do not know of the failover.
    pub(crate) read_by: Vec<u64>,
    /// In a stream: the processes that began after it was stored. To them it is history: it comes to no client as live, also
    /// not to one that connected before the process had read it.
    pub(crate) history_of: Vec<u64>,
    /// In a stream: the processes that have not read the message, but others after it.
    pub(crate) skipped_by: Vec<u64>,
}

impl Item {
    pub(crate) fn is_at(&self, on_replica: bool) -> bool {
        on_replica || !self.is_on_replica
    }

    /// Whether the message comes to an instance that is told of no loss.
    pub(crate) fn comes_to(&self, tag: Tag) -> bool {
        let has_read = || {
            tag.process
                .is_some_and(|process| self.read_by.contains(&process))
        };
        self.is_at(tag.is_on_replica) && (!self.is_gone || has_read())
    }

    /// Whether the message comes to clients of an instance as live.
    pub(crate) fn is_live(&self, tag: Tag) -> bool {
        let is_history = |process: u64| self.history_of.contains(&process);
        let is_live = !tag.process.is_some_and(is_history) && !self.is_skipped(tag);
        is_live && self.is_relayed(tag.bus_message_bytes_max)
    }

    /// Whether the instance has not read the message, but others after it.
    pub(crate) fn is_skipped(&self, tag: Tag) -> bool {
        let skips = |process: u64| self.skipped_by.contains(&process);
        tag.process.is_some_and(skips)
    }

    /// Whether an instance with this limit relays the message.
    pub(crate) fn is_relayed(&self, bytes_max: usize) -> bool {
        !self.is_junk && self.payload.len() <= bytes_max
    }
}

/// Everything that was published, in the order of its execution. An item's index is its number.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    pub(crate) items: Vec<Item>,
    /// Numbers of the messages of each name that a client may hold.
    by_name: BTreeMap<String, (Option<NamePatterns>, Vec<usize>)>,
    /// Marks under way to the server.
    marks: Vec<String>,
    /// Marks that were executed, with their numbers.
    executed: Vec<(usize, String)>,
    pub(crate) marks_channel: String,
    /// Everything is added to a stream in place of pub/sub.
    pub(crate) stream: Option<Stream>,
}

impl Redis {
    /// `prefix`: what stands before a client's name in the name of a channel.
    pub(crate) fn new<'a>(
        prefix: &str,
        names: impl Iterator<Item = &'a str>,
        marks_channel: &str,
    ) -> Self {
        let of = |name: &str| {
            let text = [name.to_owned()];
            let patterns = name
                .contains('*')
                .then(|| NamePatterns::new(NameSyntax::Redis, &text));
            let patterns = patterns.map(|patterns| patterns.expect("a pattern"));
            (format!("{prefix}{name}"), (patterns, Vec::new()))
        };
        Self {
            by_name: names.map(of).collect(),
            marks_channel: marks_channel.to_owned(),
            ..Self::default()
        }
    }

    /// The number of the next message.
    pub(crate) fn end(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn publish(&mut self, item: Item) {
        let number = self.end();
        for (name, (patterns, numbers)) in &mut self.by_name {
            let matches = match patterns {
                Some(patterns) => patterns.matches(&item.channel),
                None => *name == item.channel,
            };
            if matches && item.channel != self.marks_channel {
                numbers.push(number);
            }
        }
        self.items.push(item);
    }

    /// Adds a message to the stream.
    pub(crate) fn add(&mut self, item: Item, unix_ms: i64) {
        let (number, unix_ms) = (self.end(), u64::try_from(unix_ms).expect("a time"));
        self.publish(item);
        if let Some(stream) = &mut self.stream {
            stream.add(number, unix_ms);
        }
    }

    /// Another server takes over, without the newest entries of the stream.
    pub(crate) fn fail_over(&mut self, lacks: usize, behind_ms: u64) {
        let stream = self.stream.as_mut().expect("a stream");
        for number in stream.fail_over(lacks, behind_ms) {
            self.items[number].is_gone = true;
        }
    }

    /// A process learns of a loss: what it relays from now on is what is left.
    pub(crate) fn forget_gone(&mut self, process: u64) {
        for item in self.items.iter_mut().filter(|item| item.is_gone) {
            item.read_by.retain(|reader| *reader != process);
        }
    }

    /// Numbers of the messages of a name, from one number up to another.
    pub(crate) fn of_name(&self, name: &str, from: usize, to: usize) -> &[usize] {
        let (_, numbers) = &self.by_name[name];
        let at = |number: usize| numbers.partition_point(|n| *n < number);
        &numbers[at(from)..at(to.max(from))]
    }

    /// An instance publishes a mark. The mark comes to the server some time later.
    pub(crate) fn send_mark(&mut self, mark: String) {
        self.marks.push(mark);
    }

    /// The oldest mark that is under way comes to the server.
    pub(crate) fn execute_mark(&mut self) {
        if !self.marks.is_empty() {
            let mark = self.marks.remove(0);
            self.executed.push((self.end(), mark.clone()));
            self.publish_on_marks(mark.into_bytes());
        }
    }

    /// Somebody repeats a mark that all connections have: the marks before `all_from` are not on all.
    pub(crate) fn repeat_mark(&mut self, all_from: usize) {
        let first = self
            .executed
            .partition_point(|(number, _)| *number < all_from);
        if let Some((_, mark)) = self.executed.get(first) {
            self.publish_on_marks(mark.clone().into_bytes());
        }
    }

    pub(crate) fn publish_on_marks(&mut self, payload: Vec<u8>) {
        self.publish(Item {
            channel: self.marks_channel.clone(),
            payload,
            is_junk: true,
            ..Item::default()
        });
    }
}
