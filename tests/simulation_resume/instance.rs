//! An instance of weirgate: a gateway on a hub, its feed, and its connection to Redis.

use weirgate_bus::{CountedFeed, StreamSettings};
use weirgate_core::{BusEvent, DrainPlan, Feed, Limits, Mark, SessionKey};
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::base::Now;

use super::contract::{Contract, Setup};
use super::link::{Link, subscription};
use super::redis::{Redis, Server};
use super::stream::KEY;
use super::stream_link::StreamLink;
use crate::world::client::request;
use crate::world::{Random, World};

/// Clients wait at most so long for the history of a stream. Shorter than with the product, as all else.
const ACCEPT_WAIT_US: u64 = 1_000_000;

/// What a message to a client was made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    /// The instance had handed over all messages with a smaller number.
    pub(crate) end: usize,
    pub(crate) is_on_replica: bool,
    pub(crate) bus_message_bytes_max: usize,
    /// The reader of a stream, `None` on pub/sub.
    pub(crate) process: Option<u64>,
}

/// The connection to Redis.
pub(crate) enum Bus {
    PubSub(Box<Link>),
    Stream(Box<StreamLink>),
}

/// See the module.
pub(crate) struct Instance<C: Contract> {
    pub(crate) world: World<C::Gateway>,
    feed: C::Feed,
    pub(crate) bus: Bus,
    pub(crate) setup: Setup,
    /// The number behind the last message that the hub has.
    end: usize,
    /// From here on clients wait no longer for the history.
    accepts_us: u64,
    /// Steps up to the end of the process, in a stop.
    pub(crate) stops_in: Option<u32>,
}

impl<C: Contract> Instance<C> {
    pub(crate) fn start(
        setup: Setup,
        limits: Limits,
        server: Server,
        redis: &Redis,
        now: Now,
        seed: u64,
    ) -> Self {
        let keep_us = limits.history.keep_us;
        let mut world = World::new(limits, C::gateway(&setup), seed);
        world.now = now;
        let (bus, end) = match redis.stream {
            Some(_) => {
                let link = stream_link(&setup, keep_us / 1_000, seed, C::HAS_DOUBTS);
                (Bus::Stream(Box::new(link)), 0)
            }
            None => {
                let names: Vec<_> = setup.kept.iter().map(|name| subscription(name)).collect();
                let feed =
                    (keep_us > 0).then(|| CountedFeed::new(NameSyntax::Redis, names.clone()));
                let feed = feed.map(|feed| feed.expect("names"));
                let link = Link::new(feed, names, server, redis);
                (Bus::PubSub(Box::new(link)), redis.end())
            }
        };
        Self {
            feed: C::feed(&setup, world.frame_bytes.clone()),
            bus,
            world,
            setup,
            end,
            accepts_us: now.mono_us + ACCEPT_WAIT_US,
            stops_in: None,
        }
    }

    pub(crate) fn tag(&self) -> Tag {
        let (is_on_replica, process) = match &self.bus {
            Bus::PubSub(link) => (link.is_on_replica(), None),
            Bus::Stream(link) => (false, Some(link.process())),
        };
        Tag {
            end: self.end,
            is_on_replica,
            bus_message_bytes_max: self.setup.bus_message_bytes_max,
            process,
        }
    }

    /// Whether the reactor takes clients: not before the history was read from the stream, unless that takes
    /// long.
    pub(crate) fn takes_clients(&self) -> bool {
        let waits = match &self.bus {
            Bus::PubSub(_) => false,
            Bus::Stream(link) => !link.has_stood && self.world.now.mono_us < self.accepts_us,
        };
        !waits && self.stops_in.is_none()
    }

    pub(crate) fn is_connected(&self) -> bool {
        match &self.bus {
            Bus::PubSub(link) => link.is_connected(),
            Bus::Stream(link) => link.is_connected(),
        }
    }

    /// What the reactor does with an event of the source.
    pub(crate) fn take(&mut self, event: BusEvent) {
        let now = self.world.now;
        let event = self.feed.read(event);
        if let Some(notice) = self.feed.notice(&event) {
            self.world.hub.handle_notice(now, &notice);
        }
        let mut publications = Vec::new();
        self.feed.event(now, event, &mut publications);
        while self.feed.next_line().is_some() {}
        for publication in &publications {
            self.world.hub.handle_publication(now, publication);
        }
        self.world.settle();
    }

