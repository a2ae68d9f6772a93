//! One run: a hub with a toy gateway, its clients, a bus, and a clock, all moved by one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::sync::Arc;

use weirgate_core::{CloseReason, Frame, Gateway, Limits, PhaseKind, SessionKey};

use super::broker::Broker;
use super::choices::{self, SECOND};
use super::neighbours::Neighbours;
use crate::world::ledger::{Bounds, Shared};
use crate::world::state::State;
use crate::world::toys::{Devices, In, Numbered, Out, Symbols};
use crate::world::{Random, World};

/// A client that reads all that comes.
pub(crate) const ALL: usize = usize::MAX / 2;

/// What the runs of all seeds have met.
pub(crate) type Coverage = BTreeSet<String>;

/// A gateway that can be simulated, and what its clients say.
pub(crate) trait Toy: Gateway<In = In, Out = Out> + Default {
    /// Its messages have conflation keys.
    const KEYED: bool = false;
    /// It stops reading clients.
    const PAUSES: bool = false;
    fn ledger(&self) -> Shared;
    fn chatter(random: &mut Random, number: u64) -> String;
    fn topic(random: &mut Random) -> String;
}

impl Toy for Numbered {
    fn ledger(&self) -> Shared {
        Shared::clone(&self.told.ledger)
    }

    fn chatter(random: &mut Random, _: u64) -> String {
        let name = random.pick(&["a", "ab", "b", "a*", "*"]);
        match random.below(20) {
            0..14 => format!("join {name}"),
            14..17 => format!("leave {name}"),
            17 => "bye now".to_owned(),
            _ => "nonsense".to_owned(),
        }
    }

    fn topic(random: &mut Random) -> String {
        random.pick(&["a", "ab", "b"]).to_owned()
    }
}

impl Toy for Symbols {
    fn ledger(&self) -> Shared {
        Shared::clone(&self.told.ledger)
    }

    fn chatter(random: &mut Random, _: u64) -> String {
        let symbols: Vec<String> = (0..random.between(1, 4))
            .map(|_| Self::topic(random))
            .collect();
        let verb = random.pick(&["sub", "sub", "sub", "unsub"]);
        format!("{verb} {}", symbols.join(","))
    }

    fn topic(random: &mut Random) -> String {
        format!("S{}", random.below(8))
    }
}

impl Toy for Devices {
    const PAUSES: bool = true;

    fn ledger(&self) -> Shared {
        Shared::clone(&self.told.ledger)
    }

    fn chatter(random: &mut Random, number: u64) -> String {
        match random.below(3) {
            0 => format!("device {}", Self::topic(random)),
            _ => format!("q{number}"),
        }
    }

    fn topic(random: &mut Random) -> String {
        format!("d{}", random.below(5))
    }
}

impl Toy for State {
    const KEYED: bool = true;

    fn ledger(&self) -> Shared {
        Shared::clone(&self.told.ledger)
    }

    fn chatter(random: &mut Random, number: u64) -> String {
        match random.below(20) {
            0..6 => "join other".to_owned(),
            6..9 => "leave other".to_owned(),
            9 => "leave levels".to_owned(),
            10..12 => "join levels".to_owned(),
            12 => "bye now".to_owned(),
            _ => format!("ask{number}"),
        }
    }

    fn topic(random: &mut Random) -> String {
        let topics = ["levels/1", "levels/2", "other/11", "other/12", "other/13"];
        random.pick(&topics).to_owned()
    }
}

/// What a client did, and what is known of its server's behaviour towards it.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// The status that its head deserves, where it is not 101.
    pub(crate) status: Option<u16>,
    pub(crate) path: &'static str,
    pub(crate) deflate: bool,
    /// Wants messages that refer to no earlier ones.
    pub(crate) keeps_no_window: bool,
    /// Answers no ping.
    pub(crate) silent: bool,
    /// Has read everything all its life.
    pub(crate) always_read: bool,
    pub(crate) accepted_at: u64,
    /// The phase that the core says, whether it takes data, and since when.
    pub(crate) stands: Option<(PhaseKind, bool)>,
    pub(crate) since: u64,
    pub(crate) pings_seen: usize,
    pub(crate) pings_answered: usize,
    pub(crate) ping_at: u64,
    pub(crate) pong_at: u64,
    /// It could not be written to, or was not read, when last looked at.
    pub(crate) hindered: bool,
    pub(crate) hindered_until: u64,
    pub(crate) close_sent: Option<u16>,
    pub(crate) violated: Option<(CloseReason, u16)>,
    pub(crate) ended: bool,
    /// A write to it fails.
    pub(crate) broken: bool,
    /// The shell has ended it.
    pub(crate) tls_failed: Option<CloseReason>,
    /// An operator has cut it off.
    pub(crate) cut_off: bool,
    /// Has its place among the connections of its address.
    pub(crate) placed: bool,
}

