//! Reading clients: the cheap ones before the first flush of a turn, the others after it, each within a time of its own.
//!
//! What a client's messages cost shows only afterwards, so the time that a client's reads took lately predicts the cost
//! of the next. After the first flush these take turns: clients that have sent nothing yet, costly clients, clients
//! that used their share of an earlier turn, and clients whose message has room again. Within each of these kinds,
//! client addresses take turns.

use std::io;

use super::{Cost, Reactor, Unread};
use crate::telemetry::Budget;
use weirgate_core::{CloseReason, Feed, Gateway, PeerEnd, PhaseKind, SessionKey, SocketEnd};
use weirgate_runtime::Clock;
use weirgate_wire::base::Now;

/// A read that takes less time was not interrupted by another program: the kernel gives each some milliseconds.
const INTERRUPTED_US_MIN: u64 = 200;

/// The clients that are read before the first flush of a turn, one of each in turns.
const CHEAP: [Cost; 2] = [Cost::Little, Cost::Head];

/// The kinds of clients that are read after the flush.
const COSTLY: [Costly; 4] = [
    Costly::Share,
    Costly::Room,
    Costly::Socket(Cost::Unknown),
    Costly::Socket(Cost::Much),
];

#[derive(Clone, Copy, Debug)]
enum Costly {
    /// A client that used its share of an earlier turn, with more input read already.
    Share,
    /// A client whose message found no room in the gateway.
    Room,
    Socket(Cost),
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Reads the cheap clients.
    pub(super) fn read_cheap(&mut self, now: Now) {
        let mut left = CHEAP.map(|cost| self.sockets.readable(cost));
        if left == [0; CHEAP.len()] {
            return;
        }
        let mut at_us = self.clock.mono_us();
        self.hub.begin_part_at(at_us, self.settings.budgets.read_us);
        // Reading the CPU time is a system call. It is made only while costly clients wait: a client that is wrongly
        // taken for costly would wait behind them.
        let costly = self.sockets.readable(Cost::Much);
        self.reading_from = (costly > 0).then(|| ThreadTimes::at(at_us));
        while left != [0; CHEAP.len()] {
            for (cost, left) in CHEAP.into_iter().zip(&mut left) {
                if *left > 0 {
                    *left -= 1;
                    at_us = self.read_next(now, cost, at_us);
                }
            }
            if left != [0; CHEAP.len()] && self.check_spent(at_us) {
                return;
            }
        }
    }

    /// Reads the other kinds, each client at most once, beginning with another kind in each turn.
    pub(super) fn read_costly(&mut self) {
        let mut left = COSTLY.map(|kind| match kind {
            Costly::Share => self.hub.waiting_shares(),
            Costly::Room => self.hub.waiting_for_room(),
            Costly::Socket(cost) => self.sockets.readable(cost),
        });
        if left == [0; COSTLY.len()] {
            return;
        }
        let now = self.clock.now();
        let mut at_us = now.mono_us;
        self.hub.begin_later_part(self.settings.budgets.read_us);
        self.first_costly = (self.first_costly + 1) % COSTLY.len();
        let mut at = self.first_costly;
        while left != [0; COSTLY.len()] {
            if left[at] > 0 {
                left[at] -= 1;
                at_us = match COSTLY[at] {
                    Costly::Share => self.give_share(now, at_us),
                    Costly::Room => match self.hub.handle_next_room(now) {
                        Some(key) => self.read_key(now, key, Cost::Much, at_us),
                        // The gateway has room for none of the waiting clients now.
                        None => {
                            left[at] = 0;
                            at_us
                        }
                    },
                    Costly::Socket(cost) => self.read_next(now, cost, at_us),
                };
                if left != [0; COSTLY.len()] && self.check_spent(at_us) {
                    return;
                }
            }
            at = (at + 1) % COSTLY.len();
        }
    }

    /// Gives the next share. `began_us`: the present time; returns the time afterwards.
    fn give_share(&mut self, now: Now, began_us: u64) -> u64 {
        let key = self.hub.handle_next_share(now);
        let ended_us = self.clock.mono_us();
        let took_us = ended_us.saturating_sub(began_us);
        if let Some(key) = key
            && self.sockets.charge(key, ended_us, took_us)
        {
            self.sockets.set_cost(key, Cost::Much);
        }
        ended_us
    }

    /// Counts the budget if it is used up. Returns whether it is, and the time for reading is over.
    fn check_spent(&mut self, now_us: u64) -> bool {
        let is_spent = !self.hub.has_time_at(now_us);
        if is_spent {
            self.report.count_spent(Budget::Reads);
        }
        is_spent
    }

    /// Reads the next socket of a list. `began_us`: the present time; returns the time afterwards.
    fn read_next(&mut self, now: Now, cost: Cost, began_us: u64) -> u64 {
        match self.sockets.next_readable(cost) {
            Some(key) => self.read_key(now, key, cost, began_us),
            None => began_us,
        }
    }

