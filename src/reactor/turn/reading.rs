//! Accepting and reading, within the budgets of a turn.
//!
//! What a message will cost is not known before it is inflated and looked at, so a client is taken for
//! what its last messages were. Clients that cost little are read before the first flush of a turn.
//! Behind that flush come, one after the other, a client that has sent nothing yet, a client that
//! cost much, a client that had its share of an earlier turn, and a client for whose message there is
//! room again. Within each of these kinds client addresses take turns. Both parts have their own
//! budget.

use std::io;

use mio::net::TcpStream;

use super::{Cost, REFUSE_US, Reactor, Unread};
use crate::hub::{Feed, Gateway, Now, PhaseKind, SessionKey};
use crate::telemetry::Budget;

/// Time of one turn for accepting and reading clients that cost little, and as much for the others.
const READ_US_MAX: u64 = 2_000;

/// Bytes of one read, inflated, above which a client costs much.
const LITTLE_BYTES_MAX: usize = 16 * 1024;

/// Who is read behind the flush.
const COSTLY: [Costly; 4] = [
    Costly::Share,
    Costly::Room,
    Costly::Socket(Cost::Unknown),
    Costly::Socket(Cost::Much),
];

#[derive(Clone, Copy, Debug)]
enum Costly {
    /// A client that had its share of an earlier turn, and more was read.
    Share,
    /// A client for whose message the gateway had no room.
    Room,
    Socket(Cost),
}

/// Whether accepted sockets are read in the turn of their accept. Under load and beside a proxy on the
/// same machine the request is there already, and reading it saves a wake-up. A request from afar comes
/// later, and the read would be one too many.
#[derive(Debug, Default)]
pub(super) struct FirstReads {
    /// The last try found bytes: all are tried.
    pays: bool,
    /// Otherwise: accepts until the next try.
    left_out: u32,
}

impl FirstReads {
    /// Accepts without a try behind one, while tries do not pay.
    const LEFT_OUT: u32 = 63;

    fn is_next_tried(&mut self) -> bool {
        let is_tried = self.pays || self.left_out == 0;
        self.left_out = match is_tried {
            true => Self::LEFT_OUT,
            false => self.left_out - 1,
        };
        is_tried
    }

    /// A socket was tried; `came`: it held bytes.
    fn tried(&mut self, came: bool) {
        self.pays = came;
    }
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Accepts, and reads the clients that cost little. Accepting has half of the time while such
    /// clients wait.
    pub(super) fn accept_and_read(&mut self, now: Now) {
        self.hub.renew_reading();
        let began_us = self.clock.mono_us();
        let readers = self.sockets.readable(Cost::Little) > 0;
        let share_us = if readers {
            READ_US_MAX / 2
        } else {
            READ_US_MAX
        };
        self.accept(now, began_us + share_us);
        self.take_returned(now, began_us + share_us);
        let until_us = began_us + READ_US_MAX;
        for _ in 0..self.sockets.readable(Cost::Little) {
            self.read_next(now, Cost::Little);
            if self.sockets.readable(Cost::Little) > 0 && self.is_spent(until_us) {
                return;
            }
        }
    }

