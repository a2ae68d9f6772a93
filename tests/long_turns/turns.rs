//! The turns of the loop, without sockets: the same parts in the same order and with the same times as in the reactor,
//! and the CPU time of each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;

use rustix::time::{ClockId, clock_gettime};
use weirgate_core::{
    Core, Effect, FrameBytes, Gateway, Hub, Limits, PeerEnd, Search, SessionKey, Transmit, Write,
};
use weirgate_server::run::CommonSettings;
use weirgate_wire::admission::{Bill, Transport};
use weirgate_wire::base::Now;

use crate::world::client::request;

/// What is read of a socket at once, and in a turn.
const READ_BYTES_MAX: usize = 64 * 1024;

/// In a request: the first position of the feed. A feed without a bus makes its positions itself.
pub(crate) const FIRST_POSITION: &str = "FIRST_POSITION";

/// CPU time of this thread, microseconds.
pub(crate) fn cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// What a gateway has beside its hub: a feed, a bus, services.
pub(crate) trait Contract: Sized {
    type Gateway: Gateway;
    /// Of the bus or of a service.
    type Event;

    /// `kind`: which settings.
    fn new(kind: u64, frame_bytes: &FrameBytes) -> (Self, Self::Gateway, Limits);
    fn target(flavour: u8) -> String;
    fn text(request: &super::acts::Request) -> String;
    /// What happens outside.
    fn outside(
        &mut self,
        outside: &super::acts::Outside,
        outputs: &mut Vec<<Self::Gateway as Gateway>::Out>,
        now: Now,
    ) -> Vec<Self::Event>;
    /// What the thread of the source does with an event, before the loop gets it.
    fn read(&self, event: Self::Event) -> Self::Event {
        event
    }
    fn take(&mut self, hub: &mut Hub<Self::Gateway>, now: Now, event: Self::Event);
    /// Gives clients other rights, if the gateway has any.
    fn change_table(&mut self, hub: &mut Hub<Self::Gateway>, now: Now) {
        let _ = (hub, now);
    }
}

struct Client {
    key: SessionKey,
    unread: VecDeque<u8>,
    bill: Bill,
    is_costly: bool,
    has_ended: bool,
}

impl Client {
    /// Charges the client for the time since `begun_us` of CPU time.
    fn charge(&mut self, now: Now, begun_us: u64) {
        let took_us = cpu_us() - begun_us;
        self.is_costly = self.bill.add(now.mono_us, took_us);
    }
}

/// Takes as many bytes as it has room for.
#[derive(Default)]
struct Kernel {
    rooms: BTreeMap<SessionKey, usize>,
    written: usize,
}

impl Transmit for Kernel {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        for write in batch {
            let bytes: usize = write.slices.iter().map(|slice| slice.len()).sum();
            let room = self.rooms.get_mut(&write.key).expect("a socket");
            let taken = bytes.min(*room);
            *room -= taken;
            self.written += taken;
            wrote.push(match taken {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(taken),
            });
        }
    }
}

/// The longest so far, microseconds of CPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Longest {
    pub(crate) us: u64,
    /// What it was spent on, the longest part first.
    parts: Vec<(&'static str, u64)>,
    /// When: the number of the turn.
    turn: usize,
}

impl fmt::Display for Longest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { us, parts, turn } = self;
        write!(f, "turn {turn} costs {us} us:")?;
        for (part, part_us) in parts.iter().filter(|(_, part_us)| 10 * part_us > *us) {
            write!(f, " {part} {part_us};")?;
        }
        Ok(())
    }
}

pub(crate) struct Turns<C: Contract> {
    contract: C,
    hub: Hub<C::Gateway>,
    kernel: Kernel,
    clients: Vec<Client>,
    outside: VecDeque<C::Event>,
    outputs: Vec<<C::Gateway as Gateway>::Out>,
    now: Now,
    parts: Vec<(&'static str, u64)>,
    turns: usize,
    next: usize,
    is_looking: bool,
    first_position: Option<String>,
    pub(crate) longest: Longest,
}

impl<C: Contract> Turns<C> {
    pub(crate) fn new(kind: u64) -> Self {
        let frame_bytes = FrameBytes::default();
        let (contract, gateway, limits) = C::new(kind, &frame_bytes);
        let mut hub = Hub::new(Core::new(limits, frame_bytes, 1), gateway);
        hub.set_turn_clock(cpu_us);
        Self {
            contract,
            hub,
            kernel: Kernel::default(),
            clients: Vec::new(),
            outside: VecDeque::new(),
            outputs: Vec::new(),
            now: Now {
                mono_us: 1_000_000,
                unix_us: 1_715_629_300_000 * 1_000,
            },
            parts: Vec::new(),
            turns: 0,
            next: 0,
            is_looking: false,
            first_position: None,
            longest: Longest::default(),
        }
    }