/// See the module.
pub(crate) struct Run<T: Toy> {
    pub(crate) world: World<T>,
    pub(crate) random: Random,
    pub(crate) limits: Limits,
    pub(crate) neighbours: Neighbours,
    pub(crate) ledger: Shared,
    pub(crate) peers: BTreeMap<SessionKey, Peer>,
    /// Sockets that were not released.
    pub(crate) live: Vec<SessionKey>,
    pub(crate) gone: Vec<SessionKey>,
    pub(crate) slots: BTreeSet<u32>,
    pub(crate) coverage: Coverage,
    pub(crate) broker: Option<Broker>,
    /// Frames on their way from another thread: they wait in no queue.
    pub(crate) outside: Vec<Arc<Frame>>,
    /// Clients at once, about.
    pub(crate) crowd: usize,
    pub(crate) number: u64,
    /// Ends by reason, as gateways were told.
    pub(crate) ends: BTreeMap<u8, u64>,
    /// When a stop begins to close clients.
    pub(crate) draining: Option<u64>,
}

/// What is left of a run.
pub(crate) struct Outcome {
    pub(crate) coverage: Coverage,
    /// Of every byte that every client got.
    pub(crate) traffic: u64,
    pub(crate) clients: usize,
    pub(crate) messages: u64,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64) -> Outcome {
    match seed % 4 {
        0 => Run::<Numbered>::new(seed).play(),
        1 => Run::<Symbols>::new(seed).play(),
        2 => Run::<Devices>::new(seed).play(),
        _ => Run::<State>::new(seed).play(),
    }
}

