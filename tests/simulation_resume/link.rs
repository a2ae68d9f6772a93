//! An instance's connection to Redis. The names are subscribed one after another, and a run of the order
//! comes in steps; `CountedFeed` does all the counting. What is here is what a session does around the feed.

use std::collections::VecDeque;

use weirgate_bus::CountedFeed;
use weirgate_core::{BusEvent, BusMessage, Mark, Place, Subscription};
use weirgate_wire::base::Now;

use super::redis::{Redis, Server};
use crate::world::Random;

/// Time from mark to mark of an instance.
const MARK_INTERVAL_US: u64 = 1_000_000;

/// A subscription that the server has executed or will.
#[derive(Debug)]
struct Command {
    subscription: Subscription,
    /// Of the request, for a name that clients have asked for.
    number: u64,
    is_marks: bool,
}

/// The state of a connection.
#[derive(Debug, Default)]
struct Connection {
    /// Commands that the server has not executed.
    sent: VecDeque<Command>,
    /// Confirmations on their way, each before the message with the number.
    confirmations: VecDeque<(usize, Command)>,
    confirmed: Vec<Subscription>,
    /// From here on marks come.
    marks_from: Option<usize>,
    /// Whether the server says that nothing can be lost here without a sign.
    may_count: bool,
    has_stood: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    feed: Option<CountedFeed>,
    /// Subscribed from the start.
    names: Vec<Subscription>,
    server: Server,
    marks_channel: String,
    connection: Option<Connection>,
    /// The first message that has not been handed over.
    pub(crate) next: usize,
    next_mark_us: Option<u64>,
    is_down_told: bool,
}

pub(crate) fn subscription(name: &str) -> Subscription {
    match name.contains('*') {
        true => Subscription::pattern(name),
        false => Subscription::channel(name),
    }
}

impl Link {
    pub(crate) fn new(
        feed: Option<CountedFeed>,
        names: Vec<Subscription>,
        server: Server,
        redis: &Redis,
    ) -> Self {
        Self {
            feed,
            names,
            server,
            marks_channel: redis.marks_channel.clone(),
            connection: None,
            next: redis.end(),
            next_mark_us: None,
            is_down_told: false,
        }
    }