    /// Hands over confirmations and messages; `collect` is called behind each, or behind all if they
    /// come in one turn.
    pub(crate) fn hand_over(
        &mut self,
        redis: &mut Redis,
        count: usize,
        random: &mut Random,
        mut collect: impl FnMut(&mut Self),
    ) {
        let now = self.world.now;
        let (events, end) = match &mut self.bus {
            Bus::PubSub(link) => (link.hand_over(redis, now, count, random), link.next),
            Bus::Stream(link) => {
                self.world.held = random.chance(50);
                (link.hand_over(redis, now, random), link.end)
            }
        };
        for (end, event) in events {
            self.end = end;
            self.take(event);
            collect(self);
        }
        self.end = end;
        self.world.held = false;
        self.world.settle();
    }

    pub(crate) fn lose(&mut self) {
        let events = match &mut self.bus {
            Bus::PubSub(link) => link.lose(),
            Bus::Stream(link) => link.lose(),
        };
        for event in events {
            self.take(event);
        }
    }

    pub(crate) fn connect(&mut self, redis: &Redis) {
        match &mut self.bus {
            Bus::PubSub(link) => {
                link.connect(redis);
                self.end = redis.end();
            }
            Bus::Stream(link) => link.connect(),
        }
    }

    /// The server executes a command.
    pub(crate) fn execute(&mut self, redis: &mut Redis, random: &mut Random) {
        match &mut self.bus {
            Bus::PubSub(link) => link.execute(redis),
            Bus::Stream(link) => link.execute(redis, random),
        }
    }

    /// Sends what the gateway has asked of the bus. Without a connection a name is asked for later.
    pub(crate) fn ask(&mut self) {
        if let Bus::PubSub(link) = &mut self.bus
            && link.is_connected()
        {
            for (name, number) in C::asked(&mut self.world.outputs) {
                link.ask(&name, number);
            }
        }
    }

    /// The mark to publish now, if one is due.
    pub(crate) fn due_mark(&mut self) -> Option<Mark> {
        match &mut self.bus {
            Bus::PubSub(link) => link.due_mark(self.world.now),
            Bus::Stream(_) => None,
        }
    }

    /// The number from which the connection has the marks; `None` without a connection that counts.
    pub(crate) fn marks_from(&self) -> Option<Option<usize>> {
        match &self.bus {
            Bus::PubSub(link) => link.is_connected().then(|| link.marks_from()),
            Bus::Stream(_) => None,
        }
    }

    /// A client connects, whose kernel takes `room` bytes behind the head.
    pub(crate) fn accept(&mut self, room: usize) -> SessionKey {
        let key = self.world.accept(usize::MAX);
        self.world.send(key, &request(C::PATH, None));
        assert!(self.world.client(key).is_open(), "no 101");
        let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
        socket.room = room;
        key
    }

    /// Whether the gateway has closed the connection.
    pub(crate) fn has_closed(&self, key: SessionKey) -> bool {
        let socket = &self.world.net.sockets[&key];
        socket.released.is_some() || socket.client.close.is_some()
    }

    /// Whether some clients may not know of a loss.
    pub(crate) fn is_notifying(&self) -> bool {
        self.world.hub.core().is_notifying()
    }

    pub(crate) fn stop(&mut self, steps: u32) {
        self.world.hub.drain(self.world.now, DrainPlan::default());
        self.world.settle();
        self.stops_in = Some(steps);
    }
}

/// A link of a process that reads the stream.
fn stream_link(setup: &Setup, history_ms: u64, process: u64, has_doubts: bool) -> StreamLink {
    let only = NamePatterns::new(NameSyntax::Redis, &setup.kept).expect("names");
    let settings = StreamSettings {
        name: KEY.to_owned(),
        history_ms,
        history_bytes_max: usize::MAX,
        answer_bytes_max: 64 * 1024 * 1024,
        only: Some(only),
    };
    StreamLink::new(settings, setup.bus_message_bytes_max, process, has_doubts)
}
