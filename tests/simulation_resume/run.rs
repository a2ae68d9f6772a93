//! A run: what happens at random, and to whom.

use std::collections::BTreeMap;

use weirgate_core::{HistoryLimits, Limits, SendQueueLimits};
use weirgate_wire::base::Now;

use super::client::Client;
use super::contract::{Contract, Setup};
use super::instance::Instance;
use super::redis::{Item, Redis, Server};
use super::stream::{Ids, Stream};
use crate::world::Random;

const SECOND: u64 = 1_000_000;
const STEPS: u32 = 400;
const CLIENTS: usize = 4;
/// A client that reads all that comes.
const ALL: usize = usize::MAX / 2;
/// Limits of a bus message: almost all messages are smaller than the smallest.
const BYTES_MAX: [usize; 2] = [1 << 20, 400];

/// What the runs of all seeds have met.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) recovered: u64,
    pub(crate) replayed: u64,
    pub(crate) live: u64,
    /// Names recovered on another instance than the last one.
    pub(crate) elsewhere: u64,
    pub(crate) losses_told: u64,
    /// Names recovered with a stream as the bus.
    pub(crate) of_streams: u64,
    pub(crate) why: BTreeMap<String, u64>,
}

/// See the module.
pub(crate) struct Run<C: Contract> {
    random: Random,
    redis: Redis,
    instances: Vec<Option<Instance<C>>>,
    clients: Vec<Client>,
    /// The instance on which each client was before.
    before: Vec<usize>,
    limits: Limits,
    /// This many bytes more make a message large.
    storm_bytes: usize,
    conflated: Option<String>,
    /// An instance that gets little of its connection for a while.
    late: Option<usize>,
    now: Now,
    elsewhere: u64,
}

