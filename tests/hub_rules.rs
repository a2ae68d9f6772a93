//! Single rules of the core that are easy to get wrong, each in a scenario of a few lines.

mod world;

mod hub_rules {
    use super::*;

    mod addresses;
    mod behind;
    mod buffered;
    mod closing;
    mod connections;
    mod cuts;
    mod deadlines;
    mod gather;
    mod inflate;
    mod memory;
    mod order;
    mod queue;
    mod reading;
    mod slots;
    mod slow;
    mod slow_lines;
    mod survey;
    mod topics;
    mod unfinished;
    mod window;
}

use weirgate_core::{CloseReason, Limits, SendQueueLimits, SessionKey};
use world::World;
use world::state::State;
use world::toys::{In, Symbols};

const SECOND: u64 = 1_000_000;

/// A topic without keys.
fn symbols(limits: Limits) -> World<Symbols> {
    World::new(limits, Symbols::default(), 1)
}

/// Topics with conflation keys.
fn state(limits: Limits) -> World<State> {
    World::new(limits, State::default(), 1)
}

/// Soft 1,000 bytes, hard 2,000.
fn small_queue() -> Limits {
    Limits {
        send_queue: SendQueueLimits {
            soft_bytes: 1_000,
            hard_bytes: 2_000,
            ..SendQueueLimits::default()
        },
        ping_interval_us: 0,
        ..Limits::default()
    }
}

impl World<Symbols> {
    /// A member of `A` whose kernel takes `room` bytes.
    fn reader(&mut self, deflate: Option<u8>, room: usize) -> SessionKey {
        let key = self.connect("/ws", deflate);
        self.text(key, "sub A");
        self.net.sockets.get_mut(&key).expect("a socket").room = room;
        key
    }

    /// Publishes a message whose frame has so many bytes.
    fn publish(&mut self, frame_bytes: usize) -> String {
        let header = match frame_bytes {
            0..128 => 2,
            128..65_540 => 4,
            _ => 10,
        };
        let body = "x".repeat(frame_bytes - header);
        let message = In::Publish("A".to_owned(), body.clone());
        self.hub.handle_input(self.now, message);
        self.settle();
        body
    }

    fn reason(&self, key: SessionKey) -> Option<CloseReason> {
        let closed = self.hub.gateway().closed.iter();
        closed.rev().find(|(k, _)| *k == key).map(|(_, why)| *why)
    }
}

impl World<State> {
    /// A member of "levels" whose kernel takes `room` bytes.
    fn viewer(&mut self, room: usize) -> SessionKey {
        let key = self.connect("/ws", None);
        self.net.sockets.get_mut(&key).expect("a socket").room = room;
        key
    }

    /// Publishes a keyed message.
    fn publish(&mut self, topic_and_key: &str, body: &str) {
        let message = In::Publish(topic_and_key.to_owned(), body.to_owned());
        self.hub.handle_input(self.now, message);
        self.settle();
    }

    fn reason(&self, key: SessionKey) -> Option<CloseReason> {
        self.hub.gateway().told.ledger.borrow().stories[&key].reason
    }
}