    /// Reads the others, each at most once, beginning with another kind in each turn.
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
        self.hub.renew_reading();
        self.first_costly = (self.first_costly + 1) % COSTLY.len();
        let mut at = self.first_costly;
        while left != [0; COSTLY.len()] {
            if left[at] > 0 {
                left[at] -= 1;
                match COSTLY[at] {
                    Costly::Share => self.hub.handle_next_share(now),
                    Costly::Room => match self.hub.handle_next_room(now) {
                        Some(key) => self.read_key(now, key),
                        None => left[at] = 0,
                    },
                    Costly::Socket(cost) => self.read_next(now, cost),
                }
                let any_left = left != [0; COSTLY.len()];
                if any_left && self.is_spent(now.mono_us + READ_US_MAX) {
                    return;
                }
            }
            at = (at + 1) % COSTLY.len();
        }
    }

    /// A budget of reading is used up.
    fn is_spent(&mut self, until_us: u64) -> bool {
        let budget = if self.hub.has_read_enough() {
            Budget::Messages
        } else if self.clock.mono_us() >= until_us {
            Budget::Reads
        } else {
            return false;
        };
        self.report.spent(budget);
        true
    }

    fn accept(&mut self, now: Now, until_us: u64) {
        // Of a port that other processes listen on too, new clients are theirs from the stop on.
        let gives_way = self.hub.is_draining() && self.listeners.can_give_way();
        if gives_way {
            // What waits here is accepted once more, also where the stop has nobody to close.
            self.listeners.look_again();
        } else if self.hub.takes_no_more() {
            // Balancers and clients go elsewhere at once.
            self.listeners.close();
            return;
        }
        for accepted in 0..self.settings.budgets.accepts_max {
            if accepted > 0 && self.clock.mono_us() >= until_us {
                break;
            }
            let Some((stream, peer)) = self.listeners.accept(now) else {
                if gives_way {
                    self.listeners.give_way();
                    self.refuse_until_us = now.mono_us + REFUSE_US;
                }
                return;
            };
            if self.hub.turns_away() {
                continue;
            }
            let key = self.hub.handle_accepted(now, peer);
            self.register(now, key, stream);
            if self.first_reads.is_next_tried() {
                self.note_unread(key, Unread::Hoped);
            }
        }
        self.report.spent(Budget::Accepts);
    }

    fn register(&mut self, now: Now, key: SessionKey, stream: TcpStream) {
        if let Err(error) = self.sockets.insert(key, stream) {
            tracing::warn!(%error, "a connection could not be registered");
            self.hub.handle_ended(now, key, true);
        }
    }

    /// Takes connections back from HTTP, as if they had just come with the bytes read there.
    fn take_returned(&mut self, now: Now, until_us: u64) {
        for taken in 0..self.settings.budgets.accepts_max {
            if taken > 0 && self.clock.mono_us() >= until_us {
                break;
            }
            let Ok(handover) = self.seams.returned.try_recv() else {
                return;
            };
            let key = self
                .hub
                .handle_returned(now, handover.peer, handover.permit);
            self.register(now, key, TcpStream::from_std(handover.stream));
            self.hub.handle_bytes(now, key, &handover.read);
        }
        self.report.spent(Budget::Accepts);
    }

    /// Reads the next socket of a list.
    fn read_next(&mut self, now: Now, cost: Cost) {
        if let Some(key) = self.sockets.next_readable(cost) {
            self.read_key(now, key);
        }
    }

    /// Reads a socket; one that may hold more is read on in a later turn.
    fn read_key(&mut self, now: Now, key: SessionKey) {
        let is_hoped = self.sockets.is_hoped(key);
        let was_open = self.hub.core().phase(key) == Some(PhaseKind::Open);
        let before = self.hub.message_bytes();
        let (read_bytes, more) = self.read_one(now, key);
        if is_hoped {
            self.first_reads.tried(read_bytes > 0);
        }
        let bytes = read_bytes.max(self.hub.message_bytes() - before);
        match bytes {
            0 => {}
            _ if bytes > LITTLE_BYTES_MAX => self.sockets.set_cost(key, Cost::Much),
            _ if was_open => self.sockets.set_cost(key, Cost::Little),
            _ => self.sockets.set_cost(key, Cost::Unknown),
        }
        if more {
            self.read_on(key);
        }
        // It may have ended before it was paused.
        self.look_for_end(now, key);
    }

    /// Returns how many bytes came, and whether the budget is used up and the socket may hold more.
    fn read_one(&mut self, now: Now, key: SessionKey) -> (usize, bool) {
        let bytes_max = self.settings.budgets.read_bytes_max;
        let mut bytes = 0;
        while self.sockets.has_unread(key) && self.hub.may_read(key) {
            if bytes == bytes_max || bytes > 0 && self.hub.has_read_enough() {
                return (bytes, true);
            }
            let room = self.read_buffer.len().min(bytes_max - bytes);
            match self.sockets.read(key, &mut self.read_buffer[..room]) {
                Ok(n) if n > 0 => {
                    bytes += n;
                    self.hub.handle_bytes(now, key, &self.read_buffer[..n]);
                }
                Ok(_) => {
                    self.hub.handle_ended(now, key, false);
                    // A client that may still read stays open: an error tells that it has gone.
                    let stays = self.hub.core().phase(key) == Some(PhaseKind::Open);
                    if stays && self.sockets.has_failed(key) {
                        self.hub.handle_ended(now, key, true);
                    }
                    return (bytes, false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (bytes, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.hub.handle_ended(now, key, true);
                    return (bytes, false);
                }
            }
        }
        (bytes, false)
    }
}

#[cfg(test)]
mod tests {
    use super::FirstReads;

    #[test]
    fn sockets_are_read_at_once_while_that_finds_requests() {
        let mut reads = FirstReads::default();
        for _ in 0..5 {
            assert!(reads.is_next_tried());
            reads.tried(true);
        }
        // Requests come late now.
        assert!(reads.is_next_tried());
        reads.tried(false);
        while !reads.is_next_tried() {}
        let tried = (0..640).filter(|_| {
            let is_tried = reads.is_next_tried();
            if is_tried {
                reads.tried(false);
            }
            is_tried
        });
        assert_eq!(tried.count(), 10, "one of 64");
        // Many accepts before the first of them is read.
        let tried = (0..640).filter(|_| reads.is_next_tried());
        assert_eq!(tried.count(), 10, "one of 64");
        // And early again.
        while !reads.is_next_tried() {}
        reads.tried(true);
        assert!(reads.is_next_tried());
    }
}
