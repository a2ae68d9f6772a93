//! An instance of weirgate: a gateway on a hub, its feed, and its connection to Redis.

use weirgate::auth::NameSyntax;
use weirgate::feeds::BusEvent;
use weirgate::hub::{DrainPlan, Feed, Limits, Now, SessionKey};
use weirgate::sources::KeptFeed;

use super::contract::{Contract, Setup};
use super::link::{Link, subscription};
use super::redis::{Redis, Server};
use crate::world::client::request;
use crate::world::{Random, World};

/// What a message to a client was made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    /// The instance had handed over all messages with a smaller number.
    pub(crate) end: usize,
    pub(crate) is_on_replica: bool,
    pub(crate) bus_message_bytes_max: usize,
}

/// See the module.
pub(crate) struct Instance<C: Contract> {
    pub(crate) world: World<C::Gateway>,
    feed: C::Feed,
    pub(crate) link: Link,
    pub(crate) setup: Setup,
    /// The number behind the last message that the hub has.
    end: usize,
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
        let has_history = limits.history.keep_us > 0;
        let mut world = World::new(limits, C::gateway(&setup), seed);
        world.now = now;
        let names: Vec<_> = setup.kept.iter().map(|name| subscription(name)).collect();
        let feed = has_history.then(|| KeptFeed::new(NameSyntax::Redis, names.clone()));
        let feed = feed.map(|feed| feed.expect("names"));
        Self {
            feed: C::feed(&setup, world.frame_bytes.clone()),
            link: Link::new(feed, names, server, redis),
            world,
            setup,
            end: redis.end(),
            stops_in: None,
        }
    }

    pub(crate) fn tag(&self) -> Tag {
        Tag {
            end: self.end,
            is_on_replica: self.link.is_on_replica(),
            bus_message_bytes_max: self.setup.bus_message_bytes_max,
        }
    }

    /// What the reactor does with an event of the source.
    pub(crate) fn take(&mut self, event: BusEvent) {
        let now = self.world.now;
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

    /// Hands over confirmations and messages; `collect` is called behind each.
    pub(crate) fn hand_over(
        &mut self,
        redis: &Redis,
        count: usize,
        random: &mut Random,
        mut collect: impl FnMut(&mut Self),
    ) {
        let now = self.world.now;
        for (end, event) in self.link.hand_over(redis, now, count, random) {
            self.end = end;
            self.take(event);
            collect(self);
        }
        self.end = self.link.next;
    }

    pub(crate) fn lose(&mut self) {
        for event in self.link.lose() {
            self.take(event);
        }
    }

    pub(crate) fn connect(&mut self, redis: &Redis) {
        self.link.connect(redis);
        self.end = redis.end();
    }

    /// Sends what the gateway has asked of the bus. Without a connection a name is asked for later.
    pub(crate) fn ask(&mut self) {
        if self.link.is_connected() {
            for (name, number) in C::asked(&mut self.world.outputs) {
                self.link.ask(&name, number);
            }
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

    pub(crate) fn stop(&mut self, steps: u32) {
        self.world.hub.drain(self.world.now, DrainPlan::default());
        self.world.settle();
        self.stops_in = Some(steps);
    }
}