    // ---- what happens

    /// A client of the address that its `flavour` says connects.
    pub(crate) fn connect(&mut self, flavour: u8) {
        let peer = SocketAddr::from(([127, 0, 0, 1 + flavour % 2], 4_000));
        let key = self.hub.handle_accepted(self.now, peer, Transport::Plain);
        self.kernel.rooms.insert(key, usize::MAX);
        let deflate = (flavour & 4 != 0).then_some(15);
        let head = match flavour & 24 == 24 {
            true => {
                let target = C::target(flavour);
                format!("GET {target} HTTP/1.1\r\nHost: sim\r\nAccept: text/event-stream\r\n\r\n")
                    .into_bytes()
            }
            false => request(&C::target(flavour), deflate),
        };
        self.clients.push(Client {
            key,
            unread: head.into(),
            bill: Bill::default(),
            is_costly: false,
            has_ended: false,
        });
    }

    /// The text of a request, with the [`FIRST_POSITION`].
    pub(crate) fn with_position(&self, text: String) -> String {
        match &self.first_position {
            Some(position) => text.replace(FIRST_POSITION, position),
            None => text,
        }
    }

    pub(crate) fn say(&mut self, client: usize, bytes: &[u8]) {
        if let Some(client) = self.client(client) {
            client.unread.extend(bytes);
        }
    }

    pub(crate) fn ends(&mut self, client: usize) {
        if let Some(client) = self.client(client) {
            client.has_ended = true;
        }
    }

    /// The kernel takes `room` bytes of a client from here on.
    pub(crate) fn set_room(&mut self, client: usize, room: usize) {
        let Some(client) = self.client(client) else {
            return;
        };
        let key = client.key;
        self.kernel.rooms.insert(key, room);
        if room > 0 {
            self.hub.handle_writable(self.now, key);
        }
    }

    pub(crate) fn outside(&mut self, outside: &super::acts::Outside) {
        let events = self.contract.outside(outside, &mut self.outputs, self.now);
        let read = events.into_iter().map(|event| self.contract.read(event));
        self.outside.extend(read);
    }

    pub(crate) fn change_table(&mut self) {
        self.contract.change_table(&mut self.hub, self.now);
    }

    /// An operator looks for names, and at all clients.
    pub(crate) fn look(&mut self) {
        self.is_looking = true;
        self.hub.search(Search::Names("1".to_owned()));
    }

    pub(crate) fn pass(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
    }

    fn client(&mut self, client: usize) -> Option<&mut Client> {
        let count = self.clients.len();
        self.clients.get_mut(client % count.max(1))
    }

    // ---- a turn

    /// Returns whether there was anything to do.
    pub(crate) fn turn(&mut self) -> bool {
        let budgets = CommonSettings::default().reactor.budgets;
        self.turns += 1;
        self.parts.clear();
        self.hub.begin_turn_at(cpu_us());
        let mut any = self.part("reading", |turns| turns.read(budgets.read_us, false));
        any |= self.take_outside(budgets.bus_us);
        any |= self.part("the flush", |turns| {
            turns.hub.begin_part(budgets.flush_us);
            turns.hub.flush(turns.now, &mut turns.kernel)
        });
        any |= self.part("shares and costly clients", |turns| {
            turns.read(budgets.read_us, true)
        });
        any |= self.flush_little(budgets.flush_little_us);
        let is_due = self.hub.poll_timeout();
        let is_due = is_due.is_some_and(|at| at <= self.now.mono_us);
        if is_due {
            self.part("deadlines", |turns| turns.hub.handle_timeout(turns.now));
            any |= self.flush_little(budgets.flush_little_us);
        }
        any |= self.part("effects", |turns| turns.effects(budgets.effects_us));
        if self.is_looking {
            any = true;
            self.is_looking = self.part("a survey", |turns| turns.hub.survey(turns.now).is_none());
        }
        while let Some(output) = self.hub.poll_output() {
            self.outputs.push(output);
        }
        self.note();
        if self.first_position.is_none() {
            let position = self.hub.core().position();
            self.first_position = position.map(|position| position.to_string());
        }
        self.now = self.now.plus_us(1_000);
        any | is_due
    }

