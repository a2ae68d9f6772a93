//! The bus between instances of the events gateway: its settings, its connection and its thread.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the handle, and how much may wait for other instances |
//! | `connect` | which bus it is, and the threads of its connections |
//! | `thread` | the exchange between HTTP, the loop and the bus |
//! | `rows` | settings |
//! | `pages` | what `/health`, `/stats` and the metrics say of it |

mod connect;
mod pages;
mod rows;
mod thread;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use tokio::sync::oneshot;

use self::connect::{BusAddress, connect};
use self::thread::{BusThread, Command, Deliverer, Threads};
use crate::base::Clock;
use crate::gateways::events::Input;
use crate::gateways::events::bus::{BusStats, Exchange, ExchangeSettings, InstanceId, Outcome};
use crate::http::Bytes;
use crate::hub::FrameBytes;
use crate::reactor::LateWake;
use crate::run::{Question, RunError};
use crate::settings::Checked;

pub(super) use self::pages::BusPages;
pub(super) use self::rows::{ROWS, check};

/// Bytes of the bodies of pushes that wait for other instances. One push of any size has room.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a stop waits until the bus has carried the last message.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Shares pushes with other instances; clones share them over the same connection.
#[derive(Clone)]
pub(super) struct Bus {
    commands: Sender<Command>,
    waiting: Arc<Waiting>,
    stats: Arc<BusStats>,
}

/// Pushes that wait for other instances.
struct Waiting {
    pushes: AtomicUsize,
    bytes: AtomicUsize,
    pushes_max: usize,
}

/// Room for one push; given back when dropped.
pub(super) struct Room {
    waiting: Arc<Waiting>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting.pushes.fetch_sub(1, Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// What the thread of the bus needs of the rest of the gateway.
pub(super) struct Surroundings {
    /// Into the loop.
    pub(super) input: Sender<Input>,
    pub(super) wake: LateWake,
    pub(super) frame_bytes: FrameBytes,
    pub(super) clock: Clock,
}

/// What is left to do at a start, and to ask before.
#[derive(Default)]
pub(super) struct ToStart {
    pub(super) threads: Threads,
    pub(super) question: Option<Question>,
}

impl Bus {
    /// Puts the bus together, if there is one, with the threads that have to be started.
    ///
    /// # Errors
    /// The settings are no good.
    pub(super) fn prepare(
        checked: &Checked,
        around: Surroundings,
    ) -> Result<Option<(Self, BusPages, ToStart)>, RunError> {
        let clock = around.clock;
        let stats = Arc::new(BusStats::default());
        let me = new_id();
        let settings = ExchangeSettings {
            wait_us: checked.micros("events-bus-wait-ms"),
            message_bytes_max: checked.number("events-bus-message-bytes-max"),
            push_bytes_max: checked.number("broadcast-bytes-max"),
            instances_max: checked.number("events-bus-instances-max"),
        };
        let pushes_max = checked.number("events-bus-waiting-max");
        let name = checked.text("events-bus-name");
        let Some(address) = BusAddress::of(checked) else {
            return Ok(None);
        };
        let pages = BusPages::new(&address, &me, Arc::clone(&stats));
        let mut threads = Threads::default();
        let mut connection = connect(&address, &name, &me, &settings, clock, &mut threads)?;
        let question = connection.question.take();
        let (commands, received) = unbounded();
        let deliverer = Deliverer {
            commands: commands.clone(),
            json_depth_max: checked.number("json-depth-max"),
            around,
        };
        let exchange = Exchange::new(me, settings, Arc::clone(&stats));
        let thread = BusThread::new(exchange, name, connection, received, deliverer, &stats);
        threads.add("events-bus", move || thread.run());
        let waiting = Waiting {
            pushes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            pushes_max,
        };
        let bus = Self {
            commands,
            waiting: Arc::new(waiting),
            stats,
        };
        Ok(Some((bus, pages, ToStart { threads, question })))
    }

    /// Room for a push with a body of so many bytes. `None`: too many wait, and one more was counted
    /// as refused.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        let pushes = self.waiting.pushes.fetch_add(1, Relaxed);
        let held = self.waiting.bytes.fetch_add(bytes, Relaxed);
        // Gives both back if there is none.
        let room = Room {
            waiting: Arc::clone(&self.waiting),
            bytes,
        };
        let is_full = held > 0 && held.saturating_add(bytes) > WAITING_BYTES_MAX;
        if is_full || pushes >= self.waiting.pushes_max {
            self.stats.count_refused();
            return None;
        }
        Some(room)
    }

    /// Publishes a push that was handed to the loop of this instance. The receiver is told what
    /// became of the push in the other instances.
    pub(super) fn push(&self, body: Bytes, room: Room) -> oneshot::Receiver<Outcome> {
        let (tell, told) = oneshot::channel();
        // After the end of its thread the receiver is told nothing.
        let _ = self.commands.send(Command::Push { body, room, tell });
        told
    }

    /// The loop has ended: the other instances are told, if the bus is there.
    pub(super) fn leave(&self) {
        let (done, left) = bounded(1);
        if self.stats.is_up() && self.commands.send(Command::Leave(done)).is_ok() {
            let _ = left.recv_timeout(LEAVE_TIMEOUT);
        }
    }
}

/// 16 hexadecimal digits, new at each start.
fn new_id() -> InstanceId {
    let random = RandomState::new().hash_one(0);
    InstanceId::from(format!("{random:016x}").as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_that_wait_are_bounded_in_number_and_bytes() {
        let (commands, _received) = unbounded();
        let waiting = Waiting {
            pushes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            pushes_max: 3,
        };
        let bus = Bus {
            commands,
            waiting: Arc::new(waiting),
            stats: Arc::default(),
        };
        let large = bus
            .room(WAITING_BYTES_MAX + 1)
            .expect("room for one of any size");
        assert!(bus.room(1).is_none());
        drop(large);
        let rooms: Vec<_> = (0..3).filter_map(|_| bus.room(1)).collect();
        assert!(rooms.len() == 3 && bus.room(1).is_none());
        assert_eq!(bus.stats.refused(), 2);
        drop(rooms);
        assert!(bus.room(WAITING_BYTES_MAX).is_some());
    }
}
