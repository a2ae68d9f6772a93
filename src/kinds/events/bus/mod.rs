//! The bus between instances of the events gateway: its settings, its connection and its thread.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the handle, and the limits of waiting pushes |
//! | `connect` | the kind of the bus, and the threads of its connections |
//! | `thread` | the exchange between HTTP, the loop and the bus |
//! | `rows` | settings |
//! | `pages` | the bus in `/health`, `/stats` and the metrics |

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

use self::connect::{bus_of, connect};
use self::thread::{BusThread, Command, Deliverer, Threads};
use crate::base::Clock;
use crate::base::LateWake;
use crate::gateways::events::Input;
use crate::gateways::events::bus::{BusStats, Exchange, ExchangeSettings, InstanceId, PushOutcome};
use crate::http::Bytes;
use crate::hub::FrameBytes;
use crate::run::{Question, RunError};
use crate::settings::Checked;

pub(super) use self::pages::BusPages;
pub(super) use self::rows::{ROWS, check};

/// Bytes of the bodies of pushes that wait for other instances. A single push of any size has room.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest wait of a stop until the bus has carried the last message.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Shares pushes with other instances. Clones use the same connection.
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

/// The room of one push; given back on drop.
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

/// The surroundings of the bus thread: the loop, the waker, the limits and the clock.
pub(super) struct Surroundings {
    /// The input of the loop.
    pub(super) input: Sender<Input>,
    pub(super) wake: LateWake,
    pub(super) frame_bytes: FrameBytes,
    pub(super) clock: Clock,
}

/// The threads to start, and the check before.
#[derive(Default)]
pub(super) struct ToStart {
    pub(super) threads: Threads,
    pub(super) question: Option<Question>,
}

impl Bus {
    /// Assembles the bus, if the settings name a bus, with its threads.
    ///
    /// # Errors
    /// The settings are not valid.
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
        let Some(bus) = bus_of(checked)? else {
            return Ok(None);
        };
        let pages = BusPages::new(&bus, &me, Arc::clone(&stats));
        let mut threads = Threads::default();
        let mut connection = connect(bus, &name, &me, &settings, clock, &mut threads)?;
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

    /// Reserves room for a push with a body of `bytes`. Returns `None`, and counts a refusal, if too many
    /// pushes wait.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        let pushes = self.waiting.pushes.fetch_add(1, Relaxed);
        let held = self.waiting.bytes.fetch_add(bytes, Relaxed);
        // Gives both back on drop.
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

    /// Publishes a push that the loop of this instance has already. The receiver gets the outcome in the
    /// other instances.
    pub(super) fn push(&self, body: Bytes, room: Room) -> oneshot::Receiver<PushOutcome> {
        let (tell, told) = oneshot::channel();
        // After the end of the bus thread the receiver gets an error.
        let _ = self.commands.send(Command::Push { body, room, tell });
        told
    }

    /// Announces the end of this instance to the others, if the bus is up.
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
        assert_eq!(bus.stats.refused.get(), 2);
        drop(rooms);
        assert!(bus.room(WAITING_BYTES_MAX).is_some());
    }
}
