//! The common part of gateways with statuses of the bus.
//!
//! A status says whether the bus is connected, and gives the newest position. Clients get a status when the bus goes
//! away or returns, every 10 s, after the newest messages of a `last`, and before the close of a stop. So a client on a
//! quiet name knows that nothing is missing, and has a recent position for a resume. Without a history, only clients
//! that ask for the status get it, when the bus goes away or returns. This module must not know a contract: the gateway
//! makes the frames.

use std::sync::Arc;

use sonic_rs::LazyValue;

use super::history::Follow;
use weirgate_core::{BusNotice, ByClient, Core, Frame, Place, Position, SessionKey};
use weirgate_wire::json::Json;

/// With up to 25,000 clients each client gets a status this often, so that its position is recent enough to resume
/// from.
const INTERVAL_US: u64 = 10_000_000;
/// A round for losses alone begins this long after a loss or the last round, so that many losses share one round.
const LOSS_US: u64 = 1_000_000;

/// The time to the next status: longer with very many clients, and never longer than half of the history.
fn interval_us(core: &Core) -> u64 {
    let paced_us = core.paced_us(INTERVAL_US);
    paced_us.min(core.limits().history.keep_us / 2)
}

/// Whether a request asks for statuses of the bus.
pub(in crate::gateways) fn read_status(status: Option<&LazyValue<'_>>) -> bool {
    status.is_some_and(|status| Json::of(status).parse() == Ok(true))
}

/// The contents of a status.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateways) struct Status {
    /// Whether the bus is there.
    pub(in crate::gateways) is_up: bool,
    /// Whether messages were lost since the last status.
    pub(in crate::gateways) has_lost: bool,
    /// The position, for a client with a name of the feed.
    pub(in crate::gateways) position: Option<Position>,
}

impl Status {
    /// The value of `bus`.
    pub(in crate::gateways) fn bus(self) -> &'static str {
        match self.is_up {
            true => "up",
            false => "away",
        }
    }
}

/// A round over the clients of a gateway.
#[derive(Clone, Copy, Debug)]
struct StatusRound {
    next_slot: usize,
    /// The number of losses that all clients know of when the round ends.
    losses: u64,
}

/// The statuses of a gateway, and the rounds over its clients.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateways) struct Statuses {
    /// Makes the frame of a status.
    make: fn(&Core, Status) -> Arc<Frame>,
    is_up: bool,
    has_been_up: bool,
    /// The round under way.
    round: Option<StatusRound>,
    /// When the next part of a round is due; `None`: no round is to come.
    due_us: Option<u64>,
}

impl Statuses {
    /// `make` makes the frame of a status.
    pub(in crate::gateways) fn new(make: fn(&Core, Status) -> Arc<Frame>) -> Self {
        Self {
            make,
            is_up: false,
            has_been_up: false,
            round: None,
            due_us: None,
        }
    }

    /// Whether the bus is there.
    pub(in crate::gateways) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Whether the history has what the bus stored before the start: it is read as soon as the bus is there.
    pub(in crate::gateways) fn has_filled(&self, core: &Core) -> bool {
        self.has_been_up && !core.is_filling()
    }

    /// Handles a notice of the bus. If the bus goes away or returns, a round over the clients begins at once; after a
    /// loss alone, within a second. Until then the core reports the loss to each client before its next message.
    pub(in crate::gateways) fn note(&mut self, core: &mut Core, notice: &BusNotice) {
        let now_us = core.now().mono_us;
        let due_us = match notice {
            BusNotice::Up | BusNotice::Down => {
                self.is_up = *notice == BusNotice::Up;
                self.has_been_up |= self.is_up;
                // A round that is under way has sent the previous status: all clients get the new one.
                self.round = None;
                now_us
            }
            BusNotice::Gap => {
                core.lose();
                now_us + LOSS_US
            }
            BusNotice::GapBeside => {
                core.lose_beside();
                now_us + LOSS_US
            }
            _ => return,
        };
        self.due_us = Some(self.due_us.map_or(due_us, |due| due.min(due_us)));
        if core.is_notifying() {
            // All clients get the same frame, so it has no position.
            core.set_loss_frame(self.frame(core, true, None));
        }
    }