    /// Reads a socket; puts the socket back in a list if more may be unread. `listed`: the cost of the sockets among
    /// which this one is read. `began_us`: the present time; returns the time afterwards.
    fn read_key(&mut self, now: Now, key: SessionKey, listed: Cost, began_us: u64) -> u64 {
        let is_hoped = self.sockets.unread(key) == Unread::Hoped;
        let was_open = self.hub.core().phase(key) == Some(PhaseKind::Open);
        let waiting = self.hub.waiting_shares();
        let (bytes, more) = self.read_one(now, key);
        if is_hoped {
            self.first_reads.note_try(bytes);
        }
        if self.hub.waiting_shares() > waiting {
            self.report.count_spent(Budget::Messages);
        }
        let ended_us = self.clock.mono_us();
        if bytes > 0 {
            let took_us = self.read_us(listed, began_us, ended_us);
            let is_costly = self.sockets.charge(key, ended_us, took_us);
            let cost = match self.hub.core().phase(key) {
                Some(PhaseKind::Head) => Cost::Head,
                _ if is_costly => Cost::Much,
                _ if was_open => Cost::Little,
                _ => Cost::Unknown,
            };
            // It was not open, and its head is not awaited any more: the head was read.
            if !was_open && cost != Cost::Head {
                self.head_rate.note_read(ended_us);
            }
            self.sockets.set_cost(key, cost);
        }
        if more {
            self.read_on(key);
        }
        // The peer may have ended before the socket was paused.
        self.check_end(now, key);
        ended_us
    }

    /// The time that a read took. For a client that has cost little, while costly ones wait, only the loop's own time
    /// counts: on a busy machine the kernel runs other programs in the middle of a read, and the client would wait
    /// behind all costly ones for that.
    fn read_us(&mut self, listed: Cost, began_us: u64, ended_us: u64) -> u64 {
        let took_us = ended_us.saturating_sub(began_us);
        let from = self.reading_from.filter(|_| listed == Cost::Little);
        let Some(from) = from.filter(|_| took_us > INTERRUPTED_US_MIN) else {
            return took_us;
        };
        let ended = ThreadTimes::at(ended_us);
        self.reading_from = Some(ended);
        own_us(took_us, from, ended)
    }

    /// Reads the socket of a client whose time for the request head is over, and then lets the hub judge the client.
    pub(super) fn read_last(&mut self, key: SessionKey) {
        let now = self.clock.now();
        self.note_unread(key, Unread::Bytes);
        self.read_key(now, key, Cost::Head, now.mono_us);
        self.hub.handle_last_read(now, key);
    }

    /// Reads a socket. Returns the number of bytes read, and whether the client has had its share while bytes may be
    /// unread.
    fn read_one(&mut self, now: Now, key: SessionKey) -> (usize, bool) {
        let bytes_max = self.settings.budgets.read_bytes_max;
        let mut bytes = 0;
        while self.sockets.unread(key) != Unread::Nothing && self.hub.request_read(key) {
            if bytes == bytes_max || bytes > 0 && !self.hub.has_share() {
                return (bytes, true);
            }
            let room = self.read_buffer.len().min(bytes_max - bytes);
            let room = room.min(self.hub.read_bytes_max(key));
            match self.sockets.read(key, &mut self.read_buffer[..room]) {
                Ok(got) if !got.is_end() => {
                    bytes += got.raw_bytes;
                    let plain = &self.read_buffer[..got.plain_bytes];
                    if !plain.is_empty() {
                        self.hub.handle_bytes(now, key, plain);
                    }
                }
                Ok(_) => {
                    self.hub.handle_ended(now, key, PeerEnd::Closed);
                    // A client that may still read stays open: an error shows that the client has left.
                    let stays = self.hub.core().phase(key) == Some(PhaseKind::Open);
                    if stays && self.sockets.take_error(key) {
                        self.hub.handle_ended(now, key, PeerEnd::Failed);
                    }
                    return (bytes, false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (bytes, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.hub
                        .handle_failed(now, key, CloseReason::TlsError, SocketEnd::Close);
                    return (bytes, false);
                }
                Err(_) => {
                    self.hub.handle_ended(now, key, PeerEnd::Failed);
                    return (bytes, false);
                }
            }
        }
        (bytes, false)
    }
}

/// A time, and the CPU time that the thread of the loop has used until then.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadTimes {
    wall_us: u64,
    cpu_us: u64,
}

impl ThreadTimes {
    /// Reads the CPU time of this thread at `wall_us`, the present time.
    fn at(wall_us: u64) -> Self {
        Self {
            wall_us,
            cpu_us: Clock::thread_cpu_us(),
        }
    }
}

/// The time of a read without what other programs have had between `from` and `to`.
fn own_us(took_us: u64, from: ThreadTimes, to: ThreadTimes) -> u64 {
    let passed_us = to.wall_us.saturating_sub(from.wall_us);
    let worked_us = to.cpu_us.saturating_sub(from.cpu_us);
    took_us.saturating_sub(passed_us.saturating_sub(worked_us))
}

#[cfg(test)]
mod tests {
    use super::{ThreadTimes, own_us};

    #[test]
    fn a_read_that_is_interrupted_takes_the_time_of_the_loop_alone() {
        let at = |wall_us, cpu_us| ThreadTimes { wall_us, cpu_us };
        let from_start = |took_us, wall_us, cpu_us| own_us(took_us, at(0, 0), at(wall_us, cpu_us));
        assert_eq!(from_start(4_000, 5_000, 5_000), 4_000, "not interrupted");
        assert_eq!(from_start(4_000, 5_000, 1_050), 50, "for 3.95 ms");
        assert_eq!(from_start(400, 9_000, 1_000), 0, "before it");
    }
}