    fn part<R>(&mut self, name: &'static str, run: impl FnOnce(&mut Self) -> R) -> R {
        let begun = cpu_us();
        let done = run(self);
        self.parts.push((name, cpu_us() - begun));
        done
    }

    fn note(&mut self) {
        let us = self.parts.iter().map(|(_, us)| us).sum();
        if us > self.longest.us {
            let mut parts = self.parts.clone();
            parts.sort_by_key(|(_, part_us)| Reverse(*part_us));
            let turn = self.turns;
            self.longest = Longest { us, parts, turn };
        }
    }

    fn flush_little(&mut self, flush_us: u64) -> bool {
        self.part("the flush of little", |turns| {
            turns.hub.begin_later_part(flush_us);
            turns.hub.flush_little(turns.now, &mut turns.kernel)
        })
    }

    /// Events that come from outside are not a client's doing, but what one of them costs is.
    fn take_outside(&mut self, bus_us: u64) -> bool {
        let mut longest = 0;
        self.hub.begin_part(bus_us);
        let events = self.outside.len();
        while self.hub.takes_publications()
            && let Some(event) = self.outside.pop_front()
        {
            let begun = cpu_us();
            self.contract.take(&mut self.hub, self.now, event);
            longest = longest.max(cpu_us() - begun);
            if !self.hub.has_time() {
                break;
            }
        }
        self.parts.push(("one event", longest));
        events > 0
    }

    /// Reads clients that cost little, or the others and who waits for another share.
    fn read(&mut self, read_us: u64, costly: bool) -> bool {
        match costly {
            true => self.hub.begin_later_part(read_us),
            false => self.hub.begin_part(read_us),
        }
        let mut any = false;
        if costly {
            for _ in 0..self.hub.waiting_shares() {
                any = true;
                let begun = cpu_us();
                let key = self.hub.handle_next_share(self.now);
                let client = self.clients.iter_mut().find(|of| Some(of.key) == key);
                if let Some(client) = client {
                    client.charge(self.now, begun);
                }
                if !self.hub.has_time() {
                    return true;
                }
            }
            while self.hub.waiting_for_room() > 0 {
                if self.hub.handle_next_room(self.now).is_none() {
                    break;
                }
                any = true;
            }
        }
        for _ in 0..self.clients.len() {
            self.next = (self.next + 1) % self.clients.len();
            if self.clients[self.next].is_costly == costly && self.read_one(self.next) {
                any = true;
                if !self.hub.has_time() {
                    return true;
                }
            }
        }
        any
    }

    /// Reads a client's share. Returns false if there was nothing to read.
    fn read_one(&mut self, at: usize) -> bool {
        let (begun, key) = (cpu_us(), self.clients[at].key);
        let mut bytes = 0;
        while !self.clients[at].unread.is_empty() && self.hub.request_read(key) {
            if bytes == READ_BYTES_MAX || bytes > 0 && !self.hub.has_share() {
                break;
            }
            let unread = &mut self.clients[at].unread;
            let room = (READ_BYTES_MAX - bytes).min(self.hub.read_bytes_max(key));
            let some: Vec<u8> = unread.drain(..room.min(unread.len())).collect();
            bytes += some.len();
            self.hub.handle_bytes(self.now, key, &some);
        }
        let client = &mut self.clients[at];
        if bytes > 0 {
            client.charge(self.now, begun);
        }
        if client.has_ended && client.unread.is_empty() {
            client.has_ended = false;
            self.hub.handle_ended(self.now, key, PeerEnd::Failed);
            return true;
        }
        bytes > 0
    }

    fn effects(&mut self, effects_us: u64) -> bool {
        self.hub.begin_later_part(effects_us);
        let mut any = false;
        while let Some(effect) = self.hub.poll_effect() {
            any = true;
            match effect {
                Effect::Release { key, .. } | Effect::ToHttp { key, .. } => {
                    self.kernel.rooms.remove(&key);
                    self.clients.retain(|client| client.key != key);
                    self.next = 0;
                    self.hub.handle_released(key);
                }
                Effect::HalfClose(key) => self.hub.handle_ended(self.now, key, PeerEnd::Closed),
                Effect::ReadLast(key) => self.hub.handle_last_read(self.now, key),
                Effect::ReadOn(_) => {}
            }
            if !self.hub.has_time() {
                break;
            }
        }
        any
    }
}