    pub(crate) fn is_on_replica(&self) -> bool {
        self.server == Server::Replica
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The number from which this connection has the marks, `None` before.
    pub(crate) fn marks_from(&self) -> Option<usize> {
        self.connection.as_ref()?.marks_from
    }

    /// A new connection: nothing that was published before comes here.
    pub(crate) fn connect(&mut self, redis: &Redis) {
        let command = |subscription: &Subscription| Command {
            subscription: subscription.clone(),
            number: 0,
            is_marks: false,
        };
        if let Some(feed) = &mut self.feed {
            let notices_losses = true;
            feed.connected(notices_losses);
        }
        self.next_mark_us = None;
        self.next = redis.end();
        self.connection = Some(Connection {
            sent: self.names.iter().map(command).collect(),
            may_count: self.server == Server::Master,
            ..Connection::default()
        });
    }

    /// The connection is lost: what has not been handed over never will be.
    pub(crate) fn lose(&mut self) -> Vec<BusEvent> {
        let Some(connection) = self.connection.take() else {
            return Vec::new();
        };
        self.next_mark_us = None;
        let mut events = Vec::new();
        if connection.has_stood || !connection.confirmed.is_empty() {
            events.push(BusEvent::Gap { lost: None });
        }
        if !self.is_down_told {
            self.is_down_told = true;
            events.push(BusEvent::Down("gone".to_owned()));
        }
        events
    }

    /// A client has asked for a name outside of the feed.
    pub(crate) fn ask(&mut self, name: &str, number: u64) {
        if let Some(connection) = &mut self.connection {
            connection.sent.push_back(Command {
                subscription: subscription(name),
                number,
                is_marks: false,
            });
        }
    }

    /// The server executes the oldest command.
    pub(crate) fn execute(&mut self, redis: &Redis) {
        if let Some(connection) = &mut self.connection
            && let Some(command) = connection.sent.pop_front()
        {
            connection.confirmations.push_back((redis.end(), command));
        }
    }

    /// Hands over up to `count` confirmations and messages: events, each with the number behind its message.
    pub(crate) fn hand_over(
        &mut self,
        redis: &Redis,
        now: Now,
        count: usize,
        random: &mut Random,
    ) -> Vec<(usize, BusEvent)> {
        let mut events = Vec::new();
        for _ in 0..count {
            let Some(connection) = &mut self.connection else {
                break;
            };
            let is_due = |(number, _): &(usize, Command)| *number <= self.next;
            if connection.confirmations.front().is_some_and(is_due) {
                let (_, command) = connection.confirmations.pop_front().expect("the first");
                events.extend(self.confirmed(command, now));
            } else if self.next < redis.end() {
                let number = self.next;
                self.next += 1;
                let made = self.message(redis, number, now, random);
                events.extend(made.into_iter().map(|event| (number + 1, event)));
            } else {
                break;
            }
        }
        self.begin(&mut events);
        events
    }

    fn confirmed(&mut self, command: Command, now: Now) -> Option<(usize, BusEvent)> {
        let connection = self.connection.as_mut().expect("a connection");
        if command.is_marks {
            connection.marks_from = Some(self.next);
            self.next_mark_us = Some(now.mono_us);
            return None;
        }
        if let Some(feed) = &mut self.feed {
            feed.subscribed(&command.subscription);
        }
        connection.confirmed.push(command.subscription.clone());
        let subscribed = BusEvent::Subscribed {
            subscription: command.subscription,
            number: command.number,
        };
        Some((self.next, subscribed))
    }

    /// The copies of a message, one for each name that matches.
    fn message(
        &mut self,
        redis: &Redis,
        number: usize,
        now: Now,
        random: &mut Random,
    ) -> Vec<BusEvent> {
        let item = &redis.items[number];
        let connection = self.connection.as_ref().expect("a connection");
        if !item.is_at(self.server == Server::Replica) {
            return Vec::new();
        }
        let has_marks = connection.marks_from.is_some();
        if item.channel == self.marks_channel && has_marks {
            // A copy by a pattern of the feed is no mark, and no message.
            let mark = self
                .feed
                .as_mut()
                .and_then(|feed| feed.marked(&item.payload));
            return mark.into_iter().collect();
        }
        if item.channel == self.marks_channel {
            return Vec::new();
        }
        let mut by: Vec<Subscription> = connection.confirmed.clone();
        by.retain(|by| matches(by, &item.channel));
        if random.chance(50) {
            by.reverse();
        }
        let copies = by.iter().filter_map(|by| {
            let place = match &mut self.feed {
                Some(feed) => feed.place(by, &item.channel)?,
                None => Place::Outside,
            };
            Some(BusEvent::Message(BusMessage {
                pattern: by.is_pattern.then(|| by.name.clone()),
                place,
                ..BusMessage::new(item.channel.as_str(), item.payload.clone(), now)
            }))
        });
        copies.collect()
    }

    /// Begins to count once all names are subscribed, and subscribes to the marks last. The caller has
    /// handed over a batch: what followed the last confirmation in the batch is not counted.
    fn begin(&mut self, events: &mut Vec<(usize, BusEvent)>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let mut names = self.names.iter();
        let all_stand = names.all(|name| connection.confirmed.contains(name));
        if let Some(feed) = self.feed.as_mut().filter(|feed| feed.may_begin())
            && !connection.has_stood
            && connection.may_count
        {
            events.push((self.next, feed.begin()));
            connection.sent.push_back(Command {
                subscription: Subscription::channel(self.marks_channel.as_str()),
                number: 0,
                is_marks: true,
            });
        }
        if all_stand && !connection.has_stood {
            connection.has_stood = true;
            self.is_down_told = false;
            events.push((self.next, BusEvent::Up));
            events.push((self.next, BusEvent::CaughtUp));
        }
    }

    /// The mark to publish now, if one is due.
    pub(crate) fn due_mark(&mut self, now: Now) -> Option<Mark> {
        let due = self.next_mark_us.filter(|due| *due <= now.mono_us);
        let feed = self.feed.as_mut().filter(|_| due.is_some())?;
        self.next_mark_us = Some(now.mono_us + MARK_INTERVAL_US);
        Some(feed.next_mark())
    }
}

/// The lists have only patterns of a text and `*`.
fn matches(subscription: &Subscription, channel: &str) -> bool {
    match subscription.name.strip_suffix('*') {
        Some(prefix) => channel.starts_with(prefix),
        None => *subscription.name == *channel,
    }
}