impl<T: Toy> Run<T> {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let limits = choices::limits(&mut random);
        let gateway = T::default();
        let ledger = gateway.ledger();
        ledger.borrow_mut().bounds = Some(Bounds {
            soft_bytes: limits.send_queue.soft_bytes,
            hard_bytes: limits.send_queue.hard_bytes,
            conflate_after_us: limits.send_queue.conflate_after_us,
        });
        ledger.borrow_mut().limits_frames = limits.frame_bytes_max < u64::MAX;
        let mut world = World::new(limits.clone(), gateway, seed);
        world.handed_over = Some(Vec::new());
        world.net.ledger = Some(Shared::clone(&ledger));
        let broker = T::KEYED.then(|| Broker::new(seed % 8 == 3, world.frame_bytes.clone()));
        let crowd = match seed % 50 {
            // More than one batch of writes.
            7..11 => 320,
            _ => random.between(4, 30) as usize,
        };
        Self {
            neighbours: Neighbours::new(limits.per_ip, world.now.mono_us),
            world,
            random,
            limits,
            ledger,
            peers: BTreeMap::new(),
            live: Vec::new(),
            gone: Vec::new(),
            slots: BTreeSet::new(),
            coverage: Coverage::new(),
            broker,
            outside: Vec::new(),
            crowd,
            number: 0,
            ends: BTreeMap::new(),
            draining: None,
        }
    }

    fn play(mut self) -> Outcome {
        // All of a large crowd in one turn.
        self.world.held = self.crowd > 300;
        for _ in 0..self.crowd {
            self.connect();
        }
        self.world.held = false;
        self.world.settle();
        self.check();
        let steps = self.random.between(150, 450);
        let drain_at = match self.random.chance(40) {
            true => self.random.between(steps / 2, steps),
            false => steps + 1,
        };
        let holds = self.random.chance(50);
        for step in 0..steps {
            if step == drain_at {
                self.drain();
            }
            if self.world.held {
                self.world.held = self.random.chance(75);
            } else if holds {
                self.world.held = self.random.chance(15);
            }
            self.world.settle();
            // Who ended here ended as the sockets are now.
            self.check();
            self.act();
            self.world.settle();
            self.check();
            if step % 8 == 0 {
                self.check_all();
            }
        }
        self.finish();
        self.cover();
        Outcome {
            traffic: self.world.net.hash.finish(),
            clients: self.peers.len(),
            messages: self.world.hub.stats().messages_sent,
            coverage: self.end(),
        }
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..6 => self.connect(),
            6..22 => self.chat(),
            22..48 => self.publish(),
            48..65 => self.read(),
            65 => self.hold_outside(),
            66..70 => self.stop_reading(),
            70..76 => self.ping(),
            76 => self.flood(),
            77 => self.close(),
            78 => self.violate(),
            79 => self.cut(),
            80 => self.stale_events(),
            81 if self.random.chance(80) => self.break_socket(),
            81 => self.break_tls(),
            82 => self.fall_silent(),
            83 if self.random.chance(50) => self.cut_off(),
            83 => self.spurious_writable(),
            84..88 => self.answer_calls(),
            88..91 => self.bulk(),
            91..95 => self.pass(SECOND / 20),
            95 if self.random.chance(25) => self.storm(),
            95 => self.freeze(),
            96..99 => self.pass(2 * SECOND),
            _ => self.pass(25 * SECOND),
        }
    }

    pub(crate) fn drain(&mut self) {
        self.world.held = false;
        self.world.settle();
        let plan = choices::drain_plan(&mut self.random);
        let (delay, spread) = (plan.delay_us > 0, plan.spread_us > 0);
        self.coverage
            .insert(format!("drain delay {delay} spread {spread}"));
        self.draining = Some(self.world.now.mono_us + plan.delay_us);
        self.world.hub.drain(self.world.now, plan);
        self.world.settle();
        self.check();
    }

    /// Everyone reads, or nobody does any more; then a stop, and nothing may be left.
    fn finish(&mut self) {
        self.world.held = false;
        self.world.settle();
        self.check();
        if self.random.chance(60) {
            for key in self.live.clone() {
                self.world.open_window(key, ALL);
            }
        }
        self.check();
        self.check_all();
        if !self.world.hub.is_draining() {
            self.drain();
        }
        let limits = &self.limits;
        let longest = 11 * SECOND + limits.handshake_us + 2 * limits.close_timeout_us + 2;
        let until = self.world.now.mono_us + longest;
        self.pass_to(until);
        assert_eq!(self.live, [], "sockets are left");
        for call in std::mem::take(&mut self.world.outputs.calls) {
            assert!(!self.world.hub.is_drained(), "a call is under way");
            self.world.hub.handle_input(self.world.now, call.time_out());
        }
        assert!(self.world.hub.is_drained());
        self.check_all();
    }

    /// The end of the hub itself.
    fn end(mut self) -> Coverage {
        let stats = self.world.hub.stats();
        assert_eq!((stats.heads, stats.open, stats.closing), (0, 0, 0));
        assert_eq!((stats.messages_waiting, stats.send_queue_bytes), (0, 0));
        let ends: u64 = stats.closes.iter().sum();
        let begun = stats.accepted + stats.returned;
        assert_eq!(ends + stats.to_http, begun, "one reason each");
        self.world.handed_over = None;
        assert_eq!(self.world.hub.core().connections(), 0);
        let alive = self.world.frame_bytes.clone();
        drop((self.broker, self.outside));
        drop(self.world.hub);
        assert_eq!(alive.alive(), 0, "frames outlive everyone");
        self.coverage
    }

    fn cover(&mut self) {
        let stats = self.world.hub.stats();
        for reason in CloseReason::ALL {
            if stats.closes_for(reason) > 0 {
                self.coverage.insert(format!("close {}", reason.label()));
            }
        }
        let met = [
            ("conflated", stats.messages_conflated),
            ("shed", stats.messages_shed),
            ("to http", stats.to_http),
            ("back from http", stats.returned),
            (
                "a batch over 128",
                u64::from(self.world.net.largest_batch >= 128),
            ),
            ("resumed", self.world.resumed),
        ];
        for (what, count) in met {
            if count > 0 {
                self.coverage.insert(what.to_owned());
            }
        }
        let memory = &self.world.memory;
        let met = [
            ("frame memory: several went together", memory.together),
            ("frame memory: a larger queue was spared", memory.spared),
            ("frame memory: a walk in slices", memory.in_slices),
        ];
        for (what, _) in met.into_iter().filter(|(_, met)| *met) {
            self.coverage.insert(what.to_owned());
        }
        for place in &self.world.net.stops {
            self.coverage.insert(format!("stop {place:?}"));
        }
    }
}