impl<C: Contract> Run<C> {
    /// `is_stream`: the bus is a stream in place of pub/sub.
    pub(crate) fn play(seed: u64, is_stream: bool) -> Counts {
        let mut random = Random::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let is_stormy = seed % 32 < 2;
        let bytes_max = match is_stormy {
            true => 64 << 20,
            false => random.pick(&[4_000, 30_000, 1 << 20]),
        };
        let limits = Limits {
            ping_interval_us: 0,
            history: HistoryLimits {
                keep_us: random.pick(&[5, 20, 60]) * SECOND,
                bytes_max,
            },
            send_queue: SendQueueLimits {
                hard_bytes: random.pick(&[20_000, 1 << 24]),
                ..SendQueueLimits::default()
            },
            // A resume may take several turns.
            share_us: random.pick(&[0, 2, 1_000]),
            ..Limits::default()
        };
        let marks = random.pick(&[C::MARKS[0], C::MARKS[0], C::MARKS[1]]);
        let mut redis = Redis::new(C::PREFIX, C::NAMES.iter().copied().chain(C::OUTSIDE), marks);
        redis.stream = is_stream.then(|| {
            let ids = random.pick(&[Ids::Time, Ids::Sequence]);
            Stream::new(ids, random.pick(&[10, 100, 10_000]))
        });
        let instances = 2 + random.below(2) as usize;
        let conflated = random.chance(40).then(|| "m:a*".to_owned());
        let mut run = Self {
            redis,
            instances: (0..instances).map(|_| None).collect(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            before: vec![usize::MAX; CLIENTS],
            limits,
            storm_bytes: if is_stormy { 300_000 } else { 0 },
            conflated,
            late: None,
            now: Now {
                mono_us: SECOND,
                unix_us: 1_715_629_300_000 * 1_000,
            },
            elsewhere: 0,
            random,
        };
        for index in 0..instances {
            run.start(index);
        }
        for _ in 0..STEPS {
            run.step();
        }
        run.finish();
        run.counts()
    }

    fn step(&mut self) {
        self.act();
        self.pass();
        for index in 0..self.instances.len() {
            self.relay(index);
        }
        for index in 0..self.clients.len() {
            self.client_acts(index);
        }
    }

    fn act(&mut self) {
        let index = self.random.below(self.instances.len() as u64) as usize;
        match self.random.below(100) {
            0..60 => {
                for _ in 0..=self.random.below(4) {
                    self.publish();
                }
            }
            60..63 => self.instances[index].iter_mut().for_each(Instance::lose),
            63..65 => self.kill(index),
            65..67 => self.stop(index),
            67..77 if self.instances[index].is_none() => self.start(index),
            77..80 if self.redis.stream.is_some() => self.spoil_stream(),
            77..80 => self.spoil_marks(),
            80..82 => self.storm(),
            82..86 => self.late = Some(index),
            86..92 => self.late = None,
            _ => {}
        }
        if self.random.chance(70) {
            self.redis.execute_mark();
        }
    }

    fn publish(&mut self) {
        let channel = match self.random.chance(15) {
            true => format!("{}{}{}", C::PREFIX, C::CROWD, self.random.below(12)),
            false => format!("{}{}", C::PREFIX, self.random.pick(C::CHANNELS)),
        };
        let pad = self.random.pick(&[0, 0, 0, 0, 20, 200, BYTES_MAX[1]]);
        let is_junk = self.random.chance(8);
        let is_on_replica = self.redis.stream.is_none() && self.random.chance(10);
        let payload = match is_junk {
            true => C::JUNK.to_vec(),
            false => C::payload(self.redis.end(), pad),
        };
        let item = Item {
            payload,
            channel,
            is_on_replica,
            is_junk,
            ..Item::default()
        };
        self.redis.add(item, self.now.unix_ms());
    }

    /// More than a client gets again.
    fn storm(&mut self) {
        if self.storm_bytes == 0 || self.random.chance(50) {
            return;
        }
        for _ in 0..15 {
            let item = Item {
                payload: C::payload(self.redis.end(), self.storm_bytes),
                channel: format!("{}{}", C::PREFIX, C::CHANNELS[0]),
                ..Item::default()
            };
            self.redis.add(item, self.now.unix_ms());
        }
    }

    /// Somebody publishes on the channel of the marks.
    fn spoil_marks(&mut self) {
        if self.random.chance(50) {
            let junk: &[u8] = self
                .random
                .pick(&[&b"junk"[..], b"", b"7f3a09c2b11e.01", b"\xff"]);
            return self.redis.publish_on_marks(junk.to_vec());
        }
        let links = self.instances.iter().flatten();
        let all_from: Option<usize> = links
            .filter_map(Instance::marks_from)
            .try_fold(0, |all, from| from.map(|from| from.max(all)));
        // A mark that comes to a connection a second time only: elsewhere it would be another mark.
        if let Some(all_from) = all_from {
            self.redis.repeat_mark(all_from);
        }
    }

    /// What happens to a stream beside new messages.
    fn spoil_stream(&mut self) {
        let now_ms = self.now.unix_ms();
        let stream = self.redis.stream.as_mut().expect("a stream");
        let behind_ms = self.random.pick(&[0, 0, 1_000, 20_000]);
        match self.random.below(10) {
            0..3 => stream.trim(self.random.pick(&[3, 10, 50, ALL])),
            3..5 => stream.delete(behind_ms),
            // An entry without a channel, of which no instance makes anything.
            5 => self.redis.add(Item::default(), now_ms),
            _ => {
                let lacks = self.random.below(6) as usize;
                self.redis.fail_over(lacks, behind_ms);
                self.instances.iter_mut().flatten().for_each(Instance::lose);
            }
        }
    }

    fn start(&mut self, index: usize) {
        let is_stream = self.redis.stream.is_some();
        let kept = match self.random.chance(15) {
            _ if is_stream => C::STREAM,
            true => self.random.pick(C::KEPT),
            false => C::KEPT[0],
        };
        let setup = Setup {
            kept: kept.iter().map(|name| (*name).to_owned()).collect(),
            bus_message_bytes_max: match self.storm_bytes {
                0 => self
                    .random
                    .pick(&[BYTES_MAX[0], BYTES_MAX[0], BYTES_MAX[1]]),
                _ => BYTES_MAX[0],
            },
            marks_channel: (!is_stream).then(|| self.redis.marks_channel.clone()),
            conflated: self.conflated.clone(),
        };
        let server = match self.random.below(100) {
            0..70 => Server::Master,
            70..90 => Server::Replica,
            90..95 => Server::Cluster,
            _ => Server::Old,
        };
        let mut limits = self.limits.clone();
        if self.random.chance(4) && C::OUTSIDE.is_none() && !is_stream {
            limits.history.keep_us = 0;
        }
        let seed = self.random.next();
        let instance = Instance::start(setup, limits, server, &self.redis, self.now, seed);
        self.instances[index] = Some(instance);
    }

    fn kill(&mut self, index: usize) {
        self.instances[index] = None;
        for client in 0..self.clients.len() {
            let at = self.clients[client].at.as_ref();
            if at.is_some_and(|at| at.instance == index) {
                self.cut(client);
            }
        }
    }

    fn stop(&mut self, index: usize) {
        let steps = 1 + self.random.below(5) as u32;
        if let Some(instance) = &mut self.instances[index]
            && instance.stops_in.is_none()
        {
            instance.stop(steps);
            collect(&mut self.clients, index, instance);
        }
    }

    /// Time passes, for all alike.
    fn pass(&mut self) {
        let us = match self.random.chance(3) {
            true => 3 * SECOND,
            false => 1 + self.random.below(SECOND / 4),
        };
        self.now = self.now.plus_us(us);
        for (index, instance) in self.instances.iter_mut().enumerate() {
            if let Some(instance) = instance {
                instance.world.advance(us);
                collect(&mut self.clients, index, instance);
            }
        }
    }

    /// What an instance does with its connection.
    fn relay(&mut self, index: usize) {
        let Some(instance) = &mut self.instances[index] else {
            return;
        };
        if let Some(steps) = &mut instance.stops_in {
            *steps -= 1;
            if *steps == 0 {
                return self.kill(index);
            }
        }
        let (random, redis, clients) = (&mut self.random, &mut self.redis, &mut self.clients);
        if !instance.is_connected() && random.chance(30) {
            instance.connect(redis);
        }
        instance.ask();
        for _ in 0..random.below(3) {
            instance.execute(redis, random);
        }
        let is_late = self.late == Some(index);
        if random.chance(if is_late { 10 } else { 75 }) {
            let count = random.pick(&[1, 3, 10, 40]);
            instance.hand_over(redis, count, random, |instance| {
                collect(clients, index, instance)
            });
        }
        if let Some(mark) = instance.due_mark() {
            redis.send_mark(mark.to_string());
        }
        collect(clients, index, instance);
    }

    fn client_acts(&mut self, index: usize) {
        let Some(at) = &self.clients[index].at else {
            if self.random.chance(25) {
                self.connect(index);
            }
            return;
        };
        let (instance, key, is_slow) = (at.instance, at.key, at.is_slow);
        let place = self.instances[instance].as_mut().expect("its instance");
        if is_slow && self.random.chance(50) {
            let room = self.random.pick(&[100, 1_000, 5_000, ALL]);
            place.world.open_window(key, room);
            collect(&mut self.clients, instance, place);
        }
        let count = self.random.pick(&[0, 1, 5, ALL]);
        let client = &mut self.clients[index];
        client.read::<C>(&self.redis, count);
        let is_closed = place.has_closed(key);
        // A quiet client hears of a loss within a second.
        if !is_closed && !place.is_notifying() {
            client.check_whole(&self.redis, place.tag());
        }
        match self.random.below(100) {
            _ if is_closed => self.cut(index),
            0..5 => self.cut(index),
            5..8 => self.adds_a_name(index),
            8..11 => self.clients[index].save(),
            _ => {}
        }
    }

    /// The connection is lost, with what the client has not read.
    fn cut(&mut self, index: usize) {
        let count = self.random.pick(&[0, 1, 2, 5, ALL]);
        let client = &mut self.clients[index];
        client.read::<C>(&self.redis, count);
        let Some(at) = client.at.take() else { return };
        self.before[index] = at.instance;
        if let Some(instance) = &mut self.instances[at.instance]
            && instance.world.net.sockets[&at.key].released.is_none()
        {
            instance.world.end(at.key, true);
        }
    }

    /// The client comes to some living instance, with the position that it has.
    fn connect(&mut self, index: usize) {
        let living = self.instances.iter().enumerate().filter(|(_, instance)| {
            let instance = instance.as_ref();
            instance.is_some_and(Instance::takes_clients)
        });
        let living: Vec<usize> = living.map(|(index, _)| index).collect();
        if living.is_empty() {
            return;
        }
        let at = self.random.pick(&living);
        // Only an answer that waits for nothing has a known moment.
        let waits = self.clients[index]
            .tracks
            .keys()
            .any(|name| C::OUTSIDE == Some(name));
        let is_slow = self.random.chance(25) && !waits;
        let room = if is_slow { 200 } else { ALL };
        let instance = self.instances[at].as_mut().expect("it lives");
        let key = instance.accept(room);
        let client = &mut self.clients[index];
        if self.random.chance(6) {
            client.restore();
        }
        client.connected(at, key, is_slow);
        let mut since = client.pos.clone();
        if self.random.chance(3) && since.is_some() {
            since = Some(
                self.random
                    .pick(&["", "junk", "m1.7f3a09c2b11e.0.0"])
                    .to_owned(),
            );
        }
        let granted: Vec<String> = client.tracks.keys().cloned().collect();
        if !granted.is_empty() {
            let recovered = client.met.recovered;
            self.asks(index, granted, since);
            let is_elsewhere = self.before[index] != at && self.before[index] != usize::MAX;
            self.clients[index].read::<C>(&self.redis, 2);
            if is_elsewhere {
                self.elsewhere += self.clients[index].met.recovered - recovered;
            }
        }
        if self.clients[index].tracks.is_empty() || self.random.chance(20) {
            self.adds_a_name(index);
        }
    }

    /// A name that the client has not held.
    fn adds_a_name(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.waits() || client.tracks.len() >= 4 {
            return;
        }
        let is_slow = client.at.as_ref().is_some_and(|at| at.is_slow);
        let name = match C::OUTSIDE {
            // The moment of its answer is not known to a slow client: see `connect`.
            Some(outside) if self.random.chance(5) && !is_slow => outside,
            _ => self.random.pick(C::NAMES),
        };
        let name = format!("{}{name}", C::PREFIX);
        if !client.tracks.contains_key(&name) {
            self.asks(index, vec![name], None);
        }
    }

    fn asks(&mut self, index: usize, names: Vec<String>, since: Option<String>) {
        let client = &mut self.clients[index];
        let at = client.at.as_ref().expect("a connection");
        let (key, at) = (at.key, at.instance);
        let instance = self.instances[at].as_mut().expect("its instance");
        client.asks(&names, since.is_some(), instance.tag());
        let request = C::subscribe(&names, since.as_deref());
        instance.world.text(key, &request);
        assert!(
            instance.world.net.sockets[&key].unread.is_empty(),
            "not read at once"
        );
        collect(&mut self.clients, at, instance);
    }

    /// Everything comes to rest, and everybody has everything.
    fn finish(&mut self) {
        self.late = None;
        // A backlog may come one entry after the other, and each step has its chance: at rest is what nothing has moved for long.
        let mut at_rest = 0;
        for passes in 1.. {
            assert!(passes < 10_000, "no rest");
            let before = self.progress();
            self.pass();
            for index in 0..self.instances.len() {
                self.relay(index);
            }
            let is_notifying = self.instances.iter().flatten().any(Instance::is_notifying);
            at_rest = if is_notifying || self.progress() != before {
                0
            } else {
                at_rest + 1
            };
            if at_rest >= 30 {
                break;
            }
        }
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if let Some(at) = &client.at
                && let Some(instance) = &mut self.instances[at.instance]
            {
                let (key, at) = (at.key, at.instance);
                instance.world.open_window(key, ALL);
                collect(&mut self.clients, at, instance);
                let client = &mut self.clients[index];
                client.read::<C>(&self.redis, ALL);
                if !instance.has_closed(key) {
                    client.check_whole(&self.redis, instance.tag());
                }
            }
        }
    }

    /// How far each instance has come; `None`: it is not there.
    fn progress(&self) -> Vec<Option<usize>> {
        let instances = self.instances.iter();
        instances
            .map(|instance| Some(instance.as_ref()?.tag().end))
            .collect()
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts {
            elsewhere: self.elsewhere,
            ..Counts::default()
        };
        for met in self.clients.iter().map(|client| &client.met) {
            counts.recovered += met.recovered;
            if self.redis.stream.is_some() {
                counts.of_streams += met.recovered;
            }
            counts.replayed += met.replayed;
            counts.live += met.live;
            counts.losses_told += met.losses_told;
            for (why, count) in &met.why {
                *counts.why.entry(why.clone()).or_default() += count;
            }
        }
        counts
    }
}

/// Takes what has come to the clients of an instance.
fn collect<C: Contract>(clients: &mut [Client], index: usize, instance: &mut Instance<C>) {
    let tag = instance.tag();
    for client in clients {
        if let Some(at) = client.at.as_ref().filter(|at| at.instance == index) {
            let texts = instance.world.texts(at.key);
            client.came(texts, tag);
        }
    }
}
