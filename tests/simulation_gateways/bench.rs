//! What all gateways have in common: clients that come, read, stop reading and go; what comes to
//! each is compared with what its contract says.

use std::collections::{BTreeMap, VecDeque};

use weirgate_core::{DrainPlan, Feed, Gateway, Limits, Publication, SessionKey};

use crate::world::client::{frame, request};
use crate::world::{Output, Random, World};

pub(crate) const SECOND: u64 = 1_000_000;
/// A client that reads all that comes.
const ALL: usize = usize::MAX / 2;
/// Clients at once.
const CROWD: usize = 12;

/// What the runs of all seeds have met.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) clients: u64,
    /// Messages that came because something was published.
    pub(crate) messages: u64,
    /// Messages that came because a client asked.
    pub(crate) answers: u64,
}

/// One contract: its gateway, its outside world and its model.
pub(crate) trait Contract: Sized {
    type Gateway: Gateway<Out: Output>;
    /// What the model knows of one client, and what is on its way to it.
    type Client: Default;

    fn new(random: &mut Random) -> Self;
    fn gateway(&mut self) -> Self::Gateway;
    /// The bench is made: what is made only with its counters.
    fn begin(bench: &mut Bench<Self>);
    /// The target of the next client's request; `slow`: it may not read for long.
    fn target(&mut self, random: &mut Random, slow: bool) -> String;
    /// A client has come.
    fn opened(bench: &mut Bench<Self>, key: SessionKey);
    /// A client says something.
    fn say(bench: &mut Bench<Self>, key: SessionKey);
    /// Something happens on the bus, or at a service.
    fn outside(bench: &mut Bench<Self>);
    /// A message has come. `true`: because something was published.
    fn got(bench: &mut Bench<Self>, key: SessionKey, text: &str) -> bool;
    /// What a client that reads all still has to get now.
    fn due(bench: &Bench<Self>, key: SessionKey) -> Option<String>;
    /// What must be true of all clients together.
    fn check(bench: &Bench<Self>);
    /// Whatever is under way outside comes to its end.
    fn come_to_rest(bench: &mut Bench<Self>);
    /// No client is left.
    fn check_empty(bench: &Bench<Self>);
}

/// A client as the model knows it.
#[derive(Debug, Default)]
pub(crate) struct Known<M> {
    pub(crate) model: M,
    /// Has not read everything all its life.
    pub(crate) slow: bool,
    reads: bool,
}

/// See the module.
pub(crate) struct Bench<C: Contract> {
    pub(crate) contract: C,
    pub(crate) world: World<C::Gateway>,
    pub(crate) random: Random,
    pub(crate) clients: BTreeMap<SessionKey, Known<C::Client>>,
    /// Of the next message or request.
    pub(crate) number: u64,
    counts: Counts,
}

impl Random {
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Bytes that are hardly ever a message: a good one with some bytes changed, or none at all.
pub(crate) fn noise(random: &mut Random, good: &str) -> Vec<u8> {
    let mut bytes = good.as_bytes().to_vec();
    match random.below(4) {
        0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
        1 => bytes = (0..random.below(40)).map(|_| random.next() as u8).collect(),
        2 => bytes = b"[".repeat(random.below(2_000) as usize),
        _ => {
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
        }
    }
    bytes
}

impl<C: Contract> Bench<C> {
    pub(crate) fn play(seed: u64) -> Counts {
        let mut random = Random::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let mut contract = C::new(&mut random);
        let limits = Limits {
            ping_interval_us: 0,
            share_us: random.pick(&[0, 2, 1_000]),
            work_us: random.pick(&[0, 2, 1_000]),
            write_bytes_max: random.pick(&[100, 3_000, 128 * 1024]),
            ..Limits::default()
        };
        let gateway = contract.gateway();
        let mut bench = Self {
            world: World::new(limits, gateway, seed),
            contract,
            random,
            clients: BTreeMap::new(),
            number: 0,
            counts: Counts::default(),
        };
        C::begin(&mut bench);
        for _ in 0..250 {
            bench.act();
            bench.check();
        }
        bench.finish();
        bench.counts
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..8 => self.connect(),
            8..38 => self.someone_speaks(),
            38..75 => C::outside(self),
            75..83 => self.read_some(),
            83..86 => self.stop_reading(),
            86..89 => self.cut(),
            89..98 => self.pass(SECOND / 5),
            _ => self.pass(2 * SECOND),
        }
    }

    fn connect(&mut self) {
        if self.clients.len() >= CROWD {
            return;
        }
        let slow = self.random.chance(25);
        let target = self.contract.target(&mut self.random, slow);
        let bits = self.random.chance(40).then_some(15);
        let ip = [127, 0, 0, self.random.pick(&[1, 1, 2])];
        let key = self.world.accept_from(ip.into(), ALL);
        self.counts.clients += 1;
        self.clients.insert(
            key,
            Known {
                reads: true,
                slow,
                model: C::Client::default(),
            },
        );
        // The model first: what comes is compared at once.
        C::opened(self, key);
        self.world.send(key, &request(&target, bits));
        assert!(self.world.client(key).is_open(), "{target}: no 101");
    }