    /// Handles a request with `"status":true`. The client gets statuses from now on; if the bus is away, it gets a
    /// status at once.
    pub(in crate::gateways) fn ask(&self, core: &mut Core, key: SessionKey) {
        if core.ask_status(key) && !self.is_up {
            core.send(key, &self.frame(core, false, None));
        }
    }

    /// Whether clients get a message with this place in the feed. While kept names are subscribed again after a loss,
    /// their messages have no position (`Kept(None)`). They are not sent, because a client that resumes on another
    /// instance from its older position would get them twice.
    pub(in crate::gateways) fn passes(&self, place: Place) -> bool {
        self.is_up || place != Place::Kept(None)
    }

    /// The time of the next [`Self::handle_timeout`].
    pub(in crate::gateways) fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// Notifies the next clients of losses and, with a history, of the status. `holds` returns whether a client has a
    /// name of the feed.
    pub(in crate::gateways) fn handle_timeout<C>(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<C>,
        mut holds: impl FnMut(&mut Core, SessionKey, &mut C) -> bool,
    ) {
        let now_us = core.now().mono_us;
        if self.due_us.is_none_or(|due| due > now_us) {
            return;
        }
        let has_history = core.has_history();
        let StatusRound { next_slot, losses } = self.round.unwrap_or_else(|| StatusRound {
            next_slot: 0,
            losses: core.losses(),
        });
        // A client without a name gets no position: it may still have an older position for the `since` of its first
        // request.
        let without_position = [false, true].map(|has_lost| self.frame(core, has_lost, None));
        let position = core.position();
        let with_position = [false, true].map(|has_lost| self.frame(core, has_lost, position));
        let next = core.walk(clients, next_slot, |core, key, client| {
            let by_loss = match holds(core, key, client) {
                true => &with_position,
                false => &without_position,
            };
            let has_lost = core.take_loss(key);
            if core.gets_status(key) {
                core.send(key, &by_loss[usize::from(has_lost)]);
            }
        });
        // Clients that connect during the round know of all losses.
        self.round = next.map(|next_slot| StatusRound { next_slot, losses });
        // Until the round ends, its next part is due at once.
        self.due_us = Some(now_us);
        if self.round.is_none() {
            core.note_losses_known(losses);
            self.due_us = match (core.is_notifying(), has_history) {
                // There were losses since the round began.
                (true, _) => Some(now_us + LOSS_US),
                (false, true) => Some(now_us + interval_us(core)),
                (false, false) => None,
            };
        }
    }

    /// Sends the messages that follow an answer; `holds`: the client has a name of the feed.
    pub(in crate::gateways) fn send_after_answer(
        &self,
        core: &mut Core,
        key: SessionKey,
        follow: Follow,
        holds: bool,
    ) {
        // The newest messages may be older than messages of other names that the client has, so the present position
        // follows. While there is none, as of an empty stream, the client still has to know that no more messages follow.
        if follow.send(core, key) && holds {
            let position = core.position();
            // Only a status with a position waits behind postponed messages. Without one it would overtake them, so the
            // client gets the status of the next round instead.
            if position.is_some() || !core.sends_postponed(key) {
                self.send(core, key, position);
            }
        }
    }

    /// Sends the status before a close. `holds`: the client has a name of the feed. From the position, the client can
    /// resume on another instance without a loss.
    pub(in crate::gateways) fn send_last(&self, core: &mut Core, key: SessionKey, holds: bool) {
        let position = core.position().filter(|_| holds);
        self.send(core, key, position);
    }

    /// Sends the status; nothing without a history.
    fn send(&self, core: &mut Core, key: SessionKey, position: Option<Position>) {
        if core.has_history() {
            let has_lost = core.take_loss(key);
            core.send(key, &self.frame(core, has_lost, position));
        }
    }

    /// Notifies a client of a loss that concerns it and not all clients. `holds`: the client has a name of the feed.
    pub(in crate::gateways) fn send_loss(&self, core: &mut Core, key: SessionKey, holds: bool) {
        if core.gets_status(key) {
            core.take_loss(key);
            let position = core.position().filter(|_| holds);
            core.send(key, &self.frame(core, true, position));
        }
    }

    /// The frame of the present status.
    fn frame(&self, core: &Core, has_lost: bool, position: Option<Position>) -> Arc<Frame> {
        let is_up = self.is_up;
        let status = Status {
            is_up,
            has_lost,
            position,
        };
        (self.make)(core, status)
    }
}