    pub(crate) fn someone(&mut self) -> Option<SessionKey> {
        let keys: Vec<SessionKey> = self.clients.keys().copied().collect();
        (!keys.is_empty()).then(|| self.random.pick(&keys))
    }

    fn someone_speaks(&mut self) {
        if let Some(key) = self.someone() {
            C::say(self, key);
        }
    }

    pub(crate) fn client(&mut self, key: SessionKey) -> &mut C::Client {
        &mut self.clients.get_mut(&key).expect("a client").model
    }

    /// Bytes that are no text go as a binary message.
    pub(crate) fn send(&mut self, key: SessionKey, payload: &[u8]) {
        let first = match std::str::from_utf8(payload) {
            Ok(_) => 0x81,
            Err(_) => 0x82,
        };
        self.world.send(key, &frame(first, payload));
    }

    fn read_some(&mut self) {
        let Some(key) = self.someone() else { return };
        let room = match self.random.chance(40) {
            true => ALL,
            false => self.random.below(3_000) as usize,
        };
        let known = self.clients.get_mut(&key).expect("a client");
        known.reads |= room == ALL;
        self.world.open_window(key, room);
    }

    fn stop_reading(&mut self) {
        let Some(key) = self.someone() else { return };
        let known = self.clients.get_mut(&key).expect("a client");
        if known.slow {
            known.reads = false;
            let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
            socket.room = self.random.below(500) as usize;
        }
    }

    fn cut(&mut self) {
        let Some(key) = self.someone() else { return };
        let failed = self.random.chance(50);
        self.world.see_end(key, failed);
    }

    /// Some client is not read because there is no room for its messages.
    pub(crate) fn lacks_room(&self) -> bool {
        let mut paused = self.world.hub.stats().paused_clients();
        paused.any(|(why, clients)| why == "room" && clients > 0)
    }

    /// Time passes, at most this much; the hub is called when it asked for it.
    pub(crate) fn pass(&mut self, most: u64) {
        let until = self.world.now.mono_us + self.random.below(most) + 1;
        loop {
            let now = self.world.now.mono_us;
            let at = self.world.hub.poll_timeout().unwrap_or(u64::MAX).max(now);
            if at > until {
                break;
            }
            self.world.advance(at - now);
            self.check();
        }
        self.world.advance(until - self.world.now.mono_us);
    }

    /// What the reactor does with an event of a bus; what the feed made of it.
    pub(crate) fn publish<F: Feed>(&mut self, feed: &mut F, event: F::Event) -> Vec<Publication> {
        let now = self.world.now;
        let event = feed.read(event);
        if let Some(notice) = feed.notice(&event) {
            self.world.hub.handle_notice(now, &notice);
        }
        let mut publications = Vec::new();
        feed.event(now, event, &mut publications);
        while feed.next_line().is_some() {}
        publications
    }

    pub(crate) fn deliver(&mut self, publications: &[Publication]) {
        for publication in publications {
            self.world
                .hub
                .handle_publication(self.world.now, publication);
        }
        self.world.settle();
    }

    /// Compares what has come with what had to come.
    pub(crate) fn check(&mut self) {
        for key in self.clients.keys().copied().collect::<Vec<_>>() {
            for text in self.world.texts(key) {
                match C::got(self, key, &text) {
                    true => self.counts.messages += 1,
                    false => self.counts.answers += 1,
                }
            }
        }
        for key in std::mem::take(&mut self.world.released) {
            self.clients.remove(&key);
        }
        for (key, known) in &self.clients {
            let late = C::due(self, *key).filter(|_| known.reads);
            assert!(
                late.is_none(),
                "{key:?} had to get {}",
                late.unwrap_or_default()
            );
        }
        // In a stop clients leave everything before their sockets end.
        if !self.world.hub.is_draining() {
            C::check(self);
        }
    }

    /// Everybody reads and gets everything; then the process stops.
    fn finish(&mut self) {
        for key in self.clients.keys().copied().collect::<Vec<_>>() {
            self.clients.get_mut(&key).expect("a client").reads = true;
            self.world.open_window(key, ALL);
        }
        self.check();
        C::come_to_rest(self);
        self.check();
        if self.random.chance(50) {
            for key in self.clients.keys().copied().collect::<Vec<_>>() {
                self.world.end(key, false);
            }
        } else {
            self.world.hub.drain(self.world.now, DrainPlan::default());
            self.world.settle();
            self.pass(60 * SECOND);
            self.world.advance(10 * SECOND);
        }
        self.check();
        assert!(self.clients.is_empty(), "clients are left");
        C::check_empty(self);
        let stats = self.world.hub.stats();
        assert_eq!((stats.open, stats.messages_waiting), (0, 0));
        assert_eq!(self.world.hub.core().memberships(), 0);
    }
}

/// What has to come, oldest first: the first must be what came.
pub(crate) fn take<T>(due: &mut VecDeque<T>, text: &str) -> T {
    due.pop_front()
        .unwrap_or_else(|| panic!("came twice, or was never meant for it: {text:.90}"))
}
